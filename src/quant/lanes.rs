//! The scale rules for many groups at once, one group a vector lane: every sum runs in the same order as in `scale.rs`, so
//! that results are equal bit for bit, and neither sums across lanes nor scalar work a group are left.

use std::array::from_fn;

use multiversion::multiversion;

use super::codebook::{self, nearest_fp4, nearest_nf4};
use super::scale::{
    asymmetric_params, asymmetric_shrinks, f16_scale, half_range, level, qmax, symmetric_divisors, symmetric_scale,
};
use super::{Codebook, Format, ScaleRule, Scheme};

/// Groups side by side: one AVX-512 register, two of AVX2.
pub(super) const LANES: usize = 16;
/// One number of each group.
pub(super) type Lanes = [f32; LANES];

/// Scale and zero point of each group.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneParams {
    pub scale: Lanes,
    pub zero_point: Lanes,
}

/// As [`Scheme::encode`] and [`Scheme::decode`] of its result, for 16 rows.
#[inline(always)]
pub(in crate::quant) fn nearest(scheme: &Scheme, w: &Lanes, params: &LaneParams) -> ([u8; LANES], Lanes) {
    /// Added to a whole number below `2^23`, leaves it in the low bits of the sum.
    const TWO_TO_23: f32 = 8_388_608.0;
    let LaneParams { scale, zero_point } = params;
    match scheme.format {
        Format::Int { bits, .. } => {
            let qmax = qmax(bits);
            let level: Lanes = from_fn(|lane| level(w[lane], scale[lane].recip(), zero_point[lane], qmax));
            let code = from_fn(|lane| (level[lane] + zero_point[lane] + TWO_TO_23).to_bits() as u8);
            (code, from_fn(|lane| scale[lane] * level[lane]))
        }
        Format::Codebook(codebook) => {
            let inverse: Lanes = from_fn(|lane| codebook::inverse(scale[lane]));
            let code: [u8; LANES] = match codebook {
                Codebook::Nf4 => from_fn(|lane| nearest_nf4(w[lane] * inverse[lane])),
                Codebook::Fp4 => from_fn(|lane| nearest_fp4(w[lane] * inverse[lane])),
            };
            (code, from_fn(|lane| scale[lane] * codebook.levels()[usize::from(code[lane] & 0xF)]))
        }
    }
}

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> Lanes {
    let mut lanes = [0.0; LANES];
    for (l, lane) in lanes.iter_mut().enumerate() {
        *lane = f(l);
    }
    lanes
}

/// As `scale::fit_symmetric`; `tile[j][l]` is weight `j` of group `l`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub(super) fn fit_symmetric(tile: &[Lanes], bits: u8, rule: ScaleRule) -> LaneParams {
    let half_range = half_range(bits);
    let mut max = [0.0f32; LANES];
    for w in tile {
        max = lanes(|l| if w[l].abs() > max[l].abs() { w[l] } else { max[l] });
    }
    let zero_point = [half_range; LANES];
    let on = |divisor: f32| LaneParams { scale: lanes(|l| symmetric_scale(max[l], divisor)), zero_point };
    let abs_max = || LaneParams { scale: lanes(|l| symmetric_scale(max[l], (half_range - 0.5).copysign(max[l]))), zero_point };
    let params = match rule {
        ScaleRule::AbsMax => abs_max(),
        ScaleRule::SignedMax => on(-half_range),
        ScaleRule::LeastSquares => {
            let mut search = Search::start(tile, qmax(bits), on(-half_range));
            search.consider(abs_max());
            for divisor in symmetric_divisors(bits) {
                search.consider(on(divisor * half_range));
            }
            search.finish()
        }
        ScaleRule::LeastSquaresPositive => {
            let positive =
                |divisor: f32| LaneParams { scale: lanes(|l| symmetric_scale(max[l], divisor.copysign(max[l]))), zero_point };
            let mut search = Search::start(tile, qmax(bits), positive(half_range));
            search.consider(abs_max());
            for divisor in symmetric_divisors(bits) {
                search.consider(positive(divisor * half_range));
            }
            search.finish()
        }
    };
    LaneParams { scale: lanes(|l| if max[l] == 0.0 { 1.0 } else { params.scale[l] }), zero_point }
}

/// As `scale::fit_asymmetric`; `tile[j][l]` is weight `j` of group `l`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub(super) fn fit_asymmetric(tile: &[Lanes], bits: u8, rule: ScaleRule) -> LaneParams {
    let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
    for w in tile {
        low = lanes(|l| if w[l] < low[l] { w[l] } else { low[l] });
        high = lanes(|l| if w[l] > high[l] { w[l] } else { high[l] });
    }
    let over = |a: f32, b: f32| {
        let of = |l: usize| asymmetric_params(low[l] * a, high[l] * b, qmax(bits));
        LaneParams { scale: lanes(|l| of(l).0), zero_point: lanes(|l| of(l).1) }
    };
    let params = match rule {
        ScaleRule::AbsMax | ScaleRule::SignedMax => over(1.0, 1.0),
        ScaleRule::LeastSquares | ScaleRule::LeastSquaresPositive => {
            let mut search = Search::start(tile, qmax(bits), over(1.0, 1.0));
            for (a, b) in asymmetric_shrinks(bits) {
                search.consider(over(a, b));
            }
            search.finish()
        }
    };
    LaneParams {
        scale: lanes(|l| if low[l] == high[l] { 1.0 } else { params.scale[l] }),
        zero_point: lanes(|l| if low[l] == high[l] { 0.0 } else { params.zero_point[l] }),
    }
}

/// As `codebook::fit`; `tile[j][l]` is weight `j` of group `l`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub(super) fn fit_codebook(tile: &[Lanes]) -> LaneParams {
    let mut absmax = [0.0f32; LANES];
    for w in tile {
        absmax = lanes(|l| if w[l].abs() > absmax[l] { w[l].abs() } else { absmax[l] });
    }
    LaneParams { scale: absmax, zero_point: [0.0; LANES] }
}

/// As `scale::least_squares`.
struct Search<'a> {
    tile: &'a [Lanes],
    qmax: f32,
    best: LaneParams,
    least: Lanes,
}

impl<'a> Search<'a> {
    #[inline(always)]
    fn start(tile: &'a [Lanes], qmax: f32, first: LaneParams) -> Self {
        Search { tile, qmax, best: first, least: squared_error(tile, qmax, first) }
    }

    #[inline(always)]
    fn consider(&mut self, params: LaneParams) {
        let error = squared_error(self.tile, self.qmax, params);
        let (best, least) = (self.best, self.least);
        self.best.scale = lanes(|l| if error[l] < least[l] { params.scale[l] } else { best.scale[l] });
        self.best.zero_point = lanes(|l| if error[l] < least[l] { params.zero_point[l] } else { best.zero_point[l] });
        self.least = lanes(|l| if error[l] < least[l] { error[l] } else { least[l] });
    }

    #[inline(always)]
    fn finish(mut self) -> LaneParams {
        let LaneParams { scale, zero_point } = self.best;
        let inverse = lanes(|l| scale[l].recip());
        let (mut wq, mut qq) = ([0.0; LANES], [0.0; LANES]);
        for w in self.tile {
            let q = lanes(|l| level(w[l], inverse[l], zero_point[l], self.qmax));
            wq = lanes(|l| wq[l] + w[l] * q[l]);
            qq = lanes(|l| qq[l] + q[l] * q[l]);
        }
        self.consider(LaneParams { scale: lanes(|l| f16_scale(wq[l] / qq[l])), zero_point });
        self.best
    }
}

#[inline(always)]
fn squared_error(tile: &[Lanes], qmax: f32, LaneParams { scale, zero_point }: LaneParams) -> Lanes {
    let inverse = lanes(|l| scale[l].recip());
    let mut sum = [0.0; LANES];
    for w in tile {
        sum = lanes(|l| {
            let error = w[l] - scale[l] * level(w[l], inverse[l], zero_point[l], qmax);
            sum[l] + error * error
        });
    }
    sum
}
