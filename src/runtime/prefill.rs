//! Prompts read into the rows of a cache: the one way in which generation and benchmarks do it.

use super::cache::KvCache;
use super::choosing::Choice;
use super::decoder::Wanted;
use super::engine::Engine;
use super::prefix::{Group, Member};
use super::{ExecutionProvider, RuntimeError};

/// Most tokens, pads included, of prompts that are read side by side on a GPU: enough to fill it.
const SIDE_BY_SIDE_TOKENS: usize = 16384;

/// Most of them that may be pads.
const MAX_PADS: f64 = 0.25;

/// Prompts to be read.
pub(super) struct Prompts<'a> {
    /// None of them empty.
    pub ids: &'a [Vec<u32>],
    /// Which of them read together what they have in common.
    pub groups: Vec<Group>,
    pub of: Wanted,
    /// Positions of each row of a cache.
    pub capacity: usize,
}

/// Is given what follows a prompt as soon as it is known: the engine, which prompt, its first token.
pub(super) type First<'f> = dyn FnMut(&mut Engine, usize, Choice) -> Result<(), RuntimeError> + 'f;

impl Engine {
    /// Reads every prompt, and hands over what follows each. Row `i` of `cache` then belongs to the prompt that is at `i` of what
    /// is returned; of equally long ones that share nothing, to prompt `i`.
    ///
    /// A cache that is there has a row for each prompt and nothing but numbers in it; one that is not is made.
    pub(super) fn read(
        &mut self,
        prompts: Prompts<'_>,
        cache: &mut Option<KvCache>,
        first: &mut First<'_>,
    ) -> Result<Vec<usize>, RuntimeError> {
        let before = self.decoder.prefills;
        let Prompts { ids, groups, of, capacity } = prompts;
        let batch = PrefillBatch { prompts: ids.len(), capacity, cache, slots: Vec::with_capacity(ids.len()) };
        let mut reading = Reading { engine: self, prompts: ids, of, first, batch };
        reading.run(groups)?;
        let slots = reading.batch.slots;
        self.timings.prefill_runs += self.decoder.prefills - before;
        Ok(slots)
    }

    fn empty_cache(&self, rows: usize, capacity: usize) -> Result<KvCache, RuntimeError> {
        let mut cache = self.decoder.cache(rows, capacity)?;
        self.decoder.clear(&mut cache)?;
        Ok(cache)
    }
}

/// Prompts while they are read.
struct Reading<'a, 'f> {
    engine: &'a mut Engine,
    prompts: &'a [Vec<u32>],
    of: Wanted,
    first: &'a mut First<'f>,
    batch: PrefillBatch<'a>,
}

impl Reading<'_, '_> {
    fn run(&mut self, groups: Vec<Group>) -> Result<(), RuntimeError> {
        let (alone, shared): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| group.members.len() == 1);
        let alone: Vec<usize> = alone.iter().map(|group| group.trunk).collect();
        for group in &shared {
            self.read_group(group)?;
        }
        for together in side_by_side(self.engine.provider, &alone, |prompt| self.prompts[prompt].len()) {
            self.read_together(&together)?;
        }
        Ok(())
    }

    fn read_group(&mut self, group: &Group) -> Result<(), RuntimeError> {
        let ids = &self.prompts[group.trunk];
        let (ending, branching): (Vec<Member>, Vec<Member>) =
            group.members.iter().partition(|member| member.shared == self.prompts[member.prompt].len());
        let mut ends: Vec<usize> = ending.iter().map(|member| member.shared - 1).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut trunk = self.engine.empty_cache(1, self.batch.capacity)?;
        let next = self.engine.decoder.prefill(&mut trunk, ids, 0, &ends, self.of)?;
        self.engine.timings.prefill_tokens += ids.len();
        for member in &ending {
            let end = ends.binary_search(&(member.shared - 1)).expect("ends holds the end of every ending member");
            (self.first)(self.engine, member.prompt, next[end].clone())?;
        }
        for member in &branching {
            self.read_branch(&trunk, *member)?;
        }
        let pairs: Vec<(usize, usize)> = ending.iter().map(|member| (0, member.prompt)).collect();
        self.batch.add(self.engine, &trunk, &pairs)
    }

    /// What a prompt has of its own, behind what it shares with `trunk`.
    fn read_branch(&mut self, trunk: &KvCache, Member { prompt, shared }: Member) -> Result<(), RuntimeError> {
        let mut branch = self.engine.decoder.cache(1, self.batch.capacity)?;
        self.engine.copier.select(trunk, &[0], &mut branch)?;
        let own = &self.prompts[prompt][shared..];
        let end = self.prompts[prompt].len() - 1;
        let mut next = self.engine.decoder.prefill(&mut branch, own, shared, &[end], self.of)?;
        self.engine.timings.prefill_tokens += own.len();
        (self.first)(self.engine, prompt, next.remove(0))?;
        self.batch.add(self.engine, &branch, &[(0, prompt)])
    }

    /// Prompts that share nothing. Where they are all there are, they are read where they stay.
    fn read_together(&mut self, together: &[usize]) -> Result<(), RuntimeError> {
        let mut part = None;
        let is_all = together.len() == self.prompts.len();
        let place = if is_all { &mut *self.batch.cache } else { &mut part };
        let cache = match place {
            Some(cache) => cache,
            None => place.insert(self.engine.empty_cache(together.len(), self.batch.capacity)?),
        };
        let ids: Vec<&[u32]> = together.iter().map(|&prompt| self.prompts[prompt].as_slice()).collect();
        let next = match ids.as_slice() {
            [ids] => self.engine.decoder.prefill(cache, ids, 0, &[ids.len() - 1], self.of)?,
            _ => self.engine.decoder.prefill_batch(cache, &ids, self.of)?,
        };
        self.engine.timings.prefill_tokens += ids.iter().map(|ids| ids.len()).sum::<usize>();
        for (&prompt, choice) in together.iter().zip(next) {
            (self.first)(self.engine, prompt, choice)?;
        }
        let Some(part) = part else {
            self.batch.slots.extend(together);
            return Ok(());
        };
        let pairs: Vec<(usize, usize)> = together.iter().copied().enumerate().collect();
        self.batch.add(self.engine, &part, &pairs)
    }
}

/// The rows that prompts are read into.
struct PrefillBatch<'a> {
    prompts: usize,
    capacity: usize,
    cache: &'a mut Option<KvCache>,
    /// Which prompt each row so far belongs to.
    slots: Vec<usize>,
}

impl PrefillBatch<'_> {
    /// Adds rows of `from`: pairs of (row of `from`, prompt).
    fn add(&mut self, engine: &mut Engine, from: &KvCache, pairs: &[(usize, usize)]) -> Result<(), RuntimeError> {
        let (rows, prompts): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
        let cache = match self.cache {
            Some(cache) => cache,
            None => self.cache.insert(engine.decoder.cache(self.prompts, self.capacity)?),
        };
        if rows.len() == self.prompts {
            engine.copier.select(from, &rows, cache)?;
        } else {
            let places: Vec<(usize, usize)> = rows.into_iter().zip(self.slots.len()..).collect();
            engine.copier.place(from, &places, cache)?;
        }
        self.slots.extend(prompts);
        Ok(())
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
