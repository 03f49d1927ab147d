//! The special tokens that the files beside a tokenizer declare, as transformers (5.17.0) puts them together:
//! `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CompanionError;
use super::json::object;
use crate::contract::{SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE};
use crate::settings::Settings;

/// What transformers calls a tokenizer's special tokens.
const NAMES: &[&str] = &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Where `tokenizer_config.json` has every added token; the map of special tokens is then not looked at.
const DECODER: &str = "added_tokens_decoder";

/// Texts of special tokens; `None` where the tokenizer has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    pub bos: Option<String>,
    pub eos: Option<String>,
}

/// A token that is looked for in a text before anything else is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    /// Whether decoding leaves it out.
    pub special: bool,
}

/// What the files beside `tokenizer.json` declare.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// `added_tokens_decoder`, by id.
    pub decoder: Vec<AddedToken>,
    /// `bos_token`, `eos_token` and every other key that ends so.
    pub named: Vec<AddedToken>,
    /// `extra_special_tokens`, called `additional_special_tokens` before.
    pub extra: Vec<AddedToken>,
}

impl SpecialTokens {
    /// Reads what the tokenizer of the model in `dir` calls its own.
    ///
    /// # Errors
    /// One of the two files is there and is not what it should be.
    pub fn read(dir: &Path) -> Result<SpecialTokens, CompanionError> {
        let mut all = SpecialTokens::by_name(dir)?;
        Ok(SpecialTokens { bos: all.remove("bos_token"), eos: all.remove("eos_token") })
    }

    /// All that the tokenizer has, as a chat template calls them; else as [`SpecialTokens::read`].
    ///
    /// # Errors
    /// As [`SpecialTokens::read`].
    pub fn by_name(dir: &Path) -> Result<BTreeMap<String, String>, CompanionError> {
        let files = Files::read(dir)?;
        let text = |name: &str| Ok(files.token(name)?.map(|token| token.content));
        let named = NAMES.iter().filter_map(|&name| Some(text(name).transpose()?.map(|token| (name.to_owned(), token))));
        named.collect()
    }
}

impl Declared {
    /// Reads what is declared in `dir`.
    ///
    /// # Errors
    /// As [`SpecialTokens::read`].
    pub fn read(dir: &Path) -> Result<Declared, CompanionError> {
        let files = Files::read(dir)?;
        let keys = files.sources().flat_map(|(object, _)| object.keys()).filter(|key| key.ends_with("_token"));
        let mut named: Vec<AddedToken> = Vec::new();
        for key in keys {
            // Other keys that end so may be flags, like add_bos_token.
            if let Some(token) = files.token(key).ok().flatten().filter(|token| !named.contains(token)) {
                named.push(token);
            }
        }
        Ok(Declared { decoder: files.decoder()?, named, extra: files.extra()? })
    }
}

/// `special_tokens_map.json` where it counts, and `tokenizer_config.json`, with their paths.
struct Files {
    map: Option<(Map<String, Value>, PathBuf)>,
    config: (Map<String, Value>, PathBuf),
}

impl Files {
    fn read(dir: &Path) -> Result<Files, CompanionError> {
        let read = |file: &str| {
            let path = dir.join(file);
            Ok((object(&path)?.unwrap_or_default(), path))
        };
        let (map, config) = (read(SPECIAL_TOKENS_FILE)?, read(TOKENIZER_CONFIG_FILE)?);
        Ok(Files { map: Some(map).filter(|_| !config.0.contains_key(DECODER)), config })
    }

    /// The files in which a key is looked for, the one that wins first.
    fn sources(&self) -> impl Iterator<Item = &(Map<String, Value>, PathBuf)> {
        self.map.iter().chain([&self.config])
    }

    fn first<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, CompanionError> {
        for (object, path) in self.sources() {
            let found = Settings::of(object).read(key, expected, &read);
            let found = found.map_err(|setting| CompanionError::Setting { path: path.clone(), setting })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn token(&self, key: &str) -> Result<Option<AddedToken>, CompanionError> {
        self.first(key, "a token's text or an object with its content", |value| token(value, true))
    }

    fn extra(&self) -> Result<Vec<AddedToken>, CompanionError> {
        let tokens = |value: &Value| match value {
            Value::Array(list) => list.iter().map(|value| token(value, true)).collect(),
            Value::Object(named) => named.values().map(|value| token(value, true)).collect(),
            _ => None,
        };
        for key in ["extra_special_tokens", "additional_special_tokens"] {
            if let Some(found) = self.first(key, "a list of tokens, or an object of them", tokens)? {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn decoder(&self) -> Result<Vec<AddedToken>, CompanionError> {
        let tokens = |value: &Value| -> Option<Vec<(u32, AddedToken)>> {
            value.as_object()?.iter().map(|(id, value)| Some((id.parse().ok()?, token(value, false)?))).collect()
        };
        let mut found = self.first(DECODER, "an object of tokens by their ids", tokens)?.unwrap_or_default();
        found.sort_by_key(|(id, _)| *id);
        Ok(found.into_iter().map(|(_, token)| token).collect())
    }
}

/// Hugging Face writes a string or an object with the string in it; `special` is what an object is that does not say.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = value.as_str().or_else(|| value.get("content")?.as_str())?.to_owned();
    let flag = |key: &str, usual: bool| value.get(key).and_then(Value::as_bool).unwrap_or(usual);
    let special = value.is_string() || flag("special", special);
    Some(AddedToken {
        content,
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    })
}
