//! Finds ONNX Runtime's shared library and opens the process's one environment.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;

use super::{ExecutionProvider, RuntimeError, disable_telemetry};
use crate::host::cache;

/// ONNX Runtime loads its CUDA execution provider from a library of its own.
const CUDA_PROVIDER: &str = "libonnxruntime_providers_cuda.so";

/// Places to look in, in this order; tests make their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// `ORT_DYLIB_PATH`: when set, nothing else is looked at.
    pub explicit: Option<PathBuf>,
    /// The folder of the running binary; its `lib` subfolder is looked at too.
    pub binary: Option<PathBuf>,
    /// What `scripts/get-onnxruntime.sh` fills: folders `<version>-<cpu|cuda>`.
    pub cache: Option<PathBuf>,
}

impl Places {
    pub fn of_process() -> Places {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Places {
            explicit: set("ORT_DYLIB_PATH"),
            binary: std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)),
            cache: cache::folder().map(|dir| dir.join("onnxruntime")),
        }
    }

    /// The library to use for `provider`.
    ///
    /// # Errors
    /// [`RuntimeError::LibraryMissing`] names every place; [`RuntimeError::NoProvider`] a CPU build where CUDA is wanted.
    pub fn find(&self, provider: ExecutionProvider) -> Result<PathBuf, RuntimeError> {
        let path = self.find_any(provider)?;
        match provider {
            ExecutionProvider::Cuda if !path.with_file_name(CUDA_PROVIDER).is_file() => {
                let reason = format!("there is no {CUDA_PROVIDER} beside it");
                Err(RuntimeError::NoProvider { provider, library: path, reason })
            }
            _ => Ok(path),
        }
    }

    fn find_any(&self, provider: ExecutionProvider) -> Result<PathBuf, RuntimeError> {
        if let Some(path) = &self.explicit {
            return Some(path.clone()).filter(|path| path.is_file()).ok_or_else(|| missing(&[path], provider, "ORT_DYLIB_PATH="));
        }
        let binary = self.binary.iter().flat_map(|dir| [dir.clone(), dir.join("lib")]);
        binary
            .clone()
            .find_map(|dir| library_in(&dir))
            .or_else(|| self.cache.as_deref().and_then(|cache| newest_cached(cache, provider)))
            .ok_or_else(|| missing(&binary.chain(self.cache.clone()).collect::<Vec<_>>(), provider, ""))
    }
}

fn missing(looked: &[impl AsRef<Path>], provider: ExecutionProvider, prefix: &str) -> RuntimeError {
    let names: Vec<String> = looked.iter().map(|path| format!("{prefix}{}", path.as_ref().display())).collect();
    let flag = match provider {
        ExecutionProvider::Cpu => "",
        ExecutionProvider::Cuda => " --cuda",
    };
    RuntimeError::LibraryMissing { looked: names.join(", "), flag }
}

/// `libonnxruntime.so`, or the highest `libonnxruntime.so.<version>`.
fn library_in(dir: &Path) -> Option<PathBuf> {
    let plain = dir.join("libonnxruntime.so");
    if plain.is_file() {
        return Some(plain);
    }
    let named = |path: PathBuf| {
        let version = path.file_name()?.to_str()?.strip_prefix("libonnxruntime.so.").map(version_of)?;
        Some((version, path))
    };
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    entries.filter_map(|entry| named(entry.path())).max().map(|(_, path)| path)
}

/// The newest build that can run `provider`. A CUDA build runs the CPU too, and comes second for it.
fn newest_cached(cache: &Path, provider: ExecutionProvider) -> Option<PathBuf> {
    let flavours: &[&str] = match provider {
        ExecutionProvider::Cpu => &["cpu", "cuda"],
        ExecutionProvider::Cuda => &["cuda"],
    };
    flavours.iter().find_map(|flavour| {
        let folder = |path: PathBuf| {
            let version = path.file_name()?.to_str()?.strip_suffix(&format!("-{flavour}")).map(version_of)?;
            Some((version, library_in(&path)?))
        };
        let entries = std::fs::read_dir(cache).ok()?.flatten();
        entries.filter_map(|entry| folder(entry.path())).max().map(|(_, path)| path)
    })
}

/// `1.32.0` as numbers, for comparison.
fn version_of(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// An opened library.
#[derive(Clone)]
pub(super) struct Runtime {
    pub path: PathBuf,
    pub environment: Environment,
}

/// `ort` allows one environment, and with it one library, in a process; it lives until the process ends.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// Opens the library on the first call; later calls get the same one, whatever they ask for.
pub(super) fn runtime(provider: ExecutionProvider) -> Result<Runtime, RuntimeError> {
    let mut opened = RUNTIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(runtime) = &*opened {
        return Ok(runtime.clone());
    }
    let path = Places::of_process().find(provider)?;
    disable_telemetry();
    let environment = ort::init_from(&path)
        .map_err(|error| unusable(&path, error))?
        .with_name("qonnx")
        .with_telemetry(false)
        .build()
        .map_err(|error| RuntimeError::LibraryUnusable { path: path.clone(), reason: error.message().to_owned() })?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    Ok(opened.insert(Runtime { path, environment }).clone())
}

fn unusable(path: &Path, error: ort::LoadDynamicError) -> RuntimeError {
    let path = path.to_owned();
    match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => {
            RuntimeError::LibraryTooOld { path, found: version_str, minimum: ort::MINOR_VERSION }
        }
        ort::LoadDynamicError::Dlopen { error, .. } => RuntimeError::LibraryUnusable { path, reason: error.to_string() },
        ort::LoadDynamicError::MissingApi { .. } => {
            RuntimeError::LibraryUnusable { path, reason: "it does not export OrtGetApiBase".to_owned() }
        }
        ort::LoadDynamicError::InvalidVersionString => {
            RuntimeError::LibraryUnusable { path, reason: "its version is not text".to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    fn places(root: &Path) -> Places {
        Places { explicit: None, binary: Some(root.join("bin")), cache: Some(root.join("cache")) }
    }

    #[test]
    fn the_explicit_path_wins_and_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("bin/libonnxruntime.so"));
        let mut places = places(root.path());
        places.explicit = Some(root.path().join("mine.so"));
        let error = places.find(ExecutionProvider::Cpu).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "ONNX Runtime's shared library was not found in ORT_DYLIB_PATH={}; run scripts/get-onnxruntime.sh, or set ORT_DYLIB_PATH",
                root.path().join("mine.so").display()
            )
        );
        put(&root.path().join("mine.so"));
        assert_eq!(places.find(ExecutionProvider::Cpu).unwrap(), root.path().join("mine.so"));
    }

    #[test]
    fn next_to_the_binary_comes_before_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        put(&root.path().join("cache/1.32.0-cpu/libonnxruntime.so.1.32.0"));
        assert_eq!(places.find(ExecutionProvider::Cpu).unwrap(), root.path().join("cache/1.32.0-cpu/libonnxruntime.so.1.32.0"));
        put(&root.path().join("bin/lib/libonnxruntime.so.1.31.1"));
        assert_eq!(places.find(ExecutionProvider::Cpu).unwrap(), root.path().join("bin/lib/libonnxruntime.so.1.31.1"));
    }

    #[test]
    fn the_newest_build_that_has_the_provider_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        for folder in ["1.9.0-cpu", "1.32.0-cpu", "1.31.1-cuda", "1.10.0-cuda"] {
            put(&root.path().join(format!("cache/{folder}/libonnxruntime.so.1.0.0")));
            put(&root.path().join(format!("cache/{folder}/{CUDA_PROVIDER}")));
        }
        let found = |provider| places.find(provider).unwrap().parent().unwrap().file_name().unwrap().to_owned();
        assert_eq!(found(ExecutionProvider::Cpu), "1.32.0-cpu");
        assert_eq!(found(ExecutionProvider::Cuda), "1.31.1-cuda");
    }

    #[test]
    fn a_cpu_build_is_refused_where_cuda_is_wanted() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("bin/libonnxruntime.so"));
        let error = places(root.path()).find(ExecutionProvider::Cuda).unwrap_err().to_string();
        let expected = format!(
            "cuda was asked for, and {}/bin/libonnxruntime.so cannot give it: there is no libonnxruntime_providers_cuda.so beside it; `qonnx doctor` lists what is missing",
            root.path().display()
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn a_missing_cuda_build_is_not_replaced_by_the_cpu_build() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("cache/1.32.0-cpu/libonnxruntime.so.1.32.0"));
        let error = places(root.path()).find(ExecutionProvider::Cuda).unwrap_err().to_string();
        let root = root.path().display();
        assert_eq!(
            error,
            format!(
                "ONNX Runtime's shared library was not found in {root}/bin, {root}/bin/lib, {root}/cache; run scripts/get-onnxruntime.sh --cuda, or set ORT_DYLIB_PATH"
            )
        );
    }
}
