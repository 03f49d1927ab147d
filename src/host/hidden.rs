//! Hidden folders beside an output, in which it is made. A process holds each by a lock beside the folder, so that the next
//! one tells what is in work from what a process that died has left.
//!
//! ```text
//! .out.partial-5f0c…        an artifact that is being written
//! .out.replaced-5f0c…       the artifact that was there, while another takes its place
//! .out.calibrated-77aa…     layers that are finished
//! .out.kept-91ab…           what was there and could not be put back; nobody clears it
//! .lock.out.partial-5f0c…   held as long as its folder is in work
//! ```
//!
//! The lock lies beside the folder and not in it: network file systems keep a removed file that is still open, and a folder
//! that holds one cannot be removed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lock;

/// Hexadecimal digits of a key.
const DIGITS: usize = 16;
/// Another process looks at a lock for a moment only.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names of outputs that are longer appear as their hash: a hidden name has more in it, and 255 bytes are the most.
const LONGEST: usize = 180;

/// A hidden folder that this process holds.
#[derive(Debug)]
pub struct Hidden {
    folder: PathBuf,
    lock_path: PathBuf,
    /// Whether the folder goes with this value.
    is_temporary: bool,
    _lock: File,
}

impl Hidden {
    /// The folder of `key` beside `output`, made if it is not there; `None` where another process holds it. It stays when this
    /// is dropped.
    ///
    /// # Errors
    /// The folder or its lock cannot be made.
    pub fn open(output: &Path, kind: &str, key: &blake3::Hash) -> Result<Option<Hidden>> {
        let key = &key.to_hex()[..DIGITS];
        let Some(hidden) = Hidden::hold(output, kind, key, Duration::ZERO)? else { return Ok(None) };
        fs::create_dir_all(&hidden.folder)?;
        Ok(Some(hidden))
    }

    /// A new, empty folder beside `output`. It is removed when this is dropped.
    ///
    /// # Errors
    /// The folder or its lock cannot be made.
    pub fn fresh(output: &Path, kind: &str) -> Result<Hidden> {
        let busy = || Error::new(ErrorKind::ResourceBusy, "another process has a folder of the same name");
        let mut hidden = Hidden::hold(output, kind, &new_key(), PATIENCE)?.ok_or_else(busy)?;
        fs::create_dir(&hidden.folder)?;
        hidden.is_temporary = true;
        Ok(hidden)
    }

    /// The folders of a kind beside `output` that no process holds any more.
    pub fn abandoned(output: &Path, kind: &str) -> Vec<Hidden> {
        let mut keys: Vec<String> = Vec::new();
        for entry in fs::read_dir(parent(output)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let key = [folder_name(output, kind, ""), lock_name(output, kind, "")]
                .iter()
                .find_map(|prefix| name.as_bytes().strip_prefix(prefix.as_bytes()))
                .and_then(|key| std::str::from_utf8(key).ok());
            keys.extend(key.filter(|key| is_key(key)).map(str::to_owned));
        }
        keys.sort_unstable();
        keys.dedup();
        // What cannot be locked does no harm where it is.
        keys.iter().filter_map(|key| Hidden::hold(output, kind, key, Duration::ZERO).ok().flatten()).collect()
    }

    fn hold(output: &Path, kind: &str, key: &str, patience: Duration) -> Result<Option<Hidden>> {
        let beside = parent(output);
        let lock_path = beside.join(lock_name(output, kind, key));
        let Some(lock) = lock::hold(&lock_path, patience)? else { return Ok(None) };
        let folder = beside.join(folder_name(output, kind, key));
        Ok(Some(Hidden { folder, lock_path, is_temporary: false, _lock: lock }))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// From here on the folder stays when this is dropped.
    pub fn keep(&mut self) {
        self.is_temporary = false;
    }

    /// Takes the folder away with all that is in it.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(mut self) -> Result<()> {
        self.is_temporary = false;
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// As [`Self::remove`] where the work is done: that something stays behind is said, and is no failure.
    pub fn clear(self) {
        let folder = self.folder.clone();
        if let Err(error) = self.remove() {
            tracing::warn!("{}: cannot be removed ({error}); it is of no more use", folder.display());
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.is_temporary {
            // What stays is found by the next process that writes the same output.
            let _ = fs::remove_dir_all(&self.folder);
        }
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// A hidden name beside `output` that nothing has.
pub fn fresh_path(output: &Path, kind: &str) -> PathBuf {
    parent(output).join(folder_name(output, kind, &new_key()))
}

/// The folder that a path lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.name` and `rest`, where `name` is the path's own.
pub fn name_beside(path: &Path, rest: &str) -> OsString {
    let name = path.file_name().unwrap_or_default();
    let hashed = || OsStr::from_bytes(&blake3::hash(name.as_bytes()).to_hex().as_bytes()[..DIGITS]).to_owned();
    let name = if name.len() > LONGEST { hashed() } else { name.to_owned() };
    OsString::from_vec([b".", name.as_bytes(), rest.as_bytes()].concat())
}

fn folder_name(output: &Path, kind: &str, key: &str) -> OsString {
    name_beside(output, &format!(".{kind}-{key}"))
}

fn lock_name(output: &Path, kind: &str, key: &str) -> OsString {
    OsString::from_vec([b".lock", folder_name(output, kind, key).as_bytes()].concat())
}

fn is_key(key: &str) -> bool {
    key.len() == DIGITS && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One that no other folder has: by the process, the time and a count.
fn new_key() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let seed = format!("{} {now} {}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    blake3::hash(seed.as_bytes()).to_hex()[..DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<OsString> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_nobody_holds_is_found_and_what_is_held_or_named_alike_is_not() {
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("out");
        let held = Hidden::fresh(&output, "partial").unwrap();
        for name in [".out.partial-0123456789abcdef", ".out.partial-backup", ".out2.partial-0123456789abcdef"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        // A lock alone: its process died between the two.
        fs::write(place.path().join(".lock.out.partial-00000000000000aa"), "").unwrap();
        let found = Hidden::abandoned(&output, "partial");
        let folders: Vec<&OsStr> = found.iter().map(|hidden| hidden.path().file_name().unwrap()).collect();
        assert_eq!(folders, [".out.partial-00000000000000aa", ".out.partial-0123456789abcdef"]);
        found.into_iter().for_each(Hidden::clear);
        assert!(held.path().is_dir());
        drop(held);
        assert_eq!(names(place.path()), [".out.partial-backup", ".out2.partial-0123456789abcdef"]);
    }

    #[test]
    fn a_name_of_the_greatest_length_has_hidden_ones() {
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("x".repeat(255));
        let hidden = Hidden::fresh(&output, "calibrated").unwrap();
        assert!(hidden.path().is_dir());
        drop(hidden);
        assert!(names(place.path()).is_empty());
    }
}
