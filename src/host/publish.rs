//! Files and folders that get their names when they are whole: after a power cut, a kill or an error of the disk the old or the
//! new is there, never neither and never a half.
//!
//! What is to be named is put on the disk first, then renamed, then the folder that has the name is put on the disk: a file
//! that is renamed before may have 0 bytes after a power cut, and a name that is not put on the disk may be gone.

use std::fs::{self, File};
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hidden::{Hidden, name_beside, parent};
use super::lock;

/// What the hidden name of a file ends in until it is whole.
const PARTIAL: &str = ".qonnx-partial";
/// A file is written in a moment; only two processes that write the same one at once wait for each other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes a file whole, or leaves what is there.
///
/// # Errors
/// Of the disk, as [`PartialFile::publish`]; [`ErrorKind::ResourceBusy`] where another process is writing it. The message has no
/// path.
pub fn file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = PartialFile::create(path)?;
    partial.write_all(bytes)?;
    partial.publish()
}

/// A file that is written beside its name. What a killed process left of one is written over by the next.
#[derive(Debug)]
pub struct PartialFile {
    out: BufWriter<File>,
    /// Where it is written, and the name it gets; `None` for a device or a pipe, which is written to as it comes.
    names: Option<(PathBuf, PathBuf)>,
}

impl PartialFile {
    /// Begins the file at `path`, or at what a link there leads to.
    ///
    /// # Errors
    /// As [`file`].
    pub fn create(path: &Path) -> Result<PartialFile> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            return Ok(PartialFile { out: BufWriter::new(File::options().write(true).open(path)?), names: None });
        }
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let partial = parent(&path).join(name_beside(&path, PARTIAL));
        let busy = || Error::new(ErrorKind::ResourceBusy, "another process is writing it just now");
        let file = lock::hold(&partial, PATIENCE)?.ok_or_else(busy)?;
        file.set_len(0)?;
        Ok(PartialFile { out: BufWriter::new(file), names: Some((partial, path)) })
    }

    /// Puts what is written on the disk.
    ///
    /// # Errors
    /// Of the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.out.flush()?;
        match self.names {
            Some(_) => self.out.get_ref().sync_all(),
            None => Ok(()),
        }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// Of the disk; what was there before is there then, or the new one where only its name could not be put on the disk.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        let Some((partial, path)) = &self.names else { return Ok(()) };
        fs::rename(partial, path)?;
        let named = path.clone();
        self.names = None;
        sync(parent(&named))
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if let Some((partial, _)) = &self.names {
            let _ = fs::remove_file(partial);
        }
    }
}

/// Gives the finished file `from` the name `target`, in the place of a file that is there already.
///
/// # Errors
/// As [`PartialFile::publish`], with the path.
pub fn moved_file(from: &Path, target: &Path) -> Result<()> {
    sync(from).map_err(|error| at(from, error))?;
    rename(from, target)?;
    sync(parent(target)).map_err(|error| at(parent(target), error))
}

/// What a folder's name may belong to when it is given.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// To nothing: two that make the same folder at once do not replace each other.
    Free,
    /// To a folder that may go. It is asked of what was really taken away, whatever was there when somebody last looked.
    Replaced(&'a dyn Fn(&Path) -> bool),
}

/// Gives a finished folder the name `target`, in the place of a folder that is there already, which goes only when the new one
/// is on the disk.
///
/// # Errors
/// Of the disk, with the path; [`ErrorKind::AlreadyExists`] or [`ErrorKind::DirectoryNotEmpty`] where something lies there that
/// may not go. `target` is then what it was.
pub fn folder(finished: Hidden, target: &Path, was: Target<'_>) -> Result<()> {
    sync_all(finished.path())?;
    moved(finished.path(), target, was)?;
    // It holds what was there before, if anything is left of it.
    finished.clear();
    Ok(())
}

/// As [`folder`], for a folder `from` that is on the disk; what was at `target` is then there, or gone.
///
/// # Errors
/// As [`folder`].
pub fn moved(from: &Path, target: &Path, was: Target<'_>) -> Result<()> {
    let may_go = match was {
        Target::Replaced(may_go) if target.exists() => may_go,
        // A rename takes the place of nothing but an empty folder.
        _ => {
            rename(from, target)?;
            return named(target, || rename(target, from));
        }
    };
    let exchanged = || exchange(from, target).map_err(|error| at(target, error));
    match exchange(from, target) {
        Err(error) if !is_unknown(&error) => Err(at(target, error)),
        Err(_) => replace(from, target, may_go),
        Ok(()) if !may_go(from) => exchanged().and_then(|()| Err(foreign(target))),
        Ok(()) => named(target, exchanged),
    }
}

fn foreign(target: &Path) -> Error {
    at(target, Error::new(ErrorKind::AlreadyExists, "something else was put there meanwhile, and stays"))
}

/// As an exchange, where the file system knows none: between two renames the old folder has a hidden name, under which
/// [`recover`] finds it.
fn replace(from: &Path, target: &Path, may_go: &dyn Fn(&Path) -> bool) -> Result<()> {
    let mut aside = Hidden::fresh(target, REPLACED)?;
    aside.keep();
    let back = || rename(aside.path(), target);
    rename(target, aside.path())?;
    if !may_go(aside.path()) {
        return back().and_then(|()| Err(foreign(target)));
    }
    rename(from, target).inspect_err(|_| restored(target, back))?;
    named(target, || rename(target, from).and_then(|()| back()))?;
    aside.clear();
    Ok(())
}

/// Puts a name on the disk, or takes it back with `undo`.
fn named(target: &Path, undo: impl FnOnce() -> Result<()>) -> Result<()> {
    sync(parent(target)).inspect_err(|_| restored(target, undo)).map_err(|error| at(parent(target), error))
}

fn restored(target: &Path, undo: impl FnOnce() -> Result<()>) {
    if let Err(error) = undo() {
        tracing::warn!("{}: what was there cannot be put back ({error}); the same command again sees to it", target.display());
    }
}

const PARTIAL_FOLDER: &str = "partial";
const REPLACED: &str = "replaced";

/// A new hidden folder in which the folder `target` is made.
///
/// # Errors
/// It cannot be made.
pub fn begin_folder(target: &Path) -> Result<Hidden> {
    Hidden::fresh(target, PARTIAL_FOLDER)
}

/// Clears what processes that died have left beside `target`. Where one died between taking the old folder away and putting
/// the new one there, the old one is put back; returns whether it was.
///
/// # Errors
/// The old folder cannot be put back, or looked into; it stays where it is then.
pub fn recover(target: &Path) -> Result<bool> {
    let mut was_restored = false;
    for aside in Hidden::abandoned(target, REPLACED) {
        let is_there = target.try_exists().map_err(|error| at(target, error))?;
        if !is_there && is_full(aside.path()).map_err(|error| at(aside.path(), error))? {
            rename(aside.path(), target)?;
            sync(parent(target))?;
            was_restored = true;
        }
        aside.clear();
    }
    Hidden::abandoned(target, PARTIAL_FOLDER).into_iter().for_each(Hidden::clear);
    Ok(was_restored)
}

/// Whether a folder has something in it; one that is not there has nothing.
fn is_full(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        entries => Ok(entries?.next().transpose()?.is_some()),
    }
}

/// Puts a folder's files and the folder on the disk.
fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        sync(&path).map_err(|error| at(&path, error))?;
    }
    sync(folder).map_err(|error| at(folder, error))
}

/// Puts a file, or the names in a folder, on the disk.
///
/// # Errors
/// Of the disk, without the path.
pub fn sync(path: &Path) -> Result<()> {
    File::open(path)?.sync_all()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| at(to, error))
}

fn at(path: &Path, error: Error) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn exchange(a: &Path, b: &Path) -> Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    Ok(renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE)?)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn exchange(_: &Path, _: &Path) -> Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Whether the file system does not know what was asked, as NFS does not know of exchanges.
fn is_unknown(error: &Error) -> bool {
    use nix::errno::Errno;
    let unknown = [Errno::EINVAL, Errno::ENOSYS, Errno::EOPNOTSUPP].map(|errno| errno as i32);
    error.kind() == ErrorKind::Unsupported || error.raw_os_error().is_some_and(|errno| unknown.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn made(target: &Path, text: &str) -> Hidden {
        let folder = begin_folder(target).unwrap();
        fs::write(folder.path().join("file"), text).unwrap();
        folder
    }

    #[test]
    fn a_file_takes_the_place_of_the_one_that_a_link_leads_to() {
        let place = tempfile::tempdir().unwrap();
        let [real, link] = ["real", "link"].map(|name| place.path().join(name));
        file(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        // What a killed process left, longer than what comes.
        fs::write(place.path().join(".real.qonnx-partial"), "left behind").unwrap();
        file(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert_eq!(names(place.path()), ["link", "real"]);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        file(&path, b"old").unwrap();
        let mut partial = PartialFile::create(&path).unwrap();
        partial.write_all(b"half").unwrap();
        drop(partial);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(place.path()), ["file"]);
    }

    #[test]
    fn a_folder_takes_the_place_of_another_with_and_without_an_exchange() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        let may_go = |_: &Path| true;
        let by_exchange = |from: &Path, to: &Path| moved(from, to, Target::Replaced(&may_go));
        let by_renames = |from: &Path, to: &Path| replace(from, to, &may_go);
        type Put<'a> = &'a dyn Fn(&Path, &Path) -> Result<()>;
        for (text, put) in [("first", &by_exchange as Put<'_>), ("second", &by_exchange), ("third", &by_renames)] {
            let finished = made(&target, text);
            put(finished.path(), &target).unwrap();
            finished.clear();
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), text);
            assert_eq!(names(place.path()), ["out"]);
        }
    }

    #[test]
    fn what_may_not_go_stays_and_of_two_at_once_one_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        folder(made(&target, "first"), &target, Target::Free).unwrap();
        let error = folder(made(&target, "second"), &target, Target::Free).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty), "{error}");
        // Of what was taken away, not of what was seen before.
        let may_go = |path: &Path| fs::read_to_string(path.join("file")).unwrap() != "first";
        let by_renames = |from: &Path, to: &Path| replace(from, to, &may_go);
        let by_exchange = |from: &Path, to: &Path| moved(from, to, Target::Replaced(&may_go));
        for put in [&by_exchange as &dyn Fn(&Path, &Path) -> Result<()>, &by_renames] {
            let finished = made(&target, "third");
            assert_eq!(put(finished.path(), &target).unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(finished.path().join("file")).unwrap(), "third");
            finished.clear();
        }
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "first");
        assert_eq!(names(place.path()), ["out"]);
    }

    #[test]
    fn what_a_process_left_that_died_between_two_renames_is_put_back() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        let [aside, partial] = ["replaced", "partial"].map(|kind| place.path().join(format!(".out.{kind}-0123456789abcdef")));
        for (folder, text) in [(&aside, "old"), (&partial, "new")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("file"), text).unwrap();
        }
        assert!(recover(&target).unwrap());
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
        assert_eq!(names(place.path()), ["out"]);
        // Where the new one has its name, the old one goes.
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("file"), "older").unwrap();
        assert!(!recover(&target).unwrap());
        assert_eq!(names(place.path()), ["out"]);
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
    }

    #[test]
    fn what_was_set_aside_and_cannot_be_looked_into_stays() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        let aside = place.path().join(".out.replaced-0123456789abcdef");
        // A link to itself: it is there, and the system cannot open it.
        std::os::unix::fs::symlink(&aside, &aside).unwrap();
        let error = recover(&target).unwrap_err().to_string();
        assert!(error.contains(&aside.display().to_string()), "{error}");
        assert_eq!(names(place.path()), [".out.replaced-0123456789abcdef"]);
    }

    #[test]
    fn a_finished_file_takes_the_place_of_another() {
        let place = tempfile::tempdir().unwrap();
        let [from, target] = ["from", "target"].map(|name| place.path().join(name));
        for text in ["first", "second"] {
            fs::write(&from, text).unwrap();
            moved_file(&from, &target).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
            assert_eq!(names(place.path()), ["target"]);
        }
        let error = moved_file(&from, &target).unwrap_err().to_string();
        assert!(error.contains(&from.display().to_string()), "{error}");
    }
}
