//! A model whose numbers are chosen, as `qonnx quantize` keeps it: every artifact of it holds the same codes and scales.
//!
//! ```text
//! quantized.json                      recipe, what calibration found, a digest for each weight
//! model-00001-of-000NN.safetensors    a layer in each: codes one a byte in logical order, scales, zero points; dense weights
//! config.json, tokenizer.json, …      as the model has them
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;

use super::parts::{self, CODES, OUTLIERS, PARTS};
use super::plan::Facts;
use super::prepared::{Prepared, PreparedWeights, RoundingOutcome, Written, WrittenOutside};
use super::shards::digest;
use super::sink::Sink;
use crate::artifact::ArtifactError;
use crate::checkpoint::{Checkpoint, TensorView};
use crate::model::{StoredForm, StoredWeight};
use crate::quant::{QuantizedTensor, Scheme};
use crate::record::{FileRecord, QUANTIZED_FILE, QuantizedManifest, QuantizedRecord};
use crate::tensor::DType;
use crate::usage::UsageError;

/// A quantized checkpoint that is there.
pub struct QuantizedCheckpoint {
    pub manifest: QuantizedManifest,
    /// Its weights; a quantized one is known by its own name, with the shape of its codes.
    pub checkpoint: Checkpoint,
}

impl QuantizedCheckpoint {
    /// Whether the folder holds one.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(QUANTIZED_FILE).is_file()
    }

    /// Opens the one in `dir`.
    ///
    /// # Errors
    /// The manifest or a file of weights is missing, damaged or of another version.
    pub fn open(dir: &Path) -> Result<QuantizedCheckpoint, ArtifactError> {
        let manifest = QuantizedManifest::load(dir)?;
        let checkpoint = Checkpoint::open_in_parts(dir, CODES)?;
        let [listed, there]: [BTreeSet<&str>; 2] = [
            manifest.files.iter().map(String::as_str).collect(),
            checkpoint.index().files().iter().map(|file| file.name.as_str()).collect(),
        ];
        if let Some(&file) = listed.symmetric_difference(&there).next() {
            let there =
                if listed.contains(file) { "listed by quantized.json and not there" } else { "not listed by quantized.json" };
            return Err(UsageError::QuantizedFiles { dir: dir.display().to_string(), file: file.to_owned(), there }.into());
        }
        let quantized = QuantizedCheckpoint { manifest, checkpoint };
        match quantized.mismatched() {
            Some(weight) => Err(quantized.damaged(weight)),
            None => Ok(quantized),
        }
    }

    /// A weight of which the manifest says what the files do not.
    fn mismatched(&self) -> Option<&str> {
        let QuantizedManifest { weights, outliers, changed, .. } = &self.manifest;
        let stored = |name: &str| self.checkpoint.index().get(name).map(|info| info.dtype);
        let is_quantized = |name: &str| stored(name) == Some(DType::U8);
        let mut seen = BTreeSet::new();
        let record = weights.iter().find(|record| {
            let is_there = stored(&record.name).is_some() && is_quantized(&record.name) == record.is_quantized;
            !is_there || !seen.insert(&record.name)
        });
        let features = |name: &str| self.checkpoint.numbers(&format!("{name}{OUTLIERS}")).map(|(shape, _)| shape);
        let outliers = outliers.iter().find(|(name, count)| !is_quantized(name) || features(name) != Some(vec![**count]));
        let changed = changed.iter().find(|name| is_quantized(name));
        record.map(|record| &record.name).or(outliers.map(|(name, _)| name)).or(changed).map(String::as_str)
    }

    /// Refuses files beside the weights that are not those of the model: what it computes is in config.json, and what it was
    /// calibrated on is its tokenizer's.
    pub fn check_companions(&self, there: &[FileRecord]) -> Result<(), UsageError> {
        let recorded = &self.manifest.companions;
        let differs = |file: &&FileRecord| !(recorded.contains(file) && there.contains(file));
        match recorded.iter().chain(there).find(differs) {
            Some(FileRecord { file, .. }) => Err(UsageError::QuantizedCompanion { dir: self.shown(), file: file.clone() }),
            None => Ok(()),
        }
    }

    /// What calibration had found about the artifact.
    pub fn facts(&self) -> Facts {
        Facts { outliers: self.manifest.outliers.clone(), dense: self.manifest.changed.clone() }
    }

    /// The weights for the graph that `weights` is of.
    pub fn prepared<'q>(&'q self, weights: &'q [StoredWeight]) -> QuantizedWeights<'q> {
        let records = self.manifest.weights.iter().map(|record| (record.name.as_str(), record)).collect();
        QuantizedWeights { quantized: self, weights, records }
    }

    fn damaged(&self, weight: &str) -> ArtifactError {
        UsageError::QuantizedDamaged { dir: self.shown(), weight: weight.to_owned() }.into()
    }

    fn shown(&self) -> String {
        self.checkpoint.dir().display().to_string()
    }
}

/// The weights of a quantized checkpoint.
pub struct QuantizedWeights<'q> {
    quantized: &'q QuantizedCheckpoint,
    weights: &'q [StoredWeight],
    records: BTreeMap<&'q str, &'q QuantizedRecord>,
}

impl<'q> PreparedWeights<'q> for QuantizedWeights<'q> {
    type Error = ArtifactError;

    fn layer(&self, layer: usize) -> Result<BTreeMap<String, Prepared>, ArtifactError> {
        let prefix = format!("model.layers.{layer}.");
        let of_layer: Vec<_> = self.weights.iter().filter(|stored| stored.weight.starts_with(&prefix)).collect();
        let prepared = |stored: &&StoredWeight| {
            let record = self.sound(&stored.weight)?;
            let StoredForm::Quantized { scheme, .. } = stored.form else {
                self.dense(&stored.weight)?;
                return Ok(None);
            };
            let QuantizedRecord { relative_error, calibrated, .. } = record.clone();
            let tensor = Box::new(self.tensor(&stored.weight, scheme)?);
            Ok(Some((stored.weight.clone(), Prepared::Quantized(tensor, RoundingOutcome { relative_error, calibrated }))))
        };
        let read: Result<Vec<_>, ArtifactError> = of_layer.par_iter().map(prepared).collect();
        Ok(read?.into_iter().flatten().collect())
    }

    fn outside(&self, stored: &StoredWeight, sink: &dyn Sink<'q>) -> Result<Option<WrittenOutside>, ArtifactError> {
        let QuantizedRecord { relative_error, calibrated, .. } = self.sound(&stored.weight)?.clone();
        let digest = match stored.form {
            StoredForm::Quantized { scheme, .. } => sink.quantized(stored, &self.tensor(&stored.weight, scheme)?)?,
            StoredForm::Dense { .. } => sink.dense(stored, self.dense(&stored.weight)?)?,
        };
        self.quantized.checkpoint.release(&stored.weight)?;
        Ok(Some((Written { relative_error, digest }, calibrated)))
    }
}

impl<'q> QuantizedWeights<'q> {
    /// The record of a weight whose tensors are those that were written.
    fn sound(&self, name: &str) -> Result<&'q QuantizedRecord, ArtifactError> {
        let QuantizedCheckpoint { checkpoint, .. } = self.quantized;
        let record = self.records.get(name).copied().ok_or_else(|| self.quantized.damaged(name))?;
        let parts = PARTS.iter().filter_map(|part| checkpoint.bytes(&format!("{name}{part}")));
        let is_sound = match record.is_quantized {
            true => digest(parts) == record.digest,
            false => digest(checkpoint.bytes(name).into_iter()) == record.digest,
        };
        if is_sound { Ok(record) } else { Err(self.quantized.damaged(name)) }
    }

    fn tensor(&self, name: &str, scheme: Scheme) -> Result<QuantizedTensor, ArtifactError> {
        let checkpoint = &self.quantized.checkpoint;
        let tensor = parts::read(name, scheme, &mut |part| checkpoint.numbers(part));
        let tensor = tensor.ok_or_else(|| self.quantized.damaged(name))?;
        checkpoint.release(name)?;
        Ok(tensor)
    }

    fn dense(&self, name: &str) -> Result<TensorView<'q>, ArtifactError> {
        let view = self.quantized.checkpoint.tensor(name)?;
        if view.dtype == DType::U8 { Err(self.quantized.damaged(name)) } else { Ok(view) }
    }
}
