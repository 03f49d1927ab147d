//! One file a subcommand: a function from a request to a report, which prints as a table for people and as one JSON object for
//! programs.

pub mod bench;
pub mod card;
pub mod compare;
pub mod doctor;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod outputs;
pub mod plan;
pub mod quantize;
#[cfg_attr(not(feature = "report"), path = "report/absent.rs")]
pub mod report;
pub mod verify;

pub mod claims;
mod error;
pub mod output_folder;
mod runtime_choice;

pub use error::CommandError;
pub use runtime_choice::RuntimeChoice;
