//! Round to nearest: each group's scale from its own weights, each weight to its nearest code.

use multiversion::multiversion;
use ndarray::ArrayView2;
use rayon::prelude::*;

use super::codebook::{self, nearest_fp4, nearest_nf4};
use super::lanes::{self, LANES, Lanes};
use super::scale::{level, qmax};
use super::tensor::Codes;
use super::{Codebook, Format, InputStats, Params, QuantError, QuantizedTensor, Rounded, Rounding, RoundingReport, Scheme};
use crate::tensor::Widen;

/// Round to nearest as a [`Rounding`].
#[derive(Debug, Clone, Copy)]
pub struct Rtn;

impl Rounding for Rtn {
    fn quantize(&self, w: ArrayView2<'_, f32>, scheme: &Scheme, _: Option<&InputStats>) -> Result<Rounded, QuantError> {
        scheme.check()?;
        let w = w.as_standard_layout();
        let tensor = rtn(w.as_slice().expect("standard layout"), w.ncols(), scheme);
        Ok(Rounded { tensor, report: RoundingReport::default() })
    }
}

/// The definition, for f32 weights `[out_features, in_features]`, row-major and finite, and a scheme that
/// [`Scheme::check`] accepts. [`rtn`] gives the same bits sooner.
pub fn rtn_plain(w: &[f32], in_features: usize, scheme: &Scheme) -> QuantizedTensor {
    let (mut codes, mut scales, mut zero_points) = (Vec::new(), Vec::new(), Vec::new());
    for row in w.chunks_exact(in_features) {
        for group in row.chunks(scheme.granularity.group_size(in_features)) {
            let params = scheme.fit(group);
            codes.extend(group.iter().map(|&w| scheme.encode(w, params)));
            scales.push(params.scale);
            zero_points.push(params.zero_point);
        }
    }
    let zero_points = scheme.format.has_zero_points().then_some(zero_points);
    QuantizedTensor::new(*scheme, w.len() / in_features, in_features, Codes { codes, scales, zero_points })
}

/// As [`rtn_plain`], from weights of any stored type, on all cores and 16 groups at a time.
///
/// # Panics
/// Where `weights` are not whole rows of `in_features`, or `in_features` is zero.
pub fn rtn<T: Widen>(weights: &[T], in_features: usize, scheme: &Scheme) -> QuantizedTensor {
    /// Weights that a thread takes at a time: enough to hide what handing them over costs.
    const SLAB: usize = 1 << 18;
    let group_size = scheme.granularity.group_size(in_features);
    let groups = scheme.granularity.groups(in_features);
    let out_features = weights.len() / in_features;
    assert_eq!(weights.len(), out_features * in_features, "whole rows of in_features {in_features}");
    let rows = SLAB.div_ceil(in_features).next_multiple_of(LANES);
    let mut codes = vec![0; weights.len()];
    let mut scales = vec![0.0; out_features * groups];
    let mut zero_points = vec![0; out_features * groups];
    let outputs = (codes.par_chunks_mut(rows * in_features))
        .zip(scales.par_chunks_mut(rows * groups))
        .zip(zero_points.par_chunks_mut(rows * groups));
    weights.par_chunks(rows * in_features).zip(outputs).for_each_init(
        || Workspace::new(group_size),
        |workspace, (weights, ((codes, scales), zero_points))| {
            // Rows without a short last group are one long run of groups.
            let run = if in_features.is_multiple_of(group_size) { weights.len() } else { in_features };
            let outputs = codes.chunks_mut(run).zip(scales.chunks_mut(run.div_ceil(group_size)));
            for ((weights, (codes, scales)), zero_points) in
                weights.chunks(run).zip(outputs).zip(zero_points.chunks_mut(run.div_ceil(group_size)))
            {
                workspace.quantize_run(weights, scheme, Slots { codes, scales, zero_points });
            }
        },
    );
    let zero_points = scheme.format.has_zero_points().then_some(zero_points);
    QuantizedTensor::new(*scheme, out_features, in_features, Codes { codes, scales, zero_points })
}

/// Quantizes and dequantizes: the f32 weights `[out_features, in_features]` nearest to `w` that the scheme can hold.
///
/// # Panics
/// As [`rtn`].
pub fn fake_quantize(w: &[f32], in_features: usize, scheme: &Scheme) -> Vec<f32> {
    let mut nearest = vec![0.0; w.len()];
    rtn(w, in_features, scheme).dequantize_into(&mut nearest);
    nearest
}

/// Where the results of some groups go.
struct Slots<'a> {
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    zero_points: &'a mut [u8],
}

/// What one thread works in: up to [`LANES`] groups, in order and transposed.
struct Workspace {
    group_size: usize,
    weights: Vec<f32>,
    tile: Vec<Lanes>,
}

impl Workspace {
    fn new(group_size: usize) -> Self {
        Workspace { group_size, weights: vec![0.0; group_size * LANES], tile: vec![[0.0; LANES]; group_size] }
    }

    /// Quantizes consecutive groups, the last of which may be short.
    fn quantize_run<T: Widen>(&mut self, weights: &[T], scheme: &Scheme, slots: Slots<'_>) {
        let batches = (slots.codes.chunks_mut(self.group_size * LANES))
            .zip(slots.scales.chunks_mut(LANES))
            .zip(slots.zero_points.chunks_mut(LANES));
        for (weights, ((codes, scales), zero_points)) in weights.chunks(self.group_size * LANES).zip(batches) {
            T::widen(weights, &mut self.weights[..weights.len()]);
            let weights = &self.weights[..weights.len()];
            fit_groups(weights, self.group_size, &mut self.tile, scheme, scales, zero_points);
            let groups = weights.chunks(self.group_size).zip(codes.chunks_mut(self.group_size));
            for ((group, codes), (&scale, &zero_point)) in groups.zip(scales.iter().zip(&*zero_points)) {
                encode_group(group, scheme.format, Params { scale, zero_point }, codes);
            }
        }
    }
}

/// Scales and zero points of up to [`LANES`] groups. A short last one is padded with zeros, which change no scale: the
/// grid has a level at zero, so that they add nothing to any sum.
fn fit_groups(
    weights: &[f32],
    group_size: usize,
    tile: &mut [Lanes],
    scheme: &Scheme,
    scales: &mut [f32],
    zero_points: &mut [u8],
) {
    if weights.len() < group_size * LANES {
        tile.fill([0.0; LANES]);
    }
    for (lane, group) in weights.chunks(group_size).enumerate() {
        for (slot, &w) in tile.iter_mut().zip(group) {
            slot[lane] = w;
        }
    }
    let params = match scheme.format {
        Format::Int { bits, symmetric: true } => lanes::fit_symmetric(tile, bits, scheme.scale_rule),
        Format::Int { bits, symmetric: false } => lanes::fit_asymmetric(tile, bits, scheme.scale_rule),
        Format::Codebook(_) => lanes::fit_codebook(tile),
    };
    for (lane, (scale, zero_point)) in scales.iter_mut().zip(zero_points).enumerate() {
        *scale = params.scale[lane];
        *zero_point = params.zero_point[lane] as u8;
    }
}

/// As [`Scheme::encode`], for a group.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn encode_group(group: &[f32], format: Format, params: Params, codes: &mut [u8]) {
    /// Added to a whole number below `2^23`, leaves it in the low bits of the sum.
    const TWO_TO_23: f32 = 8_388_608.0;
    let codes = codes.iter_mut().zip(group);
    match format {
        Format::Int { bits, .. } => {
            let (inverse, zero_point, qmax) = (params.scale.recip(), f32::from(params.zero_point), qmax(bits));
            codes.for_each(|(code, &w)| {
                *code = (level(w, inverse, zero_point, qmax) + zero_point + TWO_TO_23).to_bits() as u8;
            });
        }
        Format::Codebook(codebook) => {
            let inverse = codebook::inverse(params.scale);
            match codebook {
                Codebook::Nf4 => codes.for_each(|(code, &w)| *code = nearest_nf4(w * inverse)),
                Codebook::Fp4 => codes.for_each(|(code, &w)| *code = nearest_fp4(w * inverse)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Granularity, ScaleRule, ScaleStorage};
    use half::{bf16, f16};
    use ndarray::array;
    use proptest::prelude::*;

    fn scheme(bits: u8, symmetric: bool, granularity: Granularity, scale_rule: ScaleRule) -> Scheme {
        Scheme { format: Format::Int { bits, symmetric }, granularity, scale_rule, scale_storage: ScaleStorage::F16 }
    }

    fn per_channel(bits: u8, symmetric: bool, scale_rule: ScaleRule) -> Scheme {
        scheme(bits, symmetric, Granularity::PerChannel, scale_rule)
    }

    fn codebook(codebook: Codebook, granularity: Granularity) -> Scheme {
        let (format, scale_rule) = (Format::Codebook(codebook), ScaleRule::AbsMax);
        Scheme { format, granularity, scale_rule, scale_storage: ScaleStorage::F16 }
    }

    const WIDTHS: [u8; 6] = [2, 3, 4, 5, 6, 8];

    const RULES: [ScaleRule; 4] =
        [ScaleRule::AbsMax, ScaleRule::SignedMax, ScaleRule::LeastSquares, ScaleRule::LeastSquaresPositive];

    #[test]
    fn signed_max_meets_the_largest_weight_exactly() {
        let w = array![[0.5, -1.0, 4.0, -4.0], [0.0, 0.0, 0.0, 0.0]];
        let q = Rtn.quantize(w.view(), &per_channel(4, true, ScaleRule::SignedMax), None).expect("a scheme that exists").tensor;
        assert_eq!(q.scales, [-0.5, 1.0]);
        assert_eq!(q.codes, [7, 10, 0, 15, 8, 8, 8, 8]); // −4/−0.5 = 8 is clipped to 7
        assert_eq!(q.zero_points, None);
        assert_eq!(q.dequantize(), array![[0.5, -1.0, 4.0, -3.5], [0.0, 0.0, 0.0, 0.0]]);
    }

    #[test]
    fn a_transposed_view_is_quantized_in_logical_order() {
        let w = array![[0.5, 0.0], [-1.0, 0.0], [4.0, 0.0], [-4.0, 0.0]];
        let q = Rtn.quantize(w.t(), &per_channel(4, true, ScaleRule::SignedMax), None).expect("a scheme that exists").tensor;
        assert_eq!(q.codes, [7, 10, 0, 15, 8, 8, 8, 8]);
    }

    /// Scale, codes and zero point by hand, for the same four weights under each width and rule.
    #[test]
    fn each_format_and_rule_gives_the_codes_worked_out_by_hand() {
        let cases: [(u8, bool, ScaleRule, f32, u8, [u8; 4]); 12] = [
            // 3/1.5 = 2: levels −0.5 → 0 (even), 1, 1.5 → 2 clipped to 1, −1
            (2, true, ScaleRule::AbsMax, 2.0, 2, [2, 3, 3, 1]),
            // 3/−2: levels 0.67 → 1, −1.33 → −1, −2, 1.33 → 1
            (2, true, ScaleRule::SignedMax, -1.5, 2, [3, 1, 0, 3]),
            // 3/7.5, in f16 0.39990: levels −2.5006 → −3, 5, 7.502 → 8 clipped to 7, −5
            (4, true, ScaleRule::AbsMax, 0.399_902_34, 8, [5, 13, 15, 3]),
            // 3/−8: levels 2.67, −5.33, −8, 5.33
            (4, true, ScaleRule::SignedMax, -0.375, 8, [11, 3, 0, 13]),
            // 3/−128: levels 42.67, −85.33, −128, 85.33
            (8, true, ScaleRule::SignedMax, -0.023_437_5, 128, [171, 43, 0, 213]),
            // 5/3, in f16 1.66699: zero point 1.2 → 1; levels −0.6, 1.2, 1.8, −1.2
            (2, false, ScaleRule::AbsMax, 1.666_992_2, 1, [0, 2, 3, 0]),
            // 5/15, in f16 0.33325: zero point 6.0015 → 6; levels −3.0007, 6.0015, 9.0022, −6.0015
            (4, false, ScaleRule::AbsMax, 0.333_251_95, 6, [3, 12, 15, 0]),
            (4, false, ScaleRule::SignedMax, 0.333_251_95, 6, [3, 12, 15, 0]),
            // 3/−4: levels 1.33, −2.67, −4, 2.67
            (3, true, ScaleRule::SignedMax, -0.75, 4, [5, 1, 0, 7]),
            // 3/3.5, in f16 0.85693: levels −1.17, 2.33, 3.5009 → 4 clipped to 3, −2.33
            (3, true, ScaleRule::AbsMax, 0.856_933_6, 4, [3, 6, 7, 2]),
            // 3/−16: levels 5.33, −10.67, −16, 10.67
            (5, true, ScaleRule::SignedMax, -0.1875, 16, [21, 5, 0, 27]),
            // 5/63, in f16 0.07935: zero point 25.20 → 25; levels −12.60, 25.20, 37.81, −25.20
            (6, false, ScaleRule::AbsMax, 0.079_345_7, 25, [12, 50, 63, 0]),
        ];
        for (bits, symmetric, rule, scale, zero_point, codes) in cases {
            let q = rtn(&[-1.0f32, 2.0, 3.0, -2.0], 4, &per_channel(bits, symmetric, rule));
            assert_eq!((q.scales.as_slice(), q.codes.as_slice()), (&[scale][..], &codes[..]), "{bits} {symmetric} {rule:?}");
            assert_eq!(q.params(0, 0), Params { scale, zero_point });
        }
    }

    #[test]
    fn least_squares_finds_the_scale_a_grid_was_made_with() {
        let levels = [-8.0f32, 7.0, 3.0, -5.0, 1.0, 0.0, 6.0, -2.0];
        let w: Vec<f32> = levels.iter().map(|level| level * 0.25).collect();
        let q = rtn(&w, 8, &per_channel(4, true, ScaleRule::LeastSquares));
        assert_eq!(q.dequantize().into_raw_vec_and_offset().0, w);
    }

    #[test]
    fn fake_quantize_keeps_what_the_grid_holds() {
        // Scale −0.5, levels −8 … 7: 4 is level −8, 0.3 is −0.6 → −1, −4 is clipped to level 7.
        let scheme = per_channel(4, true, ScaleRule::SignedMax);
        assert_eq!(fake_quantize(&[4.0, 0.3, -4.0, -1.5], 4, &scheme), [4.0, 0.5, -3.5, -1.5]);
    }

    #[test]
    fn a_group_of_zeros_and_one_too_small_for_f16_become_zeros() {
        for (bits, symmetric, rule) in WIDTHS.iter().flat_map(|&b| [true, false].map(|s| RULES.map(|r| (b, s, r))).concat()) {
            let q = rtn(&[0.0f32, -0.0, 1e-40, -1e-39, 1e-12, -1e-12], 2, &per_channel(bits, symmetric, rule));
            assert_eq!(q.scales[0], 1.0);
            assert!(q.scales.iter().all(|s| s.is_finite() && *s != 0.0));
            assert!(q.dequantize().iter().all(|&w| w == 0.0), "{bits} {symmetric} {rule:?}");
        }
    }

    #[test]
    fn weights_too_large_for_an_f16_scale_are_clipped() {
        for rule in RULES {
            let q = rtn(&[3e38f32, -3e38, 1e30, 0.0], 4, &per_channel(4, true, rule));
            assert_eq!(q.scales[0].abs(), 65504.0);
            assert_eq!(q.dequantize()[[0, 3]], 0.0);
            assert!(q.dequantize()[[0, 0]] >= 7.0 * 65504.0 && q.dequantize()[[0, 1]] <= -7.0 * 65504.0);
            let q = rtn(&[3e38f32, -3e38, 1e30, 0.0], 4, &per_channel(4, false, rule));
            assert_eq!(q.scales, [65504.0]);
        }
    }

    #[test]
    fn schemes_that_no_kernel_knows_are_refused() {
        let w = array![[1.0]];
        let refused = |scheme| Rtn.quantize(w.view(), &scheme, None).expect_err("refused");
        assert_eq!(refused(per_channel(7, true, ScaleRule::AbsMax)), QuantError::Bits { got: 7 });
        for got in [0, 8, 48, 512] {
            let scheme = scheme(4, true, Granularity::PerGroup(got), ScaleRule::AbsMax);
            assert_eq!(refused(scheme), QuantError::GroupSize { got });
        }
    }

    #[test]
    fn what_codebooks_cannot_be_combined_with_is_refused() {
        let nf4 = codebook(Codebook::Nf4, Granularity::PerGroup(64));
        assert_eq!(nf4.check(), Ok(()));
        assert_eq!(Scheme { scale_storage: ScaleStorage::Nested, ..nf4 }.check(), Ok(()));
        let granularity = Granularity::PerChannel;
        assert_eq!(Scheme { granularity, ..nf4 }.check(), Err(QuantError::CodebookPerChannel));
        assert_eq!(Scheme { scale_rule: ScaleRule::SignedMax, ..nf4 }.check(), Err(QuantError::CodebookScaleRule));
        let scale_storage = ScaleStorage::Nested;
        let int4 = per_channel(4, true, ScaleRule::AbsMax);
        assert_eq!(Scheme { scale_storage, ..int4 }.check(), Err(QuantError::NestedScales));
    }

    #[test]
    fn fp4_has_bitsandbytes_order_of_codes() {
        // Over 6: −0.33 is −4/12, 0.083 is nearer to 0 than to 2/12, 0.667 is 8/12, 1 is 12/12; a zero's sign is kept.
        let scheme = codebook(Codebook::Fp4, Granularity::PerGroup(16));
        let q = rtn(&[-2.0f32, 0.5, 4.0, 6.0, -1e-3, 0.0, -6.0, 1.5], 8, &scheme);
        assert_eq!((q.scales.as_slice(), q.codes.as_slice()), (&[6.0][..], &[12, 1, 2, 3, 8, 0, 11, 7][..]));
        assert_eq!(q.dequantize()[[0, 7]], 1.5);
    }

    /// The codes are chosen with the f32 absmax, as bitsandbytes does, although f16 cannot hold it.
    #[test]
    fn a_codebook_rounds_its_scale_after_the_codes() {
        // f16 holds 1.0 and 1.000977 but not 1.0004. The middle between levels 14 and 15 is 0.86147845 times that.
        let scheme = codebook(Codebook::Nf4, Granularity::PerGroup(16));
        let q = rtn(&[1.0004f32, 0.8617, 0.8619, -1.0004], 4, &scheme);
        assert_eq!((q.scales.as_slice(), q.codes.as_slice()), (&[1.0][..], &[15, 14, 15, 0][..]));
        let params = scheme.fit(&[1.0004, 0.5]);
        assert_eq!((params.scale, scheme.decode(15, params)), (1.0004, 1.0));
    }

    fn any_codebook() -> impl Strategy<Value = Scheme> {
        let group_size = prop::sample::select(vec![16, 32, 64, 128]);
        let storage = prop::sample::select(vec![ScaleStorage::F16, ScaleStorage::Nested]);
        (prop::sample::select(vec![Codebook::Nf4, Codebook::Fp4]), group_size, storage)
            .prop_map(|(book, size, scale_storage)| Scheme { scale_storage, ..codebook(book, Granularity::PerGroup(size)) })
    }

    fn any_scheme() -> impl Strategy<Value = Scheme> {
        let bits = prop::sample::select(WIDTHS.to_vec());
        let granularity = prop::sample::select(
            [16, 32, 64, 128, 256].map(Granularity::PerGroup).into_iter().chain([Granularity::PerChannel]).collect::<Vec<_>>(),
        );
        (bits, any::<bool>(), granularity, prop::sample::select(RULES.to_vec())).prop_map(|(b, s, g, r)| scheme(b, s, g, r))
    }

    /// Matrices of odd sizes, with ordinary weights, zeros, equals, denormals and the largest f16.
    fn any_matrix() -> impl Strategy<Value = (usize, Vec<f32>)> {
        let weight = prop_oneof![
            20 => -1.0f32..1.0,
            3 => Just(0.0),
            2 => Just(0.125),
            1 => -1e-6f32..1e-6,
            1 => prop::sample::select(vec![1e-40, -1e-38, 65504.0, -65504.0, 1e20, -3e38]),
        ];
        let tame = prop::bool::weighted(0.7);
        (1usize..40, 1usize..300, tame).prop_flat_map(move |(rows, in_features, tame)| {
            let weight = if tame { (-0.1f32..0.1).boxed() } else { weight.clone().boxed() };
            (Just(in_features), prop::collection::vec(weight, rows * in_features))
        })
    }

    fn group_errors(w: &[f32], q: &QuantizedTensor) -> Vec<f32> {
        let group_size = q.scheme.granularity.group_size(q.in_features);
        let dequantized = q.dequantize();
        let rows = w.chunks(q.in_features).zip(dequantized.as_slice().expect("contiguous").chunks(q.in_features));
        rows.flat_map(|(w, d)| w.chunks(group_size).zip(d.chunks(group_size)))
            .map(|(w, d)| w.iter().zip(d).fold(0.0, |sum, (w, d)| sum + (w - d) * (w - d)))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn fast_equals_plain_bit_for_bit(
            (in_features, w) in any_matrix(),
            scheme in prop_oneof![3 => any_scheme(), 1 => any_codebook()],
        ) {
            prop_assert_eq!(rtn(&w, in_features, &scheme), rtn_plain(&w, in_features, &scheme));
        }

        #[test]
        fn stored_types_are_widened_exactly((in_features, w) in any_matrix(), scheme in any_scheme()) {
            let bf16s: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w.clamp(-1e38, 1e38))).collect();
            let widened: Vec<f32> = bf16s.iter().map(|h| h.to_f32()).collect();
            prop_assert_eq!(rtn(&bf16s, in_features, &scheme), rtn_plain(&widened, in_features, &scheme));
            let f16s: Vec<f16> = w.iter().map(|&w| f16::from_f32(w.clamp(-65504.0, 65504.0))).collect();
            let widened: Vec<f32> = f16s.iter().map(|h| h.to_f32()).collect();
            prop_assert_eq!(rtn(&f16s, in_features, &scheme), rtn_plain(&widened, in_features, &scheme));
        }

        #[test]
        fn least_squares_is_never_worse_in_any_group((in_features, w) in any_matrix(), scheme in any_scheme()) {
            let errors = |scale_rule| group_errors(&w, &rtn(&w, in_features, &Scheme { scale_rule, ..scheme }));
            let [abs_max, signed_max, least_squares, positive] = RULES.map(errors);
            for ((abs_max, signed_max), least_squares) in abs_max.iter().zip(&signed_max).zip(&least_squares) {
                prop_assert!(least_squares <= abs_max && least_squares <= signed_max, "{abs_max} {signed_max} {least_squares}");
            }
            prop_assert!(abs_max.iter().zip(&positive).all(|(abs_max, positive)| positive <= abs_max));
            let scheme = Scheme { scale_rule: ScaleRule::LeastSquaresPositive, ..scheme };
            prop_assert!(rtn(&w, in_features, &scheme).scales.iter().all(|&scale| scale > 0.0));
        }

        /// A level that is nearest but for what the reciprocal and bitsandbytes' thresholds round, and for the scale's rounding.
        #[test]
        fn no_level_of_a_codebook_is_nearer((in_features, w) in any_matrix(), scheme in any_codebook()) {
            let Format::Codebook(codebook) = scheme.format else { unreachable!("only codebooks are drawn") };
            let q = rtn(&w, in_features, &scheme);
            let group_size = scheme.granularity.group_size(in_features);
            for (row, codes) in w.chunks(in_features).zip(q.codes.chunks(in_features)) {
                for (group, codes) in row.chunks(group_size).zip(codes.chunks(group_size)) {
                    let absmax = group.iter().fold(1e-38f32, |max, w| max.max(w.abs()));
                    for (&w, &code) in group.iter().zip(codes) {
                        let off = |level: f32| (w / absmax - level).abs();
                        let least = codebook.levels().iter().map(|&level| off(level)).fold(f32::INFINITY, f32::min);
                        let chosen = off(codebook.levels()[usize::from(code)]);
                        prop_assert!(chosen <= least + 1e-6, "{w} of {absmax} → {code}");
                    }
                }
            }
        }

        #[test]
        fn groups_decode_as_single_codes_do(
            (in_features, w) in any_matrix(),
            scheme in prop_oneof![any_scheme(), any_codebook()],
        ) {
            let q = rtn(&w, in_features, &scheme);
            let dequantized = q.dequantize();
            for (index, &code) in q.codes.iter().enumerate() {
                let (row, column) = (index / in_features, index % in_features);
                let params = q.params(row, column / scheme.granularity.group_size(in_features));
                prop_assert_eq!(dequantized[[row, column]].to_bits(), scheme.decode(code, params).to_bits());
            }
        }

        /// Half a step and what rounding the scale to f16 moved: up to 2^−11 of a level, and the reciprocal's rounding.
        /// Weights beyond the grid's ends are clipped and excepted: their distance from the end is all that is lost.
        #[test]
        fn no_weight_is_farther_than_half_a_step((in_features, w) in any_matrix(), scheme in any_scheme()) {
            let q = rtn(&w, in_features, &scheme);
            let dequantized = q.dequantize();
            let group_size = scheme.granularity.group_size(in_features);
            let bits = scheme.format.bits();
            for (index, (&w, &code)) in w.iter().zip(&q.codes).enumerate() {
                let params = q.params(index / in_features, index % in_features / group_size);
                let ends = [0, u8::MAX >> (8 - bits)].map(|end| scheme.decode(end, params));
                let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
                let error = (w.clamp(low, high) - dequantized[[index / in_features, index % in_features]]).abs();
                prop_assert!(error <= params.scale.abs() * 0.500_1, "{w} → {code}, off by {error} with {params:?}");
                let whole_range = scheme.scale_rule == ScaleRule::AbsMax && (6.2e-5..65504.0).contains(&params.scale);
                if whole_range && !scheme.format.has_zero_points() {
                    prop_assert!((w - w.clamp(low, high)).abs() <= params.scale * 0.57, "{w} clipped by more than half a step");
                }
            }
        }
    }
}
