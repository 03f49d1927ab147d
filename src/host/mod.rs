//! What the machine is to the program: files read and written with care. Knows no models, no ONNX, no quantization.

pub mod guard;
pub mod hidden;
pub mod lock;
pub mod publish;
pub mod read;
pub mod sealed;
mod shown;
pub mod signals;
pub mod terminal;

pub use shown::{NAMED, Shown, few, printable, shown};
