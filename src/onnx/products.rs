//! ONNX's operators for sums over tokens, each checked and inferred at insertion.

use std::ops::Range;

use super::ir::{Attribute, Dim, Shape, Type, Value};
use super::ops::{Ops, at_least, attribute_cause, broadcast, expect_shape, floating, same_dtype, shape_cause, split_last};

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

    /// `a · b + c`. ONNX Gemm-13: `a [m, t]`, `b [t, n]`, `c [m, n]` → `[m, n]`.
    #[track_caller]
    pub fn add_product(&self, a: Value, b: Value, c: Value) -> Value {
        self.onnx("Gemm", [a, b, c], [], |types| {
            floating("a", &types[0])?;
            same_dtype("b", &types[1], &types[0])?;
            same_dtype("c", &types[2], &types[0])?;
            match (types[0].shape.0.as_slice(), types[1].shape.0.as_slice()) {
                ([m, t], [same, n]) if t == same => {
                    expect_shape("c", &types[2], &Shape(vec![m.clone(), n.clone()]))?;
                    Ok(types[2].clone())
                }
                _ => Err(shape_cause("b", format!("[t, n] with the columns of a {}", types[0].shape), &types[1])),
            }
        })
    }

    /// Rows for columns. ONNX Transpose-21: `x [m, n]` → `[n, m]`.
    #[track_caller]
    pub fn transposed(&self, x: Value) -> Value {
        self.onnx("Transpose", [x], [("perm", Attribute::Ints(vec![1, 0]))], |types| match types[0].shape.0.as_slice() {
            [rows, columns] => Ok(Type::new(types[0].dtype, [columns.clone(), rows.clone()])),
            _ => Err(shape_cause("x", "[m, n]".to_owned(), &types[0])),
        })
    }

    /// The first rows; no node where they are all. ONNX Slice-13 (axis 0): `x [n, k]` → `[rows, k]`.
    #[track_caller]
    pub fn first_rows(&self, x: Value, rows: usize) -> Value {
        self.part(x, 0, 0..rows)
    }

    /// Some columns; no node where they are all. ONNX Slice-13 (axis 1): `x [rows, k]` → `[rows, columns]`.
    #[track_caller]
    pub fn columns(&self, x: Value, columns: Range<usize>) -> Value {
        self.part(x, 1, columns)
    }

    /// `|x|`. ONNX Abs-13: shape kept.
    #[track_caller]
    pub fn abs(&self, x: Value) -> Value {
        self.onnx("Abs", [x], [], |types| floating("x", &types[0]).map(|()| types[0].clone()))
    }

    /// The greater of two. ONNX Max-13: shapes broadcast.
    #[track_caller]
    pub fn max(&self, a: Value, b: Value) -> Value {
        self.onnx("Max", [a, b], [], broadcast)
    }

    #[track_caller]
    fn part(&self, x: Value, axis: usize, range: Range<usize>) -> Value {
        let whole = |ty: Type| ty.shape.0.get(axis) == Some(&Dim::Known(range.end)) && range.start == 0;
        if self.graph().type_of(x).is_some_and(whole) {
            return x;
        }
        let list = |value: usize| self.graph().shared_i64(&[1], &[value as i64]);
        let operands = [x, list(range.start), list(range.end), list(axis)];
        self.onnx("Slice", operands, [], |types| {
            let mut shape = types[0].shape.clone();
            match shape.0.get_mut(axis) {
                Some(Dim::Known(size)) if range.start <= range.end && range.end <= *size => *size = range.len(),
                Some(Dim::Known(_)) => return Err(attribute_cause("end", "inside x", range.end)),
                _ => return Err(shape_cause("x", format!("a known size on axis {axis}"), &types[0])),
            }
            Ok(Type::new(types[0].dtype, shape))
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
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn operators_infer_types() {
        assert_eq!(outcome(|_, op, [x, _]| op.flatten(x, "tokens")), "f32[tokens, 32]");
        assert_eq!(outcome(|_, op, [x, _]| op.columns(op.flatten(x, "tokens"), 8..20)), "f32[tokens, 12]");
        assert_eq!(outcome(|_, op, [_, c]| op.reduce_max(op.abs(c), 0)), "f32[8]");
        assert_eq!(outcome(|_, op, [_, c]| op.max(c, op.reduce_max(c, 0))), "f32[32, 8]");
        assert_eq!(outcome(|_, op, [_, c]| op.first_rows(op.transposed(c), 3)), "f32[3, 32]");
        let product = outcome(|_, op, [x, c]| {
            let x = op.flatten(x, "tokens");
            op.add_product(op.transposed(x), op.columns(x, 0..8), c)
        });
        assert_eq!(product, "f32[32, 8]");
    }

    #[test]
    fn a_part_that_is_everything_takes_no_node() {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F32, ["tokens".into(), 32.into()]));
        let op = graph.at("part");
        assert_eq!(op.columns(x, 0..32), x);
        let y = op.transposed(x);
        assert_eq!(op.first_rows(y, 32), y);
        assert_ne!(op.first_rows(y, 31), y);
    }

    #[test]
    fn operators_refuse_operands_that_do_not_fit() {
        let expected = "part: Slice: end must be inside x, got 33";
        assert_eq!(outcome(|_, op, [x, _]| op.columns(op.flatten(x, "tokens"), 30..33)), expected);
        let expected = "part: Slice: x must have shape a known size on axis 1, got [batch, sequence, 32]";
        assert_eq!(outcome(|_, op, [x, _]| op.columns(x, 0..1)), expected);
        let expected = "part: Transpose: x must have shape [m, n], got [batch, sequence, 32]";
        assert_eq!(outcome(|_, op, [x, _]| op.transposed(x)), expected);
        let expected = "part: Gemm: c must have shape [32, 32], got [32, 8]";
        let wide = |_: &Graph, op: Ops<'_>, [x, c]: [Value; 2]| {
            let x = op.flatten(x, "tokens");
            op.add_product(op.transposed(x), x, c)
        };
        assert_eq!(outcome(wide), expected);
        let expected = "part: Gemm: b must have shape [t, n] with the columns of a [32, 8], got [32, 8]";
        assert_eq!(outcome(|_, op, [_, c]| op.add_product(c, c, c)), expected);
        let expected = "part: Max: shapes [32, 8] and [8, 32] do not broadcast";
        assert_eq!(outcome(|_, op, [_, c]| op.max(c, op.transposed(c))), expected);
    }
}
