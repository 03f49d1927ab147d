//! Weights as the caller gives them to a stage, and as the stage's graph reads them.

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayViewD};

use super::CalibError;
use crate::model::ExpectedTensor;
use crate::runtime::Operand;

/// A thing of the model as it is quantized so far, and the same of the unquantized model.
#[derive(Debug, Clone, Copy)]
pub struct Both<T> {
    pub quantized: T,
    /// `None`: equal to the quantized one. Not looked at where no reference stream runs.
    pub reference: Option<T>,
}

impl<T> Both<T> {
    /// Where both models have the same.
    pub fn same(value: T) -> Both<T> {
        Both { quantized: value, reference: None }
    }

    fn of(&self, lane: usize) -> &T {
        if lane == 0 { &self.quantized } else { self.reference.as_ref().unwrap_or(&self.quantized) }
    }
}

/// A weight shaped as in the checkpoint (linears `[out_features, in_features]`), of any memory layout; row-major ones are read
/// in place.
pub type Weight<'a> = Both<ArrayViewD<'a, f32>>;

/// `[out_features, in_features]`, of any memory layout; row-major ones are read in place.
pub type Matrix<'a> = Both<ArrayView2<'a, f32>>;

/// The LM head: `logits = h · tableᵀ`, or `(h · matrix) · tableᵀ`.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// `[vocab_size, hidden_size]`
    pub table: Matrix<'a>,
    /// `[hidden_size, hidden_size]`: what a rotated model's tied head multiplies by first.
    pub matrix: Option<Matrix<'a>>,
}

/// An operand of a stage: name, shape, values in row-major order.
struct Given<'a> {
    name: &'a str,
    shape: Vec<usize>,
    values: Cow<'a, [f32]>,
}

/// What one of the two streams gives to a stage.
pub(super) struct Gathered<'a> {
    lane: usize,
    all: Vec<Given<'a>>,
}

impl<'a> Gathered<'a> {
    /// Of the quantized model (lane 0) or the unquantized one.
    pub fn new(lane: usize) -> Gathered<'a> {
        Gathered { lane, all: Vec::new() }
    }

    pub fn operands(&self) -> Vec<(&str, Operand<'_>)> {
        self.all.iter().map(|given| (given.name, Operand::F32 { shape: &given.shape, values: &given.values })).collect()
    }

    /// The stage's input `name` is the weight `expected`.
    pub fn weight(mut self, name: &'a str, expected: &ExpectedTensor, weight: &'a Weight<'_>) -> Result<Self, CalibError> {
        let view = weight.of(self.lane);
        if view.shape() != expected.shape {
            let (weight, expected, got) = (expected.name.clone(), expected.shape.clone(), view.shape().to_vec());
            return Err(CalibError::Shape { weight, expected, got });
        }
        let values = match view.as_slice() {
            Some(values) => Cow::Borrowed(values),
            None => view.iter().copied().collect(),
        };
        self.all.push(Given { name, shape: expected.shape.clone(), values });
        Ok(self)
    }
}

impl<'a> Both<ArrayView2<'a, f32>> {
    /// The same, of any rank.
    pub fn any(&self) -> Weight<'a> {
        Both { quantized: self.quantized.into_dyn(), reference: self.reference.map(ArrayView2::into_dyn) }
    }
}
