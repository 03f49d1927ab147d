//! The folder's files are those of the manifest, with the sizes and hashes in it.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::Check;
use crate::artifact::hashing;
use crate::commands::CommandError;
use crate::contract::{CONFIG_FILE, GraphFile, ONNX_FOLDER, TOKENIZER_FILE};
use crate::host::{FileError, shown};
use crate::record::{FileRecord, MANIFEST_FILE, Manifest};

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
    let missing = needed(manifest).into_iter().filter(|needed| !recorded.contains(needed.as_str()));
    failures.extend(missing.map(|needed| format!("{needed} is not in the manifest")));
    for file in &manifest.outputs {
        failures.extend(complaint(artifact, file)?);
    }
    for name in names(artifact, &recorded)? {
        let is_beside =
            BESIDE.0.iter().any(|beginning| name.starts_with(beginning)) || BESIDE.1.iter().any(|end| name.ends_with(end));
        if name != MANIFEST_FILE && !is_beside && !recorded.contains(name.as_str()) {
            failures.push(format!("{} is in the folder and not in the manifest", shown(&name)));
        }
    }
    Ok(super::check("hashes", &failures, format!("{} files", manifest.outputs.len())))
}

/// No artifact of its target is without these.
fn needed(manifest: &Manifest) -> Vec<String> {
    let graph = manifest.graph_file().unwrap_or_default();
    let of_graph = [graph.path().to_owned(), graph.data_path(0)].into_iter().filter(|_| manifest.target.is_onnx());
    of_graph.chain([CONFIG_FILE, TOKENIZER_FILE].map(str::to_owned)).collect()
}

/// What lies in the folder; the folder of graphs is looked into where the artifact has one.
fn names(artifact: &Path, recorded: &BTreeSet<&str>) -> Result<Vec<String>, CommandError> {
    let has_folder = recorded.iter().any(|file| is_in_folder(file));
    let mut names = listed(artifact)?;
    if has_folder && artifact.join(ONNX_FOLDER).is_dir() {
        names.retain(|name| name != ONNX_FOLDER);
        names.extend(listed(&artifact.join(ONNX_FOLDER))?.into_iter().map(|name| format!("{ONNX_FOLDER}/{name}")));
    }
    Ok(names)
}

fn listed(folder: &Path) -> Result<Vec<String>, CommandError> {
    let unlisted = || FileError::at(folder, "cannot be listed");
    let entries = std::fs::read_dir(folder).map_err(unlisted())?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    Ok(entries.map(name).collect::<std::io::Result<_>>().map_err(unlisted())?)
}

/// Whether a file of this name may lie in the folder of graphs.
fn is_in_folder(file: &str) -> bool {
    file.contains('/') && GraphFile::at(file).or_else(|| GraphFile::with_data_at(file)).is_some()
}

/// What is wrong with one file. Nothing is opened but a regular file of the folder, of the recorded size.
fn complaint(artifact: &Path, FileRecord { file, bytes, blake3 }: &FileRecord) -> Result<Option<String>, CommandError> {
    let name = shown(file);
    let mut parts = Path::new(file).components();
    let is_beside = matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == file.as_str());
    if !(is_beside || is_in_folder(file)) || file == MANIFEST_FILE {
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
