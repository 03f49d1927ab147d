//! An artifact that is ready to run.

use std::path::Path;
use std::time::Duration;

use super::artifact::Artifact;
use super::data_place::DataPlace;
use super::decoder::Decoder;
use super::locate::runtime;
use super::replay::Launch;
use super::rows::RowCopier;
use super::session::{self, Placement, Products, SessionPlan};
use super::specialise::specialise;
use super::{ExecutionProvider, RuntimeError, WeightKernels};
use crate::companions::Companions;
use crate::generate::GenerateError;
use crate::host::interrupt::CancelToken;

/// How an artifact is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    pub provider: ExecutionProvider,
    /// Threads inside an operator; `None`: one for each physical core.
    pub threads: Option<usize>,
    pub weights: WeightKernels,
    pub launch: Launch,
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStage {
    /// Graph and tokenizer are read, the library is open; no weight is.
    Read,
    /// The session is made: weights are where they are computed with.
    Ready,
}

/// Where the time of the last call went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of all prompts of the call.
    pub prompt_tokens: usize,
    /// Tokens that the model read: fewer than `prompt_tokens` when prompts share a beginning.
    pub prefill_tokens: usize,
    /// Runs of the model that read them.
    pub prefill_runs: usize,
    /// Tokens produced, end-of-sequence tokens included.
    pub new_tokens: usize,
    /// Runs of the model that produced one token for each row.
    pub decode_steps: usize,
    /// Those of them that were replayed from a CUDA graph.
    pub replayed_steps: usize,
    /// Reading prompts and copying their cache to the rows.
    pub prefill: Duration,
    /// Everything after the first tokens.
    pub decode: Duration,
}

/// A loaded artifact: greedy generation ([`Generate`](crate::generate::Generate)) and logits
/// ([`Score`](crate::generate::Score)) from one session and one copy of the weights.
pub struct Engine {
    pub(super) artifact: Artifact,
    pub(super) provider: ExecutionProvider,
    pub(super) decoder: Decoder,
    pub(super) copier: RowCopier,
    pub(super) timings: Timings,
}

impl Engine {
    /// Ends what the engine does at its next run once `cancel` is cancelled.
    pub fn cancelled_by(&mut self, cancel: CancelToken) {
        self.decoder.cancel = cancel;
    }

    /// Loads the artifact in `dir`.
    ///
    /// # Errors
    /// The library or the execution provider is missing, the folder is no artifact, or ONNX Runtime refuses the graph.
    pub fn load(dir: &Path, options: &EngineOptions) -> Result<Engine, RuntimeError> {
        Engine::load_observed(dir, options, &mut |_| ())
    }

    /// As [`Engine::load`], for whoever measures what loading takes: `observe` is called around the making of the session.
    pub fn load_observed(
        dir: &Path,
        options: &EngineOptions,
        observe: &mut dyn FnMut(LoadStage),
    ) -> Result<Engine, RuntimeError> {
        let mut artifact = Artifact::read(dir)?;
        let (data, path) = (DataPlace::of(&artifact.folder)?, artifact.folder.graph());
        let graph = specialise(&path, &data, options.weights)?;
        let beside = &mut artifact.beside;
        beside.context_length = beside.context_length.min(graph.max_positions);
        let runtime = runtime(options.provider)?;
        let plan = SessionPlan {
            provider: options.provider,
            threads: options.threads,
            data: Some(&data.folder),
            weights: options.weights,
            placement: Placement::AllOnProvider,
            products: Products::F32,
            launch: options.launch,
        };
        let what = path.display().to_string();
        observe(LoadStage::Read);
        let session = session::open(&runtime, &plan, &graph.bytes, &what)?;
        observe(LoadStage::Ready);
        let decoder = Decoder::new(session, options.provider, options.launch, graph.max_positions)?;
        let copier = RowCopier::new(&runtime, options.provider, &decoder.layout)?;
        Ok(Engine { artifact, provider: options.provider, decoder, copier, timings: Timings::default() })
    }

    /// Where the time of the last [`generate`](crate::generate::Generate::generate) went; after [`Engine::steps`], what their last
    /// reading of prompts read.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// What the files beside the graph say.
    pub fn companions(&self) -> &Companions {
        &self.artifact.beside
    }

    /// Text of the tokenizer's own end-of-sequence token, which lm-evaluation-harness adds to its stop strings.
    pub fn end_of_sequence_text(&self) -> Option<String> {
        self.artifact.beside.special.eos.clone()
    }

    pub(super) fn ids_of(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, GenerateError> {
        let tokenizer = &self.artifact.beside.tokenizer;
        let ids = tokenizer.encode(text, add_special_tokens)?;
        let beyond = self.artifact.beside.vocab_size.and_then(|size| Some((ids.iter().position(|&id| id >= size)?, size)));
        match beyond {
            Some((at, vocab_size)) => {
                let token = tokenizer.token_of(ids[at]).unwrap_or_default();
                Err(GenerateError::TokenBeyondVocabulary { token, id: ids[at], vocab_size })
            }
            None => Ok(ids),
        }
    }
}
