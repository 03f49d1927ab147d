//! JSON objects in small files; of equal keys the last counts, as Python has it.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use super::CompanionError;
use crate::host::read;

/// The object in the file at `path`; `None` where there is no file.
pub(super) fn object(path: &Path) -> Result<Option<Map<String, Value>>, CompanionError> {
    object_within(path, read::SETTINGS)
}

/// As [`object`], of a file of at most `most` bytes.
pub(super) fn object_within(path: &Path, most: u64) -> Result<Option<Map<String, Value>>, CompanionError> {
    let text = match read::text(path, most) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|source| CompanionError::Read { path: path.to_owned(), source })?,
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(other) => Err(CompanionError::NotAnObject { path: path.to_owned(), got: kind(&other) }),
        Err(source) => Err(CompanionError::Json { path: path.to_owned(), source }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
