//! The graph that the decode loop runs: the artifact's own, with what a loop wants computed inside it.
//!
//! ```text
//! artifact                                            decode loop
//! input_ids, attention_mask, past                     input_ids, seqlens_k, total_sequence_length, positions, past
//! → logits [batch, sequence, vocab], present          → logits [batch, n, vocab], next_tokens [batch, n, 1], present
//! ```
//!
//! Lengths are inputs instead of sums over a mask, positions follow from them, and the LM head reads only the `n` places
//! that somebody asked for. Rows are padded on the right, so that nothing need turn them. No node is left that would run on the CPU
//! beside a GPU. The change is made in memory: the artifact stays as it is, its weights are mapped from its own data file.

use std::path::Path;

use super::data_place::DataPlace;
use super::folder::ArtifactFolder;
use super::{RuntimeError, WeightKernels};
use crate::contract::names::{
    FINAL_HIDDEN, HIDDEN_AS_GIVEN, INPUT_IDS, LOGITS, RIGHT_PADDED_IDS, ROTARY_COS, SEQLENS_K, TOTAL_SEQUENCE_LENGTH,
};
use crate::onnx::{EditError, Model, decode, encode};

/// int64 `[rows, n, 1]`: places in each row after which an output is wanted.
pub(super) const POSITIONS: &str = "positions";
/// int64 `[rows, n, 1]`: the token with the largest logit, −1 where that, or what was computed for any place of the row, is no
/// number.
pub const NEXT_TOKENS: &str = "next_tokens";

const ATTENTION: &str = "GroupQueryAttention";
/// Place of `position_ids` among the inputs of GroupQueryAttention, in artifacts of program 0.1.0's first form.
const POSITION_IDS: usize = 9;
/// What is turned for pads on the left, and what it is without any: the tokens, and the final norm's output.
const TURNED: [[&str; 2]; 2] = [[RIGHT_PADDED_IDS, INPUT_IDS], [HIDDEN_AS_GIVEN, FINAL_HIDDEN]];

/// A graph for the decode loop.
pub(super) struct Specialised {
    /// A graph, external data where the artifact has it.
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
    Ok(made(&ArtifactFolder::of(dir).graph(), WeightKernels::FusedFast, |_| Ok(()))?.bytes)
}

fn for_decoding(model: &mut Model, weights: WeightKernels) -> Result<usize, String> {
    let table = model.find(ROTARY_COS).and_then(|table| model.type_of(table).shape.sizes());
    let max_positions = table.and_then(|sizes| sizes.first().copied()).ok_or_else(|| format!("it has no table {ROTARY_COS}"))?;
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
    for [read, computed] in TURNED {
        if model.find(read).is_some() {
            model.substitute(read, computed)?;
        }
    }
    model.gather_positions(FINAL_HIDDEN, POSITIONS)?;
    model.append_greedy(LOGITS, FINAL_HIDDEN, NEXT_TOKENS)?;
    model.prune();
    Ok(())
}
