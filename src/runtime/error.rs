use std::path::PathBuf;

use super::ExecutionProvider;
use crate::companions::CompanionError;
use crate::fault::Fault;
use crate::generate::GenerateError;
use crate::host::interrupt::Interrupted;
use crate::tensor::DType;

/// What can go wrong between an artifact's folder and its first token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The caller's token was cancelled.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error(
        "ONNX Runtime's shared library was not found in {looked}; run scripts/get-onnxruntime.sh{flag}, or set ORT_DYLIB_PATH"
    )]
    LibraryMissing { looked: String, flag: &'static str },
    #[error(
        "{path} is ONNX Runtime {found}, and 1.{minimum} or newer is needed; run scripts/get-onnxruntime.sh, or set ORT_DYLIB_PATH to a newer one",
        path = .path.display()
    )]
    LibraryTooOld { path: PathBuf, found: String, minimum: u32 },
    #[error(
        "{path} cannot be loaded as ONNX Runtime: {reason}; run scripts/get-onnxruntime.sh, or set ORT_DYLIB_PATH to another one",
        path = .path.display()
    )]
    LibraryUnusable { path: PathBuf, reason: String },
    #[error(
        "{provider} was asked for, and {library} cannot give it: {reason}; `qonnx doctor` lists what is missing",
        library = .library.display()
    )]
    NoProvider { provider: ExecutionProvider, library: PathBuf, reason: String },
    #[error("{dir} is not a qonnx artifact: there is no {missing}; make one with `qonnx export MODEL -o DIR`", dir = .dir.display())]
    NotAnArtifact { dir: PathBuf, missing: String },
    #[error("{path} cannot be read", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Companion(#[from] CompanionError),
    #[error("{folder} cannot be used for the profile that ONNX Runtime writes; set TMPDIR to a folder with room", folder = .folder.display())]
    Scratch {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the profile that ONNX Runtime wrote to {path} is cut off; check the disk's space there", path = .path.display())]
    Profile {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "{path} is in the portable form, which other runtimes run; export the model with --target ort, the default, to generate with it, \
         score and time it here",
        path = .path.display()
    )]
    PortableForm { path: PathBuf },
    #[error("{path} is not a decoder that qonnx wrote: {what}; export it again", path = .path.display())]
    Layout { path: PathBuf, what: String },
    #[error("a graph of the runtime could not be built")]
    Graph(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("ONNX Runtime refused {what}: {reason}")]
    Session { what: String, reason: String },
    #[error("ONNX Runtime failed while {doing}: {reason}")]
    Run { doing: &'static str, reason: String },
    #[error("CUDA's driver failed while {doing}: {reason}")]
    Driver { doing: &'static str, reason: String },
    #[error("out of memory while {doing}: {reason}")]
    OutOfMemory { doing: &'static str, reason: String },
    #[error(
        "prompt {prompt}: the model's output is not a number (NaN or infinite) at position {position} or before it{cause}",
        cause = overflow(*.activations)
    )]
    NotANumber { prompt: usize, position: usize, activations: DType },
}

impl RuntimeError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            RuntimeError::Companion(error) => error.fault(),
            RuntimeError::NotAnArtifact { .. } | RuntimeError::Layout { .. } | RuntimeError::PortableForm { .. } => {
                Fault::BadInput
            }
            RuntimeError::LibraryMissing { .. }
            | RuntimeError::LibraryTooOld { .. }
            | RuntimeError::LibraryUnusable { .. }
            | RuntimeError::NoProvider { .. }
            | RuntimeError::Read { .. }
            | RuntimeError::Scratch { .. }
            | RuntimeError::Profile { .. }
            | RuntimeError::Graph(_)
            | RuntimeError::Session { .. }
            | RuntimeError::Run { .. }
            | RuntimeError::Driver { .. }
            | RuntimeError::OutOfMemory { .. }
            | RuntimeError::Interrupted(_)
            | RuntimeError::NotANumber { .. } => Fault::Failed,
        }
    }

    /// Turns what `ort` says while a session runs into one of ours.
    pub(super) fn run<R>(doing: &'static str) -> impl FnOnce(ort::Error<R>) -> RuntimeError {
        move |error| {
            let reason = error.message().trim().to_owned();
            if is_out_of_memory(&reason) {
                RuntimeError::OutOfMemory { doing, reason }
            } else {
                RuntimeError::Run { doing, reason }
            }
        }
    }

    /// Turns what `ort` says while a session is made into one of ours.
    pub(super) fn session<R>(what: &str) -> impl FnOnce(ort::Error<R>) -> RuntimeError {
        move |error| RuntimeError::Session { what: what.to_owned(), reason: error.message().trim().to_owned() }
    }
}

impl From<CompanionError> for GenerateError {
    fn from(error: CompanionError) -> GenerateError {
        GenerateError::Backend(Box::new(error))
    }
}

impl From<RuntimeError> for GenerateError {
    fn from(error: RuntimeError) -> GenerateError {
        match error {
            RuntimeError::Interrupted(error) => GenerateError::Interrupted(error),
            RuntimeError::OutOfMemory { .. } => GenerateError::OutOfMemory(Box::new(error)),
            RuntimeError::NotANumber { prompt, position, activations } => {
                GenerateError::NotANumber { prompt, position, advice: overflow(activations) }
            }
            _ => GenerateError::Backend(Box::new(error)),
        }
    }
}

/// What is likely where activations of this type end in what is no number, and the way out.
fn overflow(activations: DType) -> &'static str {
    match activations {
        DType::F16 => ": an activation left the range of f16 (65504); export again with --dtype f32",
        _ => ": a weight or an activation is not; `qonnx verify` checks the weights",
    }
}

/// ONNX Runtime has no code for it: its arenas, C++'s allocator, CUDA and cuBLAS each say it in words of their own.
fn is_out_of_memory(reason: &str) -> bool {
    let words = ["Failed to allocate memory", "bad_alloc", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "Available memory of"];
    words.iter().any(|words| reason.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_memory_is_told_from_other_failures() {
        let said = [
            "Non-zero status code returned while running MatMul node. Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:359 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 137438953472",
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=h",
            "std::bad_alloc",
        ];
        assert!(said.iter().all(|reason| is_out_of_memory(reason)));
        assert!(!is_out_of_memory("CUDA failure 700: an illegal memory access was encountered"));
    }
}
