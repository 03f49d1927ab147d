//! Why a command cannot do what it was asked.

use std::path::PathBuf;

use crate::artifact::ArtifactError;
use crate::calib::SetError;
use crate::checkpoint::CheckpointError;
use crate::companions::CompanionError;
use crate::compress::CompressError;
use crate::eval::EvalError;
use crate::fault::Fault;
use crate::features::NotBuilt;
use crate::generate::GenerateError;
use crate::host::interrupt::Interrupted;
use crate::host::{FileError, shown};
use crate::onnx::{DataError, ProtoError};
use crate::record::{RecordError, RunRecordError};
#[cfg(feature = "report")]
use crate::report::ReportError;
use crate::runtime::RuntimeError;
use crate::usage::UsageError;

/// What can go wrong in a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Of what it was: a model, a text. What went wrong there is the source.
    #[error("{place}")]
    In { place: String, source: Box<CommandError> },
    /// A file of the artifact is no graph.
    #[error("{file}")]
    Model { file: String, source: ProtoError },
    /// The artifact has not what its graph needs.
    #[error("initializer {} {problem}", shown(name))]
    Initializer { name: String, problem: String },
    /// The plan, the model's files or the writing of weights.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The choice of widths, codes and scales.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// The disk's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The caller's token was cancelled, or the user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// As [`CommandError::Interrupted`], when the numbers for several targets were chosen.
    #[error("interrupted; the numbers are chosen and kept in {}, the same command goes on with them", folder.display())]
    NumbersKept { folder: PathBuf },
    /// What was asked for cannot be meant.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The model's weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The artifact's manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] RecordError),
    /// The record of an experiment cannot be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// A file beside the weights is not what it should be.
    #[error(transparent)]
    Companion(#[from] CompanionError),
    /// What is scored was calibrated on, or cannot be read by the artifact's tokenizer.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The artifact cannot be scored, or scores cannot be compared.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The model cannot go on with the prompt.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The artifact cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The data file cannot be written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Records do not make a report.
    #[cfg(feature = "report")]
    #[error(transparent)]
    Report(#[from] ReportError),
    /// This build lacks what was asked for.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
}

impl CommandError {
    /// Says of an error in what it came about, for [`Result::map_err`].
    pub fn at<E: Into<CommandError>>(place: impl FnOnce() -> String) -> impl FnOnce(E) -> CommandError {
        |error| CommandError::In { place: place(), source: Box::new(error.into()) }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            CommandError::In { source, .. } => source.fault(),
            CommandError::Usage(_) => Fault::BadInput,
            CommandError::Model { .. }
            | CommandError::Initializer { .. }
            | CommandError::File(_)
            | CommandError::Interrupted(_)
            | CommandError::NumbersKept { .. } => Fault::Failed,
            CommandError::Artifact(error) => error.fault(),
            CommandError::Compress(error) => error.fault(),
            CommandError::Checkpoint(error) => error.fault(),
            CommandError::Manifest(error) => error.fault(),
            CommandError::Record(error) => error.fault(),
            CommandError::Companion(error) => error.fault(),
            CommandError::Set(error) => error.fault(),
            CommandError::Eval(error) => error.fault(),
            CommandError::Generate(error) => of_backend(error).unwrap_or(error.fault()),
            CommandError::Runtime(error) => error.fault(),
            CommandError::Data(error) => error.fault(),
            #[cfg(feature = "report")]
            CommandError::Report(error) => error.fault(),
            CommandError::NotBuilt(part) => part.fault(),
        }
    }

    /// Whether the work was stopped, and nothing is wrong.
    pub fn is_interrupted(&self) -> bool {
        match self {
            CommandError::In { source, .. } => source.is_interrupted(),
            CommandError::Artifact(error) => error.is_interrupted(),
            CommandError::Compress(error) => error.is_interrupted(),
            error => matches!(
                error,
                CommandError::Interrupted(_)
                    | CommandError::NumbersKept { .. }
                    | CommandError::Runtime(RuntimeError::Interrupted(_))
                    | CommandError::Generate(GenerateError::Interrupted(_))
                    | CommandError::Eval(EvalError::Model(GenerateError::Interrupted(_)))
            ),
        }
    }
}

/// Whose fault the backend's own error is, which says it better than that it failed.
fn of_backend(error: &GenerateError) -> Option<Fault> {
    let GenerateError::Backend(said) = error else { return None };
    let of_runtime = said.downcast_ref().map(RuntimeError::fault);
    of_runtime.or(said.downcast_ref().map(CompanionError::fault))
}
