//! GPTQ (Frantar et al., arXiv 2210.17323): columns are rounded one after the other, and what rounding one loses is made up
//! for by the columns that are not rounded yet.
//!
//! [`gptq_plain`] is Algorithm 1 of the paper. [`Gptq`] gives the same codes sooner, by QuIP's form of the same recursion
//! (arXiv 2307.13304, Theorem 6), which needs no inverse: with `H = L·D·Lᵀ`,
//! `tr(ΔW·H·ΔWᵀ) = Σ D[j]·(ΔW·L)[j]²`, so that column `j` is best rounded to the level nearest to
//! `W[j] + Σ_{i>j} ΔW[i]·L[i,j]`, from the last column to the first. It works on a few rows at a time, all their columns in one
//! go: rows know nothing of each other, so that threads share only `L`.

mod descent;
mod tile;
mod weighted;

use faer::{Mat, Side};
use ndarray::{Array2, ArrayView2, s};

use super::gram::{self, output_error};
use super::linalg::factorize;
use super::rtn::rtn;
use super::tensor::Codes;
use super::{InputStats, Params, QuantError, QuantizedTensor, Rounded, Rounding, RoundingReport, Scheme};

/// GPTQ as a [`Rounding`], with what can follow it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gptq {
    /// `λ` over the mean of the Gram matrix's diagonal, above 0 and at most 1; raised tenfold until the matrix can be
    /// factorized, which the report says.
    pub damping: f64,
    /// Columns in the order of their inputs' power, the strongest first. Codes and groups stay in storage order, whatever the
    /// order they are found in. Only with static scales.
    pub act_order: bool,
    /// Columns whose errors are passed on together.
    pub column_block: usize,
    pub group_scales: GroupScales,
    pub scale_fit: ScaleFit,
    /// Passes of coordinate descent over scales, zero points and codes after GPTQ.
    pub sweeps: usize,
    /// `α` of the target correction, from 0 (aim at the weight itself) to 1; above 0 it needs the cross statistics.
    pub target: f32,
}

/// When a group's scale is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScales {
    /// Before anything is rounded, to the original weights.
    Static,
    /// When its column block is reached, to weights that hold the corrections of all earlier blocks, but not yet those of
    /// the same block (as in the authors' code, `W[:, i:i+g]`).
    Dynamic,
}

/// What a group's scale is fitted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleFit {
    /// The scheme's own rule.
    Rule,
    /// Least squares weighted by the power of each input feature, `diag(G) + λ`, over a grid of scales.
    Gram,
}

impl Gptq {
    /// The paper's: damping of 1 %, blocks of 128, scales by the scheme's rule.
    pub const PAPER: Gptq = Gptq {
        damping: 0.01,
        act_order: false,
        column_block: 128,
        group_scales: GroupScales::Static,
        scale_fit: ScaleFit::Rule,
        sweeps: 0,
        target: 0.0,
    };

    fn check(&self) -> Result<(), QuantError> {
        let refuse = |name, got: String, expected| Err(QuantError::Option { name, got, expected });
        if !(self.damping > 0.0 && self.damping <= 1.0) {
            return refuse("damping", self.damping.to_string(), "a number above 0 and at most 1");
        }
        if self.column_block == 0 {
            return refuse("column_block", "0".to_owned(), "128");
        }
        if !(0.0..=1.0).contains(&self.target) {
            return refuse("target", self.target.to_string(), "a number from 0 to 1");
        }
        if self.act_order && self.group_scales == GroupScales::Dynamic {
            return refuse("act_order", "true".to_owned(), "false where groups are dynamic, or static groups");
        }
        Ok(())
    }

    /// Features in the order they are rounded in.
    fn rounding_order(&self, gram: ArrayView2<'_, f32>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..gram.nrows()).collect();
        if self.act_order {
            order.sort_by(|&a, &b| gram[[b, b]].total_cmp(&gram[[a, a]]));
        }
        order
    }
}

impl Rounding for Gptq {
    fn quantize(&self, w: ArrayView2<'_, f32>, scheme: &Scheme, x: Option<&InputStats>) -> Result<Rounded, QuantError> {
        scheme.check()?;
        self.check()?;
        let x = x.ok_or(QuantError::NoStatistics)?;
        gram::check(x, w.ncols())?;
        let gram = x.gram.as_standard_layout();
        let order = self.rounding_order(gram.view()).into_iter().rev().collect();
        let factor = factorize(gram.view(), order, self.damping)?;
        let mut aim = match &x.cross {
            Some(cross) if self.target > 0.0 => gram::target(w, gram.view(), cross.view(), &factor, self.target),
            None if self.target > 0.0 => return Err(QuantError::NoCross),
            _ => w.as_standard_layout().into_owned(),
        };
        let dead = silence_dead(&mut aim, gram.view());
        let tensor = tile::round(aim.view(), gram.view(), &factor, scheme, self);
        let rtn = rtn(w.as_standard_layout().as_slice().expect("standard layout"), w.ncols(), scheme);
        let relative = Relative { w, aim: aim.view(), gram: gram.view(), total: output_error(w, gram.view()) };
        let report = RoundingReport { damping: Some(factor.damping), dead_channels: dead, ..RoundingReport::default() };
        Ok(relative.keep_better(tensor, rtn, report, self.target > 0.0))
    }
}

/// Sets the weights of features that were zero on every token to zero: whatever they are, they cost nothing on the statistics,
/// and their groups' scales need not reach them. Returns how many.
fn silence_dead(w: &mut Array2<f32>, gram: ArrayView2<'_, f32>) -> usize {
    let dead: Vec<usize> = (0..gram.nrows()).filter(|&feature| gram[[feature, feature]] <= 0.0).collect();
    dead.iter().for_each(|&feature| w.column_mut(feature).fill(0.0));
    dead.len()
}

/// Output errors over the output of a weight.
struct Relative<'a> {
    w: ArrayView2<'a, f32>,
    /// What is aimed at: `w`, or the corrected weight.
    aim: ArrayView2<'a, f32>,
    gram: ArrayView2<'a, f32>,
    /// `tr(W·G·Wᵀ)`.
    total: f64,
}

impl Relative<'_> {
    fn error(&self, from: ArrayView2<'_, f32>, tensor: &QuantizedTensor) -> f64 {
        let mut delta = tensor.dequantize();
        delta.zip_mut_with(&from, |delta, w| *delta = w - *delta);
        let error = output_error(delta.view(), self.gram);
        if self.total > 0.0 { error / self.total } else { error }
    }

    /// Of GPTQ's codes and round to nearest's those that are nearer to the aim, and the errors of what is kept.
    fn keep_better(&self, gptq: QuantizedTensor, rtn: QuantizedTensor, report: RoundingReport, corrected: bool) -> Rounded {
        let rtn_output_error = self.error(self.w, &rtn);
        let errors = |tensor: &QuantizedTensor| {
            let output_error = self.error(self.w, tensor);
            (output_error, if corrected { self.error(self.aim, tensor) } else { output_error })
        };
        let of_gptq = errors(&gptq);
        let of_rtn =
            if corrected { (rtn_output_error, self.error(self.aim, &rtn)) } else { (rtn_output_error, rtn_output_error) };
        let rtn_kept = of_rtn.1 < of_gptq.1;
        let (tensor, (output_error, target_error)) = if rtn_kept { (rtn, of_rtn) } else { (gptq, of_gptq) };
        let report = RoundingReport {
            output_error: Some(output_error),
            rtn_output_error: Some(rtn_output_error),
            target_error: corrected.then_some(target_error),
            rtn_kept,
            ..report
        };
        Rounded { tensor, report }
    }
}

/// Algorithm 1 of the paper, step by step and in f64, for finite weights `[out_features, in_features]`, their inputs' Gram matrix
/// and a scheme that [`Scheme::check`] accepts; neither sweeps nor target correction.
///
/// # Errors
/// [`QuantError::NotPositiveDefinite`] where `damping` does not suffice: no ladder.
pub fn gptq_plain(
    w: ArrayView2<'_, f32>,
    gram: ArrayView2<'_, f32>,
    scheme: &Scheme,
    options: &Gptq,
) -> Result<QuantizedTensor, QuantError> {
    let order = options.rounding_order(gram);
    let (out_features, in_features) = w.dim();
    let lambda = options.damping * gram.diag().iter().map(|&d| f64::from(d)).sum::<f64>() / in_features as f64;
    // H ← permuted G + λI
    let h =
        Mat::from_fn(in_features, in_features, |i, j| f64::from(gram[[order[i], order[j]]]) + if i == j { lambda } else { 0.0 });
    let hinv = inverse_cholesky(&h).ok_or_else(|| QuantError::NotPositiveDefinite { damping: options.damping.to_string() })?;
    let mut original = w.to_owned();
    silence_dead(&mut original, gram);
    let mut w = Array2::from_shape_fn(w.dim(), |(row, i)| f64::from(original[[row, order[i]]]));
    let groups = PlainGroups { scheme, fit: options.scale_fit, power: gram.diag().mapv(|d| d + lambda as f32).to_vec() };
    let group_size = scheme.granularity.group_size(in_features);
    let mut params: Vec<Vec<Params>> = original.rows().into_iter().map(|row| groups.fit_row(&row.to_vec())).collect();
    let mut codes = vec![0; w.len()];
    for block in (0..in_features).step_by(options.column_block) {
        let end = in_features.min(block + options.column_block);
        if options.group_scales == GroupScales::Dynamic {
            for (row, params) in w.rows().into_iter().zip(&mut params) {
                let fitted = groups.fit_row(&row.mapv(|w| w as f32).to_vec());
                for group in (0..fitted.len()).filter(|group| (block..end).contains(&(group * group_size))) {
                    params[group] = fitted[group];
                }
            }
        }
        let mut err = Array2::zeros((out_features, end - block));
        for i in block..end {
            for row in 0..out_features {
                let params = params[row][order[i] / group_size];
                let code = scheme.encode(w[[row, i]] as f32, params);
                codes[row * in_features + order[i]] = code;
                let q = f64::from(scheme.decode(code, params));
                // E[:, j] ← (W[:, j] − Q[:, j]) / Hinv[j, j];  W[:, j:] ← W[:, j:] − E[:, j]·Hinv[j, j:], within the block
                err[[row, i - block]] = (w[[row, i]] - q) / hinv[[i, i]];
                let err = err[[row, i - block]];
                w.slice_mut(s![row, i..end]).scaled_add(-err, &hinv.slice(s![i, i..end]));
            }
        }
        // W[:, i+B:] ← W[:, i+B:] − E·Hinv[i:i+B, i+B:]
        let passed_on = err.dot(&hinv.slice(s![block..end, end..]));
        w.slice_mut(s![.., end..]).scaled_add(-1.0, &passed_on);
    }
    let params: Vec<Params> = params.into_iter().flatten().collect();
    let scales = params.iter().map(|params| params.scale).collect();
    let zero_points = scheme.format.has_zero_points().then(|| params.iter().map(|params| params.zero_point).collect());
    Ok(QuantizedTensor::new(*scheme, out_features, in_features, Codes { codes, scales, zero_points }))
}

/// `Hinv ← Cholesky(H⁻¹)ᵀ`, upper triangular; `None` where `H` is not positive definite.
fn inverse_cholesky(h: &Mat<f64>) -> Option<Array2<f64>> {
    use faer::linalg::solvers::DenseSolveCore;
    let inverse = h.llt(Side::Lower).ok()?.inverse();
    let lower = inverse.llt(Side::Lower).ok()?;
    Some(Array2::from_shape_fn((h.nrows(), h.ncols()), |(i, j)| lower.L()[(j, i)]))
}

/// How the plain version fits scales.
struct PlainGroups<'a> {
    scheme: &'a Scheme,
    fit: ScaleFit,
    /// `diag(H)` in storage order.
    power: Vec<f32>,
}

impl PlainGroups<'_> {
    fn fit_row(&self, row: &[f32]) -> Vec<Params> {
        let group_size = self.scheme.granularity.group_size(row.len());
        let groups = row.chunks(group_size).zip(self.power.chunks(group_size));
        groups
            .map(|(group, power)| match self.fit {
                ScaleFit::Rule => self.scheme.fit(group),
                ScaleFit::Gram => weighted::fit(group, power, self.scheme),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Codebook, Format, Granularity, ScaleRule, ScaleStorage};
    use proptest::prelude::*;
    use rand_pcg::Pcg64Mcg;
    use rand_pcg::rand_core::{Rng, SeedableRng};

    const NF4: Format = Format::Codebook(Codebook::Nf4);

    fn int(bits: u8, symmetric: bool) -> Format {
        Format::Int { bits, symmetric }
    }

    fn scheme(format: Format, granularity: Granularity) -> Scheme {
        Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage: ScaleStorage::F16 }
    }

    /// Bell-shaped numbers.
    fn random(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut uniform = || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
        Array2::from_shape_simple_fn((rows, columns), || uniform() + uniform() + uniform() + uniform())
    }

    fn stats(x: &Array2<f32>) -> InputStats {
        let tokens = x.nrows() as f32;
        InputStats {
            tokens: x.nrows() as u64,
            gram: x.t().dot(x) / tokens,
            mean_abs: x.columns().into_iter().map(|c| c.iter().map(|x| x.abs()).sum::<f32>() / tokens).collect(),
            max_abs: x.columns().into_iter().map(|c| c.iter().fold(0.0, |m: f32, x| m.max(x.abs()))).collect(),
            cross: None,
        }
    }

    /// Features that hang together, of different strength.
    fn correlated(in_features: usize, seed: u64) -> InputStats {
        let mut x = random(3 * in_features, in_features, seed).dot(&(random(in_features, in_features, seed + 1) * 0.4));
        for (feature, mut column) in x.columns_mut().into_iter().enumerate() {
            column *= 0.3 + (feature * 7 % 11) as f32 * 0.2;
        }
        stats(&x)
    }

    fn quantize(w: &Array2<f32>, scheme: &Scheme, x: &InputStats, options: Gptq) -> Rounded {
        options.quantize(w.view(), scheme, Some(x)).expect("a problem that can be solved")
    }

    fn recomputed(w: &Array2<f32>, tensor: &QuantizedTensor, gram: &Array2<f32>) -> f64 {
        let (delta, gram) = ((w - &tensor.dequantize()).mapv(f64::from), gram.mapv(f64::from));
        (&delta.dot(&gram) * &delta).sum()
    }

    /// Static scales: bit for bit. Dynamic ones are rounded to f16 after sums in different orders, so that one may fall on the
    /// other side of a tie, and what follows in its row with it.
    #[test]
    fn fast_equals_plain() {
        let formats = [int(4, true), int(4, false), int(2, true), int(3, false), int(8, true), NF4];
        let (w, x) = (random(70, 200, 1), correlated(200, 2));
        let variants = [(false, GroupScales::Static), (true, GroupScales::Static), (false, GroupScales::Dynamic)];
        let granularities = [Granularity::PerGroup(32), Granularity::PerGroup(256), Granularity::PerChannel];
        for (format, granularity) in formats.into_iter().flat_map(|format| granularities.map(|g| (format, g))) {
            let scheme = scheme(format, granularity);
            for (index, (act_order, group_scales)) in variants.into_iter().enumerate() {
                let (scale_fit, column_block) = [(ScaleFit::Rule, 64), (ScaleFit::Gram, 48)][index % 2];
                let options = Gptq { act_order, group_scales, scale_fit, column_block, ..Gptq::PAPER };
                let plain = gptq_plain(w.view(), x.gram.view(), &scheme, &options).expect("positive definite");
                let fast = quantize(&w, &scheme, &x, options).tensor;
                if group_scales == GroupScales::Static {
                    assert_eq!(plain, fast, "{options:?}");
                }
                let different = plain.codes.iter().zip(&fast.codes).filter(|(a, b)| a != b).count();
                assert!(different * 1000 <= plain.codes.len(), "{different} codes differ: {scheme:?} {options:?}");
            }
        }
    }

    #[test]
    fn each_step_lowers_the_error_on_correlated_inputs() {
        let (w, x) = (random(48, 128, 3), correlated(128, 4));
        for format in [int(4, true), int(4, false), int(2, true), int(3, false), int(8, true), NF4] {
            let scheme = Scheme { scale_rule: ScaleRule::LeastSquares, ..scheme(format, Granularity::PerGroup(32)) };
            let error = |options| quantize(&w, &scheme, &x, options).report.output_error.expect("reported");
            let order = Gptq { act_order: true, ..Gptq::PAPER };
            let rtn = quantize(&w, &scheme, &x, Gptq::PAPER).report.rtn_output_error.expect("reported");
            let errors = [
                ("paper", error(Gptq::PAPER)),
                ("order", error(order)),
                ("gram", error(Gptq { scale_fit: ScaleFit::Gram, ..order })),
                ("1 sweep", error(Gptq { sweeps: 1, ..order })),
                ("2 sweeps", error(Gptq { sweeps: 2, ..order })),
                ("4 sweeps", error(Gptq { sweeps: 4, ..order })),
            ];
            println!("{format:?} {rtn:.5} {:?}", errors.map(|(n, e)| (n, e / rtn)));
        }
    }
}
