//! qonnx finds out how few bits a language model can live on.
//!
//! Stages are values: `Checkpoint → Plan → Graph → model.onnx + .data → Session → RunRecord`. A module uses only
//! modules of lower rows; `tests/tidy.rs` checks it:
//!
//! 1. [`fault`]
//! 2. [`contract`], [`features`], [`host`], [`tensor`]
//! 3. [`usage`]
//! 4. [`checkpoint`], [`companions`], [`quant`], [`onnx`], [`recipe`], [`record`], [`generate`], [`settings`]
//! 5. [`model`], [`eval`], [`runtime`], [`calib`], [`bench`], [`report`]
//! 6. [`artifact`]
//! 7. [`compress`]
//! 8. [`commands`]
//! 9. [`study`]
//!
//! To add a rounding: one file in `quant/`, one match arm in `compress/calibrate/group.rs`, one golden. To add a format: one
//! `Format` variant and one arm in `model/quantized.rs`. To add a family of models: one file in `model/families/`.

pub mod artifact;
pub mod bench;
pub mod calib;
pub mod checkpoint;
pub mod commands;
pub mod companions;
pub mod compress;
pub mod contract;
pub mod eval;
pub mod fault;
pub mod features;
pub mod generate;
pub mod host;
pub mod model;
pub mod onnx;
pub mod quant;
pub mod recipe;
pub mod record;
#[cfg(feature = "report")]
pub mod report;
pub mod runtime;
pub mod settings;
pub mod study;
pub mod tensor;
pub mod usage;
