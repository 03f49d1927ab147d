//! Statistics of a layer's inputs: from the files of an earlier export, or from the model, run only as far as it must be.

use indicatif::ProgressBar;
use ndarray::Array2;

use super::statistics_cache::StatisticsCache;
use super::stream::interrupted;
use super::weights::Weights;
use crate::calib::{Both, Linear, Matrix, Progress, Qkv, Stream, StreamOptions, Vector};
use crate::host::interrupt;
use crate::model::LinearInput;
use crate::quant::InputStats;

/// Inputs of a decoder layer.
const INPUTS: usize = LinearInput::ALL.len();

/// The linears of one input as a stage multiplies by them.
pub struct StageOperands {
    pub quantized: Vec<Array2<f32>>,
    /// Of the unquantized model, where it runs beside; empty otherwise.
    pub reference: Vec<Array2<f32>>,
    pub biases: Vec<Option<Vec<f32>>>,
}

/// The model's activations on the calibration set, one input after the other.
pub struct Activations<'a> {
    weights: &'a Weights<'a>,
    sequences: &'a [Vec<u32>],
    options: StreamOptions,
    bar: ProgressBar,
    stream: Option<Stream<'a>>,
    /// Inputs that the stream has come to.
    reached: usize,
    kept: Option<StatisticsCache>,
    /// Of everything that determines the next input's statistics.
    chain: blake3::Hasher,
}

impl<'a> Activations<'a> {
    /// `chain` has taken in what determines the activations of the model before any weight is rounded.
    pub fn new(
        weights: &'a Weights<'a>,
        sequences: &'a [Vec<u32>],
        options: StreamOptions,
        kept: Option<StatisticsCache>,
        chain: blake3::Hasher,
        bar: ProgressBar,
    ) -> Activations<'a> {
        Activations { weights, sequences, options, bar, stream: None, reached: 0, kept, chain }
    }

    /// Tells what the linears of the input before the next one became.
    pub fn follow(&mut self, rounded: impl FnOnce(&mut blake3::Hasher)) {
        rounded(&mut self.chain);
    }

    /// Statistics of input `n`, counted over all layers. `fed` gives the rounded linears of an input before it.
    pub fn statistics(&mut self, n: usize, fed: &dyn Fn(usize) -> anyhow::Result<StageOperands>) -> anyhow::Result<InputStats> {
        let key = self.chain.clone().update(&(n as u64).to_le_bytes()).finalize();
        if let Some(stats) = self.kept.as_ref().map_or(Ok(None), |kept| kept.read(&key))? {
            return Ok(stats);
        }
        if self.stream.is_none() {
            self.stream = Some(self.start()?);
        }
        while self.reached <= n {
            interrupt::check()?;
            self.advance(fed)?;
        }
        let stream = self.stream.as_mut().expect("it was started above");
        let stats = stream.statistics().map_err(interrupted)?;
        if let Some(kept) = &self.kept {
            kept.write(&key, &stats)?;
        }
        Ok(stats)
    }

    fn start(&self) -> anyhow::Result<Stream<'a>> {
        let bar = self.bar.clone();
        let layers = self.weights.config.num_hidden_layers;
        let observe = move |progress: Progress| {
            let (layer, step) = ((progress.layer + 1).min(layers), progress.step);
            bar.set_message(format!("layer {layer}/{layers}: {step} {}/{}", progress.done, progress.all));
        };
        let started = self.weights.stream(&self.options, self.sequences, observe);
        self.weights.checkpoint.release("model.embed_tokens.weight")?;
        started
    }

    /// Through one stage: the linears of the input that was reached last.
    fn advance(&mut self, fed: &dyn Fn(usize) -> anyhow::Result<StageOperands>) -> anyhow::Result<()> {
        let (layer, input) = (self.reached / INPUTS, LinearInput::ALL[self.reached % INPUTS]);
        let norm = |name: &str| self.weights.vector(&format!("model.layers.{layer}.{name}.weight"));
        let stream = self.stream.as_mut().expect("statistics starts it");
        let before = if self.reached == 0 { None } else { Some(fed(self.reached - 1)?) };
        let linears = before.as_ref().map(StageOperands::linears).unwrap_or_default();
        let done = match (input, linears.as_slice()) {
            (LinearInput::QueryKeyValue, []) => stream.advance_enter(&Vector::same(&norm("input_layernorm")?)),
            (LinearInput::QueryKeyValue, [down]) => stream.advance_add_mlp(down, &Vector::same(&norm("input_layernorm")?)),
            (LinearInput::AttentionOutput, &[q, k, v]) => stream.advance_attend(&Qkv { q, k, v }),
            (LinearInput::GateUp, [o]) => stream.advance_add_attention(o, &Vector::same(&norm("post_attention_layernorm")?)),
            (LinearInput::Down, [gate, up]) => stream.advance_activate(gate, up),
            (_, other) => unreachable!("{input:?} does not come behind {} linears", other.len()),
        };
        done.map_err(interrupted)?;
        self.reached += 1;
        Ok(())
    }
}

impl StageOperands {
    fn linears(&self) -> Vec<Linear<'_>> {
        let linear = |index: usize| {
            let quantized = &self.quantized[index];
            let weight: Matrix<'_> = Both { quantized: quantized.view(), reference: self.reference.get(index).map(|w| w.view()) };
            Linear { weight, bias: self.biases[index].as_deref().map(Vector::same) }
        };
        (0..self.quantized.len()).map(linear).collect()
    }
}
