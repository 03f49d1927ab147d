//! Weights whose codes are more than the nearest ones of the checkpoint's: rotated, scaled, rounded by what the model computes.
//!
//! ```text
//! for each layer: for each input of its linears:
//!     statistics of the input, everything before it already rounded ─▶ AWQ's scales ─▶ rounding ─▶ the next stage
//! ```
//!
//! A finished layer goes to a work folder beside the output; the same command after a crash or Ctrl-C goes on behind it. The
//! model runs only as far as statistics are missing, so layers and statistics that are there cost their reading.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array1;

use crate::artifact::dataset;
use crate::artifact::plan::{Facts, Plan};
use crate::artifact::prepared::Prepared;
use crate::artifact::source::{self, Source};
use crate::calib::{self, CalibrationSet, StreamOptions, TooFewTokens, Vocabulary};
use crate::checkpoint::Checkpoint;
use crate::compress::CompressError;
use crate::compress::Options;
use crate::host::progress::{self, Observe, Step};
use crate::model::{LinearInput, ModelRotation, Smooth, Survey};
use crate::quant::InputStats;
use crate::recipe::{AwqRecipe, WeightRecipe};
use crate::record::FileRecord;
use crate::usage::UsageError;

mod activations;
mod group;
mod judge;
mod keys;
mod layer;
mod rotated;
mod statistics_cache;
mod stream;
mod weights;
mod work;

pub use keys::Keys;
pub use rotated::RotatedWeights;
pub use statistics_cache::StatisticsCache;
pub use stream::interrupted;
pub use weights::CheckpointWeights;

use activations::{Activations, StageOperand};
use group::Group;
use judge::judge_divided;
use keys::needs_reference;
use layer::LayerResult;
use work::WorkFolder;

/// What a calibrated export starts from.
pub struct Job<'a> {
    pub plan: &'a Plan,
    pub checkpoint: &'a Checkpoint,
    pub source: &'a Source,
    pub options: &'a Options,
    pub kept: Option<&'a StatisticsCache>,
    /// The artifact's folder, beside which finished layers wait.
    pub output: &'a Path,
    /// The checkpoint's files with their hashes.
    pub inputs: &'a [FileRecord],
    pub observe: Observe<'a>,
}

/// Finished layers, and what they add to the plan.
pub struct Calibrated {
    work: WorkFolder,
    recipes: BTreeMap<String, WeightRecipe>,
    survey: Survey,
    layers: usize,
    pub facts: Facts,
}

/// Whether the recipe asks for more than rounding the checkpoint's own weights to nearest.
pub fn is_needed(plan: &Plan) -> bool {
    let recipe = &plan.manifest.recipe;
    let resolved: Vec<WeightRecipe> = plan.recipes.values().copied().collect();
    recipe.rotation().is_some() || recipe.calibrated_part(&resolved).is_some()
}

/// The calibration set of the recipe, if it names one; refused where it shares a passage with an evaluation file.
pub fn set(plan: &Plan, source: &Source, options: &Options) -> Result<Option<CalibrationSet>, CompressError> {
    let Some(calibration) = &plan.manifest.recipe.calibration else {
        return match (&options.save_stats, options.evaluation.is_empty()) {
            (Some(_), _) => Err(UsageError::StatisticsFlag { flag: "--save-stats" }.into()),
            (None, false) => Err(UsageError::StatisticsFlag { flag: "--evaluation" }.into()),
            (None, true) => Ok(None),
        };
    };
    let vocabulary = Vocabulary::open(&source.dir, plan.architecture.vocab_size)?;
    let set = calib::load(&calibration.set, &vocabulary, source::hub)?;
    // Before any work: what every stage would refuse after it.
    calib::refuse_too_few(&plan.survey, set.tokens())
        .map_err(CompressError::at(|| format!("calibration set {}", calibration.set)))?;
    for file in &options.evaluation {
        let shown = file.display().to_string();
        let dataset = dataset::load(&shown)?;
        set.refuse_leak(&dataset, &shown)?;
    }
    Ok(Some(set))
}

impl Job<'_> {
    /// Rounds every layer that the work folder does not have yet.
    pub fn run(&self, set: Option<&CalibrationSet>) -> Result<Calibrated, CompressError> {
        let Plan { architecture, survey, .. } = self.plan;
        let (plan, all) = (self.plan, architecture.num_hidden_layers);
        let rotation = ModelRotation::of(architecture, &plan.manifest.recipe)?;
        let weights = CheckpointWeights { checkpoint: self.checkpoint, architecture, survey, rotation };
        let work = WorkFolder::open(self.output, &self.keys(set).layers())?;
        let bar = progress::count(survey.inputs.len() as u64, "calibrate");
        let mut chain = blake3::Hasher::new();
        chain.update(self.keys(set).statistics().as_bytes());
        let sequences = set.map_or(&[][..], |set| &set.sequences);
        let activations =
            Activations::new(&weights, sequences, self.stream_options(work.path()), self.kept.cloned(), chain, bar.clone());
        let activations = activations.cancelled_by(self.options.cancel.clone());
        let mut layers = Layers { job: self, weights: &weights, work: &work, activations, previous: LayerResult::default() };
        let mut facts = Facts::default();
        for layer in 0..all {
            let result = layers.finish(layer, &bar).map_err(|error| {
                work.leave();
                match error.is_interrupted() {
                    true => stopped(&work, all).unwrap_or(error),
                    false => error,
                }
            })?;
            facts.add(&result);
            layers.previous = result;
        }
        drop(layers);
        bar.finish_and_clear();
        Ok(Calibrated { work, recipes: plan.recipes.clone(), survey: survey.clone(), layers: all, facts })
    }

    fn keys<'s>(&'s self, set: Option<&'s CalibrationSet>) -> Keys<'s> {
        Keys { plan: self.plan, inputs: self.inputs, options: self.options, set }
    }

    fn stream_options(&self, scratch: &std::path::Path) -> StreamOptions {
        StreamOptions {
            provider: self.options.provider,
            threads: self.options.threads,
            reference: needs_reference(self.plan),
            batch_tokens: None,
            scratch: scratch.to_owned(),
            too_few_tokens: TooFewTokens::Refuse,
            artifact: self.plan.activation,
        }
    }
}

/// What an interruption leaves, if it leaves anything: without a finished layer not even the folder.
fn stopped(work: &WorkFolder, all: usize) -> Option<CompressError> {
    let done = (0..all).take_while(|&layer| work.has(layer)).count();
    (done > 0).then(|| CompressError::Stopped { done, all, folder: work.path().to_owned() })
}

/// Layers one after the other.
struct Layers<'a> {
    job: &'a Job<'a>,
    weights: &'a CheckpointWeights<'a>,
    work: &'a WorkFolder,
    activations: Activations<'a>,
    /// The layer before: its down comes before this layer's first input.
    previous: LayerResult,
}

impl Layers<'_> {
    /// Rounds a layer, or reads it where it is finished.
    fn finish(&mut self, layer: usize, bar: &indicatif::ProgressBar) -> Result<LayerResult, CompressError> {
        if let Some(result) = self.work.sound(layer, &self.job.plan.recipes)? {
            for input in self.weights.survey.layer(layer) {
                self.activations.follow(|chain| result.hash_input(input, chain));
                self.passed(bar);
            }
            return Ok(result);
        }
        let mut result = self.rotated_vectors(layer)?;
        let mut read: Vec<(&LinearInput, InputStats)> = Vec::new();
        let CheckpointWeights { architecture, survey, .. } = self.weights;
        for input in survey.layer(layer) {
            self.job.options.cancel.check()?;
            bar.set_message(format!("layer {}/{}: {}", layer + 1, architecture.num_hidden_layers, input.short()));
            let recipes: Vec<WeightRecipe> = input.weights().map(|name| self.job.plan.recipes[&name]).collect();
            let awq = self.awq();
            let stats = match Group::needs_statistics(&recipes, awq) {
                false => None,
                true => {
                    let fed = Before { layers: self.work, layer, result: &result, previous: &self.previous, job: self.job };
                    let weights = self.weights;
                    let n = survey.index_of(input);
                    Some(self.activations.statistics(n, &|name| fed.operand(weights, name))?)
                }
            };
            let group = Group { input, recipes, awq, weights: self.weights, stats };
            group.round_into(&mut result)?;
            self.judge_divided(input, &read, &mut result)?;
            read.extend(group.stats.filter(|_| awq.is_some() && self.is_judged_again(input)).map(|stats| (input, stats)));
            self.activations.follow(|chain| result.hash_input(input, chain));
            self.passed(bar);
        }
        self.work.put(layer, &result)?;
        Ok(result)
    }

    /// An input is done with.
    fn passed(&self, bar: &indicatif::ProgressBar) {
        bar.inc(1);
        (self.job.observe)(Step { what: "calibrate", done: bar.position(), all: bar.length().unwrap_or_default() });
    }

    /// Whether a linear of this input may take the scales of a later one.
    fn is_judged_again(&self, input: &LinearInput) -> bool {
        let mut scalings = self.weights.survey.scalings(input.layer);
        scalings.any(|(scaling, _)| matches!(scaling.smooth, Smooth::Linear(linear) if input.has(linear)))
    }

    /// Judges the linear again that takes the scales of `input`, if there is one: v those of o, up those of down.
    fn judge_divided(
        &self,
        input: &LinearInput,
        read: &[(&LinearInput, InputStats)],
        result: &mut LayerResult,
    ) -> Result<(), CompressError> {
        let Some(scaling) = self.weights.survey.scaling(input) else { return Ok(()) };
        let Smooth::Linear(linear) = scaling.smooth else { return Ok(()) };
        match read.iter().find(|(own, _)| own.has(linear)) {
            Some((own, stats)) => judge_divided(result, (scaling, input), |name| self.weights.matrix(name), (own, stats)),
            None => Ok(()),
        }
    }

    fn awq(&self) -> Option<AwqRecipe> {
        self.job.plan.manifest.recipe.transform.and_then(|transform| transform.awq)
    }

    /// Norms and biases of a layer that is rotated.
    fn rotated_vectors(&self, layer: usize) -> Result<LayerResult, CompressError> {
        let mut result = LayerResult::default();
        if let Some(rotation) = &self.weights.rotation {
            let prefix = format!("model.layers.{layer}.");
            let vectors = self.weights.survey.tensors.iter().filter(|tensor| tensor.shape.len() == 1);
            for tensor in vectors.filter(|tensor| tensor.name.starts_with(&prefix) && rotation.touches(&tensor.name)) {
                let values = self.weights.vector(&tensor.name)?;
                result.weights.insert(tensor.name.clone(), Prepared::Dense(tensor.shape.clone(), values));
            }
        }
        Ok(result)
    }
}

/// The weights of stages whose linears are already rounded.
struct Before<'a> {
    layers: &'a WorkFolder,
    layer: usize,
    result: &'a LayerResult,
    previous: &'a LayerResult,
    job: &'a Job<'a>,
}

impl Before<'_> {
    /// The weight of this name: of a linear what it became, anything else as the checkpoint has it.
    fn operand(&self, weights: &CheckpointWeights<'_>, name: &str) -> Result<StageOperand, CompressError> {
        let Some(input) = weights.survey.input_of(name) else {
            return Ok(StageOperand { quantized: Array1::from(weights.vector(name)?).into_dyn(), reference: None });
        };
        let quantized = match self.layer - input.layer {
            0 => self.result.effective(weights, input, name)?,
            1 => self.previous.effective(weights, input, name)?,
            _ => self.layers.get(input.layer, &self.job.plan.recipes)?.effective(weights, input, name)?,
        };
        let reference = if needs_reference(self.job.plan) { Some(weights.matrix(name)?.into_dyn()) } else { None };
        Ok(StageOperand { quantized: quantized.into_dyn(), reference })
    }
}

impl Calibrated {
    /// A layer's weights as the artifact holds them; those that are not among them are the checkpoint's.
    pub fn layer(&self, layer: usize) -> Result<BTreeMap<String, Prepared>, CompressError> {
        self.work.get(layer, &self.recipes)?.finished(&self.survey, layer)
    }

    /// What is kept where the artifact's writing is interrupted.
    pub fn stopped(&self) -> Option<CompressError> {
        stopped(&self.work, self.layers)
    }

    /// Takes the work folder away once the artifact is in place.
    pub fn remove(self) {
        self.work.remove();
    }
}

impl Facts {
    fn add(&mut self, result: &LayerResult) {
        let names = |is: fn(&Prepared) -> bool| result.weights.iter().filter(move |(_, prepared)| is(prepared));
        self.dense.extend(names(|prepared| matches!(prepared, Prepared::Dense(..))).map(|(name, _)| name.clone()));
        for (name, prepared) in &result.weights {
            if let Prepared::Quantized(tensor, _) = prepared
                && let Some(outliers) = &tensor.outliers
            {
                self.outliers.insert(name.clone(), outliers.in_features.len());
            }
        }
    }
}
