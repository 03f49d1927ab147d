//! How far codes are from the weights they stand for.

use std::array::from_fn;

use multiversion::multiversion;

use super::QuantizedTensor;

/// Sums that are kept side by side: as many f32 as the widest vector register holds.
const LANES: usize = 16;

/// ‖W − Ŵ‖² and ‖W‖² of weights `[out_features, in_features]`, row-major, and the codes that stand for them.
///
/// Rows are summed in f32, in lanes, and added up in f64: exact to about five digits.
pub fn squared_error(weights: &[f32], quantized: &QuantizedTensor) -> (f64, f64) {
    let rows = weights.chunks_exact(quantized.in_features).zip(quantized.codes.chunks_exact(quantized.in_features));
    rows.enumerate().fold((0.0, 0.0), |(errors, norms), (out_feature, (weights, codes))| {
        let (error, norm) = row_error(weights, codes, quantized, out_feature);
        (errors + f64::from(error), norms + f64::from(norm))
    })
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2+fma", "aarch64+neon"))]
fn row_error(weights: &[f32], codes: &[u8], quantized: &QuantizedTensor, out_feature: usize) -> (f32, f32) {
    let (group_size, groups) = (quantized.scheme.granularity.group_size(quantized.in_features), quantized.groups());
    let row = out_feature * groups..(out_feature + 1) * groups;
    let shared = quantized.scheme.format.symmetric_zero_point();
    let zero_points = quantized.zero_points.as_ref().map(|points| &points[row.clone()]);
    let (mut errors, mut norms) = ([0f32; LANES], [0f32; LANES]);
    let pieces = weights.chunks(group_size).zip(codes.chunks(group_size)).zip(&quantized.scales[row]);
    for (group, ((weights, codes), &scale)) in pieces.enumerate() {
        let zero_point = f32::from(zero_points.map_or(shared, |points| points[group]));
        let (whole, rest) = weights.as_chunks::<LANES>();
        let (whole_codes, rest_codes) = codes.as_chunks::<LANES>();
        // Whole arrays at a time: the form that compiles to vector registers.
        for (w, code) in whole.iter().zip(whole_codes) {
            let off: [f32; LANES] = from_fn(|lane| w[lane] - scale * (f32::from(code[lane]) - zero_point));
            errors = from_fn(|lane| errors[lane] + off[lane] * off[lane]);
            norms = from_fn(|lane| norms[lane] + w[lane] * w[lane]);
        }
        for (&w, &code) in rest.iter().zip(rest_codes) {
            let off = w - scale * (f32::from(code) - zero_point);
            (errors[0], norms[0]) = (errors[0] + off * off, norms[0] + w * w);
        }
    }
    (errors.iter().sum(), norms.iter().sum())
}

#[cfg(test)]
mod tests {
    use crate::quant::{Format, Granularity, ScaleRule, ScaleStorage, Scheme, rtn, squared_error};

    #[test]
    fn the_error_is_that_of_the_dequantized_weights() {
        let weights: Vec<f32> = (0..5 * 83).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();
        for symmetric in [true, false] {
            let format = Format::Int { bits: 4, symmetric };
            let scheme = Scheme {
                format,
                granularity: Granularity::PerGroup(32),
                scale_rule: ScaleRule::AbsMax,
                scale_storage: ScaleStorage::F16,
            };
            let quantized = rtn(&weights, 83, &scheme);
            let dequantized = quantized.dequantize();
            let pairs = weights.iter().zip(&dequantized).map(|(&w, &d)| f64::from(w - d).powi(2));
            let (error, norm) = squared_error(&weights, &quantized);
            let expected: f64 = pairs.sum();
            assert!((error - expected).abs() < 1e-5 * expected, "{error} {expected}");
            let expected: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            assert!((norm - expected).abs() < 1e-5 * expected, "{norm} {expected}");
        }
    }
}
