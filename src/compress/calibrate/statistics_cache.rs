//! Statistics in files, for other exports of the same model and set: `--save-stats`.

use std::path::{Path, PathBuf};

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Numbers, TensorFile, TensorFileError};
use crate::compress::CompressError;
use crate::host::publish::PartialFile;
use crate::host::{FileError, in_full};
use crate::quant::InputStats;
use crate::record::MANIFEST_FILE;
use crate::usage::UsageError;

/// What names the folder.
const FLAG: &str = "--save-stats";
/// Hexadecimal digits of the key in a file's name.
const DIGITS: usize = 32;

/// A folder of statistics, each under a hash of all that determines it.
#[derive(Debug, Clone)]
pub struct StatisticsCache {
    folder: PathBuf,
}

/// The note in a file of statistics.
#[derive(Serialize, Deserialize)]
struct Note {
    tokens: u64,
}

impl StatisticsCache {
    /// Refuses a folder that can hold no statistics, and makes nothing.
    ///
    /// # Errors
    /// It is an artifact's, or holds something else: a checkpoint's folder, say, whose shards these files would be taken for.
    pub fn check(folder: &Path) -> Result<(), CompressError> {
        let shown = || folder.display().to_string();
        let foreign = |file: String| Err(UsageError::StatisticsForeign { folder: shown(), file }.into());
        let artifact = [Some(folder), folder.parent()].into_iter().flatten().find(|folder| folder.join(MANIFEST_FILE).is_file());
        if artifact.is_some() {
            return Err(UsageError::StatisticsOfOutput { folder: shown() }.into());
        }
        if !folder.exists() {
            return Ok(());
        }
        if !folder.is_dir() {
            return foreign(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        let entries = std::fs::read_dir(folder).map_err(FileError::of(FLAG, folder, "cannot be read"))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !is_ours(name)).min().map_or(Ok(()), foreign)
    }

    /// In `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// As [`Self::check`], and where nothing can be written there.
    pub fn open(folder: &Path) -> Result<StatisticsCache, CompressError> {
        StatisticsCache::check(folder)?;
        std::fs::create_dir_all(folder).map_err(FileError::of(FLAG, folder, "cannot be made"))?;
        let cache = StatisticsCache { folder: folder.to_owned() };
        // Before the work that would be kept.
        let probe = PartialFile::create(&cache.file(&blake3::hash(b"")));
        probe.map_err(FileError::of(FLAG, folder, "cannot be written to"))?;
        Ok(cache)
    }

    fn file(&self, key: &blake3::Hash) -> PathBuf {
        self.folder.join(format!("{}.safetensors", &key.to_hex()[..DIGITS]))
    }

    /// The statistics of `key`, if they are there as they were written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, key: &blake3::Hash) -> Result<Option<InputStats>, CompressError> {
        let file = self.file(key);
        if !file.is_file() {
            return Ok(None);
        }
        match read(&file) {
            Err(error) if !is_unreadable(&error) => {
                tracing::warn!("statistics are made again: {}", in_full(&error));
                Ok(None)
            }
            read => {
                tracing::info!("statistics read from {}", file.display());
                read.map(Some)
            }
        }
    }

    /// Keeps statistics under `key`.
    pub fn write(&self, key: &blake3::Hash, stats: &InputStats) -> Result<(), CompressError> {
        write(stats, &self.file(key))
    }
}

/// Statistics, and what is hidden: a file that was never finished, a file manager's own.
fn is_ours(name: &str) -> bool {
    let is_key = |stem: &str| stem.len() == DIGITS && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.starts_with('.') || name.strip_suffix(".safetensors").is_some_and(is_key)
}

/// Whether the disk is at fault, and not what lies on it.
pub fn is_unreadable(error: &CompressError) -> bool {
    matches!(error, CompressError::TensorFile(TensorFileError::Read { .. }))
}

fn write(stats: &InputStats, path: &Path) -> Result<(), CompressError> {
    let mut file = TensorFile::default();
    file.note = serde_json::to_string(&Note { tokens: stats.tokens }).expect("a note is plain data");
    for (name, matrix) in [("gram", Some(&stats.gram)), ("cross", stats.cross.as_ref())] {
        if let Some(matrix) = matrix {
            file.put(name, matrix.shape(), Numbers::F32(matrix.iter().copied().collect()));
        }
    }
    for (name, vector) in [("mean_abs", &stats.mean_abs), ("max_abs", &stats.max_abs)] {
        file.put(name, &[vector.len()], Numbers::F32(vector.clone()));
    }
    Ok(file.write(path)?)
}

fn read(path: &Path) -> Result<InputStats, CompressError> {
    let problem = "these are no statistics; remove the file";
    let damaged = |source| CompressError::Damaged { file: path.to_owned(), problem: problem.to_owned(), source };
    let mut file = TensorFile::read(path)?;
    let note: Note = serde_json::from_str(&file.note).map_err(|error| damaged(Some(error.into())))?;
    let mut square = |name: &str| -> Option<Array2<f32>> {
        let (shape, values) = file.take_f32(name)?;
        Array2::from_shape_vec((*shape.first()?, *shape.get(1)?), values).ok()
    };
    let gram = square("gram").ok_or_else(|| damaged(None))?;
    let cross = square("cross");
    let (_, mean_abs) = file.take_f32("mean_abs").ok_or_else(|| damaged(None))?;
    let (_, max_abs) = file.take_f32("max_abs").ok_or_else(|| damaged(None))?;
    let stats = InputStats { tokens: note.tokens, gram, mean_abs, max_abs, cross };
    is_sound(&stats).then_some(stats).ok_or_else(|| damaged(None))
}

/// Whether shapes agree and no number is one that statistics cannot have.
fn is_sound(stats: &InputStats) -> bool {
    let width = stats.mean_abs.len();
    let squares = [Some(&stats.gram), stats.cross.as_ref()];
    let agree = stats.max_abs.len() == width && squares.iter().flatten().all(|square| square.dim() == (width, width));
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    let squares_finite = squares.iter().flatten().all(|square| square.iter().all(|value| value.is_finite()));
    agree
        && stats.tokens > 0
        && squares_finite
        && finite(&stats.mean_abs)
        && finite(&stats.max_abs)
        && stats.gram.diag().iter().all(|&power| power >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_read_back_as_themselves() {
        let square = |factor: f32| Array2::from_shape_fn((5, 5), |(i, j)| factor * (i + j) as f32 / 7.0);
        let stats = InputStats {
            tokens: 12345,
            gram: square(1.0),
            mean_abs: vec![0.1; 5],
            max_abs: vec![3.5; 5],
            cross: Some(square(-0.3)),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        write(&stats, &path).unwrap();
        assert_eq!(read(&path).unwrap(), stats);
        let without = InputStats { cross: None, ..stats };
        write(&without, &path).unwrap();
        assert_eq!(read(&path).unwrap(), without);
    }

    #[test]
    fn a_folder_of_something_else_is_refused_and_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let stats = folder.path().join("stats");
        let kept = StatisticsCache::open(&stats).unwrap();
        std::fs::write(kept.file(&blake3::hash(b"key")), "").unwrap();
        std::fs::write(stats.join(".hidden"), "").unwrap();
        assert!(StatisticsCache::open(&stats).is_ok());
        std::fs::write(stats.join("model.safetensors"), "").unwrap();
        let said = StatisticsCache::open(&stats).unwrap_err().to_string();
        assert!(said.contains("holds model.safetensors, which is no statistics"), "{said}");
    }

    #[test]
    fn damaged_statistics_are_refused_by_their_file() {
        let sound = InputStats {
            tokens: 7,
            gram: Array2::from_elem((3, 3), 0.5),
            mean_abs: vec![0.1; 3],
            max_abs: vec![1.0; 3],
            cross: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        let damages: [fn(&mut InputStats); 6] = [
            |stats| stats.max_abs.truncate(2),
            |stats| stats.mean_abs.push(0.0),
            |stats| stats.gram = Array2::zeros((2, 2)),
            |stats| stats.gram[[0, 1]] = f32::NAN,
            |stats| stats.gram[[1, 1]] = -1.0,
            |stats| stats.tokens = 0,
        ];
        for damage in damages {
            let mut stats = sound.clone();
            damage(&mut stats);
            write(&stats, &path).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("stats: these are no statistics; remove the file"), "{error}");
        }
    }
}
