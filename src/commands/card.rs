//! `qonnx card`: what records say of an artifact, in its model card.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::artifact::card::{self, Licence};
use crate::commands::{CommandError, verify};
use crate::contract::CARD_FILE;
use crate::host::{FileError, publish, read};
use crate::record::{FileRecord, MANIFEST_FILE, Manifest, RUN_SUFFIX, RunRecord};
use crate::usage::UsageError;

/// What was written, and whose scores.
#[derive(Debug, Serialize)]
pub struct CardReport {
    pub card: PathBuf,
    pub record: PathBuf,
    /// Tasks that the record has scores of.
    pub tasks: Vec<String>,
}

/// Writes the card of `artifact` anew, with what a record in `results` says of it.
///
/// # Errors
/// The artifact or a record cannot be read; none of the records is of this artifact.
pub fn run(artifact: &Path, results: &Path) -> Result<CardReport, CommandError> {
    let mut manifest = Manifest::load(artifact)?;
    let changed = (manifest.is_as_written() == Some(false)).then(|| format!("{MANIFEST_FILE} has changed since it was written"));
    if let Some(problem) = changed.map_or_else(|| verify::damage(artifact, &manifest), |problem| Ok(Some(problem)))? {
        return Err(UsageError::CardDamaged { artifact: artifact.display().to_string(), problem }.into());
    }
    if !manifest.target.is_onnx() {
        let target = manifest.target.name();
        return Err(UsageError::CardOfCheckpoint { artifact: artifact.display().to_string(), target }.into());
    }
    let (path, record) = record_of(artifact, &manifest, results)?;
    let place = artifact.join(CARD_FILE);
    let licence = Licence::of(&read::text(&place, read::SETTINGS).unwrap_or_default());
    let text = card::card(&manifest, &licence, Some(&record.evaluation));
    let written = FileRecord {
        file: CARD_FILE.to_owned(),
        bytes: text.len() as u64,
        blake3: blake3::hash(text.as_bytes()).to_hex().to_string(),
    };
    manifest.outputs.retain(|file| file.file != CARD_FILE);
    manifest.outputs.push(written);
    manifest.seal();
    for (place, bytes) in [(&place, text.into_bytes()), (&artifact.join(MANIFEST_FILE), manifest.to_json().into_bytes())] {
        publish::file(place, &bytes).map_err(FileError::of("card", place, "cannot be written"))?;
    }
    let tasks = record.evaluation.tasks.iter().map(|task| task.task.clone()).collect();
    Ok(CardReport { card: place, record: path, tasks })
}

/// The record of the experiment that made the same data; of several the one with most scores.
fn record_of(artifact: &Path, manifest: &Manifest, results: &Path) -> Result<(PathBuf, RunRecord), CommandError> {
    let entries = std::fs::read_dir(results).map_err(FileError::of("results", results, "cannot be read"))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(RUN_SUFFIX));
    paths.sort();
    let data = manifest.graph_file().and_then(|graph| manifest.data_files(&graph).first().map(|file| &file.blake3));
    let is_of = |record: &RunRecord| record.export.as_ref().map(|export| &export.data_blake3) == data;
    let records = paths.len();
    let loaded = paths.into_iter().map(|path| Ok((RunRecord::load(&path)?, path)));
    let loaded: Vec<(RunRecord, PathBuf)> = loaded.collect::<Result<_, CommandError>>()?;
    let found = loaded.into_iter().filter(|(record, _)| data.is_some() && is_of(record));
    let found = found.max_by_key(|(record, _)| record.evaluation.tasks.len());
    let none =
        || UsageError::NoRecordOf { artifact: artifact.display().to_string(), results: results.display().to_string(), records };
    let (record, path) = found.ok_or_else(none)?;
    Ok((path, record))
}

impl fmt::Display for CardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = if self.tasks.is_empty() { "nothing".to_owned() } else { self.tasks.join(", ") };
        write!(f, "{}\nscores of {tasks} from {}", self.card.display(), self.record.display())
    }
}
