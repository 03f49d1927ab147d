//! ONNX Runtime's operators (domain `com.microsoft`, version 1), checked and inferred at insertion.

use std::panic::Location;

use super::graph::{GraphCause, NewNode};
use super::ir::{Attribute, Dim, Domain, Shape, Type, Value};
use super::ops::{
    Ops, QuantizedOperand, at_least, attribute_cause, expect_dtype, expect_shape, extended, floating, integer, same_dtype,
    shape_cause, split_last,
};
use crate::tensor::DType;

/// Operands of GroupQueryAttention.
#[derive(Debug, Clone, Copy)]
pub struct GroupQueryAttention {
    /// `[batch, sequence, num_heads · head_dim]`
    pub query: Value,
    /// `[batch, sequence, kv_num_heads · head_dim]` each, keys first; `None` where they follow the queries in `query`, whose last axis
    /// is then `(num_heads + 2 · kv_num_heads) · head_dim`.
    pub key_value: Option<[Value; 2]>,
    /// Keys and values before the new tokens, `[batch, kv_num_heads, past, head_dim]` each; `None` where there are none.
    pub past: Option<[Value; 2]>,
    /// int32 `[batch]`: positions of each row, past and new, minus one.
    pub seqlens_k: Value,
    /// int32 scalar: positions of the longest row, past and new.
    pub total_sequence_length: Value,
    /// `[positions, head_dim / 2]`
    pub cos_cache: Value,
    /// As `cos_cache`.
    pub sin_cache: Value,
    pub num_heads: usize,
    pub kv_num_heads: usize,
    /// Positions that a token sees, itself included; `None`: all before it.
    pub window: Option<usize>,
}

/// Shape of a MatMulNBits weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NBits {
    pub bits: usize,
    pub block_size: usize,
    /// K
    pub in_features: usize,
    /// N
    pub out_features: usize,
}

impl NBits {
    /// Blocks in a row of `in_features`.
    pub fn blocks(self) -> usize {
        self.in_features.div_ceil(self.block_size)
    }

    /// Shape of the packed codes, uint8 `[N, blocks, block_size · bits / 8]`.
    pub fn packed_shape(self) -> [usize; 3] {
        [self.out_features, self.blocks(), self.block_size * self.bits / 8]
    }

    /// Shape of the packed zero points, uint8 `[N, ⌈blocks · bits / 8⌉]`.
    pub fn zero_points_shape(self) -> [usize; 2] {
        [self.out_features, (self.blocks() * self.bits).div_ceil(8)]
    }

    fn check(self) -> Result<(), GraphCause> {
        if !matches!(self.bits, 2 | 4 | 8) {
            return Err(attribute_cause("bits", "2, 4 or 8", self.bits));
        }
        if !self.block_size.is_power_of_two() || !(16..=256).contains(&self.block_size) {
            return Err(attribute_cause("block_size", "a power of two from 16 to 256", self.block_size));
        }
        Ok(())
    }
}

impl Ops<'_> {
    /// Causal attention in which groups of query heads share a key/value head, with in-operator rotary positions.
    ///
    /// `com.microsoft.GroupQueryAttention`, since 1 → output as `query`, present key and value
    /// `[batch, kv_num_heads, total, head_dim]`. Pads on the right only. Positions follow from the lengths: the operator's input of
    /// positions came with ONNX Runtime 1.22, and on the CPU the first row's first one counts for all.
    #[track_caller]
    pub fn group_query_attention(&self, a: GroupQueryAttention, present_axis: Dim) -> [Value; 3] {
        let past = a.past.map_or([None; 2], |past| past.map(Some));
        let places = [a.seqlens_k, a.total_sequence_length, a.cos_cache, a.sin_cache].map(Some);
        let key_value = a.key_value.map_or([None; 2], |pair| pair.map(Some));
        let inputs = [Some(a.query)].into_iter().chain(key_value).chain(past).chain(places).collect();
        let mut attributes = vec![
            ("num_heads", Attribute::Int(a.num_heads as i64)),
            ("kv_num_heads", Attribute::Int(a.kv_num_heads as i64)),
            ("do_rotary", Attribute::Int(1)),
            ("rotary_interleaved", Attribute::Int(0)),
        ];
        attributes.extend(a.window.map(|window| ("local_window_size", Attribute::Int(window as i64))));
        let op = NewNode { op_type: "GroupQueryAttention", domain: Domain::Microsoft, inputs, attributes };
        self.graph.insert(self.path, op, Location::caller(), |types| attended(types, &a, present_axis))
    }

    /// `(y, sum)` with `sum = x + skip` and `y = sum / rms(sum) ⊙ weight`.
    ///
    /// `com.microsoft.SkipSimplifiedLayerNormalization`, since 1: `x` and `skip` `[batch, sequence, hidden]`, `weight
    /// [hidden]`, all of one element type.
    #[track_caller]
    pub fn skip_simplified_layer_normalization(&self, x: Value, skip: Value, weight: Value, epsilon: f32) -> (Value, Value) {
        let op = NewNode {
            op_type: "SkipSimplifiedLayerNormalization",
            domain: Domain::Microsoft,
            inputs: vec![Some(x), Some(skip), Some(weight)],
            attributes: vec![("epsilon", Attribute::Float(epsilon))],
        };
        let [y, _mean, _inv_std, sum] = self.graph.insert(self.path, op, Location::caller(), |types| {
            floating("x", &types[0])?;
            at_least("x", &types[0], 3)?;
            same_dtype("skip", &types[1], &types[0])?;
            expect_shape("skip", &types[1], &types[0].shape)?;
            same_dtype("weight", &types[2], &types[0])?;
            let (_, hidden) = split_last(&types[0].shape);
            expect_shape("weight", &types[2], &Shape(vec![hidden]))?;
            Ok([Some(types[0].clone()), None, None, Some(types[0].clone())])
        });
        (y, sum)
    }

    /// `x · wᵀ` without a transposed copy of `w`.
    ///
    /// `com.microsoft.FusedMatMul` (transB = 1), since 1: `x [batch…, m, k]`, `w [n, k]` → `[batch…, m, n]`.
    #[track_caller]
    pub fn matmul_transposed(&self, x: Value, w: Value) -> Value {
        self.microsoft("FusedMatMul", vec![x, w], vec![("transB", Attribute::Int(1))], |types| {
            at_least("x", &types[0], 2)?;
            same_dtype("w", &types[1], &types[0])?;
            let (leading, inner) = split_last(&types[0].shape);
            match types[1].shape.0.as_slice() {
                [rows, columns] if *columns == inner => Ok(Type::new(types[0].dtype, extended(leading, rows.clone()))),
                _ => Err(shape_cause("w", format!("[n, {inner}]"), &types[1])),
            }
        })
    }

    /// `x · dequantize(w)ᵀ` where a code without zero point means `scale · (code − 2^(bits−1))`.
    ///
    /// `com.microsoft.MatMulNBits` (accuracy_level 4: the CPU may round activations to 8 bits), since 1: `x [batch…, m, K]`, codes uint8
    /// `[N, blocks, block_size · bits / 8]`, scales `[N, blocks]` of `x`'s element type, zero points uint8 `[N, ⌈blocks · bits / 8⌉]` →
    /// `[batch…, m, N]`.
    #[track_caller]
    pub fn matmul_n_bits(&self, x: Value, q: QuantizedOperand, n: NBits) -> Value {
        let attributes = vec![
            ("K", Attribute::Int(n.in_features as i64)),
            ("N", Attribute::Int(n.out_features as i64)),
            ("bits", Attribute::Int(n.bits as i64)),
            ("block_size", Attribute::Int(n.block_size as i64)),
            ("accuracy_level", Attribute::Int(4)),
        ];
        let inputs = [x, q.codes, q.scales].into_iter().chain(q.zero_points).collect();
        self.microsoft("MatMulNBits", inputs, attributes, |types| {
            n.check()?;
            at_least("x", &types[0], 2)?;
            let (leading, inner) = split_last(&types[0].shape);
            if inner != Dim::Known(n.in_features) {
                return Err(shape_cause("x", format!("[…, {}]", n.in_features), &types[0]));
            }
            expect_dtype("codes", &types[1], DType::U8)?;
            expect_shape("codes", &types[1], &Shape::known(&n.packed_shape()))?;
            same_dtype("scales", &types[2], &types[0])?;
            expect_shape("scales", &types[2], &Shape::known(&[n.out_features, n.blocks()]))?;
            if let Some(zero_points) = types.get(3) {
                expect_dtype("zero_points", zero_points, DType::U8)?;
                expect_shape("zero_points", zero_points, &Shape::known(&n.zero_points_shape()))?;
            }
            Ok(Type::new(types[0].dtype, extended(leading, Dim::Known(n.out_features))))
        })
    }

    /// Dequantized rows `indices` of a MatMulNBits weight, one axis for the blocks and one for the places in a block.
    ///
    /// `com.microsoft.GatherBlockQuantized` (gather_axis 0, quantize_axis 2), since 1: codes uint8
    /// `[N, blocks, block_size · bits / 8]`, scales `[N, blocks, 1]`, `indices` any shape →
    /// `[indices…, blocks, block_size]` of the scales' element type.
    #[track_caller]
    pub fn gather_block_quantized(&self, q: QuantizedOperand, indices: Value, n: NBits) -> Value {
        let attributes = vec![
            ("gather_axis", Attribute::Int(0)),
            ("quantize_axis", Attribute::Int(2)),
            ("bits", Attribute::Int(n.bits as i64)),
            ("block_size", Attribute::Int(n.block_size as i64)),
        ];
        self.microsoft("GatherBlockQuantized", vec![q.codes, indices, q.scales], attributes, |types| {
            n.check()?;
            expect_dtype("codes", &types[0], DType::U8)?;
            expect_shape("codes", &types[0], &Shape::known(&n.packed_shape()))?;
            integer("indices", &types[1])?;
            floating("scales", &types[2])?;
            expect_shape("scales", &types[2], &Shape::known(&[n.out_features, n.blocks(), 1]))?;
            let row = [Dim::Known(n.blocks()), Dim::Known(n.block_size)];
            Ok(Type::new(types[2].dtype, Shape([types[1].shape.0.as_slice(), &row].concat())))
        })
    }

    #[track_caller]
    pub(super) fn microsoft(
        &self,
        op_type: &'static str,
        inputs: Vec<Value>,
        attributes: Vec<(&'static str, Attribute)>,
        infer: impl FnOnce(&[Type]) -> Result<Type, GraphCause>,
    ) -> Value {
        let inputs = inputs.into_iter().map(Some).collect();
        let op = NewNode { op_type, domain: Domain::Microsoft, inputs, attributes };
        let [y] = self.graph.insert(self.path, op, Location::caller(), |types| infer(types).map(|ty| [Some(ty)]));
        y
    }
}

fn attended(types: &[Type], a: &GroupQueryAttention, present_axis: Dim) -> Result<[Option<Type>; 3], GraphCause> {
    let (heads, rest) = types.split_at(if a.key_value.is_some() { 3 } else { 1 });
    let (past, places) = rest.split_at(if a.past.is_some() { 2 } else { 0 });
    let ([query, key_value @ ..], [seqlens_k, total, cos, sin]) = (heads, places) else {
        unreachable!("a query and four places were given")
    };
    let [batch, sequence, Dim::Known(width)] = query.shape.0.as_slice() else {
        return Err(shape_cause("query", "[batch, sequence, a known size]".to_owned(), query));
    };
    let heads = if a.key_value.is_some() { a.num_heads } else { a.num_heads + 2 * a.kv_num_heads };
    if a.num_heads == 0 || a.kv_num_heads == 0 || !width.is_multiple_of(heads) || !a.num_heads.is_multiple_of(a.kv_num_heads) {
        return Err(attribute_cause("num_heads", "a multiple of kv_num_heads and a divisor of query's width", a.num_heads));
    }
    let head_dim = width / heads;
    if !head_dim.is_multiple_of(16) {
        return Err(attribute_cause("head_dim", "a multiple of 16, for in-operator rotary positions", head_dim));
    }
    expect_keys_and_values(query, key_value, past, [a.kv_num_heads, head_dim])?;
    expect_dtype("seqlens_k", seqlens_k, DType::I32)?;
    expect_shape("seqlens_k", seqlens_k, &Shape(vec![batch.clone()]))?;
    expect_dtype("total_sequence_length", total, DType::I32)?;
    expect_shape("total_sequence_length", total, &Shape::default())?;
    for (operand, ty) in [("cos_cache", cos), ("sin_cache", sin)] {
        same_dtype(operand, ty, query)?;
        match ty.shape.0.as_slice() {
            [Dim::Known(_), half] if *half == (head_dim / 2).into() => {}
            _ => return Err(shape_cause(operand, format!("[positions, {}]", head_dim / 2), ty)),
        }
    }
    let present = Type::new(query.dtype, [batch.clone(), a.kv_num_heads.into(), present_axis, head_dim.into()]);
    let attended = Type::new(query.dtype, [batch.clone(), sequence.clone(), (a.num_heads * head_dim).into()]);
    Ok([Some(attended), Some(present.clone()), Some(present)])
}

/// Keys and values of new tokens, and those before them, are as many heads of the width as the query's batch has tokens for.
pub(super) fn expect_keys_and_values(
    query: &Type,
    key_value: &[Type],
    past: &[Type],
    [kv_num_heads, head_dim]: [usize; 2],
) -> Result<(), GraphCause> {
    let [batch, sequence, _] = query.shape.0.as_slice() else { unreachable!("the query's shape is checked first") };
    let key_shape = Shape(vec![batch.clone(), sequence.clone(), Dim::Known(kv_num_heads * head_dim)]);
    for (operand, ty) in ["key", "value"].into_iter().zip(key_value) {
        same_dtype(operand, ty, query)?;
        expect_shape(operand, ty, &key_shape)?;
    }
    for (operand, ty) in ["past_key", "past_value"].into_iter().zip(past) {
        same_dtype(operand, ty, query)?;
        match ty.shape.0.as_slice() {
            [b, heads, _, dim] if b == batch && *heads == kv_num_heads.into() && *dim == head_dim.into() => {}
            _ => return Err(shape_cause(operand, format!("[{batch}, {kv_num_heads}, past, {head_dim}]"), ty)),
        }
    }
    Ok(())
}
