//! JSON objects in small files, and typed look-ups in them. `null` counts as absent, the last of equal keys counts, both as
//! Python has it.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use super::CompanionError;
use crate::host::{read, shown};

/// The object in the file at `path`; `None` where there is no file.
pub(super) fn object(path: &Path) -> Result<Option<Map<String, Value>>, CompanionError> {
    let text = match read::text(path, read::SETTINGS) {
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

/// An object and the file it is from, for messages.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub object: &'a Map<String, Value>,
    pub path: &'a Path,
}

impl<'a> Keys<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// What `read` makes of the value of `key`; a refusal where it makes nothing of it.
    pub fn maybe<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CompanionError> {
        let refused = |value: &Value| CompanionError::Value {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected,
            got: shown(&value.to_string()).to_string(),
        };
        self.get(key).map(|value| read(value).ok_or_else(|| refused(value))).transpose()
    }

    /// A whole number from 0 on.
    pub fn count(&self, key: &str) -> Result<Option<usize>, CompanionError> {
        self.maybe(key, "a whole number from 0 on", |value| value.as_u64().and_then(|count| usize::try_from(count).ok()))
    }

    /// One token id or a list of them. Negative ids stand for no token, as in Hugging Face, where nothing equals them.
    pub fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>, CompanionError> {
        self.maybe(key, "a token id or a list of token ids", |value| {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let ids: Option<Vec<i64>> = values.iter().map(whole).collect();
            Some(ids?.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
        })
    }
}

/// A whole number, also one that is written as 2.0: Hugging Face makes integers of both.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let fraction = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 2e9).map(|number| number as i64);
    value.as_i64().or_else(fraction)
}
