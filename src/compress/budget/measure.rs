//! What rounding costs: the error of each linear's output by the Gram matrix of its input, and what such an error does at the
//! model's end.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::menu::{Decision, Menu};
use super::statistics_walk::StatisticsWalk;
use super::walk::Walk;
use super::{BudgetRefusal, Task};
use crate::calib::{Head, Logits, Matrix, StreamOptions, TooFewTokens};
use crate::compress::CompressError;
use crate::compress::calibrate::CheckpointWeights;
use crate::eval::kl_of_logits;
use crate::host::progress::{self, Observe, Step};
use crate::quant::{InputStats, Scheme, output_error, rtn};
use crate::recipe::{FormatName, WeightRecipe};

/// Tokens whose statistics judge roundings: a quadratic form of an error that did not aim at them needs no more.
const STATISTICS_TOKENS: usize = 8192;
/// Sequences on which sensitivities are measured, and tokens of all of them.
const PROBE_SEQUENCES: usize = 8;
const PROBE_TOKENS: usize = 2048;
/// Positions whose logits are compared at the model's end, and numbers that these may have.
const PROBE_POSITIONS: usize = 512;
const PROBE_LOGITS: usize = 1 << 26;
/// Width at which sensitivities are measured; two bits give the same (`results/quantization/prototype/FINDINGS.md`, "Mixed widths").
const PROBE_FORMAT: FormatName = FormatName::Int3;

/// What was found about one decision.
pub struct Measured {
    /// Nats at the model's end for each unit of loss.
    pub sensitivity: f64,
    /// `tr(ΔW·G·ΔWᵀ)` summed over the linears, by entry of the menu.
    pub losses: Vec<f64>,
}

/// Measures all decisions, in their order, each layer's inputs as the unquantized model has them.
pub fn measure(menu: &Menu, decisions: &[Decision], task: &Task<'_>) -> Result<Vec<Measured>, CompressError> {
    let options = StreamOptions {
        provider: task.provider,
        threads: task.threads,
        reference: false,
        batch_tokens: None,
        scratch: task.scratch.to_owned(),
        too_few_tokens: TooFewTokens::Allow,
        artifact: task.activation,
    };
    let seen = spread(task.sequences, STATISTICS_TOKENS, usize::MAX);
    let probed = spread(task.sequences, PROBE_TOKENS, PROBE_TOKENS / PROBE_SEQUENCES);
    let mut bar = Work::of(decisions.len(), tokens(&seen), tokens(&probed), task.observe);
    let mut seen = StatisticsWalk::new(task, &options, seen);
    let mut probe = Probe::start(task.weights, Walk::start(task.weights, &options, &probed, &task.cancel)?, tokens(&probed))?;
    bar.passed(0);
    let mut measured = Vec::with_capacity(decisions.len());
    for (index, decision) in decisions.iter().enumerate() {
        task.cancel.check()?;
        bar.at(decision);
        let weights = task.weights.group(&decision.input)?;
        let recipes = recipes(menu, decision);
        let stats = seen.statistics(index)?;
        let losses = losses(&weights, &recipes, &stats);
        let sensitivity = match recipes.iter().flatten().all(|recipe| recipe.scheme().is_none()) {
            true => 0.0,
            false => probe.sensitivity(decision, &weights, probed_scheme(menu), &stats)?,
        };
        measured.push(Measured { sensitivity, losses });
        probe.walk.pass(&weights)?;
        bar.passed(index + 1);
    }
    Ok(measured)
}

/// How each weight of the decision is stored, by entry of the menu.
fn recipes(menu: &Menu, decision: &Decision) -> Vec<Vec<WeightRecipe>> {
    let names: Vec<String> = decision.input.weights().collect();
    menu.entries.iter().map(|entry| names.iter().map(|name| entry.recipes[name]).collect()).collect()
}

fn probed_scheme(menu: &Menu) -> Scheme {
    let recipe = WeightRecipe { format: PROBE_FORMAT, ..menu.recipe.weights };
    recipe.scheme().expect("three bits are a quantized format")
}

/// Loss of each entry; a weight that an override pins is rounded once.
fn losses(weights: &[Array2<f32>], recipes: &[Vec<WeightRecipe>], stats: &InputStats) -> Vec<f64> {
    let mut losses = vec![0.0; recipes.len()];
    for (index, w) in weights.iter().enumerate() {
        let mut known: Vec<(Scheme, f64)> = Vec::new();
        for (entry, recipes) in recipes.iter().enumerate() {
            let Some(scheme) = recipes[index].scheme() else { continue };
            let found = known.iter().find(|(other, _)| *other == scheme).map(|(_, loss)| *loss);
            let loss = found.unwrap_or_else(|| {
                let delta = w - &rounded(w.view(), &scheme);
                let loss = output_error(delta.view(), stats.gram.view()).max(0.0);
                known.push((scheme, loss));
                loss
            });
            losses[entry] += loss;
        }
    }
    losses
}

/// `w` rounded to nearest.
fn rounded(w: ArrayView2<'_, f32>, scheme: &Scheme) -> Array2<f32> {
    let w = w.as_standard_layout();
    rtn(w.as_slice().expect("standard layout"), w.ncols(), scheme).dequantize()
}

/// The unquantized model on a few sequences, and what it says at its end.
struct Probe<'a> {
    walk: Walk<'a>,
    head: HeadWeights,
    step: usize,
    /// Logits of the positions that are compared, piece by piece.
    reference: Vec<Array2<f32>>,
}

/// The LM head in f32.
struct HeadWeights {
    table: Array2<f32>,
    matrix: Option<Array2<f32>>,
}

impl HeadWeights {
    fn head(&self) -> Head<'_> {
        let matrix = self.matrix.as_ref().map(|matrix| Matrix::same(matrix.view()));
        Head { table: Matrix::same(self.table.view()), matrix }
    }
}

impl<'a> Probe<'a> {
    /// Runs the unquantized model to its end and comes back.
    fn start(weights: &'a CheckpointWeights<'a>, mut walk: Walk<'a>, tokens: usize) -> Result<Probe<'a>, CompressError> {
        let positions = PROBE_POSITIONS.min(PROBE_LOGITS / weights.architecture.vocab_size).max(1);
        let head = HeadWeights { table: weights.head_table()?, matrix: weights.head_matrix()? };
        let start = walk.place()?;
        walk.finish()?;
        let (mut reference, step) = (Vec::new(), tokens.div_ceil(positions));
        walk.logits(step, &head.head(), &mut |logits| reference.push(logits.quantized.to_owned()))?;
        walk.back(&start)?;
        if reference.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err(BudgetRefusal::ReferenceNotFinite.into());
        }
        Ok(Probe { walk, head, step, reference })
    }

    /// KL at the model's end for each unit of `tr(ΔW·G·ΔWᵀ)`, with the decision's weights alone rounded to nearest.
    fn sensitivity(
        &mut self,
        decision: &Decision,
        weights: &[Array2<f32>],
        scheme: Scheme,
        stats: &InputStats,
    ) -> Result<f64, CompressError> {
        let rounded: Vec<Array2<f32>> = weights.iter().map(|w| rounded(w.view(), &scheme)).collect();
        let loss = |(w, rounded): (&Array2<f32>, &Array2<f32>)| output_error((w - rounded).view(), stats.gram.view());
        let loss: f64 = weights.iter().zip(&rounded).map(loss).sum();
        if loss <= 0.0 {
            return Ok(0.0);
        }
        let here = self.walk.place()?;
        self.walk.pass(&rounded)?;
        drop(rounded);
        self.walk.finish()?;
        let kl = self.divergence()?;
        self.walk.back(&here)?;
        let (layer, linears) = (decision.input.layer, decision.input.short());
        let kl = kl.ok_or(BudgetRefusal::NotFinite { layer, linears })?;
        Ok(kl / loss)
    }

    /// Mean KL of the model as it now stands from the unquantized one; `None` where it says no numbers.
    fn divergence(&mut self) -> Result<Option<f64>, CompressError> {
        let (mut pieces, mut sums) = (self.reference.iter(), Vec::new());
        self.walk.logits(self.step, &self.head.head(), &mut |Logits { quantized, .. }| {
            let reference = pieces.next().expect("the same positions as before");
            let rows: Vec<(&[f32], &[f32])> = (reference.rows().into_iter().zip(quantized.rows()))
                .map(|(reference, row)| (reference.to_slice(), row.to_slice()))
                .map(|(reference, row)| (reference.expect("rows are contiguous"), row.expect("rows are contiguous")))
                .collect();
            // Collected before they are added, so that the order of additions is always the same.
            let kl: Vec<Option<f64>> = rows.into_par_iter().map(|(reference, row)| kl_of_logits(reference, row)).collect();
            sums.extend(kl);
        })?;
        let count = sums.len() as f64;
        Ok(sums.into_iter().sum::<Option<f64>>().map(|sum| sum / count))
    }
}

/// Sequences from all over the set, each cut to `longest`, of about `wanted` tokens together.
fn spread(sequences: &[Vec<u32>], wanted: usize, longest: usize) -> Vec<Vec<u32>> {
    let cut = |sequence: &Vec<u32>| sequence[..sequence.len().min(longest)].to_vec();
    let all: usize = sequences.iter().map(|sequence| sequence.len().min(longest)).sum();
    let count = (sequences.len() * wanted).div_ceil(all.max(1)).clamp(1, sequences.len());
    (0..count).map(|index| cut(&sequences[index * sequences.len() / count])).collect()
}

fn tokens(sequences: &[Vec<u32>]) -> usize {
    sequences.iter().map(Vec::len).sum()
}

/// A bar over the stages that are run, each weighted by its tokens.
struct Work<'a> {
    bar: indicatif::ProgressBar,
    observe: Observe<'a>,
    inputs: usize,
    seen: usize,
    probed: usize,
}

impl<'a> Work<'a> {
    /// Statistics cost about as much as the stage that they follow.
    fn of(inputs: usize, seen: usize, probed: usize, observe: Observe<'a>) -> Work<'a> {
        let mut work = Work { bar: progress::share(0, "budget"), observe, inputs, seen, probed };
        work.bar = progress::share(work.until(inputs), "budget");
        work
    }

    /// Work done once `passed` inputs are.
    fn until(&self, passed: usize) -> u64 {
        let statistics = 2 * self.seen * passed;
        let left = (0..passed).map(|input| self.inputs - input + 1).sum::<usize>();
        (statistics + self.probed * (self.inputs + left)) as u64
    }

    fn passed(&mut self, inputs: usize) {
        self.bar.set_position(self.until(inputs));
        (self.observe)(Step { what: "budget", done: inputs as u64, all: self.inputs as u64 });
    }

    fn at(&self, decision: &Decision) {
        self.bar.set_message(format!("layer {}: {}", decision.input.layer, decision.input.short()));
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
