//! Reading small files that somebody else wrote: only regular ones, only up to a size, and texts without their mark.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Error, ErrorKind, Read, Result, Take};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Most bytes of a file of settings: config.json, a recipe, a set. Real ones have kilobytes.
pub const SETTINGS: u64 = 16 << 20;

/// Room that is made for a file before it is read: what a sparse file says of its size may be more than any memory, and
/// reading makes more room as it needs it, or an error where there is none.
const AT_ONCE: u64 = 64 << 20;

/// Most bytes of a tokenizer.json. The largest in use have some 35 MB.
pub const TOKENIZER: u64 = 512 << 20;

const MARK: &[u8] = b"\xef\xbb\xbf";
const UTF_16: &str = "it is UTF-16; save it as UTF-8";

/// Most times that a packed file may grow.
const MOST_SHRUNK: u64 = 32;
/// What any packed file may grow to.
const LEAST_UNPACKED: u64 = 64 << 20;

/// The bytes of a regular file of at most `most` bytes. A FIFO would be waited for without end, and a device such as
/// `/dev/zero` has none.
///
/// # Errors
/// As [`std::fs::read`]; [`ErrorKind::InvalidInput`] for what is no regular file, and for a larger one. The message has no path.
pub fn file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len().min(most).min(AT_ONCE) as usize);
    // One byte more tells a file that is too large, or that grows while it is read.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(Error::new(ErrorKind::InvalidInput, format!("it has more than {most} bytes"))),
        false => Ok(bytes),
    }
}

/// Opens a regular file.
///
/// # Errors
/// As [`File::open`]; [`ErrorKind::InvalidInput`] for what is no regular file. The message has no path.
pub fn open(path: &Path) -> Result<File> {
    let found = std::fs::metadata(path)?;
    match found.is_file() {
        true => File::open(path),
        false => Err(Error::new(ErrorKind::InvalidInput, format!("it is {}, not a file", kind(&found)))),
    }
}

/// Whether an error of these functions says that the path leads to the wrong thing, and not that a disk failed.
pub fn is_wrong_file(error: &Error) -> bool {
    use ErrorKind::*;
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidInput | InvalidData | FileTooLarge)
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
        bytes if is_utf_16(bytes) => return refused(UTF_16),
        [0xef, 0xbb, 0xbf, ..] => drop(bytes.drain(..3)),
        _ => {}
    }
    // What a disk without power left, or half of another file.
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        return refused(&format!("byte {at} is zero, which no text has"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => refused(&format!("it is not UTF-8: byte {} is not", error.utf8_error().valid_up_to())),
    }
}

/// Bytes without a byte order mark.
pub fn unmarked(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// Whether bytes are UTF-16, with its mark or without.
pub fn is_utf_16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) || is_wide(bytes)
}

/// As [`unmarked`], of what is read line by line.
///
/// # Errors
/// The reader's; [`ErrorKind::InvalidData`] for UTF-16.
pub fn unmarked_lines(mut reader: impl Read) -> Result<impl BufRead> {
    let mut first = Vec::new();
    reader.by_ref().take(MARK.len() as u64).read_to_end(&mut first)?;
    if matches!(first.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) || first.contains(&0) {
        return Err(Error::new(ErrorKind::InvalidData, UTF_16));
    }
    Ok(Cursor::new(unmarked(&first).to_vec()).chain(BufReader::new(reader)))
}

/// What `packed` bytes unpack to, by `unpacked`: texts shrink by a factor of ten, and a file that was made to fill a memory by a
/// thousand.
pub fn unpacked<R: Read>(unpacked: R, packed: u64) -> Unpacked<R> {
    let most = packed.saturating_mul(MOST_SHRUNK).max(LEAST_UNPACKED);
    Unpacked { reader: unpacked.take(most + 1), most }
}

/// A reader that fails beyond a limit; see [`unpacked`].
pub struct Unpacked<R> {
    reader: Take<R>,
    most: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.reader.read(buffer)?;
        match self.reader.limit() {
            0 => Err(Error::new(ErrorKind::FileTooLarge, format!("it unpacks to more than {} bytes", self.most))),
            _ => Ok(read),
        }
    }
}

/// Whether a text without a mark looks like UTF-16: letters of most scripts' punctuation, digits and line ends have a zero byte
/// there, and no text in UTF-8 has any.
fn is_wide(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(4096)];
    let zeros = start.iter().filter(|&&byte| byte == 0).count();
    zeros > 0 && zeros * 16 >= start.len()
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
    fn what_unpacks_to_a_thousand_times_its_size_is_refused() {
        let read = |bytes: u64, packed: u64| {
            std::io::copy(&mut unpacked(std::io::repeat(b'x').take(bytes), packed), &mut std::io::sink())
        };
        assert_eq!(read(64 << 20, 1).expect("little"), 64 << 20);
        assert_eq!(read((64 << 20) + 1, 1).unwrap_err().to_string(), "it unpacks to more than 67108864 bytes");
        assert_eq!(read(96 << 20, 3 << 20).expect("32 times"), 96 << 20);
        assert!(read((96 << 20) + 1, 3 << 20).is_err());
    }

    #[test]
    fn a_mark_is_skipped_and_utf_16_is_named() {
        assert_eq!(text(kept(b"\xef\xbb\xbf{}").path(), 10).expect("UTF-8"), "{}");
        assert_eq!(text(kept(b"\xff\xfe{\0}\0").path(), 10).unwrap_err().to_string(), "it is UTF-16; save it as UTF-8");
        assert_eq!(text(kept(b"{\0}\0\n\0").path(), 10).unwrap_err().to_string(), UTF_16, "without a mark");
        let chinese: Vec<u8> = "\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c}\r\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(text(kept(&chinese).path(), 20).unwrap_err().to_string(), UTF_16);
        let hole = [b"a text ".repeat(1000), vec![0; 8]].concat();
        assert_eq!(decode(hole).unwrap_err().to_string(), "byte 7000 is zero, which no text has");
        let lines =
            |bytes: &'static [u8]| unmarked_lines(bytes).map(|lines| lines.lines().map_while(Result::ok).collect::<Vec<_>>());
        assert_eq!(lines(b"\xef\xbb\xbfa\nb").expect("UTF-8"), ["a", "b"]);
        assert_eq!(lines(b"\xef\xbba\n").expect("no mark"), Vec::<String>::new());
        assert_eq!(lines(b"a").expect("UTF-8"), ["a"]);
        assert_eq!(lines(b"{\0}\0").err().map(|error| error.to_string()).as_deref(), Some(UTF_16));
        assert_eq!(lines(b"\xfe\xff\0a").err().map(|error| error.to_string()).as_deref(), Some(UTF_16));
        assert_eq!(text(kept(b"ab\xff").path(), 10).unwrap_err().to_string(), "it is not UTF-8: byte 2 is not");
    }
}
