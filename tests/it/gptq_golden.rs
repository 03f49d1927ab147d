//! GPTQ against an independent implementation of its paper; `tests/goldens/make/golden_gptq.py` made the file.

use std::path::Path;

use ndarray::{Array2, s};
use qonnx::quant::{
    Codebook, Format, Gptq, Granularity, GroupScales, InputStats, QuantizedTensor, Rounding, ScaleRule, ScaleStorage, Scheme,
    gptq_plain, output_error, rtn,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    problems: Vec<Problem>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Problem {
    in_features: usize,
    weights: Vec<f32>,
    gram: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    problem: usize,
    bits: u8,
    kind: String,
    /// 0 for one scale a channel.
    group_size: usize,
    damping: f64,
    act_order: bool,
    dynamic: bool,
    column_block: usize,
    dead_channels: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zero_points: Vec<u8>,
    dequantized: Vec<f32>,
    output_error: f64,
}

impl Case {
    fn scheme(&self) -> Scheme {
        let format = match self.kind.as_str() {
            "nf4" => Format::Codebook(Codebook::Nf4),
            kind => Format::Int { bits: self.bits, symmetric: kind == "symmetric" },
        };
        let granularity = if self.group_size == 0 { Granularity::PerChannel } else { Granularity::PerGroup(self.group_size) };
        Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage: ScaleStorage::F16 }
    }

    fn options(&self) -> Gptq {
        Gptq {
            damping: self.damping,
            act_order: self.act_order,
            column_block: self.column_block,
            group_scales: if self.dynamic { GroupScales::Dynamic } else { GroupScales::Static },
            ..Gptq::PAPER
        }
    }

    fn assert_equal(&self, tensor: &QuantizedTensor) {
        assert_eq!(tensor.codes, self.codes, "{}", self.name);
        assert_eq!(tensor.scales, self.scales, "{}", self.name);
        if let Some(zero_points) = &tensor.zero_points {
            assert_eq!(zero_points, &self.zero_points, "{}", self.name);
        }
        for (got, expected) in tensor.dequantize().iter().zip(&self.dequantized) {
            assert!((got - expected).abs() <= 1e-5, "{}: {got} {expected}", self.name);
        }
    }
}

/// Rows of `w` that `a` is nearer to than `b` is, on these statistics.
fn nearer_rows(w: &Array2<f32>, a: &QuantizedTensor, b: &QuantizedTensor, gram: &Array2<f32>) -> Vec<usize> {
    let [a, b] = [a, b].map(|tensor| w - tensor.dequantize());
    let error = |delta: &Array2<f32>, row: usize| output_error(delta.slice(s![row..=row, ..]), gram.view());
    (0..w.nrows()).filter(|&row| error(&a, row) < error(&b, row)).collect()
}

/// `tensor` with some rows of `plain` in the place of round to nearest's, which they must be.
fn with_rows(mut tensor: QuantizedTensor, plain: &QuantizedTensor, rows: &[usize], rtn: &QuantizedTensor) -> QuantizedTensor {
    let (in_features, groups) = (tensor.in_features, tensor.groups());
    for &row in rows {
        let (codes, params) = (row * in_features..(row + 1) * in_features, row * groups..(row + 1) * groups);
        assert_eq!(tensor.codes[codes.clone()], rtn.codes[codes.clone()]);
        assert_eq!(tensor.scales[params.clone()], rtn.scales[params.clone()]);
        tensor.codes[codes.clone()].copy_from_slice(&plain.codes[codes]);
        tensor.scales[params.clone()].copy_from_slice(&plain.scales[params.clone()]);
        if let (Some(to), Some(from)) = (&mut tensor.zero_points, &plain.zero_points) {
            to[params.clone()].copy_from_slice(&from[params]);
        }
    }
    tensor
}

/// GPTQ's rows are the paper's; a row that round to nearest costs less has its codes.
#[test]
fn plain_and_fast_gptq_equal_the_paper() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gptq.json");
    let text = std::fs::read_to_string(&path).expect("goldens lie beside the tests");
    let Goldens { problems, cases } = serde_json::from_str(&text).expect("goldens are of this form");
    assert_eq!(cases.len(), 17);
    let mut of_rtn = 0;
    for case in cases {
        let Problem { in_features, weights, gram } = &problems[case.problem];
        let matrix = |entries: &[f32]| {
            Array2::from_shape_vec((entries.len() / in_features, *in_features), entries.to_vec()).expect("whole rows")
        };
        let (w, gram) = (matrix(weights), matrix(gram));
        let plain = gptq_plain(w.view(), gram.view(), &case.scheme(), &case.options()).expect("positive definite");
        case.assert_equal(&plain);
        let x =
            InputStats { tokens: 192, gram, mean_abs: vec![1.0; *in_features], max_abs: vec![3.0; *in_features], cross: None };
        let fast = case.options().quantize(w.view(), &case.scheme(), Some(&x)).expect("a problem that can be solved");
        let rtn = rtn(w.as_slice().expect("contiguous"), *in_features, &case.scheme());
        let kept = nearer_rows(&w, &rtn, &plain, &x.gram);
        case.assert_equal(&with_rows(fast.tensor, &plain, &kept, &rtn));
        assert_eq!(fast.report.rtn_kept, kept.len(), "{}", case.name);
        let error = fast.report.output_error.expect("reported");
        assert!(error <= case.output_error * (1.0 + 1e-4), "{}: {error} {}", case.name, case.output_error);
        assert!(!kept.is_empty() || error >= case.output_error * (1.0 - 1e-4), "{}: {error} {}", case.name, case.output_error);
        assert!(error < fast.report.rtn_output_error.expect("reported"), "{}", case.name);
        assert_eq!(fast.report.dead_channels, case.dead_channels);
        assert_eq!(fast.report.damping, Some(case.damping));
        of_rtn += kept.len();
    }
    assert!(of_rtn < 10, "few rows are nearer by round to nearest: {of_rtn}");
}
