//! ONNX's operators for sums over tokens, each checked and inferred at insertion.

use std::ops::Range;

use super::ir::{Attribute, Dim, Shape, Type, Value};
use super::ops::{Ops, at_least, attribute_cause, expect_shape, floating, same_dtype, shape_cause, split_last};

impl Ops<'_> {
    /// All axes but the last made one, named `rows`. ONNX Flatten-21 (axis −1): `x [leading…, k]` → `[rows, k]`.
    #[track_caller]
    pub fn flatten(&self, x: Value, rows: &str) -> Value {
        self.onnx("Flatten", [x], [("axis", Attribute::Int(-1))], |types| {
            at_least("x", &types[0], 1)?;
            let (_, last) = split_last(&types[0].shape);
            Ok(Type::new(types[0].dtype, [Dim::from(rows), last]))
        })
    }

    /// `aᵀ · b + c`. ONNX Gemm-13 (transA = 1): `a [t, m]`, `b [t, n]`, `c [m, n]` → `[m, n]`.
    #[track_caller]
    pub fn add_product_over_rows(&self, a: Value, b: Value, c: Value) -> Value {
        self.onnx("Gemm", [a, b, c], [("transA", Attribute::Int(1))], |types| {
            floating("a", &types[0])?;
            same_dtype("b", &types[1], &types[0])?;
            same_dtype("c", &types[2], &types[0])?;
            match (types[0].shape.0.as_slice(), types[1].shape.0.as_slice()) {
                ([t, m], [same, n]) if t == same => {
                    expect_shape("c", &types[2], &Shape(vec![m.clone(), n.clone()]))?;
                    Ok(types[2].clone())
                }
                _ => Err(shape_cause("b", format!("[t, n] with the rows of a {}", types[0].shape), &types[1])),
            }
        })
    }

    /// Some columns. ONNX Slice-13 (axis 1): `x [rows, k]` → `[rows, columns]`.
    #[track_caller]
    pub fn columns(&self, x: Value, columns: Range<usize>) -> Value {
        let list = |value: usize| self.graph().shared_i64(&[1], &[value as i64]);
        let (start, end, axis) = (list(columns.start), list(columns.end), list(1));
        self.onnx("Slice", [x, start, end, axis], [], |types| match types[0].shape.0.as_slice() {
            [rows, Dim::Known(width)] if columns.start <= columns.end && columns.end <= *width => {
                Ok(Type::new(types[0].dtype, [rows.clone(), columns.len().into()]))
            }
            [_, Dim::Known(_)] => Err(attribute_cause("columns", "inside x", columns.end)),
            _ => Err(shape_cause("x", "[rows, a known size]".to_owned(), &types[0])),
        })
    }

    /// `|x|`. ONNX Abs-13: shape kept.
    #[track_caller]
    pub fn abs(&self, x: Value) -> Value {
        self.onnx("Abs", [x], [], |types| floating("x", &types[0]).map(|()| types[0].clone()))
    }

    /// The greater of two. ONNX Max-13: equal shapes.
    #[track_caller]
    pub fn max(&self, a: Value, b: Value) -> Value {
        self.onnx("Max", [a, b], [], |types| {
            floating("a", &types[0])?;
            same_dtype("b", &types[1], &types[0])?;
            expect_shape("b", &types[1], &types[0].shape)?;
            Ok(types[0].clone())
        })
    }

    /// Greatest over one axis, which goes. ONNX ReduceMax-20.
    #[track_caller]
    pub fn reduce_max(&self, x: Value, axis: usize) -> Value {
        let axes = self.graph().shared_i64(&[1], &[axis as i64]);
        self.onnx("ReduceMax", [x, axes], [("keepdims", Attribute::Int(0))], |types| {
            at_least("x", &types[0], axis + 1)?;
            let mut shape = types[0].shape.clone();
            shape.0.remove(axis);
            Ok(Type::new(types[0].dtype, shape))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::onnx::{Graph, Ops, Type, Value};
    use crate::tensor::DType;

    /// What `write` makes of `x [batch, sequence, 32]` and `c [32, 8]` in f32: the type, or the message without its place.
    fn outcome(write: impl FnOnce(&Graph, Ops<'_>, [Value; 2]) -> Value) -> String {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), "sequence".into(), 32.into()]));
        let c = graph.declare("c", DType::F32, &[32, 8]);
        let y = write(&graph, graph.at("part"), [x, c]);
        match graph.finish(&[y]) {
            Ok(model) => model.type_of(y).to_string(),
            Err(error) => error.to_string().split(" (inserted at ").next().expect("split gives a first part").to_owned(),
        }
    }

    #[test]
    fn operators_infer_types() {
        assert_eq!(outcome(|_, op, [x, _]| op.flatten(x, "tokens")), "f32[tokens, 32]");
        assert_eq!(outcome(|_, op, [x, _]| op.columns(op.flatten(x, "tokens"), 8..20)), "f32[tokens, 12]");
        assert_eq!(outcome(|_, op, [_, c]| op.reduce_max(op.abs(c), 0)), "f32[8]");
        assert_eq!(outcome(|_, op, [_, c]| op.max(c, c)), "f32[32, 8]");
        let product = outcome(|_, op, [x, c]| {
            let x = op.flatten(x, "tokens");
            op.add_product_over_rows(x, op.columns(x, 0..8), c)
        });
        assert_eq!(product, "f32[32, 8]");
    }

    #[test]
    fn operators_refuse_operands_that_do_not_fit() {
        let expected = "part: Slice: columns must be inside x, got 33";
        assert_eq!(outcome(|_, op, [x, _]| op.columns(op.flatten(x, "tokens"), 30..33)), expected);
        let expected = "part: Slice: x must have shape [rows, a known size], got [batch, sequence, 32]";
        assert_eq!(outcome(|_, op, [x, _]| op.columns(x, 0..1)), expected);
        let expected = "part: Gemm: c must have shape [32, 32], got [32, 8]";
        let wide = |_: &Graph, op: Ops<'_>, [x, c]: [Value; 2]| {
            let x = op.flatten(x, "tokens");
            op.add_product_over_rows(x, x, c)
        };
        assert_eq!(outcome(wide), expected);
        let expected = "part: Gemm: b must have shape [t, n] with the rows of a [tokens, 32], got [32, 8]";
        assert_eq!(outcome(|_, op, [x, c]| op.add_product_over_rows(op.flatten(x, "tokens"), c, c)), expected);
        let expected = "part: Max: b must have shape [32, 8], got [8]";
        assert_eq!(outcome(|_, op, [_, c]| op.max(c, op.reduce_max(c, 0))), expected);
    }
}
