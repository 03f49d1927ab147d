//! Requests to the hub, and what its answers mean.
//!
//! The protocol is that of Hugging Face's own client (`huggingface_hub/file_download.py`): `/api/{models|datasets}/{id}/
//! revision/{revision}` lists a repository, a HEAD of `/{id}/resolve/{commit}/{file}` tells a file's size and etag, and a
//! GET of the same address, redirected to the store of large files, gives its bytes.

use std::io::Read;
use std::thread;
use std::time::Duration;

use hf_hub::{Repo, RepoType};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Request, Response};
use ureq::{Agent, Body};
use url::Url;

use super::error::TokenState;
use super::pace::Paced;
use super::source::{RepoName, is_commit};
use super::{HubConfig, HubError};
use crate::host::shown;

/// No listing of a repository comes near it.
const MAX_LISTING_BYTES: u64 = 64 << 20;
const MAX_REDIRECTS: usize = 5;
/// The longest that a server may ask to wait: the hub counts requests in windows of five minutes.
const MAX_WAIT: Duration = Duration::from_secs(300);
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
        Client { agent: new_agent(config), config, name, kind }
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
        let response = self.checked(self.get(&url, None)?, &url, None)?;
        let broken = |problem: String| HubError::Protocol { url: url.clone(), problem };
        let mut body = Vec::new();
        let reader = Paced::new(response.into_body().into_reader(), self.config.silence);
        let read = reader.take(MAX_LISTING_BYTES + 1).read_to_end(&mut body);
        read.map_err(|e| self.unreachable(ureq::Error::Io(e)))?;
        if body.len() as u64 > MAX_LISTING_BYTES {
            return Err(broken(format!("the listing of the repository has more than {MAX_LISTING_BYTES} bytes")));
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|e| broken(format!("the listing of the repository is not as expected ({})", shown(&e.to_string()))))?;
        if !is_commit(&answer.sha) {
            return Err(broken(format!("commit \"{}\" is not 40 hexadecimal digits", shown(&answer.sha))));
        }
        let files: Vec<String> = answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(file) = files.iter().find(|file| !is_inside(file)) {
            return Err(broken(format!("the repository's file \"{}\" lies outside it", shown(file))));
        }
        Ok(Listing { commit: answer.sha, files })
    }

    /// Size and etag of `file`. Redirects are followed, to other servers too (renamed repositories, mirrors), up to the answer that
    /// has the hub's `X-Linked-Etag`: it redirects to the store of large files, whose own answers lack the hub's headers.
    pub(super) fn meta(&self, commit: &str, file: &str) -> Result<FileMeta, HubError> {
        let url = self.file_url(commit, file);
        let response = self.call(&Method::HEAD, &url, None)?;
        let response = if response.status().is_redirection() { response } else { self.checked(response, &url, Some(file))? };
        file_meta(response.headers(), &url)
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
        self.call(&Method::GET, url, range)
    }

    /// The answer to a request; where the server is busy, to the same request later.
    fn call(&self, method: &Method, url: &str, range: Option<&str>) -> Result<Response<Body>, HubError> {
        let mut wait = self.config.retry_wait;
        let mut left = self.config.retries;
        loop {
            let response = self.followed(method, url, range)?;
            let status = response.status().as_u16();
            if !matches!(status, 429 | 503) {
                return Ok(response);
            }
            let asked = retry_after(response.headers());
            if left == 0 || asked.is_some_and(|asked| asked > MAX_WAIT) {
                return Err(HubError::Busy { url: url.into(), status, seconds: asked.map(|asked| asked.as_secs()) });
            }
            let pause = asked.unwrap_or(wait);
            tracing::warn!(url, status, "the hub is busy; asking again in {:.0} s", pause.as_secs_f64());
            thread::sleep(pause);
            (left, wait) = (left - 1, wait * 2);
        }
    }

    /// Makes a request and follows its redirects; a HEAD up to the one to the store, whose headers tell of a file what the store
    /// does not. The token goes to the hub's own scheme, host and port, and to nobody once a redirect has led away from there.
    fn followed(&self, method: &Method, url: &str, range: Option<&str>) -> Result<Response<Body>, HubError> {
        let broken = |problem: String| HubError::Protocol { url: url.into(), problem };
        let mut at = Url::parse(url).map_err(|e| broken(format!("this is no address ({e})")))?;
        let hub = at.origin();
        let mut is_at_hub = true;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::builder().method(method).uri(at.as_str()).header("Accept-Encoding", "identity");
            if let Some(range) = range {
                request = request.header("Range", range);
            }
            if let Some(token) = self.config.token.as_ref().filter(|_| is_at_hub) {
                request = request.header("Authorization", bearer(token)?);
            }
            let request = request.body(()).map_err(|e| broken(format!("this is no address ({e})")))?;
            let response = self.agent.run(request).map_err(|e| self.unreachable(e))?;
            let Some(target) = text(response.headers(), "location").filter(|_| response.status().is_redirection()) else {
                return Ok(response);
            };
            let target = at.join(target).ok().filter(|target| matches!(target.scheme(), "http" | "https"));
            let to = || text(response.headers(), "location").unwrap_or_default();
            let target = target.ok_or_else(|| broken(format!("redirects to \"{}\"", shown(to()))))?;
            is_at_hub &= target.origin() == hub;
            if method == Method::HEAD && text(response.headers(), "x-linked-etag").is_some() {
                return Ok(response);
            }
            at = target;
        }
        Err(broken(format!("more than {MAX_REDIRECTS} redirects")))
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

/// Who makes requests.
pub(super) fn new_agent(config: &HubConfig) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("qonnx/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(config.silence))
        .timeout_recv_response(Some(config.silence))
        .timeout_per_read(Some(config.silence))
        .max_redirects(0) // followed here, see `followed`
        .build()
        .into()
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

/// How long a busy server asks to wait: `Retry-After` in seconds, or the end of the hub's window of requests
/// (`ratelimit: "api";r=0;t=55`).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let window = || text(headers, "ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    let seconds = text(headers, "retry-after").and_then(|seconds| seconds.trim().parse().ok());
    seconds.or_else(|| window()?.parse().ok()).map(Duration::from_secs)
}

/// The header's value; HTTP has no way to send what a token never holds.
pub(super) fn bearer(token: &str) -> Result<String, HubError> {
    let is_sendable = token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_sendable { Ok(format!("Bearer {token}")) } else { Err(HubError::Token) }
}

/// Whether a file of a listing stays inside its repository's folder.
pub(super) fn is_inside(file: &str) -> bool {
    !file.contains('\\') && file.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}
