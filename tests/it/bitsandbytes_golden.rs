//! NF4, FP4 and double quantization of scales against bitsandbytes; `tests/goldens/make/golden_bnb.py` made the file.

use std::path::Path;

use half::f16;
use qonnx::checkpoint::Checkpoint;
use qonnx::quant::{Codebook, Format, Granularity, NestedScales, ScaleRule, ScaleStorage, Scheme, rtn, rtn_plain};
use qonnx::tensor::convert;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    nf4: String,
    fp4: String,
    dynamic_map: String,
    cases: Vec<Case>,
    nested: Vec<Nested>,
}

#[derive(Deserialize)]
struct Case {
    /// Of a weight in `fixtures/tiny-coqa`, whose first rows these are, where `weights` are not there.
    name: String,
    kind: String,
    group_size: usize,
    in_features: usize,
    weights: Option<String>,
    absmax: String,
    codes: String,
    cuda_codes: String,
}

#[derive(Deserialize)]
struct Nested {
    name: String,
    scales: String,
    codes: String,
    absmax: String,
    offset: String,
    back: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden() -> Golden {
    let text = std::fs::read_to_string(root().join("tests/goldens/bitsandbytes.json")).expect("goldens lie beside the tests");
    serde_json::from_str(&text).expect("the golden is of this form")
}

/// Numbers of `digits` hexadecimal digits each.
fn hex(text: &str, digits: usize) -> Vec<u32> {
    let number = |piece: &[u8]| u32::from_str_radix(str::from_utf8(piece).expect("ASCII"), 16).expect("hexadecimal");
    text.as_bytes().chunks(digits).map(number).collect()
}

fn floats(text: &str) -> Vec<f32> {
    hex(text, 8).into_iter().map(f32::from_bits).collect()
}

fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|x| x.to_bits()).collect()
}

impl Case {
    fn codebook(&self) -> Codebook {
        match self.kind.as_str() {
            "nf4" => Codebook::Nf4,
            "fp4" => Codebook::Fp4,
            kind => panic!("no codebook {kind}"),
        }
    }

    fn scheme(&self) -> Scheme {
        Scheme {
            format: Format::Codebook(self.codebook()),
            granularity: Granularity::PerGroup(self.group_size),
            scale_rule: ScaleRule::AbsMax,
            scale_storage: ScaleStorage::F16,
        }
    }

    fn codes(&self) -> Vec<u8> {
        hex(&self.codes, 1).into_iter().map(|code| code as u8).collect()
    }

    fn weights(&self) -> Vec<f32> {
        match &self.weights {
            Some(weights) => floats(weights),
            None => {
                let checkpoint = Checkpoint::open(&root().join("fixtures/tiny-coqa")).expect("the embedded model");
                let view = checkpoint.tensor(&self.name).expect("a weight of the embedded model");
                let mut weights = vec![0.0; self.codes.len()];
                convert::decode(view.dtype, &view.bytes[..view.dtype.bytes_of(weights.len())], &mut weights)
                    .expect("finite weights");
                weights
            }
        }
    }
}

#[test]
fn codebooks_are_bitsandbytes() {
    let golden = golden();
    assert_eq!(bits(Codebook::Nf4.levels()), hex(&golden.nf4, 8));
    assert_eq!(
        bits(&Codebook::Fp4.levels().map(f32::abs)),
        bits(&floats(&golden.fp4).iter().map(|x| x.abs()).collect::<Vec<_>>())
    );
    assert_eq!(Codebook::Fp4.levels()[..], floats(&golden.fp4), "up to the sign of zero");
    assert_eq!(bits(NestedScales::dynamic_map()), hex(&golden.dynamic_map, 8));
}

#[test]
fn codes_are_those_of_bitsandbytes_cuda_kernels() {
    for case in golden().cases {
        let w = case.weights();
        let expected: Vec<u8> = hex(&case.cuda_codes, 1).into_iter().map(|code| code as u8).collect();
        for quantize in [rtn::<f32>, rtn_plain] {
            assert_eq!(quantize(&w, case.in_features, &case.scheme()).codes, expected, "{} {}", case.name, case.kind);
        }
    }
}

/// NF4's are the same everywhere. FP4's CPU code has other thresholds in the last bits, so that weights halfway between two levels
/// may get the other one, and gives +0 and −0 each other's codes.
#[test]
fn codes_of_bitsandbytes_on_the_cpu_differ_between_levels_equally_near() {
    for case in golden().cases {
        let (w, levels) = (case.weights(), case.codebook().levels());
        let (ours, theirs) = (rtn(&w, case.in_features, &case.scheme()).codes, case.codes());
        let absmax = floats(&case.absmax);
        let mut ties = 0;
        for (index, (&ours, &theirs)) in ours.iter().zip(&theirs).enumerate().filter(|(_, (ours, theirs))| ours != theirs) {
            assert_eq!(case.kind, "fp4");
            let x = w[index] / absmax[index / case.group_size];
            let [ours, theirs] = [ours, theirs].map(|code| (levels[usize::from(code)] - x).abs());
            assert!((ours - theirs).abs() < 1e-6, "{} {index}: {x} is {ours} from ours, {theirs} from theirs", case.name);
            ties += usize::from(ours != theirs);
        }
        assert!(ties <= w.len() / 500, "{ties} of {}", w.len());
    }
}

#[test]
fn scales_are_absmax_rounded_to_f16_after_the_codes() {
    for case in golden().cases {
        let (w, scheme, absmax) = (case.weights(), case.scheme(), floats(&case.absmax));
        let fitted: Vec<f32> = w.chunks(case.group_size).map(|group| scheme.fit(group).scale).collect();
        assert_eq!(bits(&fitted), bits(&absmax), "{}", case.name);
        let stored = absmax.iter().map(|&max| f16::from_f32(max).max(f16::from_bits(1)).to_f32());
        assert_eq!(rtn(&w, case.in_features, &scheme).scales, stored.collect::<Vec<_>>(), "{}", case.name);
    }
}

#[test]
fn nested_scales_are_bitsandbytes() {
    for case in golden().nested {
        let nested = NestedScales::of(&floats(&case.scales));
        assert_eq!(nested.offset.to_bits(), hex(&case.offset, 8)[0], "{}", case.name);
        assert_eq!(bits(&nested.absmax), hex(&case.absmax, 8), "{}", case.name);
        assert_eq!(nested.codes.iter().map(|&code| u32::from(code)).collect::<Vec<_>>(), hex(&case.codes, 2), "{}", case.name);
        assert_eq!(bits(&nested.scales()), hex(&case.back, 8), "{}", case.name);
    }
}

#[test]
fn a_nested_weight_has_the_codes_of_the_plain_one() {
    for case in golden().cases {
        let (w, scheme) = (case.weights(), case.scheme());
        let nested = rtn(&w, case.in_features, &Scheme { scale_storage: ScaleStorage::Nested, ..scheme });
        assert_eq!(nested.codes, rtn(&w, case.in_features, &scheme).codes);
        let scales = NestedScales::of(&floats(&case.absmax));
        assert_eq!(nested.scales, scales.scales());
        assert_eq!(nested.nested, Some(scales));
    }
}
