//! The Llama decoder as an ONNX graph: knows no checkpoint files and no quantization mathematics.

mod attention;
mod config;
mod llama;
mod mappings;
mod module;
pub mod names;
mod quantized;
mod rope;
mod rotation;
pub mod stages;
mod stored;

pub use config::{ConfigError, DecoderConfig, ExpectedTensor, RopeScaling};
pub use llama::{DecoderGraph, GraphOptions, decoder};
pub use mappings::{LinearInput, Mapping, Smooth, mappings};
pub use rope::{RopeTables, most_positions, rope_tables};
pub use rotation::{ModelRotation, RotationOptions};
pub use stored::{Order, StoredCodes, StoredForm, StoredOutliers, StoredScales, StoredWeight, WeightForm};
