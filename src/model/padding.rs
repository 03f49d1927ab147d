//! Rows that are padded on the left, for an attention operator that takes pads on the right only.
//!
//! ```text
//! mask   0 0 1 1 1        ids   p p a b c   →   a b c p p   →  layers  →   A B C · ·   →   · · A B C
//! ```
//!
//! A row turns around by as many places as it has pads in front, and what the LM head reads turns back: nothing else of the model knows
//! of pads on the left. Rows without them, and single new tokens, stay as they are. Pads among tokens that follow a cache are none of
//! this: GroupQueryAttention counts the cache from a row's length and would write over it.

use super::module::Module;
use crate::contract::names;
use crate::onnx::Value;
use crate::tensor::DType;

/// New tokens with each row's pads behind them.
pub(super) struct RightPadded {
    /// [`names::RIGHT_PADDED_IDS`], int64 `[batch_size, sequence_length]`.
    pub ids: Value,
    /// Pads in front of each row's tokens, int64 `[batch_size, 1]`.
    pads: Value,
    /// 0, 1, … in each row, int64 `[batch_size, sequence_length]`.
    places: Value,
}

impl RightPadded {
    /// `ids [batch_size, sequence_length]`, `mask [batch_size, total_sequence_length]` with 1 for a token; its last columns are the new
    /// tokens'.
    pub fn of(m: &Module, ids: Value, mask: Value) -> RightPadded {
        let op = m.op();
        let graph = op.graph();
        // The first one of a row; of a row without ones, the first place. In f32, because CUDA has no ArgMax of integers.
        let pads = op.arg_max(op.cast(op.last_columns(mask, ids), DType::F32), 1);
        // Summed, not a Range: that takes its limits from the host, whose copy would keep CUDA graphs away.
        let places = op.sum_before(op.ones_like(ids), 1);
        let twice = op.concat([ids, ids], 1, "twice_sequence_length");
        let turned = op.gather_columns(twice, op.add(places, pads));
        RightPadded { ids: graph.rename(turned, names::RIGHT_PADDED_IDS), pads, places }
    }

    /// `x [batch_size, sequence_length, width]` with each row's pads where the caller has them; what stands there is the row's first
    /// token's.
    pub fn as_given(&self, m: &Module, x: Value) -> Value {
        let op = m.op();
        let graph = op.graph();
        let places = op.max(op.sub(self.places, self.pads), graph.shared_i64(&[], &[0]));
        graph.rename(op.gather_places(x, op.reshape(places, &[0, 0, 1])), names::HIDDEN_AS_GIVEN)
    }
}
