//! What calibration knows of a model's inputs: sets of text, and statistics of the activations they cause.

mod activations;
mod logits;
mod start;
mod statistics;
mod steps;
mod stream;
mod stream_error;
mod weights;

pub use logits::Logits;
pub use stream::{Observe, Progress, Stream, StreamOptions, TooFewTokens};
pub use stream_error::CalibError;
pub use weights::{Both, Head, LayerWeights, Linear, Matrix, Qkv, Vector};
