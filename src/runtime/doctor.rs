//! What this machine offers: ONNX Runtime, CUDA's libraries, GPUs.

use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use ort::ep::{self, ExecutionProvider as _};

use super::locate::{Places, runtime};
use super::{ExecutionProvider, RuntimeError};

/// Facts for `qonnx doctor`.
#[derive(Debug)]
pub struct Doctor {
    /// The library that was opened for the execution provider that was asked for.
    pub library: Result<Library, RuntimeError>,
    /// Where the library lies that `--ep cuda` would open, or why there is none.
    pub cuda_library: Result<PathBuf, RuntimeError>,
    /// What the CUDA execution provider loads.
    pub cuda: Vec<SharedLibrary>,
    /// The GPUs, or why there are none.
    pub gpus: Result<Vec<Gpu>, String>,
}

/// The ONNX Runtime that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    pub path: PathBuf,
    /// `1.32.0`; `1.32` where the file's name does not say more.
    pub version: String,
    /// What it says about its own build: commit, compiler flags.
    pub build: String,
    /// Execution providers it was compiled with, of those that qonnx uses.
    pub providers: Vec<ExecutionProvider>,
}

/// A library of CUDA's, and why it cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLibrary {
    pub name: &'static str,
    pub missing: Option<String>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    pub memory_bytes: u64,
    pub driver: String,
    /// Major and minor compute capability: 9 and 0 for an H200.
    pub compute_capability: (i32, i32),
}

/// What onnxruntime-gpu 1.31 for CUDA 13 needs. cuDNN is not among them: a decoder has no use for it.
const CUDA_LIBRARIES: [&str; 5] = ["libcuda.so.1", "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"];

/// Looks at the machine. A missing part is an answer, not an error.
pub fn doctor(provider: ExecutionProvider) -> Doctor {
    let library = runtime(provider).map(|runtime| Library {
        version: version(&runtime.path),
        build: ort::info().to_owned(),
        providers: compiled_in(),
        path: runtime.path,
    });
    Doctor {
        library,
        cuda_library: Places::of_process().find(ExecutionProvider::Cuda),
        cuda: CUDA_LIBRARIES.into_iter().map(probe).collect(),
        gpus: gpus().map_err(|error| error.to_string()),
    }
}

/// The wheel's file name ends in the version; the library's interface tells the minor version alone.
fn version(path: &Path) -> String {
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_prefix("libonnxruntime.so.") {
        Some(version) if version.contains('.') => version.to_owned(),
        _ => ort::util::probe(path).map_or_else(String::new, |minor| format!("1.{minor}")),
    }
}

fn compiled_in() -> Vec<ExecutionProvider> {
    let available = [(ExecutionProvider::Cpu, ep::CPU::is_available()), (ExecutionProvider::Cuda, ep::CUDA::is_available())];
    available.into_iter().filter(|(_, available)| matches!(available, Ok(true))).map(|(provider, _)| provider).collect()
}

fn probe(name: &'static str) -> SharedLibrary {
    let reason = |error: &dyn std::error::Error| error.source().map_or_else(|| error.to_string(), ToString::to_string);
    SharedLibrary { name, missing: ort::util::preload_dylib(name).err().map(|error| reason(&error)) }
}

fn gpus() -> Result<Vec<Gpu>, NvmlError> {
    let nvml = Nvml::init()?;
    (0..nvml.device_count()?).map(|index| gpu(&nvml, index)).collect()
}

/// The GPU that is NVML's number `index`.
pub(super) fn gpu(nvml: &Nvml, index: u32) -> Result<Gpu, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let capability = device.cuda_compute_capability()?;
    Ok(Gpu {
        name: device.name()?,
        memory_bytes: device.memory_info()?.total,
        driver: nvml.sys_driver_version()?,
        compute_capability: (capability.major, capability.minor),
    })
}
