//! `Qwen3ForCausalLM`: queries and keys are normalized head by head before they are turned to their positions; layers may see no
//! farther back than a window.

use crate::model::architecture::Architecture;
use crate::model::attention::{AttentionOptions, KvPair, Place, Qkv, attention};
use crate::model::config::{ConfigError, DecoderConfig, Defaults};
use crate::model::family::{Family, Layers};
use crate::model::module::Module;
use crate::model::parts::{ResidualStream, output, pre_norm_layer, separate_query_key_value};
use crate::model::windows::{SlidingWindows, sliding_window};
use crate::onnx::Value;
use crate::settings::Settings;

pub(super) const ARCHITECTURE: &str = "Qwen3ForCausalLM";
pub(super) const MODEL_TYPE: &str = "qwen3";

/// `Qwen3Config` of transformers, where a key is left out.
const CONFIG: Defaults =
    Defaults { architecture: ARCHITECTURE, head_dim: Some(128), num_key_value_heads: Some(32), max_position_embeddings: None };
/// As [`CONFIG`]: the layers before the first that has a window.
const DEFAULT_FULL_LAYERS: usize = 28;

struct Qwen3 {
    windows: SlidingWindows,
}

/// Reads a Qwen3's `config.json`.
pub(super) fn read(keys: &Settings<'_>) -> Result<Architecture, ConfigError> {
    let config = DecoderConfig { attention_bias: keys.flag("attention_bias")?, ..DecoderConfig::read(keys, &CONFIG)? };
    let positions = if keys.flag("use_sliding_window")? { sliding_window(keys)? } else { None };
    let first = keys.count("max_window_layers")?.unwrap_or(DEFAULT_FULL_LAYERS);
    let windows = SlidingWindows::read(keys, config.num_hidden_layers, positions, first)?;
    Ok(Architecture { config, family: Family::new(Qwen3 { windows }) })
}

impl Layers for Qwen3 {
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

impl Qwen3 {
    fn self_attn(&self, m: &Module, cfg: &DecoderConfig, x: Value, at: Place<'_>) -> (Value, KvPair) {
        let [q, k, v] = separate_query_key_value(m, cfg, x);
        let q = m.head_norm("q_norm", q, cfg.head_dim, cfg.rms_norm_eps);
        let k = m.head_norm("k_norm", k, cfg.head_dim, cfg.rms_norm_eps);
        let window = self.window(at.layer);
        let (y, present) = attention(m, cfg, Qkv::Apart { q, k, v }, at, AttentionOptions { window });
        (output(m, cfg, y), present)
    }
}
