//! `results/<name>_results.json`: one experiment, written once it has ended and never edited.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::evaluation::{COQA, EvaluationRecord, KL};
use super::{BenchRecord, MOST_BYTES, Sizes, version_1};
use crate::fault::Fault;
use crate::host::{publish, read};
use crate::recipe::Recipe;

/// Ending of a record's file name, after the experiment's name.
pub const RUN_SUFFIX: &str = "_results.json";
/// Version of the record's form that is written; those of version 1 are still read.
pub const RUN_SCHEMA: u32 = 2;

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
    /// By task; empty where nothing was scored.
    pub evaluation: EvaluationRecord,
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
#[non_exhaustive]
pub enum RunRecordError {
    #[error("record {path}: cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("record {path}: damaged ({message}); remove it and run the experiment again")]
    Damaged { path: PathBuf, message: String },
    #[error("record {path}: has schema {got}, expected 1 to {RUN_SCHEMA}; run the experiment again with this version")]
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
    /// Id of the baseline that CoQA is set against, that there can be no comparison with included; of a record without CoQA,
    /// the one that KL is measured from.
    pub fn compared_with(&self) -> Option<&String> {
        let task = self.evaluation.task(COQA).or(self.evaluation.task(KL))?;
        task.baseline.as_ref().map(|baseline| &baseline.id)
    }

    /// Where the record of `experiment` lies in `results`.
    pub fn path(results: &Path, experiment: &str) -> PathBuf {
        results.join(format!("{experiment}{RUN_SUFFIX}"))
    }

    /// Reads a record.
    pub fn load(path: &Path) -> Result<Self, RunRecordError> {
        let text = read::text(path, MOST_BYTES).map_err(|source| RunRecordError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// A record of any version that is read, as this one has it; `path` is for messages.
    ///
    /// # Errors
    /// [`RunRecordError::Damaged`], [`RunRecordError::Schema`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, RunRecordError> {
        let damaged = |error: serde_json::Error| RunRecordError::Damaged { path: path.to_owned(), message: error.to_string() };
        let value: serde_json::Value = serde_json::from_str(text).map_err(damaged)?;
        let value = match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(1) => version_1::upgraded(value).map_err(damaged)?,
            Some(schema) if schema != u64::from(RUN_SCHEMA) => {
                return Err(RunRecordError::Schema { path: path.to_owned(), got: schema });
            }
            _ => value,
        };
        serde_json::from_value(value).map_err(damaged)
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
