//! Statistics of a layer's inputs: from the files of an earlier export, or from the model, run only as far as it must be.

use indicatif::ProgressBar;
use ndarray::ArrayD;

use super::statistics_cache::StatisticsCache;
use super::stream::interrupted;
use super::weights::CheckpointWeights;
use crate::calib::{ActivationStream, Both, Progress, StreamOptions, Weight};
use crate::compress::CompressError;
use crate::host::interrupt::CancelToken;
use crate::quant::InputStats;

/// A weight as a stage multiplies by it.
pub struct StageOperand {
    pub quantized: ArrayD<f32>,
    /// Of the unquantized model, where that is another one and runs beside.
    pub reference: Option<ArrayD<f32>>,
}

/// The model's activations on the calibration set, one input after the other.
pub struct Activations<'a> {
    weights: &'a CheckpointWeights<'a>,
    sequences: &'a [Vec<u32>],
    options: StreamOptions,
    bar: ProgressBar,
    stream: Option<ActivationStream<'a>>,
    kept: Option<StatisticsCache>,
    /// Of everything that determines the next input's statistics.
    chain: blake3::Hasher,
    cancel: CancelToken,
}

impl<'a> Activations<'a> {
    /// `chain` has taken in what determines the activations of the model before any weight is rounded.
    pub fn new(
        weights: &'a CheckpointWeights<'a>,
        sequences: &'a [Vec<u32>],
        options: StreamOptions,
        kept: Option<StatisticsCache>,
        chain: blake3::Hasher,
        bar: ProgressBar,
    ) -> Activations<'a> {
        Activations { weights, sequences, options, bar, stream: None, kept, chain, cancel: CancelToken::NEVER }
    }

    /// Stops where `cancel` says so.
    pub fn cancelled_by(self, cancel: CancelToken) -> Activations<'a> {
        Activations { cancel, ..self }
    }

    /// Tells what the linears of the input before the next one became.
    pub fn follow(&mut self, rounded: impl FnOnce(&mut blake3::Hasher)) {
        rounded(&mut self.chain);
    }

    /// Statistics of input `n`, counted over all layers. `fed` gives a weight of a stage before it.
    pub fn statistics(
        &mut self,
        n: usize,
        fed: &dyn Fn(&str) -> Result<StageOperand, CompressError>,
    ) -> Result<InputStats, CompressError> {
        let key = self.chain.clone().update(&(n as u64).to_le_bytes()).finalize();
        if let Some(stats) = self.kept.as_ref().map_or(Ok(None), |kept| kept.read(&key))? {
            return Ok(stats);
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.start()?,
        };
        while stream.passed() <= n {
            self.cancel.check()?;
            let operands = stream.wanted().iter().map(|wanted| fed(&wanted.name)).collect::<Result<Vec<_>, CompressError>>()?;
            stream.advance(&operands.iter().map(StageOperand::weight).collect::<Vec<_>>()).map_err(interrupted)?;
        }
        let stats = stream.statistics().map_err(interrupted)?;
        if let Some(kept) = &self.kept {
            kept.write(&key, &stats)?;
        }
        self.stream = Some(stream);
        Ok(stats)
    }

    fn start(&self) -> Result<ActivationStream<'a>, CompressError> {
        let bar = self.bar.clone();
        let layers = self.weights.architecture.num_hidden_layers;
        let observe = move |progress: Progress| {
            let (layer, step) = ((progress.layer + 1).min(layers), progress.step);
            bar.set_message(format!("layer {layer}/{layers}: {step} {}/{}", progress.done, progress.all));
        };
        let started = self.weights.stream(&self.options, self.sequences, &self.cancel, observe);
        self.weights.checkpoint.release("model.embed_tokens.weight")?;
        started
    }
}

impl StageOperand {
    fn weight(&self) -> Weight<'_> {
        Both { quantized: self.quantized.view(), reference: self.reference.as_ref().map(|w| w.view()) }
    }
}
