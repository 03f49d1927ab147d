//! What an artifact is written as for the runtimes that open it, and what it has beside its graph for them.

use serde_json::{Map, Value};

use super::ArtifactError;
use super::named_file::NamedFile;
use super::source::Source;
use crate::contract::{CHAT_TEMPLATE_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE};
use crate::model::{Architecture, GraphForm};
use crate::record::Target;
use crate::tensor::DType;

mod genai;
mod tokenizer_config;

/// What a target's graph is written in.
pub fn graph_form(target: Target) -> GraphForm {
    match target {
        Target::Ort => GraphForm::QuantizeDequantize,
        Target::Portable => GraphForm::Portable,
        Target::MatMulNBits => GraphForm::MatMulNBits,
    }
}

/// The files that are made for an artifact as it is asked for, with so many positions, from what the model has beside its weights.
///
/// # Errors
/// A file of the model cannot be read. What is no JSON is left alone here: whoever loads the model refuses it by name.
pub fn files(
    source: &Source,
    architecture: &Architecture,
    activation: DType,
    target: Target,
    max_context: usize,
) -> Result<Vec<NamedFile>, ArtifactError> {
    let object = |file: &str| -> Result<Map<String, Value>, ArtifactError> {
        let text = source.text(file)?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    };
    let said = genai::Said { config: &object(CONFIG_FILE)?, generation: &object(GENERATION_CONFIG_FILE)? };
    let genai = genai::genai_config(architecture, said, activation, max_context, target);
    let tokenizer = match source.text(CHAT_TEMPLATE_FILE)? {
        Some(template) => {
            let config = source.text(TOKENIZER_CONFIG_FILE)?.unwrap_or_else(|| "{}".to_owned());
            tokenizer_config::with_template(&config, &template).ok()
        }
        None => None,
    };
    let tokenizer = tokenizer.map(|text| NamedFile::made(TOKENIZER_CONFIG_FILE, text.into_bytes()));
    Ok(tokenizer.into_iter().chain([genai]).collect())
}
