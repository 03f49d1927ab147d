use std::error::Error as _;
use std::io;

use minijinja::{Error, ErrorKind};

use crate::host::shown;

/// Why a chat has no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template called `raise_exception`.
    #[error("{}", shown(.0))]
    Refused(String),
    #[error("{}{}", .line.map(|line| format!("line {line}: ")).unwrap_or_default(), shown(.reason))]
    Template { line: Option<usize>, reason: String },
    #[error("it has {bytes} bytes, expected at most {most}")]
    TooLong { bytes: usize, most: usize },
    #[error("it takes more work or memory, or writes more text, than any chat needs")]
    TooMuch,
    #[error("the template engine stopped on it")]
    Stopped,
    #[error("no thread can be started for it")]
    Thread(#[source] io::Error),
}

/// The message of a `raise_exception`, by which it is told from an error of the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub String);

impl From<Error> for ChatError {
    fn from(error: Error) -> ChatError {
        if error.kind() == ErrorKind::OutOfFuel {
            return ChatError::TooMuch;
        }
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(Raised(message)) = inner.downcast_ref() {
                return ChatError::Refused(message.clone());
            }
            if inner.downcast_ref::<Error>().is_some_and(|inner| inner.kind() == ErrorKind::OutOfFuel) {
                return ChatError::TooMuch;
            }
            cause = inner.source();
        }
        let kind = error.kind();
        let reason = error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"));
        ChatError::Template { line: error.line(), reason }
    }
}
