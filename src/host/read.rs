//! Reading small files that somebody else wrote: only regular ones, only up to a size, and texts without their mark.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Most bytes of a file of settings: config.json, a recipe, a set. Real ones have kilobytes.
pub const SETTINGS: u64 = 16 << 20;

/// Most bytes of a tokenizer.json. The largest in use have some 35 MB.
pub const TOKENIZER: u64 = 512 << 20;

/// The bytes of a regular file of at most `most` bytes. A FIFO would be waited for without end, and a device such as
/// `/dev/zero` has none.
///
/// # Errors
/// As [`std::fs::read`]; [`ErrorKind::InvalidInput`] for what is no regular file, [`ErrorKind::InvalidInput`] for a larger
/// one. The message has no path.
pub fn file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("it is {}, not a file", kind(&found))));
    }
    let mut bytes = Vec::with_capacity(found.len().min(most) as usize);
    // One byte more tells a file that is too large, or that grows while it is read.
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(Error::new(ErrorKind::InvalidInput, format!("it has more than {most} bytes"))),
        false => Ok(bytes),
    }
}

/// The text of a file as [`file`], without a byte order mark.
///
/// # Errors
/// As [`file`]; [`ErrorKind::InvalidData`] for what is not UTF-8, UTF-16 by name.
pub fn text(path: &Path, most: u64) -> Result<String> {
    decode(file(path, most)?)
}

/// UTF-8 bytes as text, without a byte order mark.
///
/// # Errors
/// [`ErrorKind::InvalidData`] for what is not UTF-8, UTF-16 by name.
pub fn decode(mut bytes: Vec<u8>) -> Result<String> {
    let refused = |what: &str| Err(Error::new(ErrorKind::InvalidData, what.to_owned()));
    match bytes.as_slice() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return refused("it is UTF-16; save it as UTF-8"),
        [0xef, 0xbb, 0xbf, ..] => drop(bytes.drain(..3)),
        _ => {}
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => refused(&format!("it is not UTF-8: byte {} is not", error.utf8_error().valid_up_to())),
    }
}

fn kind(found: &std::fs::Metadata) -> &'static str {
    let kind = found.file_type();
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("it is ours");
        file
    }

    #[test]
    fn only_regular_files_are_read() {
        let device = file(Path::new("/dev/zero"), 10).unwrap_err();
        assert_eq!((device.kind(), device.to_string().as_str()), (ErrorKind::InvalidInput, "it is a device, not a file"));
        assert_eq!(file(Path::new("/"), 10).unwrap_err().to_string(), "it is a folder, not a file");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is there").success());
        assert_eq!(file(&fifo, 10).unwrap_err().to_string(), "it is a FIFO, not a file");
        assert_eq!(file(&folder.path().join("none"), 10).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let ten = kept(b"0123456789");
        assert_eq!(file(ten.path(), 10).expect("ten bytes"), b"0123456789");
        assert_eq!(file(ten.path(), 9).unwrap_err().to_string(), "it has more than 9 bytes");
    }

    #[test]
    fn a_mark_is_skipped_and_utf_16_is_named() {
        assert_eq!(text(kept(b"\xef\xbb\xbf{}").path(), 10).expect("UTF-8"), "{}");
        assert_eq!(text(kept(b"\xff\xfe{\0}\0").path(), 10).unwrap_err().to_string(), "it is UTF-16; save it as UTF-8");
        assert_eq!(text(kept(b"ab\xff").path(), 10).unwrap_err().to_string(), "it is not UTF-8: byte 2 is not");
    }
}
