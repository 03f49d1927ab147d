//! The folder in which an experiment waits until it has ended: its artifact, its answers, its record so far.
//!
//! ```text
//! results/.work/experiments/<name>/lock     held while a process works on it
//! results/.work/experiments/<name>/<id>/    artifact/, answers.jsonl, the record so far; removed when the record is written
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{ExperimentError, Job};
use crate::commands::output_folder::{Kind, check_replaced};
use crate::eval::EvalError;
use crate::eval::coqa::AnswerLog;
use crate::eval::coqa::lines::are_ours;
use crate::host::{FileError, lock, publish, read, sealed};
use crate::record::{FailureRecord, RunRecord};
use crate::study::StudyError;

/// What is not a result lies here, in the results folder.
const FOLDER: &str = ".work";
/// In that, what belongs to one experiment, whatever it is called.
const EXPERIMENTS: &str = "experiments";
/// In that, what the sweep that runs here holds.
const SWEEP_LOCK: &str = "sweep.lock";
/// A process whose sweep was killed ends within a few seconds; its work is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long a sweep that is done waits for a worker of an earlier one that was killed, to leave nothing behind.
const CLEARING: Duration = Duration::from_secs(5);
/// In an experiment's folder, what the process that works on it holds.
const LOCK: &str = "lock";

/// An experiment's folder, locked.
pub struct Work {
    folder: PathBuf,
    results: PathBuf,
    name: String,
    _lock: File,
}

/// The folder of what is not a result.
pub fn folder(results: &Path) -> PathBuf {
    results.join(FOLDER)
}

/// As [`folder`], made if it is not there.
pub fn root(results: &Path) -> Result<PathBuf, ExperimentError> {
    let folder = folder(results);
    make(&folder)?;
    Ok(folder)
}

fn make(folder: &Path) -> Result<(), ExperimentError> {
    fs::create_dir_all(folder).map_err(|source| ExperimentError::Folder { folder: folder.to_owned(), source })
}

/// The lock of the one sweep that may run in a results folder; `None` where another holds it.
pub fn hold_for_sweep(results: &Path) -> Result<Option<File>, StudyError> {
    let path = root(results)?.join(SWEEP_LOCK);
    // A run that ends looks at the lock for a moment.
    Ok(lock::hold(&path, Duration::from_secs(1)).map_err(FileError::at(&path, "cannot be locked"))?)
}

/// Where the artifact of an experiment is kept for good.
pub fn kept_artifact(results: &Path, name: &str) -> PathBuf {
    results.join("artifacts").join(name)
}

/// Where numbers that several experiments share lie for the time of their sweep; `key` is of all that they depend on.
pub fn quantized(results: &Path, key: &blake3::Hash) -> PathBuf {
    folder(results).join(format!("quantized-{:.16}", key.to_hex()))
}

/// Where the answers of an experiment lie once it has ended.
pub fn predictions(results: &Path, name: &str) -> PathBuf {
    results.join(predictions_file(name))
}

/// Name of the file with an experiment's answers.
pub fn predictions_file(name: &str) -> String {
    format!("{name}.jsonl")
}

/// Takes the folder of what is not a result away, unless somebody works in it.
pub fn clear(results: &Path) {
    let folder = folder(results);
    let experiments: Vec<PathBuf> =
        fs::read_dir(folder.join(EXPERIMENTS)).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let locks = experiments.iter().map(|experiment| experiment.join(LOCK)).chain([folder.join(SWEEP_LOCK)]);
    let locks: Vec<PathBuf> = locks.filter(|lock| lock.is_file()).collect();
    let until = Instant::now() + CLEARING;
    let patience = || until.saturating_duration_since(Instant::now());
    let held: Vec<File> = locks.iter().filter_map(|path| lock::hold(path, patience()).ok().flatten()).collect();
    if held.len() < locks.len() {
        return;
    }
    // What stays behind is hidden and is used again. Locks go last and by whoever holds them; a network file system keeps the
    // names of removed files that are open, so folders go after that, and only if they are empty.
    for entry in experiments.iter().chain([&folder]).flat_map(fs::read_dir).flatten().flatten() {
        let path = entry.path();
        if !locks.contains(&path) && path != folder.join(EXPERIMENTS) {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
    locks.iter().for_each(|lock| drop(fs::remove_file(lock)));
    drop(held);
    for emptied in experiments.iter().chain([&folder.join(EXPERIMENTS), &folder]) {
        let _ = fs::remove_dir(emptied);
    }
}

/// Refuses a results folder in which the places of what `job` will write are taken by files of somebody else's.
///
/// # Errors
/// [`ExperimentError::Foreign`] by path; an artifact's folder that holds more than an artifact; a disk that cannot be read.
pub fn refuse_foreign(job: &Job) -> Result<(), StudyError> {
    let answers = predictions(&job.results, &job.name);
    // Damaged ones are ours, and are written again.
    let is_ours = match are_ours(&answers) {
        Err(EvalError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => true,
        Err(EvalError::Read { source, .. }) if read::is_wrong_file(&source) => false,
        known => known?,
    };
    if !is_ours {
        return Err(ExperimentError::Foreign { path: answers }.into());
    }
    job.keep.as_deref().map_or(Ok(()), check_kept)
}

/// Refuses the place of an artifact that is to be kept if something else is there.
fn check_kept(kept: &Path) -> Result<(), StudyError> {
    if kept.exists() { Ok(check_replaced(kept, &kept.display().to_string(), Kind::Artifact)?) } else { Ok(()) }
}

impl Work {
    /// Opens the folder of `job`; what is there of the experiment under another id is removed.
    pub fn open(job: &Job) -> Result<Work, StudyError> {
        let all = root(&job.results)?.join(EXPERIMENTS).join(&job.name);
        make(&all)?;
        let busy = || ExperimentError::Busy { name: job.name.clone(), folder: job.results.clone() };
        let held = lock::hold(&all.join(LOCK), PATIENCE).map_err(FileError::at(&all, "cannot be locked"))?;
        let lock = held.ok_or_else(busy)?;
        let folder = all.join(&job.id);
        let others = || {
            for entry in fs::read_dir(&all)? {
                let path = entry?.path();
                if path.is_dir() && path != folder {
                    fs::remove_dir_all(&path)?;
                }
            }
            std::io::Result::Ok(())
        };
        others().map_err(FileError::at(&all, "earlier work cannot be removed"))?;
        make(&folder)?;
        let work = Work { folder, results: job.results.clone(), name: job.name.clone(), _lock: lock };
        let artifact = work.artifact();
        publish::recover(&artifact).map_err(FileError::at(&artifact, "cannot be put back"))?;
        Ok(work)
    }

    /// Where the artifact is written.
    pub fn artifact(&self) -> PathBuf {
        self.folder.join("artifact")
    }

    /// Where answers are written.
    pub fn predictions(&self) -> PathBuf {
        self.folder.join("answers.jsonl")
    }

    fn noted(&self) -> PathBuf {
        RunRecord::path(&self.folder, &self.name)
    }

    /// The record as far as an earlier process came; `None` where there is none that is as it was written.
    ///
    /// # Errors
    /// It is there and cannot be read, which says nothing of what is in it.
    pub fn so_far(&self) -> Result<Option<RunRecord>, StudyError> {
        let noted = self.noted();
        let problem = "cannot be read; what is finished is kept, run the same command again once the disk is well";
        let text = sealed::text(&noted).map_err(FileError::at(&noted, problem))?;
        Ok(text.and_then(|text| RunRecord::parse(&noted, &text).ok()))
    }

    /// Notes how far it is.
    pub fn note(&self, record: &RunRecord) -> Result<(), StudyError> {
        let noted = self.noted();
        let text = serde_json::to_string(record)?;
        Ok(sealed::write(&noted, &text).map_err(FileError::at(&noted, "cannot be written"))?)
    }

    /// Answers that an earlier process wrote are gone on behind only if they are as they were written; otherwise all questions
    /// are asked again.
    pub fn check_answers(&self) -> Result<(), StudyError> {
        match AnswerLog::open(&self.predictions()) {
            Err(error @ (EvalError::Lines { .. } | EvalError::Changed { .. })) => {
                tracing::warn!("all questions are asked again: {error}");
                remove(&self.predictions())
            }
            opened => Ok(opened.map(drop)?),
        }
    }

    /// Forgets what an earlier process did.
    pub fn begin_again(&self) -> Result<(), StudyError> {
        [self.noted(), self.artifact(), self.predictions()].iter().try_for_each(|path| remove(path))
    }

    /// Puts the record and what belongs to it in place; the artifact too where `keep` says one. Hours may have passed since the
    /// start: what lies in the artifact's place is looked at again.
    pub fn finish(self, record: &RunRecord, keep: Option<&Path>) -> Result<(), StudyError> {
        let keep = keep.filter(|_| self.artifact().is_dir());
        keep.map_or(Ok(()), check_kept)?;
        let has_answers = record.evaluation.tasks.iter().any(|task| task.predictions.is_some());
        if has_answers && self.predictions().is_file() {
            let place = predictions(&self.results, &self.name);
            publish::moved_file(&self.predictions(), &place)
                .map_err(FileError::at(&place, "the answers cannot be put in place"))?;
        }
        if let Some(kept) = keep {
            make(kept.parent().unwrap_or(&self.results))?;
            let may_go = |taken: &Path| check_replaced(taken, &kept.display().to_string(), Kind::Artifact).is_ok();
            publish::moved(&self.artifact(), kept, publish::Target::Replaced(&may_go))
                .map_err(FileError::at(kept, "cannot be put in place"))?;
        }
        record.write(&self.results)?;
        // The record is there: what stays behind is hidden, and the next run of this experiment removes it.
        let _ = fs::remove_dir_all(&self.folder);
        Ok(())
    }
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<(), StudyError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::at(path, "cannot be removed")(error).into()),
        _ => Ok(()),
    }
}

/// Writes the record of an experiment whose process died, with what it had come to.
pub fn record_death(job: &Job, failure: FailureRecord) -> Result<RunRecord, StudyError> {
    let work = Work::open(job)?;
    let mut record = work.so_far()?.unwrap_or_else(|| super::blank::record(job));
    record.failure = Some(failure);
    work.finish(&record, None)?;
    Ok(record)
}
