//! The KV cache: for each layer one buffer of keys and one of values, which the graph reads as past and writes as
//! present.

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType, ValueType};

use super::recording::Recording;
use super::{ExecutionProvider, RuntimeError};
use crate::tensor::DType;

/// Capacities are multiples of this, so that calls of similar length reuse the arena's blocks.
const CAPACITY_STEP: usize = 64;

/// A recording costs as much as replaying saves in so many steps, about: on an H100 some 22 ms and 0.24 ms a step for
/// Llama-3.2-1B's shape, 1 ms and 0.17 for the embedded model, at batch 1 (`results/gpu-bench/recording.txt`). Answers to
/// questions are shorter.
const STEPS_BEFORE_RECORDING: usize = 64;

/// What all caches of a model have in common; read off the graph's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CacheLayout {
    /// Graph inputs and the outputs that go with them, `past_key_values.0.key` and `present.0.key` first.
    pub names: Vec<(String, String)>,
    pub dtype: TensorElementType,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl CacheLayout {
    /// Reads the layout of a decoder's inputs `past_key_values.{i}.{key|value}`, `[batch, kv_heads, past, head_dim]`.
    pub fn of(session: &Session) -> Option<CacheLayout> {
        let mut layout: Option<CacheLayout> = None;
        for input in session.inputs() {
            let Some(part) = input.name().strip_prefix("past_key_values.") else { continue };
            let ValueType::Tensor { ty, shape, .. } = input.dtype() else { return None };
            let &[_, kv_heads, _, head_dim] = &shape[..] else { return None };
            let (kv_heads, head_dim) = (usize::try_from(kv_heads).ok()?, usize::try_from(head_dim).ok()?);
            let one = layout.get_or_insert(CacheLayout { names: Vec::new(), dtype: *ty, kv_heads, head_dim });
            if (one.dtype, one.kv_heads, one.head_dim) != (*ty, kv_heads, head_dim) {
                return None;
            }
            one.names.push((input.name().to_owned(), format!("present.{part}")));
        }
        layout
    }

    /// Element type of keys and values, which is that of the activations.
    pub fn dtype(&self) -> DType {
        match self.dtype {
            TensorElementType::Float16 => DType::F16,
            TensorElementType::Bfloat16 => DType::BF16,
            _ => DType::F32,
        }
    }

    /// Keys and values of one position, all layers.
    pub fn bytes_per_token(&self) -> u64 {
        let element = self.dtype.byte_size(1).expect("a cache holds numbers, not strings");
        (self.names.len() * self.kv_heads * self.head_dim * element) as u64
    }
}

/// Memory of `session`'s device, from its arena.
pub(super) fn device_allocator(session: &Session, provider: ExecutionProvider) -> Result<Allocator, RuntimeError> {
    let info = match provider {
        ExecutionProvider::Cpu => MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default),
        ExecutionProvider::Cuda => MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default),
    };
    info.and_then(|info| Allocator::new(session, info)).map_err(RuntimeError::run("opening the device's memory"))
}

/// Keys and values of `rows` sequences, up to `capacity` tokens each.
pub(super) struct KvCache {
    pub rows: usize,
    pub capacity: usize,
    /// In the order of [`CacheLayout::names`]; `[rows, kv_heads, capacity, head_dim]` each.
    pub tensors: Vec<DynTensor>,
    /// Binds every tensor to the decoder, as past and as present.
    pub binding: IoBinding,
    /// Decoding steps that are launched kernel by kernel before one is recorded: a recording costs about as much. Whoever takes
    /// a cache's steps over and over sets it to 0.
    pub steps_before_recording: usize,
    /// Replayed only while nothing else that was allocated since is in use: see [`super::replay`].
    pub recording: Option<Recording>,
}

impl KvCache {
    /// Allocates a cache for `decoder`; its contents are whatever was there.
    pub fn new(
        decoder: &Session,
        allocator: &Allocator,
        layout: &CacheLayout,
        rows: usize,
        capacity: usize,
    ) -> Result<KvCache, RuntimeError> {
        let failed = RuntimeError::run::<()>("allocating the KV cache");
        let bound = || {
            let shape = [rows, layout.kv_heads, capacity, layout.head_dim];
            let tensors =
                layout.names.iter().map(|_| DynTensor::new(allocator, layout.dtype, shape)).collect::<ort::Result<_>>()?;
            let (binding, steps_before_recording) = (decoder.create_binding()?, STEPS_BEFORE_RECORDING);
            let mut cache = KvCache { rows, capacity, tensors, binding, steps_before_recording, recording: None };
            bind(layout, &mut cache.tensors, &mut cache.binding)?;
            Ok(cache)
        };
        bound().map_err(failed)
    }

    /// Binds every tensor to another binding too.
    pub fn bind(&mut self, layout: &CacheLayout, binding: &mut IoBinding) -> ort::Result<()> {
        bind(layout, &mut self.tensors, binding)
    }
}

fn bind(layout: &CacheLayout, tensors: &mut [DynTensor], binding: &mut IoBinding) -> ort::Result<()> {
    for ((past, present), tensor) in layout.names.iter().zip(tensors) {
        binding.bind_input(past, tensor)?;
        binding.bind_output(present, tensor)?;
    }
    Ok(())
}

/// Length of a tensor's memory.
pub(super) fn bytes_of(tensor: &DynTensor) -> usize {
    let element = tensor.dtype().tensor_type().expect("a tensor's type is a tensor's");
    element.byte_size(tensor.shape().num_elements()).expect("a cache holds numbers, not strings")
}

/// Zeroes a tensor that lies in the host's memory.
pub(super) fn zero_on_host(tensor: &mut DynTensor) {
    let bytes = bytes_of(tensor);
    // SAFETY: the tensor's memory is that long, and zero is a number of every type.
    unsafe { tensor.data_ptr_mut().cast::<u8>().write_bytes(0, bytes) };
}

/// The capacity to allocate for sequences of up to `tokens`.
pub(super) fn capacity_for(tokens: usize) -> usize {
    tokens.next_multiple_of(CAPACITY_STEP).max(CAPACITY_STEP)
}

#[cfg(test)]
mod tests {
    use half::f16;
    use ort::value::Tensor;

    use super::*;
    use crate::runtime::locate;

    #[test]
    fn a_tensor_is_zeroed_to_its_end() {
        let _runtime = locate::runtime(ExecutionProvider::Cpu).unwrap();
        let mut tensor = Tensor::from_array(([2, 3], vec![f16::NAN; 6])).unwrap().upcast();
        zero_on_host(&mut tensor);
        assert_eq!(tensor.try_extract_tensor::<f16>().unwrap().1, [f16::ZERO; 6]);
    }
}
