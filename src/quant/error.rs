use crate::fault::Fault;

/// Why a weight could not be quantized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    #[error("bits {got} is not a width of the integer formats; choose 2, 3, 4, 5, 6 or 8")]
    Bits { got: u8 },
    #[error("group_size {got} is not a power of two from 16 to 256; choose 16, 32, 64, 128 or 256")]
    GroupSize { got: usize },
    #[error("double quantization of scales is for nf4 and fp4; leave it out, or choose one of these formats")]
    NestedScales,
    #[error("nf4 and fp4 take the largest magnitude of a group as its scale; choose the scale rule abs-max")]
    CodebookScaleRule,
    #[error("nf4 and fp4 share scales in groups, not per channel; choose a group size, such as bitsandbytes' 64")]
    CodebookPerChannel,
    #[error(
        "outlier channel {in_feature} has a weight that f16 cannot hold (±65504); raise the outlier threshold above that channel"
    )]
    OutlierTooLarge { in_feature: usize },
    #[error(
        "a scale is beyond what f16 holds (±65504), so that weights would be clipped; leave it unquantized with an \
         override to f16, and choose f32 activations"
    )]
    ScaleTooLarge,
    #[error(
        "every weight rounds to zero: they are smaller than what the smallest f16 scale (2^-24) can tell from zero; leave it \
         unquantized with an override to f16, and choose f32 activations"
    )]
    ScaleTooSmall,
    #[error("rounding by GPTQ needs the statistics of the weight's input and got none; calibrate, or choose rtn")]
    NoStatistics,
    #[error(
        "the statistics are of {got} input features and the weight has {expected}; recalibrate with the checkpoint that is quantized"
    )]
    StatisticsShape { expected: usize, got: usize },
    #[error(
        "the Gram matrix of the weight's input is not finite: an activation was infinite or not a number; calibrate with f32 \
         activations or leave the weight unquantized with an override to f16"
    )]
    GramNotFinite,
    #[error(
        "the Gram matrix of the weight's input is zero: no input feature was active on any token; calibrate with other or more \
         text, or keep this weight unquantized: --override 'NAME=f16' with its name less .weight"
    )]
    GramZero,
    #[error(
        "the Gram matrix of the weight's input is not positive definite with damping of {damping} and ten times as much up to \
         1: it is no sum of squares; calibrate anew"
    )]
    NotPositiveDefinite { damping: String },
    #[error("{name} {got} is out of range; choose {expected}")]
    Option { name: &'static str, got: String, expected: &'static str },
    #[error(
        "target correction needs the cross statistics with the unquantized model and got none; calibrate with a reference stream"
    )]
    NoCross,
}

impl QuantError {
    pub fn fault(&self) -> Fault {
        match self {
            QuantError::Bits { .. }
            | QuantError::GroupSize { .. }
            | QuantError::NestedScales
            | QuantError::CodebookScaleRule
            | QuantError::CodebookPerChannel
            | QuantError::OutlierTooLarge { .. }
            | QuantError::ScaleTooLarge
            | QuantError::ScaleTooSmall
            | QuantError::NoStatistics
            | QuantError::StatisticsShape { .. }
            | QuantError::GramNotFinite
            | QuantError::GramZero
            | QuantError::Option { .. }
            | QuantError::NoCross => Fault::BadInput,
            QuantError::NotPositiveDefinite { .. } => Fault::Failed,
        }
    }
}
