//! Where the tokens of a batch stand.

use super::activations::SequenceBatch;
use crate::contract::names;
use crate::runtime::Operand;

/// Every sequence begins at position 0 and fills its row.
pub(super) struct Places {
    seqlens_k: Vec<i32>,
    total_sequence_length: [i32; 1],
    rows: [usize; 1],
}

impl Places {
    pub fn of(batch: &SequenceBatch) -> Places {
        let rows = batch.sequences.len();
        let total = i32::try_from(batch.length).expect("sequences are limited by the model's positions");
        Places { seqlens_k: vec![total - 1; rows], total_sequence_length: [total], rows: [rows] }
    }

    /// What a stage asks for by this name.
    pub fn operand(&self, name: &str) -> Operand<'_> {
        match name {
            names::SEQLENS_K => Operand::I32 { shape: &self.rows, values: &self.seqlens_k },
            names::TOTAL_SEQUENCE_LENGTH => Operand::I32 { shape: &[], values: &self.total_sequence_length },
            other => unreachable!("no stage asks where tokens stand by the name {other}"),
        }
    }
}
