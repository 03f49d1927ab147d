//! The folder in which an experiment waits until it has ended: its artifact, its answers, its record so far.
//!
//! ```text
//! results/.work/experiments/<name>/lock     held while a process works on it
//! results/.work/experiments/<name>/<id>/    artifact/, answers.jsonl, the record so far; removed when the record is written
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::{ExperimentError, Job};
use crate::pipeline::lock;
use crate::record::{FailureRecord, RunRecord};

/// What is not a result lies here, in the results folder.
const FOLDER: &str = ".work";
/// In that, what belongs to one experiment, whatever it is called.
const EXPERIMENTS: &str = "experiments";
/// In that, what the sweep that runs here holds.
const SWEEP_LOCK: &str = "sweep.lock";
/// A process whose sweep was killed ends within a few seconds; its work is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);

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
pub fn hold_for_sweep(results: &Path) -> anyhow::Result<Option<File>> {
    let path = root(results)?.join(SWEEP_LOCK);
    // A run that ends looks at the lock for a moment.
    lock::hold(&path, Duration::from_secs(1)).with_context(|| format!("{}: cannot be locked", path.display()))
}

/// Where the artifact of an experiment is kept for good.
pub fn kept_artifact(results: &Path, name: &str) -> PathBuf {
    results.join("artifacts").join(name)
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
    let entries = fs::read_dir(folder.join(EXPERIMENTS)).into_iter().flatten().flatten();
    let locks = entries.map(|entry| entry.path().join("lock")).chain([folder.join(SWEEP_LOCK)]);
    let locks: Vec<_> = locks.filter(|lock| lock.is_file()).collect();
    let held: Vec<_> = locks.iter().filter_map(|path| lock::hold(path, Duration::ZERO).ok().flatten()).collect();
    if held.len() == locks.len() {
        // What stays behind is hidden and is used again.
        let _ = fs::remove_dir_all(&folder);
    }
}

impl Work {
    /// Opens the folder of `job`; what is there of the experiment under another id is removed.
    pub fn open(job: &Job) -> anyhow::Result<Work> {
        let all = root(&job.results)?.join(EXPERIMENTS).join(&job.name);
        make(&all)?;
        let busy = || ExperimentError::Busy { name: job.name.clone(), folder: job.results.clone() };
        let held = lock::hold(&all.join("lock"), PATIENCE).with_context(|| format!("{}: cannot be locked", all.display()))?;
        let lock = held.ok_or_else(busy)?;
        let folder = all.join(&job.id);
        for entry in fs::read_dir(&all)? {
            let path = entry?.path();
            if path.is_dir() && path != folder {
                fs::remove_dir_all(&path)?;
            }
        }
        make(&folder)?;
        let work = Work { folder, results: job.results.clone(), name: job.name.clone(), _lock: lock };
        work.remove_halves()?;
        Ok(work)
    }

    /// What a killed export left: a folder that was never given its name.
    fn remove_halves(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(".artifact.partial-") {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    /// Where the artifact is written.
    pub fn artifact(&self) -> PathBuf {
        self.folder.join("artifact")
    }

    /// Where answers are written.
    pub fn predictions(&self) -> PathBuf {
        self.folder.join("answers.jsonl")
    }

    /// The record as far as an earlier process came; `None` where there is none that can be read.
    pub fn so_far(&self) -> Option<RunRecord> {
        RunRecord::load(&RunRecord::path(&self.folder, &self.name)).ok()
    }

    /// Notes how far it is.
    pub fn note(&self, record: &RunRecord) -> anyhow::Result<()> {
        record.write(&self.folder)?;
        Ok(())
    }

    /// Forgets what an earlier process did.
    pub fn begin_again(&self) -> anyhow::Result<()> {
        for path in [self.artifact(), self.predictions(), RunRecord::path(&self.folder, &self.name)] {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{}: cannot be removed", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the record and what belongs to it in place; the artifact too where `keep` says one.
    pub fn finish(self, record: &RunRecord, keep: Option<&Path>) -> anyhow::Result<()> {
        if record.evaluation.is_some() && self.predictions().is_file() {
            fs::rename(self.predictions(), predictions(&self.results, &self.name))
                .context("the answers cannot be put in place")?;
        }
        if let Some(kept) = keep.filter(|_| self.artifact().is_dir()) {
            make(kept.parent().unwrap_or(&self.results))?;
            if kept.is_dir() {
                fs::remove_dir_all(kept)?;
            }
            fs::rename(self.artifact(), kept).with_context(|| format!("{}: cannot be put in place", kept.display()))?;
        }
        record.write(&self.results)?;
        // The record is there: what stays behind is hidden, and the next run of this experiment removes it.
        let _ = fs::remove_dir_all(&self.folder);
        Ok(())
    }
}

/// Writes the record of an experiment whose process died, with what it had come to.
pub fn record_death(job: &Job, failure: FailureRecord) -> anyhow::Result<RunRecord> {
    let work = Work::open(job)?;
    let mut record = work.so_far().unwrap_or_else(|| super::blank::record(job));
    record.failure = Some(failure);
    work.finish(&record, None)?;
    Ok(record)
}
