//! Files and folders that get their names when they are whole: after a power cut, a kill or an error of the disk the old or the
//! new is there, never neither and never a half.
//!
//! What is to be named is put on the disk first, then renamed, then the folder that has the name is put on the disk: a file
//! that is renamed before may have 0 bytes after a power cut, and a name that is not put on the disk may be gone.

use std::fs::{self, File};
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hidden::{Hidden, fresh_path, name_beside, parent};
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
    /// Begins the file at `path`, or at what a link there leads to, whether that is there already or not.
    ///
    /// # Errors
    /// As [`file`].
    pub fn create(path: &Path) -> Result<PartialFile> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            return Ok(PartialFile { out: BufWriter::new(File::options().write(true).open(path)?), names: None });
        }
        let path = place(path);
        fits(&path)?;
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
        sync_names(parent(&named))
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

/// Refuses a name that Linux's file systems do not take, which the shorter hidden one until then would not show.
///
/// # Errors
/// [`ErrorKind::InvalidFilename`].
pub fn fits(path: &Path) -> Result<()> {
    const MOST_BYTES: usize = 255;
    match path.file_name().map_or(0, |name| name.len()) {
        0..=MOST_BYTES => Ok(()),
        bytes => {
            let why = format!("its name has {bytes} bytes, more than the {MOST_BYTES} that a file system takes");
            Err(Error::new(ErrorKind::InvalidFilename, why))
        }
    }
}

/// Most links that are followed one behind the other, as the system does.
const MOST_LINKS: usize = 40;

/// The one spelling of where a file is or will be: its folder's, and its own name, which a link may lead to.
pub fn place(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match (fs::canonicalize(&path), fs::read_link(&path)) {
            (Ok(real), _) => return real,
            (_, Ok(leads_to)) => path = parent(&path).join(leads_to),
            _ => break,
        }
    }
    let folder = fs::canonicalize(parent(&path)).unwrap_or_else(|_| parent(&path).to_owned());
    folder.join(path.file_name().unwrap_or_default())
}

/// Gives the finished file `from` the name `target`, in the place of a file that is there already.
///
/// # Errors
/// As [`PartialFile::publish`], with the path.
pub fn moved_file(from: &Path, target: &Path) -> Result<()> {
    sync(from).map_err(|error| at(from, error))?;
    rename(from, target)?;
    sync_named(target)
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
/// may not go. `target` is then what it was; where that cannot be brought about, what was there has a name that the message says.
pub fn folder(mut finished: Hidden, target: &Path, was: Target<'_>) -> Result<()> {
    sync_all(finished.path())?;
    if let Err(failure) = put(finished.path(), target, was) {
        if failure.undo.is_some() {
            finished.keep();
        }
        return Err(failure.said(finished.path(), target));
    }
    // It holds what was there before, if anything is left of it.
    finished.clear();
    Ok(())
}

/// As [`folder`], for a folder `from` that is on the disk; what was at `target` is then at `from`, or gone.
///
/// # Errors
/// As [`folder`].
pub fn moved(from: &Path, target: &Path, was: Target<'_>) -> Result<()> {
    put(from, target, was).map_err(|failure| failure.said(from, target))
}

/// Why a folder has not got its name.
struct Failure {
    error: Error,
    /// Why what was taken away for it could not be put back. It then lies where the new folder was.
    undo: Option<Error>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, undo: None }
    }
}

impl Failure {
    /// The error; where what was at `target` lies at `from` now, with the name under which it is kept.
    fn said(self, from: &Path, target: &Path) -> Error {
        match self.undo {
            None => self.error,
            Some(undo) => kept(&self.error, &undo, from, target),
        }
    }
}

fn put(from: &Path, target: &Path, was: Target<'_>) -> std::result::Result<(), Failure> {
    let may_go = match was {
        Target::Replaced(may_go) if target.exists() => may_go,
        // A rename takes the place of nothing but an empty folder.
        _ => {
            rename(from, target)?;
            let taken_back = |_: &Error| undone(target, rename(target, from), "the new folder stays there");
            return Ok(sync_named(target).inspect_err(taken_back)?);
        }
    };
    match exchange(from, target) {
        Err(error) if !is_unknown(&error) => Err(at(target, error).into()),
        Err(_) => Ok(replace(from, target, may_go)?),
        Ok(()) => exchanged(from, target, may_go),
    }
}

/// After an exchange: exchanges again where what was taken away may not go, or where the names cannot be put on the disk.
fn exchanged(from: &Path, target: &Path, may_go: &dyn Fn(&Path) -> bool) -> std::result::Result<(), Failure> {
    let synced = if may_go(from) { sync_named(target) } else { Err(foreign(target)) };
    synced.map_err(|error| Failure { error, undo: exchange(from, target).err() })
}

fn foreign(target: &Path) -> Error {
    at(target, Error::new(ErrorKind::AlreadyExists, "something else was put there meanwhile, which is not replaced"))
}

/// As an exchange, where the file system knows none: between two renames the old folder has a hidden name, under which
/// [`recover`] finds it.
fn replace(from: &Path, target: &Path, may_go: &dyn Fn(&Path) -> bool) -> Result<()> {
    let mut aside = Hidden::fresh(target, REPLACED)?;
    aside.keep();
    let waits = format!("what was there lies in {}; the same command again sees to it", aside.path().display());
    let back = || rename(aside.path(), target);
    rename(target, aside.path())?;
    if !may_go(aside.path()) {
        let error = foreign(target);
        // What may not go must not wait under a name that the next run clears.
        return Err(match back() {
            Ok(()) => error,
            Err(undo) => kept(&error, &undo, aside.path(), target),
        });
    }
    rename(from, target).inspect_err(|_| undone(target, back(), &waits))?;
    sync_named(target).inspect_err(|_| undone(target, rename(target, from).and_then(|()| back()), &waits))?;
    aside.clear();
    Ok(())
}

/// Says where an undo has failed how things are instead.
fn undone(target: &Path, undo: Result<()>, instead: &str) {
    if let Err(error) = undo {
        tracing::warn!("{}: cannot be made what it was ({error}); {instead}", target.display());
    }
}

/// Gives what was at `target`, cannot be put back there and lies at `from` a name that no later run clears, and says it. Where
/// it cannot even get that, it stays where it is.
fn kept(error: &Error, undo: &Error, from: &Path, target: &Path) -> Error {
    let fresh = fresh_path(target, KEPT);
    let lies = if fs::rename(from, &fresh).is_ok() { &fresh } else { from };
    let said = format!(
        "{error}; what was there cannot be put back ({undo}) and lies in {}; move it where it belongs before anything else",
        lies.display()
    );
    Error::new(error.kind(), said)
}

const KEPT: &str = "kept";
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
            sync_names(parent(target))?;
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

/// Puts a folder's files, the folders in it and itself on the disk.
fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        match entry.file_type()?.is_dir() {
            true => sync_all(&path)?,
            false => sync(&path).map_err(|error| at(&path, error))?,
        }
    }
    sync_names(folder).map_err(|error| at(folder, error))
}

/// Puts the name that `target` has got on the disk.
fn sync_named(target: &Path) -> Result<()> {
    sync_names(parent(target)).map_err(|error| at(parent(target), error))
}

/// Puts the names in a folder on the disk. Where the file system knows no such thing, nothing can be done and nothing is wrong
/// with what was written.
fn sync_names(folder: &Path) -> Result<()> {
    match sync(folder) {
        Err(error) if is_unknown_of_folders(&error) => Ok(()),
        synced => synced,
    }
}

/// Puts a file on the disk.
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

/// Whether the file system does not put folders on the disk: what it answers then, as PostgreSQL's `fsync_fname` has it.
fn is_unknown_of_folders(error: &Error) -> bool {
    is_unknown(error) || error.raw_os_error() == Some(nix::errno::Errno::EBADF as i32)
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
    fn a_file_is_made_where_a_link_to_nothing_leads() {
        let place = tempfile::tempdir().unwrap();
        let [folder, link, other] = ["folder", "link", "other"].map(|name| place.path().join(name));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink("other", &link).unwrap();
        std::os::unix::fs::symlink("folder/new", &other).unwrap();
        file(&link, b"new").unwrap();
        assert!(link.is_symlink() && other.is_symlink());
        assert_eq!(fs::read(folder.join("new")).unwrap(), b"new");
        assert_eq!(names(&folder), ["new"]);
        assert_eq!(names(place.path()), ["folder", "link", "other"]);
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
    fn what_may_not_go_and_cannot_be_put_back_is_kept_and_named() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        type Put<'a> = &'a dyn Fn(Hidden, &dyn Fn(&Path) -> bool) -> Result<()>;
        let refused = |put: Put<'_>, spoil: &dyn Fn()| {
            fs::create_dir_all(&target).unwrap();
            fs::write(target.join("file"), "the only copy").unwrap();
            let may_not_go = |_: &Path| {
                spoil();
                false
            };
            let said = put(made(&target, "new"), &may_not_go).unwrap_err();
            assert_eq!(said.kind(), ErrorKind::AlreadyExists);
            // A later run, which finds something at the target, clears no more than is of no use.
            recover(&target).unwrap();
            let kept = names(place.path()).into_iter().find(|name| name.starts_with(".out.kept-")).expect("it is kept");
            let kept = place.path().join(kept);
            assert!(said.to_string().contains(&kept.display().to_string()), "{said}");
            assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "the only copy");
            fs::remove_dir_all(kept).unwrap();
        };
        // Without a folder there, no second exchange is possible; with a full one, no rename.
        let by_exchange = |new: Hidden, may_go: &dyn Fn(&Path) -> bool| folder(new, &target, Target::Replaced(may_go));
        refused(&by_exchange, &|| fs::remove_dir_all(&target).unwrap());
        let by_renames = |new: Hidden, may_go: &dyn Fn(&Path) -> bool| replace(new.path(), &target, may_go);
        refused(&by_renames, &|| fs::create_dir_all(target.join("third")).unwrap());
    }

    #[test]
    fn an_old_folder_stays_that_can_neither_be_put_back_nor_get_a_name() {
        let place = tempfile::tempdir().unwrap();
        let [there, away, here] = ["there", "away", "here"].map(|name| place.path().join(name));
        let target = there.join("out");
        fs::create_dir_all(&target).unwrap();
        fs::create_dir(&here).unwrap();
        fs::write(target.join("file"), "old").unwrap();
        let finished = made(&here.join("out"), "new");
        let lies = finished.path().to_owned();
        // The folder in which it gets its name goes before that is on the disk.
        let may_go = |_: &Path| fs::rename(&there, &away).is_ok();
        let said = folder(finished, &target, Target::Replaced(&may_go)).unwrap_err().to_string();
        assert!(said.contains(&lies.display().to_string()), "{said}");
        assert_eq!(fs::read_to_string(lies.join("file")).unwrap(), "old");
        assert_eq!(fs::read_to_string(away.join("out/file")).unwrap(), "new");
    }

    #[test]
    fn a_file_system_that_does_not_put_folders_on_the_disk_is_no_failure() {
        // Linux answers EINVAL for a folder of /proc.
        sync_named(Path::new("/proc/name")).unwrap();
        sync(Path::new("/proc")).unwrap_err();
        use nix::errno::Errno;
        let of = |errno: Errno| is_unknown_of_folders(&Error::from(errno));
        for passes in [Errno::EINVAL, Errno::EBADF, Errno::EOPNOTSUPP] {
            assert!(of(passes), "{passes}");
        }
        for fails in [Errno::EIO, Errno::ENOSPC, Errno::EDQUOT, Errno::EROFS, Errno::EACCES] {
            assert!(!of(fails), "{fails}");
        }
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
