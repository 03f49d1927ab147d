//! What an artifact is made for.

use serde::{Deserialize, Serialize};

/// The runtimes that an artifact is written for; what each asks for stands in `artifact/targets/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Target {
    /// ONNX Runtime, which fuses, and what is built on it: onnxruntime-genai, optimum.
    #[default]
    #[serde(rename = "ort")]
    Ort,
    /// Runtimes that know ONNX's own operators alone.
    #[serde(rename = "portable")]
    Portable,
    /// Runtimes that have MatMulNBits and fuse nothing.
    #[serde(rename = "matmulnbits")]
    MatMulNBits,
    /// transformers.js, in Node and in browsers.
    #[serde(rename = "transformers.js")]
    TransformersJs,
    /// TensorRT.
    #[serde(rename = "tensorrt")]
    TensorRt,
    /// vLLM and transformers, through compressed-tensors.
    #[serde(rename = "compressed-tensors")]
    CompressedTensors,
    /// vLLM, transformers and exllama, as GPTQ's own tools write it.
    #[serde(rename = "gptq")]
    Gptq,
    /// mlx-lm.
    #[serde(rename = "mlx")]
    Mlx,
    /// transformers, through bitsandbytes.
    #[serde(rename = "bitsandbytes")]
    Bitsandbytes,
    /// llama.cpp, and what is built on it.
    #[serde(rename = "gguf")]
    Gguf,
}

impl Target {
    pub const ALL: [Target; 10] = [
        Target::Ort,
        Target::Portable,
        Target::MatMulNBits,
        Target::TransformersJs,
        Target::TensorRt,
        Target::CompressedTensors,
        Target::Gptq,
        Target::Mlx,
        Target::Bitsandbytes,
        Target::Gguf,
    ];

    /// As on the command line and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Target::Ort => "ort",
            Target::Portable => "portable",
            Target::MatMulNBits => "matmulnbits",
            Target::TransformersJs => "transformers.js",
            Target::TensorRt => "tensorrt",
            Target::CompressedTensors => "compressed-tensors",
            Target::Gptq => "gptq",
            Target::Mlx => "mlx",
            Target::Bitsandbytes => "bitsandbytes",
            Target::Gguf => "gguf",
        }
    }

    /// Whether it is an ONNX graph; a checkpoint otherwise.
    pub fn is_onnx(self) -> bool {
        matches!(self, Target::Ort | Target::Portable | Target::MatMulNBits | Target::TransformersJs | Target::TensorRt)
    }

    /// Whether it is the default, of which manifests say nothing.
    pub fn is_ort(&self) -> bool {
        *self == Target::Ort
    }
}
