//! Everything that can be wrong with experiments and sweeps before any work, and what ends them.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::builtin_names;
use crate::fault::Fault;

/// Every way an experiment can be wrong or end early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    #[error("experiment {name}: cannot be read; give a TOML file or one of {}", builtin_names().join(", "))]
    Unreadable { name: String, source: std::io::Error },
    #[error("experiment {file}: {message}; see benches/experiments/ for complete examples")]
    Syntax { file: String, message: String },
    #[error("experiment {name}: a name is letters, digits, `_`, `-` and `.`, because its files are called by it; choose another")]
    Name { name: String },
    #[error(
        "--baseline {name}: {folder} has no record of it, and no built-in experiment is called so; run it first, into the same \
         folder",
        folder = folder.display()
    )]
    NoBaseline { name: String, folder: PathBuf },
    #[error(
        "record {path}: is of another model ({got}, now {now}); keep the studies of two models in two folders, give another with \
         --results", path = path.display()
    )]
    OtherModel { path: PathBuf, got: String, now: String },
    #[error(
        "{path}: is where the answers of an experiment go, and holds something else; move it away, or give another folder with \
         --results", path = path.display()
    )]
    Foreign { path: PathBuf },
    #[error("results folder {folder}: cannot be made; give another with --results")]
    Folder { folder: PathBuf, source: std::io::Error },
    #[error("experiment {name}: another qonnx works on it in {folder}; wait for it, or choose another results folder", folder = folder.display())]
    Busy { name: String, folder: PathBuf },
    #[error("experiment {name}: {message}")]
    Failed { name: String, message: String },
    #[error(
        "experiment {name}: {message}; the disk is full, free some space and run the same command again: it goes on from here"
    )]
    DiskFull { name: String, message: String },
    #[error("interrupted in experiment {name}; what is finished is kept in {folder}, the same command goes on from there", folder = folder.display())]
    Interrupted { name: String, folder: PathBuf },
}

impl ExperimentError {
    /// What is asked is the input's fault, what happens is not.
    pub fn fault(&self) -> Fault {
        match self {
            ExperimentError::Unreadable { .. }
            | ExperimentError::Syntax { .. }
            | ExperimentError::Name { .. }
            | ExperimentError::OtherModel { .. }
            | ExperimentError::Foreign { .. }
            | ExperimentError::NoBaseline { .. } => Fault::BadInput,
            // The user named a file, or a folder below one.
            ExperimentError::Folder { source, .. }
                if matches!(source.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) =>
            {
                Fault::BadInput
            }
            ExperimentError::Folder { .. }
            | ExperimentError::Busy { .. }
            | ExperimentError::Failed { .. }
            | ExperimentError::DiskFull { .. }
            | ExperimentError::Interrupted { .. } => Fault::Failed,
        }
    }
}
