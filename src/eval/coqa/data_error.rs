//! Every way in which a CoQA file can be broken.

use std::{fmt, io};

use crate::fault::Fault;
use crate::features::NotBuilt;
use crate::host::read;

/// Where in a file: which entry, which turn. Counts from 1, as people do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Number of the conversation (or line) and what it is called.
    pub entry: Option<(&'static str, usize)>,
    /// Its id, once known.
    pub id: Option<String>,
    /// Number of the turn.
    pub turn: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((kind, number)) = &self.entry else { return f.write_str("top level") };
        write!(f, "{kind} {number}")?;
        if let Some(id) = &self.id {
            write!(f, " (id {id:?})")?;
        }
        if let Some(turn) = self.turn {
            write!(f, ", turn {turn}")?;
        }
        Ok(())
    }
}

/// What is wrong with a data file, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    #[error("{file} cannot be read; give a CoQA JSON file, a JSONL file of prompts, or the id of a hub data set")]
    Read { file: String, source: io::Error },
    #[error("{file} is empty; give a CoQA JSON file, a JSONL file of prompts, or the hub's parquet file")]
    EmptyFile { file: String },
    #[error("{file}: it is UTF-16; save it as UTF-8")]
    Utf16 { file: String },
    #[error("{file}: byte {byte} (line {line}) is not UTF-8; save the file as UTF-8")]
    NotUtf8 { file: String, byte: usize, line: usize },
    #[error("{file}: line {line}, column {column}: not valid JSON: {detail}; is the file complete?")]
    Syntax { file: String, line: usize, column: usize, detail: String },
    #[error("{file}: not a readable parquet file: {detail}; fetch it again")]
    Parquet { file: String, detail: String },
    #[error("{file}: {part}, or give JSON")]
    NotBuilt { file: String, part: NotBuilt },
    #[error(
        "{file}: unknown layout: expected an object with `data` (official CoQA), a list of conversations (the hub's data sets), or lines of objects with `prompt` and `golds`, got {found}"
    )]
    UnknownLayout { file: String, found: String },
    #[error(
        "{file}: {place}: a line of a JSONL file has `prompt` where an earlier one has `story`, or the reverse; keep one kind in a file"
    )]
    MixedLines { file: String, place: Box<Place> },
    #[error("{file}: holds no conversation; expected at least one")]
    NoConversations { file: String },
    #[error("{file}: {place}: field `{field}` is missing; expected {expected}")]
    Missing { file: String, place: Box<Place>, field: String, expected: &'static str },
    #[error("{file}: {place}: field `{field}`: expected {expected}, got {got}")]
    WrongType { file: String, place: Box<Place>, field: String, expected: &'static str, got: String },
    #[error("{file}: {place}: `story` is empty; expected the text that the questions are about")]
    EmptyStory { file: String, place: Box<Place> },
    #[error("{file}: {place}: `prompt` is empty; expected the text to be continued")]
    EmptyPrompt { file: String, place: Box<Place> },
    #[error("{file}: {place}: has no questions; expected at least one")]
    NoTurns { file: String, place: Box<Place> },
    #[error("{file}: {place}: has no `golds`; expected at least one reference answer")]
    NoGolds { file: String, place: Box<Place> },
    #[error("{file}: {place}: {questions} questions but {got} entries in `{field}`; expected one for each question")]
    Count { file: String, place: Box<Place>, field: String, questions: usize, got: usize },
    #[error("{file}: {place}: `{field}`: expected turn_id {expected} (turns count up from 1), got {got}")]
    TurnOrder { file: String, place: Box<Place>, field: String, expected: u32, got: i64 },
    #[error(
        "{file}: {place}: turn_id {turn_id} was already used by an earlier turn of this conversation; number the turns 1, 2, 3, …"
    )]
    DuplicateTurn { file: String, place: Box<Place>, turn_id: u32 },
    #[error("{file}: {place}: this id was already used by conversation {first}; give every conversation its own id")]
    DuplicateConversation { file: String, place: Box<Place>, first: usize },
}

/// Whether the path leads to no file, or to one of another kind, which is the fault of whoever named it.
pub(in crate::eval) fn is_wrong_path(error: &io::Error) -> bool {
    read::is_wrong_file(error)
}

impl DataError {
    /// All of these are the file's fault, but for a disk that fails and a build that lacks something.
    pub fn fault(&self) -> Fault {
        match self {
            DataError::Read { source, .. } if !is_wrong_path(source) => Fault::Failed,
            DataError::NotBuilt { part, .. } => part.fault(),
            _ => Fault::BadInput,
        }
    }
}
