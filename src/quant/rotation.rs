//! Orthogonal matrices that spread a few large features over all (QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406).

use ndarray::{Array2, ArrayView2};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::fault::Fault;

/// Rows that one thread multiplies at a time.
const ROWS: usize = 256;

/// How a rotation is drawn; the same seed gives the same matrix on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RotationKind {
    /// A Hadamard matrix, its rows with random signs: spreads every feature evenly, and costs `n log n` a row.
    Hadamard,
    /// Uniform over all orthogonal matrices, of any size.
    Random,
}

/// Why there is no such rotation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    #[error(
        "no Hadamard matrix of size {size} is known here: sizes are 2^k · m with m = 1, q + 1 for a prime q of the form 4i + 3, \
         or 2 · (q + 1) for a prime q of the form 4i + 1; choose the rotation random"
    )]
    NoHadamard { size: usize },
}

impl RotationError {
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}

/// An orthogonal matrix `R`, `[size, size]`. Wherever it is used on more than `size` features it turns each run of `size` for
/// itself, as the block-diagonal `I ⊗ R`: one rotation for every head.
#[derive(Debug, Clone)]
pub struct Rotation {
    size: usize,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// `diag(signs) · (core ⊗ H) / √size`, `H` Sylvester's Hadamard matrix of a power of two, `core` Paley's.
    Hadamard {
        signs: Vec<f32>,
        core: Array2<f32>,
    },
    Matrix(Array2<f32>),
}

impl Rotation {
    /// Draws the rotation number `index` of a seed.
    pub fn new(kind: RotationKind, size: usize, seed: u64, index: u64) -> Result<Rotation, RotationError> {
        // Steps of 2^64 over the golden ratio: rotations of one seed are none of the next ones' seeds'.
        let mut random = Pcg64::seed_from_u64(seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let form = match kind {
            RotationKind::Hadamard => {
                let core = hadamard_core(size).ok_or(RotationError::NoHadamard { size })?;
                let signs = (0..size).map(|_| if random.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
                Form::Hadamard { signs, core }
            }
            RotationKind::Random => Form::Matrix(random_orthogonal(size, &mut random)),
        };
        Ok(Rotation { size, form })
    }

    /// `W·(I ⊗ R)`: a weight `[out_features, in_features]` whose input is turned. Rows are independent of each other.
    ///
    /// # Panics
    /// Where in_features is not a multiple of the size.
    pub fn right(&self, w: ArrayView2<'_, f32>) -> Array2<f32> {
        let in_features = w.ncols();
        assert!(in_features.is_multiple_of(self.size), "{in_features} features in runs of {}", self.size);
        let mut turned = w.as_standard_layout().into_owned();
        let weights = turned.as_slice_mut().expect("standard layout");
        weights.par_chunks_mut((ROWS * in_features).max(1)).for_each(|rows| self.turn_runs(rows));
        turned
    }

    /// `(I ⊗ Rᵀ)·W`: a weight `[out_features, in_features]` whose output is turned.
    ///
    /// # Panics
    /// Where out_features is not a multiple of the size.
    pub fn left_transposed(&self, w: ArrayView2<'_, f32>) -> Array2<f32> {
        self.right(w.t()).reversed_axes().as_standard_layout().into_owned()
    }

    /// `b·(I ⊗ R)`: a bias, `[out_features]`, of a weight whose output is turned.
    ///
    /// # Panics
    /// As [`Self::left_transposed`].
    pub fn turn(&self, b: &[f32]) -> Vec<f32> {
        assert!(b.len().is_multiple_of(self.size), "{} features in runs of {}", b.len(), self.size);
        let mut turned = b.to_vec();
        self.turn_runs(&mut turned);
        turned
    }

    /// Each run of `size` as a row vector times `R`.
    fn turn_runs(&self, runs: &mut [f32]) {
        match &self.form {
            Form::Hadamard { signs, core } => {
                let mut room = vec![0.0; self.size];
                runs.chunks_exact_mut(self.size).for_each(|run| turn_hadamard(run, signs, core, &mut room));
            }
            Form::Matrix(matrix) => {
                let rows = ArrayView2::from_shape((runs.len() / self.size, self.size), &*runs).expect("whole runs");
                let turned = rows.dot(matrix);
                runs.iter_mut().zip(&turned).for_each(|(old, &new)| *old = new);
            }
        }
    }
}

/// `row · diag(signs) · (core ⊗ H) / √size`: the fast Walsh–Hadamard transform of each part of the row, then the core across
/// the parts. Only sums: the same on every machine.
fn turn_hadamard(row: &mut [f32], signs: &[f32], core: &Array2<f32>, room: &mut [f32]) {
    let scale = (row.len() as f64).sqrt().recip() as f32;
    row.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign * scale);
    let part = row.len() / core.nrows();
    let mut half = 1;
    while half < part {
        for pair in row.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            low.iter_mut().zip(high).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
        }
        half *= 2;
    }
    if core.nrows() == 1 {
        return;
    }
    room.fill(0.0);
    for (from, signs) in row.chunks_exact(part).zip(core.rows()) {
        for (to, sign) in room.chunks_exact_mut(part).zip(signs) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += sign * from);
        }
    }
    row.copy_from_slice(room);
}

/// The smallest Hadamard matrix whose product with a power of two is `size`.
fn hadamard_core(size: usize) -> Option<Array2<f32>> {
    let mut order = size.checked_shr(size.trailing_zeros())?;
    while order <= size {
        if let Some(core) = paley(order) {
            return Some(core);
        }
        order *= 2;
    }
    None
}

/// A Hadamard matrix of an order that Paley's two constructions reach over a prime field, and that of order 1.
fn paley(order: usize) -> Option<Array2<f32>> {
    if order == 1 {
        return Some(Array2::ones((1, 1)));
    }
    let first = order.checked_sub(1).filter(|&q| q % 4 == 3 && is_prime(q));
    if let Some(q) = first {
        // I + S, S = [0 1; −1 Q] skew
        let q = residues(q);
        return Some(Array2::from_shape_fn((order, order), |(i, j)| match (i, j) {
            (i, j) if i == j => 1.0,
            (0, _) => 1.0,
            (_, 0) => -1.0,
            (i, j) => q[[i - 1, j - 1]],
        }));
    }
    let q = (order / 2).checked_sub(1).filter(|&q| order.is_multiple_of(2) && q % 4 == 1 && is_prime(q))?;
    // S = [0 1; 1 Q] symmetric; each ±1 becomes ±[1 1; 1 −1], each 0 becomes [1 −1; −1 −1]
    let q = residues(q);
    Some(Array2::from_shape_fn((order, order), |(i, j)| {
        let sign = match (i / 2, j / 2) {
            (a, b) if a == b => return if (i % 2, j % 2) == (0, 0) { 1.0 } else { -1.0 },
            (0, _) | (_, 0) => 1.0,
            (a, b) => q[[a - 1, b - 1]],
        };
        if (i % 2, j % 2) == (1, 1) { -sign } else { sign }
    }))
}

/// `χ(i − j)` over the field of `q`, a prime: 1 for squares, −1 for others, 0 for 0.
fn residues(q: usize) -> Array2<f32> {
    let mut character = vec![-1.0; q];
    (1..q).for_each(|i| character[i * i % q] = 1.0);
    character[0] = 0.0;
    Array2::from_shape_fn((q, q), |(i, j)| character[(q + i - j) % q])
}

fn is_prime(n: usize) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// The orthogonal factor of a matrix of independent normal numbers, the diagonal of the other factor positive: uniform over
/// the orthogonal group (Mezzadri, arXiv math-ph/0609050). In f64, every sum in a fixed order.
fn random_orthogonal(size: usize, random: &mut Pcg64) -> Array2<f32> {
    /// Rows that are made orthogonal before the rest is projected: they stay in the cache while the rest passes by.
    const BLOCK: usize = 32;
    let mut rows: Vec<f64> = (0..size * size).map(|_| normal(random)).collect();
    for start in (0..size).step_by(BLOCK) {
        let (done, rest) = rows[start * size..].split_at_mut((BLOCK.min(size - start)) * size);
        for row in 0..done.len() / size {
            let (before, row) = done.split_at_mut(row * size);
            let row = &mut row[..size];
            before.chunks_exact(size).for_each(|unit| project_out(row, unit));
            let norm = dot(row, row).sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        rest.par_chunks_exact_mut(size).for_each(|row| done.chunks_exact(size).for_each(|unit| project_out(row, unit)));
    }
    Array2::from_shape_vec((size, size), rows).expect("size rows of size").mapv(|x| x as f32)
}

/// Modified Gram–Schmidt: `row` less its part along `unit`.
fn project_out(row: &mut [f64], unit: &[f64]) {
    let along = dot(row, unit);
    row.iter_mut().zip(unit).for_each(|(x, u)| *x -= along * u);
}

/// Eight sums side by side, so that the order is fixed and vector units are used.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        sums = std::array::from_fn(|lane| sums[lane] + a[lane] * b[lane]);
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// Marsaglia's polar method; `libm`'s logarithm is the same on every machine, the system's is not.
fn normal(random: &mut Pcg64) -> f64 {
    let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    loop {
        let (u, v) = (uniform(), uniform());
        let square = u * u + v * v;
        if square > 0.0 && square < 1.0 {
            return u * (-2.0 * libm::log(square) / square).sqrt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::s;

    fn matrix(rotation: &Rotation) -> Array2<f32> {
        rotation.right(Array2::eye(rotation.size).view())
    }

    /// The largest entry of `R·Rᵀ − I`.
    fn off_unity(r: &Array2<f32>) -> f64 {
        let r = r.mapv(f64::from);
        (r.dot(&r.t()) - Array2::<f64>::eye(r.nrows())).iter().fold(0.0, |max, x| max.max(x.abs()))
    }

    #[test]
    fn rotations_are_orthogonal() {
        for (kind, size) in [
            (RotationKind::Hadamard, 1),
            (RotationKind::Hadamard, 64),
            (RotationKind::Hadamard, 12),
            (RotationKind::Hadamard, 20),
            (RotationKind::Hadamard, 28),
            (RotationKind::Hadamard, 36),
            (RotationKind::Hadamard, 96),
            (RotationKind::Hadamard, 368),
            (RotationKind::Random, 1),
            (RotationKind::Random, 33),
            (RotationKind::Random, 100),
        ] {
            let r = matrix(&Rotation::new(kind, size, 5, 0).expect("a size that exists"));
            assert!(off_unity(&r) < 2e-7, "{kind:?} {size}: {}", off_unity(&r));
            if kind == RotationKind::Hadamard {
                let expected = (size as f32).sqrt().recip();
                assert!(r.iter().all(|x| (x.abs() - expected).abs() < 1e-6 * expected), "{size}");
            }
        }
    }

    #[test]
    fn sizes_without_a_known_hadamard_matrix_name_the_other_kind() {
        for size in [3, 6, 7, 92, 184, 11 * 2] {
            let error = Rotation::new(RotationKind::Hadamard, size, 1, 0).expect_err("no such matrix");
            assert_eq!(error, RotationError::NoHadamard { size });
            assert!(error.to_string().ends_with("choose the rotation random"), "{error}");
            Rotation::new(RotationKind::Random, size, 1, 0).expect("any size");
        }
    }

    #[test]
    fn both_sides_and_heads_are_products_with_the_matrix() {
        let w = Array2::from_shape_fn((24, 36), |(i, j)| ((i * 36 + j) * 37 % 101) as f32 / 50.0 - 1.0);
        for kind in [RotationKind::Hadamard, RotationKind::Random] {
            let rotation = Rotation::new(kind, 12, 9, 2).expect("12 = 11 + 1");
            let r = matrix(&rotation);
            let close = |a: &Array2<f32>, b: &Array2<f32>| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-6);
            let turned = rotation.right(w.view());
            for head in 0..3 {
                let columns = s![.., head * 12..(head + 1) * 12];
                assert!(close(&turned.slice(columns).to_owned(), &w.slice(columns).dot(&r)), "{kind:?} {head}");
            }
            let turned = rotation.left_transposed(w.view());
            assert!(turned.is_standard_layout());
            for head in 0..2 {
                let rows = s![head * 12..(head + 1) * 12, ..];
                assert!(close(&turned.slice(rows).to_owned(), &r.t().dot(&w.slice(rows))), "{kind:?} {head}");
            }
            let bias: Vec<f32> = w.column(0).to_vec();
            let expected = rotation.left_transposed(w.slice(s![.., ..1]));
            assert_eq!(rotation.turn(&bias), expected.column(0).to_vec());
        }
    }

    /// Pinned: an artifact can be made again from its record, on any machine.
    #[test]
    fn a_seed_gives_the_same_rotation_on_every_machine() {
        let row = |kind, seed, index| matrix(&Rotation::new(kind, 4, seed, index).expect("a size that exists")).row(0).to_vec();
        assert_eq!(row(RotationKind::Hadamard, 1, 0), [-0.5; 4]);
        assert_eq!(row(RotationKind::Random, 1, 0), [0.322_749_08, -0.389_870_58, 0.857_532_1, 0.092_047_28]);
        for kind in [RotationKind::Hadamard, RotationKind::Random] {
            let all = |seed, index| matrix(&Rotation::new(kind, 32, seed, index).expect("a size that exists"));
            assert_ne!(all(1, 0), all(2, 0));
            assert_ne!(all(1, 0), all(1, 1));
        }
    }
}
