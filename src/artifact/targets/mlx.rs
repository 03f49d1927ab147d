//! MLX's quantized checkpoints, which mlx-lm reads: `w = scale · code + bias`.
//!
//! ```text
//! weight  uint32 [N, K·bits/32]  a row a stream of bits
//! scales  f16 [N, groups]
//! biases  f16 [N, groups]        −2^(bits−1) · scale, exact in f16
//! ```
//!
//! Source: `mlx.core.quantize` and `dequantize` (mlx 0.32.4), whose group sizes are 32, 64 and 128; `load` of mlx-lm's `utils.py`
//! quantizes the modules that have `.scales`, as `config.json`'s `quantization` says, which may name modules of their own.

use half::f16;
use serde_json::{Map, Value, json};

use super::form::{CheckpointForm, Matrices, Matrix, Part};
use super::rows;
use crate::artifact::packing::{f16_bytes, f16s};
use crate::checkpoint::StoredNumber;
use crate::quant::{Codes, Format, Granularity, QuantizedTensor};
use crate::tensor::DType;

pub struct Mlx;

impl CheckpointForm for Mlx {
    fn refuses(&self, matrix: &Matrix<'_>) -> Option<String> {
        match matrix.scheme.format {
            Format::Int { symmetric: true, .. } => {}
            Format::Int { symmetric: false, .. } => {
                return Some(format!(
                    "is {}, of which MLX's biases would be rounded; leave out --asymmetric, or choose --target gptq",
                    matrix.format()
                ));
            }
            Format::Codebook(_) => {
                return Some(format!("is {}, expected integers; choose --bits 4, or --target bitsandbytes", matrix.format()));
            }
        }
        match matrix.scheme.granularity {
            Granularity::PerGroup(32 | 64 | 128) => None,
            Granularity::PerGroup(size) => {
                Some(format!("has groups of {size}, expected 32, 64 or 128; choose --group-size 64, or another --target"))
            }
            Granularity::PerChannel => Some(
                "has one scale a row, expected groups of 32, 64 or 128; choose --group-size 64, or another --target".to_owned(),
            ),
        }
    }

    fn refuses_together(&self, _: &Matrices<'_>) -> Option<String> {
        None
    }

    fn parts(&self, matrix: &Matrix<'_>) -> Vec<Part> {
        let (rows, groups) = (matrix.out_features, matrix.groups());
        vec![
            matrix.part("weight", StoredNumber::U32, &[rows, rows::words(matrix.in_features, matrix.bits())]),
            matrix.part("scales", StoredNumber::Weight(DType::F16), &[rows, groups]),
            matrix.part("biases", StoredNumber::Weight(DType::F16), &[rows, groups]),
        ]
    }

    fn pack(&self, matrix: &Matrix<'_>, tensor: &QuantizedTensor, _: DType) -> Result<Vec<Vec<u8>>, String> {
        let middle = f32::from(matrix.scheme.format.symmetric_zero_point());
        let biases: Vec<f32> = tensor.scales.iter().map(|scale| -middle * scale).collect();
        if let Some(scale) = tensor.scales.iter().find(|scale| (middle * **scale).abs() > f16::MAX.to_f32()) {
            return Err(format!("has the scale {scale}, {middle} times which is beyond f16; choose another --target"));
        }
        let codes = rows::pack(&tensor.codes, matrix.in_features, matrix.bits());
        Ok(vec![codes, f16_bytes(&tensor.scales), f16_bytes(&biases)])
    }

    fn unpack(&self, matrix: &Matrix<'_>, parts: &[&[u8]]) -> Option<QuantizedTensor> {
        let &[codes, scales, _] = parts else { return None };
        let codes = rows::unpack(codes, matrix.in_features, matrix.bits());
        let codes = Codes { codes, scales: f16s(scales), zero_points: None };
        Some(QuantizedTensor::new(matrix.scheme, matrix.out_features, matrix.in_features, codes))
    }

    fn describe(&self, config: &mut Map<String, Value>, matrices: &Matrices<'_>) {
        let mut kinds = matrices.by_scheme();
        // The most frequent kind is everybody's, the others are named.
        kinds.sort_by_key(|(_, modules)| std::cmp::Reverse(modules.len()));
        let said = |matrix: &Matrix<'_>| json!({ "group_size": matrix.group_size(), "bits": matrix.bits() });
        let Some(((first, _), others)) = kinds.split_first() else { return };
        let mut description = said(first);
        for (matrix, modules) in others {
            for module in modules {
                description[*module] = said(matrix);
            }
        }
        // mlx-lm writes it under both names: the second is what Hugging Face shows.
        config.insert("quantization".to_owned(), description.clone());
        config.insert("quantization_config".to_owned(), description);
    }
}
