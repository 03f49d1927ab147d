//! ONNX's operators that find places and move elements by them: rows of a cache, tokens of a padded batch.

use super::graph::GraphCause;
use super::ir::{Attribute, Dim, Shape, Type, Value};
use super::ops::{Ops, at_least, expect_dtype, expect_shape, floating, integer, same_dtype, shape_cause, split_last};
use crate::tensor::DType;

impl Ops<'_> {
    /// `data` with `data[indices[i, 0], …] = updates[i]`. ONNX ScatterND-18: `data [a, rest…]`, `indices` int64
    /// `[places…, 1]`, `updates [places…, rest…]` → as `data`; any number of indexed axes.
    #[track_caller]
    pub fn scatter_nd(&self, data: Value, indices: Value, updates: Value) -> Value {
        self.onnx("ScatterND", [data, indices, updates], [], |types| {
            let (places, rest) = indexed(&types[0], &types[1])?;
            same_dtype("updates", &types[2], &types[0])?;
            expect_shape("updates", &types[2], &Shape([places, rest].concat()))?;
            Ok(types[0].clone())
        })
    }

    /// `x` repeated to the shape in `dims`, which the caller knows to be `shape`. ONNX Expand-13: `dims` int64 `[rank]`.
    #[track_caller]
    pub fn expand(&self, x: Value, dims: Value, shape: Shape) -> Value {
        self.onnx("Expand", [x, dims], [], |types| {
            expect_dtype("dims", &types[1], DType::I64)?;
            expect_shape("dims", &types[1], &Shape::known(&[shape.rank()]))?;
            Ok(Type::new(types[0].dtype, shape))
        })
    }

    /// A one for each element of `x`, int64. ONNX Expand-13.
    #[track_caller]
    pub fn ones_like(&self, x: Value) -> Value {
        let shape = self.graph().type_of(x).map_or_else(Shape::default, |ty| ty.shape);
        let one = self.graph().shared_i64(&[1], &[1]);
        self.expand(one, self.shape_of(x), shape)
    }

    /// The last columns of `x`, as many as `like` has. ONNX Slice-13: `x [m, n]`, `like [m, k]` with `k` at most `n` → `[m, k]`.
    #[track_caller]
    pub fn last_columns(&self, x: Value, like: Value) -> Value {
        let list = |value| self.graph().shared_i64(&[1], &[value]);
        let (sizes, like) = (self.shape_of(like), self.graph().type_of(like));
        let first = self.sub(list(0), self.gather(sizes, list(1)));
        self.onnx("Slice", [x, first, list(i64::MAX), list(1)], [], |types| {
            let (rows, _) = matrix("x", &types[0])?;
            let Some(like) = like else { return Ok(types[0].clone()) }; // the graph has failed
            let (same, columns) = matrix("like", &like)?;
            match same == rows {
                true => Ok(Type::new(types[0].dtype, [rows.clone(), columns.clone()])),
                false => Err(shape_cause("like", format!("[{rows}, k]"), &like)),
            }
        })
    }

    /// Where on `axis` the greatest element is, the first of equals; the axis stays, with size 1. ONNX ArgMax-13 → int64.
    #[track_caller]
    pub fn arg_max(&self, x: Value, axis: usize) -> Value {
        let attributes = [("axis", Attribute::Int(axis as i64)), ("keepdims", Attribute::Int(1))];
        self.onnx("ArgMax", [x], attributes, |types| {
            floating("x", &types[0])?;
            at_least("x", &types[0], axis + 1)?;
            let mut shape = types[0].shape.clone();
            shape.0[axis] = Dim::Known(1);
            Ok(Type::new(DType::I64, shape))
        })
    }

    /// For each element the sum of those before it on `axis`. ONNX CumSum-14 (exclusive): shape kept.
    #[track_caller]
    pub fn sum_before(&self, x: Value, axis: usize) -> Value {
        let axis_operand = self.graph().shared_i64(&[], &[axis as i64]);
        self.onnx("CumSum", [x, axis_operand], [("exclusive", Attribute::Int(1))], |types| {
            at_least("x", &types[0], axis + 1)?;
            Ok(types[0].clone())
        })
    }

    /// One behind the other on `axis`, whose size is then `size`. ONNX Concat-13: element type and other axes are equal.
    #[track_caller]
    pub fn concat(&self, parts: [Value; 2], axis: usize, size: impl Into<Dim>) -> Value {
        self.onnx("Concat", parts, [("axis", Attribute::Int(axis as i64))], |types| {
            let resized = |ty: &Type, size: Dim| {
                at_least("x", ty, axis + 1)?;
                let mut shape = ty.shape.clone();
                shape.0[axis] = size;
                Ok::<_, GraphCause>(shape)
            };
            let size = size.into();
            let shape = resized(&types[0], size.clone())?;
            same_dtype("b", &types[1], &types[0])?;
            if resized(&types[1], size)? != shape {
                return Err(shape_cause("b", format!("{} but for axis {axis}", types[0].shape), &types[1]));
            }
            Ok(Type::new(types[0].dtype, shape))
        })
    }

    /// `y[i, j] = x[i, indices[i, j]]`, here for the second of two axes. ONNX GatherElements-13 (axis 1): `x [m, n]`, `indices [m, k]`
    /// int32 or int64 → `[m, k]`.
    #[track_caller]
    pub fn gather_columns(&self, x: Value, indices: Value) -> Value {
        self.onnx("GatherElements", [x, indices], [("axis", Attribute::Int(1))], |types| {
            integer("indices", &types[1])?;
            let (rows, columns) = (matrix("x", &types[0])?.0, matrix("indices", &types[1])?);
            match *rows == *columns.0 {
                true => Ok(Type::new(types[0].dtype, types[1].shape.clone())),
                false => Err(shape_cause("indices", format!("[{rows}, k]"), &types[1])),
            }
        })
    }

    /// `y[i, j] = x[i, places[i, j, 0]]`. ONNX GatherND-13 (batch_dims 1): `x [m, n, rest…]`, `places` int64 `[m, k, 1]` →
    /// `[m, k, rest…]`.
    #[track_caller]
    pub fn gather_places(&self, x: Value, places: Value) -> Value {
        self.onnx("GatherND", [x, places], [("batch_dims", Attribute::Int(1))], |types| {
            at_least("x", &types[0], 2)?;
            expect_dtype("places", &types[1], DType::I64)?;
            let (rows, rest) = (&types[0].shape.0[0], &types[0].shape.0[2..]);
            match types[1].shape.0.as_slice() {
                [same, count, Dim::Known(1)] if same == rows => {
                    Ok(Type::new(types[0].dtype, Shape([&[rows.clone(), count.clone()], rest].concat())))
                }
                _ => Err(shape_cause("places", format!("[{rows}, k, 1]"), &types[1])),
            }
        })
    }
}

fn matrix<'t>(operand: &'static str, ty: &'t Type) -> Result<(&'t Dim, &'t Dim), GraphCause> {
    match ty.shape.0.as_slice() {
        [rows, columns] => Ok((rows, columns)),
        _ => Err(shape_cause(operand, "[m, n]".to_owned(), ty)),
    }
}

/// Axes of the places that `indices` names, and the axes of `data` that each place still has.
fn indexed(data: &Type, indices: &Type) -> Result<(Vec<Dim>, Vec<Dim>), GraphCause> {
    expect_dtype("indices", indices, DType::I64)?;
    at_least("indices", indices, 1)?;
    let (places, depth) = split_last(&indices.shape);
    match depth {
        Dim::Known(depth) if depth <= data.shape.rank() => Ok((places.to_vec(), data.shape.0[depth..].to_vec())),
        _ => Err(shape_cause("indices", format!("[…, at most {}]", data.shape.rank()), indices)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Graph, GraphCause};

    fn typed(dtype: DType, shape: &[usize]) -> Type {
        Type::new(dtype, Shape::known(shape))
    }

    #[test]
    fn scattered_rows_keep_the_shape_and_must_be_as_many_as_their_places() {
        let scatter = |updates: &[usize]| {
            let graph = Graph::new("test");
            let data = graph.input("data", typed(DType::F16, &[8, 2, 3]));
            let places = graph.input("places", typed(DType::I64, &[4, 1]));
            let updates = graph.input("updates", typed(DType::F16, updates));
            let y = graph.at("m").scatter_nd(data, places, updates);
            graph.finish(&[y]).map(|model| model.type_of(y).to_string())
        };
        assert_eq!(scatter(&[4, 2, 3]).expect("four rows for four places"), "f16[8, 2, 3]");
        let cause = scatter(&[5, 2, 3]).expect_err("five rows for four places").cause;
        assert_eq!(cause.to_string(), "updates must have shape [4, 2, 3], got [5, 2, 3]");
    }

    /// The type of what `write` makes of a mask `[rows, total]`, ids `[rows, new]` and `x [rows, new, 4]`, or the message.
    fn outcome(write: impl FnOnce(Ops<'_>, [Value; 3]) -> Value) -> String {
        let graph = Graph::new("test");
        let mask = graph.input("mask", Type::new(DType::I64, ["rows".into(), "total".into()]));
        let ids = graph.input("ids", Type::new(DType::I64, ["rows".into(), "new".into()]));
        let x = graph.input("x", Type::new(DType::F16, ["rows".into(), "new".into(), 4.into()]));
        let y = write(graph.at("m"), [mask, ids, x]);
        match graph.finish(&[y]) {
            Ok(model) => model.type_of(y).to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn places_of_a_padded_batch_have_the_shapes_that_they_are_used_with() {
        assert_eq!(outcome(|op, [_, ids, _]| op.sum_before(op.ones_like(ids), 1)), "int64[rows, new]");
        assert_eq!(outcome(|op, [mask, ids, _]| op.last_columns(mask, ids)), "int64[rows, new]");
        assert_eq!(outcome(|op, [.., x]| op.arg_max(x, 1)), "int64[rows, 1, 4]");
        assert_eq!(outcome(|op, [mask, ids, _]| op.concat([mask, ids], 1, "all")), "int64[rows, all]");
        assert_eq!(outcome(|op, [mask, ids, _]| op.gather_columns(mask, ids)), "int64[rows, new]");
        assert_eq!(outcome(|op, [_, ids, x]| op.gather_places(x, op.reshape(ids, &[0, 0, 1]))), "f16[rows, new, 4]");
    }

    #[test]
    fn places_that_do_not_fit_are_refused() {
        let expected = "m: ArgMax: x must be f32, f16 or bf16, got int64";
        assert_eq!(outcome(|op, [mask, ..]| op.arg_max(mask, 1)), expected);
        let expected = "m: GatherND: places must have shape [rows, k, 1], got [rows, new]";
        assert_eq!(outcome(|op, [_, ids, x]| op.gather_places(x, ids)), expected);
        let expected = "m: GatherElements: x must have shape [m, n], got [rows, new, 4]";
        assert_eq!(outcome(|op, [_, ids, x]| op.gather_columns(x, ids)), expected);
        let expected = "m: Concat: b must have shape [rows, total] but for axis 0, got [rows, new]";
        assert_eq!(outcome(|op, [mask, ids, _]| op.concat([mask, ids], 0, "both")), expected);
    }

    #[test]
    fn an_expanded_value_has_the_shape_that_was_promised_and_one_size_for_each_axis() {
        let expand = |sizes: usize| {
            let graph = Graph::new("test");
            let x = graph.input("x", typed(DType::F32, &[1, 1]));
            let dims = graph.input("dims", typed(DType::I64, &[sizes]));
            let y = graph.at("m").expand(x, dims, ["rows".into(), 3.into()].into());
            graph.finish(&[y]).map(|model| model.type_of(y).to_string())
        };
        assert_eq!(expand(2).expect("two sizes for two axes"), "f32[rows, 3]");
        let cause = expand(3).expect_err("three sizes for two axes").cause;
        assert!(matches!(cause, GraphCause::Shape { operand: "dims", .. }), "{cause}");
    }
}
