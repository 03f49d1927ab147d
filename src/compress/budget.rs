//! Which width each weight gets where a recipe says only how large the model may be.
//!
//! ```text
//! menu (what each width costs on the disk) ─▶ measure (what it costs at the model's end) ─▶ allocate ─▶ overrides
//! ```
//!
//! Weights that read one input, and so may be fused, get one width together: a decision. What a width costs is predicted as
//! `sensitivity · tr(ΔW·G·ΔWᵀ)`: how much rounding moves a linear's output, by the Gram matrix `G` of its input, times how much
//! such a movement moves the model's distribution, found by rounding the decision's weights alone and comparing at the end.
//! The sum over decisions is minimised under the budget, exactly or with a stated gap (`quant::budget`).
//!
//! Predictions are of round to nearest whatever the recipe rounds by: a table made by GPTQ takes a GPTQ of the whole model for
//! each width, and widths chosen by it are 5 to 10 % of the divergence better (`results/quantization/prototype/FINDINGS.md`,
//! "Mixed widths"). So GPTQ stays below what is predicted.

use std::path::Path;

use serde::Serialize;

use crate::artifact::ArtifactError;
use crate::artifact::plan::{self, Facts, Plan, Request};
use crate::artifact::source::Source;
use crate::calib::CalibrationSet;
use crate::checkpoint::Checkpoint;
use crate::compress::CompressError;
use crate::compress::Options;
use crate::compress::calibrate::{CheckpointWeights, Keys, StatisticsCache};
use crate::host::interrupt::CancelToken;
use crate::host::progress::Observe;
use crate::model::ModelRotation;
use crate::quant::{Allocation, BudgetError, Choice, allocate};
use crate::recipe::{BudgetRecipe, FormatName, Override, Recipe};
use crate::record::{BudgetRecord, FileRecord};
use crate::runtime::ExecutionProvider;
use crate::tensor::DType;

mod measure;
mod menu;
mod outlook;
mod refusal;
mod report;
mod statistics_walk;
mod walk;

use menu::{Decision, Menu};
pub use outlook::{Outlook, WidthReport, outlook};
pub use refusal::BudgetRefusal;

/// Rounds in which a size is corrected by what the plan of the whole model says; each but the first takes the bytes that the
/// one before was over.
const SIZE_ROUNDS: usize = 8;

/// Plans the whole model by a recipe.
pub type Planning<'a> = &'a dyn Fn(Recipe) -> Result<Plan, ArtifactError>;

/// What the search runs on.
pub struct Task<'a> {
    pub weights: &'a CheckpointWeights<'a>,
    pub plan: Planning<'a>,
    /// Of the calibration set.
    pub sequences: &'a [Vec<u32>],
    pub provider: ExecutionProvider,
    /// CPU threads; one for each physical core where it is not given.
    pub threads: Option<usize>,
    /// Folder for a nameless file of activations.
    pub scratch: &'a Path,
    /// Where statistics are kept, and the hash of all that determines them but for their input.
    pub kept: Option<(StatisticsCache, blake3::Hash)>,
    /// Type of the artifact's activations.
    pub activation: DType,
    pub observe: Observe<'a>,
    pub cancel: CancelToken,
}

/// Widths under a budget, and what they were chosen by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetPlan {
    pub target: BudgetRecipe,
    /// On disk, scales counted, over the decoder's linears.
    pub bits_per_weight_linears: f64,
    /// `model.onnx` and its external data.
    pub model_bytes: u64,
    /// Predicted mean KL divergence from the unquantized model on the calibration set, by round to nearest, nats.
    pub predicted_kl: f64,
    /// No choice within the budget is predicted to be better by more than this, nats; 0 where this one is proven the best.
    pub gap: f64,
    /// By layer, and in a layer in the order of computation.
    pub decisions: Vec<DecisionReport>,
    /// The same prediction for one width everywhere.
    pub uniform: Vec<UniformReport>,
    /// Widths that this model cannot have, and why.
    pub left_out: Vec<String>,
    /// The recipe with the choice as overrides and without the budget: makes the same artifact without a search.
    pub recipe: Recipe,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecisionReport {
    pub layer: usize,
    /// `qkv`, `o`, `gate+up` or `down`.
    pub linears: String,
    pub format: FormatName,
    /// Weights of the linears together.
    pub elements: u64,
    pub bits_per_weight: f64,
    /// Nats at the model's end for each unit of `tr(ΔW·G·ΔWᵀ)`.
    pub sensitivity: f64,
    /// Nats.
    pub predicted_kl: f64,
}

/// One width everywhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UniformReport {
    #[serde(flatten)]
    pub width: WidthReport,
    /// Nats.
    pub predicted_kl: f64,
}

/// The model's files.
pub struct Parts<'a> {
    pub checkpoint: &'a Checkpoint,
    pub source: &'a Source,
    /// The checkpoint's files with their hashes, where statistics are kept.
    pub inputs: &'a [FileRecord],
    pub kept: Option<&'a StatisticsCache>,
    /// Where scratch files may lie.
    pub beside: &'a Path,
    pub observe: Observe<'a>,
}

/// The widths of an export whose recipe has a budget, `None` for any other; `plan` is of the recipe as it is written.
///
/// # Errors
/// As [`resolve`].
pub fn chosen(
    request: &Request,
    plan: &Plan,
    parts: &Parts<'_>,
    set: Option<&CalibrationSet>,
    options: &Options,
) -> Result<Option<BudgetPlan>, CompressError> {
    let recipe = &plan.manifest.recipe;
    let (Some(target), Some(set)) = (recipe.budget, set) else { return Ok(None) };
    let Parts { checkpoint, source, inputs, kept, beside, observe } = *parts;
    let keys = Keys { plan, inputs, options, set: Some(set) };
    let rotation = ModelRotation::of(&plan.architecture, recipe)?;
    let task = Task {
        weights: &CheckpointWeights { checkpoint, architecture: &plan.architecture, survey: &plan.survey, rotation },
        plan: &|recipe| plan::with_facts(request, recipe, &Facts::default(), source, checkpoint.index()),
        sequences: &set.sequences,
        provider: options.provider,
        threads: options.threads,
        scratch: beside,
        kept: kept.map(|kept| (kept.clone(), keys.budget())),
        activation: plan.activation,
        observe,
        cancel: options.cancel.clone(),
    };
    resolve(recipe, target, &task).map(Some)
}

/// Chooses widths for `recipe` within `target`.
///
/// # Errors
/// [`BudgetRefusal`] for a target that cannot be met or means nothing; a recipe, a model or a calibration set that fails.
pub fn resolve(recipe: &Recipe, target: BudgetRecipe, task: &Task<'_>) -> Result<BudgetPlan, CompressError> {
    let menu = Menu::of(recipe, task.plan)?;
    let decisions = menu.decisions(task.weights.survey);
    let budget_bits = menu.budget_bits(&decisions, target)?;
    let measured = measure::measure(&menu, &decisions, task)?;
    let choices = choices(&decisions, &measured);
    let (allocation, plan) = within(&menu, &decisions, &choices, (target, budget_bits), task)?;
    let report = |((decision, &pick), measured): ((&Decision, &usize), &measure::Measured)| DecisionReport {
        layer: decision.input.layer,
        linears: decision.input.short(),
        format: menu.entries[pick].format,
        elements: decision.elements,
        bits_per_weight: decision.bits[pick] as f64 / decision.elements as f64,
        sensitivity: measured.sensitivity,
        predicted_kl: measured.sensitivity * measured.losses[pick],
    };
    let uniform = menu
        .uniform(&decisions)
        .into_iter()
        .enumerate()
        .map(|(pick, width)| UniformReport { width, predicted_kl: choices.iter().map(|choices| choices[pick].loss).sum() });
    Ok(BudgetPlan {
        target,
        bits_per_weight_linears: plan.manifest.sizes.bits_per_weight_linears,
        model_bytes: plan.manifest.sizes.model_bytes,
        predicted_kl: allocation.loss,
        gap: allocation.gap,
        decisions: decisions.iter().zip(&allocation.picks).zip(&measured).map(report).collect(),
        uniform: uniform.collect(),
        left_out: menu.left_out,
        recipe: plan.manifest.recipe,
    })
}

impl BudgetPlan {
    /// What the artifact remembers of the search.
    pub fn record(&self) -> BudgetRecord {
        BudgetRecord { target: self.target, predicted_kl: self.predicted_kl, gap: self.gap }
    }
}

/// Bits and predicted nats of each entry of the menu, by decision.
fn choices(decisions: &[Decision], measured: &[measure::Measured]) -> Vec<Vec<Choice>> {
    let of = |(decision, measured): (&Decision, &measure::Measured)| {
        let pairs = decision.bits.iter().zip(&measured.losses);
        pairs.map(|(&bits, loss)| Choice { bits, loss: measured.sensitivity * loss }).collect()
    };
    decisions.iter().zip(measured).map(of).collect()
}

/// The best allocation whose plan is within the target.
fn within(
    menu: &Menu,
    decisions: &[Decision],
    choices: &[Vec<Choice>],
    (target, mut budget_bits): (BudgetRecipe, u64),
    task: &Task<'_>,
) -> Result<(Allocation, Plan), CompressError> {
    for _ in 0..SIZE_ROUNDS {
        let allocation = allocate(choices, budget_bits).map_err(|error| beyond(error, menu, target))?;
        let plan = (task.plan)(resolved(menu, decisions, &allocation.picks))?;
        let over = match target {
            BudgetRecipe::Bpw(_) => 0,
            BudgetRecipe::Size(bytes) => plan.manifest.sizes.model_bytes.saturating_sub(bytes),
        };
        if over == 0 {
            return Ok((allocation, plan));
        }
        budget_bits = allocation.bits.saturating_sub(8 * over);
    }
    Err(menu.too_small(target).into())
}

/// Why nothing fits although the bits did: the bytes around them.
fn beyond(error: BudgetError, menu: &Menu, target: BudgetRecipe) -> CompressError {
    match error {
        BudgetError::TooSmall { .. } => menu.too_small(target).into(),
        other => other.into(),
    }
}

/// The recipe with a pick for each decision instead of its budget.
fn resolved(menu: &Menu, decisions: &[Decision], picks: &[usize]) -> Recipe {
    let mut recipe = Recipe { budget: None, ..menu.recipe.clone() };
    let mut chosen = Vec::new();
    for (decision, &pick) in decisions.iter().zip(picks) {
        for name in decision.input.weights() {
            let weight = menu.entries[pick].recipes[&name];
            chosen.push(weight);
            recipe.overrides.push(Override::exact(name.strip_suffix(".weight").unwrap_or(&name), weight));
        }
    }
    // Rounding to nearest uses no statistics once the widths are known, and a recipe says nothing that means nothing.
    recipe.calibration = recipe.calibrated_part(&chosen).and_then(|_| recipe.calibration.take());
    recipe
}
