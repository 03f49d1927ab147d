//! What the machine is to the program: files read and written with care. Knows no models, no ONNX, no quantization.

pub mod cache;
mod error;
pub mod guard;
pub mod hidden;
pub mod interrupt;
pub mod lock;
pub mod memory;
pub mod progress;
pub mod publish;
pub mod read;
pub mod sealed;
mod shown;
pub mod signals;
pub mod table;
pub mod terminal;

pub use error::{FileError, in_full};
pub use shown::{NAMED, Shown, few, printable, shown};
