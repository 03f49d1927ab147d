//! Reading prompts and the decode loop's runs one by one, for whoever times them: the same calls that
//! [`Generate`](crate::generate::Generate) makes.

use super::cache::{KvCache, capacity_for};
use super::choosing::Choice;
use super::decoder::Wanted;
use super::engine::{Engine, Timings};
use super::memory::available;
use super::prefill::Prompts;
use super::prefix::alone;
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
        Ok((self.engine, self.cache.as_mut().ok_or_else(no_cache)?))
    }

    /// What a batch takes at most, about: its cache, the one that a prompt is read into before its row is copied, and a run's
    /// scratch memory. As on the CPU, where prompts are read one after the other.
    fn bytes_of_batch(&self, rows: usize, prompt_tokens: usize, capacity: usize) -> u64 {
        let cached = self.cache_bytes(rows.saturating_add(usize::from(rows > 1)).saturating_mul(capacity));
        let tokens = prompt_tokens.min(self.engine.decoder.chunk);
        cached.saturating_add(scratch_bytes(self.engine.artifact.beside.width, tokens as u64, prompt_tokens as u64))
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
            refuse_beyond(self.bytes_of_batch(rows, prompt_tokens, capacity), available())?;
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
        let capacity = self.cache()?.1.capacity;
        let mut next = vec![Choice::NotANumber; prompts.len()];
        self.engine.timings = Timings { prompt_tokens: prompts.iter().map(Vec::len).sum(), ..Timings::default() };
        // A benchmark's prompts begin alike where its text repeats itself, and stand for some that have nothing in common.
        let unrelated = Prompts { ids: prompts, groups: alone(prompts), of: Wanted::Largest, capacity };
        let slots = self.engine.read(unrelated, &mut self.cache, &mut |_, prompt, choice| {
            next[prompt] = choice;
            Ok(())
        })?;
        debug_assert!(slots.is_sorted(), "rows of equally long prompts are in the order of the prompts");
        Ok(numbers(next, self.engine.decoder.layout.dtype(), |row| prompts[row].len() - 1)?)
    }

    fn step(&mut self, tokens: &[u32], past: usize) -> Result<Vec<u32>, GenerateError> {
        let (engine, cache) = self.cache()?;
        let next = engine.decoder.decode(cache, tokens, &vec![past; tokens.len()], Wanted::Largest)?;
        Ok(numbers(next, engine.decoder.layout.dtype(), |_| past)?)
    }
}

fn no_cache() -> RuntimeError {
    RuntimeError::Run { doing: "running the model", reason: "no cache was allocated".to_owned() }
}

/// The tokens with the largest logits, whatever `generation_config.json` says: a benchmark times the model.
fn numbers(next: Vec<Choice>, activations: DType, position: impl Fn(usize) -> usize) -> Result<Vec<u32>, RuntimeError> {
    let token = |(row, choice): (usize, Choice)| {
        let none = || RuntimeError::NotANumber { prompt: row, position: position(row), activations };
        choice.largest().ok_or_else(none)
    };
    next.into_iter().enumerate().map(token).collect()
}

/// What a run that reads `tokens` tokens takes beside the cache, about: of one layer in f32 the input, its norm, q k v, the
/// attention's output, gate, up and their product, and all scores over `context` positions, which ONNX Runtime's CPU kernel keeps
/// at once.
fn scratch_bytes(width: Width, tokens: u64, context: u64) -> u64 {
    let Width { hidden_size, intermediate_size, num_attention_heads } = width;
    let scores = (num_attention_heads as u64).saturating_mul(context);
    let a_token = (6 * hidden_size as u64 + 3 * intermediate_size as u64).saturating_add(scores);
    tokens.saturating_mul(a_token).saturating_mul(size_of::<f32>() as u64)
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
    fn scratch_grows_with_what_is_read_at_once_and_what_it_looks_back_on() {
        let width = Width { hidden_size: 10, intermediate_size: 20, num_attention_heads: 4 };
        // 120 numbers a token and 4 scores for each pair of tokens.
        assert_eq!(scratch_bytes(width, 50, 100), 50 * (120 + 400) * 4);
        assert_eq!(scratch_bytes(width, 50, u64::MAX), u64::MAX);
    }
}
