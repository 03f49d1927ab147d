//! Headers of weights that stay on the hub.

use std::io::Read;
use std::path::Path;

use super::super::header::{Header, LENGTH_BYTES, header_bytes, parse_header};
use super::client::{Listing, content_range, text};
use super::pace::Paced;
use super::{CheckpointError, HubError, INDEX_FILE, Index, Known, ModelHeaders, SINGLE_FILE, Visit, WeightMap, contents};
use crate::contract::CONFIG_FILE;
use crate::host::shown;

/// Asked for first: holds the header of every real shard (an 8B model's takes 9 kB), so that one request is enough.
const FIRST_BYTES: u64 = 64 << 10;

impl Visit<'_> {
    /// Index and configuration of a model, by range requests for the weights that are not cached.
    pub(super) fn headers(&mut self) -> Result<ModelHeaders, HubError> {
        let listing = match self.known()? {
            Known::Listed(listing) => listing,
            Known::Cached { commit, .. } => {
                let dir = self.cache.snapshot(&commit);
                return Ok(ModelHeaders { index: Index::open(&dir)?, dir });
            }
        };
        let dir = self.cache.snapshot(&listing.commit);
        let weights = self.listed_weights(&listing)?;
        if !listing.files.iter().any(|file| file == CONFIG_FILE) {
            let advice = "take a repository in transformers' form";
            return Err(HubError::NoFile { repo: self.name.to_string(), file: CONFIG_FILE.into(), advice });
        }
        self.fetch(&listing.commit, CONFIG_FILE)?;
        if weights.iter().all(|file| dir.join(file).exists() && contents::damage(&dir.join(file)).is_none()) {
            return Ok(ModelHeaders { index: Index::open(&dir)?, dir });
        }
        let label = self.name.to_string();
        let mut headers = Vec::new();
        for file in weights {
            let (bytes, header) = self.remote_header(&listing, &file)?;
            headers.push((file, bytes, header));
        }
        let is_indexed = !headers.iter().any(|(name, ..)| name == SINGLE_FILE) && dir.join(INDEX_FILE).exists();
        let map = if is_indexed { Some(WeightMap::read(&dir.join(INDEX_FILE))?) } else { None };
        Ok(ModelHeaders { index: Index::from_headers(Path::new(&label), headers, map.as_ref())?, dir })
    }

    /// Size and checked header of one file on the hub.
    fn remote_header(&self, listing: &Listing, file: &str) -> Result<(u64, Header), HubError> {
        let path = Path::new(&self.name.to_string()).join(file);
        let broken = |problem| CheckpointError::Header { file: path.clone(), problem };
        let (mut first, bytes) = self.remote_bytes(listing, file, 0, FIRST_BYTES)?;
        let header = LENGTH_BYTES as u64 + header_bytes(&first, bytes).map_err(broken)?;
        let have = first.len() as u64;
        if have < header {
            first.extend(self.remote_bytes(listing, file, have, header)?.0);
        }
        Ok((bytes, parse_header(&first, bytes).map_err(broken)?))
    }

    /// Bytes `start..end` of a file, fewer where it ends before, and the size of the whole.
    fn remote_bytes(&self, listing: &Listing, file: &str, start: u64, end: u64) -> Result<(Vec<u8>, u64), HubError> {
        let response = self.client.bytes(&listing.commit, file, (start, Some(end)))?;
        let broken =
            |problem: &str| HubError::Protocol { url: self.client.file_url(&listing.commit, file), problem: problem.to_owned() };
        let headers = response.headers();
        let (skip, total) = match response.status().as_u16() {
            206 => match content_range(headers) {
                Some((first, total)) if first == start => (0, total),
                _ => return Err(broken("the part (206) is not the one that was asked for")),
            },
            416 => return Ok((Vec::new(), 0)), // an empty file has no first byte
            _ => match text(headers, "content-length").and_then(|bytes| bytes.parse().ok()) {
                Some(total) => (start, total),
                None => return Err(broken("the answer has no Content-Length")),
            },
        };
        let wanted = end.min(total).saturating_sub(start);
        let mut reader = Paced::new(response.into_body().into_reader(), self.config.silence).take(skip + wanted);
        let mut bytes = Vec::new();
        let cut_off = |got: u64, source| {
            let (repo, file) = (self.name.to_string(), shown(file).to_string());
            HubError::CutOff { repo, file, got, expected: start + wanted, source }
        };
        reader.read_to_end(&mut bytes).map_err(|e| cut_off(start, Some(e)))?;
        if (bytes.len() as u64) < skip + wanted {
            return Err(cut_off(bytes.len() as u64, None));
        }
        Ok((bytes.split_off(skip as usize), total))
    }
}
