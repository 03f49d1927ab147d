//! The graph that the decode loop runs: the artifact's own, with what a loop wants computed inside it.
//!
//! ```text
//! artifact                                            decode loop
//! input_ids, attention_mask, past                     input_ids, seqlens_k, total_sequence_length, positions, past
//! → logits [batch, sequence, vocab], present          → logits [batch, n, vocab], next_tokens [batch, n, 1], present
//! ```
//!
//! Lengths are inputs instead of sums over a mask, positions follow from them, and the LM head reads only the `n` places
//! that somebody asked for. Rows are padded on the right, so that nothing need turn them. No node is left that would run on the CPU beside a GPU. The change is made in memory: the
//! artifact stays as it is, its weights are mapped from its own data file.

use std::path::Path;

use super::data_place::DataPlace;
use super::{RuntimeError, WeightKernels};
use crate::onnx::{EditError, MODEL_FILE, Model, decode, encode};

/// int64 `[rows, length]`
pub(super) const INPUT_IDS: &str = "input_ids";
/// int32 `[rows]`: positions of each row after the run, minus one.
pub(super) const SEQLENS_K: &str = "seqlens_k";
/// int32 scalar: positions of the longest row after the run. Read by the host, also on a GPU.
pub(super) const TOTAL_SEQUENCE_LENGTH: &str = "total_sequence_length";
/// int64 `[rows, n, 1]`: places in each row after which an output is wanted.
pub(super) const POSITIONS: &str = "positions";
/// `[rows, n, vocab_size]`
pub(super) const LOGITS: &str = "logits";
/// int64 `[rows, n, 1]`: the token with the largest logit, −1 where that, or what was computed for any place of the row, is no
/// number.
pub const NEXT_TOKENS: &str = "next_tokens";

const ATTENTION: &str = "GroupQueryAttention";
/// Place of `position_ids` among the inputs of GroupQueryAttention, in artifacts of program 0.1.0's first form.
const POSITION_IDS: usize = 9;
/// The tokens as the embedding reads them, and as they are given.
const TOKENS: [&str; 2] = ["input_ids.right_padded", INPUT_IDS];
/// The final norm's output as the LM head reads it, and as it is computed.
const HIDDEN: [&str; 2] = ["model.norm.output.as_given", FINAL_HIDDEN];
/// What the LM head reads, `[batch, sequence, hidden_size]`.
const FINAL_HIDDEN: &str = "model.norm.output";
/// Cosines of the rotary angles, `[positions, head_dim / 2]`.
const ROTARY_TABLE: &str = "model.rotary_emb.cos";

/// A graph for the decode loop.
pub(super) struct Specialised {
    /// `model.onnx`, external data where the artifact has it.
    pub bytes: Vec<u8>,
    /// Rows of the rotary tables: no position may lie behind them.
    pub max_positions: usize,
}

/// Reads the artifact's graph and makes the decode loop's from it, its weights in the file at `data`.
pub(super) fn specialise(path: &Path, data: &DataPlace, weights: WeightKernels) -> Result<Specialised, RuntimeError> {
    made(path, weights, |model| data.point(model))
}

/// As [`specialise`]; `finish` says where the weights lie.
fn made(
    path: &Path,
    weights: WeightKernels,
    finish: impl FnOnce(&mut Model) -> Result<(), String>,
) -> Result<Specialised, RuntimeError> {
    let bytes = std::fs::read(path).map_err(|source| RuntimeError::Read { path: path.to_owned(), source })?;
    let foreign = |what: String| RuntimeError::Layout { path: path.to_owned(), what };
    let mut model = decode(&bytes).map_err(|error| foreign(error.to_string()))?;
    if model.find(SEQLENS_K).is_none() && model.nodes().iter().any(|node| node.op_type == "Attention") {
        return Err(RuntimeError::PortableForm { path: path.to_owned() });
    }
    let max_positions = for_decoding(&mut model, weights).map_err(foreign)?;
    finish(&mut model).map_err(foreign)?;
    let bytes = encode(&model).map_err(|error| foreign(error.to_string()))?;
    Ok(Specialised { bytes, max_positions })
}

/// The graph that [`Engine`](super::Engine) runs of the artifact in `dir`, serialized; its weights stay in the artifact's
/// data file, under the name that this has in `dir`, also where it is a link: whoever runs the graph looks there. Products are as
/// [`WeightKernels::FusedFast`] has them.
pub fn decode_graph(dir: &Path) -> Result<Vec<u8>, RuntimeError> {
    Ok(made(&dir.join(MODEL_FILE), WeightKernels::FusedFast, |_| Ok(()))?.bytes)
}

fn for_decoding(model: &mut Model, weights: WeightKernels) -> Result<usize, String> {
    let table = model.find(ROTARY_TABLE).and_then(|table| model.type_of(table).shape.sizes());
    let max_positions =
        table.and_then(|sizes| sizes.first().copied()).ok_or_else(|| format!("it has no table {ROTARY_TABLE}"))?;
    edit(model).map_err(|error| error.to_string())?;
    if weights != WeightKernels::FusedFast {
        // The session's option of this name reaches only products that ONNX Runtime itself fuses.
        model.set_attribute("MatMulNBits", "accuracy_level", 0);
    }
    Ok(max_positions)
}

fn edit(model: &mut Model) -> Result<(), EditError> {
    model.promote_to_input(SEQLENS_K)?;
    model.promote_to_input(TOTAL_SEQUENCE_LENGTH)?;
    if model.nodes().iter().any(|node| node.op_type == ATTENTION && node.inputs.len() > POSITION_IDS) {
        // Without position_ids the operator counts positions from each row's length.
        model.drop_node_input(ATTENTION, POSITION_IDS)?;
    }
    for [read, computed] in [TOKENS, HIDDEN] {
        if model.find(read).is_some() {
            model.substitute(read, computed)?;
        }
    }
    model.gather_positions(FINAL_HIDDEN, POSITIONS)?;
    model.append_greedy(LOGITS, FINAL_HIDDEN, NEXT_TOKENS)?;
    model.prune();
    Ok(())
}
