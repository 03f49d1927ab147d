//! A model as a GGUF file, before its weights are there: settings, tokenizer, and the place of each tensor.

use std::path::Path;

use super::blocks;
use super::file::{Entry, Layout, Said, Tensor, TensorType};
use super::names::{self, Dialect, ROPE_FACTORS};
use super::vocabulary;
use crate::artifact::ArtifactError;
use crate::model::{self, Architecture, RopeScaling, StoredForm, StoredWeight};
use crate::quant::Format;
use crate::tensor::DType;

/// `GGML_QNT_VERSION`: how blocks of quantized tensors are laid out.
const QUANTIZATION_VERSION: u32 = 2;

/// The file, before its weights are there.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    layout: Layout,
    /// By the checkpoint's names.
    places: Vec<(String, Place)>,
    /// `rope_freqs.weight`, f32 `[head_dim / 2]`, and where it lies; frequencies that are stretched one by one alone have it.
    pub rope_factors: Option<(u64, Vec<f32>)>,
    /// Which texts llama.cpp cuts otherwise than the tokenizer, though it knows it.
    pub unlike: Vec<&'static str>,
}

/// Where a weight lies, and in what order its rows do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub start: u64,
    /// Heads whose halves lie as neighbours: row `2i + j` of each is its row `j · head_dim/2 + i`.
    interleaved: Option<usize>,
}

impl Gguf {
    /// The model in `dir` called `name`, with these weights.
    ///
    /// # Errors
    /// llama.cpp does not know the family, a tensor, windows, or the tokenizer; companions cannot be read.
    pub fn of(name: &str, dir: &Path, architecture: &Architecture, weights: &[StoredWeight]) -> Result<Gguf, ArtifactError> {
        let refused = |sentence: String| ArtifactError::Refused(vec![format!("--target gguf: {sentence}")]);
        let model_type = architecture.family.model_type();
        let dialect = names::dialect(model_type).ok_or_else(|| {
            refused(format!(
                "no model of the family {model_type} is written as GGUF yet, only llama, mistral and qwen3; choose --target ort"
            ))
        })?;
        if let Some(window) = architecture.shortest_window().filter(|&window| window < architecture.max_position_embeddings) {
            return Err(refused(format!(
                "layers see no farther back than {window} positions, and llama.cpp computes all {} for this family; choose --target ort",
                architecture.max_position_embeddings
            )));
        }
        let vocabulary = vocabulary::read(dir, architecture.vocab_size)?.map_err(refused)?;
        let mut tensors = Vec::new();
        let factors = rope_factors(architecture);
        tensors.extend(factors.as_ref().map(|factors| Tensor {
            name: ROPE_FACTORS.to_owned(),
            kind: TensorType::F32,
            shape: vec![factors.len()],
        }));
        for stored in weights {
            let is_known = dialect.has_output_bias || !stored.weight.ends_with("o_proj.bias");
            let name = names::tensor(&stored.weight).filter(|_| is_known).ok_or_else(|| {
                refused(format!("weight {}: llama.cpp knows no such tensor; choose --target ort", stored.weight))
            })?;
            tensors.push(Tensor { name, kind: kind(stored), shape: stored.shape.clone() });
        }
        let entries = settings(name, architecture, dialect, file_type(&tensors)).into_iter().chain(vocabulary.said);
        let layout = Layout::of(&entries.collect::<Vec<_>>(), &tensors);
        let start = |tensor: &str| layout.start(tensor).expect("it is laid out");
        let place = |stored: &StoredWeight| {
            let name = names::tensor(&stored.weight).expect("it was named above");
            let interleaved = interleaved(&stored.weight, architecture).filter(|_| dialect.rotates_neighbours);
            (stored.weight.clone(), Place { start: start(&name), interleaved })
        };
        let places = weights.iter().map(place).collect();
        Ok(Gguf {
            rope_factors: factors.map(|factors| (start(ROPE_FACTORS), factors)),
            places,
            layout,
            unlike: vocabulary.unlike,
        })
    }

    /// Everything before the tensors.
    pub fn head(&self) -> &[u8] {
        self.layout.head()
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Where a weight of the checkpoint lies.
    ///
    /// # Panics
    /// It is none of the model's.
    pub fn place(&self, weight: &str) -> Place {
        let place = self.places.iter().find(|(name, _)| name == weight);
        place.unwrap_or_else(|| panic!("weight {weight}: has no place")).1
    }
}

impl Place {
    /// The bytes of `rows` as the file has them, of the checkpoint's order.
    pub fn to_file(self, bytes: &[u8], rows: usize) -> Vec<u8> {
        self.reordered(bytes, rows, |file, ours| (file, ours))
    }

    /// Inverse of [`Place::to_file`].
    pub fn from_file(self, bytes: &[u8], rows: usize) -> Vec<u8> {
        self.reordered(bytes, rows, |file, ours| (ours, file))
    }

    /// `pair` says which of a row's places in the file and here is where it goes, and which is where it comes from.
    fn reordered(self, bytes: &[u8], rows: usize, pair: fn(usize, usize) -> (usize, usize)) -> Vec<u8> {
        let Some(heads) = self.interleaved else { return bytes.to_vec() };
        let (row, head_dim) = (bytes.len() / rows, rows / heads);
        let mut reordered = vec![0; bytes.len()];
        for index in 0..rows {
            let (head, within) = (index / head_dim, index % head_dim);
            let ours = head * head_dim + within % 2 * (head_dim / 2) + within / 2;
            let (to, from) = pair(index, ours);
            reordered[to * row..][..row].copy_from_slice(&bytes[from * row..][..row]);
        }
        reordered
    }
}

/// Heads of a weight or bias whose outputs are rotated.
fn interleaved(weight: &str, architecture: &Architecture) -> Option<usize> {
    let module = weight.rsplit_once('.')?.0;
    match module.rsplit_once("self_attn.")?.1 {
        "q_proj" => Some(architecture.num_attention_heads),
        "k_proj" => Some(architecture.num_key_value_heads),
        _ => None,
    }
}

fn kind(stored: &StoredWeight) -> TensorType {
    match &stored.form {
        StoredForm::Dense { dtype: DType::F32, .. } => TensorType::F32,
        StoredForm::Dense { dtype: DType::BF16, .. } => TensorType::BF16,
        StoredForm::Dense { .. } => TensorType::F16,
        StoredForm::Quantized { scheme, .. } => match scheme.format {
            Format::Int { bits, symmetric: true } => blocks::kind_of(bits),
            _ => None,
        }
        .expect("what no block holds is refused"),
    }
}

/// What most weights of linears are.
fn file_type(tensors: &[Tensor]) -> u32 {
    let linears = || tensors.iter().filter(|tensor| tensor.name.starts_with("blk.") && tensor.shape.len() == 2);
    let elements = |kind: TensorType| -> usize {
        linears().filter(|tensor| tensor.kind == kind).map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    };
    let most = linears().map(|tensor| tensor.kind).max_by_key(|&kind| elements(kind));
    most.unwrap_or(TensorType::F16).file_type()
}

/// What llama.cpp asks of a decoder, under its keys.
fn settings(name: &str, architecture: &Architecture, dialect: Dialect, file_type: u32) -> Vec<Said> {
    let prefix = dialect.architecture;
    let text = |key: &str, value: &str| (key.to_owned(), Entry::Text(value.to_owned()));
    let own = |key: &str| format!("{prefix}.{key}");
    let size = |key: &str, value: usize| (own(key), Entry::U32(value as u32));
    let mut said = vec![
        text("general.architecture", prefix),
        text("general.type", "model"),
        text("general.name", name),
        text("general.quantized_by", concat!("qonnx ", env!("CARGO_PKG_VERSION"))),
        ("general.file_type".to_owned(), Entry::U32(file_type)),
        ("general.quantization_version".to_owned(), Entry::U32(QUANTIZATION_VERSION)),
        size("block_count", architecture.num_hidden_layers),
        size("context_length", architecture.max_position_embeddings),
        size("embedding_length", architecture.hidden_size),
        size("feed_forward_length", architecture.intermediate_size),
        size("attention.head_count", architecture.num_attention_heads),
        size("attention.head_count_kv", architecture.num_key_value_heads),
        size("attention.key_length", architecture.head_dim),
        size("attention.value_length", architecture.head_dim),
        (own("attention.layer_norm_rms_epsilon"), Entry::F32(architecture.rms_norm_eps as f32)),
        (own("rope.freq_base"), Entry::F32(architecture.rope_theta as f32)),
        size("rope.dimension_count", architecture.head_dim),
        size("vocab_size", architecture.vocab_size),
    ];
    if let RopeScaling::Linear { factor } = architecture.rope_scaling {
        said.push(text(&own("rope.scaling.type"), "linear"));
        said.push((own("rope.scaling.factor"), Entry::F32(factor as f32)));
    }
    said
}

/// What each rotary frequency is divided by, where they are stretched one by one.
fn rope_factors(architecture: &Architecture) -> Option<Vec<f32>> {
    matches!(architecture.rope_scaling, RopeScaling::Llama3 { .. })
        .then(|| model::rope_factors(architecture).into_iter().map(|factor| factor as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `LlamaModel.permute` of convert_hf_to_gguf.py: `reshape(heads, 2, head_dim / 2).swapaxes(1, 2)`.
    #[test]
    fn halves_of_heads_become_neighbours_and_halves_again() {
        let place = Place { start: 0, interleaved: Some(2) };
        let rows: Vec<u8> = (0..16).flat_map(|row| [row, row + 100]).collect();
        let file = place.to_file(&rows, 16);
        let firsts: Vec<u8> = file.iter().step_by(2).copied().collect();
        assert_eq!(firsts, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
        assert_eq!(place.from_file(&file, 16), rows);
        assert_eq!(Place { interleaved: None, ..place }.to_file(&rows, 16), rows);
    }
}
