//! The greedy decode loop: prompts are read once for all that share them, then every row gains a token per step.

use std::time::Instant;

use super::cache::{KvCache, capacity_for};
use super::choosing::{Choice, Sequence, next_token};
use super::decoder::Wanted;
use super::engine::{Engine, Timings};
use super::prefix::{Group, Member, groups};
use super::text::TextStream;
use super::{ExecutionProvider, RuntimeError};
use crate::generate::{Completion, Generate, GenerateError, GenerateOptions, Piece, StopReason};

/// Most tokens, pads included, of prompts that are read side by side on a GPU: enough to fill it.
const SIDE_BY_SIDE_TOKENS: usize = 16384;

/// Most of them that may be pads.
const MAX_PADS: f64 = 0.25;

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
        let rows = prompts.iter().enumerate().map(|(prompt, ids)| Row {
            prompt,
            ids,
            length: ids.len(),
            last: 0,
            text: TextStream::new(&tokenizer, &options.stop),
            reason: None,
        });
        let of = if self.artifact.beside.generation.choosing.is_plain() { Wanted::Largest } else { Wanted::Scores };
        let mut call = Call { engine: self, options, of, observe, rows: rows.collect() };
        if options.max_new_tokens > 0 && !prompts.is_empty() {
            call.run(prompts)?;
        }
        Ok(call.finish()?)
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
struct Row<'a> {
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

/// One call of `generate`.
struct Call<'a, 'o> {
    engine: &'a mut Engine,
    options: &'a GenerateOptions,
    /// By what tokens are chosen.
    of: Wanted,
    observe: &'a mut (dyn FnMut(Piece<'_>) + 'o),
    /// In the order of the prompts.
    rows: Vec<Row<'a>>,
}

impl Call<'_, '_> {
    fn run(&mut self, prompts: &[Vec<u32>]) -> Result<(), RuntimeError> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        // The last token is never read back.
        let capacity = capacity_for(longest + self.options.max_new_tokens - 1);
        let started = Instant::now();
        let (cache, slots) = self.prefill(prompts, capacity)?;
        self.engine.timings.prefill = started.elapsed();
        let started = Instant::now();
        self.decode(cache, slots)?;
        self.engine.timings.decode = started.elapsed();
        Ok(())
    }

    /// Reads every prompt and takes its first token. Returns a cache of which row `i` belongs to prompt `slots[i]`.
    fn prefill(&mut self, prompts: &[Vec<u32>], capacity: usize) -> Result<(KvCache, Vec<usize>), RuntimeError> {
        let (alone, shared): (Vec<Group>, Vec<Group>) = groups(prompts).into_iter().partition(|group| group.members.len() == 1);
        let alone: Vec<usize> = alone.iter().map(|group| group.trunk).collect();
        let side_by_side = side_by_side(self.engine.provider, &alone, |prompt| prompts[prompt].len());
        let mut batch = Batch { prompts: prompts.len(), capacity, filled: None };
        for group in &shared {
            self.prefill_group(prompts, group, &mut batch)?;
        }
        for together in side_by_side {
            self.prefill_together(prompts, &together, &mut batch)?;
        }
        Ok(batch.filled.expect("a call has a prompt, and every prompt is in a group"))
    }

    fn prefill_group(&mut self, prompts: &[Vec<u32>], group: &Group, batch: &mut Batch) -> Result<(), RuntimeError> {
        let ids = &prompts[group.trunk];
        let (ending, branching): (Vec<Member>, Vec<Member>) =
            group.members.iter().partition(|member| member.shared == prompts[member.prompt].len());
        let mut ends: Vec<usize> = ending.iter().map(|member| member.shared - 1).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut trunk = self.empty(1, batch.capacity)?;
        let next = self.engine.decoder.prefill(&mut trunk, ids, 0, &ends, self.of)?;
        self.engine.timings.prefill_tokens += ids.len();
        for member in &ending {
            let end = ends.binary_search(&(member.shared - 1)).expect("ends holds the end of every ending member");
            self.take(member.prompt, next[end].clone())?;
        }
        let pairs: Vec<(usize, usize)> = ending.iter().map(|member| (0, member.prompt)).collect();
        for member in &branching {
            let mut branch = self.engine.decoder.cache(1, batch.capacity)?;
            self.engine.copier.select(&trunk, &[0], &mut branch)?;
            let own = &prompts[member.prompt][member.shared..];
            let end = prompts[member.prompt].len() - 1;
            let mut next = self.engine.decoder.prefill(&mut branch, own, member.shared, &[end], self.of)?;
            self.engine.timings.prefill_tokens += own.len();
            self.take(member.prompt, next.remove(0))?;
            batch.add(self.engine, branch, &[(0, member.prompt)])?;
        }
        batch.add(self.engine, trunk, &pairs)
    }

    fn prefill_together(&mut self, prompts: &[Vec<u32>], together: &[usize], batch: &mut Batch) -> Result<(), RuntimeError> {
        let mut cache = self.empty(together.len(), batch.capacity)?;
        let ids: Vec<&[u32]> = together.iter().map(|&prompt| prompts[prompt].as_slice()).collect();
        let next = match ids.as_slice() {
            [ids] => self.engine.decoder.prefill(&mut cache, ids, 0, &[ids.len() - 1], self.of)?,
            _ => self.engine.decoder.prefill_batch(&mut cache, &ids, self.of)?,
        };
        self.engine.timings.prefill_tokens += ids.iter().map(|ids| ids.len()).sum::<usize>();
        for (&prompt, token) in together.iter().zip(next) {
            self.take(prompt, token)?;
        }
        let pairs: Vec<(usize, usize)> = together.iter().copied().enumerate().collect();
        batch.add(self.engine, cache, &pairs)
    }

    fn empty(&self, rows: usize, capacity: usize) -> Result<KvCache, RuntimeError> {
        let mut cache = self.engine.decoder.cache(rows, capacity)?;
        self.engine.decoder.clear(&mut cache)?;
        Ok(cache)
    }

    /// Steps until every row is done. Done rows leave the batch when half of it is: copying then costs no more in all
    /// than one copy of the first batch.
    fn decode(&mut self, mut cache: KvCache, mut slots: Vec<usize>) -> Result<(), RuntimeError> {
        loop {
            let active: Vec<usize> = (0..slots.len()).filter(|&slot| self.rows[slots[slot]].reason.is_none()).collect();
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
        let live = |slot: usize| Some(&self.rows[slots[slot]]).filter(|row| row.reason.is_none());
        let ids: Vec<u32> = (0..slots.len()).map(|slot| live(slot).map_or(0, |row| row.last)).collect();
        let past: Vec<usize> = (0..slots.len()).map(|slot| live(slot).map_or(0, |row| row.length)).collect();
        let next = self.engine.decoder.decode(cache, &ids, &past, self.of)?;
        self.engine.timings.decode_steps += 1;
        self.engine.timings.replayed_steps += usize::from(cache.recording.is_some());
        for (&prompt, token) in slots.iter().zip(next) {
            if self.rows[prompt].reason.is_none() {
                self.rows[prompt].length += 1;
                self.take(prompt, token)?;
            }
        }
        Ok(())
    }

    /// Gives a prompt its next token.
    fn take(&mut self, prompt: usize, choice: Choice) -> Result<(), RuntimeError> {
        let token = self.token(prompt, choice)?;
        let beside = &self.engine.artifact.beside;
        let row = &mut self.rows[prompt];
        self.engine.timings.new_tokens += 1;
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
    fn token(&self, prompt: usize, choice: Choice) -> Result<u32, RuntimeError> {
        let row = &self.rows[prompt];
        let produced = row.text.ids();
        let token = match choice {
            Choice::Scores(mut scores) => {
                let ids = [row.ids, produced].concat();
                let sequence = Sequence { ids: &ids, prompt: row.ids.len(), max_new_tokens: self.options.max_new_tokens };
                let generation = &self.engine.artifact.beside.generation;
                next_token(&generation.choosing, &generation.eos, &mut scores, sequence)
            }
            other => other.largest(),
        };
        let position = row.ids.len() + produced.len() - 1;
        token.ok_or_else(|| RuntimeError::NotANumber { prompt, position, activations: self.engine.decoder.layout.dtype() })
    }

    fn finish(self) -> Result<Vec<Completion>, RuntimeError> {
        let observe = self.observe;
        let completion = |row: Row<'_>| {
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

/// The decode batch while prompts are read into it.
struct Batch {
    prompts: usize,
    capacity: usize,
    /// The cache, and which prompt each of its rows belongs to.
    filled: Option<(KvCache, Vec<usize>)>,
}

impl Batch {
    /// Adds rows of `from`: pairs of (row of `from`, prompt).
    fn add(&mut self, engine: &mut Engine, from: KvCache, pairs: &[(usize, usize)]) -> Result<(), RuntimeError> {
        let (rows, prompts): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
        let Some((cache, slots)) = &mut self.filled else {
            self.filled = Some(self.first(engine, from, &rows, prompts)?);
            return Ok(());
        };
        let places: Vec<(usize, usize)> = rows.iter().enumerate().map(|(index, &row)| (row, slots.len() + index)).collect();
        engine.copier.place(&from, &places, cache)?;
        slots.extend(prompts);
        Ok(())
    }

    /// The first source: it is the whole batch already, or fills it at once, or its first rows.
    fn first(
        &self,
        engine: &mut Engine,
        from: KvCache,
        rows: &[usize],
        prompts: Vec<usize>,
    ) -> Result<(KvCache, Vec<usize>), RuntimeError> {
        if prompts.len() == self.prompts && rows.iter().copied().eq(0..from.rows) {
            return Ok((from, prompts));
        }
        let mut cache = engine.decoder.cache(self.prompts, self.capacity)?;
        if prompts.len() == self.prompts {
            engine.copier.select(&from, rows, &mut cache)?;
        } else {
            let places: Vec<(usize, usize)> = rows.iter().copied().zip(0..).collect();
            engine.copier.place(&from, &places, &mut cache)?;
        }
        Ok((cache, prompts))
    }
}

/// Which unrelated prompts are read side by side, padded to the longest. On the CPU each alone: one prompt keeps it
/// busy, and pads would be work. On a GPU as many of similar length as fill it.
fn side_by_side(provider: ExecutionProvider, prompts: &[usize], length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let mut by_length = prompts.to_vec();
    by_length.sort_by_key(|&prompt| std::cmp::Reverse(length(prompt)));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for prompt in by_length {
        let fits = |batch: &Vec<usize>| {
            let padded = length(batch[0]) * (batch.len() + 1);
            let tokens: usize = batch.iter().chain([&prompt]).map(|&prompt| length(prompt)).sum();
            padded <= SIDE_BY_SIDE_TOKENS && (padded - tokens) as f64 <= MAX_PADS * padded as f64
        };
        match batches.last_mut() {
            Some(batch) if provider == ExecutionProvider::Cuda && fits(batch) => batch.push(prompt),
            _ => batches.push(vec![prompt]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_reads_prompts_of_similar_length_side_by_side() {
        let lengths = [100, 90, 1000, 10, 99, 8000, 9000];
        let batches = |provider| side_by_side(provider, &[0, 1, 2, 3, 4, 5, 6], |prompt| lengths[prompt]);
        assert_eq!(batches(ExecutionProvider::Cuda), [vec![6], vec![5], vec![2], vec![0, 4, 1], vec![3]]);
        assert_eq!(batches(ExecutionProvider::Cpu), [[6], [5], [2], [0], [4], [1], [3]]);
    }
}
