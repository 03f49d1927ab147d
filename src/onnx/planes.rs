//! Codes of 3, 5 or 6 bits, for which ONNX has no element type: two planes of whole-byte fields, put together by standard
//! operators. ONNX Runtime folds these when a session is made, before it fuses DequantizeLinear with MatMul, so that the file
//! holds `bits` a code and memory the next of 4 and 8.
//!
//! The rows of a weight `[in_features, out_features]` are cut into eight blocks of `J = in_features / 8`; block `i` is named by its
//! bits, `i = 4·p + 2·q + r`. A byte of a plane holds one field of several blocks and the same place in each, so that shifting the
//! plane by a few amounts at once and masking gives whole blocks, and nothing is ever transposed.
//!
//! ```text
//! bits   low plane               high plane              cells
//! 3      2 bits [2, 1, 1, J, N]  1 bit  [1, 1, 1, J, N]  [2, 2, 1, J, N], two 4-bit fields a byte: blocks r = 0 and r = 1
//! 5      4 bits [2, 2, 1, J, N]  1 bit  [1, 1, 1, J, N]  [2, 2, 2, J, N], one 8-bit field a byte
//! 6      4 bits [2, 2, 1, J, N]  2 bits [2, 1, 1, J, N]  as 5
//! ```
//!
//! Of all layouts tried this one makes the fewest bytes on the way (about 5 for a weight at 3 bits, 8 at 5 and 6), which count
//! because ONNX Runtime keeps them all until every weight of the model is folded.

use super::graph::GraphCause;
use super::ir::{Type, Value};
use super::ops::{Ops, attribute_cause, broadcast, expect_dtype, expect_shape};
use super::{Attribute, Shape};
use crate::tensor::{DType, transpose};

/// Blocks that a weight's rows are cut into.
const BLOCKS: usize = 8;

/// How the codes of a weight `[in_features, out_features]` lie in two planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planes {
    /// 3, 5 or 6.
    pub bits: usize,
    /// A multiple of 8.
    pub in_features: usize,
    pub out_features: usize,
    /// Levels `−2^(bits−1) … 2^(bits−1)−1` instead of `0 … 2^bits−1`.
    pub signed: bool,
}

/// One plane: a field of `width` bits of every code.
#[derive(Debug, Clone, Copy)]
struct Plane {
    width: usize,
    /// Bits of the code below the field.
    from: usize,
}

impl Planes {
    /// Whether codes of that width are stored so.
    pub fn hold(bits: u8) -> bool {
        matches!(bits, 3 | 5 | 6)
    }

    /// Shapes of the low and the high plane, uint8.
    pub fn shapes(self) -> [[usize; 5]; 2] {
        self.planes().map(|plane| self.shape(plane))
    }

    /// Element type that a runtime holds the codes in.
    pub fn dtype(self) -> DType {
        match (self.cell(), self.signed) {
            (4, true) => DType::I4,
            (4, false) => DType::U4,
            (_, true) => DType::I8,
            (_, false) => DType::U8,
        }
    }

    /// Packs codes `[out_features, in_features]`, one unsigned code a byte.
    ///
    /// # Panics
    /// Where their number is not that of the weights, or `in_features` is no multiple of 8.
    pub fn pack(self, codes: &[u8]) -> [Vec<u8>; 2] {
        assert_eq!(codes.len(), self.in_features * self.out_features, "one code for each weight");
        let (codes, flip) = (transpose(codes, self.out_features, self.in_features), self.flip());
        self.planes().map(|plane| {
            let mut packed = vec![0; self.bytes(plane)];
            for (row, (place, shift)) in self.places(plane) {
                let codes = &codes[row * self.out_features..][..self.out_features];
                for (byte, code) in packed[place * self.out_features..].iter_mut().zip(codes) {
                    *byte |= (((code ^ flip) >> plane.from) & plane.mask()) << shift;
                }
            }
            packed
        })
    }

    /// Inverse of [`Self::pack`].
    ///
    /// # Panics
    /// Where a plane is not of the length that its shape asks.
    pub fn unpack(self, low: &[u8], high: &[u8]) -> Vec<u8> {
        let mut codes = vec![self.flip(); self.in_features * self.out_features];
        for (packed, plane) in [low, high].iter().zip(self.planes()) {
            assert_eq!(packed.len(), self.bytes(plane), "the length of this plane");
            for (row, (place, shift)) in self.places(plane) {
                let codes = &mut codes[row * self.out_features..][..self.out_features];
                for (code, byte) in codes.iter_mut().zip(&packed[place * self.out_features..]) {
                    *code ^= ((byte >> shift) & plane.mask()) << plane.from;
                }
            }
        }
        transpose(&codes, self.in_features, self.out_features)
    }

    /// For each row of `[in_features, out_features]`, the row of the plane that holds its fields, and how far up in the bytes.
    fn places(self, plane: Plane) -> impl Iterator<Item = (usize, (usize, usize))> {
        let rows = self.in_features / BLOCKS;
        (0..BLOCKS).flat_map(move |block| {
            let (slice, shift) = self.place(plane, block);
            (0..rows).map(move |row| (block * rows + row, (slice * rows + row, shift)))
        })
    }

    /// Which `[J, N]` slice of a plane holds a block, and how far up in its bytes.
    fn place(self, plane: Plane, block: usize) -> (usize, usize) {
        // Cells that hold several blocks hold neighbours.
        let (cell, field) = (block * self.cell() / 8, block % (8 / self.cell()));
        let cells = self.cell() / plane.width;
        (cell / cells, cell % cells * plane.width + field * self.cell())
    }

    /// Bits that a code takes when it is put together: 4 or 8.
    fn cell(self) -> usize {
        if self.bits == 3 { 4 } else { 8 }
    }

    fn planes(self) -> [Plane; 2] {
        let low = self.cell() / 2;
        [Plane { width: low, from: 0 }, Plane { width: self.bits - low, from: low }]
    }

    fn shape(self, plane: Plane) -> [usize; 5] {
        let [p, q] = [2, 4].map(|width| if plane.width >= width { 2 } else { 1 });
        [p, q, 1, self.in_features / BLOCKS, self.out_features]
    }

    fn bytes(self, plane: Plane) -> usize {
        plane.width * (self.in_features / BLOCKS) * self.out_features
    }

    /// What codes are XORed with. A top bit that is alone in its plane is flipped, so that it counts `−2^(bits−1)` where set.
    fn flip(self) -> u8 {
        if self.signed && self.bits != 6 { 1 << (self.bits - 1) } else { 0 }
    }

    fn check(self) -> Result<(), GraphCause> {
        if !matches!(self.bits, 3 | 5 | 6) {
            return Err(attribute_cause("bits", "3, 5 or 6", self.bits));
        }
        if self.in_features.is_multiple_of(BLOCKS) {
            return Ok(());
        }
        let expected = format!("a multiple of {BLOCKS} with {}-bit codes", self.bits);
        Err(attribute_cause("in_features", &expected, self.in_features))
    }
}

impl Plane {
    fn mask(self) -> u8 {
        (1 << self.width) - 1
    }
}

impl Ops<'_> {
    /// The codes `[in_features, out_features]` of two uint8 planes, as [`Planes::dtype`].
    #[track_caller]
    pub fn from_planes(&self, low: Value, high: Value, planes: Planes) -> Value {
        if let Err(cause) = planes.check() {
            return self.graph.refuse(self.path, "from_planes", cause);
        }
        let [low_plane, high_plane] = planes.planes();
        let low = self.fields(low, low_plane, planes);
        let high = self.fields(high, high_plane, planes);
        // A lone top bit has a negative weight in a signed type: its product fills the cell from there upwards.
        let weight = 1u8 << high_plane.from;
        let weight = if planes.flip() == 0 { weight } else { weight.wrapping_neg() & (u8::MAX >> (8 - planes.cell())) };
        let mut cells = self.bitwise_or(low, self.mul(high, self.graph.shared_u8(&[], &[weight])));
        if planes.signed && planes.flip() == 0 {
            cells = self.sub(cells, self.graph.shared_u8(&[], &[1 << (planes.bits - 1)]));
        }
        if planes.cell() == 4 {
            cells = self.bit_shift_right(cells, self.graph.shared_u8(&[1, 1, 2, 1, 1], &[0, 4]));
        }
        // ONNX Runtime has no Reshape of 4-bit types on the CPU. The Cast drops the bits above the cell (ONNX Cast, integers).
        self.cast(self.reshape(cells, &[planes.in_features, planes.out_features]), planes.dtype())
    }

    /// One plane's field of every cell.
    #[track_caller]
    fn fields(&self, bytes: Value, plane: Plane, planes: Planes) -> Value {
        let Some(ty) = self.graph.type_of(bytes) else { return bytes };
        let fits =
            expect_dtype("plane", &ty, DType::U8).and_then(|()| expect_shape("plane", &ty, &Shape::known(&planes.shape(plane))));
        if let Err(cause) = fits {
            return self.graph.refuse(self.path, "from_planes", cause);
        }
        let shifts: Vec<u8> = (0..planes.cell() / plane.width).map(|cell| (cell * plane.width) as u8).collect();
        let axes = [2, 4, 8].map(|width| if plane.width < width && width <= planes.cell() { 2 } else { 1 });
        let shifted = self.bit_shift_right(bytes, self.graph.shared_u8(&[axes[0], axes[1], axes[2], 1, 1], &shifts));
        let in_each_cell = if planes.cell() == 4 { plane.mask() * 0x11 } else { plane.mask() };
        self.bitwise_and(shifted, self.graph.shared_u8(&[], &[in_each_cell]))
    }

    /// `x >> by`, both uint8. ONNX BitShift-11: shapes broadcast.
    #[track_caller]
    fn bit_shift_right(&self, x: Value, by: Value) -> Value {
        self.onnx("BitShift", [x, by], [("direction", Attribute::String("RIGHT".to_owned()))], bytes)
    }

    /// `a & b` of uint8. ONNX BitwiseAnd-18: shapes broadcast.
    #[track_caller]
    fn bitwise_and(&self, a: Value, b: Value) -> Value {
        self.onnx("BitwiseAnd", [a, b], [], bytes)
    }

    /// `a | b` of uint8. ONNX BitwiseOr-18: shapes broadcast.
    #[track_caller]
    fn bitwise_or(&self, a: Value, b: Value) -> Value {
        self.onnx("BitwiseOr", [a, b], [], bytes)
    }
}

fn bytes(types: &[Type]) -> Result<Type, GraphCause> {
    expect_dtype("a", &types[0], DType::U8)?;
    broadcast(types)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::Graph;
    use proptest::prelude::*;

    #[test]
    fn three_bits_by_hand() {
        // Codes 0 … 7 of eight rows: low fields 0 1 2 3 0 1 2 3, top bits 0 0 0 0 1 1 1 1.
        let codes: Vec<u8> = (0..8).collect();
        let planes = Planes { bits: 3, in_features: 8, out_features: 1, signed: false };
        // Byte p: cell q = 0 (blocks 4p, 4p + 1) in bits 0 and 4, cell q = 1 (blocks 4p + 2, 4p + 3) in bits 2 and 6.
        assert_eq!(planes.pack(&codes), [vec![0b11_01_10_00, 0b11_01_10_00], vec![0b1100_1100]]);
        let signed = Planes { signed: true, ..planes };
        assert_eq!(signed.pack(&codes), [vec![0b11_01_10_00, 0b11_01_10_00], vec![0b0011_0011]]);
    }

    #[test]
    fn six_bits_by_hand() {
        let codes = [0x01, 0x12, 0x23, 0x34, 0x05, 0x16, 0x27, 0x38];
        let planes = Planes { bits: 6, in_features: 8, out_features: 1, signed: true };
        assert_eq!(planes.pack(&codes), [vec![0x21, 0x43, 0x65, 0x87], vec![0b11_10_01_00, 0b11_10_01_00]]);
    }

    #[test]
    fn a_byte_belongs_to_one_output_feature_and_blocks_follow_each_other() {
        let planes = Planes { bits: 5, in_features: 16, out_features: 3, signed: false };
        let mut codes = vec![0; 48];
        codes[16 + 2 * 3 + 1] = 0x1F; // output feature 1, block 3, second place
        let [low, high] = planes.pack(&codes);
        let set = |bytes: &[u8]| bytes.iter().copied().enumerate().filter(|(_, byte)| *byte != 0).collect::<Vec<_>>();
        assert_eq!(set(&low), [((2 + 1) * 3 + 1, 0xF0)]);
        assert_eq!(set(&high), [(3 + 1, 1 << 3)]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refusal = |planes: Planes, shape: [usize; 5]| {
            let graph = Graph::new("test");
            let [low, high] = ["low", "high"].map(|name| graph.declare(name, DType::U8, &shape));
            let codes = graph.at("part").from_planes(low, high, planes);
            graph.finish(&[codes]).expect_err("this must be refused").to_string()
        };
        let planes = Planes { bits: 3, in_features: 16, out_features: 4, signed: true };
        let odd = Planes { in_features: 12, ..planes };
        let expected = "part: from_planes: in_features must be a multiple of 8 with 3-bit codes, got 12";
        assert_eq!(refusal(odd, [2, 1, 1, 1, 4]), expected);
        let expected = "part: from_planes: plane must have shape [2, 1, 1, 2, 4], got [2, 1, 1, 1, 4]";
        assert_eq!(refusal(planes, [2, 1, 1, 1, 4]), expected);
        let expected = "part: from_planes: bits must be 3, 5 or 6, got 4";
        assert_eq!(refusal(Planes { bits: 4, ..planes }, [2, 1, 1, 2, 4]), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn codes_come_back(
            (bits, signed, rows, out_features) in (prop::sample::select(vec![3usize, 5, 6]), any::<bool>(), 1usize..12, 1usize..40),
            seed in prop::collection::vec(any::<u8>(), 12 * 8 * 40),
        ) {
            let planes = Planes { bits, in_features: rows * 8, out_features, signed };
            let codes: Vec<u8> = seed[..rows * 8 * out_features].iter().map(|byte| byte >> (8 - bits)).collect();
            let [low, high] = planes.pack(&codes);
            prop_assert_eq!(low.len() + high.len(), rows * out_features * bits);
            for (bytes, shape) in [&low, &high].into_iter().zip(planes.shapes()) {
                prop_assert_eq!(bytes.len(), shape.iter().product::<usize>());
            }
            prop_assert_eq!(planes.unpack(&low, &high), codes);
        }
    }
}
