//! Whether the contents of a file are those that the hub names by its etag.
//!
//! Large files are named by their sha256, small ones by the SHA-1 that git gives them; proxies that store files themselves
//! take the plain SHA-1. Other etags say nothing about the contents.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::super::index::read_header;

const BUFFER: usize = 1 << 20;
/// Files up to this size are hashed when they are taken from the cache; of larger ones the header is looked at.
const HASHED_BYTES: u64 = 64 << 20;

/// A hash that is not the one expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// `sha256` or `SHA-1`.
    pub kind: &'static str,
    pub got: String,
}

/// Compares a file's contents with what `etag` says of them.
pub(super) fn compare(path: &Path, etag: &str) -> io::Result<Option<Mismatch>> {
    if !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let got = match etag.len() {
        64 => vec![("sha256", hash(path, Sha256::new())?)],
        40 => {
            let as_blob = Sha1::new().chain_update(format!("blob {}\0", path.metadata()?.len()));
            vec![("SHA-1", hash(path, as_blob)?), ("SHA-1", hash(path, Sha1::new())?)]
        }
        _ => return Ok(None),
    };
    let is_named = got.iter().any(|(_, got)| got.eq_ignore_ascii_case(etag));
    Ok(got.into_iter().next().filter(|_| !is_named).map(|(kind, got)| Mismatch { kind, got }))
}

fn hash<D: Digest>(path: &Path, mut hasher: D) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// What is wrong with a file of the cache, as far as that can be told in a moment: small files by their hash, which is the
/// name of what the link leads to, weights by their header, which says how long they are.
pub(super) fn damage(place: &Path) -> Option<String> {
    let blob = place.canonicalize().ok()?;
    let bytes = blob.metadata().ok()?.len();
    if bytes <= HASHED_BYTES {
        let etag = blob.file_name()?.to_string_lossy();
        if let Some(Mismatch { kind, got }) = compare(&blob, &etag).ok()? {
            return Some(format!("its {kind} is {got}"));
        }
    }
    let is_weights = place.extension().is_some_and(|extension| extension == "safetensors");
    is_weights.then(|| read_header(place).err().map(|error| error.to_string())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `printf 'hello\n' | git hash-object --stdin`, `sha1sum`, `sha256sum`.
    const NAMES: [&str; 3] = [
        "ce013625030ba8dba906f756967f9e9ca394464a",
        "f572d396fae9206628714fb2ce00f72e94f2258f",
        "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
    ];

    #[test]
    fn contents_are_known_by_each_kind_of_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "hello\n").expect("it is ours");
        for name in NAMES {
            assert_eq!(compare(&path, name).expect("read"), None, "{name}");
        }
        std::fs::write(&path, "hallo\n").expect("it is ours");
        for (name, kind) in NAMES.into_iter().zip(["SHA-1", "SHA-1", "sha256"]) {
            assert_eq!(compare(&path, name).expect("read").map(|mismatch| mismatch.kind), Some(kind), "{name}");
        }
        for other in
            ["", "abc", "of-the-redirect", "d41d8cd98f00b204e9800998ecf8427e", "gggggggggggggggggggggggggggggggggggggggg"]
        {
            assert_eq!(compare(&path, other).expect("read"), None, "{other}: says nothing");
        }
    }
}
