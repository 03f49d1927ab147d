//! Calibration: the text that a model is quantized on, as sets of token ids.

mod builtin;
mod chat;
mod error;
mod leak;
mod sample;
mod set;
mod set_file;
mod source;
mod vocabulary;

pub use builtin::builtin_sets;
pub use error::SetError;
pub use leak::{Fingerprint, Leak, PASSAGE_WORDS, RECORDED_RUN, evaluation_texts};
pub use set::{CalibrationSet, load, refuse_recorded_leak};
pub use set_file::{ExpectedHash, Form, Packing, SetFile, SourceName};
pub use vocabulary::Vocabulary;
