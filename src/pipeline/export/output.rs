//! Where an artifact goes: what may lie there already, the hidden folder it is made in, and how it gets its name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Options;
use crate::host::hidden::{Hidden, parent};
use crate::host::publish;
use crate::onnx::{DATA_FILE, MODEL_FILE};
use crate::pipeline::failure::UsageError;
use crate::record::{MANIFEST_FILE, Manifest};

/// The output, links resolved, once what a process that died has left of it is cleared; refused, before any work, where
/// something is in the way.
pub fn resolved(options: &Options) -> anyhow::Result<PathBuf> {
    let path = || options.output.display().to_string();
    if options.output.to_str().is_none() {
        return Err(UsageError::OutputNotUtf8 { path: path() }.into());
    }
    if options.output.file_name().is_none() && !options.output.exists() {
        return Err(UsageError::OutputForeign { path: path() }.into());
    }
    if !parent(&options.output).is_dir() {
        return Err(UsageError::ParentMissing { path: path() }.into());
    }
    if options.output.is_symlink() && !options.output.exists() {
        return Err(UsageError::OutputLink { path: path() }.into());
    }
    // What a link leads to is replaced, on its own disk, and the link stays.
    let resolved = fs::canonicalize(&options.output).unwrap_or_else(|_| options.output.clone());
    let put_back = || format!("output {}: what a killed export has set aside cannot be put back", path());
    if publish::recover(&resolved).with_context(put_back)? {
        tracing::warn!("output {}: an export was killed while it replaced it; the artifact that was there is back", path());
    }
    match (resolved.exists(), options.overwrite) {
        (false, _) => {}
        (true, false) => return Err(UsageError::OutputExists { path: path() }.into()),
        (true, true) => check_replaced(&resolved, &path())?,
    }
    Ok(resolved)
}

/// Only an artifact is replaced, and only one without files of somebody else's, which would go with it.
pub fn check_replaced(output: &Path, shown: &str) -> anyhow::Result<()> {
    if !output.join(MANIFEST_FILE).is_file() {
        return Err(UsageError::OutputForeign { path: shown.to_owned() }.into());
    }
    let recorded = Manifest::load(output).map(|manifest| manifest.outputs).ok();
    // Of one whose manifest is damaged: what it can have had.
    let is_kind = |name: &str| [".json", ".jinja"].iter().any(|ending| name.ends_with(ending));
    let entries = fs::read_dir(output).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    for entry in entries.with_context(|| format!("output {shown}: cannot be listed"))? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = [MANIFEST_FILE, MODEL_FILE, DATA_FILE].contains(&name.as_str())
            || recorded.as_ref().map_or(is_kind(&name), |files| files.iter().any(|file| file.file == name));
        if !is_ours || entry.path().is_dir() {
            return Err(UsageError::OutputHolds { path: shown.to_owned(), name }.into());
        }
    }
    Ok(())
}

/// A hidden folder beside the output, removed unless it is published.
pub fn begin(output: &Path) -> anyhow::Result<Hidden> {
    publish::begin_folder(output)
        .with_context(|| format!("output {}: cannot be created in {}", output.display(), parent(output).display()))
}

/// Gives the finished folder its name; what was there before goes away only after that.
pub fn publish(folder: Hidden, options: &Options) -> anyhow::Result<()> {
    let output = &options.output;
    if !options.overwrite && output.exists() {
        return Err(UsageError::OutputExists { path: output.display().to_string() }.into());
    }
    publish::folder(folder, output).with_context(|| format!("output {}: cannot be put in place", output.display()))
}
