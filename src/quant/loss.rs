//! How far codes are from the weights they stand for.

use std::array::from_fn;

use multiversion::multiversion;

use super::QuantizedTensor;

/// Sums that are kept side by side: as many f32 as the widest vector register holds.
const LANES: usize = 16;

/// ‖W − Ŵ‖² and ‖W‖² of weights `[out_features, in_features]`, row-major, and what is written of them: codes, scales as they
/// are stored, outliers in f16.
///
/// Rows are summed in f32, in lanes, and added up in f64: exact to about five digits.
pub fn squared_error(weights: &[f32], quantized: &QuantizedTensor) -> (f64, f64) {
    let mut written = vec![0.0; quantized.in_features];
    let rows = weights.chunks_exact(quantized.in_features.max(1)).enumerate();
    rows.fold((0.0, 0.0), |(errors, norms), (out_feature, weights)| {
        quantized.dequantize_row_into(out_feature, &mut written);
        let (error, norm) = row_error(weights, &written);
        (errors + f64::from(error), norms + f64::from(norm))
    })
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2+fma", "aarch64+neon"))]
fn row_error(weights: &[f32], written: &[f32]) -> (f32, f32) {
    let (mut errors, mut norms) = ([0f32; LANES], [0f32; LANES]);
    let (whole, rest) = weights.as_chunks::<LANES>();
    let (whole_written, rest_written) = written.as_chunks::<LANES>();
    // Whole arrays at a time: the form that compiles to vector registers.
    for (w, written) in whole.iter().zip(whole_written) {
        let off: [f32; LANES] = from_fn(|lane| w[lane] - written[lane]);
        errors = from_fn(|lane| errors[lane] + off[lane] * off[lane]);
        norms = from_fn(|lane| norms[lane] + w[lane] * w[lane]);
    }
    for (&w, &written) in rest.iter().zip(rest_written) {
        let off = w - written;
        (errors[0], norms[0]) = (errors[0] + off * off, norms[0] + w * w);
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
