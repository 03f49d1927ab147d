use ndarray::{Array2, ArrayView2};

use super::{QuantError, QuantizedTensor, Scheme};

/// Which code each weight gets: round to nearest, GPTQ.
pub trait Rounding {
    /// Quantizes `w`, `[out_features, in_features]`, neither zero, every weight finite; `x` are the statistics of its input.
    fn quantize(&self, w: ArrayView2<'_, f32>, scheme: &Scheme, x: Option<&InputStats>) -> Result<Rounded, QuantError>;
}

/// What calibration knows of the input of one or more linears (q, k and v share theirs, gate and up share theirs).
#[derive(Debug, Clone, PartialEq)]
pub struct InputStats {
    /// Positions that were seen.
    pub tokens: u64,
    /// `G = Σ xᵀx / tokens`, `[in_features, in_features]`, symmetric.
    pub gram: Array2<f32>,
    /// `Σ |x| / tokens`, `[in_features]`.
    pub mean_abs: Vec<f32>,
    /// `max |x|`, `[in_features]`.
    pub max_abs: Vec<f32>,
    /// `C = Σ x̃ᵀx / tokens`, `[in_features, in_features]`, where `x̃` is the same input in the unquantized model; row `i` belongs
    /// to `x̃ᵢ`. `None` where that model was not run beside.
    pub cross: Option<Array2<f32>>,
}

/// A weight's codes and what is to be said about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounded {
    pub tensor: QuantizedTensor,
    pub report: RoundingReport,
}

/// What a rounding that uses statistics found; part of the artifact's record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoundingReport {
    /// `tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ)` of what is written.
    pub output_error: Option<f64>,
    /// The same of round to nearest with the same scheme.
    pub rtn_output_error: Option<f64>,
    /// λ over the mean of the Hessian's diagonal that the Cholesky factorization succeeded with.
    pub damping: Option<f64>,
    /// Input features that were zero on every token.
    pub dead_channels: usize,
    /// As `output_error`, less what the target correction gave up on purpose: the error against the corrected weight.
    pub target_error: Option<f64>,
    /// Output features whose codes are round to nearest's, because nothing else came closer on the statistics.
    pub rtn_kept: usize,
}
