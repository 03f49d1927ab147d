//! How fast the device copies memory, for a yardstick: what a decoding step reads over this is how well it uses the device.

use std::time::Instant;

use ort::session::Session;
use ort::value::Tensor;

use super::cache::device_allocator;
use super::locate::runtime;
use super::memory::available;
use super::session::{self, Placement, Products, SessionPlan};
use super::{ExecutionProvider, Launch, RuntimeError, WeightKernels};
use crate::onnx::{Graph, Model, Type, encode};
use crate::tensor::DType;

/// Bytes of each of the two buffers: far more than any cache holds.
const BUFFER: usize = 1 << 30;
/// Smaller ones measure the processor's caches.
const LEAST_BUFFER: usize = 1 << 28;
/// The fastest of so many copies counts, as in STREAM: the others were disturbed.
const COPIES: usize = 12;

/// Bytes read and written a second by a copy within the device's memory; on the CPU by `threads` threads.
///
/// # Errors
/// ONNX Runtime's own message, running out of memory included.
pub fn copy_bandwidth(provider: ExecutionProvider, threads: usize) -> Result<f64, RuntimeError> {
    match provider {
        ExecutionProvider::Cpu => {
            let free = available().unwrap_or(u64::MAX) / 8;
            let bytes = usize::try_from(free).map_or(BUFFER, |free| free.min(BUFFER));
            if bytes < LEAST_BUFFER {
                let reason = format!("two buffers of {LEAST_BUFFER} bytes are needed to measure memory and not its caches");
                return Err(RuntimeError::OutOfMemory { doing: "measuring copy bandwidth", reason });
            }
            Ok(on_cpu(bytes, threads))
        }
        ExecutionProvider::Cuda => on_device(provider, BUFFER / size_of::<f32>()),
    }
}

/// Starts the device, so that what loading a model takes of its memory can be told from what the device itself takes.
pub fn start(provider: ExecutionProvider) -> Result<(), RuntimeError> {
    match provider {
        ExecutionProvider::Cpu => runtime(provider).map(drop),
        // By a session that never runs: see `DeviceMemory::zero`.
        ExecutionProvider::Cuda => idle(provider).map(drop),
    }
}

/// A session of next to nothing.
pub struct Idle {
    _session: Session,
}

/// Makes one, so that what any session takes of the device's memory can be told from what a model does.
///
/// # Errors
/// ONNX Runtime's own message.
pub fn idle(provider: ExecutionProvider) -> Result<Idle, RuntimeError> {
    Ok(Idle { _session: copier(provider, 1 << 10)? })
}

fn on_cpu(bytes: usize, threads: usize) -> f64 {
    let from = vec![1u8; bytes];
    let mut to = vec![0u8; bytes];
    let share = bytes.div_ceil(threads.max(1));
    fastest(2 * bytes, || {
        std::thread::scope(|scope| {
            for (from, to) in from.chunks(share).zip(to.chunks_mut(share)) {
                scope.spawn(|| to.copy_from_slice(std::hint::black_box(from)));
            }
        });
        std::hint::black_box(&mut to);
        Ok(())
    })
    .expect("copying slices of one length does not fail")
}

fn copier(provider: ExecutionProvider, elements: usize) -> Result<Session, RuntimeError> {
    let plan = SessionPlan {
        provider,
        threads: Some(1),
        data: None,
        weights: WeightKernels::Fused,
        placement: Placement::AllOnProvider,
        products: Products::F32,
        launch: Launch::Eager,
    };
    let graph = copy_graph(elements)?;
    session::open(&runtime(provider)?, &plan, &graph, "a graph that copies memory")
}

fn on_device(provider: ExecutionProvider, elements: usize) -> Result<f64, RuntimeError> {
    let mut session = copier(provider, elements)?;
    let allocator = device_allocator(&session, provider)?;
    let failed = RuntimeError::run::<()>;
    let doing = "measuring copy bandwidth";
    let bound = || {
        let from = Tensor::<f32>::new(&allocator, [elements])?;
        let mut to = Tensor::<f32>::new(&allocator, [1, elements])?;
        let mut binding = session.create_binding()?;
        binding.bind_input("from", &from)?;
        binding.bind_output("to", &mut to)?;
        Ok((binding, from, to))
    };
    let (binding, _from, _to) = bound().map_err(failed(doing))?;
    fastest(2 * elements * size_of::<f32>(), || session.run_binding(&binding).map(drop).map_err(RuntimeError::run(doing)))
}

/// A change of shape alone: with an output of its own, memory is copied and nothing computed.
fn copy_graph(elements: usize) -> Result<Vec<u8>, RuntimeError> {
    let graph = Graph::new("copy");
    let from = graph.input("from", Type::new(DType::F32, [elements.into()]));
    let to = graph.rename(graph.at("copy").reshape(from, &[1, elements]), "to");
    let model: Model = graph.finish(&[to]).map_err(|error| RuntimeError::Graph(Box::new(error)))?;
    encode(&model).map_err(|error| RuntimeError::Graph(Box::new(error)))
}

/// `bytes` over the time of the fastest of some runs, after one that touches the memory.
fn fastest(bytes: usize, mut run: impl FnMut() -> Result<(), RuntimeError>) -> Result<f64, RuntimeError> {
    run()?;
    let mut least = f64::INFINITY;
    for _ in 0..COPIES {
        let started = Instant::now();
        run()?;
        least = least.min(started.elapsed().as_secs_f64());
    }
    Ok(bytes as f64 / least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_takes_time_and_its_bytes_are_counted_both_ways() {
        let mut calls = 0;
        let run = || {
            calls += 1;
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(())
        };
        let rate = fastest(2_000_000, run).unwrap();
        assert!(rate > 0.0 && rate <= 2e9, "{rate}");
        assert_eq!(calls, COPIES + 1);
    }
}
