//! One experiment from the model to its record, in the worker's process.
//!
//! ```text
//! load ─▶ export ─▶ sanity ─▶ coqa ─▶ text ─▶ bench ─▶ record
//! ```
//!
//! What a stage found stands in the record, which is noted in the work folder after each: a process that is killed is
//! followed by one that goes on behind the last finished stage, and within CoQA behind the last answered question.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use super::child::{self, TICK};
use super::messages::{Event, Task};
use super::work::{self, Work};
use super::{CoqaMeasure, Job, TextMeasure, blank, scores, subject};
use crate::artifact::ArtifactError;
use crate::artifact::plan::Request;
use crate::artifact::quantized::QuantizedCheckpoint;
use crate::artifact::{hashing, source};
use crate::calib::CalibError;
use crate::commands::{CommandError, evaluate, export, generate, quantize};
use crate::compress::{self, CompressError};
use crate::eval::compare::{NamedLines, compare};
use crate::eval::coqa::lines::read_lines;
use crate::host::progress::{Observe, Step};
use crate::host::read::is_wrong_file;
use crate::host::{FileError, in_full, interrupt, lock};
use crate::record::{
    BaselineRecord, BenchSettings, COQA, EvaluationRecord, ExportTimes, FailureRecord, FileRecord, MANIFEST_FILE, Manifest,
    PERPLEXITY, RecordError, RunRecord, SanityRecord, StageRecord, TaskRecord,
};
use crate::study::StudyError;
use crate::tensor::DType;

/// What every artifact is asked to go on with.
const SANITY_PROMPT: &str = "The village lies in a narrow valley, and for most of the year";
const SANITY_TOKENS: usize = 32;

/// How an experiment that was not stopped ended.
pub enum Outcome {
    Finished,
    /// The record says at which stage and why.
    Failed(FailureRecord),
    /// Nothing more can be written; the work folder has what was.
    DiskFull(String),
}

/// Runs what of `job` is not done yet and writes its record.
///
/// # Errors
/// What keeps it from being recorded at all: it was stopped, or its folder is in use.
pub fn run(job: &Job, tell: &mut dyn FnMut(&Event)) -> Result<Outcome, StudyError> {
    let work = match Work::open(job) {
        Err(error) if error.is_disk_full() => return Ok(Outcome::DiskFull(in_full(&error))),
        opened => opened?,
    };
    let mut stages = Stages { job, record: blank::record(job), work: &work, tell, stage: "load" };
    // Nothing is recorded, and so nothing removed, where it is not known what an earlier process came to.
    stages.resume()?;
    let ended = stages.run();
    let (mut record, stage) = (stages.record, stages.stage);
    let ended = match ended {
        Err(error) if interrupt::check().is_ok() && !error.is_disk_full() => {
            let failure = FailureRecord { stage: stage.to_owned(), message: in_full(&error) };
            record.failure = Some(failure);
            Ok(())
        }
        other => other,
    };
    match ended.and_then(|()| work.finish(&record, job.keep.as_deref())) {
        Err(error) if error.is_disk_full() => Ok(Outcome::DiskFull(in_full(&error))),
        Err(error) => Err(error),
        Ok(()) => Ok(record.failure.map_or(Outcome::Finished, Outcome::Failed)),
    }
}

/// Makes the artifact of `job` at the place where it is to stay, and nothing else.
pub fn artifact(job: &Job) -> Result<(), StudyError> {
    let kept = job.keep.clone().ok_or(StudyError::NowhereKept)?;
    if let Some(parent) = kept.parent() {
        fs::create_dir_all(parent).map_err(FileError::at(parent, "cannot be made"))?;
    }
    let overwrite = kept.join(MANIFEST_FILE).is_file();
    export::run(&job.request(), &export::Options { overwrite, ..options(job, kept) })?;
    Ok(())
}

fn options(job: &Job, output: PathBuf) -> export::Options {
    export::Options {
        calibration: compress::Options {
            save_stats: job.save_stats.clone().filter(|_| job.recipe.calibration.is_some()),
            evaluation: job.evaluation(),
            provider: job.device.provider,
            threads: job.device.threads,
            ..compress::Options::default()
        },
        ..export::Options::new(output)
    }
}

/// Waits for whoever chooses the numbers that lie at `quantized`; nobody else does while the file is open.
fn hold_numbers(quantized: &Path) -> Result<File, StudyError> {
    let path = quantized.with_extension("lock");
    loop {
        interrupt::check()?;
        if let Some(lock) = lock::hold(&path, TICK).map_err(FileError::at(&path, "cannot be locked"))? {
            return Ok(lock);
        }
    }
}

/// The numbers that `job` shares with others, which it holds: chosen now or before. `None` where it shares none, or where
/// activations are beyond the f16 that another wants of them.
///
/// With what their choice took of memory beside mapped files, bytes.
fn shared_numbers<'j>(job: &'j Job, observe: Observe<'_>) -> Result<(Option<&'j Path>, u64), StudyError> {
    let Some(quantized) = job.quantized.as_deref() else { return Ok((None, 0)) };
    if QuantizedCheckpoint::is_in(quantized) {
        match QuantizedCheckpoint::open(quantized) {
            Ok(_) => return Ok((Some(quantized), 0)),
            Err(error) => tracing::warn!("{}; it is made again", in_full(&error)),
        }
        fs::remove_dir_all(quantized).map_err(FileError::at(quantized, "cannot be removed"))?;
    }
    let request = Request { activation: DType::F16, ..job.request() };
    match quantize::watched(&request, &options(job, quantized.to_owned()), observe) {
        Ok(report) => Ok((Some(quantized), report.peak_anonymous_bytes)),
        Err(CommandError::Compress(CompressError::Calib(CalibError::BeyondF16 { .. }))) if job.device.f32 => Ok((None, 0)),
        Err(error) => Err(error.into()),
    }
}

/// The stages of a job, and the record that they fill.
struct Stages<'a> {
    job: &'a Job,
    record: RunRecord,
    work: &'a Work,
    tell: &'a mut dyn FnMut(&Event),
    /// The one that runs.
    stage: &'static str,
}

impl Stages<'_> {
    fn run(&mut self) -> Result<(), StudyError> {
        let measure = &self.job.measure;
        self.stage("load", Stages::load)?;
        if self.record.export.is_none() {
            // Another's choice is waited for outside of every stage: it is no time of this experiment's.
            let held = self.job.quantized.as_deref().map(hold_numbers).transpose()?;
            self.stage("export", |stages| stages.export(held))?;
        }
        if self.record.sanity.is_none() {
            self.stage("sanity", Stages::sanity)?;
        }
        if measure.coqa.is_some() || measure.text.is_some() {
            self.await_baseline()?;
        }
        if let Some(coqa) = measure.coqa.as_ref().filter(|_| !self.is_compared(COQA)) {
            self.score_anew();
            self.stage("coqa", |stages| stages.coqa(coqa))?;
        }
        if let Some(text) = &measure.text {
            if measure.coqa.is_none() && !self.is_compared(PERPLEXITY) {
                self.score_anew();
            }
            if self.record.evaluation.task(PERPLEXITY).is_none() {
                self.stage("text", |stages| stages.text(text))?;
            }
        }
        if let (Some(settings), None) = (&measure.bench, &self.record.benchmarks) {
            self.stage("bench", |stages| stages.bench(settings))?;
        }
        Ok(())
    }

    /// Forgets scores, and warnings: all that warns so far are their stages.
    fn score_anew(&mut self) {
        self.record.evaluation = EvaluationRecord::default();
        self.record.warnings.clear();
    }

    /// Goes on from what an earlier process noted, where its artifact is still there.
    fn resume(&mut self) -> Result<(), StudyError> {
        let noted = self.work.so_far()?.filter(|record| record.id == self.job.id && record.failure.is_none());
        match noted {
            Some(record) if has_artifact(&self.work.artifact(), &record)? => {
                self.record = record;
                Ok(())
            }
            _ => self.work.begin_again(),
        }
    }

    /// Runs one stage, and notes how far the record is.
    fn stage(&mut self, name: &'static str, run: impl FnOnce(&mut Self) -> Result<(), StudyError>) -> Result<(), StudyError> {
        interrupt::check()?;
        self.stage = name;
        (self.tell)(&Event::Stage { stage: name.to_owned() });
        let started = Instant::now();
        run(self)?;
        self.record.stages.push(StageRecord { stage: name.to_owned(), seconds: started.elapsed().as_secs_f64() });
        self.work.note(&self.record)
    }

    /// The model's files are there, and the runtime is.
    fn load(&mut self) -> Result<(), StudyError> {
        let source = source::resolve(&self.job.model)?;
        self.record.model.source = source.name;
        self.record.model.revision = source.revision;
        blank::ask_runtime(&mut self.record.environment, &self.job.device);
        Ok(())
    }

    /// `held`: the lock on the numbers that the job shares.
    fn export(&mut self, held: Option<File>) -> Result<(), StudyError> {
        let job = self.job;
        let tell = RefCell::new(&mut *self.tell);
        let observe = |Step { what, done, all }: Step| {
            tell.borrow_mut()(&Event::Progress { done, total: all, note: what.to_owned() });
        };
        let started = Instant::now();
        let (quantized, peak_anonymous_bytes) = shared_numbers(job, &observe)?;
        let request = quantized.map_or_else(|| job.request(), |quantized| job.request_of(quantized));
        drop(held);
        let options = match request.model == job.model {
            true => options(job, self.work.artifact()),
            false => export::Options::new(self.work.artifact()),
        };
        let report = export::watched(&request, &options, &observe)?;
        let seconds = started.elapsed().as_secs_f64();
        let manifest = Manifest::load(&self.work.artifact())?;
        let model = subject::model_blake3(&source::resolve(&job.model)?, &manifest.inputs)?;
        if model != job.model_blake3 {
            return Err(StudyError::ModelChanged { model: job.model.clone() });
        }
        let record = &mut self.record;
        record.model.parameters = manifest.model.parameters;
        record.model.calibration = manifest.calibration.as_ref().map(|set| set.hash.clone());
        record.sizes = Some(manifest.sizes);
        record.export = Some(ExportTimes {
            seconds,
            artifact_bytes: report.artifact_bytes,
            peak_rss_bytes: report.peak_rss_bytes,
            peak_anonymous_bytes: report.peak_anonymous_bytes.max(peak_anonymous_bytes),
            data_blake3: data_blake3(&manifest).cloned().unwrap_or_default(),
        });
        record.recipe = manifest.recipe;
        Ok(())
    }

    fn sanity(&mut self) -> Result<(), StudyError> {
        let request = generate::Request {
            artifact: self.work.artifact(),
            prompt: SANITY_PROMPT.to_owned(),
            max_new_tokens: SANITY_TOKENS,
            stop: Vec::new(),
            runtime: self.job.device.runtime(crate::runtime::WeightKernels::FusedFast),
        };
        let report = generate::run(&request, &mut |_| ())?;
        self.record.sanity =
            Some(SanityRecord { prompt: request.prompt, text: report.text.clone(), new_tokens: report.new_tokens });
        if report.text.trim().is_empty() {
            return Err(StudyError::NoText { prompt: SANITY_PROMPT });
        }
        Ok(())
    }

    fn coqa(&mut self, coqa: &CoqaMeasure) -> Result<(), StudyError> {
        let job = self.job;
        self.work.check_answers()?;
        let request = evaluate::CoqaRequest {
            artifact: self.work.artifact(),
            data: coqa.data.clone(),
            protocol: coqa.protocol.protocol(),
            limit: coqa.limit,
            batch: coqa.batch,
            predictions: Some(self.work.predictions()),
            official_predictions: None,
            rescore: false,
            runtime: job.device.runtime(job.measure.weights.weights()),
        };
        let tell = &mut *self.tell;
        let scores = evaluate::coqa_watched(&request, &mut |now| {
            let note = format!("F1 {:.3}", now.f1);
            tell(&Event::Progress { done: now.done as u64, total: now.total as u64, note });
        })?;
        let report = scores.report;
        let mut task = scores::of_coqa(&report, file_name(&coqa.data), work::predictions_file(&job.name));
        if report.truncated > 0 {
            let warning = format!("{} prompts were longer than the context and lost their beginning", report.truncated);
            self.record.warnings.push(warning);
        }
        self.record.warnings.extend(scores.notes);
        // The scores stand whether they can be compared or not.
        if let Err(error) = self.compare(&mut task) {
            self.record.warnings.push(format!("no paired comparison: {}", in_full(&error)));
        }
        self.record.evaluation.set(task);
        Ok(())
    }

    /// Answers are compared with the baseline's, which another device may still be at. No stage of the record: how long it
    /// takes says nothing about this experiment.
    fn await_baseline(&mut self) -> Result<(), StudyError> {
        let Some(ended) = self.job.awaits.as_ref().filter(|ended| !ended.exists()) else { return Ok(()) };
        (self.tell)(&Event::Stage { stage: "waits for the baseline".to_owned() });
        while !ended.exists() {
            interrupt::check()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Whether `task` has scores, beside those of the baseline as it is now: an earlier process may have found none.
    fn is_compared(&self, task: &str) -> bool {
        let baseline = self.baseline().filter(|baseline| baseline.evaluation.task(task).is_some());
        let is_its = baseline.is_none_or(|baseline| self.record.compared_with() == Some(&baseline.id));
        self.record.evaluation.task(task).is_some() && is_its
    }

    /// The baseline's record, if it has ended well.
    fn baseline(&self) -> Option<RunRecord> {
        let name = self.job.baseline.as_ref()?;
        let record = RunRecord::load(&RunRecord::path(&self.job.results, name)).ok()?;
        record.failure.is_none().then_some(record)
    }

    /// With the baseline's answers, where they are to the same questions.
    fn compare(&mut self, own: &mut TaskRecord) -> Result<(), StudyError> {
        let Some(name) = &self.job.baseline else { return Ok(()) };
        let baseline = self.baseline();
        let Some((id, scores)) = baseline.and_then(|record| Some((record.id, record.evaluation.task(COQA)?.clone()))) else {
            self.record.warnings.push(format!("{name} has no scores here, so there is no paired comparison"));
            return Ok(());
        };
        if (&scores.version, &scores.data, &scores.counts) != (&own.version, &own.data, &own.counts) {
            self.record.warnings.push(format!("{name} was asked other questions, so there is no paired comparison"));
            return Ok(());
        }
        own.baseline = Some(BaselineRecord { name: name.clone(), id });
        let reference = work::predictions(&self.job.results, name);
        let (a, b) = (read_lines(&reference)?, read_lines(&self.work.predictions())?);
        let own_name = work::predictions_file(&self.job.name);
        let report = compare(NamedLines { name, lines: &a }, NamedLines { name: &own_name, lines: &b })?;
        scores::compare(own, &report);
        Ok(())
    }

    fn text(&mut self, text: &TextMeasure) -> Result<(), StudyError> {
        let runtime = self.job.device.runtime(self.job.measure.weights.weights());
        let windows = evaluate::TextWindows { text: text.file.clone(), window: text.window, limit: text.windows };
        let data = file_name(&text.file.to_string_lossy());
        let artifact = self.work.artifact();
        let perplexity = evaluate::perplexity(&artifact, &windows, &runtime)?.report;
        self.record.evaluation.set(scores::of_perplexity(&perplexity, data.clone()));
        match self.reference()? {
            None => {
                let why =
                    self.job.baseline.as_ref().map(|name| format!("{name} has no artifact here, so there is no KL from it"));
                self.record.warnings.extend(why);
            }
            Some((reference, baseline)) => {
                let request = evaluate::KlRequest { artifact, reference, cache: None, windows, runtime };
                self.record.evaluation.set(scores::of_kl(&evaluate::kl(&request)?.report, data, baseline));
            }
        }
        Ok(())
    }

    /// In a process of its own: what scoring took is not the artifact's memory, and its end is not this experiment's.
    fn bench(&mut self, settings: &BenchSettings) -> Result<(), StudyError> {
        let task = Task::Bench { artifact: self.work.artifact(), device: self.job.device, settings: settings.clone() };
        let (mut measured, tell) = (None, &mut *self.tell);
        let (worker, status) = child::attend(&task, Stdio::inherit(), |event| match event {
            Event::Measured { record } => measured = Some(*record),
            Event::Progress { .. } => tell(&event),
            _ => {}
        })?;
        interrupt::check()?;
        if let Some(said) = worker.complaint(status) {
            return Err(StudyError::Bench { said });
        }
        self.record.benchmarks = measured;
        Ok(())
    }

    /// The baseline's artifact, where it is kept and is the one of its record, and the baseline.
    fn reference(&self) -> Result<Option<(PathBuf, BaselineRecord)>, StudyError> {
        let (Some(record), Some(kept)) = (self.baseline(), &self.job.reference) else { return Ok(None) };
        let is_there = has_artifact(kept, &record)?;
        Ok(is_there.then(|| (kept.clone(), BaselineRecord { name: record.experiment_name, id: record.id })))
    }
}

/// Whether the artifact of `record` lies in `folder`, with every byte as it was written: its weights have the hash in the
/// record, everything else those in its manifest.
///
/// # Errors
/// That is not known: the user stopped it, or a file is there and cannot be read.
pub fn has_artifact(folder: &Path, record: &RunRecord) -> Result<bool, StudyError> {
    let Some(export) = &record.export else { return Ok(false) };
    let manifest = match Manifest::load(folder) {
        Err(error @ RecordError::Unreadable { .. }) => return Err(error.into()),
        Err(_) => return Ok(false),
        Ok(manifest) => manifest,
    };
    if data_blake3(&manifest) != Some(&export.data_blake3) || manifest.is_as_written() == Some(false) {
        return Ok(false);
    }
    for file in &manifest.outputs {
        let path = folder.join(&file.file);
        if !is_whole(&path, file)? {
            tracing::warn!("{}: has changed since it was written; it is made again", path.display());
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file has the bytes that were recorded; one that is gone or was cut short has not.
fn is_whole(path: &Path, file: &FileRecord) -> Result<bool, ArtifactError> {
    match hashing::of_file(path) {
        Ok(blake3) => Ok(blake3 == file.blake3),
        Err(ArtifactError::File(FileError { source, .. }))
            if is_wrong_file(&source) || source.kind() == ErrorKind::UnexpectedEof =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// BLAKE3 of the artifact's weights, which experiments have in one file.
fn data_blake3(manifest: &Manifest) -> Option<&String> {
    manifest.data_files(&manifest.graph_file()?).first().map(|file| &file.blake3)
}

/// A file's name without its folder, which says nothing to a reader of the record; a data set's id as it is.
fn file_name(data: &str) -> String {
    let path = Path::new(data);
    let name = path.file_name().filter(|_| path.is_file()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| data.to_owned())
}
