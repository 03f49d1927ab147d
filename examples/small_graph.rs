//! Writes `y = x·W` with W in INT4 as standard QDQ ONNX, and runs it through ONNX Runtime (`scripts/get-onnxruntime.sh`).
//!
//!     cargo run --release --example small_graph

use std::error::Error;

use ort::session::Session;
use ort::value::Tensor;
use qonnx::onnx::pack::pack_dequantize_linear;
use qonnx::onnx::{Graph, QuantizedOperand, Shape, Type, encode};
use qonnx::quant::{Format, Granularity, ScaleRule, ScaleStorage, Scheme, rtn};
use qonnx::tensor::{DType, transpose};

const OUT_FEATURES: usize = 4;
const IN_FEATURES: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    // Before any thread runs: ONNX Runtime would report to its makers.
    qonnx::runtime::disable_telemetry();
    let weights: Vec<f32> = (0..OUT_FEATURES * IN_FEATURES).map(|at| (at as f32 * 0.7).sin()).collect();
    let scheme = Scheme {
        format: Format::Int { bits: 4, symmetric: true },
        granularity: Granularity::PerGroup(32),
        scale_rule: ScaleRule::LeastSquares,
        scale_storage: ScaleStorage::F16,
    };
    let tensor = rtn(&weights, IN_FEATURES, &scheme);

    let graph = Graph::new("small");
    let x = graph.input("x", Type::new(DType::F32, Shape::known(&[1, IN_FEATURES])));
    let codes = pack_dequantize_linear(&tensor.codes, OUT_FEATURES, IN_FEATURES, DType::I4);
    let codes = graph.constant("codes", DType::I4, &[IN_FEATURES, OUT_FEATURES], codes);
    let scales = transpose(&tensor.scales, OUT_FEATURES, tensor.groups());
    let scales: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let scales = graph.constant("scales", DType::F32, &[IN_FEATURES / 32, OUT_FEATURES], scales);
    let linear = graph.at("linear");
    let w = linear.dequantize_linear(QuantizedOperand { codes, scales, zero_points: None }, Some(32));
    let y = graph.rename(linear.matmul(x, w), "y");
    let model = encode(&graph.finish(&[y])?)?;

    let library = std::env::var("ORT_DYLIB_PATH").map_err(|_| "set ORT_DYLIB_PATH to ONNX Runtime's library")?;
    let environment = ort::init_from(library)?.with_name("small_graph").with_telemetry(false).build()?;
    let mut session = Session::builder(&environment)?.commit_from_memory(&model)?;
    let input = Tensor::from_array(([1, IN_FEATURES], vec![1.0f32; IN_FEATURES]))?;
    let outputs = session.run(ort::inputs!["x" => input])?;
    let (_, y) = outputs["y"].try_extract_tensor::<f32>()?;
    let expected: Vec<f32> = tensor.dequantize().rows().into_iter().map(|row| row.sum()).collect();
    println!("{} bytes of ONNX", model.len());
    println!("ONNX Runtime {y:.4?}");
    println!("by hand      {expected:.4?}");
    let differ = y.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-4);
    if differ { Err("they differ".into()) } else { Ok(()) }
}
