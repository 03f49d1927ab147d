//! What one experiment is told: everything that a worker process needs, as one JSON object.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MethodLabel;
use crate::artifact::plan::{RecipeChoice, RecipeFlags, Request};
use crate::commands::RuntimeChoice;
use crate::eval::coqa::Protocol;
use crate::host::interrupt::CancelToken;
use crate::recipe::Recipe;
use crate::record::{BenchSettings, Target};
use crate::runtime::{ExecutionProvider, Launch, WeightKernels};
use crate::tensor::DType;

/// One experiment on one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub name: String,
    /// Hash of what determines the result; see [`super::Subject::plan`].
    pub id: String,
    pub title: String,
    pub method: MethodLabel,
    pub recipe: Recipe,
    /// Local folder or hub repo id.
    pub model: String,
    /// BLAKE3 of the model's files.
    pub model_blake3: String,
    /// The experiment that differences are against; absent for the baseline itself.
    pub baseline: Option<String>,
    pub results: PathBuf,
    pub device: Device,
    pub measure: Measure,
    /// Where statistics of calibration are kept for other experiments.
    pub save_stats: Option<PathBuf>,
    /// Where the chosen numbers are kept for experiments that differ in the artifact's form alone; `None` where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantized: Option<PathBuf>,
    /// Where the artifact stays; it is removed where this is absent.
    pub keep: Option<PathBuf>,
    /// The baseline's artifact, which KL is measured from; passed over where none is there.
    pub reference: Option<PathBuf>,
    /// A file that is there once the baseline, which runs beside, has ended in whatever way.
    pub awaits: Option<PathBuf>,
}

/// Where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub provider: ExecutionProvider,
    /// CPU threads; one per physical core where it is not given.
    pub threads: Option<usize>,
    /// Activations in f32 instead of f16.
    pub f32: bool,
    /// On CUDA: decoding steps are launched one by one instead of replayed from a CUDA graph.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub eager: bool,
}

impl Device {
    /// Element type of activations.
    pub fn activation(&self) -> DType {
        if self.f32 { DType::F32 } else { DType::F16 }
    }

    /// To run an artifact there.
    pub fn runtime(&self, weights: WeightKernels) -> RuntimeChoice {
        let launch = if self.eager { Launch::Eager } else { Launch::Replayed };
        RuntimeChoice { provider: self.provider, threads: self.threads, weights, launch, cancel: CancelToken::NEVER }
    }
}

/// What is measured; what is absent is not.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Measure {
    pub coqa: Option<CoqaMeasure>,
    pub text: Option<TextMeasure>,
    pub bench: Option<BenchSettings>,
    pub weights: ScoringWeights,
}

/// How quantized weights take part in products while an artifact is scored; benchmarks run what any other program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoringWeights {
    /// Inside the kernels, at full precision.
    Fused,
    /// Unpacked once at load: the same numbers sooner on the CPU, in the memory of a dense model.
    #[default]
    Dequantized,
}

impl ScoringWeights {
    /// The faster of the two at full precision: the CPU has such kernels for 4 bits only.
    pub fn of(provider: ExecutionProvider) -> ScoringWeights {
        if provider.is_gpu() { ScoringWeights::Fused } else { ScoringWeights::Dequantized }
    }

    /// As the runtime calls it.
    pub fn weights(self) -> WeightKernels {
        match self {
            ScoringWeights::Fused => WeightKernels::Fused,
            ScoringWeights::Dequantized => WeightKernels::Dequantized,
        }
    }
}

/// The questions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoqaMeasure {
    /// A file, or the id of a hub data set.
    pub data: String,
    pub protocol: ProtocolName,
    /// At most so many questions.
    pub limit: Option<usize>,
    /// Prompts decoded together.
    pub batch: usize,
}

/// Which turns are asked and how they are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtocolName {
    LmEval,
    Official,
}

impl ProtocolName {
    /// The protocol that this names.
    pub fn protocol(self) -> Protocol {
        match self {
            ProtocolName::LmEval => Protocol::LM_EVAL,
            ProtocolName::Official => Protocol::OFFICIAL,
        }
    }
}

/// The text of perplexity, and of KL where the baseline's artifact is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextMeasure {
    pub file: PathBuf,
    /// Tokens in a window, BOS included; where it is not said the usual length, or the context where that is less.
    pub window: Option<usize>,
    /// At most so many windows.
    pub windows: Option<usize>,
}

impl Job {
    /// What is exported.
    pub fn request(&self) -> Request {
        Request {
            model: self.model.clone(),
            recipe: RecipeChoice::Whole(Box::new(self.recipe.clone())),
            overrides: Vec::new(),
            calibration: None,
            activation: self.device.activation(),
            max_context: None,
            target: Target::Ort,
            data_file_bytes: None,
        }
    }

    /// The artifact of the chosen numbers that lie at `quantized`.
    pub fn request_of(&self, quantized: &Path) -> Request {
        let model = quantized.display().to_string();
        Request { model, recipe: RecipeChoice::Flags(RecipeFlags::default()), ..self.request() }
    }

    /// Files that the calibration set must share no passage with.
    pub fn evaluation(&self) -> Vec<PathBuf> {
        let data = self.measure.coqa.as_ref().filter(|_| self.recipe.calibration.is_some());
        data.map(|coqa| PathBuf::from(&coqa.data)).into_iter().collect()
    }
}
