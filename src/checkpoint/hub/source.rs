//! What a user may write as a model: a folder, or `org/name[@revision]` on the hub.

use std::fmt;
use std::path::{Path, PathBuf};

use super::HubError;

/// Branch that a repository without `@revision` stands for.
const DEFAULT_REVISION: &str = "main";

/// Where a model or data set comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    Folder(PathBuf),
    Repo(RepoName),
}

/// A repository of the hub at a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    /// `org/name`.
    pub id: String,
    pub revision: String,
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.revision)
    }
}

impl ModelName {
    /// A folder where one of that name exists, else the repository that the name spells.
    pub fn parse(name: &str) -> Result<ModelName, HubError> {
        if Path::new(name).exists() {
            return Ok(ModelName::Folder(name.into()));
        }
        RepoName::parse(name).map(ModelName::Repo)
    }
}

impl RepoName {
    /// `org/name` or `org/name@revision`.
    pub fn parse(name: &str) -> Result<RepoName, HubError> {
        let (id, revision) = name.split_once('@').unwrap_or((name, DEFAULT_REVISION));
        let Some((organization, repository)) = id.split_once('/') else {
            return Err(HubError::Ambiguous { name: name.into() });
        };
        if !is_identifier(organization) || !is_identifier(repository) {
            return Err(HubError::Ambiguous { name: name.into() });
        }
        if revision.is_empty() || !revision.split('/').all(is_identifier) {
            return Err(HubError::BadRevision { id: id.into(), revision: revision.into() });
        }
        Ok(RepoName { id: id.into(), revision: revision.into() })
    }

    /// Whether the revision is a whole commit hash, which never comes to mean something else.
    pub fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The hub's alphabet. These parts become names of folders, so `..` must not pass.
fn is_identifier(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !part.is_empty() && part.bytes().all(allowed) && !part.starts_with('.') && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_everything_else() {
        let repo = |id: &str, revision: &str| RepoName { id: id.into(), revision: revision.into() };
        for (name, expected) in [
            ("meta-llama/Llama-3.2-1B", Some(repo("meta-llama/Llama-3.2-1B", "main"))),
            ("a/b@refs/convert/parquet", Some(repo("a/b", "refs/convert/parquet"))),
            ("a/b@v1.0", Some(repo("a/b", "v1.0"))),
            ("gpt2", None),
            ("./model", None),
            ("../a/b", None),
            ("/tmp/nowhere", None),
            ("a/b/c", None),
            ("a/..", None),
            ("a/b@", None),
            ("a/b@../../x", None),
            ("a/b@x/../y", None),
            ("a b/c", None),
            ("", None),
        ] {
            assert_eq!(RepoName::parse(name).ok(), expected, "{name:?}");
        }
    }
}
