//! Element types and conversions; knows no files, no ONNX, no quantization.

pub mod convert;
mod dtype;
mod transpose;
mod widen;

pub use dtype::DType;
pub use transpose::{transpose, transpose_bytes, transpose_into, transpose_with};
pub use widen::Widen;
