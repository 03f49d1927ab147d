//! What a recipe says beside the weights: the rewrite before rounding, the calibration set, the budget.

use serde::{Deserialize, Serialize};

use crate::quant;

/// Rewrites of the model before rounding that keep its function.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformRecipe {
    /// Input features scaled by their importance, folded into what comes before (arXiv 2306.00978).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awq: Option<AwqRecipe>,
    /// The residual stream and the value heads turned, merged into the weights (arXiv 2404.00456).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationRecipe>,
}

/// AWQ's search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwqRecipe {
    /// Ratios tried, evenly from 0 to 1.
    pub ratio_steps: usize,
    /// Also search for the clipping of each group.
    pub clip: bool,
}

impl Default for AwqRecipe {
    fn default() -> Self {
        AwqRecipe { ratio_steps: 20, clip: true }
    }
}

/// Which rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationRecipe {
    pub kind: RotationKind,
    #[serde(default)]
    pub seed: u64,
}

/// How a rotation is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RotationKind {
    /// Hadamard with random signs.
    Hadamard,
    /// Any orthogonal matrix, uniformly.
    Random,
}

impl RotationKind {
    /// The kind that this names.
    pub fn rotation(self) -> quant::RotationKind {
        match self {
            RotationKind::Hadamard => quant::RotationKind::Hadamard,
            RotationKind::Random => quant::RotationKind::Random,
        }
    }
}

/// What statistics are measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationRecipe {
    /// A built-in set's name, or a file: TOML that describes a set, or JSON with windows of token ids.
    pub set: String,
}

/// The set of a recipe that needs one and names none.
pub const DEFAULT_CALIBRATION: &str = "own-36x256";

/// How large the weights may get; widths are then chosen weight by weight, and the choice is written down as overrides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum BudgetRecipe {
    /// Bits per weight over the decoder's linears, scales counted.
    Bpw(f64),
    /// Bytes of `model.onnx` and its external data.
    Size(u64),
}
