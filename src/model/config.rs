//! `config.json` of a decoder, as far as families share it, with every case that this program does not run refused by name.

use serde_json::{Map, Value as Json};

use crate::fault::Fault;
use crate::host::shown;
use crate::settings::{InvalidSetting, Settings, abridged};
use crate::tensor::DType;

/// Sizes and options of a decoder, under their Hugging Face names.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Positions the model was trained for.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// Whether the LM head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o projections have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down projections have biases.
    pub mlp_bias: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    /// What the checkpoint says its weights are stored as.
    pub dtype: Option<DType>,
}

/// How rotary frequencies are stretched beyond the original context.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between them.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
}

/// A head of more is of no model, and the angles of its pairs alone would take gigabytes. Configurations claim any number.
const MOST_HEAD_DIM: usize = 1 << 16;

/// Why a `config.json` is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("config.json is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("config.json must hold an object, got {0}")]
    NotAnObject(&'static str),
    #[error("config.json: {key} is missing; a {architecture} needs it")]
    Missing { key: String, architecture: &'static str },
    #[error("config.json: neither architectures nor model_type says what it is of; qonnx runs {known}")]
    NoArchitecture { known: String },
    #[error("config.json: {0}")]
    Invalid(InvalidSetting),
    #[error("config.json: architecture {got} is not supported; qonnx runs {known}")]
    Architecture { got: String, known: String },
    #[error("config.json: {0} and {1} are of two families; take it from the model's own folder")]
    Contradiction(String, String),
    #[error("config.json: rope type \"{0}\" is not supported; qonnx runs default, linear and llama3")]
    RopeType(String),
    #[error("config.json: {key} = {got} is not supported; {supported}")]
    Unsupported { key: &'static str, got: String, supported: String },
}

// Not its source: the sentence is in the message already.
impl From<InvalidSetting> for ConfigError {
    fn from(setting: InvalidSetting) -> ConfigError {
        ConfigError::Invalid(setting)
    }
}

impl ConfigError {
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}

/// What is true where config.json leaves a key out, as transformers' class for the family has it.
pub(super) struct Defaults {
    /// Who needs the keys that have no default.
    pub architecture: &'static str,
    /// `None`: the width that the heads share out.
    pub head_dim: Option<usize>,
    /// `None`: one for each query head, as null is everywhere.
    pub num_key_value_heads: Option<usize>,
    /// `None`: the key is needed. Whoever runs an artifact reads its config.json too, and knows a Llama's default alone.
    pub max_position_embeddings: Option<usize>,
}

impl DecoderConfig {
    /// Reads the keys that all families share; biases are a family's own.
    pub(super) fn read(keys: &Settings<'_>, defaults: &Defaults) -> Result<DecoderConfig, ConfigError> {
        refuse(keys, "quantization_config", "give the unquantized checkpoint, qonnx quantizes it")?;
        refuse_other_activations(keys)?;
        refuse_partial_rotation(keys, defaults)?;
        let size = |key: &str| keys.size(key)?.ok_or_else(|| defaults.missing(keys.path(key)));
        let num_attention_heads = size("num_attention_heads")?;
        let hidden_size = size("hidden_size")?;
        let max_position_embeddings = match (keys.size("max_position_embeddings")?, defaults.max_position_embeddings) {
            (Some(positions), _) | (None, Some(positions)) => positions,
            (None, None) => return Err(defaults.missing(keys.path("max_position_embeddings"))),
        };
        Ok(DecoderConfig {
            vocab_size: size("vocab_size")?,
            hidden_size,
            intermediate_size: size("intermediate_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: key_value_heads(keys, num_attention_heads, defaults)?,
            head_dim: head_dim(keys, hidden_size, num_attention_heads, defaults)?,
            max_position_embeddings,
            rms_norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: rope_theta(keys)?,
            rope_scaling: rope_scaling(keys, max_position_embeddings, defaults)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: keys.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: keys.tokens("eos_token_id")?,
            dtype: dtype(keys)?,
        })
    }

    /// Width of all query heads together.
    pub fn q_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Whether a checkpoint may hold this tensor although nothing needs it: stored rotary frequencies of old Llama 2
    /// checkpoints, and a second copy of a tied table.
    pub fn ignores(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq") || (self.tie_word_embeddings && name == "lm_head.weight")
    }
}

impl Defaults {
    fn missing(&self, key: String) -> ConfigError {
        ConfigError::Missing { key, architecture: self.architecture }
    }
}

/// Refuses a key that says anything.
pub(super) fn refuse(keys: &Settings<'_>, key: &'static str, supported: &'static str) -> Result<(), ConfigError> {
    match keys.get(key) {
        Some(value) => Err(ConfigError::Unsupported { key, got: abridged(value), supported: supported.to_owned() }),
        None => Ok(()),
    }
}

fn refuse_other_activations(keys: &Settings<'_>) -> Result<(), ConfigError> {
    match keys.get("hidden_act") {
        // transformers has silu under both names.
        Some(act) if act != "silu" && act != "swish" => {
            let supported = "qonnx runs silu".to_owned();
            Err(ConfigError::Unsupported { key: "hidden_act", got: abridged(act), supported })
        }
        _ => Ok(()),
    }
}

fn key_value_heads(keys: &Settings<'_>, query_heads: usize, defaults: &Defaults) -> Result<usize, ConfigError> {
    let key = "num_key_value_heads";
    let left_out = if keys.has(key) { None } else { defaults.num_key_value_heads };
    let heads = keys.size(key)?.or(left_out).unwrap_or(query_heads);
    if query_heads.is_multiple_of(heads) {
        return Ok(heads);
    }
    let expected = format!("a divisor of num_attention_heads ({query_heads})");
    Err(InvalidSetting { got: heads.to_string(), ..keys.invalid(key, expected) }.into())
}

fn head_dim(keys: &Settings<'_>, hidden_size: usize, heads: usize, defaults: &Defaults) -> Result<usize, ConfigError> {
    let head_dim = match keys.size("head_dim")?.or(defaults.head_dim) {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(keys.invalid("hidden_size", format!("a multiple of num_attention_heads ({heads})")).into()),
    };
    let expected = if !head_dim.is_multiple_of(16) {
        "a multiple of 16, for ONNX Runtime's GroupQueryAttention".to_owned()
    } else if head_dim > MOST_HEAD_DIM {
        format!("at most {MOST_HEAD_DIM}")
    } else {
        return Ok(head_dim);
    };
    Err(InvalidSetting { key: "head_dim".to_owned(), expected, got: head_dim.to_string() }.into())
}

/// Refuses a model that turns only a part of each head. The key stands beside rope_theta, in one of its two places.
fn refuse_partial_rotation(keys: &Settings<'_>, defaults: &Defaults) -> Result<(), ConfigError> {
    match keys.positive("partial_rotary_factor")? {
        Some(part) if part != 1.0 => {
            let supported = format!("{} rotates whole heads", defaults.architecture);
            Err(ConfigError::Unsupported { key: "partial_rotary_factor", got: part.to_string(), supported })
        }
        _ => Ok(()),
    }
}

/// The block that says how positions turn: `rope_scaling`, unless it says nothing, else `rope_parameters` of transformers 5.
/// Where both do, transformers 5.17 goes by `rope_scaling` alone.
fn rope_block<'a>(keys: &Settings<'a>) -> Result<Option<Settings<'a>>, ConfigError> {
    match keys.get("rope_scaling").filter(|value| !says_nothing(value)) {
        Some(_) => Ok(keys.object("rope_scaling")?),
        None => Ok(keys.object("rope_parameters")?),
    }
}

/// What Python takes for false.
fn says_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(value) => !value,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(values) => values.is_empty(),
        Json::Object(values) => values.is_empty(),
    }
}

fn rope_theta(keys: &Settings<'_>) -> Result<f64, ConfigError> {
    let nested = match rope_block(keys)? {
        Some(rope) => rope.positive("rope_theta")?,
        None => None,
    };
    Ok(nested.or(keys.positive("rope_theta")?).unwrap_or(10_000.0))
}

fn rope_scaling(keys: &Settings<'_>, max_positions: usize, defaults: &Defaults) -> Result<RopeScaling, ConfigError> {
    let Some(rope) = rope_block(keys)? else { return Ok(RopeScaling::Default) };
    refuse_partial_rotation(&rope, defaults)?;
    if let Some(key) = rope.keys().find(|key| matches!(rope.get(key), Some(Json::Object(_)))) {
        return Err(rope.invalid(key, "a number or a name, for all layers have one set of rotary parameters".to_owned()).into());
    }
    let name = match rope.get("rope_type").or_else(|| rope.get("type")) {
        Some(Json::String(name)) => name.as_str(),
        Some(_) => return Err(rope.invalid("rope_type", "a name".to_owned()).into()),
        None => "default",
    };
    let number = |key: &str| rope.positive(key)?.ok_or_else(|| defaults.missing(rope.path(key)));
    match name {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => {
            let (low_freq_factor, high_freq_factor) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(rope.invalid("high_freq_factor", format!("above low_freq_factor ({low_freq_factor})")).into());
            }
            let original = rope.positive("original_max_position_embeddings")?;
            Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original.unwrap_or(max_positions as f64),
            })
        }
        other => Err(ConfigError::RopeType(shown(other).to_string())),
    }
}

fn dtype(keys: &Settings<'_>) -> Result<Option<DType>, ConfigError> {
    let Some(value) = keys.get("dtype").or_else(|| keys.get("torch_dtype")) else { return Ok(None) };
    match value.as_str().map(|name| name.trim_start_matches("torch.")) {
        Some("float32") => Ok(Some(DType::F32)),
        Some("float16") => Ok(Some(DType::F16)),
        Some("bfloat16") => Ok(Some(DType::BF16)),
        _ => {
            let supported = "qonnx reads float32, float16 and bfloat16 weights".to_owned();
            Err(ConfigError::Unsupported { key: "dtype", got: abridged(value), supported })
        }
    }
}

pub(super) fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| abridged(value), |text| shown(text).to_string())
}

/// The object that config.json must hold.
pub(super) fn object(json: &Json) -> Result<&Map<String, Json>, ConfigError> {
    match json {
        Json::Object(object) => Ok(object),
        other => Err(ConfigError::NotAnObject(kind(other))),
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
