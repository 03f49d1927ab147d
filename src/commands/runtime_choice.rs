//! Where an artifact is to run, and how it is loaded for that.

use std::io::ErrorKind;
use std::path::Path;

use crate::commands::CommandError;
use crate::host::interrupt::CancelToken;
use crate::host::{FileError, read};
use crate::record::Manifest;
use crate::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, LoadStage, WeightKernels};
use crate::usage::UsageError;

/// Where an artifact is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeChoice {
    pub provider: ExecutionProvider,
    /// CPU threads; one per physical core where it is not given.
    pub threads: Option<usize>,
    pub weights: WeightKernels,
    pub launch: Launch,
    /// Ends what runs before its next step.
    pub cancel: CancelToken,
}

impl RuntimeChoice {
    /// Loads the artifact in `dir`, whose weights must have the size that `manifest` records: ONNX Runtime would say of a
    /// cut-off file where it lies in memory.
    pub(crate) fn load(&self, dir: &Path, manifest: &Manifest) -> Result<Engine, CommandError> {
        self.load_observed(dir, manifest, &mut |_| ())
    }

    /// As [`Self::load`], observed as [`Engine::load_observed`] is.
    pub(crate) fn load_observed(
        &self,
        dir: &Path,
        manifest: &Manifest,
        observe: &mut dyn FnMut(LoadStage),
    ) -> Result<Engine, CommandError> {
        check_data(dir, manifest)?;
        let mut engine = Engine::load_observed(dir, &self.options(), observe)?;
        engine.cancelled_by(self.cancel.clone());
        Ok(engine)
    }

    pub(crate) fn options(&self) -> EngineOptions {
        EngineOptions { provider: self.provider, threads: self.threads, weights: self.weights, launch: self.launch }
    }
}

/// Refuses an artifact of which a data file cannot be read or has not the size that its manifest records: ONNX Runtime says of such
/// a file only where in its own source that is.
pub(crate) fn check_data(dir: &Path, manifest: &Manifest) -> Result<(), CommandError> {
    if !manifest.target.is_onnx() {
        let (dir, target) = (dir.display().to_string(), manifest.target.name());
        return Err(UsageError::ArtifactOfOthers { dir, target }.into());
    }
    let graph = manifest.graph_file().unwrap_or_default();
    manifest.data_files(&graph).into_iter().try_for_each(|recorded| check_file(&dir.join(&recorded.file), recorded.bytes))
}

fn check_file(path: &Path, expected: u64) -> Result<(), CommandError> {
    let shown = || path.display().to_string();
    match read::open(path).and_then(|file| file.metadata()) {
        Ok(found) if found.len() == expected => Ok(()),
        Ok(found) => Err(UsageError::FileSize { path: shown(), got: found.len(), expected }.into()),
        // A missing file is named by whoever needs it.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if read::is_wrong_file(&error) => {
            Err(UsageError::DataFileUnfit { path: shown(), problem: error.to_string() }.into())
        }
        Err(error) => Err(FileError::at(path, "cannot be read")(error).into()),
    }
}
