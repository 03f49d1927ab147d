//! A file of an artifact or a quantized checkpoint, before it is written.

use std::fs;
use std::path::{Path, PathBuf};

use super::hashing;
use crate::artifact::ArtifactError;
use crate::host::FileError;
use crate::record::FileRecord;

/// A file of a folder that is made.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedFile {
    /// Below the folder; a folder in it is there already.
    pub name: String,
    pub content: Content,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// What another file holds.
    Copied(PathBuf),
    Made(Vec<u8>),
}

impl NamedFile {
    /// A file of these bytes.
    pub fn made(name: &str, bytes: Vec<u8>) -> NamedFile {
        NamedFile { name: name.to_owned(), content: Content::Made(bytes) }
    }

    /// How long a file is that is made; 0 of one that is copied.
    pub fn made_bytes(&self) -> u64 {
        match &self.content {
            Content::Copied(_) => 0,
            Content::Made(bytes) => bytes.len() as u64,
        }
    }

    /// Writes the file into `folder`, which is put on the disk as a whole.
    ///
    /// # Errors
    /// The disk's own.
    pub fn write(&self, folder: &Path) -> Result<FileRecord, ArtifactError> {
        let path = folder.join(&self.name);
        let bytes = match &self.content {
            Content::Copied(from) => {
                fs::copy(from, &path).map_err(FileError::at(from, format!("cannot be copied to {}", path.display())))?
            }
            Content::Made(bytes) => {
                fs::write(&path, bytes).map_err(FileError::at(&path, "cannot be written"))?;
                bytes.len() as u64
            }
        };
        Ok(FileRecord { file: self.name.clone(), bytes, blake3: hashing::of_file(&path)? })
    }
}
