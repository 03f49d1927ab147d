//! The unquantized model on a few sequences, one linear input after the other, with other weights where they are wanted.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayD, ArrayView2, CowArray};

use crate::calib::{ActivationStream, Head, Logits, Mark, StreamOptions, Weight};
use crate::compress::CompressError;
use crate::compress::calibrate::{CheckpointWeights, interrupted};
use crate::host::interrupt::CancelToken;
use crate::quant::InputStats;

/// A stream and the weights that it is fed with.
pub struct Walk<'a> {
    weights: &'a CheckpointWeights<'a>,
    stream: ActivationStream<'a>,
}

impl<'a> Walk<'a> {
    /// At what the first linears read.
    pub fn start(
        weights: &'a CheckpointWeights<'a>,
        options: &StreamOptions,
        sequences: &[Vec<u32>],
        cancel: &CancelToken,
    ) -> Result<Walk<'a>, CompressError> {
        let mut walk = Walk { weights, stream: weights.stream(options, sequences, cancel, |_| {})? };
        walk.advance(&BTreeMap::new())?;
        Ok(walk)
    }

    /// The input that the walk is at, counted over all layers; as many as there are at the LM head.
    pub fn at(&self) -> usize {
        self.stream.passed() - 1
    }

    /// Statistics of the input that the walk is at.
    pub fn statistics(&mut self) -> Result<InputStats, CompressError> {
        self.stream.statistics().map_err(interrupted)
    }

    /// Through the linears of the input that the walk is at, to the next input; `linears` are their weights, in their order.
    pub fn pass(&mut self, linears: &[Array2<f32>]) -> Result<(), CompressError> {
        let input = &self.weights.survey.inputs[self.at()];
        self.advance(&input.weights().zip(linears.iter().map(|w| w.view())).collect())
    }

    /// Through a stage, with some weights instead of the model's own.
    fn advance(&mut self, instead: &BTreeMap<String, ArrayView2<'_, f32>>) -> Result<(), CompressError> {
        let wanted = self.stream.wanted();
        let own = |name: &str| -> Result<ArrayD<f32>, CompressError> {
            Ok(match self.weights.survey.input_of(name) {
                Some(_) => self.weights.matrix(name)?.into_dyn(),
                None => Array1::from(self.weights.vector(name)?).into_dyn(),
            })
        };
        let given = |name: &String| match instead.get(name) {
            Some(w) => Ok(CowArray::from(w.view().into_dyn())),
            None => own(name).map(CowArray::from),
        };
        let given = wanted.iter().map(|wanted| given(&wanted.name)).collect::<Result<Vec<_>, CompressError>>()?;
        let weights: Vec<Weight<'_>> = given.iter().map(|w| Weight::same(w.view())).collect();
        self.stream.advance(&weights).map_err(interrupted)
    }

    /// Through all that is left, to the LM head.
    pub fn finish(&mut self) -> Result<(), CompressError> {
        while self.at() < self.weights.survey.inputs.len() {
            self.advance(&BTreeMap::new())?;
        }
        Ok(())
    }

    /// Logits of every `step`-th position, where the walk is at the LM head.
    pub fn logits(&mut self, step: usize, head: &Head<'_>, visit: &mut dyn FnMut(Logits<'_>)) -> Result<(), CompressError> {
        self.stream.logits_of_every(step, head, visit).map_err(interrupted)
    }

    /// Where the walk is, to come back with [`Self::back`].
    pub fn place(&self) -> Result<Mark, CompressError> {
        Ok(self.stream.mark()?)
    }

    pub fn back(&mut self, place: &Mark) -> Result<(), CompressError> {
        Ok(self.stream.rewind(place)?)
    }
}
