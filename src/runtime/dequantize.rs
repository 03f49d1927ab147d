//! ONNX Runtime's own numbers for a quantized weight of an artifact: what any other program will see.

use half::f16;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor};

use super::data_place::DataPlace;
use super::folder::ArtifactFolder;
use super::locate::runtime;
use super::session::{self, Placement, Products, SessionPlan};
use super::{ExecutionProvider, Launch, RuntimeError, WeightKernels};
use crate::onnx::{IDENTITY, Reading, WeightFinder, WeightModel, encode};
use crate::tensor::{DType, transpose};

/// The weights `[out_features, in_features]` whose codes (or low plane of codes) the initializer `codes` of the artifact
/// holds, as ONNX Runtime's CPU kernels compute them with the artifact's own nodes: in f32, or rounded to f16 where activations
/// are f16. `weights` finds them in the artifact's graph.
///
/// # Errors
/// The initializer holds no codes; ONNX Runtime is missing or refuses the nodes.
pub fn dequantize(artifact: &ArtifactFolder, weights: &WeightFinder<'_>, codes: &str) -> Result<Vec<f32>, RuntimeError> {
    let provider = ExecutionProvider::Cpu;
    let layout = |what: String| RuntimeError::Layout { path: artifact.graph(), what };
    let WeightModel { mut model, reading } = weights.weight_of(codes).map_err(|error| layout(error.to_string()))?;
    let data = DataPlace::of(artifact)?;
    data.point(&mut model).map_err(layout)?;
    let bytes = encode(&model).map_err(|error| layout(error.to_string()))?;
    let plan = SessionPlan {
        provider,
        threads: None,
        data: Some(&data.folder),
        weights: WeightKernels::Fused,
        placement: Placement::AllOnProvider,
        products: Products::F32,
        launch: Launch::Eager,
    };
    let mut session = session::open(&runtime(provider)?, &plan, &bytes, codes)?;
    let dtype = model.type_of(model.outputs()[0]).dtype;
    let numbers = run(&mut session, reading, dtype).map_err(RuntimeError::run("dequantizing a weight"))?;
    Ok(match reading {
        Reading::Transposed { in_features, out_features } => transpose(&numbers, in_features, out_features),
        Reading::OfIdentity { blocks, block_size } => transpose(&numbers, block_size, blocks),
    })
}

fn run(session: &mut Session, reading: Reading, dtype: DType) -> ort::Result<Vec<f32>> {
    let outputs = match reading {
        Reading::Transposed { .. } => session.run([] as [SessionInputValue<'_>; 0])?,
        Reading::OfIdentity { block_size, .. } => session.run(ort::inputs![IDENTITY => identity(block_size, dtype)?])?,
    };
    Ok(match dtype {
        DType::F16 => outputs[0].try_extract_tensor::<f16>()?.1.iter().map(|half| half.to_f32()).collect(),
        _ => outputs[0].try_extract_tensor::<f32>()?.1.to_vec(),
    })
}

fn identity(size: usize, dtype: DType) -> ort::Result<DynValue> {
    let one = |index: usize| if index.is_multiple_of(size + 1) { 1.0 } else { 0.0 };
    let ones = (0..size * size).map(one);
    Ok(match dtype {
        DType::F16 => Tensor::from_array(([1, size, size], ones.map(f16::from_f32).collect::<Vec<_>>()))?.into_dyn(),
        _ => Tensor::from_array(([1, size, size], ones.collect::<Vec<f32>>()))?.into_dyn(),
    })
}
