use std::path::PathBuf;

use crate::fault::Fault;
use crate::host::read;
use crate::settings::InvalidSetting;

/// What can be wrong with the files beside a model's weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompanionError {
    #[error("{dir} has no {file}; copy it from the model's repository", dir = .dir.display())]
    Missing { dir: PathBuf, file: &'static str },
    #[error("{path} cannot be read", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not JSON", path = .path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} must hold an object, got {got}", path = .path.display())]
    NotAnObject { path: PathBuf, got: &'static str },
    #[error("{path}: {setting}; mend or remove it", path = .path.display())]
    Setting { path: PathBuf, setting: InvalidSetting },
    #[error("{path} is not a tokenizer that can be used: {reason}; copy tokenizer.json from the model's repository", path = .path.display())]
    Tokenizer { path: PathBuf, reason: String },
    #[error(
        "{path}: the model's dropout is {dropout}, so that the same text would be read differently each time; set it to null",
        path = .path.display()
    )]
    Dropout { path: PathBuf, dropout: f64 },
    #[error("the tokenizer failed on {what}: {reason}")]
    Encode { what: &'static str, reason: String },
}

impl CompanionError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            CompanionError::Encode { .. } => Fault::Failed,
            CompanionError::Read { source, .. } if !read::is_wrong_file(source) => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}
