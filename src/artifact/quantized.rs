//! A model whose numbers are chosen, as `qonnx quantize` keeps it: every artifact of it holds the same codes and scales.
//!
//! ```text
//! quantized.json                      recipe, what calibration found, a digest for each weight
//! model-00001-of-000NN.safetensors    a layer in each: codes one a byte in logical order, scales, zero points; dense weights
//! config.json, tokenizer.json, …      as the model has them
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};

use super::parts::{self, CODES};
use super::plan::Facts;
use super::prepared::{Prepared, PreparedWeights, RoundingOutcome, Written, WrittenOutside};
use super::quantized_sink::digest;
use super::sink::Sink;
use crate::checkpoint::{Checkpoint, Numbers};
use crate::model::{StoredForm, StoredWeight};
use crate::quant::Scheme;
use crate::record::{QUANTIZED_FILE, QuantizedManifest, QuantizedRecord};
use crate::tensor;
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
    pub fn open(dir: &Path) -> anyhow::Result<QuantizedCheckpoint> {
        let manifest = QuantizedManifest::load(dir)?;
        let checkpoint = Checkpoint::open_in_parts(dir, CODES)?;
        let [listed, there]: [BTreeSet<&str>; 2] = [
            manifest.files.iter().map(String::as_str).collect(),
            checkpoint.index().files().iter().map(|file| file.name.as_str()).collect(),
        ];
        if listed != there {
            let dir = dir.display().to_string();
            let files = |files: &BTreeSet<&str>| files.iter().copied().collect::<Vec<_>>().join(", ");
            return Err(UsageError::QuantizedFiles { dir, listed: files(&listed), there: files(&there) }.into());
        }
        Ok(QuantizedCheckpoint { manifest, checkpoint })
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
}

/// The weights of a quantized checkpoint.
pub struct QuantizedWeights<'q> {
    quantized: &'q QuantizedCheckpoint,
    weights: &'q [StoredWeight],
    records: BTreeMap<&'q str, &'q QuantizedRecord>,
}

impl<'q> PreparedWeights<'q> for QuantizedWeights<'q> {
    fn layer(&self, layer: usize) -> anyhow::Result<BTreeMap<String, Prepared>> {
        let prefix = format!("model.layers.{layer}.");
        let of_layer = self.weights.iter().filter(|stored| stored.weight.starts_with(&prefix));
        let read = of_layer.map(|stored| Ok((stored.weight.clone(), self.read(stored)?)));
        let read: Vec<_> = read.collect::<anyhow::Result<_>>()?;
        Ok(read.into_iter().filter_map(|(name, prepared)| Some((name, prepared?))).collect())
    }

    fn outside(&self, stored: &StoredWeight, sink: &dyn Sink<'q>) -> anyhow::Result<Option<WrittenOutside>> {
        let record = self.record(&stored.weight)?;
        let written = match (&stored.form, self.read(stored)?) {
            (StoredForm::Quantized { .. }, Some(Prepared::Quantized(tensor, _))) => sink.quantized(stored, &tensor)?,
            _ => sink.dense(stored, self.quantized.checkpoint.tensor(&stored.weight)?)?,
        };
        Ok(Some((Written { relative_error: record.relative_error, digest: written }, record.calibrated.clone())))
    }
}

impl QuantizedWeights<'_> {
    /// The weight, where it is not what lies under its own name; checked against its digest in any case.
    fn read(&self, stored: &StoredWeight) -> anyhow::Result<Option<Prepared>> {
        let name = &stored.weight;
        let record = self.record(name)?;
        match &stored.form {
            StoredForm::Quantized { scheme, .. } => self.quantized(name, *scheme, record).map(Some),
            StoredForm::Dense { .. } => {
                let view = self.quantized.checkpoint.tensor(name)?;
                self.check(record, digest([view.bytes].into_iter()))?;
                if !self.quantized.manifest.changed.contains(name) {
                    return Ok(None);
                }
                let mut values = vec![0.0; stored.elements()];
                tensor::convert::decode(view.dtype, view.bytes, &mut values).with_context(|| format!("weight {name}"))?;
                Ok(Some(Prepared::Dense(stored.shape.clone(), values)))
            }
        }
    }

    fn quantized(&self, name: &str, scheme: Scheme, record: &QuantizedRecord) -> anyhow::Result<Prepared> {
        let mut take = |part: &str| self.quantized.checkpoint.numbers(part);
        let Some(tensor) = parts::read(name, scheme, &mut take) else { bail!(self.damaged(name)) };
        let bytes: Vec<Vec<u8>> = parts::of(name, &tensor).iter().map(|(_, _, numbers)| Numbers::to_stored(numbers).1).collect();
        self.check(record, digest(bytes.iter().map(Vec::as_slice)))?;
        let QuantizedRecord { relative_error, calibrated, .. } = record.clone();
        Ok(Prepared::Quantized(Box::new(tensor), RoundingOutcome { relative_error, calibrated }))
    }

    fn record(&self, name: &str) -> anyhow::Result<&QuantizedRecord> {
        self.records.get(name).copied().ok_or_else(|| self.damaged(name))
    }

    fn check(&self, record: &QuantizedRecord, digest: String) -> anyhow::Result<()> {
        if record.digest == digest { Ok(()) } else { Err(self.damaged(&record.name)) }
    }

    fn damaged(&self, weight: &str) -> anyhow::Error {
        UsageError::QuantizedDamaged { dir: self.quantized.checkpoint.dir().display().to_string(), weight: weight.to_owned() }
            .into()
    }
}
