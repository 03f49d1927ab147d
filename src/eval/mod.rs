//! Scores: CoQA, perplexity, KL divergence, and paired comparison of two runs.
//!
//! Nothing here knows a session or a graph: models are seen through [`crate::generate::Generate`] and
//! [`crate::generate::Score`] only, so everything is tested on scripted fakes.

pub mod compare;
pub mod coqa;
pub mod error;
#[cfg(test)]
mod fake;
pub mod kl;
pub mod kl_cache;
pub mod perplexity;
pub mod pieces;
mod positions;
pub mod score;
pub mod stats;
pub mod windows;

pub use compare::{ComparisonReport, compare};
pub use error::EvalError;
pub use kl::{KlReport, kl_against_cache, kl_exact, kl_of_logits};
pub use kl_cache::{CacheReader, write_cache};
pub use perplexity::{PerplexityReport, perplexity};
pub use windows::TokenWindows;
