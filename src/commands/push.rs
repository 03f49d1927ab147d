//! `qonnx push`: an artifact's files to a repository of the hub.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::verify;
use crate::artifact::{ArtifactError, source};
use crate::checkpoint::hub::{LocalFile, RepoName};
use crate::commands::CommandError;
use crate::host::table::size;
use crate::host::{FileError, shown};
use crate::record::{MANIFEST_FILE, Manifest};
use crate::usage::UsageError;

/// Bytes that are hashed at a time.
const CHUNK: usize = 1 << 20;

/// How to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether a repository that is made can be seen by everybody.
    pub public: bool,
    /// Of the commit.
    pub message: String,
}

/// What was sent where.
#[derive(Debug, Serialize)]
pub struct PushReport {
    pub repository: String,
    pub commit: String,
    pub files: usize,
    pub sent_bytes: u64,
    /// Of files that the hub had already.
    pub there_bytes: u64,
}

/// Sends the files that the manifest of `artifact` names, and the manifest, once each has the bytes that were written.
///
/// # Errors
/// The folder is no artifact or has changed; the hub refuses, or cannot be reached.
pub fn run(artifact: &Path, repository: &str, options: &Options) -> Result<PushReport, CommandError> {
    let to = RepoName::parse(repository).map_err(ArtifactError::from)?;
    let manifest = Manifest::load(artifact)?;
    let mut hub = source::hub().map_err(ArtifactError::from)?;
    if let Some(problem) = verify::damage(artifact, &manifest)? {
        return Err(UsageError::PushDamaged { artifact: artifact.display().to_string(), problem }.into());
    }
    let names = manifest.outputs.iter().map(|file| file.file.as_str()).chain([MANIFEST_FILE]);
    let files: Vec<LocalFile> = names.map(|name| local(artifact, name)).collect::<Result<_, _>>()?;
    let pushed = hub.push(&to, &files, &options.message, !options.public).map_err(ArtifactError::from)?;
    Ok(PushReport {
        repository: to.id,
        commit: pushed.url,
        files: files.len(),
        sent_bytes: pushed.sent,
        there_bytes: pushed.there,
    })
}

fn local(artifact: &Path, name: &str) -> Result<LocalFile, FileError> {
    let path: PathBuf = artifact.join(name);
    let mut hash = Sha256::new();
    let mut read = || {
        let (mut file, mut buffer, mut bytes) = (File::open(&path)?, vec![0; CHUNK], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok::<u64, io::Error>(bytes),
                count => hash.update(&buffer[..count]),
            }
            bytes = file.stream_position()?;
        }
    };
    let bytes = read().map_err(FileError::at(&path, "cannot be read"))?;
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(LocalFile { name: name.to_owned(), path, bytes, sha256 })
}

impl fmt::Display for PushReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = if self.there_bytes > 0 { format!(", {} were there", size(self.there_bytes)) } else { String::new() };
        write!(f, "{}\n{} files, {} sent{there}", shown(&self.commit), self.files, size(self.sent_bytes))
    }
}
