//! The safetensors files of a folder, a layer in each.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::checkpoint::RawTensor;
use crate::host::FileError;

/// Writes tensors to a file after the other.
pub struct Shards<'c> {
    folder: PathBuf,
    /// Files that there will be.
    files: usize,
    write: fn(&Path, &[RawTensor<'_>]) -> io::Result<()>,
    state: Mutex<State<'c>>,
}

#[derive(Default)]
struct State<'c> {
    written: Vec<Shard>,
    /// Tensors of the file that is being filled.
    tensors: Vec<RawTensor<'c>>,
}

/// A file that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub file: String,
    /// Names of its tensors, in order.
    pub tensors: Vec<String>,
    /// Of its tensors.
    pub bytes: usize,
}

impl<'c> Shards<'c> {
    /// `files`: how often [`Self::end`] will be called.
    pub fn new(folder: &Path, files: usize, write: fn(&Path, &[RawTensor<'_>]) -> io::Result<()>) -> Shards<'c> {
        Shards { folder: folder.to_owned(), files, write, state: Mutex::default() }
    }

    /// Adds tensors that follow each other; their digest.
    pub fn put(&self, tensors: Vec<RawTensor<'c>>) -> String {
        let digest = digest(tensors.iter().map(|tensor| tensor.bytes.as_ref()));
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tensors.extend(tensors);
        digest
    }

    /// Writes what was put since the last file.
    ///
    /// # Errors
    /// The disk's own.
    pub fn end(&self) -> Result<(), FileError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tensors = std::mem::take(&mut state.tensors);
        // Weights come in any order, files are the same each time.
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let file = format!("model-{:05}-of-{:05}.safetensors", state.written.len() + 1, self.files);
        let path = self.folder.join(&file);
        (self.write)(&path, &tensors).map_err(FileError::at(&path, "cannot be written"))?;
        let bytes = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        state.written.push(Shard { file, tensors: tensors.into_iter().map(|tensor| tensor.name).collect(), bytes });
        Ok(())
    }

    /// The files, once all are written.
    pub fn finish(self) -> Vec<Shard> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).written
    }
}

/// xxh3-128 of tensors that follow each other.
pub fn digest<'b>(parts: impl Iterator<Item = &'b [u8]>) -> String {
    let mut hasher = Xxh3::new();
    parts.for_each(|bytes| hasher.update(bytes));
    format!("{:032x}", hasher.digest128())
}
