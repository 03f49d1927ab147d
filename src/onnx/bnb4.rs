//! MatMulBnb4, the operator of bitsandbytes' 4-bit codebooks, and scales that are codes themselves.

use super::Shape;
use super::graph::GraphCause;
use super::ir::{Attribute, Dim, Type, Value};
use super::ops::{
    Ops, at_least, attribute_cause, expect_dtype, expect_shape, extended, floating, same_dtype, shape_cause, split_last,
};
use crate::tensor::DType;

/// Scales that share one f32 of the scales' scales.
pub const NESTED_BLOCK: usize = 256;

/// Shape of a MatMulBnb4 weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bnb4 {
    /// K, a multiple of `block_size`.
    pub in_features: usize,
    /// N
    pub out_features: usize,
    /// Consecutive weights of the flattened `[N, K]` that share a scale.
    pub block_size: usize,
    pub levels: Bnb4Levels,
}

/// The sixteen levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bnb4Levels {
    Fp4,
    Nf4,
}

impl Bnb4 {
    /// Scales of the weight.
    pub fn blocks(self) -> usize {
        self.in_features / self.block_size.max(1) * self.out_features
    }

    /// Bytes of the codes.
    pub fn packed_bytes(self) -> usize {
        self.in_features * self.out_features / 2
    }

    fn check(self) -> Result<(), GraphCause> {
        if !self.block_size.is_power_of_two() || !(16..=4096).contains(&self.block_size) {
            return Err(attribute_cause("block_size", "a power of two from 16 to 4096", self.block_size));
        }
        if !self.in_features.is_multiple_of(self.block_size) {
            let expected = format!("a multiple of block_size {}", self.block_size);
            return Err(attribute_cause("in_features", &expected, self.in_features));
        }
        Ok(())
    }
}

/// Packs codes two a byte, the first of each pair in the high bits: the opposite of ONNX's own 4-bit types.
///
/// # Panics
/// Where their number is odd.
pub fn pack_high_first(codes: &[u8]) -> Vec<u8> {
    assert!(codes.len().is_multiple_of(2), "blocks have an even number of codes");
    codes.as_chunks::<2>().0.iter().map(|[first, second]| first << 4 | second).collect()
}

/// Inverse of [`pack_high_first`].
pub fn unpack_high_first(packed: &[u8]) -> Vec<u8> {
    packed.iter().flat_map(|byte| [byte >> 4, byte & 0xF]).collect()
}

/// Scales as 8-bit codes: `scale[i] = map[codes[i]] · absmax[i / 256] + offset`.
#[derive(Debug, Clone, Copy)]
pub struct NestedOperand {
    /// uint8 `[blocks]`
    pub codes: Value,
    /// f32 `[⌈blocks / 256⌉, 1]`
    pub absmax: Value,
    /// f32 scalar
    pub offset: Value,
    /// f32 `[256]`
    pub map: Value,
}

impl Ops<'_> {
    /// `x · Wᵀ` with `W [N, K]` of 4-bit codes into fixed levels, times the scale of their block.
    ///
    /// `com.microsoft.MatMulBnb4`, since 1: `x [batch…, m, K]`, codes uint8 `[N · K / 2]` (see [`pack_high_first`]), scales
    /// `[N · K / block_size]` of `x`'s element type → `[batch…, m, N]`.
    #[track_caller]
    pub fn matmul_bnb4(&self, x: Value, codes: Value, scales: Value, w: Bnb4) -> Value {
        let attributes = vec![
            ("K", Attribute::Int(w.in_features as i64)),
            ("N", Attribute::Int(w.out_features as i64)),
            ("block_size", Attribute::Int(w.block_size as i64)),
            ("quant_type", Attribute::Int(i64::from(w.levels == Bnb4Levels::Nf4))),
        ];
        self.microsoft("MatMulBnb4", vec![x, codes, scales], attributes, |types| {
            w.check()?;
            at_least("x", &types[0], 2)?;
            let (leading, inner) = split_last(&types[0].shape);
            if inner != Dim::Known(w.in_features) {
                return Err(shape_cause("x", format!("[…, {}]", w.in_features), &types[0]));
            }
            expect_dtype("codes", &types[1], DType::U8)?;
            expect_shape("codes", &types[1], &Shape::known(&[w.packed_bytes()]))?;
            same_dtype("scales", &types[2], &types[0])?;
            expect_shape("scales", &types[2], &Shape::known(&[w.blocks()]))?;
            Ok(Type::new(types[0].dtype, extended(leading, Dim::Known(w.out_features))))
        })
    }

    /// The `blocks` scales that nested ones stand for, f32; ONNX Runtime folds all of it when a session is made.
    #[track_caller]
    pub fn nested_scales(&self, nested: NestedOperand, blocks: usize) -> Value {
        let levels = self.gather(nested.map, self.cast(nested.codes, DType::I32));
        let rows = blocks.div_ceil(NESTED_BLOCK);
        let dims = self.graph.shared_i64(&[2], &[rows as i64, NESTED_BLOCK as i64]);
        let repeated = self.expand(nested.absmax, dims, Shape::known(&[rows, NESTED_BLOCK]));
        let absmax = self.first(self.reshape(repeated, &[rows * NESTED_BLOCK]), blocks);
        self.add(self.mul(levels, absmax), nested.offset)
    }

    /// The first `count` elements of a vector; no node where it has no more. ONNX Slice-13.
    #[track_caller]
    fn first(&self, x: Value, count: usize) -> Value {
        if self.graph.type_of(x).is_some_and(|ty| ty.shape == Shape::known(&[count])) {
            return x;
        }
        let [start, end] = [0, count as i64].map(|place| self.graph.shared_i64(&[1], &[place]));
        self.onnx("Slice", [x, start, end], [], |types| {
            floating("x", &types[0])?;
            match types[0].shape.sizes().as_deref() {
                Some([size]) if *size >= count => Ok(Type::new(types[0].dtype, [count.into()])),
                _ => Err(shape_cause("x", format!("[at least {count}]"), &types[0])),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::Graph;

    #[test]
    fn the_first_of_a_pair_lies_high() {
        assert_eq!(pack_high_first(&[0x1, 0x2, 0xA, 0xF]), [0x12, 0xAF]);
        assert_eq!(unpack_high_first(&[0x12, 0xAF]), [0x1, 0x2, 0xA, 0xF]);
    }

    fn outcome(in_features: usize, block_size: usize) -> String {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), 1.into(), in_features.into()]));
        let w = Bnb4 { in_features, out_features: 5, block_size, levels: Bnb4Levels::Nf4 };
        let codes = graph.declare("codes", DType::U8, &[w.packed_bytes()]);
        let nested = NestedOperand {
            codes: graph.declare("scales", DType::U8, &[w.blocks()]),
            absmax: graph.declare("absmax", DType::F32, &[w.blocks().div_ceil(256), 1]),
            offset: graph.declare("offset", DType::F32, &[]),
            map: graph.declare("map", DType::F32, &[256]),
        };
        let op = graph.at("part");
        let y = op.matmul_bnb4(x, codes, op.nested_scales(nested, w.blocks()), w);
        match graph.finish(&[y]) {
            Ok(model) => model.type_of(y).to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn nested_scales_have_the_shape_that_the_product_asks_for() {
        assert_eq!(outcome(64, 64), "f32[batch, 1, 5]"); // 5 scales of 256
        assert_eq!(outcome(64 * 256, 64), "f32[batch, 1, 5]"); // 1280 = 5 · 256
    }

    #[test]
    fn blocks_that_would_run_over_the_end_of_a_row_are_refused() {
        assert_eq!(outcome(96, 64), "part: MatMulBnb4: in_features must be a multiple of block_size 64, got 96");
        assert_eq!(outcome(96, 48), "part: MatMulBnb4: block_size must be a power of two from 16 to 4096, got 48");
    }
}
