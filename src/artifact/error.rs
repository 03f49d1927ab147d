//! Why an artifact cannot be planned, written or read back.

use crate::calib::SetError;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::hub::HubError;
use crate::companions::CompanionError;
use crate::eval::coqa;
use crate::fault::Fault;
use crate::host::FileError;
use crate::host::interrupt::Interrupted;
use crate::model::{ConfigError, ModelRotationError};
use crate::onnx::{DataError, GraphError};
use crate::quant::QuantError;
use crate::recipe::RecipeError;
use crate::record::QuantizedManifestError;
use crate::tensor::convert::ConvertError;
use crate::usage::UsageError;

/// What can go wrong between a checkpoint and the files of an artifact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Of what it was: a weight, a file. What went wrong there is the source.
    #[error("{place}")]
    In { place: String, source: Box<ArtifactError> },
    /// The checkpoint cannot be exported as asked; one sentence each.
    #[error("{}", .0.join("\n       "))]
    Refused(Vec<String>),
    /// A file beside the weights is not the one that was planned with.
    #[error("{file}: {how} since the work began; run the command again")]
    Changed { file: String, how: &'static str },
    /// Numbers are not what the plan or the graph says of them.
    #[error("{what}: {problem}")]
    Mismatch { what: String, problem: String },
    /// The disk's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The caller's token was cancelled, or the user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// What was asked for cannot be meant.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The model or the data set cannot be had from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model's weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The manifest of a quantized checkpoint cannot be read.
    #[error(transparent)]
    Manifest(#[from] QuantizedManifestError),
    /// A file beside the weights is not what it should be.
    #[error(transparent)]
    Companion(#[from] CompanionError),
    /// config.json is of no model that is known.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The recipe is wrong, or does not fit the model.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The model cannot be rotated as the recipe says.
    #[error(transparent)]
    Rotation(#[from] ModelRotationError),
    /// There is no such calibration set.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The questions cannot be read.
    #[error(transparent)]
    Questions(#[from] coqa::DataError),
    /// The graph cannot be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A weight cannot be rounded.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// A weight cannot be stored in the type that it should have.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The data file cannot be written.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl ArtifactError {
    /// Says of an error in what it came about, for [`Result::map_err`].
    pub fn at<E: Into<ArtifactError>>(place: impl FnOnce() -> String) -> impl FnOnce(E) -> ArtifactError {
        |error| ArtifactError::In { place: place(), source: Box::new(error.into()) }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            ArtifactError::In { source, .. } => source.fault(),
            // A model that does not fit the request is the input's fault.
            ArtifactError::Refused(_) | ArtifactError::Usage(_) => Fault::BadInput,
            ArtifactError::Changed { .. }
            | ArtifactError::Mismatch { .. }
            | ArtifactError::File(_)
            | ArtifactError::Interrupted(_) => Fault::Failed,
            ArtifactError::Hub(error) => error.fault(),
            ArtifactError::Checkpoint(error) => error.fault(),
            ArtifactError::Manifest(error) => error.fault(),
            ArtifactError::Companion(error) => error.fault(),
            ArtifactError::Config(error) => error.fault(),
            ArtifactError::Recipe(error) => error.fault(),
            ArtifactError::Rotation(error) => error.fault(),
            ArtifactError::Set(error) => error.fault(),
            ArtifactError::Questions(error) => error.fault(),
            ArtifactError::Graph(error) => error.fault(),
            ArtifactError::Quant(error) => error.fault(),
            ArtifactError::Convert(error) => error.fault(),
            ArtifactError::Data(error) => error.fault(),
        }
    }

    /// Whether the work was stopped, and nothing is wrong.
    pub fn is_interrupted(&self) -> bool {
        match self {
            ArtifactError::In { source, .. } => source.is_interrupted(),
            error => matches!(error, ArtifactError::Interrupted(_)),
        }
    }
}
