//! Positions and attention in ONNX's own operators: every row may be padded anywhere, and positions have no end.
//!
//! What a token sees is written out as a bias on the scores: itself and the tokens before it that the mask has, no further back than a
//! window reaches. A token's position is how many tokens the mask has before it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::attention::{AttentionOptions, KvPair};
use super::config::DecoderConfig;
use super::module::Module;
use super::rope::inverse_frequencies;
use crate::onnx::{Attention, Graph, Ops, Value};
use crate::tensor::DType;

/// Where tokens stand and what they see: shared by all layers.
#[derive(Debug)]
pub(super) struct WrittenPositions {
    activation: DType,
    /// Whether a new token sees a token that is not behind it, bool `[batch_size, sequence_length, total_sequence_length]`.
    seen: Value,
    /// int64 `[batch_size, sequence_length, 1]`
    query_positions: Value,
    /// int64 `[batch_size, 1, total_sequence_length]`
    key_positions: Value,
    /// `[batch_size, sequence_length, head_dim / 2]`
    cos: Value,
    sin: Value,
    /// By window, `[batch_size, 1, sequence_length, total_sequence_length]`.
    biases: RefCell<BTreeMap<Option<usize>, Value>>,
}

impl WrittenPositions {
    /// `ids [batch_size, sequence_length]`, `mask [batch_size, total_sequence_length]` with 1 for a token; its last columns are the new
    /// tokens'.
    pub fn of(m: &Module, cfg: &DecoderConfig, activation: DType, [ids, mask]: [Value; 2]) -> WrittenPositions {
        let op = m.op();
        let (places, positions) = (op.sum_before(op.ones_like(mask), 1), op.sum_before(mask, 1));
        let of_queries = |all| op.unsqueeze(op.last_columns(all, ids), 2);
        let behind_none = op.less_or_equal(op.unsqueeze(places, 1), of_queries(places));
        let seen = op.and(behind_none, op.cast(op.unsqueeze(mask, 1), DType::Bool));
        let query_positions = of_queries(positions);
        let angles = op.mul(op.cast(query_positions, DType::F32), frequencies(op.graph(), cfg));
        WrittenPositions {
            activation,
            seen,
            query_positions,
            key_positions: op.unsqueeze(positions, 1),
            cos: op.cast(op.cos(angles), activation),
            sin: op.cast(op.sin(angles), activation),
            biases: RefCell::default(),
        }
    }

    /// Causal grouped-query attention over past and new tokens; keys enter the cache already rotated.
    pub fn attend(
        &self,
        m: &Module,
        cfg: &DecoderConfig,
        [q, k, v]: [Value; 3],
        past: KvPair,
        options: AttentionOptions,
    ) -> (Value, KvPair) {
        let op = m.op();
        let (num_heads, kv_num_heads) = (cfg.num_attention_heads, cfg.num_key_value_heads);
        let [y, key, value] = op.attention(Attention {
            query: op.rotary_embedding(q, self.cos, self.sin, num_heads),
            key: op.rotary_embedding(k, self.cos, self.sin, kv_num_heads),
            value: v,
            bias: self.bias(op, options.window),
            past: [past.key, past.value],
            num_heads,
            kv_num_heads,
        });
        (y, KvPair { key, value })
    }

    /// 0 where a token is seen, the lowest number where it is not: finite, so that a pad, which sees nothing, is no NaN.
    fn bias(&self, op: Ops<'_>, window: Option<usize>) -> Value {
        *self.biases.borrow_mut().entry(window).or_insert_with(|| {
            let graph = op.graph();
            let seen = window.map_or(self.seen, |window| {
                let last_unseen = op.sub(self.query_positions, graph.shared_i64(&[], &[window as i64]));
                op.and(self.seen, op.less(last_unseen, self.key_positions))
            });
            let scalar = |value: f32| {
                let value = graph.shared_f32(value);
                op.cast(value, self.activation)
            };
            let lowest = if self.activation == DType::F16 { half::f16::MIN.to_f32() } else { f32::MIN };
            op.unsqueeze(op.choose(seen, scalar(0.0), scalar(lowest)), 1)
        })
    }
}

/// Radians per position of each rotated pair, f32 `[head_dim / 2]`.
fn frequencies(graph: &Graph, cfg: &DecoderConfig) -> Value {
    let frequencies = inverse_frequencies(cfg);
    let bytes = frequencies.iter().flat_map(|&frequency| (frequency as f32).to_le_bytes()).collect();
    graph.constant("model.rotary_emb.inv_freq", DType::F32, &[frequencies.len()], bytes)
}
