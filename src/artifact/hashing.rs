//! BLAKE3 of files: at rest, mapped, and while they are being written.
//!
//! Not SHA-256, which reads 1.7 GB/s on one core here and so would take longer than quantizing.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::Receiver;

use crate::artifact::ArtifactError;
use crate::checkpoint::{Checkpoint, WeightFile};
use crate::host::FileError;
use crate::host::interrupt::CancelToken;
use crate::record::FileRecord;

/// Bytes between two looks at whether to go on.
const CHUNK: usize = 1 << 20;

/// A hash that ends early when the user asks to stop or the work that it is for has failed.
pub struct Hash<'a> {
    hasher: blake3::Hasher,
    cancel: &'a CancelToken,
}

impl<'a> Hash<'a> {
    /// Of nothing yet.
    pub fn new(cancel: &'a CancelToken) -> Hash<'a> {
        Hash { hasher: blake3::Hasher::new(), cancel }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        for chunk in bytes.chunks(CHUNK) {
            self.cancel.check()?;
            self.hasher.update(chunk);
        }
        Ok(())
    }

    /// In hexadecimal.
    pub fn finish(self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// A checkpoint's files with their hashes; given up once `cancel` is cancelled.
pub fn of_checkpoint(checkpoint: &Checkpoint, cancel: &CancelToken) -> Result<Vec<FileRecord>, ArtifactError> {
    let hash = |(index, file): (usize, &WeightFile)| {
        let mut hash = Hash::new(cancel);
        hash.update(checkpoint.file(index))?;
        Ok(FileRecord { file: file.name.clone(), bytes: file.bytes, blake3: hash.finish() })
    };
    checkpoint.index().files().iter().enumerate().map(hash).collect()
}

/// A file of a folder, as manifests have it.
pub fn record(folder: &Path, file: &str) -> Result<FileRecord, ArtifactError> {
    let path = folder.join(file);
    let bytes = path.metadata().map_err(FileError::at(&path, "cannot be read"))?.len();
    Ok(FileRecord { file: file.to_owned(), bytes, blake3: of_file(&path)? })
}

/// BLAKE3 of a file at rest.
pub fn of_file(path: &Path) -> Result<String, ArtifactError> {
    let mut hash = Hash::new(&CancelToken::NEVER);
    let file = File::open(path).map_err(unread(path))?;
    take(&file, path, 0..file.metadata().map_err(unread(path))?.len(), &mut hash)?;
    Ok(hash.finish())
}

/// BLAKE3 of a file of `bytes` while it is written from front to back: each message says up to where it is final.
///
/// What is final is also put on the disk, so that nothing is left to wait for at the end.
pub fn of_growing_file(path: &Path, bytes: u64, written: &Receiver<u64>, cancel: &CancelToken) -> Result<String, ArtifactError> {
    let mut hash = Hash::new(cancel);
    let file = File::open(path).map_err(unread(path))?;
    let mut done = 0;
    for end in written.iter().chain(std::iter::once(bytes)) {
        take(&file, path, done..end, &mut hash)?;
        file.sync_data().map_err(FileError::at(path, "cannot be put on the disk"))?;
        done = done.max(end);
    }
    Ok(hash.finish())
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    FileError::at(path, "cannot be read")
}

/// An interruption says nothing of the file.
fn take(
    file: &File,
    path: &Path,
    Range { start: mut from, end: to }: Range<u64>,
    hash: &mut Hash<'_>,
) -> Result<(), ArtifactError> {
    let mut buffer = vec![0; CHUNK];
    while from < to {
        let wanted = CHUNK.min(usize::try_from(to - from).unwrap_or(CHUNK));
        let got = file.read_at(&mut buffer[..wanted], from).map_err(unread(path))?;
        if got == 0 {
            return Err(unread(path)(io::ErrorKind::UnexpectedEof.into()).into());
        }
        hash.update(&buffer[..got])?;
        from += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_growing_file_has_the_hash_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let (sender, receiver) = mpsc::channel();
        for end in [10, 1_500_000, 1_500_000, 2_000_001] {
            sender.send(end).unwrap();
        }
        drop(sender);
        let growing = of_growing_file(&path, bytes.len() as u64, &receiver, &CancelToken::NEVER).unwrap();
        assert_eq!(growing, of_file(&path).unwrap());
        assert_eq!(&of_file(&path).unwrap()[..16], "4713babaefbc2271");
    }

    #[test]
    fn an_abandoned_hash_ends() {
        let abandoned = CancelToken::new();
        abandoned.cancel();
        let mut hash = Hash::new(&abandoned);
        assert!(hash.update(b"x").is_err());
    }
}
