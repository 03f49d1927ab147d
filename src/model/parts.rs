//! Parts that families of decoders share.

use super::attention::{KvPair, Qkv};
use super::config::DecoderConfig;
use super::module::Module;
use crate::onnx::Value;

/// The residual stream: `x`, and what the last part adds to it, left to the next norm that adds and normalizes at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResidualStream {
    pub x: Value,
    pub delta: Option<Value>,
}

/// `(normalized, x)` with everything added to `x`.
pub(super) fn norm(m: &Module, name: &str, cfg: &DecoderConfig, stream: ResidualStream) -> (Value, Value) {
    match stream.delta {
        None => (m.rms_norm(name, stream.x, cfg.rms_norm_eps), stream.x),
        Some(delta) => m.add_rms_norm(name, stream.x, delta, cfg.rms_norm_eps),
    }
}

/// A layer whose norms stand before its parts (HF `LlamaDecoderLayer`).
///
/// ```text
/// x ─┬─ input_layernorm ─ self_attn ─(+)─┬─ post_attention_layernorm ─ mlp ─(+)─ out
///    └──────────────────────────────┘    └─────────────────────────────────┘
/// ```
pub(super) fn pre_norm_layer(
    m: &Module,
    cfg: &DecoderConfig,
    stream: ResidualStream,
    self_attn: impl FnOnce(&Module, Value) -> (Value, KvPair),
) -> (ResidualStream, KvPair) {
    let (h, x) = norm(m, "input_layernorm", cfg, stream);
    let (attn_out, present) = self_attn(&m.child("self_attn"), h);
    let (h, x) = norm(m, "post_attention_layernorm", cfg, ResidualStream { x, delta: Some(attn_out) });
    let mlp_out = gated_mlp(&m.child("mlp"), cfg, h);
    (ResidualStream { x, delta: Some(mlp_out) }, present)
}

/// Queries, keys and values of `x`, by one product where the graph's form and the weights allow it.
pub(super) fn query_key_value(m: &Module, cfg: &DecoderConfig, x: Value) -> Qkv {
    let (query, key_value) = (cfg.q_width(), cfg.kv_width());
    let parts = [("q_proj", query), ("k_proj", key_value), ("v_proj", key_value)];
    let together = if cfg.attention_bias { None } else { m.fused_linears("qkv_proj", &parts, x) };
    together.map_or_else(
        || {
            let [q, k, v] = separate_query_key_value(m, cfg, x);
            Qkv::Apart { q, k, v }
        },
        Qkv::Together,
    )
}

/// As [`query_key_value`], each by a linear of its own: what a family changes before attention.
pub(super) fn separate_query_key_value(m: &Module, cfg: &DecoderConfig, x: Value) -> [Value; 3] {
    let q = m.linear("q_proj", x, cfg.q_width(), cfg.attention_bias); // [batch, sequence, heads * head_dim]
    let k = m.linear("k_proj", x, cfg.kv_width(), cfg.attention_bias); // [batch, sequence, kv_heads * head_dim]
    let v = m.linear("v_proj", x, cfg.kv_width(), cfg.attention_bias);
    [q, k, v]
}

/// What mixes the heads: `[batch, sequence, heads * head_dim]` → `[batch, sequence, hidden_size]`.
pub(super) fn output(m: &Module, cfg: &DecoderConfig, heads: Value) -> Value {
    m.linear("o_proj", heads, cfg.hidden_size, cfg.attention_bias)
}

/// SwiGLU: down( silu(gate(x)) ⊙ up(x) ).
pub(super) fn gated_mlp(m: &Module, cfg: &DecoderConfig, x: Value) -> Value {
    let op = m.op();
    let gate = m.linear("gate_proj", x, cfg.intermediate_size, cfg.mlp_bias);
    let up = m.linear("up_proj", x, cfg.intermediate_size, cfg.mlp_bias);
    m.linear("down_proj", op.mul(op.silu(gate), up), cfg.hidden_size, cfg.mlp_bias)
}
