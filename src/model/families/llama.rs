//! `LlamaForCausalLM`: Llama 2 and 3, and what is built alike (SmolLM2, TinyLlama, Yi, Falcon 3, DeepSeek's distilled Llamas).

use crate::model::architecture::Architecture;
use crate::model::attention::{AttentionOptions, KvPair, Place, attention};
use crate::model::config::{ConfigError, DecoderConfig, Defaults, refuse};
use crate::model::family::{Family, Layers};
use crate::model::module::Module;
use crate::model::parts::{ResidualStream, output, pre_norm_layer, query_key_value};
use crate::onnx::Value;
use crate::settings::{DEFAULT_POSITIONS, Settings};

pub(super) const ARCHITECTURE: &str = "LlamaForCausalLM";
pub(super) const MODEL_TYPE: &str = "llama";

/// `LlamaConfig` of transformers, where a key is left out.
const CONFIG: Defaults = Defaults {
    architecture: ARCHITECTURE,
    head_dim: None,
    num_key_value_heads: None,
    max_position_embeddings: Some(DEFAULT_POSITIONS),
};

struct Llama;

/// Reads a Llama's `config.json`.
pub(super) fn read(keys: &Settings<'_>) -> Result<Architecture, ConfigError> {
    refuse(keys, "sliding_window", "LlamaForCausalLM attends to every earlier position")?;
    let config = DecoderConfig {
        attention_bias: keys.flag("attention_bias")?,
        mlp_bias: keys.flag("mlp_bias")?,
        ..DecoderConfig::read(keys, &CONFIG)?
    };
    Ok(Architecture { config, family: Family::new(Llama) })
}

impl Layers for Llama {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn model_type(&self) -> &'static str {
        MODEL_TYPE
    }

    fn layer(&self, m: &Module, cfg: &DecoderConfig, stream: ResidualStream, at: Place<'_>) -> (ResidualStream, KvPair) {
        pre_norm_layer(m, cfg, stream, |m, x| self_attn(m, cfg, x, at))
    }
}

/// Grouped-query attention with rotary positions and a KV cache.
fn self_attn(m: &Module, cfg: &DecoderConfig, x: Value, at: Place<'_>) -> (Value, KvPair) {
    let qkv = query_key_value(m, cfg, x);
    let (y, present) = attention(m, cfg, qkv, at, AttentionOptions { window: None });
    (output(m, cfg, y), present)
}
