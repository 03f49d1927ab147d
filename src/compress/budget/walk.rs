//! The unquantized model on a few sequences, one linear input after the other, with other weights where they are wanted.

use ndarray::Array2;

use crate::calib::{Head, Linear, Logits, Mark, Matrix, Qkv, Stream, StreamOptions, Vector};
use crate::compress::calibrate::{Weights, interrupted};
use crate::model::LinearInput;
use crate::quant::InputStats;

/// Linear inputs of a decoder layer.
const INPUTS: usize = LinearInput::ALL.len();

/// A stream and the weights that it is fed with.
pub struct Walk<'a> {
    weights: &'a Weights<'a>,
    stream: Stream<'a>,
    /// Index of the input that the stream is at, counted over all layers; as many as there are at the LM head.
    at: usize,
}

/// A place in a walk.
pub struct Place {
    mark: Mark,
    at: usize,
}

impl<'a> Walk<'a> {
    /// At the input of the first layer's q, k and v.
    pub fn start(weights: &'a Weights<'a>, options: &StreamOptions, sequences: &[Vec<u32>]) -> anyhow::Result<Walk<'a>> {
        let mut walk = Walk { weights, stream: weights.stream(options, sequences, |_| {})?, at: 0 };
        let norm = weights.vector("model.layers.0.input_layernorm.weight")?;
        walk.stream.advance_enter(&Vector::same(&norm)).map_err(interrupted)?;
        Ok(walk)
    }

    /// The input that the walk is at, counted over all layers.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Statistics of the input that the walk is at.
    pub fn statistics(&mut self) -> anyhow::Result<InputStats> {
        self.stream.statistics().map_err(interrupted)
    }

    /// Through the linears of the input that the walk is at, to the next input.
    pub fn pass(&mut self, linears: &[Array2<f32>]) -> anyhow::Result<()> {
        let (layer, input) = (self.at / INPUTS, LinearInput::ALL[self.at % INPUTS]);
        let biases = self.weights.biases(layer, input)?;
        let linear = |index: usize| Linear {
            weight: Matrix::same(linears[index].view()),
            bias: biases[index].as_deref().map(Vector::same),
        };
        let norm = match input {
            LinearInput::AttentionOutput => Some(format!("model.layers.{layer}.post_attention_layernorm.weight")),
            LinearInput::Down if layer + 1 == self.weights.config.num_hidden_layers => Some("model.norm.weight".to_owned()),
            LinearInput::Down => Some(format!("model.layers.{}.input_layernorm.weight", layer + 1)),
            LinearInput::QueryKeyValue | LinearInput::GateUp => None,
        };
        let norm = norm.map(|name| self.weights.vector(&name)).transpose()?.unwrap_or_default();
        let norm = Vector::same(norm.as_slice());
        let stream = &mut self.stream;
        let passed = match input {
            LinearInput::QueryKeyValue => stream.advance_attend(&Qkv { q: linear(0), k: linear(1), v: linear(2) }),
            LinearInput::AttentionOutput => stream.advance_add_attention(&linear(0), &norm),
            LinearInput::GateUp => stream.advance_activate(&linear(0), &linear(1)),
            LinearInput::Down => stream.advance_add_mlp(&linear(0), &norm),
        };
        self.at += 1;
        passed.map_err(interrupted)
    }

    /// Through all that is left, to the LM head.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        for at in self.at..INPUTS * self.weights.config.num_hidden_layers {
            let linears = self.weights.group(at / INPUTS, LinearInput::ALL[at % INPUTS])?;
            self.pass(&linears)?;
        }
        Ok(())
    }

    /// Logits of every `step`-th position, where the walk is at the LM head.
    pub fn logits(&mut self, step: usize, head: &Head<'_>, visit: &mut dyn FnMut(Logits<'_>)) -> anyhow::Result<()> {
        self.stream.logits_of_every(step, head, visit).map_err(interrupted)
    }

    /// Where the walk is, to come back with [`Self::back`].
    pub fn place(&self) -> anyhow::Result<Place> {
        Ok(Place { mark: self.stream.mark()?, at: self.at })
    }

    pub fn back(&mut self, place: &Place) -> anyhow::Result<()> {
        self.stream.rewind(&place.mark)?;
        self.at = place.at;
        Ok(())
    }
}
