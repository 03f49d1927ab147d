//! What the model says at the end of a stream.

use ndarray::ArrayView2;

use super::CalibError;
use super::stream::{ActivationStream, Progress, report};
use super::weights::{Gathered, Head, Matrix};
use crate::model::{ExpectedTensor, FINAL_HIDDEN, HEAD_MATRIX, HEAD_WEIGHT, HeadForm, ROWS, Waiting, head as head_graph};
use crate::runtime::{Bound, Operand, Resident, Target};

/// Positions whose logits are on the host at once: 128 MB at Llama 3's vocabulary.
const POSITIONS: usize = 256;

/// Logits of some positions of one sequence, `[positions, vocab_size]` each.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    /// Index into the calibration set.
    pub sequence: usize,
    /// Position of the first row.
    pub first: usize,
    /// From one row to the next: row `i` predicts the token behind position `first + i · step`.
    pub step: usize,
    pub quantized: ArrayView2<'a, f32>,
    /// Where a reference stream runs beside.
    pub reference: Option<ArrayView2<'a, f32>>,
}

impl ActivationStream<'_> {
    /// Logits of every position of every sequence, piece by piece; short sequences come first.
    ///
    /// # Errors
    /// A layer is still to come, the head has another shape, or the runtime fails.
    pub fn logits(&mut self, head: &Head<'_>, visit: &mut dyn FnMut(Logits<'_>)) -> Result<(), CalibError> {
        self.logits_of_every(1, head, visit)
    }

    /// As [`Self::logits`], of every `step`-th position of each sequence, the first one included.
    pub fn logits_of_every(&mut self, step: usize, head: &Head<'_>, visit: &mut dyn FnMut(Logits<'_>)) -> Result<(), CalibError> {
        let hidden_input = self.head_input()?;
        let (hidden, vocab) = (self.cfg.hidden_size, self.cfg.vocab_size);
        let form = if head.matrix.is_some() { HeadForm::WithMatrix } else { HeadForm::Plain };
        let (table, matrix) = (head.table.any(), head.matrix.as_ref().map(Matrix::any));
        let expected = |name: &str, shape: [usize; 2]| ExpectedTensor { name: name.to_owned(), shape: shape.to_vec() };
        let gathered = (0..self.lanes.len()).map(|lane| {
            let given = Gathered::new(lane).weight(HEAD_WEIGHT, &expected(HEAD_WEIGHT, [vocab, hidden]), &table)?;
            match &matrix {
                Some(matrix) => given.weight(HEAD_MATRIX, &expected(HEAD_MATRIX, [hidden, hidden]), matrix),
                None => Ok(given),
            }
        });
        let gathered = gathered.collect::<Result<Vec<_>, CalibError>>()?;
        let graph = head_graph(&self.cfg, self.activation, form)?;
        let open = |_| self.stages.open(&graph, "the LM head");
        let mut opened = (0..self.lanes.len()).map(open).collect::<Result<Vec<_>, _>>().map_err(CalibError::Runtime)?;
        let bound = opened.iter_mut().zip(&gathered).map(|(stage, given)| stage.bind(&given.operands()));
        let mut bound: Vec<Bound<'_>> = bound.collect::<Result<_, _>>().map_err(CalibError::Runtime)?;
        let (layer, all) = (self.layer(), self.batches.len());
        for index in 0..all {
            self.visit_batch((index, hidden_input), step.max(1), &mut bound, visit)?;
            report(&mut self.observe, Progress { layer, step: "logits", done: index + 1, all })?;
        }
        Ok(())
    }

    fn visit_batch(
        &self,
        (index, hidden): (usize, Waiting),
        step: usize,
        bound: &mut [Bound<'_>],
        visit: &mut dyn FnMut(Logits<'_>),
    ) -> Result<(), CalibError> {
        let batch = &self.batches[index];
        let (shape, slot) = (batch.shape(hidden.width), self.slots.slot(hidden));
        for (row, &sequence) in batch.sequences.iter().enumerate() {
            for first in (0..batch.length).step_by(POSITIONS * step) {
                let end = batch.length.min(first + POSITIONS * step);
                let rows: Vec<i64> = (first..end).step_by(step).map(|position| (row * batch.length + position) as i64).collect();
                let count = rows.len();
                let lanes = self.lanes.iter().zip(&mut *bound).map(|(lane, bound)| {
                    let input = (FINAL_HIDDEN, lane.stores[slot].get(index, batch, &shape));
                    let rows = (ROWS, Operand::I64 { shape: &[count], values: &rows });
                    bound.run_for_one(&[input, rows], Target::Host).map_err(CalibError::ran(count))
                });
                let lanes = lanes.collect::<Result<Vec<Resident>, CalibError>>()?;
                let read = lanes.iter().map(Resident::floats).collect::<Result<Vec<_>, _>>().map_err(CalibError::Runtime)?;
                let view = |lane: usize| {
                    let shape = (count, self.cfg.vocab_size);
                    ArrayView2::from_shape(shape, &read[lane]).expect("the head has a row of logits for each position")
                };
                let reference = (read.len() > 1).then(|| view(1));
                visit(Logits { sequence, first, step, quantized: view(0), reference });
            }
        }
        Ok(())
    }
}
