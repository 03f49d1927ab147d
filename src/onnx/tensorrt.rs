//! Whether TensorRT's parser takes a graph, by what its documentation says: nothing here runs it.
//!
//! Source: `docs/operators.md` of onnx-tensorrt (10.15, which has RMSNormalization, RotaryEmbedding and Attention of version 23), and
//! "Quantization Schemes" of TensorRT's documentation.

use super::ir::{Attribute, Domain, Model, Node, Value};
use crate::tensor::DType;

/// Weights that share a scale where they have 4 bits.
pub const BLOCKS: [usize; 2] = [64, 128];

/// Of the operators that the parser knows, those that graphs of decoders have.
const OPERATORS: [&str; 39] = [
    "Add",
    "And",
    "Attention",
    "Cast",
    "Concat",
    "Cos",
    "CumSum",
    "DequantizeLinear",
    "Div",
    "Equal",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "MatMul",
    "Mul",
    "Not",
    "Or",
    "RMSNormalization",
    "Range",
    "ReduceMax",
    "ReduceMin",
    "ReduceSum",
    "Reshape",
    "RotaryEmbedding",
    "Shape",
    "Sigmoid",
    "Sin",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// What of the graph it does not take, one sentence each.
pub fn violations(model: &Model) -> Vec<String> {
    let is_known = |node: &&Node| node.domain == Domain::Onnx && OPERATORS.contains(&node.op_type.as_str());
    let unknown = model.nodes().iter().filter(|node| !is_known(node));
    let unknown = unknown.map(|node| format!("node {}: TensorRT has no {}", node.name, node.op_type));
    let scaled = model.nodes().iter().filter(|node| node.op_type == "DequantizeLinear");
    unknown.chain(scaled.filter_map(|node| dequantize(model, node))).collect()
}

/// What is wrong with a DequantizeLinear.
fn dequantize(model: &Model, node: &Node) -> Option<String> {
    let (codes, scales) = (node.inputs.first().copied().flatten()?, node.inputs.get(1).copied().flatten()?);
    let is_constant = |value: Value| model.initializers().iter().any(|initializer| initializer.value == value);
    let number = |name: &str| match node.attribute(name) {
        Some(Attribute::Int(number)) => *number,
        _ => 0,
    };
    let problem = if !is_constant(scales) {
        Some("its scales are computed, expected an initializer".to_owned())
    } else if node.inputs.get(2).copied().flatten().is_some() {
        Some("has zero points, expected none".to_owned())
    } else {
        match (model.type_of(codes).dtype, number("block_size") as usize) {
            (DType::I4, size) if BLOCKS.contains(&size) => None,
            (DType::I4, size) => Some(format!("has blocks of {size}, expected 64 or 128")),
            (DType::I8, 0) => None,
            (DType::I8, _) => Some("has blocks of int8, expected one scale for each output".to_owned()),
            (dtype, _) => Some(format!("its codes are {}, expected int4 or int8", dtype.name())),
        }
    };
    problem.map(|problem| format!("node {}: {problem}", node.name))
}
