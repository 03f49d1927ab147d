//! ONNX Runtime's own DequantizeLinear on one weight's bytes: what any other program will see.

use ort::value::Tensor;

use super::locate::runtime;
use super::session::{self, Placement, Products, SessionPlan};
use super::{ExecutionProvider, RuntimeError, Weights};
use crate::onnx::{Graph, GraphError, Model, QuantizedOperand, Type, encode};
use crate::tensor::DType;

/// A weight as DequantizeLinear on axis 0 stores it.
#[derive(Debug, Clone, Copy)]
pub struct Blocked<'a> {
    /// `[in_features, out_features]`, packed.
    pub codes: &'a [u8],
    pub code_dtype: DType,
    pub shape: [usize; 2],
    /// f16, `[⌈in_features / block_size⌉, out_features]`, or `[out_features]` without a block size.
    pub scales: &'a [u8],
    pub zero_points: Option<&'a [u8]>,
    pub block_size: Option<usize>,
}

/// The weights `[in_features, out_features]` in f32, as ONNX Runtime's CPU kernel computes them.
///
/// # Errors
/// ONNX Runtime is missing or refuses the tensor.
pub fn dequantize(weight: &Blocked<'_>) -> Result<Vec<f32>, RuntimeError> {
    let provider = ExecutionProvider::Cpu;
    let model = graph(weight).map_err(|error| RuntimeError::Graph(Box::new(error)))?;
    let bytes = encode(&model).map_err(|error| RuntimeError::Graph(Box::new(error)))?;
    let plan = SessionPlan {
        provider,
        threads: None,
        data: None,
        weights: Weights::Fused,
        placement: Placement::AllOnProvider,
        products: Products::F32,
    };
    let mut session = session::open(&runtime(provider)?, &plan, &bytes, "a DequantizeLinear node")?;
    let mut inner = || {
        let zero = Tensor::from_array(([0usize; 0], vec![0f32]))?;
        let outputs = session.run(ort::inputs!["zero" => zero])?;
        Ok(outputs["weights"].try_extract_tensor::<f32>()?.1.to_vec())
    };
    inner().map_err(RuntimeError::run("dequantizing a weight"))
}

/// `zero` is added so that the graph has an input; −0 + 0 is 0, so the sign of a zero is not compared.
fn graph(weight: &Blocked<'_>) -> Result<Model, GraphError> {
    let graph = Graph::new("dequantize");
    let op = graph.at("");
    let [in_features, out_features] = weight.shape;
    let scales_shape = match weight.block_size {
        Some(size) => vec![in_features.div_ceil(size), out_features],
        None => vec![out_features],
    };
    let codes = graph.constant("codes", weight.code_dtype, &weight.shape, weight.codes.to_vec());
    let scales = op.cast(graph.constant("scales", DType::F16, &scales_shape, weight.scales.to_vec()), DType::F32);
    let zero_points =
        weight.zero_points.map(|bytes| graph.constant("zero_points", weight.code_dtype, &scales_shape, bytes.to_vec()));
    let weights = op.dequantize_linear(QuantizedOperand { codes, scales, zero_points }, weight.block_size);
    let zero = graph.input("zero", Type::new(DType::F32, []));
    let weights = graph.rename(op.add(weights, zero), "weights");
    graph.finish(&[weights])
}
