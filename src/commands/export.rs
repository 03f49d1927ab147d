//! From a checkpoint to an artifact: streamed, atomic, deterministic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;
use std::{fs, thread};

use anyhow::Context;
use rayon::prelude::*;

use crate::artifact::hashing::{self, Hash};
use crate::artifact::plan::{self, Facts, Plan, Refused, Request, plan};
use crate::artifact::quantize::{self, Written};
use crate::artifact::source;
use crate::checkpoint::{Checkpoint, WeightFile};
use crate::compress;
use crate::compress::budget::{self, BudgetPlan, Parts};
use crate::compress::calibrate::{self, Calibrated, Job, RotatedWeights, StatisticsCache, Weights};
use crate::host::hidden::parent;
use crate::host::progress::Observe;
use crate::host::{interrupt, memory, progress, terminal};
use crate::model::{ModelRotation, StoredWeight};
use crate::onnx::{DATA_FILE, DataFile, Layout, MODEL_FILE};
use crate::record::{CalibratedRecord, FileRecord, MANIFEST_FILE, WeightRecord};
use crate::runtime::{self, ExecutionProvider};
use crate::tensor::convert;
use crate::usage::UsageError;

mod output;
mod report;

pub use output::check_replaced;
pub use report::{CalibratedKind, ExportReport};

use report::{calibrated_kinds, calibrated_on};

/// Where to write, and how to calibrate.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub output: PathBuf,
    /// Replace an artifact that is there already.
    pub overwrite: bool,
    pub calibration: compress::Options,
}

impl Options {
    /// A new artifact at `output`, calibrated on the CPU.
    pub fn new(output: PathBuf) -> Options {
        Options { output, overwrite: false, calibration: compress::Options::default() }
    }
}

/// `qonnx export`.
///
/// # Errors
/// The checkpoint, the recipe, the calibration set or the output is refused; the user stopped it; the disk is full.
pub fn run(request: &Request, options: &Options) -> anyhow::Result<ExportReport> {
    watched(request, options, &|_| ())
}

/// As [`run`]; `observe` hears how far the stages are that take long.
///
/// # Errors
/// As [`run`].
pub fn watched(request: &Request, options: &Options, observe: Observe<'_>) -> anyhow::Result<ExportReport> {
    let started = Instant::now();
    let watch = memory::Watch::start();
    let asked = options;
    let options = &Options { output: output::resolved(options)?, ..options.clone() };
    let calibration = &options.calibration;
    if let Some(folder) = calibration.save_stats.as_deref().filter(|folder| lies_in(folder, &options.output)) {
        return Err(UsageError::StatisticsOfOutput { folder: folder.display().to_string() }.into());
    }
    calibration.save_stats.as_deref().map_or(Ok(()), StatisticsCache::check)?;
    if calibration.provider == ExecutionProvider::Cuda && request.recipe()?.calibration.is_some() {
        runtime::require(calibration.provider)?;
    }
    let source = source::resolve(&request.model)?;
    let checkpoint = Checkpoint::open(&source.dir)?;
    let mut plan = plan(request, &source, checkpoint.index())?;
    if plan.architecture.tie_word_embeddings {
        check_tied_head(&checkpoint)?;
    }
    let set = calibrate::set(&plan, &source, calibration)?;
    let kept = calibration.save_stats.as_deref().map(StatisticsCache::open).transpose()?;
    let hash = || hashed_inputs(&checkpoint, &AtomicBool::new(false));
    let is_keyed = plan.manifest.recipe.budget.is_some() && kept.is_some();
    let mut inputs = is_keyed.then(hash).transpose()?;
    let inputs_known = inputs.as_deref().unwrap_or_default();
    let beside = parent(&options.output);
    let parts = Parts { checkpoint: &checkpoint, source: &source, inputs: inputs_known, kept: kept.as_ref(), beside, observe };
    let chosen = budget::chosen(request, &plan, &parts, set.as_ref(), calibration)?;
    if let Some(chosen) = &chosen {
        terminal::say(chosen);
        plan = plan::with_facts(request, chosen.recipe.clone(), &Facts::default(), &source, checkpoint.index())?;
    }
    let mut calibrated = None;
    if calibrate::is_needed(&plan) {
        let known = inputs.take().map_or_else(hash, Ok)?;
        let job = Job {
            plan: &plan,
            checkpoint: &checkpoint,
            source: &source,
            options: calibration,
            kept: kept.as_ref(),
            output: &options.output,
            inputs: &known,
            observe,
        };
        let done = job.run(set.as_ref())?;
        plan = plan::with_facts(request, plan.manifest.recipe.clone(), &done.facts, &source, checkpoint.index())?;
        (inputs, calibrated) = (Some(known), Some(done));
    }
    plan.manifest.calibration = set.map(|set| set.record);
    plan.manifest.budget = chosen.as_ref().map(BudgetPlan::record);
    let folder = output::begin(&options.output)?;
    write_artifact(&mut plan, &checkpoint, calibrated.as_ref(), inputs, folder.path()).map_err(|error| match &calibrated {
        Some(calibrated) => calibrated.stopped(error),
        None => error,
    })?;
    let artifact_bytes = folder_bytes(folder.path())?;
    output::publish(folder, options)?;
    if let Some(calibrated) = calibrated {
        calibrated.remove();
    }
    let peak = watch.stop();
    Ok(ExportReport {
        output: asked.output.clone(),
        artifact_bytes,
        bits_per_weight_linears: plan.manifest.sizes.bits_per_weight_linears,
        bits_per_weight_model: plan.manifest.sizes.bits_per_weight_model,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak.resident,
        peak_anonymous_bytes: peak.anonymous,
        calibration: plan.manifest.calibration.as_ref().map(calibrated_on),
        calibrated: calibrated_kinds(&plan.manifest.weights),
        budget: chosen,
    })
}

fn lies_in(path: &Path, folder: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute(path).starts_with(absolute(folder))
}

/// Refuses a checkpoint that says its LM head is the embedding and brings a head that is not: transformers uses that head,
/// and the artifact would leave it out.
fn check_tied_head(checkpoint: &Checkpoint) -> anyhow::Result<()> {
    const TABLES: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];
    if checkpoint.index().get(TABLES[1]).is_none() {
        return Ok(());
    }
    let [table, head] = [checkpoint.tensor(TABLES[0])?, checkpoint.tensor(TABLES[1])?];
    // The same numbers may be stored in another type.
    let same = (table.dtype, table.shape, table.bytes) == (head.dtype, head.shape, head.bytes)
        || table.shape == head.shape && convert::same_values((table.dtype, table.bytes), (head.dtype, head.bytes));
    TABLES.iter().try_for_each(|name| checkpoint.release(name))?;
    if same {
        return Ok(());
    }
    let sentence = "weight lm_head.weight: config.json says tie_word_embeddings, so it must equal model.embed_tokens.weight, and \
                    it does not; set tie_word_embeddings to false, or remove the tensor";
    Err(Refused(vec![sentence.to_owned()]).into())
}

/// Writes every file of the artifact into `folder`, which the caller then renames.
///
/// Both hashes run beside the quantization: of the checkpoint, unless `hashed` has them, over the pages that it waits for
/// anyway, of the data file behind the layers that are written.
fn write_artifact(
    plan: &mut Plan,
    checkpoint: &Checkpoint,
    calibrated: Option<&Calibrated>,
    hashed: Option<Vec<FileRecord>>,
    folder: &Path,
) -> anyhow::Result<()> {
    let data_path = folder.join(DATA_FILE);
    let layout = Layout::of(&plan.graph.model);
    let data = DataFile::create(&data_path, &layout)?;
    let (data_bytes, ends) = (layout.data_bytes(), final_ends(&plan.graph.weights, &layout));
    let (written_to, growing) = mpsc::channel();
    let (abandoned, data_path) = (&AtomicBool::new(false), &data_path);
    let (weights, inputs, data_hash) = thread::scope(|scope| {
        let inputs = scope.spawn(move || hashed.map_or_else(|| hashed_inputs(checkpoint, abandoned), Ok));
        let data_hash = scope.spawn(move || hashing::of_growing_file(data_path, data_bytes, &growing, abandoned));
        let weights = write_weights(plan, checkpoint, calibrated, &data, |done| {
            // The other end is gone only when it has failed, which is reported below.
            let _ = written_to.send(ends[done]);
        });
        abandoned.store(weights.is_err(), Ordering::Relaxed);
        drop(written_to);
        (weights, inputs.join().expect("hashing does not panic"), data_hash.join().expect("hashing does not panic"))
    });
    let weights = weights?;
    write_file(&folder.join(MODEL_FILE), &data.finish()?)?;
    for (record, written) in plan.manifest.weights.iter_mut().zip(weights) {
        let (Written { relative_error, digest }, calibrated) = written;
        *record = WeightRecord { relative_error, digest, calibrated, ..record.clone() };
    }
    plan.manifest.inputs = inputs?;
    plan.manifest.outputs = output_records(plan, checkpoint.dir(), folder, (data_bytes, data_hash?))?;
    plan.manifest.seal();
    write_file(&folder.join(MANIFEST_FILE), plan.manifest.to_json().as_bytes())
}

/// For each number of weights that are written, up to where the data file is final.
fn final_ends(weights: &[StoredWeight], layout: &Layout<'_>) -> Vec<u64> {
    let mut ends = vec![layout.data_bytes(); weights.len() + 1];
    for (index, weight) in weights.iter().enumerate().rev() {
        let first = weight.initializers().filter_map(|name| layout.offset_of(name)).min();
        ends[index] = ends[index + 1].min(first.unwrap_or(u64::MAX));
    }
    ends
}

/// The checkpoint's files with their hashes.
fn hashed_inputs(checkpoint: &Checkpoint, abandoned: &AtomicBool) -> anyhow::Result<Vec<FileRecord>> {
    let hash = |(index, file): (usize, &WeightFile)| {
        let mut hash = Hash::new(abandoned);
        hash.update(checkpoint.file(index))?;
        Ok(FileRecord { file: file.name.clone(), bytes: file.bytes, blake3: hash.finish() })
    };
    checkpoint.index().files().iter().enumerate().map(hash).collect()
}

/// Copies what goes along, and records every file but the manifest.
fn output_records(plan: &Plan, from: &Path, folder: &Path, data: (u64, String)) -> anyhow::Result<Vec<FileRecord>> {
    for file in &plan.copied {
        let (source, copy) = (from.join(&file.file), folder.join(&file.file));
        let copied = fs::copy(&source, &copy);
        copied.with_context(|| format!("{}: cannot be copied to {}", source.display(), copy.display()))?;
    }
    let record = |name: &str| -> anyhow::Result<FileRecord> {
        let path = folder.join(name);
        let bytes = fs::metadata(&path).with_context(|| format!("{}: cannot be read", path.display()))?.len();
        Ok(FileRecord { file: name.to_owned(), bytes, blake3: hashing::of_file(&path)? })
    };
    let (bytes, blake3) = data;
    let mut records = vec![record(MODEL_FILE)?, FileRecord { file: DATA_FILE.to_owned(), bytes, blake3 }];
    for file in &plan.copied {
        records.push(record(&file.file)?);
    }
    Ok(records)
}

/// Writes all weights, a decoder layer at a time, the weights of a layer in parallel; `layer_done` is told how many
/// weights are written.
fn write_weights(
    plan: &Plan,
    checkpoint: &Checkpoint,
    calibrated: Option<&Calibrated>,
    data: &DataFile<'_>,
    layer_done: impl Fn(usize),
) -> anyhow::Result<Vec<(Written, Option<CalibratedRecord>)>> {
    let weights = &plan.graph.weights;
    let rotation = ModelRotation::of(&plan.architecture, &plan.manifest.recipe)?;
    let rotated =
        RotatedWeights { weights: Weights { checkpoint, architecture: &plan.architecture, survey: &plan.survey, rotation } };
    let bytes = |name: &str| checkpoint.index().get(name).map_or(0, |info| info.bytes());
    let bar = progress::bytes(weights.iter().map(|weight| bytes(&weight.weight)).sum(), "quantize");
    let mut written = Vec::with_capacity(weights.len());
    for layer in weights.chunk_by(|a, b| layer_of(&a.weight) == layer_of(&b.weight)) {
        bar.set_message(layer_of(&layer[0].weight).to_owned());
        let prepared = match (calibrated, layer_number(&layer[0].weight)) {
            (Some(calibrated), Some(layer)) => calibrated.layer(layer)?,
            _ => BTreeMap::new(),
        };
        let results: anyhow::Result<Vec<_>> = layer
            .par_iter()
            .map(|stored| {
                interrupt::check()?;
                let result = match prepared.get(&stored.weight) {
                    Some(prepared) => (quantize::write_prepared(prepared, stored, data)?, prepared.record()),
                    None if rotated.has(&stored.weight) => (rotated.write(stored, data)?, None),
                    None => {
                        let written = quantize::write(checkpoint.tensor(&stored.weight)?, stored, data)?;
                        checkpoint.release(&stored.weight)?;
                        (written, None)
                    }
                };
                bar.inc(bytes(&stored.weight));
                Ok(result)
            })
            .collect();
        written.extend(results?);
        layer_done(written.len());
    }
    bar.finish_and_clear();
    Ok(written)
}

/// `model.layers.7` of a layer's weight; the whole name of any other.
fn layer_of(weight: &str) -> &str {
    let end = weight.match_indices('.').nth(2).map(|(position, _)| position);
    end.filter(|_| weight.starts_with("model.layers.")).map_or(weight, |end| &weight[..end])
}

/// 7 of `model.layers.7.mlp.down_proj.weight`.
fn layer_number(weight: &str) -> Option<usize> {
    layer_of(weight).strip_prefix("model.layers.")?.parse().ok()
}

/// Writes a file of the folder, which is put on the disk as a whole.
fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}

fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let sizes = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.metadata()?.len())).sum());
    sizes.with_context(|| format!("{}: cannot be read", folder.display()))
}
