//! From a checkpoint to one whose numbers are chosen, kept for any number of artifacts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::export::{self, CalibratedKind, calibrated_kinds, calibrated_on, calibrated_table, folder_bytes};
use super::output_folder::{self, Kind, OutputFolder};
use crate::artifact::files;
use crate::artifact::named_file::NamedFile;
use crate::artifact::plan::{Plan, Request};
use crate::artifact::quantized_sink::QuantizedSink;
use crate::artifact::{hashing, source, write};
use crate::checkpoint::Checkpoint;
use crate::commands::CommandError;
use crate::compress::budget::BudgetPlan;
use crate::compress::chosen::{self, Choice, Chosen, ChosenWeights};
use crate::host::interrupt::CancelToken;
use crate::host::memory;
use crate::host::progress::Observe;
use crate::host::table::size;
use crate::model::StoredForm;
use crate::record::{FileRecord, QUANTIZED_FILE, QUANTIZED_SCHEMA, QuantizedManifest, QuantizedRecord};

/// What was written.
#[derive(Debug, Serialize)]
pub struct QuantizeReport {
    pub output: PathBuf,
    pub bytes: u64,
    /// On disk in an artifact of it, scales counted.
    pub bits_per_weight_linears: f64,
    pub seconds: f64,
    pub peak_rss_bytes: u64,
    /// Of the resident memory, the peak of what is not a mapped file.
    pub peak_anonymous_bytes: u64,
    /// What it was calibrated on, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// What calibration found, for each kind of weight; empty where nothing was calibrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calibrated: Vec<CalibratedKind>,
    /// How widths were chosen, where the recipe has a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetPlan>,
}

/// `qonnx quantize`. `request.activation` is the type of activations that calibration must not go beyond.
///
/// # Errors
/// As those of [`export::run`].
pub fn run(request: &Request, options: &export::Options) -> Result<QuantizeReport, CommandError> {
    watched(request, options, &|_| ())
}

/// As [`run`]; `observe` hears how far the stages are that take long.
///
/// # Errors
/// As [`run`].
pub fn watched(request: &Request, options: &export::Options, observe: Observe<'_>) -> Result<QuantizeReport, CommandError> {
    let started = Instant::now();
    let watch = memory::Watch::start();
    let output = OutputFolder::resolve(&options.output, options.overwrite, Kind::QuantizedCheckpoint)?;
    export::refuse_statistics_in(&output.path, &options.calibration)?;
    chosen::check(request, &options.calibration)?;
    let source = source::resolve(&request.model)?;
    let checkpoint = Checkpoint::open(&source.dir)?;
    let (source, path) = (&source, &output.path);
    let choice = Choice { request, source, checkpoint: &checkpoint, options: &options.calibration, output: path, observe };
    let mut chosen = choice.choose()?;
    let folder = output_folder::begin(path)?;
    let written = write_folder(&mut chosen, &checkpoint, folder.path(), &options.calibration.cancel);
    written.map_err(|error| export::kept(error, chosen.calibrated.as_ref()))?;
    let bytes = folder_bytes(folder.path())?;
    output_folder::publish(folder, &output)?;
    let Chosen { plan, calibrated, budget, .. } = chosen;
    if let Some(calibrated) = calibrated {
        calibrated.remove();
    }
    let peak = watch.stop();
    Ok(QuantizeReport {
        output: options.output.clone(),
        bytes,
        bits_per_weight_linears: plan.manifest.sizes.bits_per_weight_linears,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak.resident,
        peak_anonymous_bytes: peak.anonymous,
        calibration: plan.manifest.calibration.as_ref().map(calibrated_on),
        calibrated: calibrated_kinds(&plan.manifest.weights),
        budget,
    })
}

/// Writes every file of the quantized checkpoint into `folder`, which the caller then renames.
fn write_folder(chosen: &mut Chosen, checkpoint: &Checkpoint, folder: &Path, cancel: &CancelToken) -> Result<(), CommandError> {
    let plan = &chosen.plan;
    let sink = QuantizedSink::new(folder, write::by_layer(&plan.graph.weights).count());
    let weights = ChosenWeights::of(plan, chosen.calibrated.as_ref(), checkpoint)?;
    let written = write::weights(&plan.graph.weights, checkpoint, &weights, &sink, cancel)?;
    let inputs = match chosen.inputs.take() {
        Some(known) => known,
        None => hashing::of_checkpoint(checkpoint, cancel)?,
    };
    files::write(&files::companions(plan, checkpoint.dir()), &plan.copied, folder)?;
    let files = sink.finish();
    write::record(&mut chosen.plan.manifest.weights, written);
    let mut manifest = manifest(&chosen.plan, chosen, inputs, files);
    manifest.seal();
    NamedFile::made(QUANTIZED_FILE, manifest.to_json().into_bytes()).write(folder)?;
    Ok(())
}

fn manifest(plan: &Plan, chosen: &Chosen, inputs: Vec<FileRecord>, files: Vec<String>) -> QuantizedManifest {
    let of_artifact = &plan.manifest;
    let weights = plan.graph.weights.iter().zip(&of_artifact.weights).map(|(stored, record)| QuantizedRecord {
        name: stored.weight.clone(),
        is_quantized: matches!(stored.form, StoredForm::Quantized { .. }),
        relative_error: record.relative_error,
        calibrated: record.calibrated.clone(),
        digest: record.digest.clone(),
    });
    QuantizedManifest {
        schema: QUANTIZED_SCHEMA,
        qonnx_version: of_artifact.qonnx_version.clone(),
        model: of_artifact.model.clone(),
        activation: of_artifact.activation.clone(),
        recipe: of_artifact.recipe.clone(),
        calibration: of_artifact.calibration.clone(),
        budget: of_artifact.budget.clone(),
        outliers: chosen.facts.outliers.clone(),
        changed: chosen.facts.dense.clone(),
        weights: weights.collect(),
        inputs,
        files,
        companions: plan.copied.clone(),
        manifest_blake3: None,
    }
}

impl fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.output.display())?;
        if !self.calibrated.is_empty() {
            writeln!(f, "\n{}\n", calibrated_table(&self.calibrated))?;
        }
        if let Some(calibration) = &self.calibration {
            writeln!(f, "calibrated on {calibration}")?;
        }
        let rows = [
            ("quantized checkpoint", size(self.bytes)),
            ("bits per weight, linears", format!("{:.3}", self.bits_per_weight_linears)),
            ("time", format!("{:.1} s", self.seconds)),
            ("peak memory, files apart", size(self.peak_anonymous_bytes)),
        ];
        for (what, value) in rows {
            writeln!(f, "{what:<26}{value:>10}")?;
        }
        write!(f, "\n`qonnx export {}` makes artifacts of it", self.output.display())
    }
}
