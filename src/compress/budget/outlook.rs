//! What can be said of a budget from headers alone: what each single width would take.

use serde::Serialize;

use super::Planning;
use super::menu::{Menu, shown};
use crate::artifact::plan::Plan;
use crate::compress::CompressError;
use crate::host::table::{size, table};
use crate::recipe::{BudgetRecipe, FormatName, Recipe};

/// A budget before anything is measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outlook {
    pub target: BudgetRecipe,
    /// The widest single width within the target.
    pub widest: FormatName,
    pub widths: Vec<WidthReport>,
}

/// One width everywhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WidthReport {
    pub format: FormatName,
    pub bits_per_weight_linears: f64,
    /// `model.onnx` and its external data.
    pub model_bytes: u64,
}

/// What the widths take, and the plan of the widest one that is within the target everywhere.
///
/// # Errors
/// [`BudgetRefusal`](super::BudgetRefusal) for a target that no choice meets or every choice does.
pub fn outlook(
    recipe: &Recipe,
    target: BudgetRecipe,
    plan: Planning<'_>,
    layers: &Plan,
) -> Result<(Outlook, Plan), CompressError> {
    let menu = Menu::of(recipe, plan)?;
    let decisions = menu.decisions(&layers.survey);
    menu.budget_bits(&decisions, target)?;
    let widths = menu.uniform(&decisions);
    let fits = |width: &&WidthReport| match target {
        BudgetRecipe::Bpw(bits) => width.bits_per_weight_linears <= bits,
        BudgetRecipe::Size(bytes) => width.model_bytes <= bytes,
    };
    let widest = widths.iter().rfind(fits).map(|width| width.format).ok_or_else(|| menu.too_small(target))?;
    let mut stand_in = recipe.clone();
    stand_in.weights.format = widest;
    Ok((Outlook { target, widest, widths }, plan(stand_in)?))
}

impl std::fmt::Display for Outlook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (target, widest) = (shown(self.target), self.widest.name());
        writeln!(
            f,
            "\nwidths within {target} are chosen weight by weight when the model is exported, by what calibration data say;"
        )?;
        writeln!(f, "everything above is for {widest} everywhere, the widest single width within it\n")?;
        let rows = self.widths.iter().map(|width| {
            let name = format!("{} everywhere", width.format.name());
            vec![name, format!("{:.4}", width.bits_per_weight_linears), size(width.model_bytes)]
        });
        f.write_str(&table(&["widths", "bits/weight", "model"], &[1, 2], rows))
    }
}
