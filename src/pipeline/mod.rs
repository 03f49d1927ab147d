//! Joins the parts into what a subcommand does; owns paths, progress bars and logging.
//!
//! Each stage is a function from a request to a report; a report prints as a table for people and as one JSON object
//! for programs.

pub mod bench;
pub mod budget;
pub mod calibrate;
pub mod compare;
pub mod doctor;
pub mod evaluate;
pub mod experiment;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod packing;
pub mod plan;
pub mod quantize;
pub mod report;
pub mod sweep;
pub mod verify;

mod claims;
mod failure;
mod flags;
mod hashing;
mod interrupt;
mod memory;
pub mod outputs;
mod progress;
mod source;
mod table;

pub use failure::{UsageError, fault_of};
pub use interrupt::Interrupted;

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;

use crate::host::read;
use crate::onnx::DATA_FILE;
use crate::record::Manifest;
use crate::runtime::{Engine, EngineOptions, ExecutionProvider, LoadStage};

pub use crate::runtime::{Launch, Weights};

/// Most threads that a command starts at once.
pub const MOST_THREADS: usize = 1024;

/// Keeps rayon's threads within what a machine has, whatever `RAYON_NUM_THREADS` says.
pub fn bound_threads() {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse::<usize>().ok());
    if let Some(asked) = asked.filter(|&asked| asked > MOST_THREADS) {
        tracing::warn!(
            "RAYON_NUM_THREADS={asked} is more than {MOST_THREADS}, the most that are started; set it to the machine's cores"
        );
        if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(MOST_THREADS).build_global() {
            tracing::warn!("threads cannot be started: {error}");
        }
    }
}

/// Where an artifact is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeChoice {
    /// CUDA instead of the CPU.
    pub cuda: bool,
    /// CPU threads; one per physical core where it is not given.
    pub threads: Option<usize>,
    pub weights: Weights,
    pub launch: Launch,
}

impl RuntimeChoice {
    /// Loads the artifact in `dir`, whose weights must have the size that `manifest` records: ONNX Runtime would say of a
    /// cut-off file where it lies in memory.
    fn load(&self, dir: &Path, manifest: &Manifest) -> anyhow::Result<Engine> {
        self.load_observed(dir, manifest, &mut |_| ())
    }

    /// As [`Self::load`], observed as [`Engine::load_observed`] is.
    fn load_observed(&self, dir: &Path, manifest: &Manifest, observe: &mut dyn FnMut(LoadStage)) -> anyhow::Result<Engine> {
        let path = dir.join(DATA_FILE);
        let expected = manifest.outputs.iter().find(|file| file.file == DATA_FILE).map(|file| file.bytes);
        // Opened, because ONNX Runtime says of a file that it may not read only where in its own source that is.
        let got = match read::open(&path).and_then(|file| file.metadata()) {
            Ok(found) => Some(found.len()),
            // A missing file is named by whoever needs it.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(source::unread(&path, error)),
        };
        if let (Some(got), Some(expected)) = (got, expected)
            && got != expected
        {
            return Err(UsageError::FileSize { path: path.display().to_string(), got, expected }.into());
        }
        Ok(Engine::load_observed(dir, &self.options(), observe)?)
    }

    fn options(&self) -> EngineOptions {
        let provider = if self.cuda { ExecutionProvider::Cuda } else { ExecutionProvider::Cpu };
        EngineOptions { provider, threads: self.threads, weights: self.weights, launch: self.launch }
    }
}

/// Sends logs to stderr: warnings, with `-v` what is done, with `-vv` how. `RUST_LOG` overrides it.
pub fn logging(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "qonnx=info,warn",
        _ => "qonnx=debug,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say on stderr that stderr cannot be written to, and panic over that.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
