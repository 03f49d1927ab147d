use std::io;
use std::path::{Path, PathBuf};

use super::builtin::builtin_sets;
use super::chat::{ChatError, ClockError};
use crate::checkpoint::hub::HubError;
use crate::companions::CompanionError;
use crate::eval::coqa::DataError;
use crate::fault::Fault;
use crate::host::read;

/// Why there is no calibration set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    #[error(
        "calibration set {name}: no such file, and no built-in set; give a .toml as in calibration/, a .json of token ids, or one of {}",
        builtin_sets().join(", ")
    )]
    Unknown { name: String },
    #[error("calibration set {name}: cannot be read as a set; give a .toml as in calibration/, or a .json of token ids")]
    UnknownKind { name: String },
    #[error("{file} cannot be read; check the path and its rights")]
    Unreadable { file: String, source: io::Error },
    #[error("calibration set {file}: {message}; see calibration/ for complete examples")]
    Syntax { file: String, message: String },
    #[error("calibration set {set}: {problem}")]
    Setting { set: String, problem: &'static str },
    #[error("{file}: cannot be a calibration source of form {form}; give {expected}")]
    FileKind { file: String, form: &'static str, expected: &'static str },
    #[error("{file}: {place}: expected {expected}, got {got}; mend the file, or name another field in [source]")]
    Content { file: String, place: String, expected: String, got: String },
    #[error("{file}: holds no documents; give a file with text")]
    Empty { file: String },
    #[error(transparent)]
    Coqa(#[from] DataError),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Companion(#[from] CompanionError),
    #[error("{}: cannot be read as {what} ({reason}); copy it from the model's repository again", path.display())]
    ModelFile { path: PathBuf, what: &'static str, reason: String },
    #[error("document {document} cannot be tokenized: {reason}; take it out of the source")]
    Encode { document: usize, reason: String },
    #[error(
        "model {}: has no chat template (chat_template in tokenizer_config.json, or chat_template.jinja), which form = \"chat\" needs; \
         use form = \"text\", or the instruction-tuned model's tokenizer files",
        model.display()
    )]
    NoChatTemplate { model: PathBuf },
    #[error("{}: cannot be used as a chat template: {reason}; mend it, or use form = \"text\"", path.display())]
    Template { path: PathBuf, reason: String },
    #[error(transparent)]
    Clock(#[from] ClockError),
    #[error("document {document}: {}", of_chat(model, reason))]
    Chat { model: PathBuf, document: usize, reason: ChatError },
    #[error(
        "calibration set {set}: sequence {sequence} has token id {id}, but the model's vocabulary ends at {}; use a set of this \
         model's tokenizer",
        vocab_size - 1
    )]
    BeyondVocabulary { set: String, sequence: usize, id: u32, vocab_size: usize },
    #[error(
        "calibration set {set}: too little text: {sequences} of {samples} sequences{of_length}{too_short}; lower samples or length, or \
         give more text"
    )]
    TooLittle { set: String, sequences: usize, samples: usize, of_length: String, too_short: String },
    #[error(
        "calibration set {set}: its token ids have hash {got}, expected {expected}; the source or the tokenizer is not the one that the \
         hash was written for: restore it, or put the new hash into the set"
    )]
    WrongHash { set: String, expected: String, got: String },
    #[error(
        "calibration set {set}: shares {words} words in a row with document {document} of {evaluation}: \"{quote}\"; scores on text that the model was \
         calibrated on mean nothing: take the document out of the set's source, or use another set"
    )]
    Leak { set: String, evaluation: String, document: String, quote: String, words: usize },
    #[error("calibration record: {problem}; export the artifact again")]
    Record { problem: String },
}

/// Whose doing it is that a chat has no text: the document's, which a template may refuse, or the template's.
fn of_chat(model: &Path, reason: &ChatError) -> String {
    match reason {
        ChatError::Refused(_) => {
            format!("the model's chat template refuses it: {reason}; take it out of the source, or use form = \"text\"")
        }
        _ => format!("the chat template of {} fails on it: {reason}; mend the template, or use form = \"text\"", model.display()),
    }
}

impl SetError {
    /// Sets and their sources are the input; a hub or disk that fails is not.
    pub fn fault(&self) -> Fault {
        match self {
            SetError::Hub(error) => error.fault(),
            SetError::Coqa(error) => error.fault(),
            SetError::Companion(error) => error.fault(),
            SetError::Chat { reason: ChatError::Thread(_), .. } => Fault::Failed,
            SetError::Unreadable { source, .. } if !read::is_wrong_file(source) => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}
