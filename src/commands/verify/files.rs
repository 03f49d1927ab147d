//! The folder's files are those of the manifest, with the sizes and hashes in it.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::Check;
use crate::artifact::hashing;
use crate::commands::CommandError;
use crate::host::{FileError, shown};
use crate::onnx::{DATA_FILE, MODEL_FILE};
use crate::record::{FileRecord, MANIFEST_FILE, Manifest};

/// No artifact is without these.
const NEEDED: [&str; 4] = [MODEL_FILE, DATA_FILE, "config.json", "tokenizer.json"];
/// So many of them are the graph's.
const GRAPH: usize = 2;
/// What nobody who runs an artifact reads may lie beside it unrecorded: model cards and licences, by the beginning or the end of
/// the name, and hidden files.
const BESIDE: (&[&str], &[&str]) = (&[".", "LICENSE", "LICENCE", "NOTICE"], &[".md"]);

/// Every file of the folder is recorded, and has the size and BLAKE3 that are.
///
/// # Errors
/// The folder cannot be listed, or a file of it cannot be read.
pub fn check(artifact: &Path, manifest: &Manifest) -> Result<Check, CommandError> {
    let recorded: BTreeSet<&str> = manifest.outputs.iter().map(|file| file.file.as_str()).collect();
    let mut failures = Vec::new();
    if recorded.len() < manifest.outputs.len() {
        failures.push("the manifest records a file twice".to_owned());
    }
    let needed = if manifest.target.is_onnx() { &NEEDED[..] } else { &NEEDED[GRAPH..] };
    let missing = needed.iter().filter(|needed| !recorded.contains(*needed));
    failures.extend(missing.map(|needed| format!("{needed} is not in the manifest")));
    for file in &manifest.outputs {
        failures.extend(complaint(artifact, file)?);
    }
    let unlisted = || FileError::at(artifact, "cannot be listed");
    for entry in std::fs::read_dir(artifact).map_err(unlisted())? {
        let name = entry.map_err(unlisted())?.file_name().to_string_lossy().into_owned();
        let is_beside =
            BESIDE.0.iter().any(|beginning| name.starts_with(beginning)) || BESIDE.1.iter().any(|end| name.ends_with(end));
        if name != MANIFEST_FILE && !is_beside && !recorded.contains(name.as_str()) {
            failures.push(format!("{} is in the folder and not in the manifest", shown(&name)));
        }
    }
    Ok(super::check("hashes", &failures, format!("{} files", manifest.outputs.len())))
}

/// What is wrong with one file. Nothing is opened but a regular file of the folder, of the recorded size.
fn complaint(artifact: &Path, FileRecord { file, bytes, blake3 }: &FileRecord) -> Result<Option<String>, CommandError> {
    let name = shown(file);
    let mut parts = Path::new(file).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == file.as_str())
        || file == MANIFEST_FILE
    {
        return Ok(Some(format!("{name} is no name of a file beside the manifest")));
    }
    let path = artifact.join(file);
    Ok(match std::fs::metadata(&path) {
        Err(_) => Some(format!("{name} is missing")),
        Ok(found) if !found.is_file() => Some(format!("{name} is no file")),
        Ok(found) if found.len() != *bytes => Some(format!("{name} has {} bytes, expected {bytes}", found.len())),
        Ok(_) if hashing::of_file(&path)? != *blake3 => Some(format!("{name} has another BLAKE3 than recorded")),
        Ok(_) => None,
    })
}
