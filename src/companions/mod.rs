//! The files beside a model's weights, read once and by the same code for everybody: what its tokenizer is, what ends its
//! answers, how its answers are chosen, how long its context is.
//!
//! A checkpoint's companions are read before anything is made of it, and an artifact's are copies of them, so what an
//! artifact's readers could refuse, export has refused.

mod config;
mod error;
mod generation;
mod json;
mod rebuilt;
mod special;
mod tokenizer;

use std::path::Path;
use std::sync::Arc;

pub use config::Width;
pub use error::CompanionError;
pub use generation::{Choosing, GenerationSettings, SequenceBias};
pub use rebuilt::Rebuilt;
pub use special::SpecialTokens;
pub use tokenizer::Tokenizer;

use crate::contract::{CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_FILE};
use config::Config;

/// What the files beside the weights say.
#[derive(Debug, Clone)]
pub struct Companions {
    pub tokenizer: Arc<Tokenizer>,
    pub special: SpecialTokens,
    pub generation: GenerationSettings,
    /// `max_position_embeddings`, 2048 where it is not given, as transformers has it for Llama; of other families export asks for it.
    pub context_length: usize,
    /// `n_positions`, which lm-evaluation-harness takes for the context wherever config.json has it.
    pub harness_context: Option<usize>,
    /// Rows of the embedding; a tokenizer may know more tokens.
    pub vocab_size: Option<u32>,
    /// Beginning-of-sequence token: the tokenizer's, else the one of config.json.
    pub bos: Option<u32>,
    /// Zero where config.json does not say.
    pub width: Width,
}

impl Companions {
    /// Reads the companions in `dir`, a checkpoint's or an artifact's folder.
    ///
    /// # Errors
    /// A file that is needed is missing, cannot be read, or says what nothing can be made of.
    pub fn read(dir: &Path) -> Result<Companions, CompanionError> {
        let path = dir.join(CONFIG_FILE);
        let json = json::object(&path)?.ok_or_else(|| CompanionError::Missing { dir: dir.to_owned(), file: CONFIG_FILE })?;
        let config = Config::of(&json, &path)?;
        let own = dir.join(GENERATION_CONFIG_FILE);
        // Hugging Face makes a generation config from config.json only where there is none, of all that is in it.
        let (generation, path) = match json::object(&own)? {
            Some(said) => (GenerationSettings::of(&said, &own)?, own),
            None => (GenerationSettings { eos: config.eos.clone(), ..GenerationSettings::of(&json, &path)? }, path),
        };
        if let Some(size) = config.vocab_size {
            generation.choosing.within(size, &generation.eos).map_err(|setting| CompanionError::Setting { path, setting })?;
        }
        let path = dir.join(TOKENIZER_FILE);
        if !path.exists() {
            return Err(CompanionError::Missing { dir: dir.to_owned(), file: TOKENIZER_FILE });
        }
        let tokenizer = Tokenizer::of_model(dir)?;
        let special = SpecialTokens::read(dir)?;
        Ok(Companions {
            bos: special.bos.as_deref().and_then(|token| tokenizer.id_of(token)).or(config.bos),
            tokenizer: Arc::new(tokenizer),
            special,
            generation,
            context_length: config.context_length,
            harness_context: config.n_positions,
            vocab_size: config.vocab_size,
            width: config.width,
        })
    }
}

#[cfg(test)]
mod tests;
