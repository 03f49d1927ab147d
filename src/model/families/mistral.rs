//! `MistralForCausalLM`: Mistral 7B and Nemo, Ministral 8B. A Llama whose layers may see no farther back than a window.

use crate::model::architecture::Architecture;
use crate::model::attention::{AttentionOptions, KvPair, Place, attention};
use crate::model::config::{ConfigError, DecoderConfig, Defaults};
use crate::model::family::{Family, Layers};
use crate::model::module::Module;
use crate::model::parts::{ResidualStream, output, pre_norm_layer, query_key_value};
use crate::model::windows::{SlidingWindows, sliding_window};
use crate::onnx::Value;
use crate::settings::Settings;

pub(super) const ARCHITECTURE: &str = "MistralForCausalLM";
pub(super) const MODEL_TYPE: &str = "mistral";

/// `MistralConfig` of transformers, where a key is left out.
const CONFIG: Defaults =
    Defaults { architecture: ARCHITECTURE, head_dim: None, num_key_value_heads: Some(8), max_position_embeddings: None };

struct Mistral {
    windows: SlidingWindows,
}

/// Reads a Mistral's `config.json`. With `layer_types` it is what transformers takes for a Ministral: only some layers have the
/// window.
pub(super) fn read(keys: &Settings<'_>) -> Result<Architecture, ConfigError> {
    let config = DecoderConfig::read(keys, &CONFIG)?;
    let windows = SlidingWindows::read(keys, config.num_hidden_layers, sliding_window(keys)?, 0)?;
    Ok(Architecture { config, family: Family::new(Mistral { windows }) })
}

impl Layers for Mistral {
    fn architecture(&self) -> &'static str {
        ARCHITECTURE
    }

    fn model_type(&self) -> &'static str {
        MODEL_TYPE
    }

    fn window(&self, layer: usize) -> Option<usize> {
        self.windows.of(layer)
    }

    fn layer(&self, m: &Module, cfg: &DecoderConfig, stream: ResidualStream, at: Place<'_>) -> (ResidualStream, KvPair) {
        pre_norm_layer(m, cfg, stream, |m, x| self.self_attn(m, cfg, x, at))
    }
}

impl Mistral {
    fn self_attn(&self, m: &Module, cfg: &DecoderConfig, x: Value, at: Place<'_>) -> (Value, KvPair) {
        let qkv = query_key_value(m, cfg, x);
        let (y, present) = attention(m, cfg, qkv, at, AttentionOptions { window: self.window(at.layer) });
        (output(m, cfg, y), present)
    }
}
