//! Conversions between the element types that weights are stored in, at the speed of memory.
//!
//! Bytes are little-endian and may lie at any address. No value changes in silence: NaN and infinity are refused, and so
//! is a value that the wanted type cannot hold; within range, rounding is to nearest, ties to even. Bit tricks are
//! integer arithmetic without branches, so that the compiler turns each loop into vector code; `half`'s conversions are
//! the reference in the tests.

use multiversion::multiversion;

use super::DType;

/// Elements converted at a time through the stack: 4 KiB of f32, which stay in the first-level cache.
const CHUNK: usize = 1024;
const SIGN: u32 = 0x8000_0000;
/// Bits of the largest finite f32; greater magnitudes are infinity and NaN.
const F32_MAX_BITS: u32 = 0x7f7f_ffff;
/// Bits of 65504, the largest finite f16.
const F16_MAX_BITS: u32 = 0x477f_e000;
/// Bits of the largest f32 that rounds to a finite bf16.
const BF16_MAX_BITS: u32 = 0x7f7f_7fff;

/// Why an element cannot be converted; the caller knows the weight's name.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    #[error("element {index} is {value}, expected finite numbers; the checkpoint is damaged or its training diverged")]
    NotFinite { index: usize, value: f32 },
    #[error("element {index} is {value}, beyond what {to} holds (±{limit}); choose f32 for this model's activations")]
    OutOfRange { index: usize, value: f32, to: DType, limit: f32 },
}

impl ConvertError {
    /// The weights are at fault, whichever way they cannot be converted.
    pub fn fault(&self) -> crate::fault::Fault {
        crate::fault::Fault::BadInput
    }
}

/// Writes the elements of `bytes`, of type `from` (F32, F16 or BF16), to `out` as f32; exact.
///
/// # Panics
/// Where `bytes` and `out` differ in length or `from` is not a floating type, which is a bug in the caller.
pub fn decode(from: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), ConvertError> {
    assert_eq!(bytes.len(), from.bytes_of(out.len()), "as many elements as room for them");
    let peak = match from {
        DType::F32 => f32_to_f32(bytes, out),
        DType::F16 => f16_to_f32(bytes, out),
        DType::BF16 => bf16_to_f32(bytes, out),
        other => unreachable!("{other} is not a type that weights are stored in"),
    };
    if peak > F32_MAX_BITS { Err(first_beyond(out, F32_MAX_BITS, DType::F32)) } else { Ok(()) }
}

/// Writes `values` to `out` as elements of type `to` (F32, F16 or BF16), rounded to nearest, ties to even.
///
/// # Panics
/// Where `values` and `out` differ in length or `to` is not a floating type, which is a bug in the caller.
pub fn encode(values: &[f32], to: DType, out: &mut [u8]) -> Result<(), ConvertError> {
    assert_eq!(out.len(), to.bytes_of(values.len()), "as many elements as room for them");
    let (peak, limit) = match to {
        DType::F32 => (f32_to_bytes(values, out), F32_MAX_BITS),
        DType::F16 => (f32_to_f16(values, out), F16_MAX_BITS),
        DType::BF16 => (f32_to_bf16(values, out), BF16_MAX_BITS),
        other => unreachable!("{other} is not a type that weights are stored in"),
    };
    if peak > limit { Err(first_beyond(values, limit, to)) } else { Ok(()) }
}

/// Writes the elements of `bytes`, of type `from`, to `out` as elements of type `to`; where the types are equal the bytes
/// are copied and checked to be finite.
///
/// # Panics
/// As [`decode`] and [`encode`].
pub fn convert(from: DType, bytes: &[u8], to: DType, out: &mut [u8]) -> Result<(), ConvertError> {
    let (from_bytes, to_bytes) = (from.bytes_of(1), to.bytes_of(1));
    assert_eq!(bytes.len() / from_bytes, out.len() / to_bytes, "as many elements as room for them");
    let mut values = [0.0; CHUNK];
    let chunks = bytes.chunks(CHUNK * from_bytes).zip(out.chunks_mut(CHUNK * to_bytes));
    for (i, (source, target)) in chunks.enumerate() {
        let values = &mut values[..source.len() / from_bytes];
        decode(from, source, values).and_then(|()| encode(values, to, target)).map_err(|e| e.shifted(i * CHUNK))?;
    }
    Ok(())
}

/// Whether two weights, each of a type (F32, F16 or BF16) and its bytes, hold the same numbers; NaN is the same as nothing.
pub fn same_values(left: (DType, &[u8]), right: (DType, &[u8])) -> bool {
    let chunks = |(dtype, bytes): (DType, &'_ [u8])| (bytes.len() / dtype.bytes_of(1), dtype.bytes_of(CHUNK));
    let ((left_len, left_chunk), (right_len, right_chunk)) = (chunks(left), chunks(right));
    let (mut ours, mut theirs) = ([0.0; CHUNK], [0.0; CHUNK]);
    let mut same = |left_bytes: &[u8], right_bytes: &[u8]| {
        let count = left_bytes.len() / left.0.bytes_of(1);
        let (ours, theirs) = (&mut ours[..count], &mut theirs[..count]);
        decode(left.0, left_bytes, ours).is_ok() && decode(right.0, right_bytes, theirs).is_ok() && ours == theirs
    };
    left_len == right_len && left.1.chunks(left_chunk).zip(right.1.chunks(right_chunk)).all(|(left, right)| same(left, right))
}

impl ConvertError {
    /// The same error for a chunk that begins at element `by`.
    pub fn shifted(mut self, by: usize) -> Self {
        match &mut self {
            ConvertError::NotFinite { index, .. } | ConvertError::OutOfRange { index, .. } => *index += by,
        }
        self
    }
}

/// Names the first value whose magnitude has greater bits than `limit`, once the fast loop has seen that there is one.
#[cold]
fn first_beyond(values: &[f32], limit: u32, to: DType) -> ConvertError {
    let index = values.iter().position(|v| magnitude(*v) > limit).expect("the peak of these values was above the limit");
    let value = values[index];
    if value.is_finite() {
        ConvertError::OutOfRange { index, value, to, limit: f32::from_bits(limit) }
    } else {
        ConvertError::NotFinite { index, value }
    }
}

/// Bits of |value|; as integers they are in the order of the magnitudes, infinity and NaN last.
fn magnitude(value: f32) -> u32 {
    value.to_bits() & !SIGN
}

// Each loop returns the greatest magnitude it saw, so that one comparison at its end tells whether all values are good.

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn f32_to_f32(bytes: &[u8], out: &mut [f32]) -> u32 {
    let mut peak = 0;
    for (source, target) in bytes.as_chunks().0.iter().zip(out) {
        *target = f32::from_le_bytes(*source);
        peak = peak.max(magnitude(*target));
    }
    peak
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) -> u32 {
    let mut peak = 0;
    for (source, target) in bytes.as_chunks().0.iter().zip(out) {
        *target = f32::from_bits(u32::from(u16::from_le_bytes(*source)) << 16);
        peak = peak.max(magnitude(*target));
    }
    peak
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn f16_to_f32(bytes: &[u8], out: &mut [f32]) -> u32 {
    let mut peak = 0;
    for (source, target) in bytes.as_chunks().0.iter().zip(out) {
        *target = widen(u16::from_le_bytes(*source));
        peak = peak.max(magnitude(*target));
    }
    peak
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn f32_to_bytes(values: &[f32], out: &mut [u8]) -> u32 {
    let mut peak = 0;
    for (source, target) in values.iter().zip(out.as_chunks_mut().0) {
        *target = source.to_le_bytes();
        peak = peak.max(magnitude(*source));
    }
    peak
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn f32_to_f16(values: &[f32], out: &mut [u8]) -> u32 {
    let mut peak = 0;
    for (source, target) in values.iter().zip(out.as_chunks_mut().0) {
        *target = narrow(*source).to_le_bytes();
        peak = peak.max(magnitude(*source));
    }
    peak
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn f32_to_bf16(values: &[f32], out: &mut [u8]) -> u32 {
    let mut peak = 0;
    for (source, target) in values.iter().zip(out.as_chunks_mut().0) {
        let bits = source.to_bits();
        // Adding just under half of the last kept bit rounds to nearest; the kept bit itself decides ties.
        *target = ((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes();
        peak = peak.max(magnitude(*source));
    }
    peak
}

/// f16 bits to f32: the 10-bit fraction moves up by 13 and the exponent's bias grows from 15 to 127.
#[inline(always)]
fn widen(half: u16) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    let half = u32::from(half);
    let shifted = (half & 0x7fff) << 13;
    let normal = shifted + ((127 - 15) << 23);
    // Without the hidden bit: let 2⁻¹⁴ stand for it, and take it away again.
    let subnormal = (f32::from_bits(shifted + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let infinite_or_nan = normal + ((127 - 15) << 23);
    let exponent = shifted & EXPONENT;
    let bits = if exponent == 0 { subnormal } else { normal };
    let bits = if exponent == EXPONENT { infinite_or_nan } else { bits };
    f32::from_bits(bits | (half & 0x8000) << 16)
}

/// f32 to f16 bits, rounded to nearest, ties to even; for magnitudes up to 65504.
#[inline(always)]
fn narrow(value: f32) -> u16 {
    const SMALLEST_NORMAL: u32 = 113 << 23; // 2⁻¹⁴
    let magnitude = magnitude(value);
    // Adding just under half of the last kept bit rounds to nearest; the kept bit itself decides ties.
    let normal = magnitude.wrapping_sub((127 - 15) << 23).wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
    // The last bit of 0.5 is worth 2⁻²⁴, as that of an f16 subnormal, so the addition rounds where f16 does.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let half = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
    (half | (value.to_bits() & SIGN) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Little-endian bytes of all 65536 patterns whose value is finite, and of those alone that are not.
    fn patterns(is_finite: impl Fn(u16) -> bool) -> (Vec<u16>, Vec<u16>) {
        (0..=u16::MAX).partition(|bits| is_finite(*bits))
    }

    fn le(bits: &[u16]) -> Vec<u8> {
        bits.iter().flat_map(|b| b.to_le_bytes()).collect()
    }

    fn decoded(from: DType, bytes: &[u8]) -> Result<Vec<f32>, ConvertError> {
        let mut out = vec![0.0; bytes.len() / from.bytes_of(1)];
        decode(from, bytes, &mut out).map(|()| out)
    }

    fn encoded(values: &[f32], to: DType) -> Result<Vec<u8>, ConvertError> {
        let mut out = vec![0; to.bytes_of(values.len())];
        encode(values, to, &mut out).map(|()| out)
    }

    fn bits_of(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    /// The values of every finite half-width pattern, their neighbours, and the midpoints between them with theirs: all
    /// places where rounding to that type turns.
    fn rounding_points(value_of: impl Fn(u16) -> f32, top: u16) -> Vec<f32> {
        let magnitudes: Vec<f32> = (0..=top).map(value_of).collect();
        let midpoints = magnitudes.windows(2).map(|pair| ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32);
        let points = magnitudes.iter().copied().chain(midpoints).flat_map(|v| [v.next_down().abs(), v, v.next_up()]);
        points.flat_map(|v| [v, -v]).collect()
    }

    #[test]
    fn every_f16_and_bf16_decodes_as_half_does() {
        let (finite, rest) = patterns(|bits| f16::from_bits(bits).is_finite());
        let expected: Vec<f32> = finite.iter().map(|b| f16::from_bits(*b).to_f32()).collect();
        assert_eq!(bits_of(&decoded(DType::F16, &le(&finite)).expect("finite")), bits_of(&expected));
        assert!(rest.iter().all(|b| matches!(decoded(DType::F16, &le(&[*b])), Err(ConvertError::NotFinite { index: 0, .. }))));

        let (finite, rest) = patterns(|bits| bf16::from_bits(bits).is_finite());
        let expected: Vec<f32> = finite.iter().map(|b| bf16::from_bits(*b).to_f32()).collect();
        assert_eq!(bits_of(&decoded(DType::BF16, &le(&finite)).expect("finite")), bits_of(&expected));
        assert!(rest.iter().all(|b| matches!(decoded(DType::BF16, &le(&[*b])), Err(ConvertError::NotFinite { index: 0, .. }))));
    }

    #[test]
    fn f16_infinity_and_nan_keep_their_kind() {
        for bits in [0x7c00, 0xfc00, 0x7e01, 0xfe01] {
            let (got, expected) = (widen(bits), f16::from_bits(bits).to_f32());
            assert_eq!((got.is_nan(), got.is_sign_negative()), (expected.is_nan(), expected.is_sign_negative()), "{bits:#x}");
        }
    }

    #[test]
    fn rounding_to_f16_turns_where_half_turns() {
        let mut points = rounding_points(|bits| f16::from_bits(bits).to_f32(), 0x7bff);
        points.retain(|v| v.abs() <= 65504.0);
        let expected: Vec<u16> = points.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
        assert_eq!(encoded(&points, DType::F16), Ok(le(&expected)));
    }

    #[test]
    fn rounding_to_bf16_turns_where_half_turns() {
        let mut points = rounding_points(|bits| bf16::from_bits(bits).to_f32(), 0x7f7f);
        points.retain(|v| magnitude(*v) <= BF16_MAX_BITS);
        let expected: Vec<u16> = points.iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
        assert_eq!(encoded(&points, DType::BF16), Ok(le(&expected)));
        assert!(bf16::from_f32(f32::from_bits(BF16_MAX_BITS)).is_finite());
        assert!(bf16::from_f32(f32::from_bits(BF16_MAX_BITS + 1)).is_infinite());
    }

    #[test]
    fn every_bf16_converts_to_f16_as_half_does_or_is_refused_by_index() {
        for bits in 0..=u16::MAX {
            let value = bf16::from_bits(bits).to_f32();
            let mut source = vec![bf16::ONE.to_bits(); CHUNK + 3];
            source[CHUNK + 1] = bits;
            let mut out = vec![0; 2 * source.len()];
            let got = convert(DType::BF16, &le(&source), DType::F16, &mut out);
            match got {
                Ok(()) => {
                    let half = u16::from_le_bytes([out[2 * CHUNK + 2], out[2 * CHUNK + 3]]);
                    assert_eq!(half, f16::from_f32(value).to_bits(), "{value}");
                    assert!(value.abs() <= 65504.0);
                }
                Err(ConvertError::OutOfRange { index, value: refused, to, limit }) => {
                    assert_eq!((index, refused, to, limit), (CHUNK + 1, value, DType::F16, 65504.0));
                    assert!(value.is_finite() && value.abs() > 65504.0);
                }
                Err(ConvertError::NotFinite { index, .. }) => {
                    assert_eq!(index, CHUNK + 1);
                    assert!(!value.is_finite());
                }
            }
        }
    }

    #[test]
    fn unaligned_bytes_and_every_tail_length_convert() {
        let values: Vec<f32> = (0..70).map(|i| (i as f32 - 35.0) * 0.37).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let whole = encoded(&values, dtype).expect("in range");
            for take in 0..values.len() {
                let mut shifted = vec![0xAA];
                shifted.extend_from_slice(&whole[..dtype.bytes_of(take)]);
                let got = decoded(dtype, &shifted[1..]).expect("finite");
                assert_eq!(encoded(&got, dtype).expect("in range"), shifted[1..], "{dtype}, {take} elements");
            }
        }
    }

    #[test]
    fn the_first_bad_element_is_named() {
        let mut values = vec![1.0f32; 3000];
        (values[2900], values[2999]) = (f32::INFINITY, f32::NAN);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let error = decode(DType::F32, &bytes, &mut [0.0; 3000]).expect_err("infinite");
        assert_eq!(
            error.to_string(),
            "element 2900 is inf, expected finite numbers; the checkpoint is damaged or its training diverged"
        );
        let error = encoded(&[0.5, -65505.0], DType::F16).expect_err("too large");
        assert_eq!(
            error.to_string(),
            "element 1 is -65505, beyond what f16 holds (±65504); choose f32 for this model's activations"
        );
    }

    #[test]
    fn values_are_compared_across_types() {
        let values: Vec<f32> = (0..3 * CHUNK + 7).map(|i| bf16::from_f32((i as f32).sin()).to_f32()).collect();
        let stored = |dtype: DType, values: &[f32]| {
            let mut bytes = vec![0; dtype.bytes_of(values.len())];
            encode(values, dtype, &mut bytes).expect("small numbers");
            bytes
        };
        let (wide, narrow) = (stored(DType::F32, &values), stored(DType::BF16, &values));
        assert!(same_values((DType::F32, &wide), (DType::BF16, &narrow)));
        assert!(!same_values((DType::F32, &wide[4..]), (DType::BF16, &narrow)), "one element less");
        let mut other = values.clone();
        *other.last_mut().expect("values") = 0.123;
        assert!(!same_values((DType::F32, &stored(DType::F32, &other)), (DType::BF16, &narrow)));
        other[5] = f32::NAN;
        let nan: Vec<u8> = other.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(!same_values((DType::F32, &nan), (DType::F32, &nan)));
    }
}
