//! Runs an artifact through ONNX Runtime: the only user of `ort`.
//!
//! [`Engine`] is a [`Generate`](crate::generate::Generate) and a [`Score`](crate::generate::Score). One call of `generate`:
//!
//! ```text
//! prompts ─ prefix::groups ─ prefill trunk once ─┬─ copy cache rows ─ decode step ─┬─ text, stop strings
//!                                                └────────── until all are done ◂──┘
//! ```
//!
//! [`inspect`] reports what ONNX Runtime really executes, [`doctor`] what the machine offers.

mod artifact;
mod bandwidth;
mod batch;
mod cache;
mod choosing;
mod data_place;
mod decoder;
mod dequantize;
mod device_memory;
mod doctor;
mod engine;
mod error;
mod folder;
mod gpu;
mod inspect;
mod locate;
mod memory;
mod own_graph;
mod prefill;
mod prefix;
mod provider;
mod recording;
mod replay;
mod rows;
mod score;
mod session;
mod specialise;
mod stage;
mod steps;
mod telemetry;
mod text;
mod weight_kernels;

pub use bandwidth::{Idle, copy_bandwidth, idle, start};
pub use dequantize::dequantize;
pub use doctor::{Doctor, Gpu, Library, SharedLibrary, doctor};
pub use engine::{Engine, EngineOptions, LoadStage, Timings};
pub use error::RuntimeError;
pub use folder::ArtifactFolder;
pub use gpu::{GpuMeter, MeterError, gpu_count, visible_gpu};
pub use inspect::{Execution, Inspection, MatMulReport, inspect};
pub use own_graph::OwnGraph;
pub use provider::ExecutionProvider;
pub use replay::Launch;
pub use session::require;
pub use specialise::{NEXT_TOKENS, decode_graph};
pub use stage::{Bound, Operand, Resident, StageSession, Stages, Target};
pub use steps::EngineSteps;
pub use telemetry::disable_telemetry;
pub use weight_kernels::WeightKernels;
