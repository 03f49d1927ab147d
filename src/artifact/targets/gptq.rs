//! GPTQ's checkpoints as auto-gptq and gptqmodel write them, which vLLM, transformers and exllama read.
//!
//! ```text
//! qweight  int32 [K·bits/32, N]      a column a stream of bits
//! qzeros   int32 [groups, N·bits/32] zero points, less one in version 1 (`checkpoint_format` gptq), as they are in gptq_v2
//! scales   f16 [groups, N]
//! g_idx    int32 [K]                 the group of each input feature
//! ```
//!
//! Source: `QuantLinear.pack` and `forward` of auto-gptq 0.7.1 (`qlinear_cuda_old.py`): `weight = scales · (code − (zero + 1))`.

use serde_json::{Map, Value, json};

use super::form::{CheckpointForm, Matrices, Matrix, Part};
use super::rows;
use crate::artifact::packing::{f16_bytes, f16s};
use crate::checkpoint::StoredNumber;
use crate::quant::{Codes, Format, QuantizedTensor};
use crate::tensor::{DType, transpose, transpose_bytes};

pub struct Gptq;

/// Codes of a stream must fill whole words in both directions: 32 of 3 bits.
const WHOLE: usize = 32;

impl CheckpointForm for Gptq {
    fn refuses(&self, matrix: &Matrix<'_>) -> Option<String> {
        match matrix.scheme.format {
            Format::Int { bits: 2 | 3 | 4 | 8, .. } => {}
            Format::Int { .. } => {
                let format = matrix.format();
                return Some(format!("is {format}, expected 2, 3, 4 or 8 bits; choose --bits 4, or another --target"));
            }
            Format::Codebook(_) => {
                let format = matrix.format();
                return Some(format!("is {format}, expected integers; choose --bits 4, or --target bitsandbytes"));
            }
        }
        let (rows, columns) = (matrix.out_features, matrix.in_features);
        let is_whole = [rows, columns].iter().all(|size| size.is_multiple_of(WHOLE));
        (!is_whole).then(|| format!("is {rows} × {columns}, expected multiples of {WHOLE}; choose another --target"))
    }

    fn refuses_together(&self, matrices: &Matrices<'_>) -> Option<String> {
        matrices.refuse_mixed()
    }

    fn parts(&self, matrix: &Matrix<'_>) -> Vec<Part> {
        let (rows, columns, groups, bits) = (matrix.out_features, matrix.in_features, matrix.groups(), matrix.bits());
        vec![
            matrix.part("qweight", StoredNumber::I32, &[rows::words(columns, bits), rows]),
            matrix.part("qzeros", StoredNumber::I32, &[groups, rows::words(rows, bits)]),
            matrix.part("scales", StoredNumber::Weight(DType::F16), &[groups, rows]),
            matrix.part("g_idx", StoredNumber::I32, &[columns]),
        ]
    }

    fn pack(&self, matrix: &Matrix<'_>, tensor: &QuantizedTensor, _: DType) -> Result<Vec<Vec<u8>>, String> {
        let (out_features, in_features, groups, bits) = (matrix.out_features, matrix.in_features, matrix.groups(), matrix.bits());
        let qweight = rows::pack(&tensor.codes, in_features, bits);
        let qweight = transpose_bytes(qweight, out_features, rows::words(in_features, bits), 4);
        let zeros = match &tensor.zero_points {
            Some(points) => transpose(points, out_features, groups),
            None => vec![matrix.scheme.format.symmetric_zero_point() - 1; out_features * groups],
        };
        let group_size = matrix.scheme.granularity.group_size(in_features);
        let g_idx = (0..in_features).flat_map(|feature| ((feature / group_size) as i32).to_le_bytes()).collect();
        let scales = f16_bytes(&transpose(&tensor.scales, out_features, groups));
        Ok(vec![qweight, rows::pack(&zeros, out_features, bits), scales, g_idx])
    }

    fn unpack(&self, matrix: &Matrix<'_>, parts: &[&[u8]]) -> Option<QuantizedTensor> {
        let (out_features, in_features, groups, bits) = (matrix.out_features, matrix.in_features, matrix.groups(), matrix.bits());
        let &[qweight, qzeros, scales, _] = parts else { return None };
        let qweight = transpose_bytes(qweight.to_vec(), rows::words(in_features, bits), out_features, 4);
        let points = || transpose(&rows::unpack(qzeros, out_features, bits), groups, out_features);
        let codes = Codes {
            codes: rows::unpack(&qweight, in_features, bits),
            scales: transpose(&f16s(scales), groups, out_features),
            zero_points: matrix.scheme.format.has_zero_points().then(points),
        };
        Some(QuantizedTensor::new(matrix.scheme, out_features, in_features, codes))
    }

    fn describe(&self, config: &mut Map<String, Value>, matrices: &Matrices<'_>) {
        let Some(matrix) = matrices.quantized.first() else { return };
        let symmetric = !matrix.scheme.format.has_zero_points();
        let description = json!({
            "quant_method": "gptq", "bits": matrix.bits(), "group_size": matrix.group_size(), "desc_act": false, "sym": symmetric,
            // A zero point of 0 has no place in version 1, which stores it less one.
            "checkpoint_format": if symmetric { "gptq" } else { "gptq_v2" },
            "lm_head": false, "pack_dtype": "int32",
            "meta": { "quantizer": [concat!("qonnx:", env!("CARGO_PKG_VERSION"))] },
        });
        config.insert("quantization_config".to_owned(), description);
    }
}
