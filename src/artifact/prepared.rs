//! A weight as the artifact will hold it, whoever made it so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sink::Sink;
use crate::artifact::ArtifactError;
use crate::model::StoredWeight;
use crate::quant::QuantizedTensor;
use crate::record::CalibratedRecord;

/// What was measured while a weight was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// ‖W − Ŵ‖² / ‖W‖²; 0 for a weight that is not quantized.
    pub relative_error: f64,
    /// See [`crate::record::WeightRecord::digest`].
    pub digest: String,
}

/// A weight as the artifact will hold it.
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    Quantized(Box<QuantizedTensor>, RoundingOutcome),
    /// Not quantized, and mostly not the checkpoint's numbers either: rotated, scaled, a norm that took AWQ's scales, or a weight
    /// whose outliers would take as much as f16.
    Dense(Vec<usize>, Vec<f32>),
}

/// Who has the numbers of a model that are not the checkpoint's.
pub trait PreparedWeights<'c>: Sync {
    /// Why these cannot be had.
    type Error: From<ArtifactError> + Send;

    /// What the weights of a layer became, by name; those that are not among them are the checkpoint's.
    fn layer(&self, layer: usize) -> Result<BTreeMap<String, Prepared>, Self::Error>;

    /// Gives `sink` a weight outside the layers, which may be too large to be held; `None` where it is the checkpoint's.
    fn outside(&self, stored: &StoredWeight, sink: &dyn Sink<'c>) -> Result<Option<WrittenOutside>, Self::Error>;
}

/// What was measured of a weight outside the layers while it was written, and what calibration had found.
pub type WrittenOutside = (Written, Option<CalibratedRecord>);

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
