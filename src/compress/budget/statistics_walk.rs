//! Statistics of the unquantized model's inputs, in their order: from files, or from a walk that starts when one is missing.

use super::Task;
use super::walk::Walk;
use crate::calib::StreamOptions;
use crate::compress::CompressError;
use crate::quant::InputStats;

/// What judges roundings.
pub struct StatisticsWalk<'a> {
    task: &'a Task<'a>,
    options: &'a StreamOptions,
    sequences: Vec<Vec<u32>>,
    walk: Option<Walk<'a>>,
}

impl<'a> StatisticsWalk<'a> {
    /// On `sequences`; nothing is run yet.
    pub fn new(task: &'a Task<'a>, options: &'a StreamOptions, sequences: Vec<Vec<u32>>) -> StatisticsWalk<'a> {
        StatisticsWalk { task, options, sequences, walk: None }
    }

    /// Of input `n`, counted over all layers; inputs are asked for in ascending order.
    pub fn statistics(&mut self, n: usize) -> Result<InputStats, CompressError> {
        let kept = self.task.kept.as_ref().map(|(kept, key)| {
            let mut of_input = blake3::Hasher::new();
            of_input.update(key.as_bytes()).update(&(n as u64).to_le_bytes());
            (kept, of_input.finalize())
        });
        if let Some((kept, key)) = &kept
            && let Some(stats) = kept.read(key)?
        {
            return Ok(stats);
        }
        let walk = match &mut self.walk {
            Some(walk) => walk,
            None => self.walk.insert(Walk::start(self.task.weights, self.options, &self.sequences, &self.task.cancel)?),
        };
        while walk.at() < n {
            walk.pass(&self.task.weights.group(&self.task.weights.survey.inputs[walk.at()])?)?;
        }
        let stats = walk.statistics()?;
        if let Some((kept, key)) = kept {
            kept.write(&key, &stats)?;
        }
        Ok(stats)
    }
}
