/// How quantized weights take part in products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightKernels {
    /// Unpacked inside the kernel, where ONNX Runtime can; activations as they are. On CUDA by its kernels for batches.
    Fused,
    /// As [`WeightKernels::Fused`], by the kernels that any other program gets that sets no options: on the CPU some round activations
    /// to 8 bits, on CUDA they are made for single rows.
    FusedFast,
    /// Unpacked once when the session is made: the same numbers as [`WeightKernels::Fused`] up to the order of sums, in the
    /// memory of a dense model.
    Dequantized,
}
