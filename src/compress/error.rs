//! Why the numbers of a model cannot be chosen.

use std::error::Error;
use std::path::PathBuf;

use crate::artifact::ArtifactError;
use crate::calib::{CalibError, SetError};
use crate::checkpoint::{CheckpointError, TensorFileError};
use crate::compress::budget::BudgetRefusal;
use crate::fault::Fault;
use crate::host::FileError;
use crate::host::interrupt::Interrupted;
use crate::model::ModelRotationError;
use crate::quant::{BudgetError, QuantError};
use crate::runtime::RuntimeError;
use crate::tensor::convert::ConvertError;
use crate::usage::UsageError;

/// What can go wrong while widths, codes and scales are chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// Of what it was: a weight, a calibration set. What went wrong there is the source.
    #[error("{place}")]
    In { place: String, source: Box<CompressError> },
    /// The work was stopped; what is finished stays.
    #[error("interrupted; {done} of {all} layers are kept in {}, the same command goes on from there", folder.display())]
    Stopped { done: usize, all: usize, folder: PathBuf },
    /// Another process makes the same output.
    #[error("output {}: another process is making it just now; wait for that one, or give another folder", output.display())]
    Busy { output: PathBuf },
    /// A file that an earlier calibration left is not as it was written.
    #[error("{}: {problem}, it is made again", file.display())]
    Damaged { file: PathBuf, problem: String, source: Option<Box<dyn Error + Send + Sync>> },
    /// Widths cannot be chosen as asked.
    #[error(transparent)]
    Refused(#[from] BudgetRefusal),
    /// No choice of widths can be found.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The plan, the model's files or the writing of weights.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The disk's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The caller's token was cancelled, or the user asked to stop; nothing is kept.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// What was asked for cannot be meant.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The calibration set cannot be used.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The model cannot be run on the calibration set.
    #[error(transparent)]
    Calib(#[from] CalibError),
    /// The execution provider of the calibration is missing.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model's weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A finished layer or statistics cannot be read or written.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// The model cannot be rotated as the recipe says.
    #[error(transparent)]
    Rotation(#[from] ModelRotationError),
    /// A weight cannot be rounded.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// A weight is not a number, or infinite.
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

impl CompressError {
    /// Says of an error in what it came about, for [`Result::map_err`].
    pub fn at<E: Into<CompressError>>(place: impl FnOnce() -> String) -> impl FnOnce(E) -> CompressError {
        |error| CompressError::In { place: place(), source: Box::new(error.into()) }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            CompressError::In { source, .. } => source.fault(),
            CompressError::Usage(_) => Fault::BadInput,
            CompressError::Stopped { .. }
            | CompressError::Busy { .. }
            | CompressError::Damaged { .. }
            | CompressError::File(_)
            | CompressError::Interrupted(_) => Fault::Failed,
            CompressError::Refused(error) => error.fault(),
            CompressError::Budget(error) => error.fault(),
            CompressError::Artifact(error) => error.fault(),
            CompressError::Set(error) => error.fault(),
            CompressError::Calib(error) => error.fault(),
            CompressError::Runtime(error) => error.fault(),
            CompressError::Checkpoint(error) => error.fault(),
            CompressError::TensorFile(error) => error.fault(),
            CompressError::Rotation(error) => error.fault(),
            CompressError::Quant(error) => error.fault(),
            CompressError::Convert(error) => error.fault(),
        }
    }

    /// Whether the work was stopped, and nothing is wrong.
    pub fn is_interrupted(&self) -> bool {
        match self {
            CompressError::In { source, .. } => source.is_interrupted(),
            CompressError::Artifact(error) => error.is_interrupted(),
            error => matches!(error, CompressError::Interrupted(_) | CompressError::Stopped { .. }),
        }
    }
}
