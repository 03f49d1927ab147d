//! Every way a study cannot be reported.

use crate::fault::Fault;

/// Why records do not make a report; files are named as they were given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    #[error(
        "results {folder}: no file ends in _results.json{}; run an experiment first (`qonnx run`, `qonnx sweep`) or give another folder",
        elsewhere(.below)
    )]
    Empty { folder: String, below: Vec<String> },
    #[error("record {second}: is of experiment {name}, and so is {first}; remove one of them")]
    SameName { name: String, first: String, second: String },
    #[error("record {second}: has the id {id}, and so has {first}; remove one of them")]
    SameId { id: String, first: String, second: String },
    #[error(
        "results: none of the {count} records is the baseline's{wanted}; run it into the same folder first (`qonnx run {command}`)"
    )]
    NoBaseline { count: usize, wanted: String, command: String },
    #[error("record {second}: is a baseline (it names none of its own), and so is {first}; keep one baseline in a folder")]
    TwoBaselines { first: String, second: String },
    #[error(
        "record {file}: is compared with baseline {got}, expected {expected} as in {reference}; keep the studies of two baselines in two folders"
    )]
    OtherBaseline { file: String, got: String, expected: String, reference: String },
    #[error(
        "record {file}: {task} was compared with a baseline of id {got}, expected {expected} as {reference} has; run the experiment again"
    )]
    StaleBaseline { file: String, task: String, got: String, expected: String, reference: String },
    #[error(
        "record {file}: is of model {got}, expected {expected} as in {reference}; keep the studies of two models in two folders"
    )]
    OtherModel { file: String, got: String, expected: String, reference: String },
    #[error(
        "record {file}: {what} is {got}, expected {expected} as in {reference}; scores of two protocols are not compared, keep them in two folders"
    )]
    OtherProtocol { file: String, what: String, got: String, expected: String, reference: String },
    #[error("record {file}: {what} is {got}, expected {expected}; remove it and run the experiment again")]
    OutOfRange { file: String, what: String, got: f64, expected: &'static str },
    #[error("figure: cannot be drawn ({message})")]
    Drawing { message: String },
    #[error("report.html: cannot be made ({message})")]
    Html { message: String },
    #[error("report.pdf: cannot be made ({message})")]
    Pdf { message: String },
}

/// Folders that have what this one has not.
fn elsewhere(below: &[String]) -> String {
    if below.is_empty() { String::new() } else { format!(" (there are records in {})", below.join(", ")) }
}

impl ReportError {
    /// Records that do not belong together are the input's fault.
    pub fn fault(&self) -> Fault {
        match self {
            ReportError::Drawing { .. } | ReportError::Html { .. } | ReportError::Pdf { .. } => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}
