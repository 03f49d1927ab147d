//! Small files of the program's own that it goes on from: the first line is the checksum of the rest.

use std::io::{ErrorKind, Result};
use std::path::Path;

use super::{publish, read};

/// Most bytes of such a file.
const MOST: u64 = 256 << 20;

/// Writes `text` with its checksum.
///
/// # Errors
/// As [`publish::file`].
pub fn write(path: &Path, text: &str) -> Result<()> {
    publish::file(path, format!("{}\n{text}", blake3::hash(text.as_bytes()).to_hex()).as_bytes())
}

/// The text that [`write`] wrote; `None` where there is none, or it has changed since, which is said.
///
/// # Errors
/// The file is there and cannot be read.
pub fn text(path: &Path) -> Result<Option<String>> {
    let bytes = match read::file(path, MOST) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let whole = bytes.iter().position(|byte| *byte == b'\n').and_then(|end| {
        let (checksum, text) = (&bytes[..end], &bytes[end + 1..]);
        (blake3::hash(text).to_hex().as_bytes() == checksum).then(|| String::from_utf8_lossy(text).into_owned())
    });
    if whole.is_none() {
        tracing::warn!("{}: has changed since it was written and is passed over", path.display());
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        assert_eq!(text(&path).unwrap(), None);
        write(&path, "{\"f1\": 0.5}\n").unwrap();
        assert_eq!(text(&path).unwrap().as_deref(), Some("{\"f1\": 0.5}\n"));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(text(&path).unwrap(), None, "{at}");
        }
    }
}
