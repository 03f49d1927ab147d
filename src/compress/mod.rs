//! Chooses the numbers: the widths of a budget, the codes and scales of a calibration.

use std::path::PathBuf;

use crate::host::interrupt::CancelToken;
use crate::runtime::ExecutionProvider;

pub mod budget;
pub mod calibrate;
pub mod chosen;
mod error;

pub use error::CompressError;

/// How a calibration runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// Where statistics are kept and looked for.
    pub save_stats: Option<PathBuf>,
    /// Evaluation files that the calibration set must share no passage with.
    pub evaluation: Vec<PathBuf>,
    pub provider: ExecutionProvider,
    /// CPU threads; one per physical core where it is not given.
    pub threads: Option<usize>,
    /// Ends the work at its next safe point; finished layers are kept.
    pub cancel: CancelToken,
}
