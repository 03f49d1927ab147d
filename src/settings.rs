//! Settings that somebody else wrote: typed look-ups in one JSON object, the same for every reader of the file.
//!
//! What is here is as transformers has it: of a key that comes twice the last counts, null counts as absent, a negative token
//! id is none.

use serde_json::{Map, Value as Json};

use crate::fault::Fault;
use crate::host::shown;

/// `max_position_embeddings` of a Llama whose config.json does not say it (transformers' `LlamaConfig`).
pub const DEFAULT_POSITIONS: usize = 2048;

/// A value of another kind than its key has.
#[derive(Debug, thiserror::Error)]
#[error("{key} must be {expected}, got {got}")]
pub struct InvalidSetting {
    /// With the key of the object that it is in, `rope_scaling.factor`.
    pub key: String,
    pub expected: String,
    pub got: String,
}

impl InvalidSetting {
    /// A setting comes from a file.
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}

/// One JSON object.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    object: &'a Map<String, Json>,
    /// Key of the object itself, empty for the top one.
    prefix: &'static str,
}

impl<'a> Settings<'a> {
    /// The settings of a whole file.
    pub fn of(object: &'a Map<String, Json>) -> Settings<'a> {
        Settings { object, prefix: "" }
    }

    /// The object at `key`, if there is one.
    ///
    /// # Errors
    /// The value is neither an object nor null.
    pub fn object(&self, key: &'static str) -> Result<Option<Settings<'a>>, InvalidSetting> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::Object(object)) => Ok(Some(Settings { object, prefix: key })),
            Some(_) => Err(self.invalid(key, "an object or null".to_owned())),
        }
    }

    /// The value of a key; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Json> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, if only to say null.
    pub fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// Every key, those of null too.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.object.keys().map(String::as_str)
    }

    /// A size: a whole number that some model could have.
    ///
    /// # Errors
    /// The value is none.
    pub fn size(&self, key: &str) -> Result<Option<usize>, InvalidSetting> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if (1..=1 << 31).contains(&size) => Ok(Some(size as usize)),
            _ => Err(self.invalid(key, "a whole number from 1 to 2147483648".to_owned())),
        }
    }

    /// A finite number above zero.
    ///
    /// # Errors
    /// The value is none.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, InvalidSetting> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.invalid(key, "a number above zero".to_owned())),
        }
    }

    /// True or false, false where it is absent.
    ///
    /// # Errors
    /// The value is neither.
    pub fn flag(&self, key: &str) -> Result<bool, InvalidSetting> {
        match self.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.invalid(key, "true or false".to_owned())),
        }
    }

    /// What `read` makes of the value of `key`.
    ///
    /// # Errors
    /// It makes nothing of it: the value is not as `expected`.
    pub fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, InvalidSetting> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.invalid(key, expected.to_owned()))).transpose()
    }

    /// A whole number from 0 on.
    ///
    /// # Errors
    /// The value is none.
    pub fn count(&self, key: &str) -> Result<Option<usize>, InvalidSetting> {
        self.read(key, "a whole number from 0 on", |value| value.as_u64().and_then(|count| usize::try_from(count).ok()))
    }

    /// As [`Self::tokens`], where 2.0 is the id 2: `generate()` makes tensors of integers of what generation_config.json has,
    /// and config.json's types are checked.
    ///
    /// # Errors
    /// The value is neither.
    pub fn tensor_of_tokens(&self, key: &str) -> Result<Vec<u32>, InvalidSetting> {
        let ids = self.read(key, "a token id or a list of token ids", |value| {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let ids: Option<Vec<i64>> = values.iter().map(whole).collect();
            ids?.into_iter().filter(|&id| id >= 0).map(|id| u32::try_from(id).ok()).collect()
        });
        Ok(ids?.unwrap_or_default())
    }

    /// One token id or a list of them. −1 and other negative ids are no token: that is how "none" was written once.
    ///
    /// # Errors
    /// The value is neither.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>, InvalidSetting> {
        let values = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Json::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let is_none = |value: &&Json| value.as_i64().is_some_and(|id| id < 0);
        let id = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = values.iter().filter(|value| !is_none(value)).map(id).collect();
        ids.ok_or_else(|| self.invalid(key, "a token id or a list of token ids".to_owned()))
    }

    /// That the value of `key` is not as `expected`.
    pub fn invalid(&self, key: &str, expected: String) -> InvalidSetting {
        let got = self.object.get(key).map_or("nothing".to_owned(), abridged);
        InvalidSetting { key: self.path(key), expected, got }
    }

    /// The key with that of the object that it is in.
    pub fn path(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }
}

/// A whole number, also one that is written as 2.0.
pub fn whole(value: &Json) -> Option<i64> {
    let fraction = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 2e9).map(|number| number as i64);
    value.as_i64().or_else(fraction)
}

/// Positions that the model of a config.json was made for.
///
/// # Errors
/// `max_position_embeddings` is no size.
pub fn max_positions(config: &Settings<'_>) -> Result<usize, InvalidSetting> {
    Ok(config.size("max_position_embeddings")?.unwrap_or(DEFAULT_POSITIONS))
}

/// A value as JSON, cut to a length that fits a message.
pub fn abridged(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", shown(&text[..end])),
        None => shown(&text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(json: Json) -> Map<String, Json> {
        json.as_object().expect("an object").clone()
    }

    #[test]
    fn negative_token_ids_are_none() {
        let json = object(json!({"a": -1, "b": [7, -1, 8], "c": 1.5, "d": "</s>", "e": 4294967296_u64, "f": null}));
        let settings = Settings::of(&json);
        assert_eq!(settings.tokens("a").unwrap(), Vec::<u32>::new());
        assert_eq!(settings.tokens("b").unwrap(), [7, 8]);
        assert_eq!((settings.tokens("f").unwrap(), settings.tokens("g").unwrap()), (vec![], vec![]));
        for key in ["c", "d", "e"] {
            assert!(settings.tokens(key).unwrap_err().to_string().contains("a token id or a list of token ids"), "{key}");
        }
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_counts() {
        let json = object(serde_json::from_str(r#"{"hidden_size": 64, "hidden_size": 32}"#).unwrap());
        assert_eq!(Settings::of(&json).size("hidden_size").unwrap(), Some(32));
    }

    #[test]
    fn a_value_in_a_message_neither_steers_nor_floods_the_terminal() {
        let json = object(json!({"hidden_size": "\u{1b}[2J\u{202e}".repeat(1000)}));
        let message = Settings::of(&json).size("hidden_size").unwrap_err().to_string();
        assert!(message.chars().all(|c| !c.is_control() && c != '\u{202e}') && message.len() < 700, "{message}");
    }
}
