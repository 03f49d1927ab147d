//! Quantization mathematics: knows no files, no ONNX, no model names.
//!
//! `Format` (what a code means) × `Granularity` (who shares a scale) × `Rounding` (which code) × `Transform` (rewrite
//! before rounding) are four separate things; a [`Scheme`] holds the first two and how a scale is chosen.

mod awq;
mod budget;
mod codebook;
mod error;
mod gptq;
mod gram;
mod lanes;
mod linalg;
mod loss;
mod nested;
mod outliers;
mod rotation;
mod rounding;
mod rtn;
mod scale;
mod scheme;
mod tensor;

pub use awq::{AwqOptions, AwqScales, ClipOptions, ScaleBasis, Sharing, awq_clip, awq_scales};
pub use budget::{Allocation, BudgetError, Choice, allocate};
pub use codebook::Codebook;
pub use error::QuantError;
pub use gptq::{Gptq, GroupScales, ScaleFit, gptq_plain};
pub use gram::output_error;
pub use linalg::{Factor, factorize};
pub use loss::{squared_distance, squared_error};
pub use outliers::{outlier_features, with_outliers};
pub use rotation::{Rotation, RotationError, RotationKind};
pub use rounding::{InputStats, Rounded, Rounding, RoundingReport};
pub use rtn::{Rtn, fake_quantize, rtn, rtn_plain};
pub use scale::{Params, ScaleRule};
pub use scheme::{Format, Granularity, ScaleStorage, Scheme};
pub use tensor::{Codes, NestedScales, Outliers, QuantizedTensor};
