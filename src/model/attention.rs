//! The one place that picks an attention operator.

use super::config::DecoderConfig;
use super::module::Module;
use super::options::GraphOptions;
use super::portable::WrittenPositions;
use super::rope::rope_tables;
use crate::contract::names::{self, axes};
use crate::onnx::{Dim, Graph, GroupQueryAttention, Shape, Type, Value};
use crate::tensor::DType;

/// Where the new tokens stand: shared by all layers.
#[derive(Debug)]
pub(super) enum Positions {
    /// As GroupQueryAttention asks for them.
    Lengths(Lengths),
    /// As they are written out.
    Written(WrittenPositions),
}

/// Rows that begin at position 0 and are padded on the right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    pub seqlens_k: Value,
    pub total_sequence_length: Value,
    pub cos: Value,
    pub sin: Value,
}

/// Where a layer stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Counted from 0.
    pub layer: usize,
    pub positions: &'a Positions,
    /// Keys and values before the new tokens; `None` where there is no cache.
    pub past: Option<KvPair>,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvPair {
    pub key: Value,
    pub value: Value,
}

/// What attention differs in from family to family, and from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttentionOptions {
    /// Positions that a token sees, itself included; `None`: all before it.
    pub window: Option<usize>,
}

/// Heads of the new tokens before rotation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Qkv {
    /// `[batch, sequence, heads · head_dim]` each.
    Apart { q: Value, k: Value, v: Value },
    /// All in one, `[batch, sequence, (heads + 2 · kv_heads) · head_dim]`.
    Together(Value),
}

/// Positions from `mask`: a row's length is the number of its ones, the longest row is as long as the mask.
pub(super) fn positions(m: &Module, cfg: &DecoderConfig, options: &GraphOptions, mask: Value) -> Positions {
    let op = m.op();
    let graph = op.graph();
    let last = op.sub(op.reduce_sum(mask, 1), graph.shared_i64(&[1], &[1]));
    let seqlens_k = graph.rename(op.cast(last, DType::I32), names::SEQLENS_K);
    let total = op.gather(op.shape_of(mask), graph.shared_i64(&[], &[1]));
    let total_sequence_length = graph.rename(op.cast(total, DType::I32), names::TOTAL_SEQUENCE_LENGTH);
    let (cos, sin) = rotary_tables(graph, cfg, options);
    Positions::Lengths(Lengths { seqlens_k, total_sequence_length, cos, sin })
}

/// As [`positions`], fed by whoever runs the graph: every row begins at position 0 and is as long as the others.
pub(super) fn given_positions(m: &Module, cfg: &DecoderConfig, options: &GraphOptions) -> Positions {
    let op = m.op();
    let graph = op.graph();
    let (cos, sin) = rotary_tables(graph, cfg, options);
    Positions::Lengths(Lengths {
        seqlens_k: graph.input(names::SEQLENS_K, Type::new(DType::I32, [axes::BATCH_SIZE.into()])),
        total_sequence_length: graph.input(names::TOTAL_SEQUENCE_LENGTH, Type::new(DType::I32, Shape::default())),
        cos,
        sin,
    })
}

/// Cosines and sines of positions `0 .. max_context`, `[max_context, head_dim / 2]` each.
fn rotary_tables(graph: &Graph, cfg: &DecoderConfig, options: &GraphOptions) -> (Value, Value) {
    let tables = rope_tables(cfg, options.max_context);
    let shape = [options.max_context, cfg.head_dim / 2];
    let table = |name: &str, values: &[f32]| rotary_table(graph, name, options.activation, shape, values);
    (table(names::ROTARY_COS, &tables.cos), table(names::ROTARY_SIN, &tables.sin))
}

fn rotary_table(graph: &Graph, name: &str, dtype: DType, shape: [usize; 2], values: &[f32]) -> Value {
    let bytes = match dtype {
        DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    graph.constant(name, dtype, &shape, bytes)
}

/// The cache of one layer as it comes in.
pub(super) fn past(graph: &Graph, cfg: &DecoderConfig, activation: DType, layer: usize) -> KvPair {
    let (batch, past) = (axes::BATCH_SIZE, axes::PAST_SEQUENCE_LENGTH);
    let shape = || [batch.into(), cfg.num_key_value_heads.into(), past.into(), cfg.head_dim.into()];
    KvPair {
        key: graph.input(&names::past_key(layer), Type::new(activation, shape())),
        value: graph.input(&names::past_value(layer), Type::new(activation, shape())),
    }
}

/// Causal grouped-query attention over past and new tokens; keys enter the cache already rotated.
pub(super) fn attention(m: &Module, cfg: &DecoderConfig, qkv: Qkv, at: Place<'_>, options: AttentionOptions) -> (Value, KvPair) {
    let pos = match at.positions {
        Positions::Lengths(lengths) => lengths,
        Positions::Written(written) => {
            let (Qkv::Apart { q, k, v }, Some(past)) = (qkv, at.past) else {
                unreachable!("the portable form keeps linears apart, and is written with a cache alone");
            };
            return written.attend(m, cfg, [q, k, v], past, options);
        }
    };
    let (query, key_value) = match qkv {
        Qkv::Apart { q, k, v } => (q, Some([k, v])),
        Qkv::Together(all) => (all, None),
    };
    let operands = GroupQueryAttention {
        query,
        key_value,
        past: at.past.map(|past| [past.key, past.value]),
        seqlens_k: pos.seqlens_k,
        total_sequence_length: pos.total_sequence_length,
        cos_cache: pos.cos,
        sin_cache: pos.sin,
        num_heads: cfg.num_attention_heads,
        kv_num_heads: cfg.num_key_value_heads,
        window: options.window,
    };
    let [y, key, value] = m.op().group_query_attention(operands, Dim::from(axes::TOTAL_SEQUENCE_LENGTH));
    (y, KvPair { key, value })
}
