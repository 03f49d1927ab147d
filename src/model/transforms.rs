//! Rewritings of a layer's weights that leave what the layer computes: facts about families, as data. Paths are those of a
//! layer, `self_attn.v_proj`.

use super::config::DecoderConfig;
use crate::quant::Sharing;

/// A scale that can move between two parts of a layer without changing what the layer computes: what `smooth` puts out is
/// divided by `s`, feature by feature, and the columns of the weights that read it are multiplied by `s` (AWQ, arXiv
/// 2306.00978, section 3.2; SmoothQuant, arXiv 2211.10438, equation 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    pub smooth: Smooth,
    /// The linears that are multiplied: all that read what is divided.
    pub balance: &'static [&'static str],
    /// Which features of the balance's input come from one feature of the smooth's output.
    pub sharing: Sharing,
}

/// Takes the division by `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smooth {
    /// The weight of a norm, `[features]`.
    Norm(&'static str),
    /// The rows of a linear's weight, and its bias where there is one.
    Linear(&'static str),
}

impl Scaling {
    /// Of a layer whose norms stand before its parts, whose heads are attended to as they are and whose MLP is gated.
    ///
    /// Attention sums rows of v with weights that do not depend on the feature, so a scale of a feature passes through it: v → o.
    /// With grouped queries each value head answers `num_attention_heads / num_key_value_heads` query heads, and o's columns of
    /// all of these must have one scale. llm-awq and llm-compressor leave the scaling out there; here the sharing says it.
    /// `down` reads `silu(gate) ⊙ up`, which is linear in `up` alone.
    pub(super) fn of_pre_norm_layer(cfg: &DecoderConfig) -> Vec<Scaling> {
        let heads = Sharing { run: cfg.head_dim, repeats: cfg.num_attention_heads / cfg.num_key_value_heads };
        let scaling = |smooth, balance, sharing| Scaling { smooth, balance, sharing };
        let none = Sharing::NONE;
        vec![
            scaling(Smooth::Norm("input_layernorm"), &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], none),
            scaling(Smooth::Linear("self_attn.v_proj"), &["self_attn.o_proj"], heads),
            scaling(Smooth::Norm("post_attention_layernorm"), &["mlp.gate_proj", "mlp.up_proj"], none),
            scaling(Smooth::Linear("mlp.up_proj"), &["mlp.down_proj"], none),
        ]
    }
}

/// What a rotation of the residual stream and of the value heads changes in a layer; see [`rotation`](super::rotation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerRotations {
    /// Norms of the residual stream, whose weights move into the linears that read them.
    pub reads: &'static [(&'static str, &'static [&'static str])],
    /// Linears that add to the residual stream.
    pub writes: &'static [&'static str],
    /// The linear that makes the value heads, and the one that mixes them.
    pub heads: [&'static str; 2],
}

impl LayerRotations {
    /// Of a layer whose norms stand before its parts and whose value heads are attended to as they are.
    pub const PRE_NORM: LayerRotations = LayerRotations {
        reads: &[
            ("input_layernorm", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            ("post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"]),
        ],
        writes: &["self_attn.o_proj", "mlp.down_proj"],
        heads: ["self_attn.v_proj", "self_attn.o_proj"],
    };
}
