//! From a checkpoint and a recipe to the files of an artifact: what it will hold (`plan`), and how each weight gets there.

pub mod card;
pub mod checkpoint_sink;
pub mod dataset;
pub mod dense;
mod error;
pub mod files;
pub mod gguf_sink;
pub mod hashing;
pub mod named_file;
pub mod onnx_sink;
pub mod packing;
pub mod parts;
pub mod plan;
pub mod prepared;
pub mod quantize;
pub mod quantized;
pub mod quantized_sink;
pub mod shards;
pub mod sink;
pub mod source;
pub mod targets;
pub mod write;

pub use error::ArtifactError;
