//! Double quantization: the scales of a weight, quantized themselves (QLoRA, arXiv 2305.14314, section 3), as bitsandbytes does
//! with `compress_statistics`: less their mean, in blocks of 256, as 8-bit codes of its dynamic map.

use std::sync::LazyLock;

use super::NestedScales;

/// Scales that share one f32.
const BLOCK: usize = 256;

/// Bits of a dynamic code that may say its magnitude's power of ten.
const EXPONENTS: u32 = 7;

/// bitsandbytes' `create_dynamic_map(signed=True)` (arXiv 1511.04561): 0, 1 and, of both signs, for each power of ten from −6 to
/// 0 the middles of `1, 2, 4 … 64` equal pieces of 0.1 … 1, times that power. Ascending.
static DYNAMIC_MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut map = vec![0.0, 1.0];
    for exponent in 0..EXPONENTS {
        let pieces = 1u32 << exponent;
        let power = 10f64.powi(exponent as i32 + 1 - EXPONENTS as i32) as f32;
        for piece in 0..pieces {
            let mean = (boundary(piece, pieces) + boundary(piece + 1, pieces)) / 2.0;
            map.extend([power * mean, -power * mean]);
        }
    }
    map.sort_by(f32::total_cmp);
    map.try_into().expect("2 + 2·(1 + 2 + … + 64) levels")
});

/// Point `index` of `torch.linspace(0.1, 1, pieces + 1)`, which counts from the nearer end.
fn boundary(index: u32, pieces: u32) -> f32 {
    let step = (1.0 - 0.1f32) / pieces as f32;
    if 2 * index < pieces + 1 { step.mul_add(index as f32, 0.1) } else { (-step).mul_add((pieces - index) as f32, 1.0) }
}

impl NestedScales {
    /// Levels of the codes, by code.
    pub fn dynamic_map() -> &'static [f32; 256] {
        &DYNAMIC_MAP
    }

    /// Quantizes scales in the order of `[out_features, groups]`.
    ///
    /// The mean is that of exact arithmetic, rounded once; bitsandbytes adds up in f32, in an order that depends on the machine.
    pub fn of(scales: &[f32]) -> Self {
        let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
        Self::around((sum / scales.len().max(1) as f64) as f32, scales)
    }

    fn around(offset: f32, scales: &[f32]) -> Self {
        let (mut codes, mut absmax) = (Vec::with_capacity(scales.len()), Vec::with_capacity(scales.len().div_ceil(BLOCK)));
        for block in scales.chunks(BLOCK) {
            let max = block.iter().fold(0.0f32, |max, scale| max.max((scale - offset).abs()));
            // Scales that all equal their mean give 0·∞: code 0, and the offset is what they stand for.
            codes.extend(block.iter().map(|scale| nearest((scale - offset) * max.recip())));
            absmax.push(max);
        }
        NestedScales { codes, absmax, offset }
    }

    /// The scales that the codes stand for.
    pub fn scales(&self) -> Vec<f32> {
        let blocks = self.codes.chunks(BLOCK).zip(&self.absmax);
        blocks
            .flat_map(|(codes, max)| codes.iter().map(move |&code| DYNAMIC_MAP[usize::from(code)] * max + self.offset))
            .collect()
    }
}

/// Code of the level nearest to `x`; halfway between two, the even code; of NaN, 0: as in bitsandbytes' CUDA kernel.
fn nearest(x: f32) -> u8 {
    let upper = DYNAMIC_MAP.partition_point(|&level| level < x).clamp(1, 255);
    let middle = (DYNAMIC_MAP[upper - 1] + DYNAMIC_MAP[upper]) * 0.5;
    let above = x > middle || (x == middle && upper % 2 == 0);
    (upper - usize::from(!above)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_map_has_seven_decades_of_either_sign() {
        let map = NestedScales::dynamic_map();
        assert!(map.is_sorted());
        assert_eq!((map[127], map[255]), (0.0, 1.0));
        // One level in the first decade, 0.55e-6; 64 in the last, the first of them the middle of 0.1 … 0.1140625.
        assert!((map[128] - 0.55e-6).abs() < 1e-12 && (map[191] - 0.107_031_25).abs() < 1e-8);
        assert!((0..127).all(|code| map[code] == -map[254 - code]));
    }

    #[test]
    fn halfway_goes_to_the_even_code() {
        let map = NestedScales::dynamic_map();
        for code in 0..255 {
            let middle = (map[code] + map[code + 1]) * 0.5;
            assert_eq!(usize::from(nearest(middle)), code.next_multiple_of(2), "between {code} and the next");
            assert_eq!(usize::from(nearest(map[code])), code);
        }
        assert_eq!((nearest(2.0), nearest(-2.0), nearest(f32::NAN)), (255, 0, 0));
    }

    #[test]
    fn equal_scales_come_back_as_they_are() {
        assert_eq!(NestedScales::of(&[0.375; 300]).scales(), [0.375; 300]);
        assert!(NestedScales::of(&[]).scales().is_empty());
    }

    proptest! {
        /// Half the widest gap between levels, 0.0140625 of the block's largest deviation, and the mean's rounding.
        #[test]
        fn scales_come_back_within_half_a_gap(scales in prop::collection::vec(0.0f32..3.0, 1..700)) {
            let nested = NestedScales::of(&scales);
            for (index, (scale, back)) in scales.iter().zip(nested.scales()).enumerate() {
                let bound = nested.absmax[index / BLOCK] * 0.007_04 + 1e-6;
                prop_assert!((scale - back).abs() <= bound, "{scale} {back} {bound}");
            }
        }
    }
}
