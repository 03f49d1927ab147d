//! What of `config.json` whoever runs the model needs beside its graph; `model::Architecture` reads the rest, and strictly.

use std::path::Path;

use serde_json::{Map, Value};

use super::CompanionError;
use crate::settings::{InvalidSetting, Settings, max_positions};

/// Sizes of what a layer computes for one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Width {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
}

pub(super) struct Config {
    pub context_length: usize,
    pub n_positions: Option<usize>,
    pub vocab_size: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub width: Width,
}

impl Config {
    pub fn of(object: &Map<String, Value>, path: &Path) -> Result<Config, CompanionError> {
        Config::said(&Settings::of(object)).map_err(|setting| CompanionError::Setting { path: path.to_owned(), setting })
    }

    fn said(config: &Settings<'_>) -> Result<Config, InvalidSetting> {
        let size = |key: &str| Ok(config.size(key)?.unwrap_or_default());
        Ok(Config {
            context_length: max_positions(config)?,
            n_positions: config.size("n_positions")?,
            vocab_size: config.size("vocab_size")?.map(|size| size as u32),
            bos: config.tokens("bos_token_id")?.first().copied(),
            eos: config.tokens("eos_token_id")?,
            width: Width {
                hidden_size: size("hidden_size")?,
                intermediate_size: size("intermediate_size")?,
                num_attention_heads: size("num_attention_heads")?,
            },
        })
    }
}
