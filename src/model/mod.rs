//! The Llama decoder as an ONNX graph: knows no checkpoint files and no quantization mathematics.

mod attention;
mod config;
mod llama;
mod module;
pub mod names;
mod quantized;
mod rope;
mod stored;

pub use config::{ConfigError, ExpectedTensor, LlamaConfig, RopeScaling};
pub use llama::{DecoderGraph, GraphOptions, decoder};
pub use rope::{RopeTables, rope_tables};
pub use stored::{Order, StoredCodes, StoredForm, StoredOutliers, StoredScales, StoredWeight, WeightForm};
