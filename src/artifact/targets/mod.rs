//! What an artifact is written as for the runtimes that open it, and what it has beside its graph for them.

use serde_json::{Map, Value};

use super::ArtifactError;
use super::named_file::NamedFile;
use super::source::Source;
use crate::contract::{CHAT_TEMPLATE_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE};
use crate::model::{Architecture, GraphForm, StoredWeight};
use crate::record::Target;
use crate::tensor::DType;

mod bitsandbytes;
mod compressed_tensors;
mod form;
mod genai;
mod gguf;
mod gptq;
mod mlx;
mod rows;
pub mod tensorrt;
mod tokenizer_config;

pub use form::{CheckpointForm, Matrices, Matrix, Part, config, packed, refusals, stored_bits, without_description};
pub use gguf::{GGUF_FILE, Gguf, Place};

/// How a target's checkpoints hold weights; `None` where it is a graph.
pub fn checkpoint_form(target: Target) -> Option<&'static dyn CheckpointForm> {
    match target {
        Target::Ort | Target::Portable | Target::MatMulNBits | Target::TensorRt => None,
        Target::CompressedTensors => Some(&compressed_tensors::CompressedTensors),
        Target::Gptq => Some(&gptq::Gptq),
        Target::Mlx => Some(&mlx::Mlx),
        Target::Bitsandbytes => Some(&bitsandbytes::Bitsandbytes),
        Target::Gguf => Some(&gguf::Blocks),
    }
}

/// What a target's graph is written in. Of a checkpoint, nothing but the weights that the graph names is looked at.
pub fn graph_form(target: Target) -> GraphForm {
    match target {
        Target::Portable | Target::TensorRt => GraphForm::Portable,
        Target::MatMulNBits => GraphForm::MatMulNBits,
        Target::Ort | Target::CompressedTensors | Target::Gptq | Target::Mlx | Target::Bitsandbytes | Target::Gguf => {
            GraphForm::QuantizeDequantize
        }
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
    let said = genai::Said { config: &object(source, CONFIG_FILE)?, generation: &object(source, GENERATION_CONFIG_FILE)? };
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

/// The files that are made for a checkpoint of these weights: config.json, which says how they are stored.
///
/// # Errors
/// As [`files`].
pub fn files_of_checkpoint(
    source: &Source,
    form: &dyn CheckpointForm,
    weights: &[StoredWeight],
    activation: DType,
) -> Result<Vec<NamedFile>, ArtifactError> {
    let config = config(form, &object(source, CONFIG_FILE)?, &Matrices::of(weights, activation));
    let text = serde_json::to_string_pretty(&config).expect("keys are strings") + "\n";
    Ok(vec![NamedFile::made(CONFIG_FILE, text.into_bytes())])
}

/// A file of the model as a JSON object; empty where there is none.
fn object(source: &Source, file: &str) -> Result<Map<String, Value>, ArtifactError> {
    let text = source.text(file)?.unwrap_or_default();
    Ok(serde_json::from_str(&text).unwrap_or_default())
}
