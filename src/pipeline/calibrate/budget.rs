//! Widths under a budget: which linears are worth more bits.
//!
//! The loss of the whole is predicted as `Σ sensitivity · tr(ΔW·G·ΔWᵀ)` over the inputs of all layers, whose linears have one
//! width. `G` is the Gram matrix in the unquantized model, `ΔW` what round to nearest loses at a width: better roundings lose
//! about the same fraction less at each. The sensitivity is measured: the KL at the end of the model with the linears of one
//! input at 3 bits, over their `tr(ΔW·G·ΔWᵀ)`. Without it the choice is little better than one width for all.

use std::path::PathBuf;

use anyhow::Context;
use indicatif::ProgressBar;
use ndarray::{Array2, ArrayView1};
use rayon::prelude::*;

use super::activations::Fed;
use super::weights::Weights;
use super::{Job, stopping};
use crate::calib::{Both, CalibrationSet, Head, Linear, Logits, Qkv, Stream, StreamOptions, TooFewTokens, Vector};
use crate::checkpoint::{Numbers, TensorFile};
use crate::model::LinearInput;
use crate::pipeline::plan::{self, Facts, Plan, Request};
use crate::pipeline::progress;
use crate::pipeline::table::table;
use crate::quant::{Allocation, Choice, InputStats, allocate, output_error, rtn};
use crate::recipe::{BudgetRecipe, FormatName, Override, Recipe, WeightRecipe};
use crate::record::BudgetRecord;

/// What may be chosen, fewest bits first.
const MENU: [FormatName; 7] =
    [FormatName::Int2, FormatName::Int3, FormatName::Int4, FormatName::Int5, FormatName::Int6, FormatName::Int8, FormatName::F16];
/// The width that sensitivities are measured at: large enough to be seen, small enough that losses still add up.
const PROBE: FormatName = FormatName::Int3;
/// Tokens that sensitivities are measured on: KL over some thousand tokens tells layers apart.
const PROBE_TOKENS: usize = 4096;
const INPUTS: usize = LinearInput::ALL.len();

/// What was chosen.
pub struct Chosen {
    /// The recipe with the choice as overrides, and no budget.
    pub recipe: Recipe,
    pub record: BudgetRecord,
    shown: String,
}

/// Losses and sensitivities, by input over all layers.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    /// `tr(ΔW·G·ΔWᵀ)` at each width of the menu.
    losses: Vec<[f64; MENU.len()]>,
    sensitivities: Vec<f64>,
}

/// Chooses widths for the recipe's budget.
pub fn choose(job: &Job<'_>, request: &Request, budget: BudgetRecipe, set: &CalibrationSet) -> anyhow::Result<Chosen> {
    let config = &job.plan.config;
    let weights = job.weights()?;
    let measured = match kept(job, set) {
        Some(path) if path.is_file() => read(&path, config.num_hidden_layers * INPUTS)?,
        path => {
            let measured = Measure { job, weights: &weights, set }.run()?;
            if let Some(path) = path {
                write(&measured, &path)?;
            }
            measured
        }
    };
    let sizes = StoredSizes::of(job, request)?;
    let allocation = sizes.allocate(&measured, budget)?;
    let shown = shown(&allocation, &measured);
    let recipe = sizes.recipe(&allocation);
    let record = BudgetRecord { asked: budget, predicted_kl: allocation.loss, gap: allocation.gap };
    Ok(Chosen { recipe, record, shown })
}

impl Chosen {
    /// The choice as a person reads it, before the work begins.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

/// Where the measurement is kept, which is the same for any number of bits.
fn kept(job: &Job<'_>, set: &CalibrationSet) -> Option<PathBuf> {
    let folder = job.options.save_stats.as_ref()?;
    Some(folder.join(format!("budget-{}.safetensors", &job.key(Some(set), "budget").to_hex()[..32])))
}

/// Measures losses and sensitivities.
struct Measure<'a> {
    job: &'a Job<'a>,
    weights: &'a Weights<'a>,
    set: &'a CalibrationSet,
}

impl Measure<'_> {
    fn run(&self) -> anyhow::Result<Measured> {
        let units = self.weights.config.num_hidden_layers * INPUTS;
        let bar = progress::count(2 * units as u64, "budget");
        let losses = self.losses(&bar)?;
        let probe = MENU.iter().position(|&format| format == PROBE).expect("the probe is on the menu");
        let divergences = self.divergences(&bar)?;
        bar.finish_and_clear();
        let sensitivity = |(kl, losses): (&f64, &[f64; MENU.len()])| if losses[probe] > 0.0 { kl / losses[probe] } else { 0.0 };
        Ok(Measured { sensitivities: divergences.iter().zip(&losses).map(sensitivity).collect(), losses })
    }

    fn start(&self, options: &StreamOptions, sequences: &[Vec<u32>], bar: &ProgressBar) -> anyhow::Result<Stream<'static>> {
        super::activations::start(self.weights, options, sequences, bar)
    }

    /// The unquantized model once over the whole set.
    fn losses(&self, bar: &ProgressBar) -> anyhow::Result<Vec<[f64; MENU.len()]>> {
        let mut stream = self.start(&self.job.stream_options(), &self.set.sequences, bar)?;
        let mut losses = Vec::new();
        self.enter(&mut stream)?;
        for layer in 0..self.weights.config.num_hidden_layers {
            for input in LinearInput::ALL {
                let stats = stream.statistics().map_err(stopping)?;
                let fed = self.fed(layer, input)?;
                let each = MENU.map(|format| fed.quantized.iter().map(|w| self.lost(w, format, &stats)).sum::<f64>());
                losses.push(each);
                self.pass(&mut stream, layer, input, &fed)?;
                bar.inc(1);
            }
        }
        Ok(losses)
    }

    /// `tr(ΔW·G·ΔWᵀ)` of round to nearest.
    fn lost(&self, w: &Array2<f32>, format: FormatName, stats: &InputStats) -> f64 {
        let Some(rounded) = self.rounded(w, format) else { return 0.0 };
        output_error((w - rounded).view(), stats.gram.view())
    }

    fn rounded(&self, w: &Array2<f32>, format: FormatName) -> Option<Array2<f32>> {
        let scheme = WeightRecipe { format, ..self.job.plan.manifest.recipe.weights }.scheme()?;
        Some(rtn(w.as_slice().expect("read in standard layout"), w.ncols(), &scheme).dequantize())
    }

    /// KL at the end of the model with one input's linears at the probe's width, for each input of each layer.
    fn divergences(&self, bar: &ProgressBar) -> anyhow::Result<Vec<f64>> {
        let mut tokens = 0;
        let few = self.set.sequences.iter().take_while(|sequence| {
            let is_wanted = tokens < PROBE_TOKENS;
            tokens += sequence.len();
            is_wanted
        });
        let sequences: Vec<Vec<u32>> = few.cloned().collect();
        let options = StreamOptions { reference: true, too_few_tokens: TooFewTokens::Allow, ..self.job.stream_options() };
        let mut stream = self.start(&options, &sequences, bar)?;
        let (table, matrix) = self.head()?;
        let head = Head { table: Both::same(table.view()), matrix: matrix.as_ref().map(|matrix| Both::same(matrix.view())) };
        self.enter(&mut stream)?;
        let mut divergences = Vec::new();
        for layer in 0..self.weights.config.num_hidden_layers {
            let mark = stream.mark();
            for probed in LinearInput::ALL {
                stream.rewind(&mark)?;
                self.pass_layer(&mut stream, layer, Some(probed))?;
                for behind in layer + 1..self.weights.config.num_hidden_layers {
                    self.pass_layer(&mut stream, behind, None)?;
                }
                divergences.push(divergence(&mut stream, &head)?);
                bar.inc(1);
            }
            stream.rewind(&mark)?;
            self.pass_layer(&mut stream, layer, None)?;
        }
        Ok(divergences)
    }

    /// The LM head's table, and what a rotated tied one multiplies by first.
    fn head(&self) -> anyhow::Result<(Array2<f32>, Option<Array2<f32>>)> {
        let name = if self.weights.config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let norm = self.weights.final_norm()?;
        let matrix = self.weights.rotation.as_ref().and_then(|rotation| rotation.head_matrix(&norm));
        Ok((self.weights.matrix(name)?, matrix))
    }

    fn enter(&self, stream: &mut Stream<'_>) -> anyhow::Result<()> {
        let norm = self.weights.vector("model.layers.0.input_layernorm.weight")?;
        stream.advance_enter(&Vector::same(&norm)).map_err(stopping)
    }

    fn fed(&self, layer: usize, input: LinearInput) -> anyhow::Result<Fed> {
        let biases = self.weights.biases(layer, input)?;
        Ok(Fed { quantized: self.weights.group(layer, input)?, reference: Vec::new(), biases })
    }

    fn pass_layer(&self, stream: &mut Stream<'_>, layer: usize, probed: Option<LinearInput>) -> anyhow::Result<()> {
        LinearInput::ALL.into_iter().try_for_each(|input| {
            let mut fed = self.fed(layer, input)?;
            if probed == Some(input) {
                let rounded = fed.quantized.iter().map(|w| self.rounded(w, PROBE)).collect::<Option<_>>();
                fed.reference = std::mem::replace(&mut fed.quantized, rounded.expect("the probe is quantized"));
            }
            self.pass(stream, layer, input, &fed)
        })
    }

    /// Through the stage of the linears that read `input`.
    fn pass(&self, stream: &mut Stream<'_>, layer: usize, input: LinearInput, fed: &Fed) -> anyhow::Result<()> {
        let norm = |name: &str| self.weights.vector(name);
        let linears: Vec<Linear<'_>> = fed.linears();
        let done = match (input, linears.as_slice()) {
            (LinearInput::QueryKeyValue, &[q, k, v]) => stream.advance_attend(&Qkv { q, k, v }),
            (LinearInput::AttentionOutput, [o]) => {
                let norm = norm(&format!("model.layers.{layer}.post_attention_layernorm.weight"))?;
                stream.advance_add_attention(o, &Vector::same(&norm))
            }
            (LinearInput::GateUp, [gate, up]) => stream.advance_activate(gate, up),
            (LinearInput::Down, [down]) => {
                let is_last = layer + 1 == self.weights.config.num_hidden_layers;
                let next = format!("model.layers.{}.input_layernorm.weight", layer + 1);
                let norm = norm(if is_last { "model.norm.weight" } else { &next })?;
                stream.advance_add_mlp(down, &Vector::same(&norm))
            }
            (_, other) => unreachable!("{input:?} is not read by {} linears", other.len()),
        };
        done.map_err(stopping)
    }
}

/// KL of the quantized model from the reference, in nats a token.
fn divergence(stream: &mut Stream<'_>, head: &Head<'_>) -> anyhow::Result<f64> {
    let (mut sum, mut positions) = (0.0, 0usize);
    let mut visit = |logits: Logits<'_>| {
        let reference = logits.reference.expect("a reference stream runs beside");
        let rows: Vec<_> = reference.rows().into_iter().zip(logits.quantized.rows()).collect();
        // Collected before they are added, so that the order of additions is always the same.
        let each: Vec<f64> = rows.par_iter().map(|(reference, quantized)| row_divergence(*reference, *quantized)).collect();
        sum += each.iter().sum::<f64>();
        positions += each.len();
    };
    stream.logits(head, &mut visit).map_err(stopping)?;
    Ok(sum / positions as f64)
}

/// `Σ p·(ln p − ln q)` of two rows of logits.
fn row_divergence(p: ArrayView1<'_, f32>, q: ArrayView1<'_, f32>) -> f64 {
    let log_sum = |row: ArrayView1<'_, f32>| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(max) + row.iter().map(|&x| f64::from((x - max).exp())).sum::<f64>().ln()
    };
    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
    p.iter().zip(q).fold(0.0, |sum, (&p, &q)| {
        let (log_p, log_q) = (f64::from(p) - p_sum, f64::from(q) - q_sum);
        sum + log_p.exp() * (log_p - log_q)
    })
}

/// What each width of each input's linears takes on disk.
struct StoredSizes {
    base: Recipe,
    /// By input over all layers: names of the weights that are free to choose, and their bits at each width, if it can be had.
    units: Vec<(Vec<String>, Vec<Option<u64>>)>,
    /// Decoder linears that overrides of the user's have decided.
    fixed_bits: u64,
    elements: u64,
    /// `model.onnx` and its data without the decoder's linears.
    other_bytes: u64,
}

impl StoredSizes {
    fn of(job: &Job<'_>, request: &Request) -> anyhow::Result<StoredSizes> {
        let base = job.plan.manifest.recipe.clone();
        let plain = |format: FormatName| Recipe {
            transform: None,
            ..without_budget(&base, WeightRecipe { format, ..base.weights }, base.overrides.clone())
        };
        let index = job.checkpoint.index();
        let planned = |recipe: Recipe| plan::with_facts(request, recipe, &Facts::default(), job.source, index);
        let by_width: Vec<Option<Plan>> = MENU.iter().map(|&format| planned(plain(format)).ok()).collect();
        let probe = by_width.iter().flatten().next().context("no width of the budget's menu suits the model's shapes")?;
        let linears: Vec<_> = probe.graph.weights.iter().filter(|weight| weight.is_decoder_linear()).collect();
        let elements = linears.iter().map(|weight| weight.elements() as u64).sum();
        let widths = |name: &str| by_width.iter().flatten().map(|plan| plan.recipes[name].format).collect::<Vec<_>>();
        let is_free = |name: &String| widths(name).windows(2).any(|pair| pair[0] != pair[1]);
        let bits = |plan: &Plan, name: &str| {
            let stored = plan.graph.weights.iter().find(|weight| weight.weight == name);
            stored.map_or(0, |weight| weight.stored_bits() as u64)
        };
        let unit = |unit: usize| {
            let names = LinearInput::ALL[unit % INPUTS].weights(unit / INPUTS).into_iter().filter(is_free).collect::<Vec<_>>();
            let total = |plan: &Option<Plan>| plan.as_ref().map(|plan| names.iter().map(|name| bits(plan, name)).sum());
            let bits = by_width.iter().map(total).collect();
            (names, bits)
        };
        let fixed = linears.iter().filter(|weight| !is_free(&weight.weight));
        let all_bits: u64 = job
            .plan
            .graph
            .weights
            .iter()
            .filter(|weight| weight.is_decoder_linear())
            .map(|weight| weight.stored_bits() as u64)
            .sum();
        Ok(StoredSizes {
            fixed_bits: fixed.map(|weight| weight.stored_bits() as u64).sum(),
            elements,
            other_bytes: job.plan.manifest.sizes.model_bytes.saturating_sub(all_bits / 8),
            units: (0..job.plan.config.num_hidden_layers * INPUTS).map(unit).collect(),
            base,
        })
    }

    fn allocate(&self, measured: &Measured, budget: BudgetRecipe) -> anyhow::Result<Allocation> {
        let choices = self.units.iter().zip(&measured.losses).zip(&measured.sensitivities);
        let decisions: Vec<Vec<Choice>> = choices
            .map(|(((_, bits), losses), sensitivity)| {
                let choice = |(bits, loss): (&Option<u64>, &f64)| match bits {
                    Some(bits) => Choice { bits: *bits, loss: loss * sensitivity },
                    // What cannot be had must never be chosen: it is dearer than anything and no better than the worst.
                    None => Choice { bits: u64::MAX >> 20, loss: losses[0] * sensitivity },
                };
                bits.iter().zip(losses).map(choice).collect()
            })
            .collect();
        let all = match budget {
            BudgetRecipe::Bpw(bits) => (bits * self.elements as f64) as u64,
            // Planes of odd widths and alignment take a little more than the codes.
            BudgetRecipe::Size(bytes) => {
                let slack = self.units.iter().map(|(names, _)| names.len() as u64).sum::<u64>() * 4096;
                8 * bytes.saturating_sub(self.other_bytes + slack)
            }
        };
        Ok(allocate(&decisions, all.saturating_sub(self.fixed_bits))?)
    }

    /// The choice as exact overrides before the user's own.
    fn recipe(&self, allocation: &Allocation) -> Recipe {
        let chosen = self.units.iter().zip(&allocation.picks).flat_map(|((names, _), &pick)| {
            let weight = WeightRecipe { format: MENU[pick], ..self.base.weights };
            names.iter().map(move |name| Override::exact(name.trim_end_matches(".weight"), weight))
        });
        let overrides = chosen.chain(self.base.overrides.iter().cloned()).collect();
        without_budget(&self.base, self.base.weights, overrides)
    }
}

/// `base` with other weights and no budget; without a calibration set where nothing else needs one.
fn without_budget(base: &Recipe, weights: WeightRecipe, overrides: Vec<Override>) -> Recipe {
    let mut recipe = Recipe { weights, budget: None, overrides, ..base.clone() };
    // Exceptions may be calibrated where the rest is not.
    let sections = recipe.overrides.iter().map(|over| over.apply(recipe.weights)).chain([recipe.weights]);
    if recipe.calibrated_part(&sections.collect::<Vec<_>>()).is_none() {
        recipe.calibration = None;
    }
    recipe
}

/// Widths by layer and input, with the sensitivities they follow from.
fn shown(allocation: &Allocation, measured: &Measured) -> String {
    let layers = allocation.picks.chunks(INPUTS).zip(measured.sensitivities.chunks(INPUTS)).enumerate();
    let rows = layers.map(|(layer, (picks, sensitivities))| {
        let most = sensitivities.iter().copied().fold(0.0, f64::max);
        let widths = picks.iter().map(|&pick| MENU[pick].name().to_owned());
        std::iter::once(layer.to_string()).chain(widths).chain([format!("{most:.1e}")]).collect()
    });
    let widths = table(&["layer", "q k v", "o", "gate up", "down", "sensitivity"], &[0, 5], rows);
    format!(
        "{widths}\n\npredicted KL {:.4} (round to nearest, calibration text), proven within {:.1e} of the best\n",
        allocation.loss, allocation.gap
    )
}

fn write(measured: &Measured, path: &std::path::Path) -> anyhow::Result<()> {
    let units = measured.losses.len();
    let mut file = TensorFile::default();
    let losses = measured.losses.iter().flatten().map(|&loss| loss as f32).collect();
    file.put("losses", &[units, MENU.len()], Numbers::F32(losses));
    let sensitivities = measured.sensitivities.iter().map(|&sensitivity| sensitivity as f32).collect();
    file.put("sensitivities", &[units], Numbers::F32(sensitivities));
    Ok(file.write(path)?)
}

fn read(path: &std::path::Path, units: usize) -> anyhow::Result<Measured> {
    let damaged = || format!("{}: this is no measurement of {units} inputs; remove the file, it is made again", path.display());
    let mut file = TensorFile::read(path)?;
    let mut take = |name: &str, count: usize| {
        let values = file.take_f32(name).map(|(_, values)| values).filter(|values| values.len() == count);
        values.map(|values| values.into_iter().map(f64::from).collect::<Vec<_>>()).with_context(damaged)
    };
    let losses = take("losses", units * MENU.len())?.as_chunks().0.to_vec();
    Ok(Measured { losses, sensitivities: take("sensitivities", units)? })
}
