//! The files of an artifact's folder beside the graph: tokenizer, context length, special tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::Tokenizer;

use super::RuntimeError;
use crate::onnx::{DATA_FILE, MODEL_FILE};

/// What the runtime needs to know about a model apart from its graph.
pub(super) struct Artifact {
    pub graph: PathBuf,
    pub tokenizer: Arc<Tokenizer>,
    /// `max_position_embeddings`.
    pub context_length: usize,
    /// Rows of the embedding; a tokenizer may know more tokens.
    pub vocab_size: Option<u32>,
    /// Tokens that end an answer.
    pub end_of_sequence: Vec<u32>,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// Zero where config.json does not say.
    pub width: Width,
}

/// Sizes of what a layer computes for one token.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(default)]
pub(super) struct Width {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
}

#[derive(Deserialize)]
struct Config {
    max_position_embeddings: usize,
    vocab_size: Option<u32>,
    #[serde(default)]
    eos_token_id: TokenIds,
    #[serde(default)]
    bos_token_id: TokenIds,
    #[serde(flatten)]
    width: Width,
}

#[derive(Deserialize, Default)]
struct GenerationConfig {
    eos_token_id: Option<TokenIds>,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    bos_token: Option<SpecialToken>,
}

/// Hugging Face writes none, one id or a list of them.
#[derive(Deserialize, Default, Clone)]
#[serde(untagged)]
enum TokenIds {
    Many(Vec<u32>),
    One(u32),
    #[default]
    None,
}

impl TokenIds {
    fn list(&self) -> Vec<u32> {
        match self {
            TokenIds::Many(ids) => ids.clone(),
            TokenIds::One(id) => vec![*id],
            TokenIds::None => Vec::new(),
        }
    }
}

/// Hugging Face writes a string or an object with the string in it.
#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Plain(String),
    Added { content: String },
}

impl Artifact {
    /// Reads the folder; the graph itself is not opened.
    pub fn read(dir: &Path) -> Result<Artifact, RuntimeError> {
        for missing in [MODEL_FILE, DATA_FILE, "config.json", "tokenizer.json"] {
            if !dir.join(missing).is_file() {
                return Err(RuntimeError::NotAnArtifact { dir: dir.to_owned(), missing });
            }
        }
        let config: Config = json(&dir.join("config.json"))?;
        let generation: GenerationConfig = optional_json(&dir.join("generation_config.json"))?;
        let tokenizer_config: TokenizerConfig = optional_json(&dir.join("tokenizer_config.json"))?;
        let path = dir.join("tokenizer.json");
        let tokenizer =
            Tokenizer::from_file(&path).map_err(|error| RuntimeError::Tokenizer { path, reason: error.to_string() })?;
        let named_bos = tokenizer_config.bos_token.and_then(|token| match token {
            SpecialToken::Plain(text) | SpecialToken::Added { content: text } => tokenizer.token_to_id(&text),
        });
        Ok(Artifact {
            graph: dir.join(MODEL_FILE),
            context_length: config.max_position_embeddings,
            vocab_size: config.vocab_size,
            // generation_config.json is what Hugging Face's generate() obeys; config.json is its fallback.
            end_of_sequence: generation.eos_token_id.unwrap_or(config.eos_token_id).list(),
            bos: named_bos.or_else(|| config.bos_token_id.list().first().copied()),
            tokenizer: Arc::new(tokenizer),
            width: config.width,
        })
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, RuntimeError> {
    let text = std::fs::read(path).map_err(|source| RuntimeError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| RuntimeError::Json { path: path.to_owned(), source })
}

fn optional_json<T: DeserializeOwned + Default>(path: &Path) -> Result<T, RuntimeError> {
    if path.is_file() { json(path) } else { Ok(T::default()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,
        "decoder":null,"truncation":null,"padding":null,"model":{"type":"WordLevel","vocab":{"<s>":0,"</s>":1,"a":2},"unk_token":"a"}}"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [(MODEL_FILE, ""), (DATA_FILE, ""), ("tokenizer.json", TOKENIZER)].iter().chain(files) {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn special_tokens_come_from_where_hugging_face_takes_them() {
        let dir = folder(&[("config.json", r#"{"max_position_embeddings":64,"eos_token_id":7,"bos_token_id":5}"#)]);
        let artifact = Artifact::read(dir.path()).unwrap();
        assert_eq!((artifact.end_of_sequence, artifact.bos, artifact.context_length), (vec![7], Some(5), 64));
        let dir = folder(&[
            ("config.json", r#"{"max_position_embeddings":64,"eos_token_id":7,"bos_token_id":null}"#),
            ("generation_config.json", r#"{"eos_token_id":[8,9]}"#),
            ("tokenizer_config.json", r#"{"bos_token":{"content":"<s>","lstrip":false}}"#),
        ]);
        let artifact = Artifact::read(dir.path()).unwrap();
        assert_eq!((artifact.end_of_sequence, artifact.bos), (vec![8, 9], Some(0)));
    }

    #[test]
    fn a_folder_without_its_parts_says_which_is_missing() {
        let dir = folder(&[]);
        let message = Artifact::read(dir.path()).err().unwrap().to_string();
        assert_eq!(
            message,
            format!(
                "{} is not a qonnx artifact: there is no config.json; make one with `qonnx export MODEL -o DIR`",
                dir.path().display()
            )
        );
    }

    #[test]
    fn a_broken_tokenizer_is_named() {
        let dir = folder(&[("config.json", r#"{"max_position_embeddings":64}"#), ("tokenizer.json", "{}")]);
        let error = Artifact::read(dir.path()).err().unwrap();
        assert_eq!(error.fault(), crate::fault::Fault::BadInput);
        assert!(error.to_string().starts_with(&format!("{}/tokenizer.json is not a tokenizer: ", dir.path().display())));
    }
}
