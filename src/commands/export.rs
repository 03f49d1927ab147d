//! From a checkpoint, or from one that is quantized already, to an artifact: streamed, atomic, deterministic.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use super::output_folder::{self, Kind, OutputFolder};
use crate::artifact::card;
use crate::artifact::checkpoint_sink::CheckpointSink;
use crate::artifact::files;
use crate::artifact::gguf_sink::GgufSink;
use crate::artifact::named_file::NamedFile;
use crate::artifact::onnx_sink::{GrowingFile, OnnxSink};
use crate::artifact::plan::{self, Plan, RecipeChoice, RecipeFlags, Request};
use crate::artifact::prepared::PreparedWeights;
use crate::artifact::quantized::QuantizedCheckpoint;
use crate::artifact::targets::tensorrt::PositiveScales;
use crate::artifact::targets::{CheckpointForm, GGUF_FILE, Gguf, checkpoint_form, complaint_of_folder};
use crate::artifact::{ArtifactError, hashing, source, write};
use crate::checkpoint::Checkpoint;
use crate::commands::CommandError;
use crate::compress;
use crate::compress::budget::BudgetPlan;
use crate::compress::calibrate::Calibrated;
use crate::compress::chosen::{self, Choice, ChosenWeights};
use crate::contract::CARD_FILE;
use crate::host::FileError;
use crate::host::interrupt::CancelToken;
use crate::host::memory;
use crate::host::progress::Observe;
use crate::model::StoredWeight;
use crate::onnx::{DataFile, Layout};
use crate::record::{FileRecord, MANIFEST_FILE, Manifest, Target};
use crate::tensor::DType;
use crate::usage::UsageError;

mod report;
mod targets;

pub use report::{CalibratedKind, ExportReport};
pub(super) use report::{calibrated_kinds, calibrated_on, calibrated_table};
pub use targets::{TargetsReport, run_each};

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
pub fn run(request: &Request, options: &Options) -> Result<ExportReport, CommandError> {
    watched(request, options, &|_| ())
}

/// As [`run`]; `observe` hears how far the stages are that take long.
///
/// # Errors
/// As [`run`].
pub fn watched(request: &Request, options: &Options, observe: Observe<'_>) -> Result<ExportReport, CommandError> {
    let started = Instant::now();
    let watch = memory::Watch::start();
    let output = OutputFolder::resolve(&options.output, options.overwrite, Kind::Artifact)?;
    refuse_statistics_in(&output.path, &options.calibration)?;
    warn_of_name(request.target, &output.path);
    let (plan, budget, artifact_bytes) = match QuantizedCheckpoint::is_in(Path::new(&request.model)) {
        true => of_quantized(request, &options.calibration, &output)?,
        false => of_model(request, &options.calibration, &output, observe)?,
    };
    let peak = watch.stop();
    Ok(ExportReport {
        output: options.output.clone(),
        artifact_bytes,
        bits_per_weight_linears: plan.manifest.sizes.bits_per_weight_linears,
        bits_per_weight_model: plan.manifest.sizes.bits_per_weight_model,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak.resident,
        peak_anonymous_bytes: peak.anonymous,
        calibration: plan.manifest.calibration.as_ref().map(calibrated_on),
        calibrated: calibrated_kinds(&plan.manifest.weights),
        budget,
    })
}

/// Says where the target's readers do not find a folder under its name.
fn warn_of_name(target: Target, output: &Path) {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    if let Some(complaint) = complaint_of_folder(target, &name) {
        tracing::warn!("output {}: {complaint}", output.display());
    }
}

/// What was written: its plan, how widths were chosen, and its bytes.
type Made = (Plan, Option<BudgetPlan>, u64);

/// The artifact of a model: its numbers are chosen, and written as they are read.
fn of_model(
    request: &Request,
    calibration: &compress::Options,
    output: &OutputFolder,
    observe: Observe<'_>,
) -> Result<Made, CommandError> {
    chosen::check(request, calibration)?;
    let source = source::resolve(&request.model)?;
    let checkpoint = Checkpoint::open(&source.dir)?;
    let (source, options, path) = (&source, calibration, &output.path);
    let choice = Choice { request, source, checkpoint: &checkpoint, options, output: path, observe };
    let chosen = choice.choose()?;
    let (mut plan, calibrated) = (chosen.plan, chosen.calibrated);
    let folder = output_folder::begin(path)?;
    let weights = ChosenWeights::of(&plan, calibrated.as_ref(), &checkpoint)?;
    let written = write_artifact(&plan, &checkpoint, &weights, chosen.inputs, (folder.path(), &calibration.cancel));
    plan.manifest = written.map_err(|error| kept(error, calibrated.as_ref()))?;
    let artifact_bytes = folder_bytes(folder.path())?;
    output_folder::publish(folder, output)?;
    if let Some(calibrated) = calibrated {
        calibrated.remove();
    }
    Ok((plan, chosen.budget, artifact_bytes))
}

/// The artifact of a quantized checkpoint: its numbers as they are.
fn of_quantized(request: &Request, calibration: &compress::Options, output: &OutputFolder) -> Result<Made, CommandError> {
    refuse_choices(request, calibration)?;
    let source = source::resolve(&request.model)?;
    let quantized = QuantizedCheckpoint::open(&source.dir)?;
    let source = source.made_of(&quantized.manifest.model);
    let manifest = &quantized.manifest;
    if request.activation == DType::F16 && manifest.activation == DType::F32.name() {
        return Err(UsageError::QuantizedForF32 { model: request.model.clone() }.into());
    }
    let index = quantized.checkpoint.index();
    let mut plan = plan::with_facts(request, manifest.recipe.clone(), &quantized.facts(), &source, index)?;
    quantized.check_companions(&plan.copied)?;
    plan.manifest.calibration = manifest.calibration.clone();
    plan.manifest.budget = manifest.budget.clone();
    let folder = output_folder::begin(&output.path)?;
    let (weights, inputs) = (quantized.prepared(&plan.graph.weights), Some(manifest.inputs.clone()));
    plan.manifest = write_artifact(&plan, &quantized.checkpoint, &weights, inputs, (folder.path(), &calibration.cancel))?;
    let artifact_bytes = folder_bytes(folder.path())?;
    output_folder::publish(folder, output)?;
    Ok((plan, None, artifact_bytes))
}

/// An interruption says what is kept; other errors stay as they are.
pub(super) fn kept(error: CommandError, calibrated: Option<&Calibrated>) -> CommandError {
    match calibrated.filter(|_| error.is_interrupted()).and_then(Calibrated::stopped) {
        Some(stopped) => stopped.into(),
        None => error,
    }
}

/// Refuses flags that choose numbers, which are chosen.
fn refuse_choices(request: &Request, calibration: &compress::Options) -> Result<(), UsageError> {
    let is_plain = match &request.recipe {
        RecipeChoice::Flags(flags) => *flags == RecipeFlags::default(),
        RecipeChoice::Named(_) | RecipeChoice::Whole(_) => false,
    };
    let flags = [
        (!is_plain, "a recipe, whole or in flags,"),
        (!request.overrides.is_empty(), "--override"),
        (request.calibration.is_some(), "--calibration"),
        (calibration.save_stats.is_some(), "--save-stats"),
        (!calibration.evaluation.is_empty(), "--evaluation"),
    ];
    match flags.into_iter().find(|(is_given, _)| *is_given) {
        Some((_, flag)) => Err(UsageError::QuantizedAlready { model: request.model.clone(), flag }),
        None => Ok(()),
    }
}

/// Statistics in the output would be taken for files of somebody else's.
pub(super) fn refuse_statistics_in(output: &Path, calibration: &compress::Options) -> Result<(), UsageError> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match calibration.save_stats.as_deref() {
        Some(folder) if absolute(folder).starts_with(absolute(output)) => {
            Err(UsageError::StatisticsOfOutput { folder: folder.display().to_string() })
        }
        _ => Ok(()),
    }
}

/// Writes every file of the artifact into `folder`, which the caller then renames; its manifest, as written.
fn write_artifact<'c, P: PreparedWeights<'c>>(
    plan: &Plan,
    checkpoint: &'c Checkpoint,
    prepared: &P,
    hashed: Option<Vec<FileRecord>>,
    (folder, cancel): (&Path, &CancelToken),
) -> Result<Manifest, CommandError>
where
    CommandError: From<P::Error>,
{
    let mut manifest = match (checkpoint_form(plan.manifest.target), &plan.gguf) {
        (None, _) => write_graph(plan, checkpoint, prepared, hashed, (folder, cancel))?,
        (Some(form), None) => write_checkpoint((plan, form), checkpoint, prepared, hashed, (folder, cancel))?,
        (Some(form), Some(gguf)) => write_gguf((plan, form, gguf), checkpoint, prepared, hashed, (folder, cancel))?,
    };
    let card = card::card(&manifest, &plan.licence, None);
    manifest.outputs.push(NamedFile::made(CARD_FILE, card.into_bytes()).write(folder)?);
    manifest.seal();
    NamedFile::made(MANIFEST_FILE, manifest.to_json().into_bytes()).write(folder)?;
    Ok(manifest)
}

/// Writes a checkpoint that another program loads.
fn write_checkpoint<'c, P: PreparedWeights<'c>>(
    (plan, form): (&Plan, &'static dyn CheckpointForm),
    checkpoint: &'c Checkpoint,
    prepared: &P,
    hashed: Option<Vec<FileRecord>>,
    (folder, cancel): (&Path, &CancelToken),
) -> Result<Manifest, CommandError>
where
    CommandError: From<P::Error>,
{
    let sink = CheckpointSink::new(folder, write::by_layer(&plan.graph.weights).count(), form, plan.activation);
    let weights = write::weights(&plan.graph.weights, checkpoint, prepared, &sink, cancel)?;
    let mut manifest = plan.manifest.clone();
    write::record(&mut manifest.weights, weights);
    manifest.inputs = hashed.map_or_else(|| hashing::of_checkpoint(checkpoint, cancel), Ok)?;
    let (shards, index) = sink.finish();
    let shards = shards.iter().map(|file| hashing::record(folder, file)).collect::<Result<Vec<_>, _>>()?;
    let others: Vec<_> = std::iter::once(index).chain(files::of_artifact(plan, checkpoint.dir())).collect();
    let others = files::write(&others, &plan.copied, folder)?;
    manifest.outputs = shards.into_iter().chain(others).collect();
    Ok(manifest)
}

/// Writes the file that llama.cpp reads.
fn write_gguf<'c, P: PreparedWeights<'c>>(
    (plan, form, gguf): (&Plan, &'static dyn CheckpointForm, &Gguf),
    checkpoint: &'c Checkpoint,
    prepared: &P,
    hashed: Option<Vec<FileRecord>>,
    (folder, cancel): (&Path, &CancelToken),
) -> Result<Manifest, CommandError>
where
    CommandError: From<P::Error>,
{
    for texts in &gguf.unlike {
        tracing::warn!("llama.cpp cuts some texts into other tokens than tokenizer.json does: {texts}");
    }
    let sink = GgufSink::new(folder, gguf, form, plan.activation)?;
    let weights = write::weights(&plan.graph.weights, checkpoint, prepared, &sink, cancel)?;
    sink.finish()?;
    let mut manifest = plan.manifest.clone();
    write::record(&mut manifest.weights, weights);
    manifest.inputs = hashed.map_or_else(|| hashing::of_checkpoint(checkpoint, cancel), Ok)?;
    let others = files::write(&files::of_artifact(plan, checkpoint.dir()), &plan.copied, folder)?;
    manifest.outputs = std::iter::once(hashing::record(folder, GGUF_FILE)?).chain(others).collect();
    Ok(manifest)
}

/// Writes a graph and its data; the manifest is not sealed.
///
/// Both hashes run beside the quantization: of the checkpoint, unless `hashed` has them, over the pages that it waits for
/// anyway, of the data file behind the layers that are written.
fn write_graph<'c, P: PreparedWeights<'c>>(
    plan: &Plan,
    checkpoint: &'c Checkpoint,
    prepared: &P,
    hashed: Option<Vec<FileRecord>>,
    (folder, cancel): (&Path, &CancelToken),
) -> Result<Manifest, CommandError>
where
    CommandError: From<P::Error>,
{
    let layout = plan.layout();
    let files = layout.file().folder(folder);
    fs::create_dir_all(&files).map_err(FileError::at(&files, "cannot be made"))?;
    let (chunks, growing): (Vec<_>, Vec<_>) = growing_files(plan, &layout).into_iter().unzip();
    let sink = OnnxSink { data: DataFile::create(folder, &layout)?, chunks };
    let abandoned = &cancel.child();
    let (weights, inputs, data_records, data) = thread::scope(|scope| {
        let inputs = scope.spawn(move || hashed.map_or_else(|| hashing::of_checkpoint(checkpoint, abandoned), Ok));
        let hash = |file: Growing| scope.spawn(move || file.record(folder, abandoned));
        let data_records: Vec<_> = growing.into_iter().map(hash).collect();
        let (weights, sink) = match plan.manifest.target {
            Target::TensorRt => {
                let sink = PositiveScales(sink);
                (write::weights(&plan.graph.weights, checkpoint, prepared, &sink, cancel), sink.0)
            }
            _ => (write::weights(&plan.graph.weights, checkpoint, prepared, &sink, cancel), sink),
        };
        if weights.is_err() {
            abandoned.cancel();
        }
        let OnnxSink { data, chunks } = sink;
        drop(chunks);
        let data_records: Vec<_> = data_records.into_iter().map(|hash| hash.join().expect("hashing does not panic")).collect();
        (weights, inputs.join().expect("hashing does not panic"), data_records, data)
    });
    let weights = weights?;
    let mut manifest = plan.manifest.clone();
    write::record(&mut manifest.weights, weights);
    manifest.inputs = inputs?;
    let model = NamedFile::made(layout.file().path(), data.finish()?);
    let others: Vec<_> = std::iter::once(model).chain(files::of_artifact(plan, checkpoint.dir())).collect();
    let mut records = files::write(&others, &plan.copied, folder)?;
    records.splice(1..1, data_records.into_iter().collect::<Result<Vec<_>, _>>()?);
    manifest.outputs = records;
    Ok(manifest)
}

/// A data file that is hashed while it is filled.
struct Growing {
    /// Below the artifact's folder.
    file: String,
    bytes: u64,
    grown_to: Receiver<u64>,
}

impl Growing {
    fn record(self, folder: &Path, cancel: &CancelToken) -> Result<FileRecord, ArtifactError> {
        let Growing { file, bytes, grown_to } = self;
        let blake3 = hashing::of_growing_file(&folder.join(&file), bytes, &grown_to, cancel)?;
        Ok(FileRecord { file, bytes, blake3 })
    }
}

/// Both ends of each data file.
fn growing_files(plan: &Plan, layout: &Layout<'_>) -> Vec<(GrowingFile, Growing)> {
    let both = |(chunk, &bytes): (usize, &u64)| {
        let (sender, receiver) = mpsc::channel();
        let writer = GrowingFile { ends: final_ends(&plan.graph.weights, layout, chunk), grown_to: sender };
        (writer, Growing { file: layout.file().data_path(chunk), bytes, grown_to: receiver })
    };
    layout.chunks().iter().enumerate().map(both).collect()
}

/// For each number of weights that are written, up to where a data file is final.
fn final_ends(weights: &[StoredWeight], layout: &Layout<'_>, chunk: usize) -> Vec<u64> {
    let mut ends = vec![layout.chunks()[chunk]; weights.len() + 1];
    for (index, weight) in weights.iter().enumerate().rev() {
        let places = weight.initializers().filter_map(|name| layout.place_of(name)).filter(|place| place.chunk == chunk);
        ends[index] = ends[index + 1].min(places.map(|place| place.offset).min().unwrap_or(u64::MAX));
    }
    ends
}

/// Of all files in it and in the folders in it.
pub(super) fn folder_bytes(folder: &Path) -> Result<u64, CommandError> {
    let unread = || FileError::at(folder, "cannot be read");
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(unread())? {
        let entry = entry.map_err(unread())?;
        let found = entry.metadata().map_err(unread())?;
        bytes += if found.is_dir() { folder_bytes(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}
