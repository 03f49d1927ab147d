//! An artifact's own graph as any other program runs it: tokens and a mask in, all logits out, caches handed from run to run.
//!
//! Slower than the decode loop's graph, and of no form in particular: what qonnx writes for other runtimes runs here too.

use std::path::Path;

use half::f16;
use ort::memory::Allocator;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynTensor, DynValue, Tensor, TensorElementType, ValueType};

use super::data_place::DataPlace;
use super::folder::ArtifactFolder;
use super::locate::runtime;
use super::session::{self, Placement, Products, SessionPlan};
use super::{EngineOptions, Launch, RuntimeError};
use crate::contract::names::{ATTENTION_MASK, INPUT_IDS, LOGITS};
use crate::onnx::{Model, decode, encode};

/// One row's run through an artifact's own graph.
pub struct OwnGraph {
    session: Session,
    /// Caches of the tokens so far, by the name of the input.
    caches: Vec<(String, DynValue)>,
    tokens: usize,
}

impl OwnGraph {
    /// Loads the graph in `dir`; nothing is read yet.
    ///
    /// # Errors
    /// As [`Engine::load`](super::Engine::load).
    pub fn load(dir: &Path, options: &EngineOptions) -> Result<OwnGraph, RuntimeError> {
        let artifact = ArtifactFolder::of(dir);
        let path = artifact.graph();
        let foreign = |what: String| RuntimeError::Layout { path: path.clone(), what };
        let bytes = std::fs::read(&path).map_err(|source| RuntimeError::Read { path: path.clone(), source })?;
        let model = decode(&bytes).map_err(|error| foreign(error.to_string()))?;
        let data = DataPlace::of(&artifact)?;
        let bytes = pointed(&path, model, &data)?;
        let EngineOptions { provider, threads, weights, .. } = *options;
        let (placement, products) = (Placement::CpuMayHelp, Products::F32);
        let folder = Some(data.folder.as_path());
        let plan = SessionPlan { provider, threads, data: folder, weights, placement, products, launch: Launch::Eager };
        let session = session::open(&runtime(provider)?, &plan, &bytes, &path.display().to_string())?;
        let inputs = zeros(&session).map_err(RuntimeError::run("making an empty cache"))?;
        let caches =
            inputs.into_iter().filter(|(name, _)| is_cache(name)).map(|(name, cache)| (name, cache.into_dyn())).collect();
        Ok(OwnGraph { session, caches, tokens: 0 })
    }

    /// Reads `ids` behind what was read before; logits behind each of them, `[ids][vocab_size]`.
    ///
    /// # Errors
    /// ONNX Runtime's own: more tokens than the graph has positions, no memory.
    pub fn read(&mut self, ids: &[u32]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        self.tokens += ids.len();
        self.run(ids).map_err(RuntimeError::run("running the artifact's own graph"))
    }

    fn run(&mut self, ids: &[u32]) -> ort::Result<Vec<Vec<f32>>> {
        let row = |values: Vec<i64>| Tensor::from_array(([1, values.len()], values));
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let mut inputs: Vec<(String, SessionInputValue)> =
            vec![(INPUT_IDS.to_owned(), row(ids)?.into()), (ATTENTION_MASK.to_owned(), row(vec![1; self.tokens])?.into())];
        inputs.extend(std::mem::take(&mut self.caches).into_iter().map(|(name, cache)| (name, cache.into())));
        let mut outputs = self.session.run(inputs)?;
        let logits = outputs.remove(LOGITS).map_or_else(|| Ok(Vec::new()), |logits| rows(&logits))?;
        for (name, value) in outputs {
            self.caches.push((name.replace("present.", "past_key_values."), value));
        }
        Ok(logits)
    }
}

/// Logits `[1, tokens, vocab_size]` as f32, a list for each token.
fn rows(logits: &DynValue) -> ort::Result<Vec<Vec<f32>>> {
    let (shape, values) = match logits.dtype().tensor_type() {
        Some(TensorElementType::Float16) => {
            let (shape, halves) = logits.try_extract_tensor::<f16>()?;
            (shape.to_vec(), halves.iter().map(|half| half.to_f32()).collect())
        }
        _ => {
            let (shape, values) = logits.try_extract_tensor::<f32>()?;
            (shape.to_vec(), values.to_vec())
        }
    };
    let width = shape.last().map_or(1, |&width| width.max(1) as usize);
    Ok(values.chunks(width).map(<[f32]>::to_vec).collect())
}

/// The graph with its weights where they really lie.
pub(super) fn pointed(path: &Path, mut model: Model, data: &DataPlace) -> Result<Vec<u8>, RuntimeError> {
    let foreign = |what: String| RuntimeError::Layout { path: path.to_owned(), what };
    data.point(&mut model).map_err(foreign)?;
    encode(&model).map_err(|error| foreign(error.to_string()))
}

/// Zeros for every input of one row: named axes are 1, but nothing is in the cache yet.
pub(super) fn zeros(session: &Session) -> ort::Result<Vec<(String, DynTensor)>> {
    let allocator = Allocator::default();
    let tensors = session.inputs().iter().filter_map(|input| {
        let ValueType::Tensor { ty, shape, .. } = input.dtype() else { return None };
        let is_cache = is_cache(input.name());
        let size = |(axis, &size): (usize, &i64)| if size >= 0 { size } else { i64::from(!(is_cache && axis == 2)) };
        let tensor = DynTensor::new(&allocator, *ty, shape.iter().enumerate().map(size).collect::<Vec<i64>>());
        Some(tensor.map(|tensor| (input.name().to_owned(), tensor)))
    });
    tensors.collect()
}

fn is_cache(input: &str) -> bool {
    input.starts_with("past_key_values.")
}
