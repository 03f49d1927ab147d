//! ONNX's own operators, each checked and inferred at insertion. ONNX Runtime's are in [`contrib`](super::contrib).

use std::panic::Location;

use super::graph::{Graph, GraphCause, NewNode};
use super::ir::{Attribute, Dim, Domain, Shape, Type, Value};
use crate::tensor::DType;

/// Operators of one module: nodes and intermediate values are named after its path.
#[derive(Clone, Copy)]
pub struct Ops<'g> {
    pub(super) graph: &'g Graph,
    pub(super) path: &'g str,
}

impl<'g> Ops<'g> {
    pub(super) fn new(graph: &'g Graph, path: &'g str) -> Ops<'g> {
        Ops { graph, path }
    }

    /// The graph that is written to.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Size of the last axis; zero once the graph has failed, when nothing depends on it.
    #[track_caller]
    pub fn last_dim(&self, x: Value) -> usize {
        let Some(ty) = self.graph.type_of(x) else { return 0 };
        match ty.shape.0.last() {
            Some(Dim::Known(size)) => *size,
            _ => {
                let cause = GraphCause::Shape { operand: "x", expected: "[…, a known size]".to_owned(), got: ty.shape };
                self.graph.refuse(self.path, "last_dim", cause);
                0
            }
        }
    }

    /// `data[indices]` on axis 0. ONNX Gather-13: `data [n, rest…]`, `indices` any shape, int32 or int64 →
    /// `[indices…, rest…]`.
    #[track_caller]
    pub fn gather(&self, data: Value, indices: Value) -> Value {
        self.onnx("Gather", [data, indices], [("axis", Attribute::Int(0))], |types| {
            integer("indices", &types[1])?;
            at_least("data", &types[0], 1)?;
            let shape = [types[1].shape.0.as_slice(), &types[0].shape.0[1..]].concat();
            Ok(Type::new(types[0].dtype, Shape(shape)))
        })
    }

    /// `x[…, indices]` on the last axis. ONNX Gather-13: `x [rest…, n]`, `indices [m]`, int32 or int64 → `[rest…, m]`.
    #[track_caller]
    pub fn gather_last(&self, x: Value, indices: Value) -> Value {
        self.onnx("Gather", [x, indices], [("axis", Attribute::Int(-1))], |types| {
            integer("indices", &types[1])?;
            at_least("x", &types[0], 1)?;
            let (leading, _) = split_last(&types[0].shape);
            match types[1].shape.0.as_slice() {
                [count] => Ok(Type::new(types[0].dtype, extended(leading, count.clone()))),
                _ => Err(shape_cause("indices", "[m]".to_owned(), &types[1])),
            }
        })
    }

    /// `x · w`. ONNX MatMul-13: `x [batch…, m, k]`, `w [k, n]` → `[batch…, m, n]`.
    #[track_caller]
    pub fn matmul(&self, x: Value, w: Value) -> Value {
        self.onnx("MatMul", [x, w], [], |types| {
            at_least("x", &types[0], 2)?;
            same_dtype("w", &types[1], &types[0])?;
            let (leading, inner) = split_last(&types[0].shape);
            match types[1].shape.0.as_slice() {
                [rows, columns] if *rows == inner => Ok(Type::new(types[0].dtype, extended(leading, columns.clone()))),
                _ => Err(shape_cause("w", format!("[{inner}, n]"), &types[1])),
            }
        })
    }

    /// `a + b`. ONNX Add-14: shapes broadcast.
    #[track_caller]
    pub fn add(&self, a: Value, b: Value) -> Value {
        self.onnx("Add", [a, b], [], broadcast)
    }

    /// `a − b`. ONNX Sub-14: shapes broadcast.
    #[track_caller]
    pub fn sub(&self, a: Value, b: Value) -> Value {
        self.onnx("Sub", [a, b], [], broadcast)
    }

    /// `a ⊙ b`. ONNX Mul-14: shapes broadcast.
    #[track_caller]
    pub fn mul(&self, a: Value, b: Value) -> Value {
        self.onnx("Mul", [a, b], [], broadcast)
    }

    /// `a / b`. ONNX Div-14: shapes broadcast.
    #[track_caller]
    pub fn div(&self, a: Value, b: Value) -> Value {
        self.onnx("Div", [a, b], [], broadcast)
    }

    /// `a^b`. ONNX Pow-15: shapes broadcast.
    #[track_caller]
    pub fn pow(&self, a: Value, b: Value) -> Value {
        self.onnx("Pow", [a, b], [], broadcast)
    }

    /// `√x`. ONNX Sqrt-13: floating point, shape kept.
    #[track_caller]
    pub fn sqrt(&self, x: Value) -> Value {
        self.onnx("Sqrt", [x], [], |types| floating("x", &types[0]).map(|()| types[0].clone()))
    }

    /// `1 / (1 + e^−x)`. ONNX Sigmoid-13: floating point, shape kept.
    #[track_caller]
    pub fn sigmoid(&self, x: Value) -> Value {
        self.onnx("Sigmoid", [x], [], |types| floating("x", &types[0]).map(|()| types[0].clone()))
    }

    /// `x · sigmoid(x)`; ONNX Runtime fuses the pair to QuickGelu.
    #[track_caller]
    pub fn silu(&self, x: Value) -> Value {
        self.mul(x, self.sigmoid(x))
    }

    /// `x` in another element type; no node where it already has it. ONNX Cast-19: shape kept.
    #[track_caller]
    pub fn cast(&self, x: Value, dtype: DType) -> Value {
        if self.graph.type_of(x).is_some_and(|ty| ty.dtype == dtype) {
            return x;
        }
        let to = Attribute::Int(super::proto::data_type(dtype));
        self.onnx("Cast", [x], [("to", to)], |types| Ok(Type { dtype, ..types[0].clone() }))
    }

    /// The same elements in another shape. ONNX Reshape-19: `dims` holds sizes, or 0 for the size `x` has on that axis.
    #[track_caller]
    pub fn reshape(&self, x: Value, dims: &[usize]) -> Value {
        let list: Vec<i64> = dims.iter().map(|&size| size as i64).collect();
        let wanted = self.graph.shared_i64(&[dims.len()], &list);
        self.onnx("Reshape", [x, wanted], [], |types| reshaped(&types[0], dims))
    }

    /// Sizes of all axes. ONNX Shape-19: any `x` → int64 `[rank]`.
    #[track_caller]
    pub fn shape_of(&self, x: Value) -> Value {
        self.onnx("Shape", [x], [], |types| Ok(Type::new(DType::I64, [Dim::Known(types[0].shape.rank())])))
    }

    /// Sum over one axis, which goes. ONNX ReduceSum-13.
    #[track_caller]
    pub fn reduce_sum(&self, x: Value, axis: usize) -> Value {
        let axes = self.graph.shared_i64(&[1], &[axis as i64]);
        self.onnx("ReduceSum", [x, axes], [("keepdims", Attribute::Int(0))], |types| {
            at_least("x", &types[0], axis + 1)?;
            let mut shape = types[0].shape.clone();
            shape.0.remove(axis);
            Ok(Type::new(types[0].dtype, shape))
        })
    }

    /// Mean over the last axis, which stays with size 1. ONNX ReduceMean-18.
    #[track_caller]
    pub fn mean_of_last(&self, x: Value) -> Value {
        let axes = self.graph.shared_i64(&[1], &[-1]);
        self.onnx("ReduceMean", [x, axes], [("keepdims", Attribute::Int(1))], |types| {
            at_least("x", &types[0], 1)?;
            floating("x", &types[0])?;
            let (leading, _) = split_last(&types[0].shape);
            Ok(Type::new(types[0].dtype, extended(leading, Dim::Known(1))))
        })
    }

    /// `(codes − zero_points) · scales`, a scale for each column of `codes` or for each `block_size` rows of a column.
    ///
    /// ONNX DequantizeLinear-21 (25 for 2-bit codes): `codes [k, n]`, `scales [⌈k / block_size⌉, n]` or `[n]` without a
    /// block size, `zero_points` of the codes' element type and the scales' shape → `[k, n]` of the scales' element type.
    #[track_caller]
    pub fn dequantize_linear(&self, q: QuantizedOperand, block_size: Option<usize>) -> Value {
        let inputs = [Some(q.codes), Some(q.scales), q.zero_points].into_iter().take(2 + usize::from(q.zero_points.is_some()));
        let attributes = match block_size {
            Some(size) => vec![("axis", Attribute::Int(0)), ("block_size", Attribute::Int(size as i64))],
            None => vec![("axis", Attribute::Int(1))],
        };
        let op = NewNode { op_type: "DequantizeLinear", domain: Domain::Onnx, inputs: inputs.collect(), attributes };
        let infer = |types: &[Type]| dequantized(types, block_size).map(|ty| [Some(ty)]);
        let [y] = self.graph.insert(self.path, op, Location::caller(), infer);
        y
    }

    #[track_caller]
    pub(super) fn onnx<const I: usize, const A: usize>(
        &self,
        op_type: &'static str,
        inputs: [Value; I],
        attributes: [(&'static str, Attribute); A],
        infer: impl FnOnce(&[Type]) -> Result<Type, GraphCause>,
    ) -> Value {
        let inputs = inputs.map(Some).into();
        let op = NewNode { op_type, domain: Domain::Onnx, inputs, attributes: attributes.into() };
        let [y] = self.graph.insert(self.path, op, Location::caller(), |types| infer(types).map(|ty| [Some(ty)]));
        y
    }
}

/// Codes and what turns them back into numbers.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedOperand {
    pub codes: Value,
    pub scales: Value,
    pub zero_points: Option<Value>,
}

fn dequantized(types: &[Type], block_size: Option<usize>) -> Result<Type, GraphCause> {
    let (codes, scales) = (&types[0], &types[1]);
    if !matches!(codes.dtype, DType::I8 | DType::U8 | DType::I4 | DType::U4 | DType::I2 | DType::U2) {
        return Err(GraphCause::DType { operand: "codes", expected: "an 8, 4 or 2-bit integer".to_owned(), got: codes.dtype });
    }
    floating("scales", scales)?;
    let Some([k, n]) = codes.shape.sizes().and_then(|sizes| <[usize; 2]>::try_from(sizes).ok()) else {
        return Err(shape_cause("codes", "[k, n]".to_owned(), codes));
    };
    let expected = match block_size {
        Some(0) => return Err(attribute_cause("block_size", "at least 1", 0)),
        Some(size) => Shape::known(&[k.div_ceil(size), n]),
        None => Shape::known(&[n]),
    };
    expect_shape("scales", scales, &expected)?;
    if let Some(zero_points) = types.get(2) {
        same_dtype("zero_points", zero_points, codes)?;
        expect_shape("zero_points", zero_points, &expected)?;
    }
    Ok(Type { dtype: scales.dtype, shape: codes.shape.clone() })
}

fn reshaped(x: &Type, dims: &[usize]) -> Result<Type, GraphCause> {
    let mut shape = Vec::with_capacity(dims.len());
    for (axis, &size) in dims.iter().enumerate() {
        match (size, x.shape.0.get(axis)) {
            (0, Some(kept)) => shape.push(kept.clone()),
            (0, None) => return Err(attribute_cause("dims", "0 only on an axis that x has", axis)),
            (size, _) => shape.push(Dim::Known(size)),
        }
    }
    let known = |shape: &[Dim]| shape.iter().map(|dim| if let Dim::Known(size) = dim { *size } else { 1 }).product::<usize>();
    let named = |shape: &[Dim]| shape.iter().filter(|dim| matches!(dim, Dim::Named(_))).cloned().collect::<Vec<Dim>>();
    if known(&shape) != known(&x.shape.0) || named(&shape) != named(&x.shape.0) {
        return Err(shape_cause("x", format!("as many elements as {}", Shape(shape)), x));
    }
    Ok(Type::new(x.dtype, Shape(shape)))
}

pub(super) fn broadcast(types: &[Type]) -> Result<Type, GraphCause> {
    let (left, right) = (&types[0], &types[1]);
    same_dtype("b", right, left)?;
    let rank = left.shape.rank().max(right.shape.rank());
    let axis_of = |shape: &Shape, axis: usize| match (axis + shape.rank()).checked_sub(rank) {
        Some(own) => shape.0[own].clone(),
        None => Dim::Known(1),
    };
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        match (axis_of(&left.shape, axis), axis_of(&right.shape, axis)) {
            (Dim::Known(1), dim) | (dim, Dim::Known(1)) => shape.push(dim),
            (a, b) if a == b => shape.push(a),
            _ => return Err(GraphCause::Broadcast { left: left.shape.clone(), right: right.shape.clone() }),
        }
    }
    Ok(Type::new(left.dtype, Shape(shape)))
}

pub(super) fn split_last(shape: &Shape) -> (&[Dim], Dim) {
    let (last, leading) = shape.0.split_last().expect("callers checked the rank");
    (leading, last.clone())
}

pub(super) fn extended(leading: &[Dim], last: Dim) -> Shape {
    Shape(leading.iter().cloned().chain([last]).collect())
}

pub(super) fn shape_cause(operand: &'static str, expected: String, got: &Type) -> GraphCause {
    GraphCause::Shape { operand, expected, got: got.shape.clone() }
}

pub(super) fn attribute_cause(name: &'static str, expected: &str, got: usize) -> GraphCause {
    GraphCause::Attribute { name, expected: expected.to_owned(), got: got.to_string() }
}

pub(super) fn expect_shape(operand: &'static str, ty: &Type, expected: &Shape) -> Result<(), GraphCause> {
    if ty.shape == *expected { Ok(()) } else { Err(shape_cause(operand, expected.to_string(), ty)) }
}

pub(super) fn expect_dtype(operand: &'static str, ty: &Type, expected: DType) -> Result<(), GraphCause> {
    if ty.dtype == expected { Ok(()) } else { Err(GraphCause::DType { operand, expected: expected.to_string(), got: ty.dtype }) }
}

pub(super) fn same_dtype(operand: &'static str, ty: &Type, other: &Type) -> Result<(), GraphCause> {
    expect_dtype(operand, ty, other.dtype)
}

pub(super) fn at_least(operand: &'static str, ty: &Type, rank: usize) -> Result<(), GraphCause> {
    if ty.shape.rank() >= rank { Ok(()) } else { Err(shape_cause(operand, format!("at least {rank} axes"), ty)) }
}

pub(super) fn integer(operand: &'static str, ty: &Type) -> Result<(), GraphCause> {
    match ty.dtype {
        DType::I32 | DType::I64 => Ok(()),
        got => Err(GraphCause::DType { operand, expected: "int32 or int64".to_owned(), got }),
    }
}

pub(super) fn floating(operand: &'static str, ty: &Type) -> Result<(), GraphCause> {
    match ty.dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        got => Err(GraphCause::DType { operand, expected: "f32, f16 or bf16".to_owned(), got }),
    }
}
