//! The 4-bit codebooks of bitsandbytes: levels, the code of a weight, scale. Codes are those of its CUDA kernels (`dQuantizeNF4`,
//! `dQuantizeFP4`), thresholds and ties included; its other backends compute the thresholds anew and treat ties otherwise.

use super::Params;

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_3,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -0.005_208_333_3,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// Where one level of NF4 gives way to the next: halfway, as bitsandbytes writes them. A tie goes to the lower level.
const NF4_THRESHOLDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_42,
    -0.234_607_4,
    -0.137_911_74,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_76,
    0.389_312_54,
    0.501_663_45,
    0.642_786_9,
    0.861_478_45,
];

/// The same for magnitudes in FP4; bitsandbytes rounds them to seven digits or fewer. A tie goes to the smaller magnitude.
const FP4_THRESHOLDS: [f32; 7] = [0.002_604_17, 0.085_937_5, 0.208_333_33, 0.291_666_66, 0.416_666_7, 0.583_333, 0.833_333_3];

/// Codes of FP4's magnitudes from the least to the greatest, four bits each: 0, 1, 6, 7, 4, 5, 2, 3.
const FP4_CODES: u32 = 0x3254_7610;

/// The least absmax that bitsandbytes divides by; it makes zeros of a block of zeros.
const ABSMAX_MIN: f32 = 1e-38;

/// Levels of a 4-bit codebook, from −1 to 1, by code; bitsandbytes' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codebook {
    /// Quantiles of the normal distribution (QLoRA, arXiv 2305.14314, appendix E).
    Nf4,
    /// Sign, two bits of exponent, one of mantissa, over 12.
    Fp4,
}

impl Codebook {
    /// `nf4`, `fp4`
    pub fn name(self) -> &'static str {
        match self {
            Codebook::Nf4 => "nf4",
            Codebook::Fp4 => "fp4",
        }
    }

    /// Weight over scale, by code.
    pub fn levels(self) -> &'static [f32; 16] {
        match self {
            Codebook::Nf4 => &NF4,
            Codebook::Fp4 => &FP4,
        }
    }

    /// Code of the level nearest to `x`, a weight over its scale.
    pub fn nearest(self, x: f32) -> u8 {
        match self {
            Codebook::Nf4 => nearest_nf4(x),
            Codebook::Fp4 => nearest_fp4(x),
        }
    }
}

/// Without a branch, so that many weights fit one vector register: levels ascend with the codes.
#[inline(always)]
pub(super) fn nearest_nf4(x: f32) -> u8 {
    NF4_THRESHOLDS.iter().fold(0, |code, &threshold| code + u32::from(x > threshold)) as u8
}

/// Without a branch, as NF4; weights below zero that round to it get the code of −0.
#[inline(always)]
pub(super) fn nearest_fp4(x: f32) -> u8 {
    let above = FP4_THRESHOLDS.iter().fold(0, |above, &threshold| above + u32::from(x.abs() > threshold));
    ((FP4_CODES >> (4 * above)) & 0xF | u32::from(x < 0.0) << 3) as u8
}

/// What weights are multiplied by before they are compared with levels.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    // A negative scale turns the codebook round; only the magnitude must not be too small.
    scale.abs().max(ABSMAX_MIN).copysign(scale).recip()
}

/// The largest magnitude of a group.
pub(super) fn fit(group: &[f32]) -> Params {
    Params { scale: group.iter().fold(0.0, |max, w| max.max(w.abs())), zero_point: 0 }
}
