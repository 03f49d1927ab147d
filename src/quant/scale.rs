//! The scale rules, one group of weights at a time: the definition. `lanes.rs` does the same for many groups at once.

/// How the scale of a group is chosen before rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScaleRule {
    /// Symmetric: `max|w| / (2^(b−1) − 1/2)`, no weight more than half a step away. Asymmetric: the range from the least
    /// to the greatest weight, widened to contain zero, over `2^b−1` steps.
    AbsMax,
    /// Symmetric: `w* / −2^(b−1)` with `w*` the weight of largest magnitude (llama.cpp's Q4_0), so that `w*` meets the
    /// longer end of the grid exactly; the scale is NEGATIVE where `w*` is positive, and weights near `−w*` are clipped
    /// by up to one step. ONNX Runtime takes negative scales, TensorRT refuses them. Asymmetric: same as `AbsMax`, since a
    /// zero point leaves the sign nothing to do.
    SignedMax,
    /// Least squared error among a few scales, the two rules' above included, improved once by the closed form
    /// `Σwq/Σq²`; symmetric scales of both signs. Never worse than either rule in any group.
    LeastSquares,
    /// The same among positive scales alone, which TensorRT asks for: where the weight of largest magnitude is positive, it has
    /// the shorter end of the grid. Never worse than `AbsMax` in any group. Asymmetric: the same as `LeastSquares`.
    LeastSquaresPositive,
}

/// What the weights of one group share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Finite. Of an integer format: non-zero and exactly representable in f16, so that f16 and f32 artifacts hold the same
    /// number. Of a codebook: the largest magnitude as it is, zero for a group of zeros; codes are chosen with this number as
    /// bitsandbytes does, and it is rounded where it is stored ([`super::Scheme::stored_scale`]).
    pub scale: f32,
    /// Code of weight 0.
    pub zero_point: u8,
}

/// Least and greatest magnitude of a scale: f16's smallest subnormal, `2^−24`, and its largest number.
const SCALE_MIN: f32 = 5.960_464_5e-8;
const SCALE_MAX: f32 = 65504.0;

/// What least squares tries beside the two symmetric rules, as divisors of the weight of largest magnitude and in units of
/// `2^(bits−1)`. Chosen greedily from a fine grid for least squared error on a 45M model's linears at groups of 32 and 128
/// (`results/scale-rules`, `results/lab/measure_scale_rules.py --search`); the whole grid gains under 2 %. From −1 the magnitude
/// grows to clip and shrinks to leave room; only at 2 and 3 bits does it help to put the largest weight on the shorter end.
pub(super) fn symmetric_divisors(bits: u8) -> [f32; 6] {
    match bits {
        8 => [-0.86, -0.9, -0.92, -0.94, -0.96, -0.98],
        6 => [-1.01, -0.97, -0.94, -1.02, -0.91, -0.99],
        5 => [-1.03, -0.94, -1.06, -1.01, -0.99, -0.88],
        4 => [-0.9, -0.97, -1.03, -1.06, -1.11, -1.18],
        3 => [-1.19, -1.33, -1.09, 1.15, -1.46, -1.14],
        _ => [-0.92, -1.13, -1.28, -1.45, 1.15, 1.3],
    }
}

/// What least squares tries beside the whole range: factors of the least and of the greatest weight. Chosen likewise.
pub(super) fn asymmetric_shrinks(bits: u8) -> [(f32, f32); 7] {
    match bits {
        8 => [(1.02, 1.0), (1.0, 1.02), (1.02, 1.02), (1.05, 1.0), (1.0, 1.05), (1.05, 1.05), (0.97, 0.97)],
        6 => [(1.05, 1.0), (1.05, 1.05), (1.0, 1.05), (1.1, 1.05), (1.1, 1.1), (1.1, 1.0), (1.0, 1.1)],
        5 => [(0.95, 1.0), (1.05, 1.0), (1.0, 0.95), (1.1, 1.05), (0.95, 0.95), (1.1, 1.0), (1.1, 1.1)],
        4 => [(0.95, 0.95), (1.05, 1.05), (0.95, 1.0), (1.0, 0.95), (0.9, 0.9), (0.9, 0.95), (0.95, 0.9)],
        3 => [(0.85, 0.85), (0.8, 0.75), (0.9, 0.95), (0.7, 0.75), (0.9, 0.9), (0.75, 0.85), (1.1, 1.1)],
        _ => [(0.85, 0.85), (0.7, 0.7), (0.6, 0.6), (0.75, 0.55), (0.55, 0.75), (0.65, 0.45), (0.45, 0.65)],
    }
}

/// `2^(bits−1)`.
#[inline(always)]
pub(super) fn half_range(bits: u8) -> f32 {
    f32::from(1u8 << (bits - 1))
}

/// `2^bits − 1`.
#[inline(always)]
pub(super) fn qmax(bits: u8) -> f32 {
    f32::from(u8::MAX >> (8 - bits))
}

/// Between `low` and `high`; written so that a vector unit needs one instruction for each side.
#[inline(always)]
fn clip(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// Nearest f16, ties to even, sign kept, never zero or infinite.
#[inline(always)]
pub(super) fn f16_scale(scale: f32) -> f32 {
    let magnitude = clip(scale.abs(), SCALE_MIN, SCALE_MAX);
    let bits = magnitude.to_bits();
    let eleven_bits = f32::from_bits((bits + 0xFFF + ((bits >> 13) & 1)) & !0x1FFF);
    // Below 2^−14 f16 counts in steps of 2^−24, which are also the steps of f32 just above a half.
    let steps = (magnitude + 0.75) - 0.75;
    (if magnitude < 6.103_515_6e-5 { steps } else { eleven_bits }).copysign(scale)
}

/// Steps from zero of the code nearest to `w`, ties to even, clipped to the grid; `inverse` is the scale's reciprocal.
#[inline(always)]
pub(super) fn level(w: f32, inverse: f32, zero_point: f32, qmax: f32) -> f32 {
    clip((w * inverse).round_ties_even(), -zero_point, qmax - zero_point)
}

/// The scale that puts `max`, the weight of largest magnitude, on level `divisor`.
#[inline(always)]
pub(super) fn symmetric_scale(max: f32, divisor: f32) -> f32 {
    f16_scale(max / divisor)
}

/// Scale and zero point that spread the grid over `low … high`, which contains zero.
#[inline(always)]
pub(super) fn asymmetric_params(low: f32, high: f32, qmax: f32) -> (f32, f32) {
    let scale = f16_scale((high - low) / qmax);
    (scale, clip((-low / scale).round_ties_even(), 0.0, qmax))
}

pub(super) fn fit_symmetric(group: &[f32], bits: u8, rule: ScaleRule) -> Params {
    let half_range = half_range(bits);
    let max = group.iter().fold(0.0, |max: f32, &w| if w.abs() > max.abs() { w } else { max });
    let abs_max = (half_range - 0.5).copysign(max);
    let params = |divisor| Params { scale: symmetric_scale(max, divisor), zero_point: 1 << (bits - 1) };
    if max == 0.0 {
        return Params { scale: 1.0, ..params(1.0) };
    }
    match rule {
        ScaleRule::AbsMax => params(abs_max),
        ScaleRule::SignedMax => params(-half_range),
        ScaleRule::LeastSquares => {
            let others = symmetric_divisors(bits).map(|divisor| params(divisor * half_range));
            least_squares(group, bits, params(-half_range), [params(abs_max)].into_iter().chain(others))
        }
        ScaleRule::LeastSquaresPositive => {
            let positive = |divisor: f32| params(divisor.copysign(max));
            let others = symmetric_divisors(bits).map(|divisor| positive(divisor * half_range));
            least_squares(group, bits, positive(half_range), [params(abs_max)].into_iter().chain(others))
        }
    }
}

pub(super) fn fit_asymmetric(group: &[f32], bits: u8, rule: ScaleRule) -> Params {
    let (low, high) = group.iter().fold((0.0f32, 0.0f32), |(low, high), &w| (low.min(w), high.max(w)));
    let params = |(low, high)| {
        let (scale, zero_point) = asymmetric_params(low, high, qmax(bits));
        Params { scale, zero_point: zero_point as u8 }
    };
    if low == high {
        return Params { scale: 1.0, zero_point: 0 };
    }
    match rule {
        ScaleRule::AbsMax | ScaleRule::SignedMax => params((low, high)),
        ScaleRule::LeastSquares | ScaleRule::LeastSquaresPositive => {
            let others = asymmetric_shrinks(bits).map(|(a, b)| params((low * a, high * b)));
            least_squares(group, bits, params((low, high)), others.into_iter())
        }
    }
}

/// The candidate of least squared error, the first of equals; then the best scale for its codes, if that is better still.
fn least_squares(group: &[f32], bits: u8, first: Params, others: impl Iterator<Item = Params>) -> Params {
    let (mut best, mut least) = (first, squared_error(group, bits, first));
    for params in others {
        let error = squared_error(group, bits, params);
        if error < least {
            (best, least) = (params, error);
        }
    }
    let refined = Params { scale: f16_scale(closed_form_scale(group, bits, best)), ..best };
    if squared_error(group, bits, refined) < least { refined } else { best }
}

/// `Σ (w − scale·level)²`, in order; infinite where weights are beyond `1e19`, and then the first candidate stays.
fn squared_error(group: &[f32], bits: u8, params: Params) -> f32 {
    group.iter().fold(0.0, |sum, &w| {
        let error = w - params.scale * nearest_level(w, bits, params);
        sum + error * error
    })
}

/// The scale of least squared error for the codes that `params` gives: `Σ w·level / Σ level²`, in order. Not a number where
/// all levels are zero; [`f16_scale`] makes a scale of it whose levels are zero too, so that it is never better.
fn closed_form_scale(group: &[f32], bits: u8, params: Params) -> f32 {
    let (wq, qq) = group.iter().fold((0.0, 0.0), |(wq, qq), &w| {
        let q = nearest_level(w, bits, params);
        (wq + w * q, qq + q * q)
    });
    wq / qq
}

pub(super) fn nearest_level(w: f32, bits: u8, params: Params) -> f32 {
    level(w, params.scale.recip(), f32::from(params.zero_point), qmax(bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn scales_round_to_f16_as_the_half_crate_says() {
        for bits in 1..f16::MAX.to_bits() {
            let (this, next) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            let middle = (this + next) / 2.0;
            for scale in [this, f32::from_bits(middle.to_bits() - 1), middle, f32::from_bits(middle.to_bits() + 1)] {
                assert_eq!(f16_scale(scale), f16::from_f32(scale).to_f32(), "{scale:e}");
                assert_eq!(f16_scale(-scale), -f16_scale(scale));
            }
        }
    }

    #[test]
    fn scales_outside_f16_take_its_nearer_end() {
        assert_eq!(f16_scale(1e-30), f16::from_bits(1).to_f32());
        assert_eq!(f16_scale(-0.0), -f16::from_bits(1).to_f32());
        assert_eq!(f16_scale(f32::INFINITY), f16::MAX.to_f32());
        assert_eq!(f16_scale(-7e4), f16::MIN.to_f32());
    }
}
