//! Decoding steps that are recorded once and replayed: CUDA graphs. A step of a small model is computed sooner than the host
//! can launch its kernels one by one.
//!
//! ONNX Runtime records the run of a number (`gpu_graph_id`) and replays it whenever that number comes again. A recording reads
//! and writes the addresses of the run that was recorded, so it has inputs and outputs of its own on the device, and belongs to
//! one cache. Its scratch memory went back to the arena when it was recorded: whoever replays it must hold nothing that was
//! allocated since then and is still to be read, other caches least of all.

use std::sync::Arc;

use ort::memory::Allocator;
use ort::session::{RunOptions, Session};
use ort::value::Tensor;

use super::RuntimeError;
use super::cache::{CacheLayout, KvCache};
use super::choosing::Choice;
use super::decoder::{index, run_in_place};
use super::device_memory::DeviceMemory;
use super::recording::Recording;
use super::specialise::{NEXT_TOKENS, POSITIONS};
use crate::contract::names::{INPUT_IDS, SEQLENS_K, TOTAL_SEQUENCE_LENGTH};

/// How the host sets a decoding step going on a GPU; on the CPU there is one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// Kernel by kernel.
    Eager,
    /// Kernel by kernel at first; when a cache has seen some steps they are recorded, and replayed from then on.
    Replayed,
}

/// Number of a run that is not recorded.
const EAGER: i32 = -1;

/// Recordings of a session after which caches are no longer recorded unasked: ONNX Runtime's CUDA provider keeps every graph
/// until the session ends. Calls of `generate` have no end, benchmarks do.
const MOST_UNASKED: i32 = 64;

/// Makes recordings of a session's runs.
pub(super) struct Recorder {
    memory: Arc<DeviceMemory>,
    eager: RunOptions,
    /// Number of the last recording; ONNX Runtime keeps 0 for itself.
    last: i32,
}

impl Recorder {
    /// For a session that was made to be recorded.
    pub fn new(memory: Arc<DeviceMemory>) -> Result<Recorder, RuntimeError> {
        Ok(Recorder { memory, eager: numbered(EAGER)?, last: 0 })
    }

    /// For runs that are not to be recorded.
    pub fn eager(&self) -> &RunOptions {
        &self.eager
    }

    /// Whether a cache whose user did not ask for it is worth a recording.
    pub fn has_room(&self) -> bool {
        self.last < MOST_UNASKED
    }

    /// A step of `cache`, not yet run. `total` is the most positions that a row may ever have: the host reads the number while
    /// it records and never again.
    pub fn prepare(
        &mut self,
        session: &Session,
        allocator: &Allocator,
        layout: &CacheLayout,
        cache: &mut KvCache,
        total: usize,
    ) -> Result<Recording, RuntimeError> {
        self.last += 1;
        let options = numbered(self.last)?;
        let rows = cache.rows;
        let prepared = || {
            let mut binding = session.create_binding()?;
            cache.bind(layout, &mut binding)?;
            let ids = Tensor::<i64>::new(allocator, [rows, 1])?;
            let seqlens_k = Tensor::<i32>::new(allocator, [rows])?;
            let mut next = Tensor::<i64>::new(allocator, [rows, 1, 1])?;
            binding.bind_input(INPUT_IDS, &ids)?;
            binding.bind_input(SEQLENS_K, &seqlens_k)?;
            binding.bind_input(TOTAL_SEQUENCE_LENGTH, &Tensor::from_array(([0usize; 0], vec![index(total)]))?)?;
            // A step reads one token, so the first place of each row is the one whose output is wanted.
            binding.bind_input(POSITIONS, &Tensor::from_array(([rows, 1, 1], vec![0i64; rows]))?)?;
            binding.bind_output(NEXT_TOKENS, &mut next)?;
            Ok(Recording { binding, options, ids, seqlens_k, next })
        };
        prepared().map_err(RuntimeError::run::<()>("preparing a CUDA graph"))
    }

    /// Reads one token into each row behind the `past` tokens that are there, and returns the greedy next tokens. The first
    /// call runs the step several times and records it: what a step writes does not depend on what it wrote before.
    pub fn step(
        &self,
        session: &mut Session,
        step: &mut Recording,
        ids: &[u32],
        past: &[usize],
    ) -> Result<Vec<Choice>, RuntimeError> {
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let seqlens_k: Vec<i32> = past.iter().map(|&past| index(past)).collect();
        self.memory.write(&mut step.ids, &ids)?;
        self.memory.write(&mut step.seqlens_k, &seqlens_k)?;
        self.memory.settle()?;
        run_in_place(session, &step.binding, Some(&step.options))
            .map_err(RuntimeError::run::<()>("recording or replaying a CUDA graph"))?;
        Ok(self.memory.read(&step.next)?.into_iter().map(Choice::of).collect())
    }
}

fn numbered(number: i32) -> Result<RunOptions, RuntimeError> {
    let options = || {
        let mut options = RunOptions::new()?;
        options.set("gpu_graph_id", number.to_string())?;
        Ok(options)
    };
    options().map_err(RuntimeError::run::<()>("numbering a run"))
}
