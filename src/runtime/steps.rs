//! The decode loop's runs one by one, for whoever times them: the same calls that [`Generate`](crate::generate::Generate)
//! makes.

use super::cache::{KvCache, capacity_for};
use super::engine::Engine;
use super::memory::available;
use super::{ExecutionProvider, RuntimeError};
use crate::generate::{GenerateError, Steps};

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

    fn allocate(&mut self, rows: usize, tokens: usize) -> Result<(), GenerateError> {
        self.release();
        let capacity = capacity_for(tokens);
        if self.engine.provider == ExecutionProvider::Cpu {
            // Linux lends more memory than it has and ends the process that uses it.
            let needed = self.cache_bytes(rows.saturating_mul(capacity));
            refuse_beyond(needed, available())?;
        }
        let mut cache = self.engine.decoder.cache(rows, capacity)?;
        self.engine.copier.clear(&self.engine.decoder.layout, &mut cache)?;
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
        Ok(engine.decoder.prefill_batch(cache, &prompts)?)
    }

    fn step(&mut self, tokens: &[u32], past: usize) -> Result<Vec<u32>, GenerateError> {
        let (engine, cache) = self.cache()?;
        Ok(engine.decoder.decode(cache, tokens, &vec![past; tokens.len()])?)
    }
}

fn refuse_beyond(needed: u64, available: Option<u64>) -> Result<(), RuntimeError> {
    match available.filter(|&available| needed > available) {
        Some(available) => {
            let reason = format!("it takes {needed} bytes, and {available} are free");
            Err(RuntimeError::OutOfMemory { doing: "allocating the KV cache", reason })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_does_not_fit_is_refused_with_both_sizes() {
        assert!(refuse_beyond(10, Some(10)).is_ok());
        assert!(refuse_beyond(u64::MAX, None).is_ok());
        let error = GenerateError::from(refuse_beyond(11, Some(10)).unwrap_err());
        let GenerateError::OutOfMemory(cause) = error else { panic!("{error}") };
        assert_eq!(cause.to_string(), "out of memory while allocating the KV cache: it takes 11 bytes, and 10 are free");
    }
}
