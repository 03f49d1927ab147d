//! compressed-tensors' `pack-quantized`, which vLLM and transformers read.
//!
//! ```text
//! weight_packed      int32 [N, ⌈K·bits/32⌉]       code + 2^(bits−1), a row a stream of bits
//! weight_scale       f16 [N, groups]
//! weight_zero_point  int32 [⌈N·bits/32⌉, groups]  a column a stream; asymmetric formats alone
//! weight_shape       int64 [2]                    N, K
//! ```
//!
//! Source: `compressors/pack_quantized/` of compressed-tensors 0.20.1 (`pack_to_int32`; zero points with `packed_dim=0`). Versions before
//! 0.15 or so put 32/bits whole codes into a word, which is the same for 2, 4 and 8 bits alone.

use serde_json::{Map, Value, json};

use super::form::{CheckpointForm, Matrices, Matrix, Part};
use super::rows;
use crate::artifact::packing::{f16_bytes, f16s};
use crate::checkpoint::StoredNumber;
use crate::quant::{Codes, Format, QuantizedTensor};
use crate::tensor::{DType, transpose, transpose_bytes};

pub struct CompressedTensors;

impl CheckpointForm for CompressedTensors {
    fn refuses(&self, matrix: &Matrix<'_>) -> Option<String> {
        match matrix.scheme.format {
            Format::Int { bits: 2 | 4 | 8, .. } => None,
            Format::Int { .. } => Some(format!(
                "is {}, expected 2, 4 or 8 bits, as versions of compressed-tensors differ in how they pack others; choose --bits 4, or \
                 another --target",
                matrix.format()
            )),
            Format::Codebook(_) => Some(format!(
                "is {}, expected integers of 2, 4 or 8 bits; choose --bits 4, or --target bitsandbytes",
                matrix.format()
            )),
        }
    }

    fn refuses_together(&self, _: &Matrices<'_>) -> Option<String> {
        None
    }

    fn parts(&self, matrix: &Matrix<'_>) -> Vec<Part> {
        let (rows, columns, groups, bits) = (matrix.out_features, matrix.in_features, matrix.groups(), matrix.bits());
        let points = matrix.scheme.format.has_zero_points();
        let points = points.then(|| matrix.part("weight_zero_point", StoredNumber::I32, &[rows::words(rows, bits), groups]));
        let others = [
            matrix.part("weight_packed", StoredNumber::I32, &[rows, rows::words(columns, bits)]),
            matrix.part("weight_scale", StoredNumber::Weight(DType::F16), &[rows, groups]),
            matrix.part("weight_shape", StoredNumber::I64, &[2]),
        ];
        others.into_iter().chain(points).collect()
    }

    fn pack(&self, matrix: &Matrix<'_>, tensor: &QuantizedTensor, _: DType) -> Result<Vec<Vec<u8>>, String> {
        let (out_features, groups, bits) = (matrix.out_features, matrix.groups(), matrix.bits());
        let shape = [out_features, matrix.in_features].map(|size| (size as i64).to_le_bytes()).concat();
        let mut parts = vec![rows::pack(&tensor.codes, matrix.in_features, bits), f16_bytes(&tensor.scales), shape];
        parts.extend(tensor.zero_points.as_ref().map(|points| {
            let columns = rows::pack(&transpose(points, out_features, groups), out_features, bits);
            transpose_bytes(columns, groups, rows::words(out_features, bits), 4)
        }));
        Ok(parts)
    }

    fn unpack(&self, matrix: &Matrix<'_>, parts: &[&[u8]]) -> Option<QuantizedTensor> {
        let (out_features, in_features, groups, bits) = (matrix.out_features, matrix.in_features, matrix.groups(), matrix.bits());
        let (&[packed, scales, _], points) = parts.split_first_chunk::<3>()?;
        let zero_points = points.first().map(|points| {
            let columns = transpose_bytes(points.to_vec(), rows::words(out_features, bits), groups, 4);
            transpose(&rows::unpack(&columns, out_features, bits), groups, out_features)
        });
        let codes = Codes { codes: rows::unpack(packed, in_features, bits), scales: f16s(scales), zero_points };
        Some(QuantizedTensor::new(matrix.scheme, out_features, in_features, codes))
    }

    fn describe(&self, config: &mut Map<String, Value>, matrices: &Matrices<'_>) {
        let kinds = matrices.by_scheme();
        let groups = kinds.iter().enumerate().map(|(index, (matrix, modules))| {
            // One kind is for all linears but those that are ignored; several are named.
            let targets = if kinds.len() == 1 { vec!["Linear"] } else { modules.clone() };
            let group_size = Some(matrix.group_size()).filter(|&size| size > 0);
            let weights = json!({
                "num_bits": matrix.bits(), "type": "int", "symmetric": !matrix.scheme.format.has_zero_points(),
                "strategy": if group_size.is_some() { "group" } else { "channel" }, "group_size": group_size, "actorder": null,
                "block_structure": null, "dynamic": false, "observer": "minmax", "observer_kwargs": {},
            });
            let group = json!({ "targets": targets, "weights": weights, "input_activations": null, "output_activations": null });
            (format!("group_{index}"), group)
        });
        let groups: Map<String, Value> = groups.collect();
        let description = json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "config_groups": groups, "ignore": matrices.dense, "kv_cache_scheme": null, "global_compression_ratio": null,
        });
        config.insert("quantization_config".to_owned(), description);
    }
}
