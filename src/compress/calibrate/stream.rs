//! What every walk through the model begins with, and how its interruption is told.

use std::ops::ControlFlow;

use super::CheckpointWeights;
use crate::calib::{ActivationStream, CalibError, Progress, StreamOptions};
use crate::compress::CompressError;
use crate::host::interrupt::{CancelToken, Interrupted};

impl CheckpointWeights<'_> {
    /// The embeddings of `sequences`, before the first layer. `observe` hears of progress; `cancel` ends the walk.
    ///
    /// # Errors
    /// The options do not suit the model, or an embedding is not a number.
    pub fn stream<'s>(
        &self,
        options: &StreamOptions,
        sequences: &[Vec<u32>],
        cancel: &CancelToken,
        mut observe: impl FnMut(Progress) + 's,
    ) -> Result<ActivationStream<'s>, CompressError> {
        let cancel = cancel.clone();
        let observe = move |progress: Progress| {
            observe(progress);
            if cancel.check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut failed = None;
        let mut embedding = |id: u32, row: &mut [f32]| {
            if let Err(error) = self.embedding(id as usize, row) {
                failed.get_or_insert(error);
            }
        };
        let started = ActivationStream::start(self.architecture, options, sequences, &mut embedding, Box::new(observe));
        match failed {
            Some(error) => Err(error),
            None => started.map_err(interrupted),
        }
    }
}

/// The user's wish to stop is the same wherever it is noticed.
pub fn interrupted(error: CalibError) -> CompressError {
    match error {
        CalibError::Interrupted { .. } => Interrupted.into(),
        other => other.into(),
    }
}
