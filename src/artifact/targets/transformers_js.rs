//! What transformers.js (4.3.2) looks for: a graph in `onnx/` that is called by how its linears are stored, its weights in files that a
//! browser takes, and what `config.json` says of both.

use serde_json::{Map, Value, json};

use crate::contract::{CONFIG_FILE, GraphFile};
use crate::model::{StoredForm, StoredWeight};
use crate::onnx::Model;
use crate::quant::Format;
use crate::tensor::DType;

use super::super::named_file::NamedFile;

/// A browser holds a file in one buffer, which is shorter than 2³¹ bytes.
pub const MOST_DATA_BYTES: u64 = 2_000_000_000;

/// Name of the embedding's weight in the checkpoint.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// transformers.js' word for how a model is stored, and what its graph is called for it (`src/utils/dtypes.js` there).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype {
    pub name: &'static str,
    suffix: &'static str,
}

const fn dtype(name: &'static str, suffix: &'static str) -> Dtype {
    Dtype { name, suffix }
}

impl Dtype {
    /// The word for these weights: the one for most of what is quantized of the linears. `q8` is what browsers ask for unasked; with f16
    /// activations 8 bits are `int8`, so that both may lie in one folder.
    pub fn of(weights: &[StoredWeight], activation: DType) -> Dtype {
        let is_f16 = activation == DType::F16;
        let linears = weights.iter().filter(|weight| weight.is_decoder_linear());
        let quantized: Vec<(Dtype, usize)> =
            linears.filter_map(|weight| Some((Dtype::of_quantized(weight, is_f16)?, weight.elements()))).collect();
        let elements = |word: Dtype| quantized.iter().filter(|(other, _)| *other == word).map(|(_, count)| count).sum::<usize>();
        let dense = if is_f16 { dtype("fp16", "_fp16") } else { dtype("fp32", "") };
        quantized.iter().map(|&(word, _)| word).max_by_key(|&word| elements(word)).unwrap_or(dense)
    }

    fn of_quantized(weight: &StoredWeight, is_f16: bool) -> Option<Dtype> {
        let StoredForm::Quantized { scheme, .. } = &weight.form else { return None };
        Some(match (scheme.format, is_f16) {
            (Format::Codebook(_), _) => dtype("bnb4", "_bnb4"),
            (Format::Int { bits: 2, .. }, false) => dtype("q2", "_q2"),
            (Format::Int { bits: 2, .. }, true) => dtype("q2f16", "_q2f16"),
            (Format::Int { bits: 3 | 4, .. }, false) => dtype("q4", "_q4"),
            (Format::Int { bits: 3 | 4, .. }, true) => dtype("q4f16", "_q4f16"),
            (Format::Int { .. }, false) => dtype("q8", "_quantized"),
            (Format::Int { .. }, true) => dtype("int8", "_int8"),
        })
    }

    /// `onnx/model_q4.onnx`.
    pub fn graph_file(self) -> GraphFile {
        GraphFile::in_onnx_folder(self.suffix)
    }
}

/// `config.json` with `transformers.js_config`: which graph is meant where nobody says a dtype, and in how many files its weights lie. What
/// it said before was of the files that the model came from.
pub fn config(config: &Map<String, Value>, dtype: Dtype, chunks: usize) -> NamedFile {
    let mut config = config.clone();
    let said = json!({ "dtype": dtype.name, "use_external_data_format": { dtype.graph_file().name(): chunks } });
    config.insert("transformers.js_config".to_owned(), said);
    let text = serde_json::to_string_pretty(&config).expect("keys are strings");
    NamedFile::made(CONFIG_FILE, (text + "\n").into_bytes())
}

/// What browsers' ONNX Runtime cannot open.
pub fn refusals(model: &Model, weights: &[StoredWeight], most: u64) -> Vec<String> {
    let is_packed = |weight: &&StoredWeight| match &weight.form {
        StoredForm::Quantized { scheme, .. } => weight.weight == EMBEDDING && scheme.format.bits() != 8,
        StoredForm::Dense { .. } => false,
    };
    let packed = weights.iter().find(is_packed).map(|table| {
        format!(
            "weight {}: has fewer than 8 bits, whose rows browsers' ONNX Runtime looks up nowhere (it has no GatherBlockQuantized) for \
             --target transformers.js; give --embedding int8, or leave it out",
            table.weight
        )
    });
    let initializers = model.initializers().iter().map(|one| (model.name_of(one.value), model.initializer_bytes(one) as u64));
    let large = initializers.filter(|&(_, bytes)| bytes > most).map(|(name, bytes)| {
        format!(
            "weight {name}: takes {bytes} bytes, expected at most {most}, as a browser holds no longer file for --target transformers.js; \
             give it fewer bits, or --dtype f16"
        )
    });
    packed.into_iter().chain(large).collect()
}

/// Whether transformers.js takes a folder of this name for a model; it looks elsewhere for others.
pub fn takes_folder(name: &str) -> bool {
    const LONGEST: usize = 96;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let (first, last) = (name.bytes().next(), name.bytes().last());
    name.len() <= LONGEST
        && first.is_some_and(is_word)
        && last.is_some_and(is_word)
        && name.bytes().all(|byte| is_word(byte) || byte == b'-' || byte == b'.')
        && !["--", ".."].iter().any(|part| name.contains(part))
        && ![".git", ".ipynb"].iter().any(|end| name.ends_with(end))
}
