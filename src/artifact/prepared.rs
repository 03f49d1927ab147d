//! A weight as the artifact will hold it, whoever made it so.

use serde::{Deserialize, Serialize};

use crate::quant::QuantizedTensor;
use crate::record::CalibratedRecord;

/// A weight as the artifact will hold it.
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    Quantized(Box<QuantizedTensor>, RoundingOutcome),
    /// Not quantized, and mostly not the checkpoint's numbers either: turned, scaled, a norm that took AWQ's scales, or a weight
    /// whose outliers would take as much as f16.
    Dense(Vec<usize>, Vec<f32>),
}

/// What is to be recorded of a quantized weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundingOutcome {
    /// ‖W − Ŵ‖² / ‖W‖².
    pub relative_error: f64,
    pub calibrated: Option<CalibratedRecord>,
}

impl Prepared {
    /// What calibration found about it.
    pub fn record(&self) -> Option<CalibratedRecord> {
        match self {
            Prepared::Quantized(_, found) => found.calibrated.clone(),
            Prepared::Dense(..) => None,
        }
    }
}
