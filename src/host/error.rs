//! How the rooms above say what a disk did, and an error with all its causes.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What could not be done to a file or a folder, and why.
#[derive(Debug, thiserror::Error)]
pub struct FileError {
    /// What it is to whoever named it, like `output` or `--save-stats`; empty where its path says enough.
    pub role: &'static str,
    pub path: PathBuf,
    /// `cannot be read`
    pub what: String,
    pub source: io::Error,
}

impl FileError {
    /// The error of a file at `path`, for [`Result::map_err`].
    pub fn at(path: &Path, what: impl Into<String>) -> impl FnOnce(io::Error) -> FileError {
        FileError::of("", path, what)
    }

    /// As [`Self::at`], of a file that was named for something.
    pub fn of(role: &'static str, path: &Path, what: impl Into<String>) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError { role, path: path.to_owned(), what: what.into(), source }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileError { role, path, what, .. } = self;
        let space = if role.is_empty() { "" } else { " " };
        write!(f, "{role}{space}{}: {what}", path.display())
    }
}

/// An error's sentence and those of all its causes in one line, as the program ends with them.
pub fn in_full(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    std::iter::once(error).chain(causes).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_what_it_is_for_and_its_cause_follows() {
        let full = || io::Error::other("no room");
        let error = FileError::at(Path::new("a/b"), "cannot be written")(full());
        assert_eq!(
            (error.to_string().as_str(), in_full(&error).as_str()),
            ("a/b: cannot be written", "a/b: cannot be written: no room")
        );
        assert_eq!(FileError::of("output", Path::new("a"), "cannot be listed")(full()).to_string(), "output a: cannot be listed");
    }
}
