//! GGUF, which llama.cpp and what is built on it read: one file with weights, tokenizer and settings.
//!
//! Integers with one scale a group go into Q4_0 (2 to 4 bits), Q5_0 and Q8_0 (6 to 8), whose grids hold them exactly: a block is 32
//! weights with an f16 scale of either sign, and a group is one or several.

use serde_json::{Map, Value};

use super::form::{CheckpointForm, Matrices, Matrix, Part};
use crate::checkpoint::StoredNumber;
use crate::quant::{Format, QuantizedTensor};
use crate::tensor::DType;
use file::{BLOCK, TensorType};

mod blocks;
mod file;
mod model;
mod names;
mod vocabulary;

pub use model::{Gguf, Place};

/// The file, in an artifact's folder.
pub const GGUF_FILE: &str = "model.gguf";

/// How GGUF holds matrices, as far as it is like a checkpoint's.
pub struct Blocks;

/// The type that holds a matrix.
///
/// # Panics
/// None does, which [`CheckpointForm::refuses`] says.
fn kind(matrix: &Matrix<'_>) -> TensorType {
    match matrix.scheme.format {
        Format::Int { bits, symmetric: true } => blocks::kind_of(bits),
        _ => None,
    }
    .expect("what no block holds is refused")
}

impl CheckpointForm for Blocks {
    fn refuses(&self, matrix: &Matrix<'_>) -> Option<String> {
        let format = matrix.format();
        match matrix.scheme.format {
            Format::Int { bits, symmetric: true } if blocks::kind_of(bits).is_some() => {}
            Format::Int { symmetric: true, .. } => {
                return Some(format!("is {format}, expected 2 to 8 bits; choose --bits 4, or another --target"));
            }
            Format::Int { symmetric: false, .. } => {
                return Some(format!(
                    "is {format}, of which the minima of Q4_1 would be rounded; leave out --asymmetric, or choose --target gptq"
                ));
            }
            Format::Codebook(_) => {
                return Some(format!("is {format}, expected integers; choose --bits 4, or --target bitsandbytes"));
            }
        }
        let group_size = matrix.scheme.granularity.group_size(matrix.in_features);
        if !group_size.is_multiple_of(BLOCK) {
            return Some(format!(
                "has a scale for {group_size} weights, expected a multiple of {BLOCK}, of which a block is; choose --group-size {BLOCK}, or \
                 another --target"
            ));
        }
        None
    }

    fn refuses_together(&self, _: &Matrices<'_>) -> Option<String> {
        None
    }

    fn holds_tables(&self) -> bool {
        true
    }

    fn parts(&self, matrix: &Matrix<'_>) -> Vec<Part> {
        vec![matrix.part("weight", StoredNumber::U8, &[matrix.out_features, kind(matrix).row_bytes(matrix.in_features)])]
    }

    fn pack(&self, matrix: &Matrix<'_>, tensor: &QuantizedTensor, _: DType) -> Result<Vec<Vec<u8>>, String> {
        Ok(vec![blocks::pack(tensor, kind(matrix))])
    }

    fn unpack(&self, matrix: &Matrix<'_>, parts: &[&[u8]]) -> Option<QuantizedTensor> {
        let &[packed] = parts else { return None };
        blocks::unpack(packed, matrix.scheme, [matrix.out_features, matrix.in_features], kind(matrix))
    }

    /// The file says it itself.
    fn describe(&self, _: &mut Map<String, Value>, _: &Matrices<'_>) {}
}
