use super::QuantError;
use super::codebook::{self, Codebook};
use super::scale::{self, Params, ScaleRule};
use crate::tensor::DType;

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Uniform integer grid: `w ≈ scale · (code − zero_point)` with `code` in `0 … 2^b−1`, one a byte, always unsigned
    /// here. Asymmetric formats store a zero point with each scale. Symmetric ones fix it at `2^(b−1)` and store none:
    /// their levels are `−2^(b−1) … 2^(b−1)−1`, and a signed ONNX type holds `code XOR 2^(b−1)`, which packing applies.
    ///
    /// Widths are 2, 3, 4, 5, 6 and 8. Odd ones are stored at their own width and widened to the next of 2, 4, 8 when a
    /// runtime loads them.
    Int { bits: u8, symmetric: bool },
    /// Sixteen fixed levels: `w ≈ scale · codebook[code]`, `scale` the largest magnitude of the group (bitsandbytes' absmax).
    Codebook(Codebook),
}

/// How scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleStorage {
    /// Each in f16.
    F16,
    /// Double quantization (QLoRA, arXiv 2305.14314, section 3): less their mean, in blocks of 256, as 8-bit codes of a dynamic
    /// codebook with one f32 for each block.
    Nested,
}

impl Format {
    /// Bits of one stored code.
    pub fn bits(self) -> u8 {
        match self {
            Format::Int { bits, .. } => bits,
            Format::Codebook(_) => 4,
        }
    }

    /// Element type that a runtime holds the codes in: the next width of 2, 4, 8 for odd ones; signed where there is no zero
    /// point. Codes of a codebook are packed two a byte.
    pub fn code_dtype(self) -> DType {
        match self {
            Format::Int { bits: 2, symmetric: true } => DType::I2,
            Format::Int { bits: 2, symmetric: false } => DType::U2,
            Format::Int { bits: 3 | 4, symmetric: true } => DType::I4,
            Format::Int { bits: 3 | 4, symmetric: false } => DType::U4,
            Format::Int { symmetric: true, .. } => DType::I8,
            Format::Int { symmetric: false, .. } => DType::U8,
            Format::Codebook(_) => DType::U4,
        }
    }

    /// Code of weight 0 in a symmetric format; of no meaning for a codebook.
    pub fn symmetric_zero_point(self) -> u8 {
        match self {
            Format::Int { bits, .. } => 1 << (bits - 1),
            Format::Codebook(_) => 0,
        }
    }

    /// Whether a zero point is stored beside each scale.
    pub fn has_zero_points(self) -> bool {
        matches!(self, Format::Int { symmetric: false, .. })
    }
}

/// Who shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Granularity {
    /// One scale for each output feature.
    PerChannel,
    /// One scale for each `group_size` consecutive input features of an output feature; the last group may be short.
    PerGroup(usize),
}

impl Granularity {
    /// Weights that share a scale, in a row of `in_features`.
    pub fn group_size(self, in_features: usize) -> usize {
        match self {
            Granularity::PerChannel => in_features,
            Granularity::PerGroup(group_size) => group_size,
        }
    }

    /// Scales in a row of `in_features`.
    pub fn groups(self, in_features: usize) -> usize {
        in_features.div_ceil(self.group_size(in_features))
    }
}

/// Format, granularity and scale rule of one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme {
    pub format: Format,
    pub granularity: Granularity,
    pub scale_rule: ScaleRule,
    pub scale_storage: ScaleStorage,
}

impl Scheme {
    /// Whether the numbers in the scheme are among those that ONNX Runtime's kernels know.
    pub fn check(&self) -> Result<(), QuantError> {
        if let Format::Int { bits, .. } = self.format
            && !matches!(bits, 2..=6 | 8)
        {
            return Err(QuantError::Bits { got: bits });
        }
        match self.format {
            Format::Int { .. } if self.scale_storage == ScaleStorage::Nested => return Err(QuantError::NestedScales),
            Format::Codebook(_) if self.scale_rule != ScaleRule::AbsMax => return Err(QuantError::CodebookScaleRule),
            Format::Codebook(_) if self.granularity == Granularity::PerChannel => return Err(QuantError::CodebookPerChannel),
            _ => {}
        }
        match self.granularity {
            Granularity::PerGroup(got) if !(got.is_power_of_two() && (16..=256).contains(&got)) => {
                Err(QuantError::GroupSize { got })
            }
            _ => Ok(()),
        }
    }

    /// Scale and zero point of one group, of any length; every weight finite.
    ///
    /// Scales of integer formats are rounded to f16 before any code is chosen. One whose magnitude is outside f16's
    /// `2^−24 … 65504` is replaced by the nearer end: weights too small for f16's steps round to few levels or zero, weights
    /// too large are clipped. A group of zeros gets scale 1. Those of codebooks are left as they are.
    pub fn fit(&self, group: &[f32]) -> Params {
        debug_assert!(group.iter().all(|w| w.is_finite()), "weights that are not finite are refused where they are read");
        match self.format {
            Format::Int { bits, symmetric: true } => scale::fit_symmetric(group, bits, self.scale_rule),
            Format::Int { bits, symmetric: false } => scale::fit_asymmetric(group, bits, self.scale_rule),
            Format::Codebook(_) => codebook::fit(group),
        }
    }

    /// Nearest code to a weight, clipped to the grid; ties go to the even level, in a codebook as bitsandbytes has them.
    pub fn encode(&self, w: f32, params: Params) -> u8 {
        match self.format {
            Format::Int { bits, .. } => (scale::nearest_level(w, bits, params) + f32::from(params.zero_point)) as u8,
            Format::Codebook(codebook) => codebook.nearest(w * codebook::inverse(params.scale)),
        }
    }

    /// Weight that a code stands for in what is written. Exact in f32 for integer formats, because a scale has 11 significant
    /// bits and a level at most 9.
    pub fn decode(&self, code: u8, params: Params) -> f32 {
        let scale = self.stored_scale(params.scale);
        match self.format {
            Format::Int { .. } => scale * (f32::from(code) - f32::from(params.zero_point)),
            Format::Codebook(codebook) => scale * codebook.levels()[usize::from(code)],
        }
    }

    /// A scale as it is stored: the nearest f16. Nested scales are stored together (`NestedScales`), and are left alone here.
    pub fn stored_scale(&self, scale: f32) -> f32 {
        match (self.format, self.scale_storage) {
            (Format::Codebook(_), ScaleStorage::F16) => scale::f16_scale(scale),
            (Format::Int { .. }, _) | (Format::Codebook(_), ScaleStorage::Nested) => scale,
        }
    }
}
