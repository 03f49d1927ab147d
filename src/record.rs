//! `qonnx.json`, the manifest of an artifact: everything that says what it is and how to make it again.
//!
//! It holds nothing that differs between two exports of the same input (no time, no path, no host), so that the same
//! input gives the same bytes.

use serde::{Deserialize, Serialize};

use crate::contract::GraphFile;
use crate::fault::Fault;
use crate::host::read;
use crate::recipe::Recipe;

mod bench;
mod budget;
mod calibration;
mod evaluation;
mod quantized;
mod run;
mod target;
mod version_1;

pub use bench::{BenchPoint, BenchRecord, BenchSettings, Measured, Outcome, PowerRecord, Samples};
pub use budget::BudgetRecord;
pub use calibration::{CalibrationRecord, PassageRecord};
pub use evaluation::{
    BaselineRecord, COQA, COQA_EM, COQA_F1, EvaluationRecord, KL, KL_MEAN, PERPLEXITY, PairedRecord, QUESTIONS, ScoreName,
    ScoreRecord, TEXT_PERPLEXITY, TOKENS, TaskRecord, WINDOWS,
};
pub use quantized::{QUANTIZED_FILE, QUANTIZED_SCHEMA, QuantizedManifest, QuantizedManifestError, QuantizedRecord};
pub use run::{
    EnvironmentRecord, ExportTimes, FailureRecord, ProgramRecord, RUN_SCHEMA, RUN_SUFFIX, RunModel, RunRecord, RunRecordError,
    SanityRecord, StageRecord,
};
pub use target::Target;

/// File name of the manifest inside an artifact.
pub const MANIFEST_FILE: &str = "qonnx.json";
/// Version of the manifest's form; a reader refuses any other.
pub const MANIFEST_SCHEMA: u32 = 2;

/// What an artifact is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub schema: u32,
    /// Version of the program that wrote it.
    pub qonnx_version: String,
    pub model: ModelRecord,
    /// Element type of activations and of the KV cache: `f16` or `f32`.
    pub activation: String,
    /// What it is made for; absent where that is ONNX Runtime.
    #[serde(default, skip_serializing_if = "Target::is_ort")]
    pub target: Target,
    /// Positions that the artifact's rotary tables cover.
    pub max_context: usize,
    /// Absent where there is no graph.
    #[serde(default, skip_serializing_if = "is_no_opset")]
    pub onnx_opset: i64,
    /// The oldest release of ONNX Runtime that opens it; absent in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_onnxruntime: Option<String>,
    /// As it was resolved: a budget's outcome stands in its overrides.
    pub recipe: Recipe,
    /// What the statistics were measured on; absent where none were needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationRecord>,
    /// What widths were chosen by; absent where the recipe says them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetRecord>,
    pub sizes: Sizes,
    pub weights: Vec<WeightRecord>,
    /// The checkpoint's files.
    pub inputs: Vec<FileRecord>,
    /// The artifact's files, the manifest itself excluded.
    pub outputs: Vec<FileRecord>,
    /// BLAKE3 of the manifest without this field; absent in those of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_blake3: Option<String>,
}

/// Where the weights came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Hugging Face repo id, or the name of the local folder.
    pub source: String,
    /// Commit of the repo; absent for a local folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub architecture: String,
    /// Weights of the checkpoint, a tied LM head counted once.
    pub parameters: u64,
}

/// Bits and bytes, scales and zero points counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// Over the decoder's linears: bits on disk / weights.
    pub bits_per_weight_linears: f64,
    /// Over every weight of the model, embedding and norms included.
    pub bits_per_weight_model: f64,
    /// As [`Self::bits_per_weight_linears`], as a runtime holds them: odd widths take the next of 2, 4, 8 bits there.
    pub memory_bits_per_weight_linears: f64,
    /// The graph and its external data; of a checkpoint, its tensors.
    pub model_bytes: u64,
}

/// How one weight of the checkpoint is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightRecord {
    pub name: String,
    pub shape: Vec<usize>,
    /// `int4`, `uint4`, `nf4`, …, or the element type of a weight that is not quantized.
    pub format: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_size: Option<usize>,
    /// Scales in 8 bits themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub double_quantization: bool,
    /// Input features that stayed f16.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outliers: usize,
    /// On disk: codes, scales, zero points and outliers, padding excluded.
    pub bits_per_weight: f64,
    /// The same as a runtime holds it.
    pub memory_bits_per_weight: f64,
    pub bytes: u64,
    /// ‖W − Ŵ‖² / ‖W‖² of what was written; 0 for a weight that is not quantized.
    pub relative_error: f64,
    /// What calibration found; absent for a weight that was rounded without statistics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<CalibratedRecord>,
    /// xxh3-128 of the weight's numbers in logical order, whatever their layout in the file: of the codes (one byte
    /// each), scales (f16) and zero points, or of the dense elements.
    pub digest: String,
}

fn is_no_opset(opset: &i64) -> bool {
    *opset == 0
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What calibration found about one weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibratedRecord {
    /// `tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ)` of what was written, `G` the Gram matrix of its input with all that comes before already
    /// rounded.
    pub output_error: f64,
    /// The same of round to nearest with the same scheme.
    pub rtn_output_error: f64,
    /// λ over the mean of the Gram matrix's diagonal with which GPTQ's factorization succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// Input features that were zero on every token.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dead_channels: usize,
    /// AWQ's exponent on mean |x|.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awq_ratio: Option<f64>,
    /// The output error against what target correction aimed at; the one against the weight is then larger than it need be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_error: Option<f64>,
    /// Where round to nearest cost less than what GPTQ found, and was kept.
    #[serde(default, skip_serializing_if = "RtnKept::is_nothing")]
    pub rtn_kept: RtnKept,
}

/// How much of a weight has round to nearest's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RtnKept {
    /// So many output features.
    OutFeatures(usize),
    /// All of them or none, as earlier versions chose. Kept as it was read: the manifest's own hash is of these bytes.
    Weight(bool),
}

impl RtnKept {
    /// In output features, of a weight that has `all`.
    pub fn out_features(self, all: usize) -> usize {
        match self {
            RtnKept::OutFeatures(kept) => kept,
            RtnKept::Weight(kept) => usize::from(kept) * all,
        }
    }

    fn is_nothing(&self) -> bool {
        self.out_features(1) == 0
    }
}

impl Default for RtnKept {
    fn default() -> Self {
        RtnKept::OutFeatures(0)
    }
}

/// A file by content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    pub file: String,
    pub bytes: u64,
    pub blake3: String,
}

/// Every way a manifest can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    #[error("artifact {dir}: {file} is missing; give a folder written by `qonnx export`")]
    Missing { dir: String, file: String },
    #[error("artifact {dir}: {MANIFEST_FILE} cannot be read")]
    Unreadable { dir: String, source: std::io::Error },
    #[error("artifact {dir}: {MANIFEST_FILE} is damaged ({message}); export it again")]
    Damaged { dir: String, message: String },
    #[error("artifact {dir}: {MANIFEST_FILE} has schema {got}, expected {MANIFEST_SCHEMA}; export it again with this version")]
    Schema { dir: String, got: u64 },
}

impl RecordError {
    /// A missing or damaged artifact is the input's fault; an unreadable disk is not.
    pub fn fault(&self) -> Fault {
        match self {
            RecordError::Unreadable { source, .. } if !read::is_wrong_file(source) => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}

/// Most bytes of a manifest or record; those of a hundred thousand weights have some fifty million.
const MOST_BYTES: u64 = 1 << 30;

impl Manifest {
    /// Reads the manifest of the artifact in `dir`.
    pub fn load(dir: &std::path::Path) -> Result<Self, RecordError> {
        let shown = || dir.display().to_string();
        let text = read::text(&dir.join(MANIFEST_FILE), MOST_BYTES).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                RecordError::Missing { dir: shown(), file: MANIFEST_FILE.to_owned() }
            }
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData | std::io::ErrorKind::FileTooLarge => {
                RecordError::Damaged { dir: shown(), message: source.to_string() }
            }
            _ => RecordError::Unreadable { dir: shown(), source },
        })?;
        let damaged = |error: serde_json::Error| RecordError::Damaged { dir: shown(), message: error.to_string() };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema != u64::from(MANIFEST_SCHEMA) => Err(RecordError::Schema { dir: shown(), got: schema }),
            _ => serde_json::from_value(value).map_err(damaged),
        }
    }

    /// The graph among the recorded files; none of a checkpoint.
    pub fn graph_file(&self) -> Option<GraphFile> {
        self.outputs.iter().find_map(|file| GraphFile::at(&file.file))
    }

    /// The records of the files that a graph has its weights in, in their order.
    pub fn data_files(&self, graph: &GraphFile) -> Vec<&FileRecord> {
        let record = |chunk| self.outputs.iter().find(|file| file.file == graph.data_path(chunk));
        (0..).map_while(record).collect()
    }

    /// Records the manifest's own hash: it is not changed after this.
    pub fn seal(&mut self) {
        self.manifest_blake3 = Some(self.own_blake3());
    }

    /// Whether the manifest says what it said when it was sealed; `None` for those of earlier versions, which were not.
    pub fn is_as_written(&self) -> Option<bool> {
        self.manifest_blake3.as_ref().map(|recorded| *recorded == self.own_blake3())
    }

    fn own_blake3(&self) -> String {
        let text = Manifest { manifest_blake3: None, ..self.clone() }.to_json();
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// The bytes of the manifest's file.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest holds no map with keys that are not strings");
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rounding_to_nearest_kept_is_read_in_both_forms_and_written_as_it_was_read() {
        let record = |kept: &str| format!(r#"{{"output_error":0.5,"rtn_output_error":0.5{kept}}}"#);
        for (kept, of_six) in [("", 0), (r#","rtn_kept":true"#, 6), (r#","rtn_kept":4"#, 4)] {
            let text = record(kept);
            let read: CalibratedRecord = serde_json::from_str(&text).unwrap();
            assert_eq!(read.rtn_kept.out_features(6), of_six);
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        assert!(serde_json::from_str::<CalibratedRecord>(&record(r#","rtn_kept":"all""#)).is_err());
    }
}
