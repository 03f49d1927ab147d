//! What is chosen about a graph beside its weights.

use super::config::DecoderConfig;
use super::rope::most_positions;
use crate::tensor::DType;

/// Positions of the rotary tables unless asked otherwise: CoQA's longest stories fit, and 2 MB in f16 at head_dim 128 do not outweigh a
/// small model's layers, as the 64 MB of Llama 3.1's 131072 positions would.
const DEFAULT_MAX_CONTEXT: usize = 8192;

/// What a graph is written in: which operators, and how quantized weights lie for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GraphForm {
    /// DequantizeLinear before MatMul, which ONNX Runtime fuses on the CPU and on CUDA, and its own attention.
    #[default]
    QuantizeDequantize,
    /// MatMulNBits, for runtimes that fuse nothing: queries, keys and values in one product where they are stored alike, odd widths in
    /// cells of the next of 2, 4 and 8 bits.
    MatMulNBits,
    /// ONNX's own operators (version 23; 25 with 2-bit codes) alone, rows padded anywhere, odd widths in cells; no table of positions.
    Portable,
}

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
    pub form: GraphForm,
}

impl GraphOptions {
    /// As many positions as the model was trained for, 8192 at most.
    pub fn of(cfg: &DecoderConfig, activation: DType) -> GraphOptions {
        GraphOptions {
            activation,
            max_context: cfg.max_position_embeddings.min(DEFAULT_MAX_CONTEXT).min(most_positions(cfg)),
            rotated_head: false,
            form: GraphForm::default(),
        }
    }
}
