//! Codes as a stream of bits in 32-bit words, as all formats of packed checkpoints here have them: low bits first, a code may
//! lie in two words, and the last word of a row is filled with zeros.

use rayon::prelude::*;

/// Bytes of a word.
const WORD: usize = 4;

/// Words of a row of so many codes.
pub fn words(columns: usize, bits: usize) -> usize {
    (columns * bits).div_ceil(8 * WORD)
}

/// Packs `[rows, columns]` codes of `bits` each as `[rows, words]`, little-endian.
pub fn pack(codes: &[u8], columns: usize, bits: usize) -> Vec<u8> {
    let row_bytes = words(columns, bits) * WORD;
    let mut packed = vec![0; codes.len() / columns * row_bytes];
    packed.par_chunks_exact_mut(row_bytes).zip(codes.par_chunks_exact(columns)).for_each(|(row, codes)| {
        for (index, &code) in codes.iter().enumerate() {
            let (byte, shift) = (index * bits / 8, index * bits % 8);
            let [low, high] = (u16::from(code) << shift).to_le_bytes();
            row[byte] |= low;
            if shift + bits > 8 {
                row[byte + 1] |= high;
            }
        }
    });
    packed
}

/// Inverse of [`pack`].
pub fn unpack(packed: &[u8], columns: usize, bits: usize) -> Vec<u8> {
    let row_bytes = words(columns, bits) * WORD;
    let mask = u16::MAX >> (16 - bits);
    let mut codes = vec![0; packed.len() / row_bytes * columns];
    codes.par_chunks_exact_mut(columns).zip(packed.par_chunks_exact(row_bytes)).for_each(|(codes, row)| {
        for (index, code) in codes.iter_mut().enumerate() {
            let (byte, shift) = (index * bits / 8, index * bits % 8);
            let high = row.get(byte + 1).copied().unwrap_or_default();
            *code = ((u16::from_le_bytes([row[byte], high]) >> shift) & mask) as u8;
        }
    });
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The third word of 32 3-bit codes, as auto-gptq's `pack` puts it together from codes 21 to 31.
    #[test]
    fn three_bits_lie_as_gptq_has_them() {
        let codes: Vec<u8> = (0..32u32).map(|i| (i * 5 % 8) as u8).collect();
        let packed = pack(&codes, 32, 3);
        let word = |i: usize| u32::from_le_bytes(packed[4 * i..][..4].try_into().unwrap());
        let code = |i: usize| u32::from(codes[i]);
        let first = (0..10).fold(0, |word, j| word | code(j) << (3 * j)) | code(10) << 30;
        let second = (code(10) >> 2 & 1) | (11..21).fold(0, |word, j| word | code(j) << (3 * (j - 11) + 1)) | code(21) << 31;
        let third = (code(21) >> 1 & 3) | (22..32).fold(0, |word, j| word | code(j) << (3 * (j - 22) + 2));
        assert_eq!([word(0), word(1), word(2)], [first, second, third]);
    }

    proptest! {
        #[test]
        fn codes_come_back(bits in 2usize..=8, columns in 1usize..70, seed in any::<u64>()) {
            let code = |i: u64| ((seed.wrapping_mul(i * 2 + 1) >> 13) as u8) >> (8 - bits);
            let codes: Vec<u8> = (0..3 * columns as u64).map(code).collect();
            let packed = pack(&codes, columns, bits);
            prop_assert_eq!(packed.len(), 3 * words(columns, bits) * 4);
            prop_assert_eq!(unpack(&packed, columns, bits), codes);
        }
    }
}
