//! What of `config.json` whoever runs the model needs beside its graph; `model::LlamaConfig` reads the rest, and strictly.

use std::path::Path;

use serde_json::{Map, Value};

use super::CompanionError;
use super::json::Keys;

/// LlamaConfig's default.
const MAX_POSITION_EMBEDDINGS: usize = 2048;

/// Sizes of what a layer computes for one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Width {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
}

pub(super) struct Config {
    pub context_length: usize,
    pub vocab_size: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub width: Width,
}

impl Config {
    pub fn of(object: &Map<String, Value>, path: &Path) -> Result<Config, CompanionError> {
        let keys = Keys { object, path };
        let size = |key: &str| Ok(keys.count(key)?.unwrap_or(0));
        Ok(Config {
            context_length: keys.count("max_position_embeddings")?.unwrap_or(MAX_POSITION_EMBEDDINGS),
            vocab_size: keys.count("vocab_size")?.map(|size| u32::try_from(size).unwrap_or(u32::MAX)),
            bos: keys.token_ids("bos_token_id")?.unwrap_or_default().first().copied(),
            eos: keys.token_ids("eos_token_id")?.unwrap_or_default(),
            width: Width {
                hidden_size: size("hidden_size")?,
                intermediate_size: size("intermediate_size")?,
                num_attention_heads: size("num_attention_heads")?,
            },
        })
    }
}
