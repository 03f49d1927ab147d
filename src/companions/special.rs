//! The special tokens that a tokenizer calls its own, by their texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CompanionError;
use super::json::object;
use crate::contract::{SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE};
use crate::settings::Settings;

/// What transformers calls a tokenizer's special tokens.
const NAMES: &[&str] = &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Texts of special tokens; `None` where the tokenizer has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    pub bos: Option<String>,
    pub eos: Option<String>,
}

impl SpecialTokens {
    /// Reads them as transformers does: what `special_tokens_map.json` names wins over `tokenizer_config.json`.
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
        let [map, config] = [SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE].map(|file| {
            let path = dir.join(file);
            object(&path).map(|found| (found.unwrap_or_default(), path))
        });
        let (map, config) = (map?, config?);
        let text = |key: &str| -> Result<Option<String>, CompanionError> {
            let of = |(object, path): &(Map<String, Value>, PathBuf)| {
                let token = Settings::of(object).read(key, "a token's text or an object with its content", token);
                token.map_err(|source| CompanionError::Setting { path: path.clone(), source })
            };
            Ok(of(&map)?.or(of(&config)?))
        };
        let named = NAMES.iter().filter_map(|&name| Some(text(name).transpose()?.map(|token| (name.to_owned(), token))));
        named.collect()
    }
}

/// Hugging Face writes a string or an object with the string in it.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}
