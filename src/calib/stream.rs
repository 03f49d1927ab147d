//! Activations of a whole calibration set, pushed through the decoder stage by stage, each stage once.
//!
//! ```text
//! start ─▶ enter ─▶ ┌ attend ─▶ add_attention ─▶ activate ─▶ add_mlp ┐ ─▶ logits
//!                   └──────────────── for each layer ◂───────────────┘
//! ```
//!
//! A stage takes weights that are already rounded and returns the statistics of what the next linears read; these are then
//! rounded and given to the next stage ("true sequential" quantization, at the price of one pass). [`Stream::replay`] passes a
//! layer that was finished before, without statistics.
//!
//! Element types are the artifact's own: f32 on the CPU; on CUDA f16, the residual stream too, so that statistics are those of
//! the numbers that the artifact will compute. Where a model's activations exceed f16, both say so.

use std::ops::ControlFlow;
use std::path::PathBuf;

use half::f16;

use super::CalibError;
use super::activations::{Batch, Store};
use super::statistics::{Statistics, Sums};
use super::steps::{Kind, Kinds, Places, Tap};
use super::weights::{Gathered, LayerWeights, Linear, Qkv, Vector};
use crate::model::{DecoderConfig, stages};
use crate::quant::InputStats;
use crate::runtime::{ExecutionProvider, Stages, Target};
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
    /// `attend`, `statistics`, …
    pub step: &'static str,
    /// Batches done, of `all`; a reference stream's count too.
    pub done: usize,
    pub all: usize,
}

/// Called after each batch; `Break` ends the stage with [`CalibError::Interrupted`].
pub type Observe<'a> = Box<dyn FnMut(Progress) -> ControlFlow<()> + 'a>;

/// Activations of all sequences between two stages.
pub struct Stream<'a> {
    pub(super) cfg: DecoderConfig,
    pub(super) provider: ExecutionProvider,
    pub(super) activation: DType,
    pub(super) artifact: DType,
    pub(super) batches: Vec<Batch>,
    /// The quantized model's, and the unquantized one's where it runs beside.
    pub(super) lanes: Vec<Lane>,
    pub(super) statistics: Statistics,
    pub(super) kinds: Kinds,
    pub(super) layer: usize,
    pub(super) tap: Tap,
    pub(super) observe: Observe<'a>,
    /// Last: what the others hold was allocated by its library.
    pub(super) stages: Stages,
}

/// A place that a stream was at.
pub struct Mark {
    lanes: Vec<Lane>,
    layer: usize,
    tap: Tap,
}

/// What one of the two models is at.
pub(super) struct Lane {
    pub residual: Store,
    /// What the next linears read.
    pub input: Store,
}

impl<'a> Stream<'a> {
    /// Through the first layer's `input_layernorm`; statistics of what its q, k and v read.
    pub fn enter(&mut self, input_layernorm: &Vector<'_>) -> Result<InputStats, CalibError> {
        self.advance_enter(input_layernorm)?;
        self.statistics()
    }

    /// Through the layer's heads; statistics of what its o reads.
    pub fn attend(&mut self, qkv: &Qkv<'_>) -> Result<InputStats, CalibError> {
        self.advance_attend(qkv)?;
        self.statistics()
    }

    /// Through o, the addition and the next norm; statistics of what gate and up read.
    pub fn add_attention(&mut self, o: &Linear<'_>, post_attention_layernorm: &Vector<'_>) -> Result<InputStats, CalibError> {
        self.advance_add_attention(o, post_attention_layernorm)?;
        self.statistics()
    }

    /// Through gate, up and their product; statistics of what down reads.
    pub fn activate(&mut self, gate: &Linear<'_>, up: &Linear<'_>) -> Result<InputStats, CalibError> {
        self.advance_activate(gate, up)?;
        self.statistics()
    }

    /// Through down, the addition and the next layer's `input_layernorm`, behind the last layer the final norm; statistics of
    /// what q, k and v, or the LM head, read.
    pub fn add_mlp(&mut self, down: &Linear<'_>, next_norm: &Vector<'_>) -> Result<InputStats, CalibError> {
        self.advance_add_mlp(down, next_norm)?;
        self.statistics()
    }

    /// Through the first norm without statistics.
    pub fn replay_enter(&mut self, input_layernorm: &Vector<'_>) -> Result<(), CalibError> {
        self.advance_enter(input_layernorm)
    }

    /// Through a whole layer without statistics; [`Self::statistics`] gives those behind it.
    pub fn replay(&mut self, layer: &LayerWeights<'_>) -> Result<(), CalibError> {
        self.advance_attend(&layer.qkv)?;
        self.advance_add_attention(&layer.o, &layer.post_attention_layernorm)?;
        self.advance_activate(&layer.gate, &layer.up)?;
        self.advance_add_mlp(&layer.down, &layer.next_norm)
    }

    /// Statistics of what the next linears read, as the last stage returned them.
    ///
    /// # Errors
    /// An activation is NaN or infinite.
    pub fn statistics(&mut self) -> Result<InputStats, CalibError> {
        if self.tap == Tap::Start {
            return Err(CalibError::Order { called: "statistics", expected: self.tap.next() });
        }
        let (layer, tap, all) = (self.layer, self.tap, self.batches.len());
        let sums = Sums::new(self.width(), self.provider, self.activation, self.lanes.len() > 1);
        let stores: Vec<&Store> = self.lanes.iter().map(|lane| &lane.input).collect();
        let observe = &mut self.observe;
        let mut observe = |done| report(observe, Progress { layer, step: "statistics", done, all });
        let collected = self.statistics.collect(&self.stages, sums, &self.batches, &stores, &mut observe)?;
        let beyond_f16 = self.activation == DType::F16;
        collected.map_err(|channel| CalibError::NotFinite { layer, input: tap.input(), channel, beyond_f16 })
    }

    /// Remembers where the stream is, to come back with [`Self::rewind`].
    pub fn mark(&self) -> Result<Mark, CalibError> {
        let copied = |lane: &Lane| Ok(Lane { residual: lane.residual.copied()?, input: lane.input.copied()? });
        let lanes = self.lanes.iter().map(copied).collect::<Result<_, CalibError>>()?;
        Ok(Mark { lanes, layer: self.layer, tap: self.tap })
    }

    /// Back to `mark`, which this stream has made, as if the stages since had not been run.
    pub fn rewind(&mut self, mark: &Mark) -> Result<(), CalibError> {
        for (lane, marked) in self.lanes.iter_mut().zip(&mark.lanes) {
            lane.residual.overwrite(&marked.residual)?;
            lane.input.overwrite(&marked.input)?;
        }
        (self.layer, self.tap) = (mark.layer, mark.tap);
        Ok(())
    }

    /// Layer that the next stage belongs to; the number of layers once all are passed.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(Batch::tokens).sum()
    }

    /// Channels of the activations that are there.
    fn width(&self) -> usize {
        match self.tap {
            Tap::Output => self.cfg.q_width(),
            Tap::Down => self.cfg.intermediate_size,
            Tap::Start | Tap::Attention | Tap::Mlp | Tap::Head => self.cfg.hidden_size,
        }
    }

    pub(super) fn expect(&self, called: &'static str) -> Result<(), CalibError> {
        let expected = self.tap.next();
        if called == expected { Ok(()) } else { Err(CalibError::Order { called, expected }) }
    }

    /// As [`Self::enter`], without statistics; [`Self::statistics`] gives them later.
    pub fn advance_enter(&mut self, norm: &Vector<'_>) -> Result<(), CalibError> {
        let hidden = self.cfg.hidden_size;
        self.advance(Kind::Enter, Tap::Attention, |given| given.vector("input_layernorm.weight", norm, hidden))
    }

    /// As [`Self::attend`], without statistics.
    pub fn advance_attend(&mut self, qkv: &Qkv<'_>) -> Result<(), CalibError> {
        let (q, kv, hidden, bias) = (self.cfg.q_width(), self.cfg.kv_width(), self.cfg.hidden_size, self.cfg.attention_bias);
        self.advance(Kind::Attend, Tap::Output, |given| {
            let given = given.linear(["q_proj.weight", "q_proj.bias"], &qkv.q, [q, hidden], bias)?;
            let given = given.linear(["k_proj.weight", "k_proj.bias"], &qkv.k, [kv, hidden], bias)?;
            given.linear(["v_proj.weight", "v_proj.bias"], &qkv.v, [kv, hidden], bias)
        })
    }

    /// As [`Self::add_attention`], without statistics.
    pub fn advance_add_attention(&mut self, o: &Linear<'_>, norm: &Vector<'_>) -> Result<(), CalibError> {
        let (q, hidden, bias) = (self.cfg.q_width(), self.cfg.hidden_size, self.cfg.attention_bias);
        self.advance(Kind::AddAttention, Tap::Mlp, |given| {
            let given = given.linear(["o_proj.weight", "o_proj.bias"], o, [hidden, q], bias)?;
            given.vector("post_attention_layernorm.weight", norm, hidden)
        })
    }

    /// As [`Self::activate`], without statistics.
    pub fn advance_activate(&mut self, gate: &Linear<'_>, up: &Linear<'_>) -> Result<(), CalibError> {
        let (inner, hidden, bias) = (self.cfg.intermediate_size, self.cfg.hidden_size, self.cfg.mlp_bias);
        self.advance(Kind::Activate, Tap::Down, |given| {
            let given = given.linear(["gate_proj.weight", "gate_proj.bias"], gate, [inner, hidden], bias)?;
            given.linear(["up_proj.weight", "up_proj.bias"], up, [inner, hidden], bias)
        })
    }

    /// As [`Self::add_mlp`], without statistics.
    pub fn advance_add_mlp(&mut self, down: &Linear<'_>, norm: &Vector<'_>) -> Result<(), CalibError> {
        let (inner, hidden, bias) = (self.cfg.intermediate_size, self.cfg.hidden_size, self.cfg.mlp_bias);
        let next = if self.layer + 1 < self.cfg.num_hidden_layers { Tap::Attention } else { Tap::Head };
        self.advance(Kind::AddMlp, next, |given| {
            let given = given.linear(["down_proj.weight", "down_proj.bias"], down, [hidden, inner], bias)?;
            given.vector("input_layernorm.weight", norm, hidden)
        })?;
        self.layer += 1;
        Ok(())
    }

    /// Runs a stage over all batches of both models; `gather` puts together a model's weights.
    fn advance<'w>(
        &mut self,
        kind: Kind,
        next: Tap,
        gather: impl Fn(Gathered<'w>) -> Result<Gathered<'w>, CalibError>,
    ) -> Result<(), CalibError> {
        self.expect(kind.name())?;
        let gathered = (0..self.lanes.len()).map(|lane| gather(Gathered::new(lane))).collect::<Result<Vec<_>, _>>()?;
        let (width, layer, all) = (self.width(), self.layer, self.batches.len() * self.lanes.len());
        let stage = self.kinds.stage(kind);
        let mut done = 0;
        for (lane, gathered) in self.lanes.iter_mut().zip(&gathered) {
            let mut bound = stage.bind(&gathered.operands()).map_err(CalibError::Runtime)?;
            for (index, batch) in self.batches.iter().enumerate() {
                let (shape, residual_shape) = (batch.shape(width), batch.shape(self.cfg.hidden_size));
                let places = Places::of(batch);
                let mut operands = Vec::with_capacity(4);
                if kind == Kind::Enter || kind.adds() {
                    operands.push((stages::RESIDUAL, lane.residual.get(index, batch, &residual_shape)));
                }
                if kind != Kind::Enter {
                    operands.push((stages::INPUT, lane.input.get(index, batch, &shape)));
                }
                if kind == Kind::Attend {
                    operands.extend(places.operands());
                }
                let mut outputs = bound.run(&operands, Target::Device).map_err(CalibError::ran(batch.tokens()))?.into_iter();
                let mut output = || outputs.next().expect("a stage has the outputs that its graph lists");
                if kind.adds() {
                    let largest = lane.residual.put(index, batch, output())?;
                    fits(self.artifact, layer, largest, || "the residual stream".to_owned())?;
                }
                let largest = lane.input.put(index, batch, output())?;
                fits(self.artifact, layer, largest, || format!("the input of {}", next.input()))?;
                done += 1;
                report(&mut self.observe, Progress { layer, step: kind.name(), done, all })?;
            }
        }
        self.tap = next;
        Ok(())
    }
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
