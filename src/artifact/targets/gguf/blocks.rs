//! Rows of codes as ggml's blocks of 32.
//!
//! Source: `block_q4_0`, `block_q5_0` and `block_q8_0` of ggml's `ggml-common.h`; `dequantize_row_*` of `ggml-quants.c`.

use half::f16;
use rayon::prelude::*;

use super::file::{BLOCK, TensorType};
use crate::quant::{Codes, Format, QuantizedTensor, Scheme};

const HALF: usize = BLOCK / 2;
/// Bytes of a scale.
const SCALE: usize = 2;

/// The type whose grid holds integers of so many bits; `None` of none.
pub fn kind_of(bits: u8) -> Option<TensorType> {
    match bits {
        2..=4 => Some(TensorType::Q4),
        5 => Some(TensorType::Q5),
        6..=8 => Some(TensorType::Q8),
        _ => None,
    }
}

/// What is taken from a code of the type before it is multiplied.
fn middle(kind: TensorType) -> u8 {
    match kind {
        TensorType::Q4 => 8,
        TensorType::Q5 => 16,
        _ => 0,
    }
}

/// The blocks of a symmetric matrix, row by row. Where a group has several blocks, each has its scale.
pub fn pack(tensor: &QuantizedTensor, kind: TensorType) -> Vec<u8> {
    let (columns, groups) = (tensor.in_features, tensor.groups());
    let group_size = tensor.scheme.granularity.group_size(columns);
    // From our zero point to the type's, whatever the width is.
    let shift = middle(kind).wrapping_sub(tensor.scheme.format.symmetric_zero_point());
    let (row_bytes, block_bytes) = (kind.row_bytes(columns), kind.row_bytes(BLOCK));
    let mut packed = vec![0; tensor.out_features * row_bytes];
    let rows = tensor.codes.par_chunks_exact(columns).zip(tensor.scales.par_chunks_exact(groups));
    packed.par_chunks_exact_mut(row_bytes).zip(rows).for_each(|(row, (codes, scales))| {
        for (index, (block, codes)) in row.chunks_exact_mut(block_bytes).zip(codes.chunks_exact(BLOCK)).enumerate() {
            let (scale, cells) = block.split_at_mut(SCALE);
            scale.copy_from_slice(&f16::from_f32(scales[index * BLOCK / group_size]).to_le_bytes());
            let shifted: [u8; BLOCK] = std::array::from_fn(|i| codes[i].wrapping_add(shift));
            put(cells, &shifted, kind);
        }
    });
    packed
}

fn put(cells: &mut [u8], codes: &[u8; BLOCK], kind: TensorType) {
    let (first, second) = codes.split_at(HALF);
    let nibbles = |cells: &mut [u8]| {
        cells.iter_mut().zip(first.iter().zip(second)).for_each(|(cell, (low, high))| *cell = low & 15 | high << 4);
    };
    match kind {
        TensorType::Q4 => nibbles(cells),
        TensorType::Q5 => {
            let fifth = codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4 & 1) << i);
            let (high, low) = cells.split_at_mut(size_of::<u32>());
            high.copy_from_slice(&fifth.to_le_bytes());
            nibbles(low);
        }
        _ => cells.copy_from_slice(codes),
    }
}

/// Inverse of [`pack`]; `None` where a code is none of the scheme's, or the blocks of a group have several scales.
pub fn unpack(packed: &[u8], scheme: Scheme, [rows, columns]: [usize; 2], kind: TensorType) -> Option<QuantizedTensor> {
    let Format::Int { bits, symmetric: true } = scheme.format else { return None };
    let group_size = scheme.granularity.group_size(columns);
    let shift = scheme.format.symmetric_zero_point().wrapping_sub(middle(kind));
    let (mut codes, mut scales) = (Vec::with_capacity(rows * columns), Vec::new());
    for (index, block) in packed.chunks_exact(kind.row_bytes(BLOCK)).enumerate() {
        let (scale, cells) = block.split_at(SCALE);
        let scale = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
        match (index * BLOCK % columns).is_multiple_of(group_size) {
            true => scales.push(scale),
            false if scales.last() == Some(&scale) => {}
            false => return None,
        }
        codes.extend(taken(cells, kind).map(|code| code.wrapping_add(shift)));
    }
    let fits = codes.iter().all(|&code| u16::from(code) < 1 << bits);
    fits.then(|| QuantizedTensor::new(scheme, rows, columns, Codes { codes, scales, zero_points: None }))
}

fn taken(cells: &[u8], kind: TensorType) -> [u8; BLOCK] {
    let nibble = |cells: &[u8], i: usize| if i < HALF { cells[i] & 15 } else { cells[i - HALF] >> 4 };
    match kind {
        TensorType::Q4 => std::array::from_fn(|i| nibble(cells, i)),
        TensorType::Q5 => {
            let (high, low) = cells.split_at(size_of::<u32>());
            std::array::from_fn(|i| nibble(low, i) | (high[i / 8] >> (i % 8) & 1) << 4)
        }
        _ => std::array::from_fn(|i| cells[i]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Granularity, ScaleRule, ScaleStorage};

    fn tensor(bits: u8, group_size: usize) -> QuantizedTensor {
        let format = Format::Int { bits, symmetric: true };
        let scheme = Scheme {
            format,
            granularity: Granularity::PerGroup(group_size),
            scale_rule: ScaleRule::AbsMax,
            scale_storage: ScaleStorage::F16,
        };
        let codes = (0..2 * 128u32).map(|i| (i * 37 % (1 << bits)) as u8).collect();
        let scales = (0..2 * 128 / group_size).map(|i| if i % 2 == 0 { 0.25 } else { -1.5 } * (i + 1) as f32).collect();
        QuantizedTensor::new(scheme, 2, 128, Codes { codes, scales, zero_points: None })
    }

    /// As `dequantize_row_q4_0`, `_q5_0` and `_q8_0` compute it, written out.
    fn dequantized(packed: &[u8], kind: TensorType) -> Vec<f32> {
        let block = |block: &[u8]| -> Vec<f32> {
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            let code = |i: usize| match kind {
                TensorType::Q4 if i < 16 => i32::from(block[2 + i] & 0xf) - 8,
                TensorType::Q4 => i32::from(block[2 + i - 16] >> 4) - 8,
                TensorType::Q5 => {
                    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]) >> i & 1;
                    let low = if i < 16 { block[6 + i] & 0xf } else { block[6 + i - 16] >> 4 };
                    (i32::from(low) | (high as i32) << 4) - 16
                }
                _ => i32::from(block[2 + i] as i8),
            };
            (0..32).map(|i| scale * code(i) as f32).collect()
        };
        packed.chunks_exact(kind.row_bytes(BLOCK)).flat_map(block).collect()
    }

    #[test]
    fn blocks_are_dequantized_to_the_same_weights_and_read_back() {
        for bits in [2, 3, 4, 5, 6, 8] {
            for group_size in [32, 64, 128] {
                let (tensor, kind) = (tensor(bits, group_size), kind_of(bits).unwrap());
                let packed = pack(&tensor, kind);
                assert_eq!(dequantized(&packed, kind), tensor.dequantize().into_raw_vec_and_offset().0, "{bits} bits");
                assert_eq!(unpack(&packed, tensor.scheme, [2, 128], kind).unwrap(), tensor);
            }
        }
    }

    #[test]
    fn codes_of_more_bits_are_refused() {
        let wide = tensor(4, 32);
        let narrow = Scheme { format: Format::Int { bits: 3, symmetric: true }, ..wide.scheme };
        assert_eq!(unpack(&pack(&wide, TensorType::Q4), narrow, [2, 128], TensorType::Q4), None);
    }
}
