//! What a benchmark found at one batch size and prompt length.

use super::numbers;
use crate::record::{Measured, Samples};

/// A measured point of the grid.
#[derive(Debug, Clone, Copy)]
pub enum Point<'a> {
    Measured(&'a Measured),
    OutOfMemory,
    Failed,
    /// Not asked for, or the benchmark did not run.
    Absent,
}

impl<'a> Point<'a> {
    pub fn measured(self) -> Option<&'a Measured> {
        match self {
            Point::Measured(measured) => Some(measured),
            _ => None,
        }
    }

    /// What stands in a table instead of a number.
    pub fn absence(self) -> &'static str {
        match self {
            Point::Measured(_) | Point::Absent => numbers::NONE,
            Point::OutOfMemory => "out of memory",
            Point::Failed => "failed",
        }
    }

    pub fn prefill(self) -> Option<&'a Samples> {
        self.measured().map(|measured| &measured.prefill_ms)
    }

    pub fn decode(self) -> Option<&'a Samples> {
        self.measured().map(|measured| &measured.decode_ms_per_token)
    }

    pub fn tokens_per_second(self) -> Option<f64> {
        self.measured().map(|measured| measured.decode_tokens_per_second)
    }
}
