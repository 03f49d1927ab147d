//! What the machine is to the program: files read and written with care. Knows no models, no ONNX, no quantization.

pub mod guard;
pub mod read;
mod shown;

pub use shown::{Shown, shown};
