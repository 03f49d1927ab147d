//! What a Gram matrix `G = Σ xᵀx / tokens` says of a weight: what an error costs at the output, which features are dead, and
//! which weight to aim at where the input already differs from the unquantized model's.

use std::array::from_fn;
use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::lanes::LANES;
use super::linalg::Factor;
use super::{InputStats, QuantError, QuantizedTensor};

/// `tr(ΔW·G·ΔWᵀ)`: the mean square of what `ΔW`, `[out_features, in_features]`, adds to the output, summed over output
/// features; `gram` is `[in_features, in_features]` and symmetric.
///
/// Products in f32, added up in f64; by symmetry only half of `G` is read.
///
/// # Panics
/// Where the shapes disagree.
pub fn output_error(delta: ArrayView2<'_, f32>, gram: ArrayView2<'_, f32>) -> f64 {
    let delta = delta.as_standard_layout();
    let rows = delta.as_slice().expect("standard layout");
    errors_of_rows(delta.dim(), gram, |range, chunk| chunk.copy_from_slice(&rows[range])).iter().sum()
}

/// As [`output_error`], by output feature, of `w` less what the codes stand for, of which no more than a few rows are made at a
/// time.
pub(super) fn errors_of_codes(w: ArrayView2<'_, f32>, tensor: &QuantizedTensor, gram: ArrayView2<'_, f32>) -> Vec<f64> {
    let w = w.as_standard_layout();
    let rows = w.as_slice().expect("standard layout");
    errors_of_rows(w.dim(), gram, |range, chunk| {
        let first = range.start / tensor.in_features;
        for (row, chunk) in chunk.chunks_exact_mut(tensor.in_features).enumerate() {
            tensor.dequantize_row_into(first + row, chunk);
        }
        chunk.iter_mut().zip(&rows[range]).for_each(|(delta, w)| *delta = w - *delta);
    })
}

/// The output error of each of the rows that `fill` gives: range of their entries in row-major order, place for these.
fn errors_of_rows(
    (out_features, in_features): (usize, usize),
    gram: ArrayView2<'_, f32>,
    fill: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f64> {
    /// Rows a thread takes at a time.
    const ROWS: usize = 128;
    assert_eq!(gram.dim(), (in_features, in_features), "ΔW [out, in] and G [in, in]");
    let gram = gram.as_standard_layout();
    let gram = MatRef::from_column_major_slice(gram.as_slice().expect("standard layout"), in_features, in_features);
    let mut errors = vec![0.0; out_features];
    errors.par_chunks_mut(ROWS).enumerate().for_each(|(chunk, errors)| {
        let first = chunk * ROWS * in_features;
        let range = first..first + errors.len() * in_features;
        let mut rows = vec![0.0; range.len()];
        fill(range, &mut rows);
        add_errors(&rows, gram, errors);
    });
    // Each is a sum of squares; f32 products of a degenerate Gram matrix may come out a hair below zero. NaN stays NaN.
    errors.iter_mut().filter(|error| **error < 0.0).for_each(|error| *error = 0.0);
    errors
}

/// Adds the output error of each of a few rows to its place.
fn add_errors(rows: &[f32], gram: MatRef<'_, f32>, errors: &mut [f64]) {
    const COLUMNS: usize = 128;
    let in_features = gram.ncols();
    let count = rows.len() / in_features;
    let transposed = MatRef::from_column_major_slice(rows, in_features, count);
    let mut products = Vec::new();
    for first in (0..in_features).step_by(COLUMNS) {
        let end = in_features.min(first + COLUMNS);
        let width = end - first;
        products.clear();
        products.resize(width * count, 0.0);
        let mut product = MatMut::from_column_major_slice_mut(&mut products, width, count);
        // Σ over pairs of blocks: the diagonal one once, each of those to its right twice.
        let (square, right) = (gram.get(first..end, first..end), gram.get(first..end, end..));
        matmul(product.as_mut(), Accum::Replace, square, transposed.get(first..end, ..), 1.0, Par::Seq);
        matmul(product.as_mut(), Accum::Add, right, transposed.get(end.., ..), 2.0, Par::Seq);
        let pairs = rows.chunks_exact(in_features).zip(products.chunks_exact(width));
        pairs.zip(errors.iter_mut()).for_each(|((row, product), error)| *error += dot(&row[first..end], product));
    }
}

/// `a·b`, summed in f32 in lanes and added up in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let lanes = a.iter().zip(b).fold([0.0; LANES], |sum: [f32; LANES], (a, b)| from_fn(|lane| sum[lane] + a[lane] * b[lane]));
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(a * b));
    lanes.into_iter().map(f64::from).chain(rest).sum()
}

/// `A·B`, both of any layout, on all cores.
fn product(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, alpha: f32, accumulate: Accum, sum: &mut Array2<f32>) {
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    let (rows, inner, columns) = (a.nrows(), a.ncols(), b.ncols());
    let a = MatRef::from_row_major_slice(a.as_slice().expect("standard layout"), rows, inner);
    let b = MatRef::from_row_major_slice(b.as_slice().expect("standard layout"), inner, columns);
    let sum = sum.as_slice_mut().expect("a fresh array is contiguous");
    matmul(MatMut::from_row_major_slice_mut(sum, rows, columns), accumulate, a, b, alpha, Par::rayon(0));
}

/// The weight whose output on the quantized model's input `x` is nearest to `W`'s on the unquantized model's `x̃`:
/// `W* = W + α·W·(C − G)·(G + λI)⁻¹` with `C = Σ x̃ᵀx / tokens` (GPTAQ, arXiv 2504.02692, in closed form; `α = 1`). `W` itself
/// where the two inputs are equal.
pub(super) fn target(
    w: ArrayView2<'_, f32>,
    gram: ArrayView2<'_, f32>,
    cross: ArrayView2<'_, f32>,
    factor: &Factor,
    alpha: f32,
) -> Array2<f32> {
    let mut missing = Array2::zeros(w.dim());
    product(w, cross, 1.0, Accum::Replace, &mut missing);
    product(w, gram, -1.0, Accum::Add, &mut missing);
    let mut target = factor.divide(missing.view());
    target.zip_mut_with(&w, |target, w| *target = w + alpha * *target);
    target
}

/// Refuses statistics that say nothing about a weight of `in_features`.
pub(super) fn check(x: &InputStats, in_features: usize) -> Result<(), QuantError> {
    for matrix in [Some(&x.gram), x.cross.as_ref()].into_iter().flatten() {
        if matrix.dim() != (in_features, in_features) {
            return Err(QuantError::StatisticsShape { expected: in_features, got: matrix.nrows() });
        }
        let rows: Vec<_> = matrix.rows().into_iter().collect();
        if !rows.par_iter().all(|row| row.iter().all(|entry| entry.is_finite())) {
            return Err(QuantError::GramNotFinite);
        }
    }
    if x.gram.diag().iter().all(|&d| d <= 0.0) {
        return Err(QuantError::GramZero);
    }
    Ok(())
}
