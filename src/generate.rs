//! What evaluation and benchmarks ask of a language model, and nothing more: text in, completions, logits or steps out.
//!
//! `eval/` and `bench/` see these traits, never a session, so both are tested on a scripted fake.

use ndarray::ArrayView2;

use crate::fault::Fault;
use crate::host::interrupt::Interrupted;

/// Ends a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model produced an end-of-sequence token.
    EndOfSequence,
    /// A stop string appeared in the decoded text.
    StopString,
    /// `max_new_tokens` were produced.
    Length,
}

/// How far to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Most tokens produced for one prompt.
    pub max_new_tokens: usize,
    /// A row ends as soon as its decoded text contains one of these; the text is cut before the first of them.
    pub stop: Vec<String>,
}

/// One prompt's greedy continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Produced token ids, the end-of-sequence token excluded.
    pub ids: Vec<u32>,
    /// Decoded text without special tokens, cut before the first stop string.
    pub text: String,
    pub reason: StopReason,
}

/// A newly produced piece of one row's text, for streaming.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece<'a> {
    /// Index into the prompts of the call.
    pub row: usize,
    pub text: &'a str,
}

/// What can go wrong while asking a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    #[error(
        "prompt {row}: {tokens} tokens and {max_new_tokens} new ones exceed the context of {context} tokens; shorten the prompt or lower max_new_tokens"
    )]
    PromptTooLong { row: usize, tokens: usize, max_new_tokens: usize, context: usize },
    /// Of a prompt that was not read to its end.
    #[error("prompt {row}: more than {context} tokens, which is the model's context; shorten the prompt")]
    PromptBeyondContext { row: usize, context: usize },
    #[error("prompt {row} has no tokens; give at least one")]
    EmptyPrompt { row: usize },
    #[error(
        "token {token:?} has id {id}, beyond the model's vocabulary of {vocab_size}; leave it out of the text, or export a checkpoint whose tokenizer is the model's own"
    )]
    TokenBeyondVocabulary { token: String, id: u32, vocab_size: u32 },
    #[error("prompt {prompt}: the model's output is not a number (NaN or infinite) at position {position} or before it{advice}")]
    NotANumber { prompt: usize, position: usize, advice: &'static str },
    /// The caller's token was cancelled.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("the memory does not suffice")]
    OutOfMemory(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the backend failed")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl GenerateError {
    /// Prompts are the input's. A backend's own error is next in the chain and says better whose fault it was.
    pub fn fault(&self) -> Fault {
        match self {
            GenerateError::PromptTooLong { .. }
            | GenerateError::PromptBeyondContext { .. }
            | GenerateError::EmptyPrompt { .. }
            | GenerateError::TokenBeyondVocabulary { .. } => Fault::BadInput,
            GenerateError::NotANumber { .. }
            | GenerateError::Interrupted(_)
            | GenerateError::OutOfMemory(_)
            | GenerateError::Backend(_) => Fault::Failed,
        }
    }
}

/// Greedy text generation.
///
/// The implementation may share work between prompts of one call that begin alike, so callers put the turns of one
/// story into one call. Results are in the order of the prompts and do not depend on what else is in the call.
pub trait Generate {
    /// Token ids of `text`, with the special tokens that Hugging Face adds by default (BOS for Llama).
    fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError>;

    /// Most positions that a prompt and its continuation may take together.
    fn context_length(&self) -> usize;

    /// Greedy continuations of `prompts` (token ids, each non-empty).
    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        observe: &mut dyn FnMut(Piece<'_>),
    ) -> Result<Vec<Completion>, GenerateError>;
}

/// Logits of every position, for perplexity and KL divergence.
pub trait Score {
    /// Token ids of `text`, without special tokens.
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, GenerateError>;

    /// Id of the beginning-of-sequence token, if the tokenizer has one.
    fn bos(&self) -> Option<u32>;

    /// Hands over the logits of `ids` in chunks: `visit(first, logits)` where `logits` is `[positions, vocab_size]` and
    /// row `i` predicts the token after position `first + i`.
    fn logits(&mut self, ids: &[u32], visit: &mut dyn FnMut(usize, ArrayView2<'_, f32>)) -> Result<(), GenerateError>;
}

/// A batch of equally long prompts, run by run, for whoever times the runs.
pub trait Steps {
    /// Token ids of `text`, with the special tokens that Hugging Face adds by default.
    fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError>;

    /// Takes memory for `rows` prompts of `prompt_tokens` tokens that are continued by `new_tokens` tokens; what was taken
    /// before is given back first.
    ///
    /// # Errors
    /// [`GenerateError::OutOfMemory`] where there is not as much.
    fn allocate(&mut self, rows: usize, prompt_tokens: usize, new_tokens: usize) -> Result<(), GenerateError>;

    /// Gives back what [`Self::allocate`] took.
    fn release(&mut self);

    /// Bytes that keys and values of `tokens` tokens take in the cache, all layers.
    fn cache_bytes(&self, tokens: usize) -> u64;

    /// Reads one prompt into each row from its beginning, as [`Generate`] reads prompts that have nothing in common, and returns
    /// their greedy next tokens.
    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<u32>, GenerateError>;

    /// Reads one token into each row behind the `past` tokens that are there, and returns the greedy next tokens.
    fn step(&mut self, tokens: &[u32], past: usize) -> Result<Vec<u32>, GenerateError>;
}
