//! Reading CoQA data.
//!
//! Four layouts, told apart by content (and by a `.jsonl` name when content leaves it open):
//!
//! - the official file: `{"data": [{"id", "source", "story", "questions": [{"input_text", "turn_id"}], "answers": […],
//!   "additional_answers": {"0": […], …}}]}`; additional answers may be absent;
//! - the hub's data sets, `EleutherAI/coqa` and `stanfordnlp/coqa`, as parquet, as a JSON list or as JSONL: one object a
//!   conversation, with lists of objects, or objects of lists (`"questions": {"input_text": […], "turn_id": […]}`), or
//!   plain lists of questions. Where there are no ids (`stanfordnlp/coqa`) the row's number from 0 is the id;
//! - JSONL of prompts: one object a line, `{"id": string, "prompt": string, "golds": [string, …]}`, optionally
//!   `"turn_id"` (whole number, 1 if absent) and `"domain"` (string, "unknown" if absent). Consecutive lines of one `id`
//!   are asked in one call, so put prompts that begin alike side by side. Prompt and golds are used as they are.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::conversation::conversations;
use super::data_error::{DataError, Place};
use super::fields::{Node, kind, strings};
use super::parquet;
use crate::host::read;

/// The four bytes that begin and end a parquet file.
const PARQUET: &[u8] = b"PAR1";

/// A story and the questions asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub id: String,
    /// The official file's `source`: mctest, gutenberg, race, cnn, wikipedia, reddit or science.
    pub domain: String,
    pub story: String,
    pub turns: Vec<Turn>,
}

/// A question and its reference answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Counts up from 1.
    pub turn_id: u32,
    pub question: String,
    /// The main reference first, then the additional ones in the file's order; at least one.
    pub golds: Vec<String>,
}

/// A ready-made prompt with its references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptLine {
    pub id: String,
    pub turn_id: u32,
    pub domain: String,
    pub prompt: String,
    pub golds: Vec<String>,
}

/// What a data file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dataset {
    Conversations(Vec<Conversation>),
    Prompts(Vec<PromptLine>),
}

impl Dataset {
    /// Two shards of one data set as one; `None` where they are of different forms.
    pub fn followed_by(self, next: Dataset) -> Option<Dataset> {
        match (self, next) {
            (Dataset::Conversations(mut all), Dataset::Conversations(more)) => {
                all.extend(more);
                Some(Dataset::Conversations(all))
            }
            (Dataset::Prompts(mut all), Dataset::Prompts(more)) => {
                all.extend(more);
                Some(Dataset::Prompts(all))
            }
            _ => None,
        }
    }
}

/// Reads a data file of any of the layouts above.
///
/// # Errors
/// [`DataError`], which names the file, the conversation, the turn, and what was expected there.
pub fn load(path: &Path) -> Result<Dataset, DataError> {
    let file = path.display().to_string();
    let bytes = read::file(path, u64::MAX).map_err(|source| DataError::Read { file: file.clone(), source })?;
    parse(&bytes, &file)
}

/// [`load`] of bytes in memory; `file` is the name for messages, and its ending decides for JSONL.
///
/// # Errors
/// As [`load`].
pub fn parse(bytes: &[u8], file: &str) -> Result<Dataset, DataError> {
    if bytes.starts_with(PARQUET) {
        return conversations(&parquet::rows(bytes, file)?, "row", file).map(Dataset::Conversations);
    }
    let text = utf8(bytes, file)?;
    if text.trim().is_empty() {
        return Err(DataError::EmptyFile { file: file.to_string() });
    }
    if file.ends_with(".jsonl") {
        return parse_lines(text, file);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(document) => parse_document(&document, file),
        Err(_) if first_line_is_an_object(text) => parse_lines(text, file),
        Err(error) => Err(syntax(file, error.line(), &error)),
    }
}

fn utf8<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str, DataError> {
    if read::is_utf_16(bytes) {
        return Err(DataError::Utf16 { file: file.to_string() });
    }
    let bytes = read::unmarked(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let byte = error.valid_up_to();
        let line = 1 + bytes[..byte].iter().filter(|b| **b == b'\n').count();
        DataError::NotUtf8 { file: file.to_string(), byte, line }
    })
}

fn syntax(file: &str, line: usize, error: &serde_json::Error) -> DataError {
    let detail = error.to_string();
    let detail = detail.split(" at line ").next().unwrap_or(&detail).to_string();
    DataError::Syntax { file: file.to_string(), line, column: error.column(), detail }
}

/// A whole JSON document that fails to parse is JSONL when its first line alone is an object.
fn first_line_is_an_object(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str::<Value>(first).is_ok_and(|value| value.is_object())
}

fn parse_document(document: &Value, file: &str) -> Result<Dataset, DataError> {
    let top = Place::default();
    let node = Node { file, place: &top, value: document };
    if let Value::Array(entries) = document {
        return conversations(entries, "conversation", file).map(Dataset::Conversations);
    }
    if let Some(data) = node.optional("data") {
        return conversations(data.list("data")?, "conversation", file).map(Dataset::Conversations);
    }
    if document.get("prompt").is_some() || document.get("story").is_some() {
        return entries_of_lines(&[(1, document.clone())], file);
    }
    Err(DataError::UnknownLayout { file: file.to_string(), found: kind(document) })
}

fn parse_lines(text: &str, file: &str) -> Result<Dataset, DataError> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value = serde_json::from_str(line).map_err(|error| syntax(file, index + 1, &error))?;
        entries.push((index + 1, value));
    }
    entries_of_lines(&entries, file)
}

/// Lines of a JSONL file: all prompts or all conversations.
fn entries_of_lines(entries: &[(usize, Value)], file: &str) -> Result<Dataset, DataError> {
    let is_prompt = |value: &Value| value.get("prompt").is_some();
    let Some((_, first)) = entries.first() else {
        return Err(DataError::NoConversations { file: file.to_string() });
    };
    if !is_prompt(first) && first.get("story").is_none() {
        return Err(DataError::UnknownLayout { file: file.to_string(), found: kind(first) });
    }
    if let Some((line, _)) = entries.iter().find(|(_, value)| is_prompt(value) != is_prompt(first)) {
        let place = Place { entry: Some(("line", *line)), ..Place::default() };
        return Err(DataError::MixedLines { file: file.to_string(), place: Box::new(place) });
    }
    if is_prompt(first) {
        return prompt_lines(entries, file).map(Dataset::Prompts);
    }
    let values: Vec<Value> = entries.iter().map(|(_, value)| value.clone()).collect();
    conversations(&values, "conversation", file).map(Dataset::Conversations)
}

fn prompt_lines(entries: &[(usize, Value)], file: &str) -> Result<Vec<PromptLine>, DataError> {
    let mut seen = HashMap::new();
    let mut lines = Vec::with_capacity(entries.len());
    for (number, value) in entries {
        let mut place = Place { entry: Some(("line", *number)), ..Place::default() };
        let id = Node { file, place: &place, value }.text("id")?.to_string();
        place.id = Some(id.clone());
        let line = prompt_line(id, &Node { file, place: &place, value })?;
        if seen.insert((line.id.clone(), line.turn_id), *number).is_some() {
            return Err(DataError::DuplicateTurn { file: file.to_string(), place: Box::new(place), turn_id: line.turn_id });
        }
        lines.push(line);
    }
    Ok(lines)
}

fn prompt_line(id: String, node: &Node<'_>) -> Result<PromptLine, DataError> {
    let prompt = node.text("prompt")?.to_string();
    if prompt.is_empty() {
        return Err(DataError::EmptyPrompt { file: node.file.to_string(), place: Box::new(node.place.clone()) });
    }
    let golds = strings(&node.required("golds", "a list of strings")?, "golds")?;
    if golds.is_empty() {
        return Err(DataError::NoGolds { file: node.file.to_string(), place: Box::new(node.place.clone()) });
    }
    let turn_id = match node.optional("turn_id") {
        Some(turn_id) => {
            u32::try_from(turn_id.integer("turn_id")?).map_err(|_| turn_id.wrong("turn_id", "a number from 0 to 4294967295"))?
        }
        None => 1,
    };
    let domain = match node.optional("domain") {
        Some(_) => node.text("domain")?.to_string(),
        None => "unknown".to_string(),
    };
    Ok(PromptLine { id, turn_id, domain, prompt, golds })
}
