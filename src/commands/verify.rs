//! Whether an artifact is what its manifest says, and does what its weights say.
//!
//! The manifest is believed about nothing that the folder, the graph and config.json say themselves: which files and weights
//! there are, and how many bytes each has. A folder may hold anything, so each is checked before the next is built on it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::artifact::targets;
use crate::commands::CommandError;
use crate::commands::RuntimeChoice;
use crate::record::{Manifest, Target};
use crate::runtime;

mod checkpoint;
mod files;
mod gguf;
mod golden;
mod sizes;
mod weights;

/// One check.
#[derive(Debug, Serialize)]
pub struct Check {
    pub what: &'static str,
    pub passed: bool,
    pub detail: String,
}

/// `qonnx verify`'s answer.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    pub artifact: PathBuf,
    pub checks: Vec<Check>,
}

/// `qonnx verify`.
///
/// # Errors
/// The folder is no artifact, or what runs one is missing; whatever is wrong with the artifact is a failed check.
pub fn run(artifact: &Path, runtime: &RuntimeChoice) -> Result<VerifyReport, CommandError> {
    let manifest = Manifest::load(artifact)?;
    let options = runtime.options();
    let mut checks = vec![manifest_itself(&manifest), files::check(artifact, &manifest)?];
    // What does not have its recorded bytes is not worth running.
    if checks.iter().all(|check| check.passed) {
        match targets::checkpoint_form(manifest.target) {
            Some(form) if manifest.target == Target::Gguf => checks.push(gguf::check(artifact, &manifest, form)),
            Some(form) => checks.push(checkpoint::check(artifact, &manifest, form)?),
            None => {
                runtime::require(options.provider)?;
                checks.extend(weights::check(artifact, &manifest)?);
                checks.push(golden::check(artifact, &manifest, &options));
            }
        }
    }
    Ok(VerifyReport { artifact: artifact.to_owned(), checks })
}

fn check(what: &'static str, failures: &[String], passed: String) -> Check {
    match failures {
        [] => Check { what, passed: true, detail: passed },
        [first, ..] => Check { what, passed: false, detail: format!("{} wrong: {first}", failures.len()) },
    }
}

/// The manifest says what it said when it was written.
fn manifest_itself(manifest: &Manifest) -> Check {
    let (passed, detail) = match manifest.is_as_written() {
        Some(true) => (true, "as it was written"),
        Some(false) => (false, "has changed since it was written; export it again"),
        None => {
            (true, "has no hash of itself: an earlier version wrote it, and what it says of calibration and errors is unchecked")
        }
    };
    Check { what: "manifest", passed, detail: detail.to_owned() }
}

impl VerifyReport {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |check: &Check| format!("{:<5} {:<34}{}", if check.passed { "ok" } else { "FAIL" }, check.what, check.detail);
        f.write_str(&self.checks.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}
