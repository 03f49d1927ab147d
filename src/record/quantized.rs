//! `quantized.json`, the manifest of a quantized checkpoint: what was chosen for which weight, and what it was chosen by.
//!
//! As in an artifact's manifest, nothing in it differs between two runs on the same input.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{BudgetRecord, CalibratedRecord, CalibrationRecord, FileRecord, MOST_BYTES, ModelRecord};
use crate::fault::Fault;
use crate::host::read;
use crate::recipe::Recipe;

/// File name of the manifest inside a quantized checkpoint.
pub const QUANTIZED_FILE: &str = "quantized.json";
/// Version of the manifest's form; a reader refuses any other.
pub const QUANTIZED_SCHEMA: u32 = 1;

/// What a quantized checkpoint is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizedManifest {
    pub schema: u32,
    /// Version of the program that wrote it.
    pub qonnx_version: String,
    pub model: ModelRecord,
    /// The narrowest type of activations that calibration has shown to suffice, where it ran the model: `f16` or `f32`.
    pub activation: String,
    /// As it was resolved: a budget's outcome stands in its overrides.
    pub recipe: Recipe,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetRecord>,
    /// Input features that stay f16, by weight.
    pub outliers: BTreeMap<String, usize>,
    /// Weights that are not quantized and not the checkpoint's either.
    pub changed: BTreeSet<String>,
    /// Every weight, in the order of computation.
    pub weights: Vec<QuantizedRecord>,
    /// The files of the checkpoint that it was made of.
    pub inputs: Vec<FileRecord>,
    /// Files that hold the weights.
    pub files: Vec<String>,
    /// Files that go wherever the model goes: config.json, the tokenizer, ….
    pub companions: Vec<FileRecord>,
    /// BLAKE3 of the manifest without this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_blake3: Option<String>,
}

/// What is known of one weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizedRecord {
    pub name: String,
    pub is_quantized: bool,
    /// ‖W − Ŵ‖² / ‖W‖²; 0 for a weight that is not quantized.
    pub relative_error: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<CalibratedRecord>,
    /// xxh3-128 of its tensors, one behind the other: codes, scales, zero points, …, or the dense elements.
    pub digest: String,
}

/// Every way such a manifest can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizedManifestError {
    #[error("quantized checkpoint {dir}: {QUANTIZED_FILE} cannot be read")]
    Unreadable { dir: String, source: std::io::Error },
    #[error("quantized checkpoint {dir}: {QUANTIZED_FILE} is damaged ({message}); quantize the model again")]
    Damaged { dir: String, message: String },
    #[error(
        "quantized checkpoint {dir}: {QUANTIZED_FILE} has schema {got}, expected {QUANTIZED_SCHEMA}; quantize the model again with \
         this version"
    )]
    Schema { dir: String, got: u64 },
}

impl QuantizedManifestError {
    /// A damaged one is the input's fault; an unreadable disk is not.
    pub fn fault(&self) -> Fault {
        match self {
            QuantizedManifestError::Unreadable { source, .. } if !read::is_wrong_file(source) => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}

impl QuantizedManifest {
    /// Reads the manifest of the quantized checkpoint in `dir`.
    pub fn load(dir: &Path) -> Result<QuantizedManifest, QuantizedManifestError> {
        let shown = || dir.display().to_string();
        let text = read::text(&dir.join(QUANTIZED_FILE), MOST_BYTES)
            .map_err(|source| QuantizedManifestError::Unreadable { dir: shown(), source })?;
        let damaged = |error: serde_json::Error| QuantizedManifestError::Damaged { dir: shown(), message: error.to_string() };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema != u64::from(QUANTIZED_SCHEMA) => {
                Err(QuantizedManifestError::Schema { dir: shown(), got: schema })
            }
            _ => {
                let manifest: QuantizedManifest = serde_json::from_value(value).map_err(damaged)?;
                let message = match manifest.activation.as_str() {
                    "f16" | "f32" if manifest.manifest_blake3 == Some(manifest.own_blake3()) => return Ok(manifest),
                    "f16" | "f32" => "it has changed since it was written".to_owned(),
                    other => format!("activation {}, expected f16 or f32", crate::host::shown(other)),
                };
                Err(QuantizedManifestError::Damaged { dir: shown(), message })
            }
        }
    }

    /// Records the manifest's own hash: it is not changed after this.
    pub fn seal(&mut self) {
        self.manifest_blake3 = Some(self.own_blake3());
    }

    fn own_blake3(&self) -> String {
        let text = QuantizedManifest { manifest_blake3: None, ..self.clone() }.to_json();
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// As it is written.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("the manifest's keys are text and its numbers finite");
        text.push('\n');
        text
    }
}
