//! bitsandbytes' 4-bit checkpoints, which transformers reads.
//!
//! ```text
//! weight                                     uint8 [N·K/2, 1]  two codes a byte, the first in the high bits
//! weight.absmax                              f32 [blocks], or their uint8 codes
//! weight.quant_map                           f32 [16]          the codebook
//! weight.nested_absmax, .nested_quant_map    f32               of absmax in codes
//! weight.quant_state.bitsandbytes__nf4       uint8             JSON: block size, shape, type, offset
//! ```
//!
//! Source: `QuantState.as_dict(packed=True)` and `from_dict` of bitsandbytes 0.50.2. A block is a group: groups divide rows.

use serde_json::{Map, Value, json};

use super::form::{CheckpointForm, Matrices, Matrix, Part};
use crate::artifact::packing::{f32_bytes, f32s};
use crate::checkpoint::StoredNumber;
use crate::onnx::bnb4::{NESTED_BLOCK, pack_high_first, unpack_high_first};
use crate::quant::{Codebook, Codes, Format, Granularity, NestedScales, QuantizedTensor, ScaleStorage};
use crate::tensor::DType;

pub struct Bitsandbytes;

/// Bytes of a JSON state, filled up with spaces: what it says has no length of its own before its numbers are known.
const STATE_BYTES: usize = 256;
const F32: StoredNumber = StoredNumber::Weight(DType::F32);

fn codebook(matrix: &Matrix<'_>) -> Option<Codebook> {
    match matrix.scheme.format {
        Format::Codebook(codebook) => Some(codebook),
        Format::Int { .. } => None,
    }
}

fn is_nested(matrix: &Matrix<'_>) -> bool {
    matrix.scheme.scale_storage == ScaleStorage::Nested
}

impl CheckpointForm for Bitsandbytes {
    fn refuses(&self, matrix: &Matrix<'_>) -> Option<String> {
        if codebook(matrix).is_none() {
            let format = matrix.format();
            return Some(format!("is {format}, expected nf4 or fp4; choose --method nf4, or --target gptq"));
        }
        match matrix.scheme.granularity {
            Granularity::PerGroup(size) if size < 32 => {
                Some(format!("has groups of {size}, expected 32 or more; choose --group-size 64"))
            }
            _ => None,
        }
    }

    fn refuses_together(&self, matrices: &Matrices<'_>) -> Option<String> {
        matrices.refuse_mixed().filter(|_| matrices.by_scheme().len() > 1)
    }

    fn parts(&self, matrix: &Matrix<'_>) -> Vec<Part> {
        let blocks = matrix.out_features * matrix.groups();
        let name = codebook(matrix).map_or("nf4", Codebook::name);
        let mut parts = vec![
            matrix.part("weight", StoredNumber::U8, &[matrix.out_features * matrix.in_features / 2, 1]),
            matrix.part("weight.absmax", if is_nested(matrix) { StoredNumber::U8 } else { F32 }, &[blocks]),
            matrix.part("weight.quant_map", F32, &[16]),
            matrix.part(&format!("weight.quant_state.bitsandbytes__{name}"), StoredNumber::U8, &[STATE_BYTES]),
        ];
        if is_nested(matrix) {
            parts.push(matrix.part("weight.nested_absmax", F32, &[blocks.div_ceil(NESTED_BLOCK)]));
            parts.push(matrix.part("weight.nested_quant_map", F32, &[NESTED_BLOCK]));
        }
        parts
    }

    fn pack(&self, matrix: &Matrix<'_>, tensor: &QuantizedTensor, activation: DType) -> Result<Vec<Vec<u8>>, String> {
        let codebook = codebook(matrix).ok_or("is no codebook's")?;
        let codes = pack_high_first(&tensor.codes);
        let mut state = json!({
            "quant_type": codebook.name(), "blocksize": matrix.group_size(), "shape": [matrix.out_features, matrix.in_features],
            "dtype": if activation == DType::F32 { "float32" } else { "float16" },
        });
        let mut nested = Vec::new();
        let absmax = match &tensor.nested {
            Some(NestedScales { codes, absmax, offset }) => {
                state["nested_blocksize"] = json!(NESTED_BLOCK);
                state["nested_dtype"] = json!("float32");
                state["nested_offset"] = json!(f64::from(*offset));
                nested = vec![f32_bytes(absmax), f32_bytes(NestedScales::dynamic_map())];
                codes.clone()
            }
            None => f32_bytes(&tensor.scales),
        };
        let mut state = state.to_string().into_bytes();
        state.resize(STATE_BYTES, b' ');
        Ok([vec![codes, absmax, f32_bytes(codebook.levels()), state], nested].concat())
    }

    fn unpack(&self, matrix: &Matrix<'_>, parts: &[&[u8]]) -> Option<QuantizedTensor> {
        let (&[codes, absmax, _, state], nested) = parts.split_first_chunk::<4>()?;
        let codes = unpack_high_first(codes);
        let (out_features, in_features) = (matrix.out_features, matrix.in_features);
        if let &[of_absmax, _] = nested {
            let state: Value = serde_json::from_slice(state).ok()?;
            let offset = state.get("nested_offset")?.as_f64()? as f32;
            let nested = NestedScales { codes: absmax.to_vec(), absmax: f32s(of_absmax), offset };
            return Some(QuantizedTensor::from_nested(matrix.scheme, out_features, in_features, codes, nested));
        }
        let codes = Codes { codes, scales: f32s(absmax), zero_points: None };
        Some(QuantizedTensor::new(matrix.scheme, out_features, in_features, codes))
    }

    fn describe(&self, config: &mut Map<String, Value>, matrices: &Matrices<'_>) {
        let Some(matrix) = matrices.quantized.first() else { return };
        let dtype = if matrices.activation == DType::F32 { "float32" } else { "float16" };
        let description = json!({
            "quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false, "_load_in_4bit": true, "_load_in_8bit": false,
            "bnb_4bit_quant_type": codebook(matrix).map(Codebook::name), "bnb_4bit_use_double_quant": is_nested(matrix),
            "bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_storage": "uint8", "llm_int8_skip_modules": matrices.dense,
            "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false, "llm_int8_threshold": 6.0,
        });
        config.insert("quantization_config".to_owned(), description);
    }
}
