//! AWQ: activation-aware weight quantization (Lin et al., arXiv 2306.00978).
//!
//! Equations 2 to 5 of the paper: a weight's columns may be multiplied by `s` before they are quantized when its input is
//! divided by `s`. Columns that meet large inputs get large `s`, so that their error relative to the grid's step shrinks:
//! `s = mean|x|^ratio`, the ratio found on a grid. The authors judge a ratio by running the layer on samples. Here the Gram
//! matrix `G` says the same without a sample: the squared error of what a linear puts out is `tr(ΔW·G·ΔWᵀ)`, with
//! `ΔW = Q(W·s)/s − W`.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, Zip, s};
use rayon::prelude::*;

use super::{InputStats, Scheme, fake_quantize, output_error};

/// The widest diagonal block of `G` that clipping looks at.
const PANEL: usize = 256;
/// Rows that one thread clips at a time: as many as make the packing of a block of `G` cheap beside its use.
const CLIP_ROWS: usize = 128;
/// The least scale over the greatest: what is divided by `s` must stay within f16.
const LEAST_SCALE: f64 = 1e-4;

/// How scales are searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwqOptions {
    pub basis: ScaleBasis,
    /// Ratios tried beside no scaling: `i / ratio_steps` for `i` from 0 to `ratio_steps − 1`; the paper's code takes 20.
    pub ratio_steps: usize,
    /// Rows of each weight that a ratio is judged on, spread evenly over it; a weight with fewer is judged whole. With 256 the
    /// loss of all rows ends within 0.2 % of what judging all of them finds (coqa-45m, INT4), at a fifth of the work.
    pub judged_rows: usize,
}

/// What scales are made of. KL of coqa-45m, INT4 at g128 rounded to nearest, and of its variant with outliers 30 times as large
/// (`results/lab/make_outlier_variant.py`), from `results/quantization/prototype/FINDINGS.md`; the program's own rows are in
/// `results/quantization/README.md`:
///
/// | | plain | variant |
/// |---|---|---|
/// | [`Self::Activation`] | 0.0287 | 0.0331 |
/// | [`Self::ActivationAndWeight`] | 0.0283 | 0.0283 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleBasis {
    /// `mean|x|^ratio`, the paper's.
    Activation,
    /// `rms(x)^ratio / rms(w)^(1−ratio)`, `w` the columns of all the weights that read the feature. A feature that is `d`
    /// times as large, with columns `d` times as small, gets a scale `d` times as large: what is quantized stays the same,
    /// whatever scales the checkpoint came with. llm-compressor's duo scaling has this form with mean magnitudes.
    ActivationAndWeight,
}

/// Which features of an input have one scale, because they are copies of one feature of what comes before: `repeats`
/// consecutive runs of `run` features repeat one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    pub run: usize,
    pub repeats: usize,
}

impl Sharing {
    /// Every feature for itself.
    pub const NONE: Sharing = Sharing { run: 1, repeats: 1 };

    /// What feature `feature` is a copy of.
    pub fn source(self, feature: usize) -> usize {
        feature / (self.run * self.repeats) * self.run + feature % self.run
    }

    /// What each row of what comes before is multiplied by, `[in_features / repeats]`: the reciprocal of the scale that all its
    /// copies have. `scales` is `[in_features]`.
    pub fn divisors(self, scales: &[f32]) -> Vec<f32> {
        let mut divisors = vec![1.0; scales.len() / self.repeats];
        scales.iter().enumerate().for_each(|(feature, scale)| divisors[self.source(feature)] = scale.recip());
        divisors
    }

    /// Each feature's value replaced by the mean over its copies.
    fn pool(self, values: &mut [f64]) {
        let mut means = vec![0.0; values.len() / self.repeats];
        for (feature, value) in values.iter().enumerate() {
            means[self.source(feature)] += value / self.repeats as f64;
        }
        values.iter_mut().enumerate().for_each(|(feature, value)| *value = means[self.source(feature)]);
    }
}

/// Scales of the features of one input.
#[derive(Debug, Clone, PartialEq)]
pub struct AwqScales {
    /// `[in_features]`, positive: columns of the weights that read the input are multiplied, what comes before is divided.
    pub scales: Vec<f32>,
    /// The ratio they come from; `None` where no ratio is better than no scaling, and all scales are 1.
    pub ratio: Option<f32>,
    /// `Σ tr(ΔW·G·ΔWᵀ) / Σ tr(W·G·Wᵀ)` over the weights' judged rows, rounded to nearest, without scales.
    pub loss_before: f64,
    /// The same with them.
    pub loss_after: f64,
}

/// The scales with which the weights of `balance`, each `[out_features, in_features]` with its own scheme, lose least when
/// rounded to nearest. All read the input that `x` tells of; weights that are not quantized are left out.
///
/// A feature that is never active, or that no weight reads, takes the least scale of the others: its column then widens no
/// group's range.
///
/// # Panics
/// Where the in_features of weights and statistics differ, or are not whole runs of `sharing`.
pub fn awq_scales(
    balance: &[(ArrayView2<'_, f32>, Scheme)],
    x: &InputStats,
    sharing: Sharing,
    options: &AwqOptions,
) -> AwqScales {
    let in_features = x.mean_abs.len();
    assert!(balance.iter().all(|(w, _)| w.ncols() == in_features), "weights read the input of {in_features} features");
    assert!(in_features.is_multiple_of(sharing.run * sharing.repeats), "{in_features} features in runs of {sharing:?}");
    let judged: Vec<Judged> = balance.iter().map(|(w, scheme)| Judged::of(*w, *scheme, options.judged_rows)).collect();
    let gram = x.gram.view();
    let norm: f64 = judged.iter().map(|judged| judged.each * output_error(judged.w.view(), gram)).sum();
    let loss = |scales: &[f32]| -> f64 {
        let error: f64 = judged.par_iter().map(|judged| judged.each * output_error(judged.error(scales).view(), gram)).sum();
        if norm > 0.0 { error / norm } else { 0.0 }
    };
    let parts = Magnitudes::of(balance, x, sharing, options.basis);
    let ratios: Vec<f64> = (0..options.ratio_steps).map(|step| step as f64 / options.ratio_steps as f64).collect();
    let tried: Vec<(f64, f64)> = ratios.par_iter().map(|&ratio| (ratio, loss(&parts.scales(ratio)))).collect();
    let loss_before = loss(&vec![1.0; in_features]);
    let unscaled = AwqScales { scales: vec![1.0; in_features], ratio: None, loss_before, loss_after: loss_before };
    tried.into_iter().fold(unscaled, |best, (ratio, loss_after)| match loss_after < best.loss_after {
        true => AwqScales { scales: parts.scales(ratio), ratio: Some(ratio as f32), loss_before, loss_after },
        false => best,
    })
}

/// The rows of a weight that stand for all of it.
struct Judged {
    w: Array2<f32>,
    scheme: Scheme,
    /// Rows that each of these stands for.
    each: f64,
}

impl Judged {
    fn of(w: ArrayView2<'_, f32>, scheme: Scheme, rows: usize) -> Judged {
        let kept = rows.clamp(1, w.nrows());
        let indices: Vec<usize> = (0..kept).map(|row| row * w.nrows() / kept).collect();
        Judged { w: w.select(Axis(0), &indices), scheme, each: w.nrows() as f64 / kept as f64 }
    }

    /// `Q(W·s)/s − W`.
    fn error(&self, scales: &[f32]) -> Array2<f32> {
        let scales = ArrayView1::from(scales);
        let scaled = &self.w * &scales;
        let scaled = scaled.as_slice().expect("a fresh array is contiguous");
        let nearest = fake_quantize(scaled, self.w.ncols(), &self.scheme);
        let nearest = Array2::from_shape_vec(self.w.dim(), nearest).expect("as many weights as there were");
        nearest / scales - &self.w
    }
}

/// What a scale is made of, for each feature: `s = x^ratio · w^(ratio−1)`.
struct Magnitudes {
    x: Vec<f64>,
    w: Vec<f64>,
}

impl Magnitudes {
    fn of(balance: &[(ArrayView2<'_, f32>, Scheme)], x: &InputStats, sharing: Sharing, basis: ScaleBasis) -> Magnitudes {
        let in_features = x.mean_abs.len();
        let (mut of_x, mut of_w): (Vec<f64>, Vec<f64>) = match basis {
            ScaleBasis::Activation => (x.mean_abs.iter().copied().map(f64::from).collect(), vec![1.0; in_features]),
            ScaleBasis::ActivationAndWeight => (x.gram.diag().iter().copied().map(f64::from).collect(), column_squares(balance)),
        };
        sharing.pool(&mut of_x);
        sharing.pool(&mut of_w);
        if basis == ScaleBasis::ActivationAndWeight {
            of_x.iter_mut().chain(&mut of_w).for_each(|square| *square = square.sqrt());
        }
        Magnitudes { x: of_x, w: of_w }
    }

    /// Scaled by a common factor so that the least and the greatest are as far from 1, as the paper's code has it: what is
    /// divided by them keeps its size.
    fn scales(&self, ratio: f64) -> Vec<f32> {
        let is_live = |&(&x, &w): &(&f64, &f64)| x > 0.0 && w > 0.0;
        let scale = |(x, w): (&f64, &f64)| x.powf(ratio) * w.powf(ratio - 1.0);
        let live = || self.x.iter().zip(&self.w).filter(is_live).map(scale);
        let greatest = live().fold(0.0, f64::max);
        let least = live().fold(greatest, f64::min).max(greatest * LEAST_SCALE);
        let middle = (greatest * least).sqrt();
        if !(middle > 0.0 && middle.is_finite()) {
            return vec![1.0; self.x.len()];
        }
        let pairs = self.x.iter().zip(&self.w);
        pairs
            .map(|pair| if is_live(&pair) { (scale(pair).max(least) / middle) as f32 } else { (least / middle) as f32 })
            .collect()
    }
}

/// Mean square of each column over the rows of all the weights.
fn column_squares(balance: &[(ArrayView2<'_, f32>, Scheme)]) -> Vec<f64> {
    let rows: usize = balance.iter().map(|(w, _)| w.nrows()).sum();
    let mut squares = vec![0.0; balance.first().map_or(0, |(w, _)| w.ncols())];
    for row in balance.iter().flat_map(|(w, _)| w.rows()) {
        squares.iter_mut().zip(row).for_each(|(square, &w)| *square += f64::from(w) * f64::from(w) / rows as f64);
    }
    squares
}

/// How far a group's range may shrink.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipOptions {
    /// Bounds tried: `1 − i / steps` of a group's largest magnitude; the paper's code takes 20.
    pub steps: usize,
    /// Bounds stay above `1 − max_shrink` of it; the paper's code takes 0.5.
    pub max_shrink: f32,
}

/// `w`, `[out_features, in_features]`, with the weights of each group clipped to the bound with which the group, rounded to
/// nearest, loses least: `d·G_gg·dᵀ`, `d` the group's error and `G_gg` the group's diagonal block of the Gram matrix, as in
/// the paper's code. Of groups wider than 256 the diagonal blocks of 256 are summed.
///
/// The paper's code leaves q and k alone: clipping them is judged by q and k, while the model sees their product.
///
/// # Panics
/// Where the in_features of weight and statistics differ.
pub fn awq_clip(w: ArrayView2<'_, f32>, scheme: &Scheme, x: &InputStats, options: &ClipOptions) -> Array2<f32> {
    assert_eq!(w.ncols(), x.gram.ncols(), "in_features of the weight and of its input");
    let in_features = w.ncols();
    let mut clipped = w.as_standard_layout().into_owned();
    let weights = clipped.as_slice_mut().expect("standard layout");
    weights.par_chunks_mut((CLIP_ROWS * in_features).max(1)).for_each(|rows| {
        let w = ArrayView2::from_shape((rows.len() / in_features, in_features), rows).expect("whole rows");
        let bounds = best_bounds(w, scheme, x.gram.view(), options);
        clip_to(rows, &bounds, scheme.granularity.group_size(in_features), in_features);
    });
    clipped
}

/// The bound of least loss for each group, `[rows, groups]`; the widest of equals.
fn best_bounds(w: ArrayView2<'_, f32>, scheme: &Scheme, gram: ArrayView2<'_, f32>, options: &ClipOptions) -> Array2<f32> {
    let group_size = scheme.granularity.group_size(w.ncols());
    let mut largest = Array2::<f32>::zeros((w.nrows(), scheme.granularity.groups(w.ncols())));
    for (mut largest, row) in largest.rows_mut().into_iter().zip(w.rows()) {
        row.iter().zip(0..).for_each(|(w, j)| largest[j / group_size] = largest[j / group_size].max(w.abs()));
    }
    let (mut best, mut least) = (largest.clone(), Array2::from_elem(largest.dim(), f64::INFINITY));
    for step in (0..options.steps).take_while(|&step| (step as f32) < options.max_shrink * options.steps as f32) {
        let bounds = &largest * (1.0 - step as f32 / options.steps as f32);
        let losses = clip_losses(w, &bounds, scheme, gram);
        Zip::from(&mut best).and(&mut least).and(&bounds).and(&losses).for_each(|best, least, &bound, &loss| {
            if loss < *least {
                (*best, *least) = (bound, loss);
            }
        });
    }
    best
}

/// What each group loses when it is clipped to its bound and rounded, `[rows, groups]`.
fn clip_losses(w: ArrayView2<'_, f32>, bounds: &Array2<f32>, scheme: &Scheme, gram: ArrayView2<'_, f32>) -> Array2<f64> {
    let group_size = scheme.granularity.group_size(w.ncols());
    let mut clipped: Vec<f32> = w.iter().copied().collect();
    clip_to(&mut clipped, bounds, group_size, w.ncols());
    let nearest = fake_quantize(&clipped, w.ncols(), scheme);
    let error = Array2::from_shape_vec(w.dim(), nearest).expect("as many weights as there were") - w;
    let mut losses = Array2::zeros(bounds.dim());
    for (group, mut losses) in losses.columns_mut().into_iter().enumerate() {
        let end = ((group + 1) * group_size).min(w.ncols());
        for start in (group * group_size..end).step_by(PANEL) {
            let block = start..end.min(start + PANEL);
            let d = error.slice(s![.., block.clone()]);
            let product = d.dot(&gram.slice(s![block.clone(), block]));
            for (loss, (d, product)) in losses.iter_mut().zip(d.rows().into_iter().zip(product.rows())) {
                *loss += f64::from(d.dot(&product));
            }
        }
    }
    losses
}

/// Clips rows of `in_features` to the bounds of their groups, `[rows, groups]`.
fn clip_to(rows: &mut [f32], bounds: &Array2<f32>, group_size: usize, in_features: usize) {
    for (row, bounds) in rows.chunks_mut(in_features).zip(bounds.rows()) {
        for (group, &bound) in row.chunks_mut(group_size).zip(bounds) {
            group.iter_mut().for_each(|w| *w = w.clamp(-bound, bound));
        }
    }
}

impl InputStats {
    /// What calibration would find of the input divided by `scales`, feature by feature.
    ///
    /// # Panics
    /// Where there is not one scale for each feature.
    pub fn rescaled(&self, scales: &[f32]) -> InputStats {
        assert_eq!(scales.len(), self.mean_abs.len(), "one scale for each feature");
        let inverse: Vec<f32> = scales.iter().map(|scale| scale.recip()).collect();
        let (row, column) = (ArrayView1::from(&inverse), ArrayView1::from(&inverse).insert_axis(Axis(1)));
        let divided = |values: &[f32]| values.iter().zip(&inverse).map(|(value, inverse)| value * inverse).collect();
        InputStats {
            tokens: self.tokens,
            gram: &self.gram * &row * column,
            mean_abs: divided(&self.mean_abs),
            max_abs: divided(&self.max_abs),
            cross: self.cross.as_ref().map(|cross| cross * &row * column),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Format, Granularity, ScaleRule, ScaleStorage};

    /// Numbers from −1 to 1 with a few larger ones, the same on every machine.
    fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Array2::from_shape_simple_fn((rows, columns), || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let x = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            x * x * x
        })
    }

    fn stats(x: &Array2<f32>) -> InputStats {
        let tokens = x.nrows() as f32;
        InputStats {
            tokens: x.nrows() as u64,
            gram: x.t().dot(x) / tokens,
            mean_abs: (x.mapv(f32::abs).sum_axis(Axis(0)) / tokens).to_vec(),
            max_abs: x.columns().into_iter().map(|column| column.iter().fold(0.0, |max, x| x.abs().max(max))).collect(),
            cross: None,
        }
    }

    fn int4(granularity: Granularity) -> Scheme {
        let format = Format::Int { bits: 4, symmetric: true };
        Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage: ScaleStorage::F16 }
    }

    const OPTIONS: AwqOptions = AwqOptions { basis: ScaleBasis::ActivationAndWeight, ratio_steps: 20, judged_rows: 512 };

    fn search(w: &Array2<f32>, x: &InputStats, options: &AwqOptions) -> AwqScales {
        awq_scales(&[(w.view(), int4(Granularity::PerGroup(32)))], x, Sharing::NONE, options)
    }

    #[test]
    fn a_checkpoint_with_outliers_is_quantized_like_one_without() {
        let (w, mut x) = (numbers(40, 96, 3), numbers(300, 96, 4));
        let plain = search(&w, &stats(&x), &OPTIONS);
        let mut outliers = w.clone();
        for feature in [5, 40, 77] {
            x.column_mut(feature).mapv_inplace(|x| x * 30.0);
            outliers.column_mut(feature).mapv_inplace(|w| w / 30.0);
        }
        let found = search(&outliers, &stats(&x), &OPTIONS);
        assert!(found.loss_before > 3.0 * plain.loss_before, "outliers hurt: {} {}", found.loss_before, plain.loss_before);
        assert!((found.loss_after / plain.loss_after - 1.0).abs() < 0.02, "{} {}", found.loss_after, plain.loss_after);
        assert!(plain.loss_after < plain.loss_before);
        assert_eq!(found.ratio, plain.ratio);
        let paper = search(&outliers, &stats(&x), &AwqOptions { basis: ScaleBasis::Activation, ..OPTIONS });
        assert!(paper.loss_after < paper.loss_before && paper.loss_after > found.loss_after);
    }

    #[test]
    fn judged_rows_stand_for_the_others() {
        let (few, x) = (numbers(6, 64, 5), stats(&numbers(200, 64, 6)));
        let repeated = few.select(Axis(0), &(0..24).map(|row| row / 4).collect::<Vec<_>>());
        let whole = search(&repeated, &x, &OPTIONS);
        let sampled = search(&repeated, &x, &AwqOptions { judged_rows: 6, ..OPTIONS });
        assert_eq!((whole.ratio, &whole.scales), (sampled.ratio, &sampled.scales));
        assert!((whole.loss_after / sampled.loss_after - 1.0).abs() < 1e-6);
    }

    #[test]
    fn features_that_never_act_or_are_never_read_take_the_least_scale() {
        let (mut w, mut x) = (numbers(20, 64, 7), numbers(100, 64, 8));
        x.column_mut(3).fill(0.0);
        w.column_mut(9).fill(0.0);
        let found = search(&w, &stats(&x), &OPTIONS);
        assert!(found.ratio.is_some());
        let least = found.scales.iter().copied().fold(f32::INFINITY, f32::min);
        assert_eq!([found.scales[3], found.scales[9]], [least; 2]);
        assert!(least > 0.0 && found.scales.iter().all(|s| s.is_finite()));
        let nothing = search(&w, &stats(&Array2::zeros((10, 64))), &OPTIONS);
        assert_eq!((nothing.ratio, nothing.loss_after), (None, 0.0));
        assert_eq!(nothing.scales, [1.0; 64]);
    }

    #[test]
    fn rescaled_statistics_are_those_of_the_rescaled_input() {
        let (x, reference) = (numbers(80, 12, 9), numbers(80, 12, 10));
        let scales: Vec<f32> = (0..12).map(|i| 0.2 + 0.37 * i as f32).collect();
        let divided = |x: &Array2<f32>| x / &ArrayView1::from(&scales);
        let with_cross = |x: &Array2<f32>, reference: &Array2<f32>| InputStats {
            cross: Some(reference.t().dot(x) / x.nrows() as f32),
            ..stats(x)
        };
        let expected = with_cross(&divided(&x), &divided(&reference));
        let got = with_cross(&x, &reference).rescaled(&scales);
        let close = |a: &f32, b: &f32| (a - b).abs() < 1e-6 * (1.0 + b.abs());
        assert!(got.gram.iter().zip(&expected.gram).all(|(a, b)| close(a, b)));
        let crosses = (got.cross.expect("it was there"), expected.cross.expect("just made"));
        assert!(crosses.0.iter().zip(&crosses.1).all(|(a, b)| close(a, b)));
        assert!(got.mean_abs.iter().zip(&expected.mean_abs).all(|(a, b)| close(a, b)));
        assert!(got.max_abs.iter().zip(&expected.max_abs).all(|(a, b)| close(a, b)));
        assert_eq!(got.tokens, 80);
    }

    /// A group wider than a block of the Gram matrix: where the matrix has nothing outside its blocks, the bound is that of
    /// the whole product, tried one after the other.
    #[test]
    fn clipping_a_whole_row_takes_the_bound_of_least_error() {
        let w = numbers(6, PANEL + 50, 11);
        let mut x = stats(&numbers(400, PANEL + 50, 12));
        x.gram.slice_mut(s![..PANEL, PANEL..]).fill(0.0);
        x.gram.slice_mut(s![PANEL.., ..PANEL]).fill(0.0);
        let scheme = int4(Granularity::PerChannel);
        let clipped = awq_clip(w.view(), &scheme, &x, &ClipOptions { steps: 20, max_shrink: 0.5 });
        let loss = |w: &Array2<f32>, held: &Array2<f32>| {
            let nearest = fake_quantize(held.as_slice().expect("contiguous"), w.ncols(), &scheme);
            output_error((Array2::from_shape_vec(w.dim(), nearest).expect("one row") - w).view(), x.gram.view())
        };
        let mut bitten = 0;
        for row in 0..w.nrows() {
            let w = w.slice(s![row..row + 1, ..]).to_owned();
            let largest = w.iter().fold(0.0f32, |max, w| max.max(w.abs()));
            let held = (0..10).map(|step| {
                let bound = largest * (1.0 - step as f32 / 20.0);
                w.mapv(|w| w.clamp(-bound, bound))
            });
            let best = held.map(|held| loss(&w, &held)).fold(f64::INFINITY, f64::min);
            let got = clipped.slice(s![row..row + 1, ..]).to_owned();
            assert!((loss(&w, &got) / best - 1.0).abs() < 1e-4, "row {row}");
            bitten += usize::from(got != w);
        }
        assert!(bitten > 0, "no row was clipped");
    }
}
