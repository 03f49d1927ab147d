//! A greedy continuation, streamed.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::commands::CommandError;
use crate::commands::RuntimeChoice;
use crate::eval::pieces;
use crate::generate::{Generate, GenerateError, GenerateOptions, Piece, StopReason};
use crate::record::Manifest;

/// What `qonnx generate` was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub artifact: PathBuf,
    pub prompt: String,
    pub max_new_tokens: usize,
    pub stop: Vec<String>,
    pub runtime: RuntimeChoice,
}

/// What was produced, and how fast.
#[derive(Debug, Serialize)]
pub struct GenerateReport {
    pub text: String,
    pub ids: Vec<u32>,
    /// `end-of-sequence`, `stop-string` or `length`.
    pub stop_reason: &'static str,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    pub prefill_seconds: f64,
    pub prefill_tokens_per_second: f64,
    /// Milliseconds and rate of the tokens after the first one; absent for a single token.
    pub ms_per_token: Option<f64>,
    pub tokens_per_second: Option<f64>,
}

/// `qonnx generate`; `show` gets each new piece of text.
pub fn run(request: &Request, show: &mut dyn FnMut(&str)) -> Result<GenerateReport, CommandError> {
    let manifest = Manifest::load(&request.artifact)?;
    let mut engine = request.runtime.load(&request.artifact, &manifest)?;
    // One token more than there is room for is enough to refuse it.
    let context = engine.context_length();
    let prompt = pieces::first(&|text| engine.encode(text), &request.prompt, context + 1)?;
    if prompt.len() > context {
        return Err(GenerateError::PromptBeyondContext { row: 0, context }.into());
    }
    // A chat ends with the tokenizer's own token, also where generation_config.json names another.
    let stop = request.stop.iter().cloned().chain(engine.end_of_sequence_text()).collect();
    let options = GenerateOptions { max_new_tokens: request.max_new_tokens, stop };
    let mut observe = |piece: Piece<'_>| show(piece.text);
    let completion = engine.generate(&[prompt], &options, &mut observe)?.remove(0);
    let timings = engine.timings();
    let decode = timings.decode.as_secs_f64();
    let steps = (timings.decode_steps > 0 && decode > 0.0).then_some(timings.decode_steps as f64);
    Ok(GenerateReport {
        stop_reason: match completion.reason {
            StopReason::EndOfSequence => "end-of-sequence",
            StopReason::StopString => "stop-string",
            StopReason::Length => "length",
        },
        prompt_tokens: timings.prompt_tokens,
        new_tokens: timings.new_tokens,
        prefill_seconds: timings.prefill.as_secs_f64(),
        prefill_tokens_per_second: timings.prompt_tokens as f64 / timings.prefill.as_secs_f64(),
        ms_per_token: steps.map(|steps| 1e3 * decode / steps),
        tokens_per_second: steps.map(|steps| steps / decode),
        text: completion.text,
        ids: completion.ids,
    })
}

impl fmt::Display for GenerateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefill = self.prefill_tokens_per_second;
        write!(f, "prompt {} tokens, {prefill:.0} tokens/s; new {} tokens", self.prompt_tokens, self.new_tokens)?;
        if let (Some(rate), Some(ms)) = (self.tokens_per_second, self.ms_per_token) {
            write!(f, ", {rate:.1} tokens/s, {ms:.2} ms a token")?;
        }
        write!(f, " ({})", self.stop_reason)
    }
}
