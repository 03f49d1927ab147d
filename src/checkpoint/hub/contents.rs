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
use super::super::{CheckpointError, HeaderError};

const BUFFER: usize = 1 << 20;
const SHA1_DIGITS: usize = 40;
const SHA256_DIGITS: usize = 64;
/// Files up to this size are hashed when they are taken from the cache; larger ones only where their header gives a reason to.
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
    if !is_hash(etag) {
        return Ok(None);
    }
    let got = if etag.len() == SHA256_DIGITS {
        vec![("sha256", hash(path, Sha256::new())?)]
    } else {
        let as_blob = Sha1::new().chain_update(format!("blob {}\0", path.metadata()?.len()));
        vec![("SHA-1", hash(path, as_blob)?), ("SHA-1", hash(path, Sha1::new())?)]
    };
    let is_named = got.iter().any(|(_, got)| got.eq_ignore_ascii_case(etag));
    Ok(got.into_iter().next().filter(|_| !is_named).map(|(kind, got)| Mismatch { kind, got }))
}

fn is_hash(etag: &str) -> bool {
    matches!(etag.len(), SHA1_DIGITS | SHA256_DIGITS) && etag.bytes().all(|b| b.is_ascii_hexdigit())
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
/// name of what the link leads to, weights by their header, which says how long they are. A hash that is right has the last word:
/// what is still wrong with such a file is wrong on the hub too, and the business of whoever reads it.
pub(super) fn damage(place: &Path) -> Option<String> {
    let blob = place.canonicalize().ok()?;
    let etag = blob.file_name()?.to_string_lossy().into_owned();
    let is_small = blob.metadata().ok()?.len() <= HASHED_BYTES;
    let cut_short = cut_short(place);
    if !is_hash(&etag) {
        return cut_short;
    }
    if !is_small && cut_short.is_none() {
        return None;
    }
    // A large file that looks cut short is hashed: it may be no safetensors file at all, and fetching it again costs more.
    compare(&blob, &etag).ok()?.map(|Mismatch { kind, got }| format!("its {kind} is {got}"))
}

/// What the header of a weights file says of bytes that are not there.
fn cut_short(place: &Path) -> Option<String> {
    let is_weights = place.extension().is_some_and(|extension| extension == "safetensors");
    match is_weights.then(|| read_header(place))? {
        Err(CheckpointError::Header {
            problem: problem @ (HeaderError::TooShort { .. } | HeaderError::PastEnd { .. } | HeaderError::OutOfFile { .. }),
            ..
        }) => Some(problem.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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

    /// A link to `blob`, a file with this header and so many bytes in all.
    fn weights(folder: &Path, blob: &str, header: &str, bytes: u64) -> PathBuf {
        let (blob, place) = (folder.join(blob), folder.join("model.safetensors"));
        let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        std::fs::write(&blob, start).expect("it is ours");
        File::options().write(true).open(&blob).and_then(|file| file.set_len(bytes)).expect("it is ours");
        let _ = std::fs::remove_file(&place);
        std::os::unix::fs::symlink(blob, &place).expect("it is ours");
        place
    }

    /// Files with a hole, one byte too large to be hashed unasked.
    #[test]
    fn of_a_large_file_a_header_that_speaks_of_more_is_damage_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = HASHED_BYTES + 1;
        let of = |blob: &str, header: &str| damage(&weights(folder.path(), blob, header, bytes));
        let longer = format!(r#"{{"a":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
        let unknown = longer.replace("U8", "F99");
        let (hash, no_hash) = ("0".repeat(64), "etag-1");
        for (blob, header) in [(hash.as_str(), unknown.as_str()), (no_hash, &unknown), (&hash, "[]"), (no_hash, "[]")] {
            assert_eq!(of(blob, header), None, "{blob}: {header}");
        }
        let said = of(no_hash, &longer).expect("a byte of the data is not there");
        assert!(said.contains("the file is truncated") && !said.contains("model.safetensors"), "{said}");
        assert!(of(&hash, &longer).expect("it is not what it was").starts_with("its sha256 is "));
        // What the hub has is no better.
        let right = super::hash(&folder.path().join(&hash), Sha256::new()).expect("read");
        assert_eq!(of(&right, &longer), None);
    }
}
