//! The decode loop's runs one by one, for whoever times them: the same calls that [`Generate`](crate::generate::Generate)
//! makes.

use super::cache::{KvCache, capacity_for};
use super::choosing::Choice;
use super::decoder::Wanted;
use super::engine::Engine;
use super::memory::available;
use super::{ExecutionProvider, RuntimeError};
use crate::companions::Width;
use crate::generate::{GenerateError, Steps};
use crate::tensor::DType;

/// An engine and the cache that its runs read and write.
pub struct EngineSteps<'a> {
    engine: &'a mut Engine,
    cache: Option<KvCache>,
}

impl Engine {
    /// This engine, run by run.
    pub fn steps(&mut self) -> EngineSteps<'_> {
        EngineSteps { engine: self, cache: None }
    }
}

impl EngineSteps<'_> {
    fn cache(&mut self) -> Result<(&mut Engine, &mut KvCache), RuntimeError> {
        let nothing = RuntimeError::Run { doing: "running the model", reason: "no cache was allocated".to_owned() };
        Ok((self.engine, self.cache.as_mut().ok_or(nothing)?))
    }
}

impl Steps for EngineSteps<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.engine.ids_of(text, true)
    }

    fn allocate(&mut self, rows: usize, prompt_tokens: usize, new_tokens: usize) -> Result<(), GenerateError> {
        self.release();
        // The last token is never read back.
        let capacity = capacity_for(prompt_tokens + new_tokens - 1);
        if self.engine.provider == ExecutionProvider::Cpu {
            // Linux lends more memory than it has and ends a process that uses it; a GPU's driver refuses in time.
            let needed = self.cache_bytes(rows.saturating_mul(capacity));
            let scratch = scratch_bytes(self.engine.artifact.beside.width, rows as u64, prompt_tokens as u64);
            refuse_beyond(needed.saturating_add(scratch), available())?;
        }
        let mut cache = self.engine.decoder.cache(rows, capacity)?;
        // Its steps are taken over and over.
        cache.steps_before_recording = 0;
        self.engine.decoder.clear(&mut cache)?;
        self.cache = Some(cache);
        Ok(())
    }

    fn release(&mut self) {
        self.cache = None;
    }

    fn cache_bytes(&self, tokens: usize) -> u64 {
        (tokens as u64).saturating_mul(self.engine.decoder.layout.bytes_per_token())
    }

    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<u32>, GenerateError> {
        let (engine, cache) = self.cache()?;
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let next = engine.decoder.prefill_batch(cache, &prompts, Wanted::Largest)?;
        Ok(numbers(next, engine.decoder.layout.dtype(), |row| prompts[row].len() - 1)?)
    }

    fn step(&mut self, tokens: &[u32], past: usize) -> Result<Vec<u32>, GenerateError> {
        let (engine, cache) = self.cache()?;
        let next = engine.decoder.decode(cache, tokens, &vec![past; tokens.len()], Wanted::Largest)?;
        Ok(numbers(next, engine.decoder.layout.dtype(), |_| past)?)
    }
}

/// The tokens with the largest logits, whatever `generation_config.json` says: a benchmark times the model.
fn numbers(next: Vec<Choice>, activations: DType, position: impl Fn(usize) -> usize) -> Result<Vec<u32>, RuntimeError> {
    let token = |(row, choice): (usize, Choice)| {
        let none = || RuntimeError::NotANumber { prompt: row, position: position(row), activations };
        choice.largest().ok_or_else(none)
    };
    next.into_iter().enumerate().map(token).collect()
}

/// What reading prompts takes beside the cache, about: of one layer in f32 the input, its norm, q k v, the attention's
/// output, gate, up and their product, and all scores, which ONNX Runtime's CPU kernel keeps at once.
fn scratch_bytes(width: Width, rows: u64, prompt_tokens: u64) -> u64 {
    let Width { hidden_size, intermediate_size, num_attention_heads } = width;
    let a_token = 6 * hidden_size as u64 + 3 * intermediate_size as u64 + num_attention_heads as u64 * prompt_tokens;
    rows.saturating_mul(prompt_tokens).saturating_mul(a_token).saturating_mul(size_of::<f32>() as u64)
}

fn refuse_beyond(needed: u64, available: Option<u64>) -> Result<(), RuntimeError> {
    match available.filter(|&available| needed > available) {
        Some(available) => {
            let reason = format!("about {needed} bytes are needed, and {available} are free");
            Err(RuntimeError::OutOfMemory { doing: "making room for the batch", reason })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_does_not_fit_is_refused_with_both_sizes() {
        assert!(refuse_beyond(10, Some(10)).is_ok());
        assert!(refuse_beyond(u64::MAX, None).is_ok());
        let error = GenerateError::from(refuse_beyond(11, Some(10)).unwrap_err());
        let GenerateError::OutOfMemory(cause) = error else { panic!("{error}") };
        let expected = "out of memory while making room for the batch: about 11 bytes are needed, and 10 are free";
        assert_eq!(cause.to_string(), expected);
    }

    #[test]
    fn scratch_grows_with_the_square_of_the_prompt() {
        let width = Width { hidden_size: 10, intermediate_size: 20, num_attention_heads: 4 };
        // 120 numbers a token and 4 scores for each pair of tokens.
        assert_eq!(scratch_bytes(width, 2, 100), 2 * 100 * (120 + 400) * 4);
        assert_eq!(scratch_bytes(width, u64::MAX, 100), u64::MAX);
    }
}
