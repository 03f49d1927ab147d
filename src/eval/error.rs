//! What can go wrong in evaluation.

use super::coqa::DataError;
use super::coqa::data_error::is_wrong_path;
use crate::fault::Fault;
use crate::generate::GenerateError;

/// Errors of `eval/`, a variant for each cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(
        "an answer goes on to the end of the context of {context} tokens, where generation_config.json's max_new_tokens = {max_new_tokens} \
         would let lm-evaluation-harness go on; lower it in the checkpoint's file and export again"
    )]
    AnswerBeyondContext { context: usize, max_new_tokens: usize },
    #[error("the model could not answer")]
    Model(#[from] GenerateError),
    #[error("{file} cannot be read; give an existing file")]
    Read { file: String, source: std::io::Error },
    #[error("cannot write {file}; what was written before is whole, so the same command goes on from there")]
    Write { file: String, source: std::io::Error },
    #[error(
        "{file}: line {line}: not a per-question line of qonnx eval: {detail}; give a file that `qonnx eval --predictions` wrote, or another name"
    )]
    Lines { file: String, line: usize, detail: String },
    #[error("{file}: line {line}: has changed since it was written; remove the line, and the question is asked again")]
    Changed { file: String, line: usize },
    #[error("{file}: another process is writing its answers there just now; wait for that one, or give another name")]
    InUse { file: String },
    #[error(
        "{file}: line {line}: written by another run: {what}: expected {expected}, got {got}; give --predictions another name, or delete the file to start over"
    )]
    OtherRun { file: String, line: usize, what: &'static str, expected: String, got: String },
    #[error(
        "context length {context} leaves no room for a prompt beside {max_new_tokens} new tokens; use a model with a longer context"
    )]
    ContextTooShort { context: usize, max_new_tokens: usize },
    #[error("the backend answered {got} of {expected} prompts of a call")]
    AnswerCount { expected: usize, got: usize },
    #[error("{file}: {detail}")]
    Text { file: String, detail: String },
    #[error("window {window}: {got} ids; expected at least 2, one to read and one to predict")]
    WindowTooShort { window: usize, got: usize },
    #[error("no windows to score; give a text of at least 2 tokens")]
    NoWindows,
    #[error("window length {got}: expected at least 2, one token to read and one to predict")]
    WindowLength { got: usize },
    #[error(
        "window {window}: token id {id} is not below the vocabulary size {vocab_size}; were the windows made with this model's tokenizer?"
    )]
    IdOutOfRange { window: usize, id: u32, vocab_size: usize },
    #[error("window {window}: logits for positions from {got}, expected from {expected}; the backend skipped or repeated some")]
    Positions { window: usize, expected: usize, got: usize },
    #[error(
        "window {window}, position {position}: the logits hold NaN or +infinity; the model is broken there, or an activation left the range of f16 (65504): export again with --dtype f32"
    )]
    NotFinite { window: usize, position: usize },
    #[error("vocabulary sizes differ: the reference has {reference}, the model {model}; compare models with one tokenizer")]
    VocabSize { reference: usize, model: usize },
    #[error("{file}: {what}: expected {expected}, got {got}; write the reference file again")]
    Cache { file: String, what: &'static str, expected: String, got: String },
    #[error("top-k {k}: expected 1 to the vocabulary size {vocab_size}")]
    TopK { k: usize, vocab_size: usize },
    #[error(
        "{runs} cannot be compared: {what}: {in_a} in the first, {in_b} in the second; compare runs of one protocol on the same questions"
    )]
    NotPaired { runs: String, what: String, in_a: String, in_b: String },
    #[error("{file}: holds no answered question; expected at least {expected}")]
    TooFew { file: String, expected: usize },
    #[error("{file}: answers of {got} {unit}, expected at least 2; a comparison resamples them, ask more questions")]
    TooFewUnits { file: String, unit: &'static str, got: usize },
    #[error("{file}: line {line}: unknown protocol {name}; known: {known}")]
    UnknownProtocol { file: String, line: usize, name: String, known: String },
}

impl EvalError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            EvalError::Data(error) => error.fault(),
            EvalError::Read { source, .. } if !is_wrong_path(source) => Fault::Failed,
            EvalError::Model(error) => error.fault(),
            EvalError::Write { .. }
            | EvalError::AnswerCount { .. }
            | EvalError::Positions { .. }
            | EvalError::NotFinite { .. } => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn files_that_do_not_fit_are_bad_input_and_devices_that_fail_are_not() {
        let read = |kind| EvalError::Read { file: "f".into(), source: io::Error::from(kind) };
        assert_eq!(read(io::ErrorKind::NotFound).fault(), Fault::BadInput);
        assert_eq!(read(io::ErrorKind::PermissionDenied).fault(), Fault::Failed);
        assert_eq!(EvalError::Model(GenerateError::Backend("x".into())).fault(), Fault::Failed);
        assert_eq!(EvalError::Model(GenerateError::EmptyPrompt { row: 0 }).fault(), Fault::BadInput);
        assert_eq!(
            EvalError::Write { file: "f".into(), source: io::Error::from(io::ErrorKind::StorageFull) }.fault(),
            Fault::Failed
        );
        assert_eq!(EvalError::TopK { k: 0, vocab_size: 3 }.fault(), Fault::BadInput);
    }
}
