//! Model files: safetensors headers and weights of a local folder, and the hub that fills such a folder.
//!
//! [`Index`] knows what the headers say and nothing else, so planning an 8B model touches kilobytes. [`Checkpoint`]
//! adds memory maps of the files. Everything a file claims is checked before a single tensor is handed out; `header`
//! is the only code that reads untrusted bytes, and it is a pure function of them.

mod beside;
mod error;
mod header;
#[cfg_attr(not(feature = "hub"), path = "hub/absent.rs")]
pub mod hub;
mod index;
mod mapped;
mod prefix;
mod shards;
mod tensor_file;
mod writer;

pub use beside::left_out;
pub use error::CheckpointError;
pub use header::{Header, HeaderError, HeaderTensor, StoredDtype, header_bytes, parse_header};
pub use index::{Index, Renamed, TensorInfo, WeightFile};
pub use mapped::{Checkpoint, TensorView};
pub use shards::INDEX_FILE;
pub use tensor_file::{Numbers, TensorFile, TensorFileError};
pub use writer::{RawTensor, StoredNumber, write_tensors, write_tensors_of_torch};
