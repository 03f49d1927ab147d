//! ONNX's operators that say a decoder without a runtime's own: those of version 23, and what a mask is made of.

use std::panic::Location;

use super::contrib::expect_keys_and_values;
use super::graph::{GraphCause, NewNode};
use super::ir::{Attribute, Dim, Domain, Shape, Type, Value};
use super::ops::{
    Ops, at_least, attribute_cause, broadcast, expect_dtype, expect_shape, floating, same_dtype, shape_cause, split_last,
};
use crate::tensor::DType;

/// Operands of ONNX's Attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// `[batch, sequence, num_heads · head_dim]`
    pub query: Value,
    /// `[batch, sequence, kv_num_heads · head_dim]`
    pub key: Value,
    /// As `key`.
    pub value: Value,
    /// Added to the scores, `[batch, 1, sequence, total]`.
    pub bias: Value,
    /// Keys and values before the new tokens, `[batch, kv_num_heads, past, head_dim]` each.
    pub past: [Value; 2],
    pub num_heads: usize,
    pub kv_num_heads: usize,
}

impl Ops<'_> {
    /// `x / rms(x) ⊙ weight` over the last axis, in f32 inside. ONNX RMSNormalization-23: `x […, n]`, `weight [n]` → as `x`.
    #[track_caller]
    pub fn rms_normalization(&self, x: Value, weight: Value, epsilon: f32) -> Value {
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))];
        self.onnx("RMSNormalization", [x, weight], attributes, |types| {
            floating("x", &types[0])?;
            at_least("x", &types[0], 1)?;
            same_dtype("weight", &types[1], &types[0])?;
            let (_, width) = split_last(&types[0].shape);
            expect_shape("weight", &types[1], &Shape(vec![width]))?;
            Ok(types[0].clone())
        })
    }

    /// Each head of `x` turned by its token's angles, the first half of a head against the second. ONNX RotaryEmbedding-23: `x [batch,
    /// sequence, heads · head_dim]`, `cos` and `sin` `[batch, sequence, head_dim / 2]` → as `x`.
    #[track_caller]
    pub fn rotary_embedding(&self, x: Value, cos: Value, sin: Value, heads: usize) -> Value {
        self.onnx("RotaryEmbedding", [x, cos, sin], [("num_heads", Attribute::Int(heads as i64))], |types| {
            floating("x", &types[0])?;
            let [batch, sequence, Dim::Known(width)] = types[0].shape.0.as_slice() else {
                return Err(shape_cause("x", "[batch, sequence, a known size]".to_owned(), &types[0]));
            };
            if heads == 0 || !width.is_multiple_of(2 * heads) {
                return Err(attribute_cause("num_heads", "a divisor of half of x's width", heads));
            }
            let angles = Shape(vec![batch.clone(), sequence.clone(), Dim::Known(width / heads / 2)]);
            for (operand, ty) in [("cos", &types[1]), ("sin", &types[2])] {
                same_dtype(operand, ty, &types[0])?;
                expect_shape(operand, ty, &angles)?;
            }
            Ok(types[0].clone())
        })
    }

    /// Attention over past and new tokens, scores divided by `√head_dim`. ONNX Attention-23 → output as `query`, present key and value
    /// `[batch, kv_num_heads, total, head_dim]`, whose `total` is the last axis of the bias.
    #[track_caller]
    pub fn attention(&self, a: Attention) -> [Value; 3] {
        let inputs = [a.query, a.key, a.value, a.bias, a.past[0], a.past[1]].map(Some).into();
        let heads = |name, count: usize| (name, Attribute::Int(count as i64));
        let attributes = vec![heads("q_num_heads", a.num_heads), heads("kv_num_heads", a.kv_num_heads)];
        let op = NewNode { op_type: "Attention", domain: Domain::Onnx, inputs, attributes };
        self.graph.insert(self.path, op, Location::caller(), |types| attended(types, &a))
    }

    /// `a < b`. ONNX Less-13: shapes broadcast → bool.
    #[track_caller]
    pub fn less(&self, a: Value, b: Value) -> Value {
        self.onnx("Less", [a, b], [], compared)
    }

    /// `a ≤ b`. ONNX LessOrEqual-16: shapes broadcast → bool.
    #[track_caller]
    pub fn less_or_equal(&self, a: Value, b: Value) -> Value {
        self.onnx("LessOrEqual", [a, b], [], compared)
    }

    /// `a ∧ b`. ONNX And-7: bool, shapes broadcast.
    #[track_caller]
    pub fn and(&self, a: Value, b: Value) -> Value {
        self.onnx("And", [a, b], [], |types| {
            expect_dtype("a", &types[0], DType::Bool)?;
            broadcast(types)
        })
    }

    /// `yes` where `condition`, else `no`. ONNX Where-16: `yes` and `no` are scalars → the condition's shape.
    #[track_caller]
    pub fn choose(&self, condition: Value, yes: Value, no: Value) -> Value {
        self.onnx("Where", [condition, yes, no], [], |types| {
            expect_dtype("condition", &types[0], DType::Bool)?;
            expect_shape("yes", &types[1], &Shape::default())?;
            expect_shape("no", &types[2], &Shape::default())?;
            same_dtype("no", &types[2], &types[1])?;
            Ok(Type { dtype: types[1].dtype, ..types[0].clone() })
        })
    }

    /// A new axis of size 1. ONNX Unsqueeze-13.
    #[track_caller]
    pub fn unsqueeze(&self, x: Value, axis: usize) -> Value {
        let axes = self.graph().shared_i64(&[1], &[axis as i64]);
        self.onnx("Unsqueeze", [x, axes], [], |types| {
            at_least("x", &types[0], axis)?;
            let mut shape = types[0].shape.clone();
            shape.0.insert(axis, Dim::Known(1));
            Ok(Type::new(types[0].dtype, shape))
        })
    }

    /// Cosine. ONNX Cos-7: floating point, shape kept.
    #[track_caller]
    pub fn cos(&self, x: Value) -> Value {
        self.onnx("Cos", [x], [], |types| floating("x", &types[0]).map(|()| types[0].clone()))
    }

    /// Sine. ONNX Sin-7: floating point, shape kept.
    #[track_caller]
    pub fn sin(&self, x: Value) -> Value {
        self.onnx("Sin", [x], [], |types| floating("x", &types[0]).map(|()| types[0].clone()))
    }

    /// `x · wᵀ` without a transposed copy of `w`. ONNX Gemm-13 (transB 1) between two Reshapes: `x [batch, sequence, k]`, `w [n, k]` →
    /// `[batch, sequence, n]`.
    #[track_caller]
    pub fn gemm_transposed(&self, x: Value, w: Value) -> Value {
        let graph = self.graph();
        let rows = self.onnx("Gemm", [self.flatten(x, "tokens"), w], [("transB", Attribute::Int(1))], |types| {
            same_dtype("w", &types[1], &types[0])?;
            match (types[0].shape.0.as_slice(), types[1].shape.0.as_slice()) {
                ([rows, k], [n, same]) if same == k => Ok(Type::new(types[0].dtype, [rows.clone(), n.clone()])),
                _ => Err(shape_cause("w", format!("[n, k] with the columns of x {}", types[0].shape), &types[1])),
            }
        });
        let sizes = self.gather(self.shape_of(x), graph.shared_i64(&[2], &[0, 1]));
        let width = self.last_dim(rows);
        let sizes = self.concat([sizes, graph.shared_i64(&[1], &[width as i64])], 0, 3);
        let leading = graph.type_of(x).map(|ty| split_last(&ty.shape).0.to_vec()).unwrap_or_default();
        self.onnx("Reshape", [rows, sizes], [], |types| {
            Ok(Type::new(types[0].dtype, Shape([leading.as_slice(), &[Dim::Known(width)]].concat())))
        })
    }
}

fn compared(types: &[Type]) -> Result<Type, GraphCause> {
    Ok(Type { dtype: DType::Bool, ..broadcast(types)? })
}

fn attended(types: &[Type], a: &Attention) -> Result<[Option<Type>; 3], GraphCause> {
    let ([query, key_value @ ..], [bias, past @ ..]) = types.split_at(3) else { unreachable!("six operands were given") };
    let [batch, sequence, Dim::Known(width)] = query.shape.0.as_slice() else {
        return Err(shape_cause("query", "[batch, sequence, a known size]".to_owned(), query));
    };
    if a.num_heads == 0
        || a.kv_num_heads == 0
        || !width.is_multiple_of(a.num_heads)
        || !a.num_heads.is_multiple_of(a.kv_num_heads)
    {
        return Err(attribute_cause("q_num_heads", "a multiple of kv_num_heads and a divisor of query's width", a.num_heads));
    }
    let head_dim = width / a.num_heads;
    expect_keys_and_values(query, key_value, past, [a.kv_num_heads, head_dim])?;
    same_dtype("bias", bias, query)?;
    let total = match bias.shape.0.as_slice() {
        [b, Dim::Known(1), s, total] if b == batch && s == sequence => total.clone(),
        _ => return Err(shape_cause("bias", format!("[{batch}, 1, {sequence}, total]"), bias)),
    };
    let present = Type::new(query.dtype, [batch.clone(), a.kv_num_heads.into(), total, head_dim.into()]);
    Ok([Some(query.clone()), Some(present.clone()), Some(present)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::Graph;

    /// The type of what `write` makes of `x [rows, new, 32]`, `angles [rows, new, 8]` and a mask `[rows, 1, new, all]`, or the message.
    fn outcome(write: impl FnOnce(&Graph, Ops<'_>, [Value; 3]) -> Value) -> String {
        let graph = Graph::new("test");
        let input = |name, dims: &[Dim]| graph.input(name, Type::new(DType::F32, Shape(dims.to_vec())));
        let x = input("x", &["rows".into(), "new".into(), 32.into()]);
        let angles = input("angles", &["rows".into(), "new".into(), 8.into()]);
        let bias = input("bias", &["rows".into(), 1.into(), "new".into(), "all".into()]);
        let y = write(&graph, graph.at("m"), [x, angles, bias]);
        match graph.finish(&[y]) {
            Ok(model) => format!("{} {} {}", model.type_of(y), model.opset(), model.ir_version()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn operators_of_version_23_keep_shapes_and_raise_the_version() {
        let weight = |g: &Graph, size| g.declare("w", DType::F32, &[size]);
        assert_eq!(outcome(|g, op, [x, ..]| op.rms_normalization(x, weight(g, 32), 1e-5)), "f32[rows, new, 32] 23 11");
        assert_eq!(outcome(|_, op, [x, angles, _]| op.rotary_embedding(x, angles, angles, 2)), "f32[rows, new, 32] 23 11");
        let expected = "m: RMSNormalization: weight must have shape [32], got [31]";
        assert_eq!(outcome(|g, op, [x, ..]| op.rms_normalization(x, weight(g, 31), 1e-5)), expected);
        let expected = "m: RotaryEmbedding: cos must have shape [rows, new, 4], got [rows, new, 8]";
        assert_eq!(outcome(|_, op, [x, angles, _]| op.rotary_embedding(x, angles, angles, 4)), expected);
    }

    #[test]
    fn attention_has_as_many_present_tokens_as_the_bias_has_columns() {
        let attend = |kv_num_heads: usize, part: usize| {
            outcome(|g, op, [x, _, bias]| {
                let past = |name| g.input(name, Type::new(DType::F32, ["rows".into(), 2.into(), "past".into(), 16.into()]));
                let past = [past("past_key"), past("past_value")];
                op.attention(Attention { query: x, key: x, value: x, bias, past, num_heads: 2, kv_num_heads })[part]
            })
        };
        assert_eq!(attend(2, 0), "f32[rows, new, 32] 23 11");
        assert_eq!(attend(2, 1), "f32[rows, 2, all, 16] 23 11");
        assert_eq!(attend(1, 0), "m: Attention: key must have shape [rows, new, 16], got [rows, new, 32]");
    }

    #[test]
    fn a_mask_is_compared_and_chosen_by_and_the_plain_operators_leave_the_version() {
        let pairs = outcome(|g, op, [_, _, bias]| {
            let lowest = g.shared_f32(f32::MIN);
            let seen = op.and(op.less(bias, lowest), op.less_or_equal(bias, lowest));
            op.unsqueeze(op.choose(seen, g.shared_f32(0.0), lowest), 0)
        });
        assert_eq!(pairs, "f32[1, rows, 1, new, all] 21 10");
        let product = outcome(|g, op, [x, ..]| op.gemm_transposed(op.cos(op.sin(x)), g.declare("table", DType::F32, &[100, 32])));
        assert_eq!(product, "f32[rows, new, 100] 21 10");
    }
}
