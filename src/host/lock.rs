//! Locks that end with their process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{io, thread};

use nix::fcntl::OFlag;

/// Between two looks at a lock that is held.
const POLL: Duration = Duration::from_millis(50);

/// Locks the file at `path`, which is made if it is not there; `None` where it is still held by another after `patience`.
///
/// The lock is the open file: it is given back when that is dropped or the process ends, by SIGKILL too. Who removes the
/// file holds it.
pub fn hold(path: &Path, patience: Duration) -> io::Result<Option<File>> {
    // A link here is somebody else's, and a FIFO would be waited for.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let started = Instant::now();
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).custom_flags(flags).open(path)?;
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

/// Locks an open file. A process that is just being started has all files of the one that starts it until it is another
/// program, so that a lock which was let go of a moment ago may still be held.
///
/// # Errors
/// As [`File::try_lock`], after `patience`.
pub fn hold_open(file: &File, patience: Duration) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => thread::sleep(POLL),
            held => return held,
        }
    }
}

/// Whether the file lies at `path`.
pub fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (held, there) = (file.metadata().map(identity), std::fs::metadata(path).map(identity));
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
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["lock", "other"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(hold(&path, Duration::ZERO).is_err());
        assert!(!other.exists());
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
