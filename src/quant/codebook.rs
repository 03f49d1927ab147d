//! The 4-bit codebooks of bitsandbytes: levels, nearest code, scale.

use super::scale::f16_scale;
use super::{Codebook, Params};

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

impl Codebook {
    /// Weight over scale, by code.
    pub fn levels(self) -> &'static [f32; 16] {
        match self {
            Codebook::Nf4 => &NF4,
            Codebook::Fp4 => &FP4,
        }
    }

    /// The code of the nearest level.
    pub fn nearest(self, level: f32) -> u8 {
        let distance = |code: u8| (self.levels()[usize::from(code)] - level).abs();
        (1..16).fold(0, |best, code| if distance(code) < distance(best) { code } else { best })
    }
}

/// The largest magnitude of a group; 1 for a group of zeros.
pub(super) fn fit(group: &[f32]) -> Params {
    let absmax = group.iter().fold(0.0f32, |max, w| max.max(w.abs()));
    Params { scale: if absmax == 0.0 { 1.0 } else { f16_scale(absmax) }, zero_point: 0 }
}
