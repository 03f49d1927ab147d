//! What an artifact is written as for the runtimes that open it, and what it has beside its graph for them.

use serde_json::{Map, Value};

use super::ArtifactError;
use super::named_file::NamedFile;
use super::source::Source;
use crate::contract::{CHAT_TEMPLATE_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, GraphFile, TOKENIZER_CONFIG_FILE};
use crate::model::{Architecture, GraphForm, StoredWeight};
use crate::onnx::{Layout, Model};
use crate::record::Target;
use crate::tensor::DType;
use transformers_js::Dtype;

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
mod transformers_js;

pub use form::{CheckpointForm, Matrices, Matrix, Part, config, packed, refusals, stored_bits, without_description};
pub use gguf::{GGUF_FILE, Gguf, Place};

/// How a target's checkpoints hold weights; `None` where it is a graph.
pub fn checkpoint_form(target: Target) -> Option<&'static dyn CheckpointForm> {
    match target {
        Target::Ort | Target::Portable | Target::MatMulNBits | Target::TransformersJs | Target::TensorRt => None,
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
        Target::MatMulNBits | Target::TransformersJs => GraphForm::MatMulNBits,
        Target::Ort | Target::CompressedTensors | Target::Gptq | Target::Mlx | Target::Bitsandbytes | Target::Gguf => {
            GraphForm::QuantizeDequantize
        }
    }
}

/// A graph that is written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    pub target: Target,
    pub activation: DType,
    pub weights: &'a [StoredWeight],
    pub layout: &'a Layout<'a>,
}

/// Where the target looks for a graph of these weights.
pub fn graph_file(target: Target, weights: &[StoredWeight], activation: DType) -> GraphFile {
    match target {
        Target::TransformersJs => Dtype::of(weights, activation).graph_file(),
        _ => GraphFile::default(),
    }
}

/// Most bytes that the target's readers take in one data file.
pub fn most_data_bytes(target: Target) -> u64 {
    if target == Target::TransformersJs { transformers_js::MOST_DATA_BYTES } else { u64::MAX }
}

/// What the target's readers cannot open of a graph.
pub fn refusals_of_graph(target: Target, model: &Model, weights: &[StoredWeight], most_data_bytes: u64) -> Vec<String> {
    if target == Target::TransformersJs { transformers_js::refusals(model, weights, most_data_bytes) } else { Vec::new() }
}

/// Why the target's readers find nothing in a folder of this name.
pub fn complaint_of_folder(target: Target, name: &str) -> Option<&'static str> {
    (target == Target::TransformersJs && !transformers_js::takes_folder(name)).then_some(
        "transformers.js takes no folder of this name for a model; rename it to letters, digits, _, - and ., without -- and ..",
    )
}

/// The files that are made for an artifact with so many positions, from what the model has beside its weights.
///
/// # Errors
/// A file of the model cannot be read. What is no JSON is left alone here: whoever loads the model refuses it by name.
pub fn files(
    source: &Source,
    architecture: &Architecture,
    written: &Written<'_>,
    max_context: usize,
) -> Result<Vec<NamedFile>, ArtifactError> {
    let config = object(source, CONFIG_FILE)?;
    let said = genai::Said { config: &config, generation: &object(source, GENERATION_CONFIG_FILE)? };
    let &Written { target, activation, weights, layout } = written;
    let genai = genai::genai_config(architecture, said, activation, max_context, (target, layout.file()));
    let web = (target == Target::TransformersJs)
        .then(|| transformers_js::config(&config, Dtype::of(weights, activation), layout.chunks().len()));
    let tokenizer = match source.text(CHAT_TEMPLATE_FILE)? {
        Some(template) => {
            let config = source.text(TOKENIZER_CONFIG_FILE)?.unwrap_or_else(|| "{}".to_owned());
            tokenizer_config::with_template(&config, &template).ok()
        }
        None => None,
    };
    let tokenizer = tokenizer.map(|text| NamedFile::made(TOKENIZER_CONFIG_FILE, text.into_bytes()));
    Ok(tokenizer.into_iter().chain(web).chain([genai]).collect())
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
