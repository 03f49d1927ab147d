//! What the hub is asked for, and what it answers.

use std::path::PathBuf;

use super::super::Index;

/// What planning needs of a model.
#[derive(Debug, Clone)]
pub struct ModelHeaders {
    /// Folder that holds `config.json`; weights need not be there.
    pub dir: PathBuf,
    pub index: Index,
}

/// Which of a data set's files are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection<'a> {
    /// Every data file (`.json`, `.jsonl`, `.parquet`).
    All,
    /// The data files whose path names the split; `validation` also finds `valid`, `val` and `dev`.
    Split(&'a str),
    /// One file of any kind, by its path in the repository.
    File(&'a str),
}

/// Files of a data set on this machine, and the commit that they are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFiles {
    pub commit: String,
    /// In the order of their names.
    pub paths: Vec<PathBuf>,
}
