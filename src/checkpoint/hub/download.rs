//! One file from the hub into the cache: resumed where it broke off, its size and hash checked before it is named.
//!
//! hf-hub's own download does not serve here: it takes a body that ends early for a whole one, appends a second copy when
//! a server ignores the range it asked for, and fails on a part that is complete already.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use ureq::Body;
use ureq::http::Response;

use super::cache::RepoCache;
use super::client::{Client, FileMeta, content_range, text};
use super::contents::{self, Mismatch};
use super::pace::{Paced, least_bytes};
use super::{HubConfig, HubError, Progress};
use crate::host::shown;

const BUFFER: usize = 1 << 20;

/// Gives the path of `file` in the snapshot of `commit`, downloading it if it is not there.
pub(super) fn fetch(
    client: &Client<'_>,
    cache: &RepoCache,
    config: &HubConfig,
    commit: &str,
    file: &str,
    progress: &mut dyn Progress,
) -> Result<PathBuf, HubError> {
    let place = cache.snapshot(commit).join(file);
    if place.exists() {
        let Some(what) = contents::damage(&place) else { return Ok(place) };
        if config.offline {
            return Err(HubError::Damaged { path: place, what });
        }
        tracing::warn!(file = %place.display(), "the cached file is damaged: {what}");
        cache.forget(&place)?;
    }
    let meta = client.meta(commit, file)?;
    let (blob, part) = cache.blob(&meta.etag);
    let lock = cache.lock(&meta.etag)?;
    if blob.exists() && contents::damage(&blob).is_some() {
        cache.forget(&blob)?;
    }
    if !blob.exists() {
        let mut download = Download { client, config, commit, file, meta: &meta, part: &part };
        download.run(progress)?;
        fs::rename(&part, &blob).map_err(|e| download.disk(e))?;
    }
    drop(lock);
    cache.link(commit, file, &blob)
}

struct Download<'a> {
    client: &'a Client<'a>,
    config: &'a HubConfig,
    commit: &'a str,
    file: &'a str,
    meta: &'a FileMeta,
    part: &'a Path,
}

impl Download<'_> {
    /// Fills the part until it is complete and right. Each attempt goes on where the last one ended; only attempts that
    /// brought next to nothing count against the retries.
    fn run(&mut self, progress: &mut dyn Progress) -> Result<(), HubError> {
        let mut have = self.part_bytes()?;
        progress.begin(&shown(self.file).to_string(), self.meta.bytes, have);
        let (mut fruitless, mut wait) = (0, self.config.retry_wait);
        while have < self.meta.bytes {
            let failure = match self.attempt(have, progress) {
                Ok(()) => None,
                Err(error @ (HubError::Unreachable { .. } | HubError::CutOff { .. } | HubError::Server { .. })) => Some(error),
                Err(error) => return Err(error),
            };
            let now = self.part_bytes()?;
            // An attempt that was given up for its pace has brought something as well.
            if now >= have + least_bytes(self.config.silence) {
                (fruitless, wait) = (0, self.config.retry_wait);
            } else {
                fruitless += 1;
            }
            have = now;
            if let Some(error) = failure {
                if fruitless > self.config.retries || self.config.retries == 0 {
                    return Err(error);
                }
                tracing::warn!(file = self.file, have, expected = self.meta.bytes, "{error}; trying again");
                thread::sleep(wait);
                wait *= 2;
            }
        }
        self.check_hash()?;
        progress.end();
        Ok(())
    }

    /// One request, from byte `have` on.
    fn attempt(&self, have: u64, progress: &mut dyn Progress) -> Result<(), HubError> {
        let mut response = self.client.bytes(self.commit, self.file, (have, None))?;
        let mut part = self.open_part(&response, have)?;
        let mut body = Paced::new(response.body_mut().as_reader(), self.config.silence);
        let mut got = part.metadata().map_err(|e| self.disk(e))?.len();
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(source) => return Err(self.cut_off(got, Some(source))),
            };
            got += read as u64;
            if got > self.meta.bytes {
                return Err(self.discard(self.wrong_size(got)));
            }
            part.write_all(&buffer[..read]).map_err(|e| self.disk(e))?;
            progress.advance(read as u64);
        }
        if got < self.meta.bytes { Err(self.cut_off(got, None)) } else { Ok(()) }
    }

    /// The part, at the byte where the answer begins; refuses an answer of another size than the hub announced.
    fn open_part(&self, response: &Response<Body>, have: u64) -> Result<File, HubError> {
        let mut options = OpenOptions::new();
        let (total, options) = match response.status().as_u16() {
            206 => {
                let Some((first, total)) = content_range(response.headers()) else {
                    let url = self.client.file_url(self.commit, self.file);
                    return Err(HubError::Protocol { url, problem: "a part (206) came without Content-Range".into() });
                };
                if first != have {
                    let problem = format!("asked for the bytes from {have} on, got those from {first} on");
                    return Err(HubError::Protocol { url: self.client.file_url(self.commit, self.file), problem });
                }
                (Some(total), options.append(true))
            }
            416 => return Err(self.discard(self.wrong_size(have))),
            // The server does not do ranges: the whole file comes again.
            _ => {
                let total = text(response.headers(), "content-length").and_then(|bytes| bytes.parse().ok());
                (total, options.write(true).truncate(true))
            }
        };
        match total {
            Some(total) if total != self.meta.bytes => Err(self.discard(self.wrong_size(total))),
            _ => options.create(true).open(self.part).map_err(|e| self.disk(e)),
        }
    }

    /// Bytes that are there; a part that is longer than the file is begun anew, as one that is not there.
    fn part_bytes(&self) -> Result<u64, HubError> {
        match fs::metadata(self.part) {
            Ok(meta) if meta.len() <= self.meta.bytes => Ok(meta.len()),
            _ => File::create(self.part).map(|_| 0).map_err(|e| self.disk(e)),
        }
    }

    /// A resumed download is only as good as what was resumed.
    fn check_hash(&self) -> Result<(), HubError> {
        let Some(Mismatch { kind, got }) = contents::compare(self.part, &self.meta.etag).map_err(|e| self.disk(e))? else {
            return Ok(());
        };
        let (repo, file, expected) = (self.client.name.to_string(), shown(self.file).to_string(), self.meta.etag.clone());
        Err(self.discard(HubError::WrongHash { repo, file, kind, got, expected }))
    }

    /// Throws the part away, since resuming it could not help; if that fails, the next run refuses it again.
    fn discard(&self, error: HubError) -> HubError {
        if let Err(failed) = fs::remove_file(self.part) {
            tracing::warn!(part = %self.part.display(), "cannot remove a useless part: {failed}");
        }
        error
    }

    fn wrong_size(&self, got: u64) -> HubError {
        let (repo, file, expected) = (self.client.name.to_string(), shown(self.file).to_string(), self.meta.bytes);
        HubError::WrongSize { repo, file, got, expected }
    }

    fn cut_off(&self, got: u64, source: Option<io::Error>) -> HubError {
        let (repo, file, expected) = (self.client.name.to_string(), shown(self.file).to_string(), self.meta.bytes);
        HubError::CutOff { repo, file, got, expected, source }
    }

    fn disk(&self, source: io::Error) -> HubError {
        HubError::Disk { path: self.part.into(), source }
    }
}
