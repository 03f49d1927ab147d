//! Locks that end with their process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a lock that is held.
const POLL: Duration = Duration::from_millis(50);

/// Locks the file at `path`, which is made if it is not there; `None` where it is still held by another after `patience`.
///
/// The lock is the open file: it is given back when that is dropped or the process ends, by SIGKILL too.
pub fn hold(path: &Path, patience: Duration) -> io::Result<Option<File>> {
    let started = Instant::now();
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            // Whoever held it before may have removed the file since it was opened here.
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let held = file.metadata().map(|meta| meta.ino());
    let there = std::fs::metadata(path).map(|meta| meta.ino());
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = hold(&path, Duration::ZERO).unwrap().unwrap();
        assert!(hold(&path, Duration::ZERO).unwrap().is_none());
        drop(held);
        assert!(hold(&path, Duration::ZERO).unwrap().is_some());
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_not_mistaken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = hold(&path, Duration::ZERO).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&first, &path));
        let second = hold(&path, Duration::ZERO).unwrap().unwrap();
        assert!(is_at(&second, &path));
    }
}
