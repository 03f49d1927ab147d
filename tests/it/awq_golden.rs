//! AWQ against a plain implementation that judges on samples; `tests/goldens/make/golden_awq.py` made the file.

use std::path::Path;

use ndarray::{Array2, ArrayView2};
use qonnx::quant::{
    AwqOptions, ClipOptions, Format, Granularity, InputStats, ScaleBasis, ScaleRule, ScaleStorage, Scheme, Sharing, awq_clip,
    awq_scales,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    bits: u8,
    symmetric: bool,
    group_size: usize,
    basis: String,
    run: usize,
    repeats: usize,
    gram_bits: Vec<u32>,
    mean_abs_bits: Vec<u32>,
    weight_bits: Vec<Vec<u32>>,
    ratio: Option<f32>,
    scale_bits: Vec<u32>,
    loss_before: f64,
    loss_after: f64,
    clipped_bits: Vec<Vec<u32>>,
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().copied().map(f32::from_bits).collect()
}

impl Case {
    fn scheme(&self) -> Scheme {
        Scheme {
            format: Format::Int { bits: self.bits, symmetric: self.symmetric },
            granularity: Granularity::PerGroup(self.group_size),
            scale_rule: ScaleRule::AbsMax,
            scale_storage: ScaleStorage::F16,
        }
    }

    fn matrix(&self, bits: &[u32]) -> Array2<f32> {
        let in_features = self.mean_abs_bits.len();
        Array2::from_shape_vec((bits.len() / in_features, in_features), floats(bits)).expect("whole rows")
    }

    fn stats(&self) -> InputStats {
        let mean_abs = floats(&self.mean_abs_bits);
        InputStats { tokens: 96, gram: self.matrix(&self.gram_bits), max_abs: mean_abs.clone(), mean_abs, cross: None }
    }

    fn basis(&self) -> ScaleBasis {
        match self.basis.as_str() {
            "activation" => ScaleBasis::Activation,
            "activation-and-weight" => ScaleBasis::ActivationAndWeight,
            basis => panic!("no basis {basis}"),
        }
    }
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/awq.json");
    let text = std::fs::read_to_string(path).expect("goldens lie beside the tests");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("goldens are of this form");
    assert_eq!(cases.len(), 12);
    cases
}

#[track_caller]
fn close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() <= 1e-5 * expected.abs(), "{what}: {got} and {expected}");
}

#[test]
fn ratio_scales_and_losses_are_those_of_the_samples() {
    for case in cases() {
        let weights: Vec<Array2<f32>> = case.weight_bits.iter().map(|bits| case.matrix(bits)).collect();
        let balance: Vec<(ArrayView2<f32>, Scheme)> = weights.iter().map(|w| (w.view(), case.scheme())).collect();
        let options = AwqOptions { basis: case.basis(), ratio_steps: 20, judged_rows: 512 };
        let sharing = Sharing { run: case.run, repeats: case.repeats };
        let found = awq_scales(&balance, &case.stats(), sharing, &options);
        assert_eq!(found.ratio, case.ratio, "{} int{}", case.basis, case.bits);
        close(found.loss_before, case.loss_before, "loss before");
        close(found.loss_after, case.loss_after, "loss after");
        for (&got, expected) in found.scales.iter().zip(floats(&case.scale_bits)) {
            close(f64::from(got), f64::from(expected), "scale");
        }
    }
}

#[test]
fn clipped_weights_are_those_of_the_samples() {
    let mut bitten = 0;
    for case in cases() {
        for (weights, expected) in case.weight_bits.iter().zip(&case.clipped_bits) {
            let options = ClipOptions { steps: 20, max_shrink: 0.5 };
            let clipped = awq_clip(case.matrix(weights).view(), &case.scheme(), &case.stats(), &options);
            for ((&got, expected), unclipped) in clipped.iter().zip(floats(expected)).zip(floats(weights)) {
                close(f64::from(got), f64::from(expected), "clipped weight");
                bitten += usize::from(got != unclipped);
            }
        }
    }
    assert!(bitten > 100, "clipping was tested on {bitten} weights only");
}
