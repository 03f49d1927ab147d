//! What calibration knows of a model's inputs: sets of text, and statistics of the activations they cause.

mod activations;
mod builtin;
mod chat;
mod error;
mod leak;
mod logits;
mod places;
mod sample;
mod set;
mod set_file;
mod slots;
mod source;
mod start;
mod statistics;
mod stream;
mod stream_error;
mod vocabulary;
mod weights;

pub use builtin::builtin_sets;
pub use chat::{ChatError, ChatTemplate, Clock, ClockError, Message, SOURCE_DATE_EPOCH};
pub use error::SetError;
pub use leak::{Fingerprint, Leak, PASSAGE_WORDS, RECORDED_RUN, evaluation_texts};
pub use logits::Logits;
pub use set::{CalibrationSet, load, refuse_recorded_leak, refuse_recorded_text, refuse_unknown};
pub use set_file::{ExpectedHash, Form, Packing, SetFile, SourceName};
pub use start::refuse_too_few;
pub use stream::{ActivationStream, Mark, Observe, Progress, StreamOptions, TooFewTokens};
pub use stream_error::CalibError;
pub use vocabulary::{Vocabulary, check_template};
pub use weights::{Both, Head, Matrix, Weight};
