//! What an artifact remembers of the search for its widths.

use serde::{Deserialize, Serialize};

use crate::recipe::BudgetRecipe;

/// The search's target and what it promised; the widths themselves stand in the recipe's overrides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetRecord {
    pub target: BudgetRecipe,
    /// Mean KL divergence from the unquantized model on the calibration set, nats.
    pub predicted_kl: f64,
    /// By how much another choice may be predicted to be better, nats; 0 where the choice is proven the best.
    pub gap: f64,
}
