//! Weights as the caller gives them to a stage, and as the stage's graph reads them.

use std::borrow::Cow;

use ndarray::ArrayView2;

use super::CalibError;
use crate::runtime::Operand;

/// A thing of the model as it is quantized so far, and the same of the unquantized model.
#[derive(Debug, Clone, Copy)]
pub struct Both<T> {
    pub quantized: T,
    /// `None`: equal to the quantized one. Not looked at where no reference stream runs.
    pub reference: Option<T>,
}

impl<T: Copy> Both<T> {
    /// Where both models have the same.
    pub fn same(value: T) -> Both<T> {
        Both { quantized: value, reference: None }
    }

    fn of(&self, lane: usize) -> &T {
        if lane == 0 { &self.quantized } else { self.reference.as_ref().unwrap_or(&self.quantized) }
    }
}

/// `[out_features, in_features]`, of any memory layout; row-major ones are read in place.
pub type Matrix<'a> = Both<ArrayView2<'a, f32>>;

/// A norm's weight or a bias.
pub type Vector<'a> = Both<&'a [f32]>;

/// `y = x Wᵀ + b`
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    pub weight: Matrix<'a>,
    /// There exactly where the model's configuration says so.
    pub bias: Option<Vector<'a>>,
}

/// The linears that read the input of attention.
#[derive(Debug, Clone, Copy)]
pub struct Qkv<'a> {
    pub q: Linear<'a>,
    pub k: Linear<'a>,
    pub v: Linear<'a>,
}

/// Everything of a decoder layer but the norm before it, and the norm behind it.
#[derive(Debug, Clone, Copy)]
pub struct LayerWeights<'a> {
    pub qkv: Qkv<'a>,
    pub o: Linear<'a>,
    pub post_attention_layernorm: Vector<'a>,
    pub gate: Linear<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
    /// `input_layernorm` of the next layer; behind the last, the final norm.
    pub next_norm: Vector<'a>,
}

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
    name: &'static str,
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

    pub fn vector(mut self, name: &'static str, vector: &'a Vector<'_>, size: usize) -> Result<Self, CalibError> {
        let values = vector.of(self.lane);
        check(name, &[size], &[values.len()])?;
        self.all.push(Given { name, shape: vec![size], values: Cow::Borrowed(values) });
        Ok(self)
    }

    pub fn matrix(mut self, name: &'static str, matrix: &'a Matrix<'_>, shape: [usize; 2]) -> Result<Self, CalibError> {
        let view = matrix.of(self.lane);
        check(name, &shape, view.shape())?;
        let values = match view.as_slice() {
            Some(values) => Cow::Borrowed(values),
            None => view.iter().copied().collect(),
        };
        self.all.push(Given { name, shape: shape.to_vec(), values });
        Ok(self)
    }

    /// `names`: of the weight and of the bias.
    pub fn linear(
        self,
        names: [&'static str; 2],
        linear: &'a Linear<'_>,
        shape: [usize; 2],
        has_bias: bool,
    ) -> Result<Self, CalibError> {
        let [weight, bias] = names;
        let gathered = self.matrix(weight, &linear.weight, shape)?;
        match (&linear.bias, has_bias) {
            (Some(vector), true) => gathered.vector(bias, vector, shape[0]),
            (None, false) => Ok(gathered),
            (Some(_), false) => Err(CalibError::Bias { weight, expected: "no bias", got: "one" }),
            (None, true) => Err(CalibError::Bias { weight, expected: "a bias", got: "none" }),
        }
    }
}

fn check(weight: &'static str, expected: &[usize], got: &[usize]) -> Result<(), CalibError> {
    if expected == got { Ok(()) } else { Err(CalibError::Shape { weight, expected: expected.to_vec(), got: got.to_vec() }) }
}
