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
}

impl Target {
    pub const ALL: [Target; 3] = [Target::Ort, Target::Portable, Target::MatMulNBits];

    /// As on the command line and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Target::Ort => "ort",
            Target::Portable => "portable",
            Target::MatMulNBits => "matmulnbits",
        }
    }

    /// Whether it is the default, of which manifests say nothing.
    pub fn is_ort(&self) -> bool {
        *self == Target::Ort
    }
}
