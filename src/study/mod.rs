//! Runs many: one experiment from load to record, and sweeps of them.

pub mod experiment;
pub mod sweep;
