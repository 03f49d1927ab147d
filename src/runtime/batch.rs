//! The greedy decode loop: prompts are read once for all that share them, then every row gains a token per step.

use std::time::Instant;

use super::RuntimeError;
use super::cache::{KvCache, capacity_for};
use super::choosing::{Choice, Sequence, next_token};
use super::decoder::Wanted;
use super::engine::{Engine, Timings};
use super::prefill::Prompts;
use super::prefix::groups;
use super::text::TextStream;
use crate::generate::{Completion, Generate, GenerateError, GenerateOptions, Piece, StopReason};

impl Generate for Engine {
    fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.ids_of(text, true)
    }

    fn context_length(&self) -> usize {
        self.artifact.beside.context_length
    }

    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        observe: &mut dyn FnMut(Piece<'_>),
    ) -> Result<Vec<Completion>, GenerateError> {
        self.check(prompts, options)?;
        self.timings = Timings { prompt_tokens: prompts.iter().map(Vec::len).sum(), ..Timings::default() };
        // The tokenizer is lent to the rows while the sessions run.
        let tokenizer = self.artifact.beside.tokenizer.clone();
        let rows = prompts.iter().enumerate().map(|(prompt, ids)| Continuation {
            prompt,
            ids,
            length: ids.len(),
            last: 0,
            text: TextStream::new(&tokenizer, &options.stop),
            reason: None,
        });
        let of = if self.artifact.beside.generation.choosing.is_plain() { Wanted::Largest } else { Wanted::Scores };
        let answers = Answers { options, observe, rows: rows.collect() };
        let mut call = Call { engine: self, of, answers };
        if options.max_new_tokens > 0 && !prompts.is_empty() {
            call.run(prompts)?;
        }
        Ok(call.answers.finish()?)
    }
}

impl Engine {
    fn check(&self, prompts: &[Vec<u32>], options: &GenerateOptions) -> Result<(), GenerateError> {
        let context = self.artifact.beside.context_length;
        for (row, ids) in prompts.iter().enumerate() {
            if ids.is_empty() {
                return Err(GenerateError::EmptyPrompt { row });
            }
            if ids.len().saturating_add(options.max_new_tokens) > context {
                let (tokens, max_new_tokens) = (ids.len(), options.max_new_tokens);
                return Err(GenerateError::PromptTooLong { row, tokens, max_new_tokens, context });
            }
        }
        Ok(())
    }
}

/// One prompt on its way.
struct Continuation<'a> {
    prompt: usize,
    /// Of the prompt.
    ids: &'a [u32],
    /// Tokens in the cache.
    length: usize,
    /// Newest token, not yet in the cache.
    last: u32,
    text: TextStream<'a>,
    reason: Option<StopReason>,
}

/// What is told of the prompts' continuations, and to whom.
struct Answers<'a, 'o> {
    options: &'a GenerateOptions,
    observe: &'a mut (dyn FnMut(Piece<'_>) + 'o),
    /// In the order of the prompts.
    rows: Vec<Continuation<'a>>,
}

/// One call of `generate`.
struct Call<'a, 'o> {
    engine: &'a mut Engine,
    /// By what tokens are chosen.
    of: Wanted,
    answers: Answers<'a, 'o>,
}

impl Call<'_, '_> {
    fn run(&mut self, prompts: &[Vec<u32>]) -> Result<(), RuntimeError> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        // The last token is never read back.
        let capacity = capacity_for(longest + self.answers.options.max_new_tokens - 1);
        let started = Instant::now();
        let prompts = Prompts { ids: prompts, groups: groups(prompts), of: self.of, capacity };
        let (answers, mut cache) = (&mut self.answers, None);
        let slots = self.engine.read(prompts, &mut cache, &mut |engine, prompt, choice| answers.take(engine, prompt, choice))?;
        self.engine.timings.prefill = started.elapsed();
        let started = Instant::now();
        self.decode(cache.expect("a call has a prompt, and every prompt is in a group"), slots)?;
        self.engine.timings.decode = started.elapsed();
        Ok(())
    }

    /// Steps until every row is done. Done rows leave the batch when half of it is: copying then costs no more in all
    /// than one copy of the first batch.
    fn decode(&mut self, mut cache: KvCache, mut slots: Vec<usize>) -> Result<(), RuntimeError> {
        loop {
            let active: Vec<usize> = (0..slots.len()).filter(|&slot| self.answers.rows[slots[slot]].reason.is_none()).collect();
            if active.is_empty() {
                return Ok(());
            }
            if active.len() * 2 <= slots.len() {
                let mut smaller = self.engine.decoder.cache(active.len(), cache.capacity)?;
                self.engine.copier.select(&cache, &active, &mut smaller)?;
                cache = smaller;
                slots = active.into_iter().map(|slot| slots[slot]).collect();
            }
            self.step(&mut cache, &slots)?;
        }
    }

    /// One token for every row. Rows that are done go along as a single token and nobody looks at them.
    fn step(&mut self, cache: &mut KvCache, slots: &[usize]) -> Result<(), RuntimeError> {
        let live = |slot: usize| Some(&self.answers.rows[slots[slot]]).filter(|row| row.reason.is_none());
        let ids: Vec<u32> = (0..slots.len()).map(|slot| live(slot).map_or(0, |row| row.last)).collect();
        let past: Vec<usize> = (0..slots.len()).map(|slot| live(slot).map_or(0, |row| row.length)).collect();
        let next = self.engine.decoder.decode(cache, &ids, &past, self.of)?;
        self.engine.timings.decode_steps += 1;
        self.engine.timings.replayed_steps += usize::from(cache.recording.is_some());
        for (&prompt, token) in slots.iter().zip(next) {
            if self.answers.rows[prompt].reason.is_none() {
                self.answers.rows[prompt].length += 1;
                self.answers.take(self.engine, prompt, token)?;
            }
        }
        Ok(())
    }
}

impl Answers<'_, '_> {
    /// Gives a prompt its next token.
    fn take(&mut self, engine: &mut Engine, prompt: usize, choice: Choice) -> Result<(), RuntimeError> {
        let token = self.token(engine, prompt, choice)?;
        let beside = &engine.artifact.beside;
        let row = &mut self.rows[prompt];
        engine.timings.new_tokens += 1;
        row.last = token;
        let ends = beside.generation.eos.contains(&token);
        if ends && beside.tokenizer.is_special(token) {
            row.reason = Some(StopReason::EndOfSequence);
            return Ok(());
        }
        if row.text.push(token)? {
            row.reason = Some(StopReason::StopString);
        } else if ends {
            // A token that is not special has a text, which Hugging Face keeps.
            row.reason = Some(StopReason::EndOfSequence);
        } else if row.text.ids().len() == self.options.max_new_tokens {
            row.reason = Some(StopReason::Length);
        }
        show(self.observe, row.prompt, row.text.show());
        Ok(())
    }

    /// The token that follows in a prompt's text.
    fn token(&self, engine: &Engine, prompt: usize, choice: Choice) -> Result<u32, RuntimeError> {
        let row = &self.rows[prompt];
        let produced = row.text.ids();
        let token = match choice {
            Choice::Scores(mut scores) => {
                let ids = [row.ids, produced].concat();
                let sequence = Sequence { ids: &ids, prompt: row.ids.len(), max_new_tokens: self.options.max_new_tokens };
                let generation = &engine.artifact.beside.generation;
                next_token(&generation.choosing, &generation.eos, &mut scores, sequence)
            }
            other => other.largest(),
        };
        let position = row.ids.len() + produced.len() - 1;
        token.ok_or_else(|| RuntimeError::NotANumber { prompt, position, activations: engine.decoder.layout.dtype() })
    }

    fn finish(self) -> Result<Vec<Completion>, RuntimeError> {
        let observe = self.observe;
        let completion = |row: Continuation<'_>| {
            let (ids, text, rest) = row.text.finish()?;
            show(observe, row.prompt, &rest);
            Ok(Completion { ids, text, reason: row.reason.unwrap_or(StopReason::Length) })
        };
        self.rows.into_iter().map(completion).collect()
    }
}

fn show(observe: &mut dyn FnMut(Piece<'_>), row: usize, text: &str) {
    if !text.is_empty() {
        observe(Piece { row, text });
    }
}
