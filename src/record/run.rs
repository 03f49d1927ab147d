//! `results/<name>_results.json`: one experiment, written once it has ended and never edited.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BenchRecord, MOST_BYTES, Sizes};
use crate::fault::Fault;
use crate::host::{publish, read};
use crate::recipe::Recipe;

/// Ending of a record's file name, after the experiment's name.
pub const RUN_SUFFIX: &str = "_results.json";
/// Version of the record's form; a reader refuses any other.
pub const RUN_SCHEMA: u32 = 1;

/// Everything that is known of one experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub schema: u32,
    pub experiment_name: String,
    /// Hash of what determines the result: resolved recipe, model, calibration set, protocol, program version.
    pub id: String,
    /// One line for people: `GPTQ INT4, group 128`.
    pub title: String,
    /// What it is drawn as: `baseline`, `rtn`, `gptq`, `awq`, `awq+gptq`, `nf4`, `fp4`, `llm-int8`, `mixed`.
    pub method: String,
    /// The experiment that ratios and paired differences are against; absent for the baseline itself.
    pub baseline: Option<String>,
    pub model: RunModel,
    /// As the artifact has it: a budget's outcome stands in its overrides.
    pub recipe: Recipe,
    pub program: ProgramRecord,
    pub environment: EnvironmentRecord,
    pub sizes: Option<Sizes>,
    pub export: Option<ExportTimes>,
    pub sanity: Option<SanityRecord>,
    pub evaluation: Option<EvaluationRecord>,
    pub benchmarks: Option<BenchRecord>,
    /// Seconds that each stage took, in the order they ran.
    pub stages: Vec<StageRecord>,
    pub warnings: Vec<String>,
    /// Why it ended early; what came before it stands in the fields above.
    pub failure: Option<FailureRecord>,
}

/// The checkpoint, by name and by content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunModel {
    /// Hub id, or the folder's name.
    pub source: String,
    pub revision: Option<String>,
    pub parameters: u64,
    /// Of config.json, tokenizer.json and the weight files.
    pub blake3: String,
    /// Hash of the calibration set's token ids; absent where nothing was calibrated.
    pub calibration: Option<String>,
}

/// Which qonnx.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgramRecord {
    pub version: String,
    /// Git commit that it was built from, where that was known.
    pub commit: Option<String>,
    pub dirty: bool,
}

/// Where it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentRecord {
    pub ep: String,
    pub onnxruntime: Option<String>,
    pub cpu: String,
    /// Physical cores.
    pub cores: usize,
    pub threads: Option<usize>,
    pub gpu: Option<String>,
    pub driver: Option<String>,
    /// Of activations: `f16` or `f32`.
    pub activation: String,
}

/// What making the artifact took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportTimes {
    pub seconds: f64,
    pub artifact_bytes: u64,
    pub peak_rss_bytes: u64,
    pub peak_anonymous_bytes: u64,
    /// BLAKE3 of `model.onnx.data`.
    pub data_blake3: String,
}

/// What the artifact said to a fixed prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SanityRecord {
    pub prompt: String,
    pub text: String,
    pub new_tokens: usize,
}

/// Scores; fractions from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    pub coqa_f1: f64,
    pub coqa_em: f64,
    pub coqa_f1_stderr: Option<f64>,
    pub coqa_em_stderr: Option<f64>,
    /// Name and version: `official 1.0`.
    pub protocol: String,
    pub data: String,
    pub questions: usize,
    pub questions_per_second: Option<f64>,
    /// File of the answers, beside this record.
    pub predictions: String,
    /// Against the baseline on the same questions.
    pub paired: Option<PairedRecord>,
    /// Id of a baseline that it could not be compared with; a warning says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_comparable_with: Option<String>,
    pub perplexity: Option<f64>,
    /// KL(baseline ‖ this), nats a token.
    pub kl: Option<f64>,
    /// Tokens that perplexity and KL were measured over, by name of the text file.
    pub text: Option<TextRecord>,
}

/// The text of perplexity and KL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextRecord {
    pub file: String,
    pub windows: usize,
    pub tokens: u64,
}

/// A paired comparison with the baseline, question by question (`eval/compare.rs`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairedRecord {
    pub baseline: String,
    /// Id of the baseline's record.
    pub baseline_id: String,
    /// This less the baseline.
    pub f1_difference: f64,
    pub f1_ci95: [f64; 2],
    pub em_difference: f64,
    pub em_ci95: [f64; 2],
    /// McNemar's two-sided mid-p on right and wrong.
    pub p_mid: f64,
    /// True difference in F1 that these questions would show with 80 % chance.
    pub smallest_detectable: f64,
}

/// Time of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    pub stage: String,
    pub seconds: f64,
}

/// Where an experiment ended early, and the error chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureRecord {
    pub stage: String,
    pub message: String,
}

/// Every way a record can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum RunRecordError {
    #[error("record {path}: cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("record {path}: damaged ({message}); remove it and run the experiment again")]
    Damaged { path: PathBuf, message: String },
    #[error("record {path}: has schema {got}, expected {RUN_SCHEMA}; run the experiment again with this version")]
    Schema { path: PathBuf, got: u64 },
    #[error("record {path}: cannot be written; free the disk or choose another results folder")]
    Unwritable { path: PathBuf, source: std::io::Error },
}

impl RunRecordError {
    /// A damaged record is the input's fault; a disk is not.
    pub fn fault(&self) -> Fault {
        match self {
            RunRecordError::Unreadable { source, .. } if read::is_wrong_file(source) => Fault::BadInput,
            RunRecordError::Unreadable { .. } | RunRecordError::Unwritable { .. } => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}

impl RunRecord {
    /// Id of the baseline that this holds a comparison with, or says that there can be none with.
    pub fn compared_with(&self) -> Option<&String> {
        let scores = self.evaluation.as_ref()?;
        scores.paired.as_ref().map(|paired| &paired.baseline_id).or(scores.not_comparable_with.as_ref())
    }

    /// Where the record of `experiment` lies in `results`.
    pub fn path(results: &Path, experiment: &str) -> PathBuf {
        results.join(format!("{experiment}{RUN_SUFFIX}"))
    }

    /// Reads a record.
    pub fn load(path: &Path) -> Result<Self, RunRecordError> {
        let text = read::text(path, MOST_BYTES).map_err(|source| RunRecordError::Unreadable { path: path.to_owned(), source })?;
        let damaged = |error: serde_json::Error| RunRecordError::Damaged { path: path.to_owned(), message: error.to_string() };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema != u64::from(RUN_SCHEMA) => Err(RunRecordError::Schema { path: path.to_owned(), got: schema }),
            _ => serde_json::from_value(value).map_err(damaged),
        }
    }

    /// Writes the record into `results`: a reader sees all of it or none, after a power cut too.
    pub fn write(&self, results: &Path) -> Result<PathBuf, RunRecordError> {
        let path = Self::path(results, &self.experiment_name);
        let unwritable = |source| RunRecordError::Unwritable { path: path.clone(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| unwritable(error.into()))?;
        text.push(b'\n');
        publish::file(&path, &text).map_err(unwritable)?;
        Ok(path)
    }
}
