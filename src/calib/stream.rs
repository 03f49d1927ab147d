//! Activations of a whole calibration set, pushed through the model stage by stage, each stage once.
//!
//! ```text
//! start ─▶ advance ─▶ statistics ─▶ advance ─▶ statistics ─▶ … ─▶ logits
//! ```
//!
//! A stage ([`DecoderStages`]) takes weights that are already rounded and ends at what the next linears read; these are then
//! rounded by its statistics and given to the next stage ("true sequential" quantization, at the price of one pass). This knows
//! no family of models: what waits between two stages, and what a stage multiplies by, the stages say.
//!
//! Element types are the artifact's own: f32 on the CPU; on CUDA f16, the residual stream too, so that statistics are those of
//! the numbers that the artifact will compute. Where a model's activations exceed f16, both say so.

use std::ops::ControlFlow;
use std::path::PathBuf;

use half::f16;

use super::CalibError;
use super::activations::{SequenceBatch, Store};
use super::places::Places;
use super::slots::Slots;
use super::statistics::{Statistics, Sums};
use super::weights::{Gathered, Weight};
use crate::model::{DecoderConfig, DecoderStage, DecoderStages, ExpectedTensor, LinearInput, StageOperand, Waiting};
use crate::quant::InputStats;
use crate::runtime::{ExecutionProvider, Operand, StageSession, Stages, Target};
use crate::tensor::DType;

/// How activations are computed.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    pub provider: ExecutionProvider,
    /// Threads inside an operator; `None`: one for each physical core.
    pub threads: Option<usize>,
    /// Whether the unquantized model runs beside, with weights of its own: statistics then have [`InputStats::cross`].
    pub reference: bool,
    /// Most tokens that run at once; `None`: 4096 on the CPU, 16384 on CUDA. At least one sequence does.
    pub batch_tokens: Option<usize>,
    /// Folder for a nameless file of activations, used by the CPU: `4 · (hidden_size + widest input)` bytes a token, twice
    /// with a reference.
    pub scratch: PathBuf,
    pub too_few_tokens: TooFewTokens,
    /// Type of the activations that the artifact computes with, in which what is seen here must fit.
    pub artifact: DType,
}

/// What happens when there are fewer tokens than an input has features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooFewTokens {
    Refuse,
    /// Statistics leave directions unseen; who uses them must know.
    Allow,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub layer: usize,
    /// `forward`, `statistics` or `logits`.
    pub step: &'static str,
    /// Batches done, of `all`; a reference stream's count too.
    pub done: usize,
    pub all: usize,
}

/// Called after each batch; `Break` ends the stage with [`CalibError::Interrupted`].
pub type Observe<'a> = Box<dyn FnMut(Progress) -> ControlFlow<()> + 'a>;

/// Activations of all sequences between two stages.
pub struct ActivationStream<'a> {
    pub(super) walk: DecoderStages,
    /// Sizes of the model.
    pub(super) cfg: DecoderConfig,
    pub(super) provider: ExecutionProvider,
    pub(super) activation: DType,
    pub(super) artifact: DType,
    pub(super) batches: Vec<SequenceBatch>,
    /// The quantized model's, and the unquantized one's where it runs beside.
    pub(super) lanes: Vec<Lane>,
    pub(super) statistics: Statistics,
    /// By graph of `walk`.
    pub(super) sessions: Vec<StageSession>,
    /// Places in [`Lane::stores`].
    pub(super) slots: Slots,
    /// Stages that are passed.
    pub(super) passed: usize,
    pub(super) observe: Observe<'a>,
    /// Last: what the others hold was allocated by its library.
    pub(super) stages: Stages,
}

/// A place that a stream was at.
pub struct Mark {
    lanes: Vec<Lane>,
    passed: usize,
}

/// What one of the two models is at.
pub(super) struct Lane {
    pub stores: Vec<Store>,
}

impl ActivationStream<'_> {
    /// What the next stage multiplies and adds by, in the order in which [`Self::advance`] wants it; nothing at the LM head.
    pub fn wanted(&self) -> Vec<ExpectedTensor> {
        self.walk.stages.get(self.passed).into_iter().flat_map(DecoderStage::weights).cloned().collect()
    }

    /// Through a stage, to what the next linears read: input 0 of the survey after the first one. `weights` are
    /// [`Self::wanted`].
    ///
    /// # Errors
    /// A weight has another shape, an activation does not fit the artifact's type, or the runtime fails.
    ///
    /// # Panics
    /// There is another number of weights than is wanted.
    pub fn advance(&mut self, weights: &[Weight<'_>]) -> Result<(), CalibError> {
        let Some(stage) = self.walk.stages.get(self.passed) else {
            return Err(CalibError::Order { called: "advance", expected: "logits" });
        };
        let gathered = (0..self.lanes.len()).map(|lane| gather(lane, stage, weights)).collect::<Result<Vec<_>, _>>()?;
        let (layer, all) = (self.layer(), self.batches.len() * self.lanes.len());
        let mut done = 0;
        for (lane, gathered) in self.lanes.iter_mut().zip(&gathered) {
            let mut bound = self.sessions[stage.graph].bind(&gathered.operands()).map_err(CalibError::Runtime)?;
            for (index, batch) in self.batches.iter().enumerate() {
                let places = Places::of(batch);
                let shapes: Vec<[usize; 3]> = stage.waiting().map(|waiting| batch.shape(waiting.width)).collect();
                let stored = |waiting, shape| lane.stores[self.slots.slot(waiting)].get(index, batch, shape);
                let operands = operands(stage, &places, &shapes, stored);
                let outputs = bound.run(&operands, Target::Device).map_err(CalibError::ran(batch.tokens()))?;
                for (waiting, output) in stage.outputs.iter().zip(outputs) {
                    let largest = lane.stores[self.slots.slot(*waiting)].put(index, batch, output)?;
                    fits(self.artifact, layer, largest, || match *waiting == stage.end {
                        true => format!("the input of {}", reader(&self.walk, self.passed)),
                        false => "the residual stream".to_owned(),
                    })?;
                }
                done += 1;
                report(&mut self.observe, Progress { layer, step: "forward", done, all })?;
            }
        }
        self.passed += 1;
        Ok(())
    }

    /// Statistics of what the next linears read, as the last stage returned them.
    ///
    /// # Errors
    /// An activation is NaN or infinite.
    pub fn statistics(&mut self) -> Result<InputStats, CalibError> {
        let Some(end) = self.passed.checked_sub(1).map(|stage| self.walk.stages[stage].end) else {
            return Err(CalibError::Order { called: "statistics", expected: "advance" });
        };
        let (layer, all, slot) = (self.layer(), self.batches.len(), self.slots.slot(end));
        let sums = Sums::new(end.width, self.provider, self.activation, self.lanes.len() > 1);
        let stores: Vec<&Store> = self.lanes.iter().map(|lane| &lane.stores[slot]).collect();
        let observe = &mut self.observe;
        let mut observe = |done| report(observe, Progress { layer, step: "statistics", done, all });
        let collected = self.statistics.collect(&self.stages, sums, &self.batches, &stores, &mut observe)?;
        let beyond_f16 = self.activation == DType::F16;
        let input = || reader(&self.walk, self.passed - 1);
        collected.map_err(|channel| CalibError::NotFinite { layer, input: input(), channel, beyond_f16 })
    }

    /// Remembers where the stream is, to come back with [`Self::rewind`].
    pub fn mark(&self) -> Result<Mark, CalibError> {
        let copied = |lane: &Lane| Ok(Lane { stores: lane.stores.iter().map(Store::copied).collect::<Result<_, CalibError>>()? });
        let lanes = self.lanes.iter().map(copied).collect::<Result<_, CalibError>>()?;
        Ok(Mark { lanes, passed: self.passed })
    }

    /// Back to `mark`, which this stream has made, as if the stages since had not been run.
    pub fn rewind(&mut self, mark: &Mark) -> Result<(), CalibError> {
        let lanes = self.lanes.iter_mut().zip(&mark.lanes);
        for (store, marked) in lanes.flat_map(|(lane, marked)| lane.stores.iter_mut().zip(&marked.stores)) {
            store.overwrite(marked)?;
        }
        self.passed = mark.passed;
        Ok(())
    }

    /// Stages that are passed: the stream is at input `passed − 1` of the survey, or at what the LM head reads.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Layer that the next stage belongs to; the number of layers once all are passed.
    pub fn layer(&self) -> usize {
        let inputs = &self.walk.survey.inputs;
        match (self.passed.checked_sub(1), inputs.last()) {
            (None, _) => 0,
            (Some(input), last) => inputs.get(input).map_or_else(|| last.map_or(0, |last| last.layer + 1), |input| input.layer),
        }
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(SequenceBatch::tokens).sum()
    }

    /// What the LM head reads, once all layers are passed.
    pub(super) fn head_input(&self) -> Result<Waiting, CalibError> {
        match self.walk.stages.last() {
            Some(last) if self.passed == self.walk.stages.len() => Ok(last.end),
            _ => Err(CalibError::Order { called: "logits", expected: "advance" }),
        }
    }
}

/// The weights of one of the two models, under the names of the stage's graph.
fn gather<'w>(lane: usize, stage: &'w DecoderStage, weights: &'w [Weight<'_>]) -> Result<Gathered<'w>, CalibError> {
    assert_eq!(weights.len(), stage.weights().count(), "as many weights as are wanted");
    let wanted = stage.inputs.iter().filter_map(|input| match &input.what {
        StageOperand::Weight(expected) => Some((input.name.as_str(), expected)),
        StageOperand::Waiting(_) | StageOperand::Places(_) => None,
    });
    let mut pairs = wanted.zip(weights);
    pairs.try_fold(Gathered::new(lane), |gathered, ((name, expected), weight)| gathered.weight(name, expected, weight))
}

/// What a stage reads of a batch beside its weights, under the names of its graph; `shapes` are those of what waits for it.
fn operands<'o>(
    stage: &'o DecoderStage,
    places: &'o Places,
    shapes: &'o [[usize; 3]],
    stored: impl Fn(Waiting, &'o [usize; 3]) -> Operand<'o>,
) -> Vec<(&'o str, Operand<'o>)> {
    let mut shapes = shapes.iter();
    let mut operand = |what: &StageOperand| match *what {
        StageOperand::Weight(_) => None,
        StageOperand::Places(place) => Some(places.operand(place)),
        StageOperand::Waiting(waiting) => Some(stored(waiting, shapes.next().expect("a shape for each of them"))),
    };
    stage.inputs.iter().filter_map(|input| Some((input.name.as_str(), operand(&input.what)?))).collect()
}

/// Who reads what stage `passed` ends at.
fn reader(walk: &DecoderStages, passed: usize) -> String {
    walk.survey.inputs.get(passed).map_or_else(|| "lm_head".to_owned(), LinearInput::sentence)
}

/// Refuses activations that the artifact's type has no room for. What is infinite here already is refused with its channel
/// when statistics are taken.
fn fits(artifact: DType, layer: usize, largest: f32, what: impl Fn() -> String) -> Result<(), CalibError> {
    match artifact {
        DType::F16 if largest.is_finite() && largest > f16::MAX.to_f32() => {
            Err(CalibError::BeyondF16 { layer, what: what(), largest })
        }
        _ => Ok(()),
    }
}

/// Tells who watches, and stops where they say so.
pub(super) fn report(observe: &mut Observe<'_>, progress: Progress) -> Result<(), CalibError> {
    match observe(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(CalibError::Interrupted { layer: progress.layer }),
    }
}
