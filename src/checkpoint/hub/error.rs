use std::io;
use std::path::PathBuf;

use super::super::CheckpointError;
use crate::fault::Fault;
use crate::features::NotBuilt;

/// Why a model or data set cannot be had from the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    #[error(
        "model {name:?}: neither a folder nor a repository of the hub; give an existing folder, or org/name or org/name@revision"
    )]
    Ambiguous { name: String },
    #[error("repository {id}: {revision:?} is no branch, tag or commit; give org/name@revision")]
    BadRevision { id: String, revision: String },
    #[error(
        "repository {id}: access is gated (HTTP {status}){token}; accept its licence at {endpoint}/{id} and set HF_TOKEN to a token of \
         the account that did"
    )]
    Gated { id: String, status: u16, endpoint: String, token: TokenState },
    #[error(
        "repository {id}: access refused (HTTP {status}){token}; set HF_TOKEN to a valid token, or check the name: for a repository \
         that is private or does not exist the hub answers the same"
    )]
    Refused { id: String, status: u16, token: TokenState },
    #[error("repository {id}: not found on {endpoint}; check the name, or set HF_TOKEN if it is private")]
    NoRepo { id: String, endpoint: String },
    #[error("repository {id}: no branch, tag or commit {revision}; see {endpoint}/{id}/tree/main for those there are")]
    NoRevision { id: String, revision: String, endpoint: String },
    #[error("repository {repo}: no file {file}; {advice}")]
    NoFile { repo: String, file: String, advice: &'static str },
    #[error("repository {repo}: no safetensors weights among its files ({found}); convert them to safetensors first")]
    NoWeights { repo: String, found: String },
    #[error("data set {repo}: no {wanted} among its {count} files; see the files on the hub, or name another split or revision")]
    NoData { repo: String, wanted: String, count: usize },
    #[error(
        "{endpoint} cannot be reached; check the network, HF_ENDPOINT and the proxy, or set HF_HUB_OFFLINE=1 to use the cache"
    )]
    Unreachable { endpoint: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{url}: the server answered HTTP {status}, expected success; try again later")]
    Server { url: String, status: u16 },
    #[error("{url}: the server answered HTTP {status}{}", when(*.seconds))]
    Busy { url: String, status: u16, seconds: Option<u64> },
    #[error(
        "the token of the hub holds characters that no token has, so it cannot be sent; set HF_TOKEN again, or log in again where \
         `hf auth login` wrote it"
    )]
    Token,
    #[error("{url}: {problem}; check that HF_ENDPOINT is a Hugging Face hub")]
    Protocol { url: String, problem: String },
    #[error("repository {repo}: {file} broke off at {got} of {expected} bytes; run the command again, it goes on from there")]
    CutOff { repo: String, file: String, got: u64, expected: u64, source: Option<io::Error> },
    #[error("repository {repo}: {file} came with {got} bytes, expected {expected}; nothing was kept, run the command again")]
    WrongSize { repo: String, file: String, got: u64, expected: u64 },
    #[error("repository {repo}: {file} has {kind} {got}, expected {expected}; nothing was kept, run the command again")]
    WrongHash { repo: String, file: String, kind: &'static str, got: String, expected: String },
    #[error(
        "repository {repo}: {what} is not in the cache {} and HF_HUB_OFFLINE is set; unset it and run once with network",
        cache.display()
    )]
    Offline { repo: String, what: String, cache: PathBuf },
    #[error(
        "{}: the cached file is damaged ({what}), and the hub is not there to be asked for it again; run once with network and without \
         HF_HUB_OFFLINE",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error(
        "data set {repo}: the cache {} lacks {missing} of its numbered files, and the hub is not there to be asked for them; run once \
         with network and without HF_HUB_OFFLINE",
        cache.display()
    )]
    PartsMissing { repo: String, missing: String, cache: PathBuf, source: Box<HubError> },
    #[error("{}: cannot be written; check the disk's space and rights, or set HF_HOME to another disk", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("repository {id}: nothing can be written without a token; set HF_TOKEN to one that may write there")]
    NoToken { id: String },
    #[error("repository {id}: the token in use may not write there (HTTP {status}){said}; set HF_TOKEN to one that may")]
    NoWriting { id: String, status: u16, said: String },
    #[error("{url}: the server declined it (HTTP {status}){said}")]
    Declined { url: String, status: u16, said: String },
    #[error("repository {id}: HF_HUB_OFFLINE is set; unset it to push")]
    OfflinePush { id: String },
    #[error("{}: cannot be read", path.display())]
    Local { path: PathBuf, source: io::Error },
    #[error("there is no folder for the cache, as neither HF_HOME nor HOME is set; set HF_HOME")]
    NoCacheFolder,
    #[error("{0}, or give a folder or a file that is here")]
    NotBuilt(NotBuilt),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// What a busy server says of how long it will be; the end of its sentence.
fn when(seconds: Option<u64>) -> String {
    match seconds {
        Some(seconds) => format!(" and asks to come back in {seconds} s; try again then"),
        None => ", expected success; try again later".to_owned(),
    }
}

/// Whether a refused request carried a token; a clause of its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    Sent,
    Absent,
}

impl std::fmt::Display for TokenState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TokenState::Sent => " for the token in use",
            TokenState::Absent => " and no token is set",
        })
    }
}

impl HubError {
    /// A wrong name is the input's fault; what the network, the server or the disk does is not.
    pub fn fault(&self) -> Fault {
        match self {
            HubError::Ambiguous { .. }
            | HubError::BadRevision { .. }
            | HubError::Token
            | HubError::NoToken { .. }
            | HubError::OfflinePush { .. }
            | HubError::NoRepo { .. }
            | HubError::NoRevision { .. }
            | HubError::NoFile { .. }
            | HubError::NoWeights { .. }
            | HubError::NoData { .. } => Fault::BadInput,
            HubError::Checkpoint(error) => error.fault(),
            HubError::NotBuilt(part) => part.fault(),
            HubError::Gated { .. }
            | HubError::NoWriting { .. }
            | HubError::Declined { .. }
            | HubError::Local { .. }
            | HubError::Refused { .. }
            | HubError::Unreachable { .. }
            | HubError::Server { .. }
            | HubError::Busy { .. }
            | HubError::Protocol { .. }
            | HubError::CutOff { .. }
            | HubError::WrongSize { .. }
            | HubError::WrongHash { .. }
            | HubError::Offline { .. }
            | HubError::Damaged { .. }
            | HubError::PartsMissing { .. }
            | HubError::Disk { .. }
            | HubError::NoCacheFolder => Fault::Failed,
        }
    }
}
