//! Files of a folder on their way to the hub.

use std::path::PathBuf;

/// A file to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Path in the repository.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Where the commit can be seen.
    pub url: String,
    /// Bytes that were sent; what the hub had already was not.
    pub sent: u64,
    /// Bytes of large files that it had.
    pub there: u64,
}
