//! What a recorded decoding step reads and writes; `replay` makes them and replays them.

use ort::session::{IoBinding, RunOptions};
use ort::value::Tensor;

/// One decoding step of one cache.
pub(super) struct Recording {
    /// The cache, and what is below.
    pub binding: IoBinding,
    pub options: RunOptions,
    /// `[rows, 1]`
    pub ids: Tensor<i64>,
    /// `[rows]`
    pub seqlens_k: Tensor<i32>,
    /// `[rows, 1, 1]`
    pub next: Tensor<i64>,
}
