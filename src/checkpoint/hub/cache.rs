//! The cache folder that all of Hugging Face's tools share.
//!
//! ```text
//! models--org--name/refs/main                    the commit that branch `main` stood for when last asked
//! models--org--name/snapshots/COMMIT/config.json → ../../blobs/ETAG
//! models--org--name/blobs/ETAG                   contents; ETAG.part while they arrive
//! models--org--name/.no_exist/COMMIT/FILE        the commit has no such file
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use super::source::is_commit;
use super::{HubConfig, HubError, RepoName};

/// One repository's part of the cache.
#[derive(Debug, Clone)]
pub(super) struct RepoCache {
    root: PathBuf,
}

impl RepoCache {
    pub(super) fn new(config: &HubConfig, name: &RepoName, kind: RepoType) -> RepoCache {
        RepoCache { root: config.cache.join(Repo::new(name.id.clone(), kind).folder_name()) }
    }

    /// Folder with the files of `commit`.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that is cached for a revision: itself for a commit, else what the branch stood for when last asked.
    pub(super) fn commit_of(&self, name: &RepoName) -> Option<String> {
        let commit = if name.is_commit() {
            name.revision.clone()
        } else {
            fs::read_to_string(self.root.join("refs").join(&name.revision)).ok()?.trim().to_owned()
        };
        (is_commit(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Notes what a branch stands for; only once its files are here, so that an interrupted update leaves the old one usable.
    pub(super) fn set_ref(&self, name: &RepoName, commit: &str) {
        if !name.is_commit() {
            note(&self.root.join("refs").join(&name.revision), commit);
        }
    }

    /// Whether `commit` is known to have no such file.
    pub(super) fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.root.join(".no_exist").join(commit).join(file).exists()
    }

    /// Notes that `commit` has no such file.
    pub(super) fn set_absent(&self, commit: &str, file: &str) {
        note(&self.root.join(".no_exist").join(commit).join(file), "");
    }

    /// Takes a damaged file out of the cache, its contents with it.
    pub(super) fn forget(&self, place: &Path) -> Result<(), HubError> {
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HubError::Disk { path: path.into(), source: e }),
            _ => Ok(()),
        };
        let contents = fs::canonicalize(place).ok();
        remove(place)?;
        // A link of the user's own may lead out of the cache.
        let blob = contents.filter(|contents| contents.parent() == fs::canonicalize(self.root.join("blobs")).ok().as_deref());
        blob.map_or(Ok(()), |blob| remove(&blob))
    }

    /// Where contents with this etag lie, and where they grow.
    pub(super) fn blob(&self, etag: &str) -> (PathBuf, PathBuf) {
        let blobs = self.root.join("blobs");
        (blobs.join(etag), blobs.join(format!("{etag}.part")))
    }

    /// Waits until no other process downloads the same contents; held until the returned file is dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.root.join("blobs").join(format!("{etag}.lock"));
        make_parent(&path)?;
        let disk = |source| HubError::Disk { path: path.clone(), source };
        let file = File::create(&path).map_err(disk)?;
        if file.try_lock().is_err() {
            tracing::info!("another process downloads the same file; waiting for it");
            file.lock().map_err(disk)?;
        }
        Ok(file)
    }

    /// Makes `file` of `commit` point to the contents.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<PathBuf, HubError> {
        let place = self.snapshot(commit).join(file);
        make_parent(&place)?;
        let folder = place.parent().unwrap_or(&place);
        // Another process may be making the same link: each makes its own and gives it the name, which the last one keeps.
        let made = tempfile::Builder::new().make_in(folder, |path| link(blob, path, file.split('/').count()));
        let named = made.and_then(|link| link.into_temp_path().persist(&place).map_err(|error| error.error));
        named.map_err(|source| HubError::Disk { path: place.clone(), source })?;
        Ok(place)
    }
}

/// A relative link, so that the cache can be moved; `depth` is the number of parts in the file's name.
fn link(blob: &Path, place: &Path, depth: usize) -> io::Result<()> {
    let up: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
    std::os::unix::fs::symlink(up.join("blobs").join(blob.file_name().unwrap_or_default()), place)
}

/// Writes what only saves the next run a request; a cache on a disk that cannot be written serves without it.
fn note(path: &Path, text: &str) {
    let folder = path.parent().unwrap_or(path);
    let written = fs::create_dir_all(folder).and_then(|()| {
        // As everything in a cache that several users may share.
        let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|error| error.error)
    });
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), "the cache cannot note this: {error}");
    }
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| HubError::Disk { path: parent.into(), source })
}
