//! `config.json` of a Llama checkpoint, with every case that this program does not run refused by name.

use serde_json::Value as Json;

use crate::fault::Fault;
use crate::host::shown;
use crate::settings::{InvalidSetting, Settings, abridged, max_positions};
use crate::tensor::DType;

/// Sizes and options of a `LlamaForCausalLM`, under their Hugging Face names.
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

/// Name and shape of a weight that the checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    pub name: String,
    pub shape: Vec<usize>,
}

/// Why a `config.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config.json is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("config.json must hold an object, got {0}")]
    NotAnObject(&'static str),
    #[error("config.json: {0} is missing; a LlamaForCausalLM needs it")]
    Missing(String),
    #[error("config.json: {0}")]
    Invalid(#[from] InvalidSetting),
    #[error("config.json: architecture {0} is not supported; qonnx runs LlamaForCausalLM (Llama 2, 3, 3.1, 3.2)")]
    Architecture(String),
    #[error("config.json: rope type \"{0}\" is not supported; qonnx runs default, linear and llama3")]
    RopeType(String),
    #[error("config.json: {key} = {got} is not supported; {supported}")]
    Unsupported { key: &'static str, got: String, supported: &'static str },
}

impl ConfigError {
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}

impl DecoderConfig {
    /// Reads the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<DecoderConfig, ConfigError> {
        DecoderConfig::from_value(&serde_json::from_str(text)?)
    }

    /// Reads a parsed `config.json`.
    pub fn from_value(json: &Json) -> Result<DecoderConfig, ConfigError> {
        let Json::Object(object) = json else { return Err(ConfigError::NotAnObject(kind(json))) };
        let keys = Settings::of(object);
        refuse_other_models(&keys)?;
        let num_attention_heads = required_size(&keys, "num_attention_heads")?;
        let hidden_size = required_size(&keys, "hidden_size")?;
        let config = DecoderConfig {
            vocab_size: required_size(&keys, "vocab_size")?,
            hidden_size,
            intermediate_size: required_size(&keys, "intermediate_size")?,
            num_hidden_layers: required_size(&keys, "num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: keys.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim: head_dim(&keys, hidden_size, num_attention_heads)?,
            max_position_embeddings: max_positions(&keys)?,
            rms_norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: rope_theta(&keys)?,
            rope_scaling: rope_scaling(&keys)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            bos_token_id: keys.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: keys.tokens("eos_token_id")?,
            dtype: dtype(&keys)?,
        };
        if !num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            let expected = format!("a divisor of num_attention_heads ({num_attention_heads})");
            return Err(keys.invalid("num_key_value_heads", expected).into());
        }
        Ok(config)
    }

    /// Width of all query heads together.
    pub fn q_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Every weight the checkpoint must hold, in the order of the layers. Linears are `[out_features, in_features]`.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut tensors = Vec::new();
        let mut expect = |name: String, shape: &[usize]| tensors.push(ExpectedTensor { name, shape: shape.to_vec() });
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        expect("model.embed_tokens.weight".to_owned(), &[self.vocab_size, hidden]);
        for layer in 0..self.num_hidden_layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            let mut linear = |part: &str, out_features: usize, in_features: usize, bias: bool| {
                expect(at(&format!("{part}.weight")), &[out_features, in_features]);
                if bias {
                    expect(at(&format!("{part}.bias")), &[out_features]);
                }
            };
            linear("self_attn.q_proj", self.q_width(), hidden, self.attention_bias);
            linear("self_attn.k_proj", self.kv_width(), hidden, self.attention_bias);
            linear("self_attn.v_proj", self.kv_width(), hidden, self.attention_bias);
            linear("self_attn.o_proj", hidden, self.q_width(), self.attention_bias);
            linear("mlp.gate_proj", inner, hidden, self.mlp_bias);
            linear("mlp.up_proj", inner, hidden, self.mlp_bias);
            linear("mlp.down_proj", hidden, inner, self.mlp_bias);
            expect(at("input_layernorm.weight"), &[hidden]);
            expect(at("post_attention_layernorm.weight"), &[hidden]);
        }
        expect("model.norm.weight".to_owned(), &[hidden]);
        if !self.tie_word_embeddings {
            expect("lm_head.weight".to_owned(), &[self.vocab_size, hidden]);
        }
        tensors
    }

    /// Whether a checkpoint may hold this tensor although nothing needs it: stored rotary frequencies of old Llama 2
    /// checkpoints, and a second copy of a tied table.
    pub fn ignores(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq") || (self.tie_word_embeddings && name == "lm_head.weight")
    }
}

fn refuse_other_models(keys: &Settings<'_>) -> Result<(), ConfigError> {
    let named = match keys.get("architectures") {
        Some(Json::Array(names)) if !names.is_empty() => names.iter().find(|name| !is_llama(name)),
        Some(Json::Array(_)) | None => keys.get("model_type").filter(|kind| *kind != "llama"),
        Some(_) => return Err(keys.invalid("architectures", "a list of names".to_owned()).into()),
    };
    if let Some(name) = named {
        return Err(ConfigError::Architecture(plain(name)));
    }
    if keys.get("architectures").or(keys.get("model_type")).is_none() {
        return Err(ConfigError::Missing("architectures".to_owned()));
    }
    let unsupported = [
        ("quantization_config", "give the unquantized checkpoint, qonnx quantizes it"),
        ("sliding_window", "LlamaForCausalLM attends to every earlier position"),
    ];
    for (key, supported) in unsupported {
        if let Some(value) = keys.get(key) {
            return Err(ConfigError::Unsupported { key, got: abridged(value), supported });
        }
    }
    match keys.get("hidden_act") {
        // transformers has silu under both names.
        Some(act) if act != "silu" && act != "swish" => {
            Err(ConfigError::Unsupported { key: "hidden_act", got: abridged(act), supported: "qonnx runs silu" })
        }
        _ => Ok(()),
    }
}

/// transformers goes by `model_type`, so the spelling of the first conversions (`LLaMAForCausalLM`) is as good.
fn is_llama(name: &Json) -> bool {
    name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("LlamaForCausalLM"))
}

fn head_dim(keys: &Settings<'_>, hidden_size: usize, heads: usize) -> Result<usize, ConfigError> {
    let head_dim = match keys.size("head_dim")? {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(keys.invalid("hidden_size", format!("a multiple of num_attention_heads ({heads})")).into()),
    };
    match keys.positive("partial_rotary_factor")? {
        Some(part) if part != 1.0 => {
            let supported = "LlamaForCausalLM rotates whole heads";
            Err(ConfigError::Unsupported { key: "partial_rotary_factor", got: part.to_string(), supported })
        }
        _ if !head_dim.is_multiple_of(16) => {
            let (key, expected) = ("head_dim".to_owned(), "a multiple of 16, for ONNX Runtime's GroupQueryAttention".to_owned());
            Err(InvalidSetting { key, expected, got: head_dim.to_string() }.into())
        }
        _ => Ok(head_dim),
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

fn rope_scaling(keys: &Settings<'_>) -> Result<RopeScaling, ConfigError> {
    let Some(rope) = rope_block(keys)? else { return Ok(RopeScaling::Default) };
    let name = match rope.get("rope_type").or_else(|| rope.get("type")) {
        Some(Json::String(name)) => name.as_str(),
        Some(_) => return Err(rope.invalid("rope_type", "a name".to_owned()).into()),
        None => "default",
    };
    let number = |key: &str| rope.positive(key)?.ok_or_else(|| ConfigError::Missing(rope.path(key)));
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
                original_max_position_embeddings: original.map_or_else(|| max_positions(keys).map(|most| most as f64), Ok)?,
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
            let supported = "qonnx reads float32, float16 and bfloat16 weights";
            Err(ConfigError::Unsupported { key: "dtype", got: abridged(value), supported })
        }
    }
}

fn required_size(keys: &Settings<'_>, key: &str) -> Result<usize, ConfigError> {
    keys.size(key)?.ok_or_else(|| ConfigError::Missing(keys.path(key)))
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| abridged(value), |text| shown(text).to_string())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Llama-3.2-1B's configuration with `changes` on top; null removes a key.
    fn read(changes: Json) -> Result<DecoderConfig, ConfigError> {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "mlp_bias": false,
            "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
            "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256,
        });
        for (key, value) in changes.as_object().expect("changes are an object") {
            config[key] = value.clone();
        }
        DecoderConfig::from_json(&config.to_string())
    }

    fn accepted(changes: Json) -> DecoderConfig {
        read(changes).expect("this configuration is supported")
    }

    #[track_caller]
    fn refused(changes: Json, message: &str) {
        let error = read(changes).expect_err("this configuration is not supported");
        assert_eq!(error.to_string(), message);
        assert_eq!(error.fault(), Fault::BadInput);
    }

    #[test]
    fn reads_llama_3_2_1b() {
        let expected = DecoderConfig {
            vocab_size: 128256,
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 16,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 64,
            max_position_embeddings: 131072,
            rms_norm_eps: 1e-5,
            rope_theta: 500000.0,
            rope_scaling: RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192.0,
            },
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: Some(128000),
            eos_token_ids: vec![128001],
            dtype: Some(DType::BF16),
        };
        assert_eq!(accepted(json!({})), expected);
    }

    #[test]
    fn reads_llama_2_with_what_it_leaves_out() {
        let absent =
            ["head_dim", "num_key_value_heads", "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "torch_dtype"];
        let mut changes = json!({"tie_word_embeddings": false, "pretraining_tp": 2});
        for key in absent {
            changes[key] = Json::Null;
        }
        let cfg = accepted(changes);
        assert_eq!((cfg.head_dim, cfg.num_key_value_heads, cfg.rope_theta), (64, 32, 10_000.0));
        assert_eq!((cfg.rope_scaling, cfg.attention_bias, cfg.dtype), (RopeScaling::Default, false, None));
    }

    #[test]
    fn reads_old_and_new_ways_to_write_rope() {
        let linear = RopeScaling::Linear { factor: 4.0 };
        assert_eq!(accepted(json!({"rope_scaling": {"type": "linear", "factor": 4}})).rope_scaling, linear);
        assert_eq!(accepted(json!({"rope_scaling": {"rope_type": "default"}})).rope_scaling, RopeScaling::Default);
        let parameters = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 7.0});
        let cfg = accepted(json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": parameters}));
        assert_eq!((cfg.rope_scaling, cfg.rope_theta), (linear, 7.0));
        let parameters = json!({"rope_theta": 7.0});
        let cfg = accepted(json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": parameters}));
        assert_eq!((cfg.rope_scaling, cfg.rope_theta), (RopeScaling::Default, 7.0));
    }

    #[test]
    fn reads_several_end_tokens_and_the_new_name_of_the_element_type() {
        let cfg = accepted(json!({"eos_token_id": [128001, 128008], "torch_dtype": null, "dtype": "float16"}));
        assert_eq!((cfg.eos_token_ids, cfg.dtype), (vec![128001, 128008], Some(DType::F16)));
    }

    #[test]
    fn reads_a_head_dim_that_is_not_derived() {
        let cfg = accepted(json!({"head_dim": 128}));
        assert_eq!((cfg.q_width(), cfg.kv_width()), (4096, 1024));
    }

    #[test]
    fn refuses_other_architectures_by_name() {
        for name in ["MistralForCausalLM", "Qwen2ForCausalLM", "LlamaForSequenceClassification"] {
            let message =
                format!("config.json: architecture {name} is not supported; qonnx runs LlamaForCausalLM (Llama 2, 3, 3.1, 3.2)");
            refused(json!({"architectures": [name]}), &message);
        }
        let message = "config.json: architecture gemma is not supported; qonnx runs LlamaForCausalLM (Llama 2, 3, 3.1, 3.2)";
        refused(json!({"architectures": null, "model_type": "gemma"}), message);
        let message = "config.json: architectures is missing; a LlamaForCausalLM needs it";
        refused(json!({"architectures": null, "model_type": null}), message);
        refused(json!({"architectures": 3}), "config.json: architectures must be a list of names, got 3");
    }

    #[test]
    fn refuses_other_rope_types_by_name() {
        for name in ["yarn", "dynamic", "longrope"] {
            let message = format!("config.json: rope type {name:?} is not supported; qonnx runs default, linear and llama3");
            refused(json!({"rope_scaling": {"type": name, "factor": 2.0}}), &message);
        }
        refused(json!({"rope_scaling": "linear"}), "config.json: rope_scaling must be an object or null, got \"linear\"");
        let message = "config.json: rope_scaling.factor is missing; a LlamaForCausalLM needs it";
        refused(json!({"rope_scaling": {"rope_type": "linear"}}), message);
        let message = "config.json: rope_scaling.factor must be a number above zero, got -2.0";
        refused(json!({"rope_scaling": {"rope_type": "linear", "factor": -2.0}}), message);
        let swapped = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
            "original_max_position_embeddings": 8192});
        let message = "config.json: rope_scaling.high_freq_factor must be above low_freq_factor (4), got 1.0";
        refused(json!({"rope_scaling": swapped}), message);
    }

    #[test]
    fn refuses_what_changes_the_mathematics() {
        let message = "config.json: hidden_act = \"gelu\" is not supported; qonnx runs silu";
        refused(json!({"hidden_act": "gelu"}), message);
        let message = "config.json: sliding_window = 4096 is not supported; LlamaForCausalLM attends to every earlier position";
        refused(json!({"sliding_window": 4096}), message);
        let message = "config.json: quantization_config = {\"quant_method\":\"gptq\"} is not supported; \
                       give the unquantized checkpoint, qonnx quantizes it";
        refused(json!({"quantization_config": {"quant_method": "gptq"}}), message);
        let message = "config.json: partial_rotary_factor = 0.5 is not supported; LlamaForCausalLM rotates whole heads";
        refused(json!({"partial_rotary_factor": 0.5}), message);
        let message =
            "config.json: dtype = \"float8_e4m3fn\" is not supported; qonnx reads float32, float16 and bfloat16 weights";
        refused(json!({"torch_dtype": "float8_e4m3fn"}), message);
    }

    #[test]
    fn refuses_sizes_that_cannot_be() {
        refused(json!({"hidden_size": null}), "config.json: hidden_size is missing; a LlamaForCausalLM needs it");
        let message = "config.json: num_hidden_layers must be a whole number from 1 to 2147483648, got 0";
        refused(json!({"num_hidden_layers": 0}), message);
        let message = "config.json: vocab_size must be a whole number from 1 to 2147483648, got -5";
        refused(json!({"vocab_size": -5}), message);
        let message = "config.json: intermediate_size must be a whole number from 1 to 2147483648, got \"8192\"";
        refused(json!({"intermediate_size": "8192"}), message);
        let message = "config.json: num_key_value_heads must be a divisor of num_attention_heads (32), got 5";
        refused(json!({"num_key_value_heads": 5}), message);
        let message = "config.json: hidden_size must be a multiple of num_attention_heads (32), got 2050";
        refused(json!({"hidden_size": 2050, "head_dim": null}), message);
        refused(
            json!({"head_dim": 63}),
            "config.json: head_dim must be a multiple of 16, for ONNX Runtime's GroupQueryAttention, got 63",
        );
        refused(json!({"rms_norm_eps": 0}), "config.json: rms_norm_eps must be a number above zero, got 0");
        refused(json!({"mlp_bias": "no"}), "config.json: mlp_bias must be true or false, got \"no\"");
        let message = "config.json: eos_token_id must be a token id or a list of token ids, got [1,\"x\"]";
        refused(json!({"eos_token_id": [1, "x"]}), message);
    }

    #[test]
    fn refuses_what_is_no_configuration() {
        let error = DecoderConfig::from_json("[1, 2]").expect_err("a list is no configuration");
        assert_eq!(error.to_string(), "config.json must hold an object, got a list");
        let error = DecoderConfig::from_json("{\"hidden_size\": ").expect_err("the text is cut off");
        assert_eq!(error.to_string(), "config.json is not valid JSON: EOF while parsing a value at line 1 column 16");
    }

    #[test]
    fn expects_each_weight_once_with_its_shape() {
        let cfg = accepted(json!({"num_hidden_layers": 2, "attention_bias": true, "tie_word_embeddings": false}));
        let tensors = cfg.expected_tensors();
        let shape = |name: &str| tensors.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape.clone());
        assert_eq!(tensors.len(), 3 + 2 * (9 + 4));
        assert_eq!(shape("lm_head.weight"), Some(vec![128256, 2048]));
        assert_eq!(shape("model.layers.1.self_attn.k_proj.weight"), Some(vec![512, 2048]));
        assert_eq!(shape("model.layers.1.self_attn.k_proj.bias"), Some(vec![512]));
        assert_eq!(shape("model.layers.1.mlp.down_proj.weight"), Some(vec![2048, 8192]));
        assert_eq!(shape("model.layers.1.mlp.down_proj.bias"), None);
        assert!(cfg.ignores("model.layers.0.self_attn.rotary_emb.inv_freq") && !cfg.ignores("lm_head.weight"));
        assert!(accepted(json!({})).ignores("lm_head.weight"));
    }
}
