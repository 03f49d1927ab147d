//! Why an experiment or a sweep cannot be run to its end.

use std::error::Error;
use std::io;

use crate::artifact::ArtifactError;
use crate::commands::CommandError;
use crate::companions::CompanionError;
use crate::compress::CompressError;
use crate::eval::EvalError;
use crate::fault::Fault;
use crate::host::FileError;
use crate::host::interrupt::Interrupted;
use crate::recipe::RecipeError;
use crate::record::{RecordError, RunRecordError};
use crate::runtime::RuntimeError;
use crate::study::experiment::ExperimentError;
use crate::study::sweep::SweepError;
use crate::usage::UsageError;

/// What can go wrong in experiments and sweeps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// Of what it was: a model, a text, a file. What went wrong there is the source.
    #[error("{place}")]
    In { place: String, source: Box<StudyError> },
    /// What was asked of an experiment is wrong, or it has ended early.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// What was asked of a sweep is wrong, or it has ended early.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// The model has changed since its experiments were planned.
    #[error("model {model}: its files have changed since the experiment was planned; run the same command again")]
    ModelChanged { model: String },
    /// The artifact says nothing at all.
    #[error("the model generated no text after `{prompt}`; see whether more bits or calibration data help")]
    NoText { prompt: &'static str },
    /// Every point of the benchmark failed; the first says why.
    #[error("no point could be measured: {first}")]
    NoPoint { first: String },
    /// What the process of the benchmark said at its end.
    #[error("{said}")]
    Bench { said: String },
    /// An artifact was to be made alone, and nowhere.
    #[error("an artifact is made to be kept")]
    NowhereKept,
    /// There is no folder to unpack the embedded model into.
    #[error("the embedded model has no place: neither QONNX_CACHE, XDG_CACHE_HOME nor HOME is set; give --model")]
    NoCache,
    /// The process of an experiment cannot be started, or not be told what to do.
    #[error("{what}")]
    Worker { what: &'static str, source: io::Error },
    /// What a worker was told is no job.
    #[error("the worker's job is not one; use `qonnx run`")]
    NotAJob(#[source] serde_json::Error),
    /// What is to be noted is nothing that JSON can say: a path that is not UTF-8.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The plan, the model's files or the data.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The calibration set.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// A stage that is a command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The disk's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// What was asked for cannot be meant.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// An artifact's manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] RecordError),
    /// A record cannot be read or written.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// Answers cannot be read or compared.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A file beside the weights is not what it should be.
    #[error(transparent)]
    Companion(#[from] CompanionError),
    /// The execution provider is missing.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl StudyError {
    /// Says of an error in what it came about, for [`Result::map_err`].
    pub fn at<E: Into<StudyError>>(place: impl FnOnce() -> String) -> impl FnOnce(E) -> StudyError {
        |error| StudyError::In { place: place(), source: Box::new(error.into()) }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            StudyError::In { source, .. } => source.fault(),
            StudyError::Usage(_) => Fault::BadInput,
            StudyError::ModelChanged { .. }
            | StudyError::NoText { .. }
            | StudyError::NoPoint { .. }
            | StudyError::Bench { .. }
            | StudyError::NowhereKept
            | StudyError::NoCache
            | StudyError::Worker { .. }
            | StudyError::NotAJob(_)
            | StudyError::Json(_)
            | StudyError::File(_)
            | StudyError::Interrupted(_) => Fault::Failed,
            StudyError::Experiment(error) => error.fault(),
            StudyError::Sweep(error) => error.fault(),
            StudyError::Artifact(error) => error.fault(),
            StudyError::Compress(error) => error.fault(),
            StudyError::Command(error) => error.fault(),
            StudyError::Recipe(error) => error.fault(),
            StudyError::Manifest(error) => error.fault(),
            StudyError::Record(error) => error.fault(),
            StudyError::Eval(error) => error.fault(),
            StudyError::Companion(error) => error.fault(),
            StudyError::Runtime(error) => error.fault(),
        }
    }

    /// Whether the work was stopped, and nothing is wrong.
    pub fn is_interrupted(&self) -> bool {
        match self {
            StudyError::In { source, .. } => source.is_interrupted(),
            StudyError::Artifact(error) => error.is_interrupted(),
            StudyError::Compress(error) => error.is_interrupted(),
            StudyError::Command(error) => error.is_interrupted(),
            error => matches!(
                error,
                StudyError::Interrupted(_)
                    | StudyError::Experiment(ExperimentError::Interrupted { .. })
                    | StudyError::Sweep(SweepError::Interrupted { .. })
            ),
        }
    }

    /// Whether a disk without room, a quota or a limit on the size of files is what stands in the way.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let is_full = |cause: &(dyn Error + 'static)| {
            let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            let kind = io.or(cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind));
            matches!(kind, Some(StorageFull | QuotaExceeded | FileTooLarge))
        };
        std::iter::successors(self.source(), |&cause| cause.source()).any(is_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen_through_what_reports_it() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let record = RunRecordError::Unwritable { path: "r".into(), source: full() };
        assert!(StudyError::at(|| "stage".to_owned())(record).is_disk_full());
        let below = ArtifactError::at(|| "weight w".to_owned())(FileError::at("f".as_ref(), "cannot be written")(full()));
        assert!(StudyError::from(CommandError::from(CompressError::from(below))).is_disk_full());
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert!(!StudyError::from(FileError::at("f".as_ref(), "cannot be read")(missing)).is_disk_full());
    }
}
