//! `Qwen3ForCausalLM`: queries and keys are normalized head by head before they are turned to their positions; layers may see no
//! farther back than a window.

use serde_json::Value as Json;

use crate::model::architecture::Architecture;
use crate::model::attention::{AttentionOptions, KvPair, Place, Qkv, attention};
use crate::model::config::{ConfigError, DecoderConfig, Defaults};
use crate::model::family::{Family, Layers};
use crate::model::module::Module;
use crate::model::parts::{Stream, output, pre_norm_layer, query_key_value};
use crate::model::transforms::{LayerRotations, Scaling};
use crate::onnx::Value;
use crate::settings::Settings;

pub(super) const ARCHITECTURE: &str = "Qwen3ForCausalLM";
pub(super) const MODEL_TYPE: &str = "qwen3";

/// `Qwen3Config` of transformers, where a key is left out.
const CONFIG: Defaults = Defaults { architecture: ARCHITECTURE, head_dim: Some(128), max_position_embeddings: Some(32768) };
/// As [`CONFIG`]: the window where `use_sliding_window` is true and none is given, and the layers before the first that has it.
const DEFAULT_WINDOW: usize = 4096;
const DEFAULT_FULL_LAYERS: usize = 28;

struct Qwen3 {
    window: Window,
}

/// Which layers see only so many positions back.
enum Window {
    /// None does.
    Nowhere,
    /// Those from this one on: `max_window_layers`.
    From { layer: usize, positions: usize },
    /// Those that `layer_types` says.
    In { is_sliding: Vec<bool>, positions: usize },
}

/// Reads a Qwen3's `config.json`.
pub(super) fn read(keys: &Settings<'_>) -> Result<Architecture, ConfigError> {
    let config = DecoderConfig { attention_bias: keys.flag("attention_bias")?, ..DecoderConfig::read(keys, &CONFIG)? };
    let window = window(keys, config.num_hidden_layers)?;
    Ok(Architecture { config, family: Family::new(Qwen3 { window }) })
}

fn window(keys: &Settings<'_>, layers: usize) -> Result<Window, ConfigError> {
    let is_sliding = layer_types(keys, layers)?;
    let positions = if keys.has("sliding_window") { keys.size("sliding_window")? } else { Some(DEFAULT_WINDOW) };
    Ok(match (positions.filter(|_| keys.flag("use_sliding_window").unwrap_or_default()), is_sliding) {
        (None, _) => Window::Nowhere,
        (Some(positions), Some(is_sliding)) => Window::In { is_sliding, positions },
        (Some(positions), None) => {
            Window::From { layer: keys.count("max_window_layers")?.unwrap_or(DEFAULT_FULL_LAYERS), positions }
        }
    })
}

/// By layer, whether `layer_types` gives it a window; `None` where it says nothing.
fn layer_types(keys: &Settings<'_>, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    let expected = || format!("a list of full_attention or sliding_attention for each of {layers} layers");
    let is_sliding = |kind: &Json| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    match keys.get("layer_types") {
        None => Ok(None),
        Some(Json::Array(kinds)) if kinds.len() == layers => {
            let known = kinds.iter().map(is_sliding).collect::<Option<Vec<bool>>>();
            known.map(Some).ok_or_else(|| keys.invalid("layer_types", expected()).into())
        }
        Some(_) => Err(keys.invalid("layer_types", expected()).into()),
    }
}

impl Window {
    /// Positions that a token sees in this layer, itself included.
    fn of(&self, layer: usize) -> Option<usize> {
        match self {
            Window::Nowhere => None,
            Window::From { layer: first, positions } => (layer >= *first).then_some(*positions),
            Window::In { is_sliding, positions } => is_sliding[layer].then_some(*positions),
        }
    }
}

impl Layers for Qwen3 {
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

impl Qwen3 {
    fn self_attn(&self, m: &Module, cfg: &DecoderConfig, x: Value, at: Place<'_>) -> (Value, KvPair) {
        let Qkv { q, k, v } = query_key_value(m, cfg, x);
        let q = m.head_norm("q_norm", q, cfg.head_dim, cfg.rms_norm_eps);
        let k = m.head_norm("k_norm", k, cfg.head_dim, cfg.rms_norm_eps);
        let window = self.window.of(at.layer);
        let (y, present) = attention(m, cfg, Qkv { q, k, v }, at, AttentionOptions { window });
        (output(m, cfg, y), present)
    }
}
