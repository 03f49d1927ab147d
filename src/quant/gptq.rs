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

use super::gram::{self, errors_of_codes, output_error};
use super::linalg::factorize;
use super::rtn::rtn;
use super::tensor::Codes;
use super::{InputStats, Params, QuantError, QuantizedTensor, Rounded, Rounding, RoundingReport, ScaleStorage, Scheme};

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
#[non_exhaustive]
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
    /// Least squares over a grid of scales, each weight's error weighted by what it costs in the end: the square of the paper's
    /// `1/Hinv[j,j]`, which is `D[j]`. 1 to 4 % less output error than the best rule without weights.
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

    /// Of least output error, whatever the format. Output error over round to nearest's, layers 0 and 11 of coqa-45m:
    ///
    /// | | 4 bits, group 128 | 3 bits, group 128 | 2 bits, group 32 |
    /// |---|---|---|---|
    /// | this | 0.38 | 0.31 | 0.26 |
    /// | [`Self::PAPER`], absmax scales | 0.55 | 0.55 | 0.57 |
    ///
    /// Act-order and fitted scales make most of the difference; two sweeps make 5 % at 4 bits and 13 % at 2, two more 1 to 2 %.
    /// What each is worth at the model's end: `results/quantization`, the rows `int4-g128-gptq*` and `int2-g32-gptq*`.
    pub const BEST: Gptq = Gptq { act_order: true, scale_fit: ScaleFit::Gram, sweeps: 2, ..Gptq::PAPER };

    fn check(&self, scheme: &Scheme) -> Result<(), QuantError> {
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
        if self.group_scales == GroupScales::Dynamic && scheme.scale_storage == ScaleStorage::Nested {
            return refuse("group scales", "dynamic".to_owned(), "static ones where scales are quantized themselves");
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
        self.check(scheme)?;
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
        let corrected = (self.target > 0.0).then(|| aim.view());
        let judge = Judge { w, corrected, gram: gram.view(), total: output_error(w, gram.view()) };
        let report = RoundingReport { damping: Some(factor.damping), dead_channels: dead, ..RoundingReport::default() };
        Ok(judge.keep_better(tensor, rtn, report))
    }
}

/// Sets the weights of features that were zero on every token to zero: whatever they are, they cost nothing on the statistics,
/// and their groups' scales need not reach them. Returns how many.
fn silence_dead(w: &mut Array2<f32>, gram: ArrayView2<'_, f32>) -> usize {
    let dead: Vec<usize> = (0..gram.nrows()).filter(|&feature| gram[[feature, feature]] <= 0.0).collect();
    dead.iter().for_each(|&feature| w.column_mut(feature).fill(0.0));
    dead.len()
}

/// What codes of a weight cost.
struct Judge<'a> {
    w: ArrayView2<'a, f32>,
    /// The corrected weight, where that is aimed at.
    corrected: Option<ArrayView2<'a, f32>>,
    gram: ArrayView2<'a, f32>,
    /// `tr(W·G·Wᵀ)`.
    total: f64,
}

/// Output errors of a tensor, by output feature.
struct Errors {
    /// Against the weight.
    output: Vec<f64>,
    /// Against the corrected weight, where that is aimed at.
    target: Option<Vec<f64>>,
}

impl Errors {
    /// Against what is aimed at.
    fn deciding(&self) -> &[f64] {
        self.target.as_ref().unwrap_or(&self.output)
    }

    /// These, and of some output features `other`'s.
    fn with_rows_of(mut self, other: &Errors, out_features: &[usize]) -> Errors {
        for &out_feature in out_features {
            self.output[out_feature] = other.output[out_feature];
            if let (Some(to), Some(from)) = (&mut self.target, &other.target) {
                to[out_feature] = from[out_feature];
            }
        }
        self
    }
}

impl Judge<'_> {
    fn errors(&self, tensor: &QuantizedTensor) -> Errors {
        let against = |w| errors_of_codes(w, tensor, self.gram);
        Errors { output: against(self.w), target: self.corrected.map(against) }
    }

    /// Over the weight's output; not divided where nothing comes out.
    fn relative(&self, errors: &[f64]) -> f64 {
        let error: f64 = errors.iter().sum();
        if self.total > 0.0 { error / self.total } else { error }
    }

    /// Of each output feature GPTQ's codes or round to nearest's, whichever are nearer to the aim, and the errors of what is kept.
    fn keep_better(&self, gptq: QuantizedTensor, rtn: QuantizedTensor, report: RoundingReport) -> Rounded {
        let (of_gptq, of_rtn) = (self.errors(&gptq), self.errors(&rtn));
        let kept = better_rows(&of_rtn, &of_gptq, gptq.scheme.scale_storage);
        let tensor = if kept.len() == gptq.out_features {
            rtn
        } else {
            let mut tensor = gptq;
            tensor.take_rows(&rtn, &kept);
            tensor
        };
        let rtn_output_error = self.relative(&of_rtn.output);
        let errors = of_gptq.with_rows_of(&of_rtn, &kept);
        let report = RoundingReport {
            output_error: Some(self.relative(&errors.output)),
            rtn_output_error: Some(rtn_output_error),
            target_error: errors.target.as_ref().map(|errors| self.relative(errors)),
            rtn_kept: kept.len(),
            ..report
        };
        Rounded { tensor, report }
    }
}

/// Output features of which `a` has the smaller error; of two equal ones it is `b`'s. The objective is a sum over rows, so that
/// each is decided by itself.
///
/// But all or none where scales are quantized themselves: they share their mean and, 256 at a time, their step. Those of some rows
/// among other rows' would be rounded anew, and neither row would keep the scales that its codes were found for.
fn better_rows(a: &Errors, b: &Errors, scales: ScaleStorage) -> Vec<usize> {
    let (a, b) = (a.deciding(), b.deciding());
    match scales {
        ScaleStorage::F16 => (0..a.len()).filter(|&row| a[row] < b[row]).collect(),
        ScaleStorage::Nested if a.iter().sum::<f64>() < b.iter().sum() => (0..a.len()).collect(),
        ScaleStorage::Nested => Vec::new(),
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
    let mut power = vec![0.0; in_features];
    order.iter().enumerate().for_each(|(i, &feature)| power[feature] = hinv[[i, i]].powi(-2) as f32);
    let groups = PlainGroups { scheme, fit: options.scale_fit, power };
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
    /// What the square of an error costs, in storage order.
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
            .map(|params| Params { scale: self.scheme.stored_scale(params.scale), ..params })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Codebook, Format, Granularity, ScaleRule, ScaleStorage};
    use ndarray::{ArrayView1, Axis};
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

    /// GPTQ's codes in every row, nearer to `aim` than round to nearest's or not.
    fn gptq_alone(aim: &Array2<f32>, scheme: &Scheme, x: &InputStats, options: &Gptq) -> QuantizedTensor {
        let order = options.rounding_order(x.gram.view()).into_iter().rev().collect();
        let factor = factorize(x.gram.view(), order, options.damping).expect("positive definite");
        let mut aim = aim.clone();
        silence_dead(&mut aim, x.gram.view());
        tile::round(aim.view(), x.gram.view(), &factor, scheme, options)
    }

    fn recomputed(w: &Array2<f32>, rounded: &Array2<f32>, gram: &Array2<f32>) -> f64 {
        let (delta, gram) = ((w - rounded).mapv(f64::from), gram.mapv(f64::from));
        (&delta.dot(&gram) * &delta).sum()
    }

    /// By static scales of the scheme's rule: bit for bit. Others are rounded to f16 after sums in another order or precision, so
    /// that one may fall on the other side of a tie, and what follows in its row with it.
    #[test]
    fn fast_equals_plain() {
        let formats = [int(4, true), int(4, false), int(2, true), int(3, false), int(8, true), NF4];
        let (w, x) = (random(70, 200, 1), correlated(200, 2));
        let variants = [
            (false, GroupScales::Static, ScaleFit::Rule, 64),
            (true, GroupScales::Static, ScaleFit::Rule, 48),
            (true, GroupScales::Static, ScaleFit::Gram, 64),
            (false, GroupScales::Dynamic, ScaleFit::Rule, 64),
            (false, GroupScales::Dynamic, ScaleFit::Gram, 48),
        ];
        let granularities = [Granularity::PerGroup(32), Granularity::PerGroup(256), Granularity::PerChannel];
        let schemes = formats.into_iter().flat_map(|format| granularities.map(|granularity| scheme(format, granularity)));
        for scheme in schemes.filter(|scheme| scheme.check().is_ok()) {
            for (act_order, group_scales, scale_fit, column_block) in variants {
                let options = Gptq { act_order, group_scales, scale_fit, column_block, ..Gptq::PAPER };
                let plain = gptq_plain(w.view(), x.gram.view(), &scheme, &options).expect("positive definite");
                let fast = gptq_alone(&w, &scheme, &x, &options);
                if (group_scales, scale_fit) == (GroupScales::Static, ScaleFit::Rule) {
                    assert_eq!(plain, fast, "{options:?}");
                }
                let different = plain.codes.iter().zip(&fast.codes).filter(|(a, b)| a != b).count();
                assert!(different * 100 <= plain.codes.len(), "{different} codes differ: {scheme:?} {options:?}");
            }
        }
    }

    #[test]
    fn each_step_lowers_the_error() {
        let (w, x) = (random(48, 128, 3), correlated(128, 4));
        for format in [int(2, true), int(3, false), int(4, true), int(4, false), int(5, true), int(8, true), NF4] {
            let scheme = scheme(format, Granularity::PerGroup(32));
            let report = |options| quantize(&w, &scheme, &x, options).report;
            let error = |options| report(options).output_error.expect("reported");
            let order = Gptq { act_order: true, ..Gptq::PAPER };
            let fitted = Gptq { scale_fit: ScaleFit::Gram, ..order };
            let rtn = report(Gptq::PAPER).rtn_output_error.expect("reported");
            let steps = [Gptq::PAPER, order, fitted, Gptq { sweeps: 1, ..fitted }, Gptq { sweeps: 3, ..fitted }].map(error);
            assert!(steps[0] < rtn, "{format:?}: GPTQ {} RTN {rtn}", steps[0]);
            assert!(steps.is_sorted_by(|before, after| after < before), "{format:?}: {steps:?}");
        }
    }

    #[test]
    fn the_reported_error_is_that_of_the_codes() {
        let (w, x) = (random(130, 96, 5), correlated(96, 6));
        for (format, sweeps) in [(int(4, false), 0), (int(2, true), 2), (NF4, 1)] {
            let options = Gptq { sweeps, act_order: true, scale_fit: ScaleFit::Gram, ..Gptq::PAPER };
            let Rounded { tensor, report } = quantize(&w, &scheme(format, Granularity::PerGroup(32)), &x, options);
            let rtn = rtn(w.as_slice().expect("contiguous"), 96, &tensor.scheme);
            let total = recomputed(&w, &Array2::zeros(w.dim()), &x.gram);
            for (reported, tensor) in [(report.output_error, &tensor), (report.rtn_output_error, &rtn)] {
                let (reported, expected) = (reported.expect("reported"), recomputed(&w, &tensor.dequantize(), &x.gram) / total);
                assert!((reported / expected - 1.0).abs() < 1e-4, "{reported} {expected}");
            }
            let delta = &w - &tensor.dequantize();
            let error = output_error(delta.view(), x.gram.view());
            assert!((error / recomputed(&w, &tensor.dequantize(), &x.gram) - 1.0).abs() < 1e-4);
        }
    }

    /// One row has little to make up with, so that the greedy order is at times worse than no order; what is kept never is.
    #[test]
    fn what_is_kept_is_never_worse_than_rtn() {
        let kept = (0..300).filter(|&seed| {
            let (w, x) = (random(1, 16, seed), correlated(16, seed + 1000));
            let report = quantize(&w, &scheme(int(2, false), Granularity::PerGroup(16)), &x, Gptq::PAPER).report;
            assert!(report.output_error <= report.rtn_output_error, "{report:?}");
            assert!(report.rtn_kept == 0 || report.output_error == report.rtn_output_error);
            report.rtn_kept == 1
        });
        assert!((1..100).contains(&kept.count()));
    }

    /// Error of each row, in f64.
    fn recomputed_rows(w: &Array2<f32>, tensor: &QuantizedTensor, gram: &Array2<f32>) -> Vec<f64> {
        let of = |(w, rounded): (ArrayView1<'_, f32>, ArrayView1<'_, f32>)| {
            let row = |row: ArrayView1<'_, f32>| row.insert_axis(Axis(0)).to_owned();
            recomputed(&row(w), &row(rounded), gram)
        };
        w.rows().into_iter().zip(tensor.dequantize().rows()).map(of).collect()
    }

    #[test]
    fn each_row_keeps_the_better_of_gptq_and_rtn() {
        for (format, target) in [(int(2, false), 0.0), (int(2, true), 0.0), (NF4, 0.0), (int(2, false), 0.5)] {
            let (w, mut x) = (random(200, 16, 24), correlated(16, 25));
            x.cross = (target > 0.0).then(|| &x.gram * 1.2);
            let scheme = scheme(format, Granularity::PerGroup(16));
            let options = Gptq { target, ..Gptq::PAPER };
            let Rounded { tensor, report } = quantize(&w, &scheme, &x, options);
            let rtn = rtn(w.as_slice().expect("contiguous"), 16, &scheme);
            let factor = factorize(x.gram.view(), (0..16).rev().collect(), options.damping).expect("positive definite");
            let corrected = |cross: &Array2<f32>| gram::target(w.view(), x.gram.view(), cross.view(), &factor, target);
            let aim = x.cross.as_ref().map_or(w.clone(), corrected);
            let gptq = gptq_alone(&aim, &scheme, &x, &options);
            let [kept, of_gptq, of_rtn] = [&tensor, &gptq, &rtn].map(|tensor| recomputed_rows(&aim, tensor, &x.gram));
            let mut of_rows = [0, 0];
            for row in 0..200 {
                let is_rtn = of_rtn[row] < of_gptq[row];
                let better = if is_rtn { &rtn } else { &gptq };
                of_rows[usize::from(is_rtn)] += 1;
                assert_eq!(tensor.codes[row * 16..][..16], better.codes[row * 16..][..16], "row {row}");
                assert_eq!(tensor.params(row, 0), better.params(row, 0), "row {row}");
                assert!(kept[row] <= of_gptq[row] && kept[row] <= of_rtn[row]);
            }
            assert!(of_rows.iter().all(|&rows| rows > 0), "some rows of each: {of_rows:?}");
            assert_eq!(report.rtn_kept, of_rows[1]);
            // The report is of the rows as they were mixed.
            let total = recomputed(&w, &Array2::zeros(w.dim()), &x.gram);
            let agrees = |reported: Option<f64>, against: &Array2<f32>, tensor: &QuantizedTensor| {
                let (reported, expected) =
                    (reported.expect("reported"), recomputed(against, &tensor.dequantize(), &x.gram) / total);
                assert!((reported / expected - 1.0).abs() < 1e-4, "{reported} {expected}");
            };
            agrees(report.output_error, &w, &tensor);
            agrees(report.rtn_output_error, &w, &rtn);
            assert_eq!(report.target_error.is_some(), target > 0.0);
            agrees(report.target_error.or(report.output_error), &aim, &tensor);
        }
    }

    #[test]
    fn rows_whose_scales_are_quantized_together_are_kept_together() {
        let (w, x) = (random(200, 16, 26), correlated(16, 27));
        let plain = scheme(NF4, Granularity::PerGroup(16));
        assert!((1..200).contains(&quantize(&w, &plain, &x, Gptq::PAPER).report.rtn_kept));
        let nested = Scheme { scale_storage: ScaleStorage::Nested, ..plain };
        let Rounded { tensor, report } = quantize(&w, &nested, &x, Gptq::PAPER);
        assert_eq!((report.rtn_kept, &tensor.scales), (0, &tensor.nested.as_ref().expect("nested").scales()));
        // Of one row alone it is at times round to nearest's.
        let kept = (0..100).filter(|&seed| {
            let w = random(1, 16, seed);
            let Rounded { tensor, report } = quantize(&w, &nested, &x, Gptq::PAPER);
            assert!(report.rtn_kept == 0 || tensor == rtn(w.as_slice().expect("contiguous"), 16, &nested));
            report.rtn_kept == 1
        });
        assert!((1..50).contains(&kept.count()));
    }

    #[test]
    fn inputs_that_do_not_hang_together_leave_rtn() {
        let w = random(20, 64, 7);
        let gram = Array2::from_diag(&ndarray::Array1::from_shape_fn(64, |feature| 0.5 + (feature * 13 % 17) as f32));
        let x = InputStats { tokens: 100, gram, mean_abs: vec![1.0; 64], max_abs: vec![4.0; 64], cross: None };
        for format in [int(4, true), int(3, false), NF4] {
            let scheme = scheme(format, Granularity::PerGroup(16));
            let options = Gptq { act_order: true, column_block: 24, ..Gptq::PAPER };
            let tensor = quantize(&w, &scheme, &x, options).tensor;
            let rtn = rtn(w.as_slice().expect("contiguous"), 64, &scheme);
            assert_eq!(tensor.dequantize(), rtn.dequantize());
            assert_eq!(quantize(&w, &scheme, &x, Gptq { group_scales: GroupScales::Dynamic, ..Gptq::PAPER }).tensor, tensor);
        }
    }

    #[test]
    fn permuted_features_give_permuted_codes() {
        let (w, x) = (random(9, 48, 8), correlated(48, 9));
        let order: Vec<usize> = (0..48).map(|feature| feature * 29 % 48).collect();
        let permuted = InputStats { gram: x.gram.select(Axis(0), &order).select(Axis(1), &order), ..x.clone() };
        let options = Gptq { act_order: true, ..Gptq::PAPER };
        let scheme = scheme(int(4, false), Granularity::PerChannel);
        let expected = quantize(&w, &scheme, &x, options).tensor.dequantize().select(Axis(1), &order);
        assert_eq!(quantize(&w.select(Axis(1), &order), &scheme, &permuted, options).tensor.dequantize(), expected);
    }

    #[test]
    fn threads_change_nothing() {
        let (w, x) = (random(200, 192, 10), correlated(192, 11));
        let options = Gptq { act_order: true, scale_fit: ScaleFit::Gram, sweeps: 1, ..Gptq::PAPER };
        let run = || quantize(&w, &scheme(int(3, true), Granularity::PerGroup(64)), &x, options);
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(run);
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn dead_features_cost_nothing_and_widen_no_scale() {
        let (mut w, mut x) = (random(6, 64, 12), correlated(64, 13));
        for dead in [3, 40] {
            x.gram.row_mut(dead).fill(0.0);
            x.gram.column_mut(dead).fill(0.0);
            w.column_mut(dead).fill(50.0);
        }
        let Rounded { tensor, report } = quantize(&w, &scheme(int(4, true), Granularity::PerGroup(32)), &x, Gptq::PAPER);
        assert_eq!(report.dead_channels, 2);
        assert!(tensor.scales.iter().all(|&scale| scale < 1.0));
        assert!(tensor.dequantize().column(3).iter().all(|&w| w == 0.0));
        assert!(report.output_error < report.rtn_output_error);
    }

    #[test]
    fn a_singular_gram_matrix_climbs_the_ladder_and_the_report_says_so() {
        let (w, scheme) = (random(4, 64, 14), scheme(int(4, true), Granularity::PerGroup(32)));
        let x = stats(&random(1, 64, 15)); // rank 1
        let report = quantize(&w, &scheme, &x, Gptq { damping: 1e-12, ..Gptq::PAPER }).report;
        let damping = report.damping.expect("reported");
        assert!(damping > 1e-11 && damping < 1e-4, "{damping}");
        assert!((damping.log10() - damping.log10().round()).abs() < 1e-6, "steps of ten: {damping}");
        assert_eq!(quantize(&w, &scheme, &x, Gptq::PAPER).report.damping, Some(0.01));
    }

    #[test]
    fn what_cannot_be_calibrated_is_an_error() {
        let (w, scheme) = (random(4, 32, 16), scheme(int(4, true), Granularity::PerGroup(32)));
        let x = correlated(32, 17);
        let with = |gram| InputStats { gram, ..x.clone() };
        let refused = |x: Option<&InputStats>, options: Gptq| options.quantize(w.view(), &scheme, x).expect_err("refused");
        assert_eq!(refused(None, Gptq::PAPER), QuantError::NoStatistics);
        assert_eq!(refused(Some(&correlated(48, 18)), Gptq::PAPER), QuantError::StatisticsShape { expected: 32, got: 48 });
        assert_eq!(refused(Some(&with(Array2::zeros((32, 32)))), Gptq::PAPER), QuantError::GramZero);
        let mut broken = x.gram.clone();
        broken[[5, 7]] = f32::NAN;
        assert_eq!(refused(Some(&with(broken)), Gptq::PAPER), QuantError::GramNotFinite);
        let mut indefinite = x.gram.clone();
        (indefinite[[2, 3]], indefinite[[3, 2]]) = (1e6, 1e6);
        let error = refused(Some(&with(indefinite)), Gptq::PAPER);
        assert_eq!(error, QuantError::NotPositiveDefinite { damping: "0.01".to_owned() });
        assert_eq!(refused(Some(&x), Gptq { target: 0.5, ..Gptq::PAPER }), QuantError::NoCross);
        for options in [
            Gptq { damping: 0.0, ..Gptq::PAPER },
            Gptq { damping: f64::NAN, ..Gptq::PAPER },
            Gptq { target: 1.5, ..Gptq::PAPER },
            Gptq { column_block: 0, ..Gptq::PAPER },
            Gptq { act_order: true, group_scales: GroupScales::Dynamic, ..Gptq::PAPER },
        ] {
            assert!(matches!(refused(Some(&x), options), QuantError::Option { .. }), "{options:?}");
        }
    }

    /// The unquantized model's input is the quantized one's and more; aiming at the corrected weight brings the outputs nearer.
    #[test]
    fn target_correction_makes_up_for_a_changed_input() {
        let (w, seen) = (random(24, 64, 19), random(400, 64, 20));
        let reference = &seen + &(seen.dot(&random(64, 64, 21)) * 0.1);
        let mut x = stats(&seen);
        let scheme = scheme(int(8, true), Granularity::PerChannel);
        let corrected = Gptq { target: 1.0, damping: 1e-4, ..Gptq::PAPER };
        let plain = quantize(&w, &scheme, &x, Gptq::PAPER);
        x.cross = Some(x.gram.clone());
        let mut same = quantize(&w, &scheme, &x, Gptq { target: 1.0, ..Gptq::PAPER });
        assert_eq!(same.tensor.codes, plain.tensor.codes);
        assert_eq!(same.report.target_error.take(), plain.report.output_error);
        x.cross = Some(reference.t().dot(&seen) / 400.0);
        let Rounded { tensor, report } = quantize(&w, &scheme, &x, corrected);
        let lost = |tensor: &QuantizedTensor| {
            let off = reference.dot(&w.t()) - seen.dot(&tensor.dequantize().t());
            off.iter().map(|off| off * off).sum::<f32>()
        };
        assert!(lost(&tensor) < 0.02 * lost(&plain.tensor), "{} {}", lost(&tensor), lost(&plain.tensor));
        assert!(report.target_error.expect("corrected") < 0.01 * report.output_error.expect("reported"));
    }

    #[test]
    fn nested_scales_are_chosen_before_the_codes() {
        let (w, x) = (random(32, 128, 22), correlated(128, 23));
        let scheme = Scheme { scale_storage: ScaleStorage::Nested, ..scheme(NF4, Granularity::PerGroup(32)) };
        for scale_fit in [ScaleFit::Rule, ScaleFit::Gram] {
            let Rounded { tensor, report } = quantize(&w, &scheme, &x, Gptq { scale_fit, sweeps: 1, ..Gptq::PAPER });
            assert_eq!(tensor.scales, tensor.nested.as_ref().expect("nested").scales());
            assert!(report.output_error.expect("reported") < 0.8 * report.rtn_output_error.expect("reported"));
            assert_eq!(report.rtn_kept, 0);
        }
    }
}
