//! Files into a repository of the hub: large ones through Git LFS, then all of them in one commit.
//!
//! The protocol is that of Hugging Face's own client (`huggingface_hub`, `create_repo`, `_commit_api.py`, `lfs.py`):
//! `/api/repos/create` makes the repository, `/api/models/{id}/preupload/{revision}` says which files are large, the LFS batch
//! says where each of those goes and which are there already, `/api/models/{id}/commit/{revision}` names them all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body, SendBody};

use super::client::{bearer, new_agent, text};
use super::local::{LocalFile, Pushed};
use super::source::RepoName;
use super::{HubConfig, HubError, Progress};
use crate::host::shown;

/// First bytes of a file by which the hub says whether it is large.
const SAMPLE_BYTES: u64 = 512;
const JSON: &str = "application/json";
const LFS: &str = "application/vnd.git-lfs+json";
/// No answer about files comes near it.
/// Of a refusal.
const MOST_WORDS: u64 = 4096;
/// Bytes a second that a file is sent with at least.
const LEAST_BYTES_PER_SECOND: u64 = 20_000;
const MOST_ANSWER_BYTES: u64 = 64 << 20;

/// A repository that files go to.
pub(super) struct Upload<'a> {
    agent: Agent,
    config: &'a HubConfig,
    name: &'a RepoName,
    token: &'a str,
}

/// How the hub takes a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
}

/// What is to be done with a large file; nothing where it is there.
#[derive(Deserialize)]
struct Object {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Actions {
    upload: Action,
    #[serde(default)]
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(config: &'a HubConfig, name: &'a RepoName) -> Result<Upload<'a>, HubError> {
        let token = config.token.as_deref().ok_or_else(|| HubError::NoToken { id: name.id.clone() })?;
        Ok(Upload { agent: new_agent(config), config, name, token })
    }

    /// Makes the repository where there is none; one that is there stays as it is.
    pub(super) fn create(&self, private: bool) -> Result<(), HubError> {
        let (organization, name) = self.name.id.split_once('/').unwrap_or(("", &self.name.id));
        let asked = json!({ "type": "model", "name": name, "organization": organization, "private": private });
        let url = format!("{}/api/repos/create", self.config.endpoint);
        let response = self.post(&url, &asked.to_string(), JSON)?;
        match response.status().as_u16() {
            409 => Ok(()),
            // A token may be one for this repository alone.
            403 if self.is_there()? => Ok(()),
            _ => self.checked(response, &url).map(drop),
        }
    }

    fn is_there(&self) -> Result<bool, HubError> {
        let url = format!("{}/api/models/{}", self.config.endpoint, self.name.id);
        let bearer = bearer(self.token)?;
        let request = || Request::builder().method("GET").uri(&url).header("Authorization", &bearer).body(());
        let response = self.patiently(&url, || self.agent.run(request()?))?;
        Ok(response.status().is_success())
    }

    /// Sends the files and names them in a commit.
    pub(super) fn push(&self, files: &[LocalFile], message: &str, progress: &mut dyn Progress) -> Result<Pushed, HubError> {
        let modes = self.modes(files)?;
        let mode = |file: &LocalFile| modes.iter().find(|mode| mode.path == file.name).map(|mode| mode.upload_mode.as_str());
        if let Some(file) = files.iter().find(|file| !matches!(mode(file), Some("lfs" | "regular"))) {
            return Err(self.broken("/preupload", format!("says nothing of {}", file.name)));
        }
        let (large, small): (Vec<&LocalFile>, Vec<&LocalFile>) = files.iter().partition(|file| mode(file) == Some("lfs"));
        let objects = self.objects(&large)?;
        let (mut sent, mut there) = (0, 0);
        for file in &large {
            let object = objects.iter().find(|object| object.oid == file.sha256);
            let object = object.ok_or_else(|| self.broken("/info/lfs", format!("says nothing of {}", file.name)))?;
            match &object.actions {
                Some(actions) => {
                    progress.begin(&file.name, file.bytes, 0);
                    self.send(file, actions, progress)?;
                    progress.end();
                    sent += file.bytes;
                }
                None => there += file.bytes,
            }
        }
        sent += small.iter().map(|file| file.bytes).sum::<u64>();
        Ok(Pushed { url: self.commit(&large, &small, message)?, sent, there })
    }

    fn modes(&self, files: &[LocalFile]) -> Result<Vec<Mode>, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            files: Vec<Mode>,
        }
        let said = |file: &LocalFile| {
            let sample = part(file, 0, SAMPLE_BYTES)?;
            Ok(json!({ "path": file.name, "size": file.bytes, "sample": BASE64_STANDARD.encode(sample) }))
        };
        let asked: Vec<Value> = files.iter().map(said).collect::<Result<_, HubError>>()?;
        let url = format!("{}/api/models/{}/preupload/{}", self.config.endpoint, self.name.id, self.name.revision);
        let answer: Answer = self.answer(&url, &json!({ "files": asked }).to_string(), JSON)?;
        Ok(answer.files)
    }

    fn objects(&self, large: &[&LocalFile]) -> Result<Vec<Object>, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            objects: Vec<Object>,
        }
        if large.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<Value> = large.iter().map(|file| json!({ "oid": file.sha256, "size": file.bytes })).collect();
        let asked = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "objects": asked, "hash_algo": "sha256",
            "ref": { "name": self.name.revision },
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.config.endpoint, self.name.id);
        let answer: Answer = self.answer(&url, &asked.to_string(), LFS)?;
        match answer.objects.iter().find_map(|object| object.error.as_ref()) {
            Some(error) => Err(HubError::Protocol { url, problem: format!("refuses a file: {}", shown(&error.to_string())) }),
            None => Ok(answer.objects),
        }
    }

    /// Sends a large file, whole or in the parts that the hub asks for.
    fn send(&self, file: &LocalFile, actions: &Actions, progress: &mut dyn Progress) -> Result<(), HubError> {
        let header = &actions.upload.header;
        let size = header.get("chunk_size").and_then(|size| size.as_u64().or_else(|| size.as_str()?.parse().ok()));
        match size.filter(|size| *size > 0) {
            Some(size) => {
                let mut tags = Vec::new();
                for (index, href) in self.parts(header, file, size)?.into_iter().enumerate() {
                    let start = index as u64 * size;
                    let headers = self.put(href, &[], file, start, size.min(file.bytes - start), progress)?;
                    let tag =
                        text(&headers, "etag").ok_or_else(|| self.broken("/info/lfs", "gives a part no ETag".to_owned()))?;
                    tags.push(json!({ "partNumber": index + 1, "etag": tag }));
                }
                let done = json!({ "oid": file.sha256, "parts": tags });
                let response = self.post(&actions.upload.href, &done.to_string(), LFS)?;
                self.checked(response, &actions.upload.href)?;
            }
            None => {
                let said: Vec<(&str, &str)> =
                    header.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect();
                self.put(&actions.upload.href, &said, file, 0, file.bytes, progress)?;
            }
        }
        if let Some(verify) = &actions.verify {
            let said = json!({ "oid": file.sha256, "size": file.bytes }).to_string();
            let response = self.post(&verify.href, &said, LFS)?;
            self.checked(response, &verify.href)?;
        }
        Ok(())
    }

    /// Where each part of a file goes, in order.
    fn parts<'h>(&self, header: &'h BTreeMap<String, Value>, file: &LocalFile, size: u64) -> Result<Vec<&'h str>, HubError> {
        let numbered = header.iter().filter_map(|(key, href)| Some((key.parse::<u32>().ok()?, href.as_str()?)));
        let parts: BTreeMap<u32, &str> = numbered.collect();
        match parts.len() as u64 == file.bytes.div_ceil(size) {
            true => Ok(parts.into_values().collect()),
            false => {
                let (name, count) = (&file.name, parts.len());
                Err(self
                    .broken("/info/lfs", format!("has {count} places for {name}, whose {} bytes are sent by {size}", file.bytes)))
            }
        }
    }

    /// One commit with all files; where it can be seen.
    fn commit(&self, large: &[&LocalFile], small: &[&LocalFile], message: &str) -> Result<String, HubError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            commit_url: String,
        }
        let mut lines = vec![json!({ "key": "header", "value": { "summary": message, "description": "" } })];
        for file in small {
            let content = part(file, 0, u64::MAX)?;
            let sha256: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
            if sha256 != file.sha256 {
                return Err(HubError::Local { path: file.path.clone(), source: changed(content.len() as u64, file.bytes) });
            }
            let content = BASE64_STANDARD.encode(content);
            lines.push(json!({ "key": "file", "value": { "content": content, "path": file.name, "encoding": "base64" } }));
        }
        let named = large.iter().map(|file| {
            let value = json!({ "path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.bytes });
            json!({ "key": "lfsFile", "value": value })
        });
        lines.extend(named);
        let body: Vec<String> = lines.iter().map(Value::to_string).collect();
        let url = format!("{}/api/models/{}/commit/{}", self.config.endpoint, self.name.id, self.name.revision);
        let answer: Answer = self.answer(&url, &body.join("\n"), "application/x-ndjson")?;
        Ok(answer.commit_url)
    }

    /// What the hub says to `body`.
    fn answer<T: serde::de::DeserializeOwned>(&self, url: &str, body: &str, kind: &str) -> Result<T, HubError> {
        let response = self.post(url, body, kind)?;
        let mut said = Vec::new();
        let body = self.checked(response, url)?.into_body().into_reader().take(MOST_ANSWER_BYTES).read_to_end(&mut said);
        body.map_err(|error| self.unreachable(ureq::Error::Io(error)))?;
        serde_json::from_slice(&said).map_err(|error| HubError::Protocol {
            url: url.to_owned(),
            problem: format!("the answer is not as expected ({})", shown(&error.to_string())),
        })
    }

    /// A request to the hub itself, made again where it is busy. The token goes to the hub's own address alone.
    fn post(&self, url: &str, body: &str, kind: &str) -> Result<Response<Body>, HubError> {
        let mut request = Request::builder().method("POST").uri(url).header("Content-Type", kind).header("Accept", kind);
        if url.starts_with(&format!("{}/", self.config.endpoint)) {
            request = request.header("Authorization", bearer(self.token)?);
        }
        let request = request
            .body(body.to_owned())
            .map_err(|error| HubError::Protocol { url: url.to_owned(), problem: format!("this is no address ({error})") })?;
        self.patiently(url, || self.agent.run(request.clone()))
    }

    /// Puts a part of a file where the hub said; headers of the answer.
    fn put(
        &self,
        href: &str,
        headers: &[(&str, &str)],
        file: &LocalFile,
        start: u64,
        bytes: u64,
        progress: &mut dyn Progress,
    ) -> Result<HeaderMap, HubError> {
        let local = |source| HubError::Local { path: file.path.clone(), source };
        let metadata = file.path.metadata().map_err(local)?;
        if metadata.len() != file.bytes {
            return Err(local(changed(metadata.len(), file.bytes)));
        }
        let slowest = self.config.silence + Duration::from_secs(bytes / LEAST_BYTES_PER_SECOND);
        let response = self.patiently(href, || {
            let mut open = File::open(&file.path)?;
            open.seek(SeekFrom::Start(start))?;
            let mut request = Request::builder().method("PUT").uri(href).header("Content-Length", bytes.to_string());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut reader = Exactly { inner: open.take(bytes), left: bytes };
            let request = request.body(SendBody::from_reader(&mut reader))?;
            self.agent.run(self.agent.configure_request(request).timeout_send_body(Some(slowest)).build())
        })?;
        if !response.status().is_success() {
            return Err(self.refused(response, href));
        }
        progress.advance(bytes);
        Ok(response.headers().clone())
    }

    /// The answer to a request, which is made again while the other end is busy or the connection breaks.
    fn patiently(
        &self,
        url: &str,
        request: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, HubError> {
        let mut wait = self.config.retry_wait;
        for left in (0..=self.config.retries).rev() {
            match request() {
                Ok(response) if !matches!(response.status().as_u16(), 429 | 500 | 502 | 503 | 504) || left == 0 => {
                    return Ok(response);
                }
                Err(error) if left == 0 => return Err(self.unreachable(error)),
                Ok(response) => tracing::warn!(url, status = response.status().as_u16(), "the hub is busy; asking again"),
                Err(error) => tracing::warn!(url, "the connection broke ({error}); asking again"),
            }
            thread::sleep(wait);
            wait *= 2;
        }
        unreachable!("the last attempt returns")
    }

    fn unreachable(&self, source: ureq::Error) -> HubError {
        HubError::Unreachable { endpoint: self.config.endpoint.clone(), source: Box::new(source) }
    }

    fn checked(&self, response: Response<Body>, url: &str) -> Result<Response<Body>, HubError> {
        let status = response.status().as_u16();
        let id = self.name.id.clone();
        match status {
            200..=299 => Ok(response),
            401 | 403 => Err(HubError::NoWriting { id, status, said: said_by(response) }),
            404 => Err(HubError::NoRevision { id, revision: self.name.revision.clone(), endpoint: self.config.endpoint.clone() }),
            _ => Err(self.refused(response, url)),
        }
    }

    /// What a server said that will say the same again; of one that is down, that it is.
    fn refused(&self, response: Response<Body>, url: &str) -> HubError {
        match response.status().as_u16() {
            status @ (429 | 500..) => HubError::Server { url: url.to_owned(), status },
            status => HubError::Declined { url: url.to_owned(), status, said: said_by(response) },
        }
    }

    fn broken(&self, what: &str, problem: String) -> HubError {
        HubError::Protocol {
            url: format!("{}/{}{what}", self.config.endpoint, self.name.id),
            problem: shown(&problem).to_string(),
        }
    }
}

/// A file's bytes, of which there must be as many as were promised: a request would wait for the rest.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has become shorter while it was sent"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn changed(got: u64, expected: u64) -> io::Error {
    let problem = format!("it has {got} bytes and other ones than when it was looked at, where it had {expected}");
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Why a server refuses, in its own words: `error` of its answer, or the header that the hub puts it into.
fn said_by(response: Response<Body>) -> String {
    let header = text(response.headers(), "x-error-message").map(str::to_owned);
    let mut body = Vec::new();
    let read = response.into_body().into_reader().take(MOST_WORDS).read_to_end(&mut body);
    let answer: Value = read.ok().and_then(|_| serde_json::from_slice(&body).ok()).unwrap_or_default();
    let said = answer["error"].as_str().map(str::to_owned).or(header);
    said.map(|said| format!(": {}", shown(&said))).unwrap_or_default()
}

/// Bytes of a file.
fn part(file: &LocalFile, start: u64, most: u64) -> Result<Vec<u8>, HubError> {
    let mut bytes = Vec::new();
    let mut read = || {
        let mut open = File::open(&file.path)?;
        open.seek(SeekFrom::Start(start))?;
        open.take(most).read_to_end(&mut bytes)
    };
    read().map_err(|source| HubError::Local { path: file.path.clone(), source })?;
    Ok(bytes)
}
