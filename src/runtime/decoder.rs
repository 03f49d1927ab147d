//! One run of the specialised graph: tokens in, greedy next tokens or logits out, keys and values into the cache.

use std::sync::Arc;

use half::f16;
use ort::AsPointer;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{Tensor, TensorElementType};

use super::cache::{CacheLayout, KvCache, device_allocator, zero_on_host};
use super::choosing::Choice;
use super::device_memory::DeviceMemory;
use super::replay::{Launch, Recorder};
use super::specialise::{NEXT_TOKENS, POSITIONS};
use super::{ExecutionProvider, RuntimeError};
use crate::contract::names::{INPUT_IDS, LOGITS, SEQLENS_K, TOTAL_SEQUENCE_LENGTH};
use crate::host::interrupt::CancelToken;

/// Tokens that a prompt is read by at once. Attention over a chunk takes memory for chunk × context scores a head; on
/// the CPU larger chunks are no faster.
const fn chunk(provider: ExecutionProvider) -> usize {
    match provider {
        ExecutionProvider::Cpu => 512,
        ExecutionProvider::Cuda => 4096,
    }
}

/// The session of the specialised graph.
pub(super) struct Decoder {
    session: Session,
    allocator: Allocator,
    /// Of the GPU, where the session runs on one.
    memory: Option<Arc<DeviceMemory>>,
    /// Where logits are wanted.
    host: MemoryInfo<'static>,
    /// Where steps are recorded.
    recorder: Option<Recorder>,
    /// Rows of the rotary tables: no position may lie behind them.
    max_positions: usize,
    pub layout: CacheLayout,
    pub chunk: usize,
    /// Runs so far that read prompts.
    pub prefills: usize,
    /// Looked at before each run.
    pub cancel: CancelToken,
}

/// What is wanted of the places after which a token follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The token with the largest score.
    Largest,
    /// All scores, by which the host chooses. They come to it after every run, and nothing is replayed.
    Scores,
}

/// What one run reads.
struct Step<'a> {
    /// `[rows, length]`, row by row.
    ids: &'a [u32],
    rows: usize,
    /// Positions of each row after the run, minus one: `[rows]`.
    seqlens_k: Vec<i32>,
    /// Positions of the longest row after the run.
    total: usize,
    /// Places in each row after which an output is wanted: `[rows, n]`, row by row.
    wanted: &'a [usize],
}

impl Decoder {
    /// Takes over a session of a graph made by [`specialise`](super::specialise), whose rotary tables have `max_positions`
    /// rows. `launch` is what the session was made for.
    pub fn new(
        session: Session,
        provider: ExecutionProvider,
        launch: Launch,
        max_positions: usize,
    ) -> Result<Decoder, RuntimeError> {
        let layout = CacheLayout::of(&session).ok_or_else(|| RuntimeError::Session {
            what: "the decoder".to_owned(),
            reason: "its caches past_key_values.{i}.{key|value} differ in type or shape".to_owned(),
        })?;
        let allocator = device_allocator(&session, provider)?;
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
            .map_err(RuntimeError::run("opening the host's memory"))?;
        let memory = (provider == ExecutionProvider::Cuda).then(DeviceMemory::open).transpose()?.map(Arc::new);
        let recorder = match &memory {
            Some(memory) if launch == Launch::Replayed => Some(Recorder::new(memory.clone())?),
            _ => None,
        };
        let chunk = chunk(provider);
        Ok(Decoder {
            session,
            allocator,
            memory,
            host,
            recorder,
            max_positions,
            layout,
            chunk,
            prefills: 0,
            cancel: CancelToken::NEVER,
        })
    }

    /// A cache whose contents are whatever was there.
    pub fn cache(&self, rows: usize, capacity: usize) -> Result<KvCache, RuntimeError> {
        let mut cache = KvCache::new(&self.session, &self.allocator, &self.layout, rows, capacity)?;
        if self.recorder.as_ref().is_some_and(|recorder| !recorder.has_room()) {
            cache.steps_before_recording = usize::MAX;
        }
        Ok(cache)
    }

    /// Zeroes a cache. Attention kernels may multiply what lies behind a row's end by a weight of zero, and uninitialised
    /// memory may hold NaN.
    pub fn clear(&self, cache: &mut KvCache) -> Result<(), RuntimeError> {
        let Some(memory) = &self.memory else {
            cache.tensors.iter_mut().for_each(zero_on_host);
            return Ok(());
        };
        cache.tensors.iter_mut().try_for_each(|tensor| memory.zero(tensor))?;
        memory.settle()
    }

    /// Reads `ids` into the one row of `cache` behind the `past` tokens that are there, and returns what follows
    /// each of the places `ends` (ascending, counted from the row's beginning).
    pub fn prefill(
        &mut self,
        cache: &mut KvCache,
        ids: &[u32],
        past: usize,
        ends: &[usize],
        of: Wanted,
    ) -> Result<Vec<Choice>, RuntimeError> {
        let (mut next, mut is_broken) = (Vec::with_capacity(ends.len()), false);
        for (chunk, start) in ids.chunks(self.chunk).zip((past..).step_by(self.chunk)) {
            let total = start + chunk.len();
            let inside: Vec<usize> = ends.iter().filter(|&&end| (start..total).contains(&end)).map(|&end| end - start).collect();
            // A run without outputs is not worth a second graph: one is computed and dropped.
            let wanted: &[usize] = if inside.is_empty() { &[0] } else { &inside };
            let step = Step { ids: chunk, rows: 1, seqlens_k: vec![index(total - 1)], total, wanted };
            self.cancel.check()?;
            self.prefills += 1;
            let choices = self.choices(cache, &step, of)?;
            is_broken |= choices.contains(&Choice::NotANumber);
            let choices = choices.into_iter().take(inside.len());
            // Places behind one that is no number read it.
            next.extend(choices.map(|choice| if is_broken { Choice::NotANumber } else { choice }));
        }
        Ok(next)
    }

    /// Reads one prompt into each row of an empty cache, padded on the right, and returns what follows each.
    pub fn prefill_batch(&mut self, cache: &mut KvCache, prompts: &[&[u32]], of: Wanted) -> Result<Vec<Choice>, RuntimeError> {
        let length = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let mut ids = vec![0; length * prompts.len()];
        for (row, prompt) in ids.chunks_mut(length).zip(prompts) {
            row[..prompt.len()].copy_from_slice(prompt);
        }
        let wanted: Vec<usize> = prompts.iter().map(|ids| ids.len() - 1).collect();
        let seqlens_k = prompts.iter().map(|ids| index(ids.len() - 1)).collect();
        let step = Step { ids: &ids, rows: prompts.len(), seqlens_k, total: length, wanted: &wanted };
        self.cancel.check()?;
        self.prefills += 1;
        let mut choices = self.choices(cache, &step, of)?;
        for (choice, prompt) in choices.iter_mut().zip(prompts) {
            // A pad may be what is no number, and nobody reads it: the prompt by itself says.
            if *choice == Choice::NotANumber && prompt.len() < length {
                let mut alone = self.cache(1, cache.capacity)?;
                self.clear(&mut alone)?;
                *choice = self.prefill(&mut alone, prompt, 0, &[prompt.len() - 1], of)?.remove(0);
            }
        }
        Ok(choices)
    }

    /// Reads one token into each row behind the `past` tokens that are there, and returns what follows each.
    pub fn decode(&mut self, cache: &mut KvCache, ids: &[u32], past: &[usize], of: Wanted) -> Result<Vec<Choice>, RuntimeError> {
        self.cancel.check()?;
        if let Some(recorder) = self.recorder.as_mut().filter(|_| of == Wanted::Largest) {
            if cache.recording.is_none() && cache.steps_before_recording == 0 {
                let total = cache.capacity.min(self.max_positions);
                let prepared = recorder.prepare(&self.session, &self.allocator, &self.layout, cache, total)?;
                cache.recording = Some(prepared);
            }
            if let Some(recording) = &mut cache.recording {
                return recorder.step(&mut self.session, recording, ids, past);
            }
            cache.steps_before_recording -= 1;
        }
        let total = past.iter().max().map_or(1, |past| past + 1);
        let seqlens_k = past.iter().map(|&past| index(past)).collect();
        self.choices(cache, &Step { ids, rows: ids.len(), seqlens_k, total, wanted: &vec![0; ids.len()] }, of)
    }

    /// Reads `ids` into the one row of `cache` behind the `past` tokens that are there, and returns the logits after
    /// each of them: `[ids.len(), vocab_size]`, row by row.
    pub fn logits(&mut self, cache: &mut KvCache, ids: &[u32], past: usize) -> Result<Vec<f32>, RuntimeError> {
        let wanted: Vec<usize> = (0..ids.len()).collect();
        let total = past + ids.len();
        let step = Step { ids, rows: 1, seqlens_k: vec![index(total - 1)], total, wanted: &wanted };
        Ok(self.scores(cache, &step)?.0)
    }

    /// The logits at the wanted places, `[rows, n, vocab_size]`, row by row, and what `next_tokens` says.
    fn scores(&mut self, cache: &mut KvCache, step: &Step<'_>) -> Result<(Vec<f32>, Vec<Choice>), RuntimeError> {
        let mut inner = || {
            let mut next = bind(&mut cache.binding, step)?;
            cache.binding.bind_output(NEXT_TOKENS, &mut next)?;
            // Bound anew for each run, so that its size may change.
            cache.binding.bind_output_to_device(LOGITS, &self.host)?;
            let outputs = match &self.recorder {
                Some(recorder) => self.session.run_binding_with_options(&cache.binding, recorder.eager())?,
                None => self.session.run_binding(&cache.binding)?,
            };
            let logits = match outputs[LOGITS].dtype().tensor_type() {
                Some(TensorElementType::Float16) => {
                    let (_, logits) = outputs[LOGITS].try_extract_tensor::<f16>()?;
                    logits.iter().map(|logit| logit.to_f32()).collect()
                }
                _ => outputs[LOGITS].try_extract_tensor::<f32>()?.1.to_vec(),
            };
            drop(outputs);
            Ok((logits, choices(&next)?))
        };
        inner().map_err(RuntimeError::run::<()>("running the model"))
    }

    /// What follows the wanted places, `[rows, n]`, row by row.
    fn choices(&mut self, cache: &mut KvCache, step: &Step<'_>, of: Wanted) -> Result<Vec<Choice>, RuntimeError> {
        if of == Wanted::Scores {
            let (scores, next) = self.scores(cache, step)?;
            let scores = scores.chunks(scores.len() / step.wanted.len());
            let pair = |(scores, next): (&[f32], Choice)| match next {
                Choice::NotANumber => next,
                _ => Choice::Scores(scores.to_vec()),
            };
            return Ok(scores.zip(next).map(pair).collect());
        }
        let mut inner = || {
            let mut next = bind(&mut cache.binding, step)?;
            cache.binding.bind_output(NEXT_TOKENS, &mut next)?;
            run_in_place(&mut self.session, &cache.binding, self.recorder.as_ref().map(Recorder::eager))?;
            choices(&next)
        };
        inner().map_err(RuntimeError::run::<()>("running the model"))
    }
}

fn choices(next: &Tensor<i64>) -> ort::Result<Vec<Choice>> {
    Ok(next.try_extract_tensor::<i64>()?.1.iter().copied().map(Choice::of).collect())
}

/// Binds what a run reads, caches aside; returns room for what it says of the wanted places.
fn bind(binding: &mut IoBinding, step: &Step<'_>) -> ort::Result<Tensor<i64>> {
    let (length, wanted) = (step.ids.len() / step.rows, step.wanted.len() / step.rows);
    let ids: Vec<i64> = step.ids.iter().map(|&id| i64::from(id)).collect();
    let places: Vec<i64> = step.wanted.iter().map(|&place| place as i64).collect();
    binding.bind_input(INPUT_IDS, &Tensor::from_array(([step.rows, length], ids))?)?;
    binding.bind_input(SEQLENS_K, &Tensor::from_array(([step.rows], step.seqlens_k.clone()))?)?;
    binding.bind_input(TOTAL_SEQUENCE_LENGTH, &Tensor::from_array(([0usize; 0], vec![index(step.total)]))?)?;
    binding.bind_input(POSITIONS, &Tensor::from_array(([step.rows, wanted, 1], places))?)?;
    Tensor::new(&Allocator::default(), [step.rows, wanted, 1])
}

/// Runs into outputs that all have memory already. `Session::run_binding` would look at every one of them, two for each
/// layer, after every step.
pub(super) fn run_in_place(session: &mut Session, binding: &IoBinding, options: Option<&RunOptions>) -> ort::Result<()> {
    let options = options.map_or(std::ptr::null(), AsPointer::ptr);
    // SAFETY: the pointers belong to values that live through the call, the binding was made by this session, and the
    // exclusive borrow keeps every other run of it away. The status is handed over, and freed, once.
    unsafe {
        let status = (ort::api().RunWithBinding)(session.ptr().cast_mut(), options, binding.ptr());
        ort::Error::result_from_status(status)
    }
}

/// Positions are far below `i32::MAX`: a cache of that many tokens fits no memory.
pub(super) fn index(position: usize) -> i32 {
    i32::try_from(position).expect("positions are limited by the context length")
}
