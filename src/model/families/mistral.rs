//! `MistralForCausalLM`: Mistral 7B and Nemo. A Llama that may see no farther back than a window.

use crate::model::architecture::Architecture;
use crate::model::attention::{AttentionOptions, KvPair, Place, attention};
use crate::model::config::{ConfigError, DecoderConfig, Defaults};
use crate::model::family::{Family, Layers};
use crate::model::module::Module;
use crate::model::parts::{Stream, output, pre_norm_layer, query_key_value};
use crate::model::transforms::{LayerRotations, Scaling};
use crate::onnx::Value;
use crate::settings::Settings;

pub(super) const ARCHITECTURE: &str = "MistralForCausalLM";
pub(super) const MODEL_TYPE: &str = "mistral";

/// `MistralConfig` of transformers, where a key is left out.
const CONFIG: Defaults = Defaults { architecture: ARCHITECTURE, head_dim: None, max_position_embeddings: Some(4096 * 32) };
/// The window of a `MistralConfig` that leaves it out; null is none.
const DEFAULT_WINDOW: usize = 4096;

struct Mistral {
    /// Positions that a token sees, itself included.
    window: Option<usize>,
}

/// Reads a Mistral's `config.json`.
pub(super) fn read(keys: &Settings<'_>) -> Result<Architecture, ConfigError> {
    let config = DecoderConfig::read(keys, &CONFIG)?;
    let window = if keys.has("sliding_window") { keys.size("sliding_window")? } else { Some(DEFAULT_WINDOW) };
    Ok(Architecture { config, family: Family::new(Mistral { window }) })
}

impl Layers for Mistral {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn model_type(&self) -> &'static str {
        MODEL_TYPE
    }

    fn layer(&self, m: &Module, cfg: &DecoderConfig, stream: Stream, at: Place<'_>) -> (Stream, KvPair) {
        pre_norm_layer(m, cfg, stream, |m, x| self.self_attn(m, cfg, x, at))
    }

    fn scalings(&self, cfg: &DecoderConfig) -> Vec<Scaling> {
        Scaling::of_pre_norm_layer(cfg)
    }

    fn rotations(&self) -> Result<LayerRotations, &'static str> {
        Ok(LayerRotations::PRE_NORM)
    }

    fn scores(&self) -> &'static [&'static str] {
        &["self_attn.q_proj", "self_attn.k_proj"]
    }
}

impl Mistral {
    fn self_attn(&self, m: &Module, cfg: &DecoderConfig, x: Value, at: Place<'_>) -> (Value, KvPair) {
        let qkv = query_key_value(m, cfg, x);
        let (y, present) = attention(m, cfg, qkv, at, AttentionOptions { window: self.window });
        (output(m, cfg, y), present)
    }
}
