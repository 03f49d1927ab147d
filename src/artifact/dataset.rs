//! A data set as the user names it: a file, or one of the Hugging Face hub.

use std::path::{Path, PathBuf};

use super::{hashing, source};
use crate::artifact::ArtifactError;
use crate::eval::coqa::{self, Dataset};
use crate::usage::UsageError;

/// A data file, or the validation split of a hub data set.
pub fn load(data: &str) -> Result<Dataset, ArtifactError> {
    let mut whole: Option<Dataset> = None;
    for file in &files(data)? {
        let shard = coqa::load(file)?;
        let mixed = || UsageError::DataSetMixed { id: data.to_owned(), file: file.display().to_string() };
        whole = Some(match whole {
            None => shard,
            Some(before) => before.followed_by(shard).ok_or_else(mixed)?,
        });
    }
    Ok(whole.ok_or_else(|| UsageError::DataSetEmpty { id: data.to_owned() })?)
}

/// As [`load`], and BLAKE3 of its files.
pub fn load_hashed(data: &str) -> Result<(Dataset, String), ArtifactError> {
    let dataset = load(data)?;
    let hashes = files(data)?.iter().map(|file| hashing::of_file(file)).collect::<Result<Vec<_>, ArtifactError>>()?;
    Ok((dataset, blake3::hash(hashes.join("\n").as_bytes()).to_hex().to_string()))
}

fn files(data: &str) -> Result<Vec<PathBuf>, ArtifactError> {
    let is_repo = !Path::new(data).exists() && data.split('/').count() == 2 && Path::new(data).extension().is_none();
    if is_repo { Ok(source::hub()?.dataset(data, Some("validation"))?) } else { Ok(vec![PathBuf::from(data)]) }
}
