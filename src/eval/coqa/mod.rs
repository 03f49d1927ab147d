//! CoQA: conversations about a story, each answer scored by exact match and F1.
//!
//! A question's way: [`data`] reads stories and turns, [`protocol`] makes a [`protocol::Question`] of each (the prompt
//! by [`prompt`]), [`run`] asks the model story by story and appends a [`lines::QuestionLine`] for each answer,
//! [`report`] sums the lines up.

mod conversation;
pub mod data;
pub mod data_error;
mod fields;
pub mod lines;
#[cfg_attr(not(feature = "parquet"), path = "parquet/absent.rs")]
pub(crate) mod parquet;
pub mod prompt;
pub mod protocol;
pub mod report;
pub mod run;

pub use data::{Conversation, Dataset, PromptLine, Turn, load, parse};
pub use data_error::DataError;
pub use lines::{AnswerLog, QuestionLine};
pub use protocol::{Protocol, Question};
pub use report::{CoqaReport, DomainScore, official_predictions, rescore};
pub use run::{EvaluateOptions, Progress, evaluate};
