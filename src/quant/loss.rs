//! How far codes are from the weights they stand for.

use std::array::from_fn;

use multiversion::multiversion;
use ndarray::ArrayView2;

use super::QuantizedTensor;
use super::lanes::LANES;

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

/// As [`squared_error`], of weights that were put together already.
///
/// # Panics
/// Where the shapes disagree.
pub fn squared_distance(w: ArrayView2<'_, f32>, written: ArrayView2<'_, f32>) -> (f64, f64) {
    assert_eq!(w.dim(), written.dim(), "one weight for each");
    let (w, written) = (w.as_standard_layout(), written.as_standard_layout());
    w.rows().into_iter().zip(written.rows()).fold((0.0, 0.0), |(errors, norms), (w, written)| {
        let [w, written] = [w, written].map(|row| row.to_slice().expect("rows of the standard layout are contiguous"));
        let (error, norm) = row_error(w, written);
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
    use ndarray::ArrayView2;

    use crate::quant::{
        Codebook, Format, Granularity, QuantizedTensor, Rtn, ScaleRule, ScaleStorage, Scheme, rtn, squared_distance,
        squared_error, with_outliers,
    };

    fn weights() -> Vec<f32> {
        (0..5 * 83).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect()
    }

    fn scheme(format: Format, scale_storage: ScaleStorage) -> Scheme {
        Scheme { format, granularity: Granularity::PerGroup(32), scale_rule: ScaleRule::AbsMax, scale_storage }
    }

    /// The error counted in f64 from weights that are put together one by one: scale times level, or the outlier.
    fn check(quantized: &QuantizedTensor) {
        let (weights, scheme, mut expected) = (weights(), quantized.scheme, 0.0);
        for (index, &w) in weights.iter().enumerate() {
            let (row, column) = (index / 83, index % 83);
            let params = quantized.params(row, column / 32);
            let level = match scheme.format {
                Format::Int { .. } => f64::from(quantized.codes[index]) - f64::from(params.zero_point),
                Format::Codebook(codebook) => f64::from(codebook.levels()[usize::from(quantized.codes[index])]),
            };
            let outlier = quantized.outliers.as_ref().and_then(|o| Some((o, o.in_features.iter().position(|&f| f == column)?)));
            let written = outlier.map_or(level * f64::from(params.scale), |(o, at)| f64::from(o.weights[[row, at]]));
            expected += (f64::from(w) - written).powi(2);
        }
        let (error, norm) = squared_error(&weights, quantized);
        assert!((error - expected).abs() < 1e-4 * expected, "{scheme:?}: {error} {expected}");
        let expected: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        assert!((norm - expected).abs() < 1e-5 * expected, "{norm} {expected}");
        // Put together or not, columns next to each other or not: the same sums.
        let (w, written) = (ArrayView2::from_shape((5, 83), &weights).expect("five rows"), quantized.dequantize());
        let strided = w.t().as_standard_layout().into_owned();
        assert_eq!(squared_distance(strided.t(), written.view()), (error, norm));
    }

    #[test]
    fn the_error_is_that_of_what_is_written() {
        for symmetric in [true, false] {
            for bits in [2, 3, 4, 5, 6, 8] {
                check(&rtn(&weights(), 83, &scheme(Format::Int { bits, symmetric }, ScaleStorage::F16)));
            }
        }
        for codebook in [Codebook::Nf4, Codebook::Fp4] {
            let (f16, nested) = (ScaleStorage::F16, ScaleStorage::Nested);
            let errors = [f16, nested].map(|storage| {
                let quantized = rtn(&weights(), 83, &scheme(Format::Codebook(codebook), storage));
                check(&quantized);
                squared_error(&weights(), &quantized).0
            });
            assert!(errors[0] != errors[1], "nested scales are other scales");
        }
    }

    #[test]
    fn outliers_cost_what_f16_rounds() {
        let (weights, scheme) = (weights(), scheme(Format::Int { bits: 2, symmetric: true }, ScaleStorage::F16));
        let w = ArrayView2::from_shape((5, 83), &weights).expect("five rows");
        let all: Vec<usize> = (0..83).collect();
        let errors = [&[][..], &[3, 40, 82], &all].map(|outliers| {
            let quantized = with_outliers(&Rtn, w, &scheme, None, outliers).expect("small weights").tensor;
            check(&quantized);
            squared_error(&weights, &quantized).0
        });
        assert!(errors[1] < errors[0] && errors[2] < 1e-6 * errors[0], "{errors:?}");
    }
}
