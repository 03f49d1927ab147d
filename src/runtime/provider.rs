use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of ONNX Runtime's execution providers runs the model. The asked-for one runs it, or loading fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ExecutionProvider {
    #[default]
    Cpu,
    Cuda,
}

impl ExecutionProvider {
    /// Whether the model runs on a device with memory of its own, whose kernels are launched from here.
    pub const fn is_gpu(self) -> bool {
        matches!(self, ExecutionProvider::Cuda)
    }

    /// As flags, sweep files and records spell it.
    pub const fn name(self) -> &'static str {
        match self {
            ExecutionProvider::Cpu => "cpu",
            ExecutionProvider::Cuda => "cuda",
        }
    }

    /// ONNX Runtime's name for it.
    pub const fn onnxruntime_name(self) -> &'static str {
        match self {
            ExecutionProvider::Cpu => "CPUExecutionProvider",
            ExecutionProvider::Cuda => "CUDAExecutionProvider",
        }
    }
}

impl fmt::Display for ExecutionProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
