//! Quantization, packing and dequantization against ONNX, ONNX Runtime and a second implementation of the scale rules;
//! `tests/goldens/make/golden_dequantize.py` and `results/lab/measure_scale_rules.py --golden` made the files.

use std::path::Path;

use qonnx::onnx::pack::{
    Blocks, pack_dequantize_linear, pack_matmul_nbits, pack_zero_points, unpack_dequantize_linear, unpack_matmul_nbits,
    unpack_zero_points,
};
use qonnx::quant::{Codes, Format, Granularity, QuantizedTensor, ScaleRule, ScaleStorage, Scheme, rtn, rtn_plain};
use serde::Deserialize;

#[derive(Deserialize)]
struct Stored {
    codes: String,
    zero_points: Option<String>,
}

#[derive(Deserialize)]
struct Dequantized {
    bits: u8,
    symmetric: bool,
    out_features: usize,
    in_features: usize,
    /// 0 for one scale a channel.
    group_size: usize,
    codes: Vec<u8>,
    scale_bits: Vec<u32>,
    zero_points: Option<Vec<u8>>,
    weight_bits: Vec<u32>,
    dequantize_linear: Stored,
    matmul_nbits: Option<Stored>,
}

impl Dequantized {
    fn tensor(&self) -> QuantizedTensor {
        let granularity = if self.group_size == 0 { Granularity::PerChannel } else { Granularity::PerGroup(self.group_size) };
        let format = Format::Int { bits: self.bits, symmetric: self.symmetric };
        let scheme = Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage: ScaleStorage::F16 };
        let codes = Codes {
            codes: self.codes.clone(),
            scales: self.scale_bits.iter().copied().map(f32::from_bits).collect(),
            zero_points: self.zero_points.clone(),
        };
        QuantizedTensor::new(scheme, self.out_features, self.in_features, codes)
    }

    fn blocks(&self) -> Blocks {
        let (out_features, in_features) = (self.out_features, self.in_features);
        Blocks { out_features, in_features, block_size: self.group_size, bits: usize::from(self.bits) }
    }
}

fn goldens<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let text = std::fs::read_to_string(&path).expect("goldens lie beside the tests");
    let cases: Vec<T> = serde_json::from_str(&text).expect("goldens are of this form");
    assert!(!cases.is_empty());
    cases
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    text.as_bytes().chunks(2).map(byte).collect()
}

#[test]
fn weights_are_those_onnx_runtime_computes() {
    for case in goldens::<Dequantized>("dequantize.json") {
        let weights: Vec<u32> = case.tensor().dequantize().iter().map(|w| w.to_bits()).collect();
        assert_eq!(weights, case.weight_bits, "int{} symmetric {} {}", case.bits, case.symmetric, case.in_features);
    }
}

#[test]
fn dequantize_linear_bytes_are_those_onnx_packs() {
    for case in goldens::<Dequantized>("dequantize.json") {
        let (tensor, dtype) = (case.tensor(), case.tensor().scheme.format.code_dtype());
        let (out_features, in_features, groups) = (case.out_features, case.in_features, tensor.groups());
        let packed = hex(&case.dequantize_linear.codes);
        assert_eq!(pack_dequantize_linear(&case.codes, out_features, in_features, dtype), packed);
        assert_eq!(unpack_dequantize_linear(&packed, out_features, in_features, dtype), case.codes);
        let zero_points = tensor.zero_points.map(|z| pack_dequantize_linear(&z, out_features, groups, dtype));
        assert_eq!(zero_points, case.dequantize_linear.zero_points.as_deref().map(hex));
    }
}

#[test]
fn matmul_nbits_bytes_are_those_onnx_runtime_reads() {
    let mut seen = 0;
    for case in goldens::<Dequantized>("dequantize.json") {
        let Some(stored) = &case.matmul_nbits else { continue };
        let packed = hex(&stored.codes);
        assert_eq!(pack_matmul_nbits(&case.codes, case.zero_points.as_deref(), case.blocks()), packed);
        assert_eq!(unpack_matmul_nbits(&packed, case.blocks()), case.codes);
        if let (Some(zero_points), Some(packed)) = (&case.zero_points, &stored.zero_points) {
            assert_eq!(pack_zero_points(zero_points, case.blocks()), hex(packed));
            assert_eq!(unpack_zero_points(&hex(packed), case.blocks()), *zero_points);
        }
        seen += 1;
    }
    assert_eq!(seen, 24, "four shapes with groups, three widths, with and without zero points");
}

#[derive(Deserialize)]
struct Fitted {
    bits: u8,
    symmetric: bool,
    rule: String,
    group_size: usize,
    weight_bits: Vec<u32>,
    codes: Vec<u8>,
    scale_bits: Vec<u32>,
    zero_points: Vec<u8>,
}

#[test]
fn scale_rules_are_those_that_were_measured() {
    for case in goldens::<Fitted>("scale_rules.json") {
        let scale_rule = match case.rule.as_str() {
            "abs-max" => ScaleRule::AbsMax,
            "signed-max" => ScaleRule::SignedMax,
            "least-squares" => ScaleRule::LeastSquares,
            "least-squares-positive" => ScaleRule::LeastSquaresPositive,
            rule => panic!("no rule {rule}"),
        };
        let format = Format::Int { bits: case.bits, symmetric: case.symmetric };
        let scheme =
            Scheme { format, granularity: Granularity::PerGroup(case.group_size), scale_rule, scale_storage: ScaleStorage::F16 };
        let w: Vec<f32> = case.weight_bits.iter().copied().map(f32::from_bits).collect();
        for quantize in [rtn::<f32>, rtn_plain] {
            let tensor = quantize(&w, 2 * case.group_size, &scheme);
            let scale_bits: Vec<u32> = tensor.scales.iter().map(|s| s.to_bits()).collect();
            assert_eq!((&tensor.codes, scale_bits), (&case.codes, case.scale_bits.clone()), "{} {}", case.bits, case.rule);
            assert_eq!(tensor.params(0, 0).zero_point, case.zero_points[0]);
            if let Some(zero_points) = tensor.zero_points {
                assert_eq!(zero_points, case.zero_points);
            }
        }
    }
}
