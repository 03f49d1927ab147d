//! Scales of least squared error over a grid, each weight's error weighted by the power of its input feature: 16 groups of as
//! many rows at once, which share their features and so the weights.

use std::array::from_fn;

use multiversion::multiversion;

use crate::quant::lanes::{LANES, LaneParams, Lanes, nearest};
use crate::quant::scale::{asymmetric_params, f16_scale, half_range, qmax};
use crate::quant::{Format, Params, Scheme};

/// Steps of the grid for symmetric and for asymmetric formats.
const SYMMETRIC_STEPS: u8 = 40;
const ASYMMETRIC_STEPS: u8 = 24;
/// Closed-form scales for the codes of the best so far, after the grid.
const REFINEMENTS: usize = 3;

/// Scale and zero point of one group, of any length; `power` weights the squared error of each weight.
pub(super) fn fit(group: &[f32], power: &[f32], scheme: &Scheme) -> Params {
    let lanes: Vec<Lanes> = group.iter().map(|&w| from_fn(|lane| if lane == 0 { w } else { 0.0 })).collect();
    let LaneParams { scale, zero_point } = fit_lanes(&lanes, power, scheme);
    Params { scale: scale[0], zero_point: zero_point[0] as u8 }
}

/// As [`fit`], for 16 groups of the same features: `w[j][l]` is weight `j` of group `l`. Groups of zeros get scale 1.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub(super) fn fit_lanes(w: &[Lanes], power: &[f32], scheme: &Scheme) -> LaneParams {
    let mut range = Range { low: [0.0; LANES], high: [0.0; LANES] };
    for w in w {
        range.low = from_fn(|l| if w[l] < range.low[l] { w[l] } else { range.low[l] });
        range.high = from_fn(|l| if w[l] > range.high[l] { w[l] } else { range.high[l] });
    }
    let mut search = Search { w, power, scheme, best: range.whole(scheme.format), least: [f32::INFINITY; LANES] };
    search.consider(search.best);
    match scheme.format {
        Format::Int { bits, symmetric: true } => {
            for factor in grid(smallest(bits), 1.15, SYMMETRIC_STEPS) {
                search.consider(range.symmetric(bits, factor));
                search.consider(range.symmetric(bits, -factor));
            }
        }
        Format::Int { bits, symmetric: false } => {
            for factor in grid(smallest(bits), 1.05, ASYMMETRIC_STEPS) {
                for shift in [-1.0, 0.0, 1.0] {
                    search.consider(range.asymmetric(bits, factor, shift));
                }
            }
        }
        Format::Codebook(_) => {
            for factor in grid(0.6, 1.15, SYMMETRIC_STEPS) {
                search.consider(range.codebook(factor));
            }
        }
    }
    for _ in 0..REFINEMENTS {
        search.refine();
    }
    let LaneParams { scale, zero_point } = search.best;
    LaneParams { scale: from_fn(|l| if range.low[l] == range.high[l] { 1.0 } else { scale[l] }), zero_point }
}

/// Least factor of the whole range's scale that is worth a try: the fewer levels, the more is clipped.
fn smallest(bits: u8) -> f32 {
    match bits {
        2 | 3 => 0.25,
        4 => 0.4,
        5 | 6 => 0.7,
        _ => 0.9,
    }
}

fn grid(from: f32, to: f32, steps: u8) -> impl Iterator<Item = f32> {
    (0..steps).map(move |step| from + (to - from) * f32::from(step) / f32::from(steps - 1))
}

/// Least and greatest weight of each group, zero included.
struct Range {
    low: Lanes,
    high: Lanes,
}

impl Range {
    /// What the grid starts from.
    #[inline(always)]
    fn whole(&self, format: Format) -> LaneParams {
        match format {
            Format::Int { bits, symmetric: true } => self.symmetric(bits, 1.0),
            Format::Int { bits, symmetric: false } => self.asymmetric(bits, 1.0, 0.0),
            Format::Codebook(_) => self.codebook(1.0),
        }
    }

    /// The weight of largest magnitude on the grid's longer end where `factor` is 1.
    #[inline(always)]
    fn symmetric(&self, bits: u8, factor: f32) -> LaneParams {
        let half_range = half_range(bits);
        let max: Lanes = from_fn(|l| if self.high[l] > -self.low[l] { self.high[l] } else { self.low[l] });
        LaneParams { scale: from_fn(|l| f16_scale(max[l] * factor / -half_range)), zero_point: [half_range; LANES] }
    }

    /// The grid centred on the range, `shift` steps aside.
    #[inline(always)]
    fn asymmetric(&self, bits: u8, factor: f32, shift: f32) -> LaneParams {
        let qmax = qmax(bits);
        let centred = |l: usize| {
            let (middle, half) = ((self.high[l] + self.low[l]) / 2.0, (self.high[l] - self.low[l]) / 2.0 * factor);
            asymmetric_params(middle - half, middle + half, qmax)
        };
        let zero_point = from_fn(|l| (centred(l).1 + shift).clamp(0.0, qmax));
        LaneParams { scale: from_fn(|l| centred(l).0), zero_point }
    }

    #[inline(always)]
    fn codebook(&self, factor: f32) -> LaneParams {
        LaneParams { scale: from_fn(|l| f16_scale(self.high[l].max(-self.low[l]) * factor)), zero_point: [0.0; LANES] }
    }
}

struct Search<'a> {
    w: &'a [Lanes],
    power: &'a [f32],
    scheme: &'a Scheme,
    best: LaneParams,
    least: Lanes,
}

impl Search<'_> {
    #[inline(always)]
    fn consider(&mut self, params: LaneParams) {
        let mut sum = [0.0; LANES];
        for (w, &power) in self.w.iter().zip(self.power) {
            let (_, q) = nearest(self.scheme, w, &params);
            sum = from_fn(|l| sum[l] + power * ((w[l] - q[l]) * (w[l] - q[l])));
        }
        let (best, least) = (self.best, self.least);
        self.best.scale = from_fn(|l| if sum[l] < least[l] { params.scale[l] } else { best.scale[l] });
        self.best.zero_point = from_fn(|l| if sum[l] < least[l] { params.zero_point[l] } else { best.zero_point[l] });
        self.least = from_fn(|l| if sum[l] < least[l] { sum[l] } else { least[l] });
    }

    /// The best scale for the best codes: with `ŵ = s·v`, `s·Σ p·w·v / Σ p·v²`.
    #[inline(always)]
    fn refine(&mut self) {
        let LaneParams { scale, zero_point } = self.best;
        let (mut wq, mut qq) = ([0.0; LANES], [0.0; LANES]);
        for (w, &power) in self.w.iter().zip(self.power) {
            let (_, q) = nearest(self.scheme, w, &self.best);
            wq = from_fn(|l| wq[l] + power * w[l] * q[l]);
            qq = from_fn(|l| qq[l] + power * q[l] * q[l]);
        }
        self.consider(LaneParams {
            scale: from_fn(|l| if qq[l] > 0.0 { f16_scale(scale[l] * wq[l] / qq[l]) } else { scale[l] }),
            zero_point,
        });
    }
}
