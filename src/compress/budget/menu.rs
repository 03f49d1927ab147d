//! The widths that weights can have, and what each costs on the disk: the plan of the whole model in each of them says.

use std::collections::BTreeMap;

use super::outlook::WidthReport;
use super::{BudgetRefusal, Planning};
use crate::artifact::plan::Plan;
use crate::compress::CompressError;
use crate::host::in_full;
use crate::host::table::size;
use crate::model::{LinearInput, StoredWeight, Survey};
use crate::recipe::{BudgetRecipe, FormatName, Recipe, WeightRecipe};

/// Widths that are tried, ascending; symmetric with one group size is as good as a menu of twenty
/// (`results/quantization/prototype/FINDINGS.md`, "Mixed widths").
const FORMATS: [FormatName; 7] =
    [FormatName::Int2, FormatName::Int3, FormatName::Int4, FormatName::Int5, FormatName::Int6, FormatName::Int8, FormatName::F16];

/// What can be chosen.
pub struct Menu {
    /// The recipe that asks for a budget.
    pub recipe: Recipe,
    /// By ascending width; the last one is f16.
    pub entries: Vec<Entry>,
    /// Widths that this model cannot have, and why.
    pub left_out: Vec<String>,
}

/// One width for every weight that no override speaks of.
pub struct Entry {
    pub format: FormatName,
    /// How each matrix is then stored, by its name in the checkpoint.
    pub recipes: BTreeMap<String, WeightRecipe>,
    /// Bits and elements of each weight.
    stored: BTreeMap<String, (u64, u64)>,
    /// Bits and elements of the layers' linears together.
    linears: (u64, u64),
    pub model_bytes: u64,
}

/// Weights that are chosen together.
pub struct Decision {
    pub input: LinearInput,
    pub elements: u64,
    /// By entry of the menu.
    pub bits: Vec<u64>,
}

impl Menu {
    /// # Errors
    /// The recipe or the model is refused in every width but f16.
    pub fn of(recipe: &Recipe, plan: Planning<'_>) -> Result<Menu, CompressError> {
        if recipe.weights.format.codebook().is_some() {
            return Err(BudgetRefusal::Codebook { format: recipe.weights.format.name() }.into());
        }
        let (mut entries, mut left_out, mut first) = (Vec::new(), Vec::new(), None);
        for format in FORMATS {
            let mut of_width = recipe.clone();
            of_width.weights.format = format;
            match plan(of_width) {
                Ok(plan) => entries.push(Entry::of(format, plan)),
                Err(error) if format == FormatName::F16 => return Err(error.into()),
                Err(error) => {
                    left_out.push(format!("{}: {}", format.name(), in_full(&error)));
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) if entries.len() < 2 => Err(error.into()),
            _ => Ok(Menu { recipe: recipe.clone(), entries, left_out }),
        }
    }

    /// One for each input of linears, in the order of computation.
    pub fn decisions(&self, survey: &Survey) -> Vec<Decision> {
        let decision = |input: &LinearInput| {
            let names: Vec<String> = input.weights().collect();
            let sum = |entry: &Entry, of: fn(&(u64, u64)) -> u64| names.iter().map(|name| of(&entry.stored[name])).sum();
            let bits = self.entries.iter().map(|entry| sum(entry, |(bits, _)| *bits)).collect();
            Decision { input: input.clone(), elements: sum(&self.entries[0], |(_, elements)| *elements), bits }
        };
        survey.inputs.iter().map(decision).collect()
    }

    /// What each entry takes when it is chosen everywhere.
    pub fn uniform(&self, decisions: &[Decision]) -> Vec<WidthReport> {
        let bits = |pick: usize| decisions.iter().map(|decision| decision.bits[pick]).sum::<u64>();
        let report = |(pick, entry): (usize, &Entry)| WidthReport {
            format: entry.format,
            bits_per_weight_linears: bits(pick) as f64 / elements(decisions) as f64,
            model_bytes: entry.model_bytes,
        };
        self.entries.iter().enumerate().map(report).collect()
    }

    /// Bits that the decisions may take together.
    ///
    /// # Errors
    /// [`BudgetRefusal`] for a target that none or all can meet.
    pub fn budget_bits(&self, decisions: &[Decision], target: BudgetRecipe) -> Result<u64, BudgetRefusal> {
        let most: u64 = decisions.iter().map(|decision| decision.bits.last().copied().unwrap_or(0)).sum();
        let least: u64 = decisions.iter().map(|decision| decision.bits.iter().min().copied().unwrap_or(0)).sum();
        let unquantized = self.unquantized();
        let bits = match target {
            BudgetRecipe::Bpw(bits) => (bits * elements(decisions) as f64) as u64,
            BudgetRecipe::Size(bytes) => {
                let rest = unquantized.model_bytes.saturating_sub(most / 8);
                let left = bytes.checked_sub(rest);
                8 * left.ok_or_else(|| BudgetRefusal::BelowTheRest { target: size(bytes), rest: size(rest) })?
            }
        };
        if bits >= most {
            let most = match target {
                BudgetRecipe::Bpw(_) => per_weight(most, decisions),
                BudgetRecipe::Size(_) => size(unquantized.model_bytes),
            };
            return Err(BudgetRefusal::TooLarge { target: shown(target), most });
        }
        if bits < least { Err(self.too_small(target)) } else { Ok(bits) }
    }

    /// The refusal of a target that not even the smallest width meets.
    pub fn too_small(&self, target: BudgetRecipe) -> BudgetRefusal {
        let smallest = &self.entries[0];
        let (bits, elements) = smallest.linears;
        let least = match target {
            BudgetRecipe::Bpw(_) => format!("{:.4} bits a weight", bits as f64 / elements as f64),
            BudgetRecipe::Size(_) => format!("{} bytes", smallest.model_bytes),
        };
        BudgetRefusal::TooSmall { target: shown(target), least, format: smallest.format.name() }
    }

    fn unquantized(&self) -> &Entry {
        self.entries.last().expect("a menu is made with f16 as its last entry")
    }
}

impl Entry {
    fn of(format: FormatName, plan: Plan) -> Entry {
        let of = |weight: &StoredWeight| (weight.stored_bits() as u64, weight.elements() as u64);
        let stored = plan.graph.weights.iter().map(|weight| (weight.weight.clone(), of(weight))).collect();
        let linears = plan.graph.weights.iter().filter(|weight| weight.is_decoder_linear()).map(of);
        let linears = linears.fold((0, 0), |sum, stored| (sum.0 + stored.0, sum.1 + stored.1));
        Entry { format, recipes: plan.recipes, stored, linears, model_bytes: plan.manifest.sizes.model_bytes }
    }
}

fn elements(decisions: &[Decision]) -> u64 {
    decisions.iter().map(|decision| decision.elements).sum()
}

fn per_weight(bits: u64, decisions: &[Decision]) -> String {
    format!("{:.4} bits a weight", bits as f64 / elements(decisions) as f64)
}

/// A target as it was asked for.
pub fn shown(target: BudgetRecipe) -> String {
    match target {
        BudgetRecipe::Bpw(bits) => format!("{bits} bits a weight"),
        BudgetRecipe::Size(bytes) => size(bytes),
    }
}
