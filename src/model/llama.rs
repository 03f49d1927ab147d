//! `LlamaForCausalLM`, reading like the model.

use std::cell::RefCell;

use super::attention::{KvPair, Positions, Qkv, attention, past, positions};
use super::config::DecoderConfig;
use super::module::{Build, Module, Source};
use super::names;
use super::rope::most_positions;
use super::stored::{StoredWeight, WeightForm};
use crate::onnx::{Graph, GraphError, Model, Type, Value};
use crate::tensor::DType;

/// Positions of the rotary tables unless asked otherwise: 2 MB in f16 at head_dim 128, where the 131072 positions of
/// Llama 3.1 would be 64 MB.
const DEFAULT_MAX_CONTEXT: usize = 8192;

/// Most layers that a graph is written for: a hundred times as many as the deepest models have. Configurations claim any number.
const MOST_LAYERS: usize = 16384;

/// What is chosen about a graph beside its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphOptions {
    /// Element type of activations, cache and logits: f16 for CUDA, f32 for CPU.
    pub activation: DType,
    /// Rows of the rotary tables: the most positions a prompt and its continuation may take together.
    pub max_context: usize,
    /// A tied head reads the final norm through a matrix `model.norm.rotation.weight`, `[hidden_size, hidden_size]`: a rotated
    /// model's table is rotated, so what belongs to the head alone stands before it.
    pub rotated_head: bool,
}

impl GraphOptions {
    /// As many positions as the model was trained for, 8192 at most.
    pub fn of(cfg: &DecoderConfig, activation: DType) -> GraphOptions {
        GraphOptions {
            activation,
            max_context: cfg.max_position_embeddings.min(DEFAULT_MAX_CONTEXT).min(most_positions(cfg)),
            rotated_head: false,
        }
    }
}

/// The decoder's graph and what each weight of the checkpoint becomes in it, in the order of the layers.
#[derive(Debug, Clone)]
pub struct DecoderGraph {
    pub model: Model,
    pub weights: Vec<StoredWeight>,
}

/// The decoder with a KV cache: `input_ids`, `attention_mask`, `position_ids`, past → `logits`, present.
///
/// `form` says what the planner wants of each weight, asked once for each by its name in the checkpoint.
pub fn decoder(
    cfg: &DecoderConfig,
    options: &GraphOptions,
    form: &dyn Fn(&str) -> WeightForm,
) -> Result<DecoderGraph, GraphError> {
    let graph = Graph::new("llama");
    let source = Source::Initializers(form);
    let build = Build { graph: &graph, activation: options.activation, source, stored: RefCell::default() };
    let outputs = causal_lm(&Module::root(&build), cfg, options);
    let weights = build.stored.into_inner();
    Ok(DecoderGraph { model: graph.finish(&outputs)?, weights })
}

/// Embedding, layers, final norm, LM head (HF `LlamaForCausalLM`).
fn causal_lm(m: &Module, cfg: &DecoderConfig, options: &GraphOptions) -> Vec<Value> {
    let (op, model) = (m.op(), m.child("model"));
    let graph = op.graph();
    let ids = graph.input(names::INPUT_IDS, Type::new(DType::I64, ["batch".into(), "sequence".into()]));
    let most = most_positions(cfg);
    if options.max_context > most {
        model.refuse("rotary_emb", "max_context", &format!("at most {most}"), &options.max_context.to_string());
    }
    let pos = positions(&model, cfg, options.activation, options.max_context.min(most));

    let table = model.table("embed_tokens", cfg.vocab_size, cfg.hidden_size);
    let mut stream = Stream { x: model.child("embed_tokens").rows(table, ids), delta: None };
    let mut presents = Vec::new();
    if cfg.num_hidden_layers > MOST_LAYERS {
        model.refuse("layers", "num_hidden_layers", &format!("at most {MOST_LAYERS}"), &cfg.num_hidden_layers.to_string());
    }
    for layer in 0..cfg.num_hidden_layers.min(MOST_LAYERS) {
        let past = past(graph, cfg, options.activation, layer);
        let present;
        (stream, present) = decoder_layer(&model.child(&format!("layers.{layer}")), cfg, stream, &pos, past);
        presents.push(graph.rename(present.key, &names::present_key(layer)));
        presents.push(graph.rename(present.value, &names::present_value(layer)));
    }
    let (h, _) = norm(&model, "norm", cfg, stream);
    let h = graph.rename(h, names::FINAL_HIDDEN);
    let h = if options.rotated_head { model.child("norm").linear("rotation", h, cfg.hidden_size, false) } else { h };
    let logits = match cfg.tie_word_embeddings {
        true => m.child("lm_head").project(table, h),
        false => m.linear("lm_head", h, cfg.vocab_size, false),
    };
    [graph.rename(logits, names::LOGITS)].into_iter().chain(presents).collect()
}

/// The residual stream: `x`, and what the last part adds to it, left to the next norm that adds and normalizes at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub x: Value,
    pub delta: Option<Value>,
}

/// One pre-norm decoder layer (HF `LlamaDecoderLayer`).
///
/// ```text
/// x ─┬─ input_layernorm ─ self_attn ─(+)─┬─ post_attention_layernorm ─ mlp ─(+)─ out
///    └──────────────────────────────┘    └─────────────────────────────────┘
/// ```
fn decoder_layer(m: &Module, cfg: &DecoderConfig, stream: Stream, pos: &Positions, past: KvPair) -> (Stream, KvPair) {
    let (h, x) = norm(m, "input_layernorm", cfg, stream);
    let (attn_out, present) = self_attn(&m.child("self_attn"), cfg, h, pos, past);
    let (h, x) = norm(m, "post_attention_layernorm", cfg, Stream { x, delta: Some(attn_out) });
    let mlp_out = mlp(&m.child("mlp"), cfg, h);
    (Stream { x, delta: Some(mlp_out) }, present)
}

/// `(normalized, x)` with everything added to `x`.
pub(super) fn norm(m: &Module, name: &str, cfg: &DecoderConfig, stream: Stream) -> (Value, Value) {
    match stream.delta {
        None => (m.rms_norm(name, stream.x, cfg.rms_norm_eps), stream.x),
        Some(delta) => m.add_rms_norm(name, stream.x, delta, cfg.rms_norm_eps),
    }
}

/// Grouped-query attention with rotary positions and a KV cache.
fn self_attn(m: &Module, cfg: &DecoderConfig, x: Value, pos: &Positions, past: KvPair) -> (Value, KvPair) {
    let (y, present) = heads(m, cfg, x, pos, Some(past));
    (m.linear("o_proj", y, cfg.hidden_size, cfg.attention_bias), present)
}

/// What the heads make of `x`, before `o_proj` mixes them: `[batch, sequence, heads * head_dim]`.
pub(super) fn heads(m: &Module, cfg: &DecoderConfig, x: Value, pos: &Positions, past: Option<KvPair>) -> (Value, KvPair) {
    let q = m.linear("q_proj", x, cfg.q_width(), cfg.attention_bias); // [batch, sequence, heads * head_dim]
    let k = m.linear("k_proj", x, cfg.kv_width(), cfg.attention_bias); // [batch, sequence, kv_heads * head_dim]
    let v = m.linear("v_proj", x, cfg.kv_width(), cfg.attention_bias);
    attention(m, cfg, Qkv { q, k, v }, pos, past)
}

/// SwiGLU: down( silu(gate(x)) ⊙ up(x) ).
fn mlp(m: &Module, cfg: &DecoderConfig, x: Value) -> Value {
    m.linear("down_proj", gated(m, cfg, x), cfg.hidden_size, cfg.mlp_bias)
}

/// silu(gate(x)) ⊙ up(x): `[batch, sequence, intermediate_size]`.
pub(super) fn gated(m: &Module, cfg: &DecoderConfig, x: Value) -> Value {
    let op = m.op();
    let gate = m.linear("gate_proj", x, cfg.intermediate_size, cfg.mlp_bias);
    let up = m.linear("up_proj", x, cfg.intermediate_size, cfg.mlp_bias);
    op.mul(op.silu(gate), up)
}
