//! Runs many: one experiment from load to record, and sweeps of them.

mod error;
pub mod experiment;
pub mod sweep;

pub use error::StudyError;
