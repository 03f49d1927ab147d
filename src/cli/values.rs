//! Values of flags that several commands take.

use clap::ValueEnum;
use qonnx::study::experiment::{ProtocolName, ScoringWeights};

/// CPU threads: as many as large machines have cores. ONNX Runtime would start any number, and answer hours later.
pub fn threads(text: &str) -> Result<usize, String> {
    super::within(1, super::setup::MOST_THREADS, text)
}

/// Element type of activations.
#[derive(Clone, Copy, ValueEnum)]
pub enum DtypeArg {
    F16,
    F32,
}

/// Which CoQA turns are asked and how they are scored.
#[derive(Clone, Copy, ValueEnum)]
pub enum ProtocolArg {
    /// lm-evaluation-harness task coqa 3.0: the last turn of each conversation.
    LmEval,
    /// Every turn with gold history, scores by domain.
    Official,
}

/// How quantized weights take part in products while an artifact is scored.
#[derive(Clone, Copy, ValueEnum)]
pub enum ScoringArg {
    /// Unpacked inside the kernels, as other programs run the artifact.
    Fused,
    /// Unpacked once at load: the same numbers, in the memory of a dense model; much faster on the CPU at 8 and 2 bits.
    Dequantized,
}

impl DtypeArg {
    pub fn is_f32(self) -> bool {
        matches!(self, DtypeArg::F32)
    }
}

impl ProtocolArg {
    pub fn name(self) -> ProtocolName {
        match self {
            ProtocolArg::LmEval => ProtocolName::LmEval,
            ProtocolArg::Official => ProtocolName::Official,
        }
    }
}

impl ScoringArg {
    pub fn weights(self) -> ScoringWeights {
        match self {
            ScoringArg::Fused => ScoringWeights::Fused,
            ScoringArg::Dequantized => ScoringWeights::Dequantized,
        }
    }
}
