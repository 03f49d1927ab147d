//! Requests to the hub, and what its answers mean.
//!
//! The protocol is that of Hugging Face's own client (`huggingface_hub/file_download.py`): `/api/{models|datasets}/{id}/
//! revision/{revision}` lists a repository, a HEAD of `/{id}/resolve/{commit}/{file}` tells a file's size and etag, and a
//! GET of the same address, redirected to the store of large files, gives its bytes.

use hf_hub::{Repo, RepoType};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::error::TokenState;
use super::source::{RepoName, is_commit};
use super::{HubConfig, HubError};

/// No listing of a repository comes near it.
const MAX_LISTING_BYTES: u64 = 64 << 20;
const MAX_REDIRECTS: usize = 5;
/// What may stand in a file's path unescaped.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A repository at a commit, with all its files.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What a HEAD tells about a file.
#[derive(Debug, Clone)]
pub(super) struct FileMeta {
    /// Names the contents; the sha256 of large files. Safe as a file name.
    pub etag: String,
    pub bytes: u64,
}

/// One repository of the hub.
pub(super) struct Client<'a> {
    agent: Agent,
    config: &'a HubConfig,
    pub name: &'a RepoName,
    kind: RepoType,
}

impl<'a> Client<'a> {
    pub(super) fn new(config: &'a HubConfig, name: &'a RepoName, kind: RepoType) -> Client<'a> {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("qonnx/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(config.silence))
            .timeout_recv_response(Some(config.silence))
            .timeout_per_read(Some(config.silence))
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .build()
            .into();
        Client { agent, config, name, kind }
    }

    /// The commit that the revision stands for, and its files.
    pub(super) fn listing(&self) -> Result<Listing, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let repo = Repo::with_revision(self.name.id.clone(), self.kind, self.name.revision.clone());
        let url = format!("{}/api/{}", self.config.endpoint, repo.api_url());
        let mut response = self.checked(self.get(&url, None)?, &url, None)?;
        let broken = |problem: String| HubError::Protocol { url: url.clone(), problem };
        let answer: Answer = response
            .body_mut()
            .with_config()
            .limit(MAX_LISTING_BYTES)
            .read_json()
            .map_err(|e| broken(format!("the listing of the repository is not as expected ({e})")))?;
        if !is_commit(&answer.sha) {
            return Err(broken(format!("commit {:?} is not 40 hexadecimal digits", answer.sha)));
        }
        let files: Vec<String> = answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(file) = files.iter().find(|file| !is_inside(file)) {
            return Err(broken(format!("the repository's file {file:?} lies outside it")));
        }
        Ok(Listing { commit: answer.sha, files })
    }

    /// Size and etag of `file`. Follows redirects within the server (renamed repositories), not those to the store of large
    /// files, whose answers lack the hub's headers.
    pub(super) fn meta(&self, commit: &str, file: &str) -> Result<FileMeta, HubError> {
        let mut url = self.file_url(commit, file);
        for _ in 0..MAX_REDIRECTS {
            let request = self.agent.head(&url).config().max_redirects(0).build().header("Accept-Encoding", "identity");
            let response = self.authorized(request).call().map_err(|e| self.unreachable(e))?;
            let headers = response.headers();
            match text(headers, "location").filter(|target| target.starts_with('/')) {
                Some(target) if response.status().is_redirection() => url = on_same_host(&url, target)?,
                _ if response.status().is_redirection() => return file_meta(headers, &url),
                _ => return file_meta(self.checked(response, &url, Some(file))?.headers(), &url),
            }
        }
        Err(HubError::Protocol { url, problem: format!("more than {MAX_REDIRECTS} redirects") })
    }

    /// Asks for `file` from byte `range.0` on, to its end or to the byte before `range.1`. The answer may be the whole file
    /// (200), the part (206) or a refusal of the range (416); other answers are errors.
    pub(super) fn bytes(&self, commit: &str, file: &str, range: (u64, Option<u64>)) -> Result<Response<Body>, HubError> {
        let url = self.file_url(commit, file);
        let range = match range {
            (0, None) => None,
            (start, None) => Some(format!("bytes={start}-")),
            (start, Some(end)) => Some(format!("bytes={start}-{}", end - 1)),
        };
        let response = self.get(&url, range.as_deref())?;
        if response.status().as_u16() == 416 { Ok(response) } else { self.checked(response, &url, Some(file)) }
    }

    /// Address of `file`, as the hub resolves it.
    pub(super) fn file_url(&self, commit: &str, file: &str) -> String {
        let repo = Repo::with_revision(self.name.id.clone(), self.kind, commit.to_owned());
        let (repo, file) = (repo.url(), utf8_percent_encode(file, PATH));
        format!("{}/{repo}/resolve/{commit}/{file}", self.config.endpoint)
    }

    fn get(&self, url: &str, range: Option<&str>) -> Result<Response<Body>, HubError> {
        let mut request = self.authorized(self.agent.get(url)).header("Accept-Encoding", "identity");
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        request.call().map_err(|e| self.unreachable(e))
    }

    fn authorized<S>(&self, request: ureq::RequestBuilder<S>) -> ureq::RequestBuilder<S> {
        match &self.config.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn unreachable(&self, source: ureq::Error) -> HubError {
        HubError::Unreachable { endpoint: self.config.endpoint.clone(), source: Box::new(source) }
    }

    /// Passes success on and turns each refusal into its cause; the hub names it in `X-Error-Code`.
    fn checked(&self, response: Response<Body>, url: &str, file: Option<&str>) -> Result<Response<Body>, HubError> {
        let status = response.status().as_u16();
        if response.status().is_success() {
            return Ok(response);
        }
        let id = self.name.id.clone();
        let endpoint = self.config.endpoint.clone();
        let token = if self.config.token.is_some() { TokenState::Sent } else { TokenState::Absent };
        Err(match (status, text(response.headers(), "x-error-code"), file) {
            (401 | 403, Some("GatedRepo"), _) => HubError::Gated { id, status, endpoint, token },
            (401, _, _) => HubError::Refused { id, status, token },
            (403, _, _) => HubError::Gated { id, status, endpoint, token },
            (404, Some("RevisionNotFound"), _) => HubError::NoRevision { id, revision: self.name.revision.clone(), endpoint },
            (404, Some("EntryNotFound"), Some(file)) | (404, None, Some(file)) => {
                HubError::NoFile { repo: self.name.to_string(), file: file.into(), advice: "check the name of the file" }
            }
            (404, _, _) => HubError::NoRepo { id, endpoint },
            _ => HubError::Server { url: url.into(), status },
        })
    }
}

/// Reads the headers of a file's HEAD.
fn file_meta(headers: &HeaderMap, url: &str) -> Result<FileMeta, HubError> {
    let missing = |what: &str| HubError::Protocol { url: url.into(), problem: format!("the answer has no usable {what} header") };
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag")).ok_or_else(|| missing("ETag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    if etag.is_empty() || !etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(missing("ETag"));
    }
    let bytes = text(headers, "x-linked-size").or_else(|| text(headers, "content-length"));
    let bytes = bytes.and_then(|bytes| bytes.parse().ok()).ok_or_else(|| missing("Content-Length"))?;
    Ok(FileMeta { etag: etag.to_owned(), bytes })
}

/// The first value of a header, where it is plain text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// First byte and size of the whole file, from `Content-Range: bytes FIRST-LAST/TOTAL`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let (range, total) = text(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

fn on_same_host(url: &str, target: &str) -> Result<String, HubError> {
    let broken = |problem: String| HubError::Protocol { url: url.into(), problem };
    let mut parts = url.parse::<Uri>().map_err(|e| broken(e.to_string()))?.into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_| broken(format!("redirects to {target:?}")))?);
    Uri::from_parts(parts).map(|uri| uri.to_string()).map_err(|e| broken(e.to_string()))
}

/// Whether a file of a listing stays inside its repository's folder.
pub(super) fn is_inside(file: &str) -> bool {
    !file.contains('\\') && file.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}
