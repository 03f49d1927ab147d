use std::path::PathBuf;

use crate::fault::Fault;
use crate::onnx::GraphError;
use crate::runtime::RuntimeError;

/// What can go wrong while activations are pushed through a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibError {
    #[error("the calibration set has no sequences; give at least one")]
    NoSequences,
    #[error("calibration sequence {sequence} has no tokens; leave it out")]
    EmptySequence { sequence: usize },
    #[error(
        "calibration sequence {sequence} has {tokens} tokens, and the model has {positions} positions \
         (max_position_embeddings); use shorter sequences"
    )]
    SequenceTooLong { sequence: usize, tokens: usize, positions: usize },
    #[error(
        "calibration sequence {sequence} holds token id {id}, beyond the model's vocabulary of {vocab_size}; make the set with \
         the model's own tokenizer"
    )]
    UnknownToken { sequence: usize, id: u32, vocab_size: usize },
    #[error(
        "{tokens} calibration tokens are fewer than the {in_features} input features of {input}, so that its statistics would \
         leave directions unseen; use a set with more or longer sequences"
    )]
    TooFewTokens { tokens: usize, in_features: usize, input: String },
    #[error(
        "layer {layer}: the input of {input} is NaN or infinite in channel {channel}; {advice}",
        advice = advice(*.beyond_f16)
    )]
    NotFinite { layer: usize, input: String, channel: usize, beyond_f16: bool },
    #[error(
        "layer {layer}: {what} reaches {largest:.0} on the calibration set, and f16 ends at 65504: the artifact would answer with \
         NaN; export with --dtype f32"
    )]
    BeyondF16 { layer: usize, what: String, largest: f32 },
    #[error("{weight} must have shape {expected:?}, got {got:?}; give it as [out_features, in_features]")]
    Shape { weight: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("{called} was called where {expected} comes next")]
    Order { called: &'static str, expected: &'static str },
    #[error("interrupted while calibrating layer {layer}")]
    Interrupted { layer: usize },
    #[error(
        "out of memory with {tokens} tokens at a time: {reason}; lower the number of tokens in a batch, use shorter sequences, \
         or calibrate on another device"
    )]
    OutOfMemory { tokens: usize, reason: String },
    #[error("the scratch file for activations in {folder} cannot be used; give a folder with {bytes} bytes free", folder = .folder.display())]
    Scratch {
        folder: PathBuf,
        bytes: u64,
        #[source]
        source: std::io::Error,
    },
    #[error("a calibration stage could not be written as a graph")]
    Graph(#[from] GraphError),
    #[error("a calibration stage could not be run")]
    Runtime(#[source] RuntimeError),
}

fn advice(beyond_f16: bool) -> &'static str {
    if beyond_f16 {
        "activations beyond 65504 do not fit f16; calibrate on the CPU, which computes in f32, and export with f32 activations"
    } else {
        "check the checkpoint's weights, and the roundings of the layers before"
    }
}

impl CalibError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            CalibError::NoSequences
            | CalibError::EmptySequence { .. }
            | CalibError::SequenceTooLong { .. }
            | CalibError::UnknownToken { .. }
            | CalibError::TooFewTokens { .. }
            | CalibError::NotFinite { .. }
            | CalibError::BeyondF16 { .. }
            | CalibError::Shape { .. } => Fault::BadInput,
            CalibError::Order { .. }
            | CalibError::Interrupted { .. }
            | CalibError::OutOfMemory { .. }
            | CalibError::Scratch { .. } => Fault::Failed,
            CalibError::Graph(error) => error.fault(),
            CalibError::Runtime(error) => error.fault(),
        }
    }

    /// What the runtime says, with what to do where it ran out of memory.
    pub(super) fn ran(tokens: usize) -> impl Fn(RuntimeError) -> CalibError {
        // Words of ONNX Runtime's allocators and of CUDA's and C++'s own errors.
        const SIGNS: [&str; 4] = ["Failed to allocate memory", "out of memory", "bad allocation", "bad_alloc"];
        move |error| match error {
            RuntimeError::Run { reason, .. } if SIGNS.iter().any(|sign| reason.contains(sign)) => {
                CalibError::OutOfMemory { tokens, reason }
            }
            error => CalibError::Runtime(error),
        }
    }
}
