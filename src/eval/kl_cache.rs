//! A reference model's next-token distributions on disk: at each position its top k tokens and the log-sum-exp of all.
//!
//! File: the eight bytes `qonnxKL2`, the header's length (u32), the header (JSON), then for each position of each
//! window that has a next token: log-sum-exp (f64), k ids (u32) from likeliest to least, k logits (f32); at the end BLAKE3 of
//! all before it. Little-endian.
//! For a vocabulary of 128 256 and k = 64 that is 520 bytes a position instead of 513 024.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::EvalError;
use super::positions::{Window, log_sum_exp, measure_positions};
use super::windows::TokenWindows;
use crate::generate::Score;
use crate::host::publish::PartialFile;
use crate::host::read;

const MAGIC: &[u8; 8] = b"qonnxKL2";
/// No header is longer; a longer one is a broken file.
const MAX_HEADER: usize = 64 * 1024;

/// What a reference file was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheHeader {
    /// What the caller calls the reference model, e.g. its hash.
    pub model: String,
    pub windows_sha256: String,
    pub k: usize,
    pub vocab_size: usize,
    /// Positions in the file.
    pub positions: usize,
}

/// One position of the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// From likeliest to least.
    pub ids: Vec<u32>,
    pub logits: Vec<f32>,
    /// Over the whole vocabulary.
    pub log_sum_exp: f64,
}

/// Runs the reference over the windows and writes its file, which has its name only when it is whole.
///
/// # Errors
/// [`EvalError::TopK`], [`EvalError::Write`], [`EvalError::NotFinite`], and the model's.
pub fn write_cache(
    reference: &mut dyn Score,
    model: &str,
    windows: &TokenWindows,
    k: usize,
    path: &Path,
    progress: &mut dyn FnMut(usize),
) -> Result<CacheHeader, EvalError> {
    let write = |source| EvalError::Write { file: path.display().to_string(), source };
    let mut out = Hashed { file: PartialFile::create(path).map_err(write)?, hasher: blake3::Hasher::new() };
    let mut header: Option<CacheHeader> = None;
    for (index, ids) in windows.as_slice().iter().enumerate() {
        let window = Window { index, ids };
        let tops = measure_positions(reference, window, |position, logits| {
            if k == 0 || k > logits.len() {
                return Err(EvalError::TopK { k, vocab_size: logits.len() });
            }
            let top = top_k(logits, k).ok_or_else(|| window.not_finite(position))?;
            Ok((top, logits.len()))
        })?;
        for (top, vocab_size) in &tops {
            if header.is_none() {
                let made = CacheHeader {
                    model: model.to_string(),
                    windows_sha256: windows.sha256(),
                    k,
                    vocab_size: *vocab_size,
                    positions: windows.targets(),
                };
                out.write_all(&header_bytes(&made)).map_err(write)?;
                header = Some(made);
            }
            out.write_all(&record_bytes(top)).map_err(write)?;
        }
        progress(index + 1);
    }
    let header = header.ok_or(EvalError::NoWindows)?;
    out.finish().map_err(write)?;
    Ok(header)
}

/// A file that ends in the hash of all that was written to it.
struct Hashed {
    file: PartialFile,
    hasher: blake3::Hasher,
}

impl Hashed {
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.file.write_all(self.hasher.finalize().as_bytes())?;
        self.file.publish()
    }
}

/// The k largest logits, the lower id first among equals.
fn top_k(logits: &[f32], k: usize) -> Option<TopK> {
    let log_sum_exp = log_sum_exp(logits)?;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if k < ids.len() {
        ids.select_nth_unstable_by(k, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    let logits = ids.iter().map(|id| logits[*id as usize]).collect();
    Some(TopK { ids, logits, log_sum_exp })
}

fn header_bytes(header: &CacheHeader) -> Vec<u8> {
    let json = serde_json::to_vec(header).expect("strings and numbers always serialize");
    [MAGIC.as_slice(), &(json.len() as u32).to_le_bytes(), &json].concat()
}

fn record_bytes(top: &TopK) -> Vec<u8> {
    let mut bytes = top.log_sum_exp.to_le_bytes().to_vec();
    top.ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
    top.logits.iter().for_each(|logit| bytes.extend(logit.to_le_bytes()));
    bytes
}

/// Reads a reference file position by position.
pub struct CacheReader {
    name: String,
    header: CacheHeader,
    file: BufReader<File>,
    read: usize,
}

impl CacheReader {
    /// Opens a file that was made of the reference called `model`.
    ///
    /// # Errors
    /// [`EvalError::Read`]; [`EvalError::Cache`] if it is of another model, another format, or cut off.
    pub fn open(path: &Path, model: &str) -> Result<CacheReader, EvalError> {
        let name = path.display().to_string();
        let file = read::open(path).map_err(|source| EvalError::Read { file: name.clone(), source })?;
        let length = file.metadata().map_err(|source| EvalError::Read { file: name.clone(), source })?.len();
        let mut file = BufReader::new(file);
        let (header, header_length) = read_header(&mut file, &name)?;
        let differs = |what, expected: String, got: String| EvalError::Cache { file: name.clone(), what, expected, got };
        if header.model != model {
            return Err(differs("reference model", model.to_string(), header.model));
        }
        if header.k == 0 || header.k > header.vocab_size {
            return Err(differs("top k", format!("1 to the vocabulary size {}", header.vocab_size), header.k.to_string()));
        }
        let record = header.k.checked_mul(8).and_then(|bytes| bytes.checked_add(8));
        let positions = record.and_then(|record| record.checked_mul(header.positions));
        let expected = positions.and_then(|bytes| bytes.checked_add(header_length + blake3::OUT_LEN));
        if expected.map(|expected| expected as u64) != Some(length) {
            let expected = expected.map_or_else(|| "a length that fits in memory".to_string(), |expected| expected.to_string());
            return Err(differs("file length in bytes", expected, length.to_string()));
        }
        check_hash(file.get_mut(), length, &name)?;
        file.seek(SeekFrom::Start(header_length as u64)).map_err(|source| EvalError::Read { file: name.clone(), source })?;
        Ok(CacheReader { name, header, file, read: 0 })
    }

    /// What the file was made of.
    pub fn header(&self) -> &CacheHeader {
        &self.header
    }

    /// The file was made of these windows.
    ///
    /// # Errors
    /// [`EvalError::Cache`] if not.
    pub fn check_windows(&self, windows: &TokenWindows) -> Result<(), EvalError> {
        let differs = |what, expected: String, got: String| EvalError::Cache { file: self.name.clone(), what, expected, got };
        let hash = windows.sha256();
        if self.header.windows_sha256 != hash {
            return Err(differs("hash of the token windows", hash, self.header.windows_sha256.clone()));
        }
        let positions = self.header.positions - self.read;
        if positions != windows.targets() {
            return Err(differs("positions left to read", windows.targets().to_string(), positions.to_string()));
        }
        Ok(())
    }

    /// The next `count` positions.
    ///
    /// # Errors
    /// [`EvalError::Read`]; [`EvalError::Cache`] for ids outside the vocabulary, values that are no numbers, or a wrong order.
    pub fn next_positions(&mut self, count: usize) -> Result<Vec<TopK>, EvalError> {
        let mut record = vec![0u8; 8 + 8 * self.header.k];
        let mut tops = Vec::new();
        for _ in 0..count {
            self.file.read_exact(&mut record).map_err(|source| EvalError::Read { file: self.name.clone(), source })?;
            tops.push(self.decode(&record)?);
            self.read += 1;
        }
        Ok(tops)
    }

    fn decode(&self, record: &[u8]) -> Result<TopK, EvalError> {
        let (normalizer, rest) = record.split_at(8);
        let (ids, logits) = rest.split_at(4 * self.header.k);
        let words = |bytes: &[u8]| -> Vec<[u8; 4]> { bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect() };
        let top = TopK {
            ids: words(ids).into_iter().map(u32::from_le_bytes).collect(),
            logits: words(logits).into_iter().map(f32::from_le_bytes).collect(),
            log_sum_exp: f64::from_le_bytes(normalizer.try_into().expect("split_at(8) gives eight bytes")),
        };
        let outside = top.ids.iter().any(|id| *id as usize >= self.header.vocab_size);
        let not_descending = !top.logits.windows(2).all(|pair| pair[0] >= pair[1]);
        if outside || not_descending || top.logits[0].is_nan() || !top.log_sum_exp.is_finite() {
            return Err(EvalError::Cache {
                file: self.name.clone(),
                what: "contents",
                expected: format!("ids below {} and descending finite logits at position {}", self.header.vocab_size, self.read),
                got: "others".to_string(),
            });
        }
        Ok(top)
    }
}

/// The file ends in the hash of the `length` bytes that it has, the hash not counted.
fn check_hash(file: &mut File, length: u64, name: &str) -> Result<(), EvalError> {
    let read = |source| EvalError::Read { file: name.to_string(), source };
    let mut hasher = blake3::Hasher::new();
    file.rewind().map_err(read)?;
    hasher.update_reader(Read::take(&mut *file, length - blake3::OUT_LEN as u64)).map_err(read)?;
    let mut stored = [0; blake3::OUT_LEN];
    file.read_exact(&mut stored).map_err(read)?;
    if hasher.finalize() == stored {
        return Ok(());
    }
    Err(EvalError::Cache {
        file: name.to_string(),
        what: "checksum",
        expected: "that of what was written".to_string(),
        got: "another, so it is damaged".to_string(),
    })
}

/// The header, and its length in bytes with all that comes before the first position.
fn read_header(file: &mut impl Read, name: &str) -> Result<(CacheHeader, usize), EvalError> {
    let not_ours = |got: String| EvalError::Cache {
        file: name.to_string(),
        what: "format",
        expected: "a qonnx KL reference file, version 2".to_string(),
        got,
    };
    let mut start = [0u8; 12];
    file.read_exact(&mut start).map_err(|_| not_ours("a file of fewer than 12 bytes".to_string()))?;
    let (magic, length) = start.split_at(8);
    if magic != MAGIC {
        return Err(not_ours(format!("a file that begins with {:?}", String::from_utf8_lossy(magic))));
    }
    let length = u32::from_le_bytes(length.try_into().expect("the last four of twelve bytes")) as usize;
    if length > MAX_HEADER {
        return Err(not_ours(format!("a header of {length} bytes")));
    }
    let mut json = vec![0u8; length];
    file.read_exact(&mut json).map_err(|_| not_ours("a file that ends inside its header".to_string()))?;
    let header = serde_json::from_slice(&json).map_err(|error| not_ours(format!("a header that is not ours ({error})")))?;
    Ok((header, start.len() + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::fake::FakeScore;

    fn windows() -> TokenWindows {
        TokenWindows::new(vec![vec![0, 1, 2], vec![0, 1]]).expect("valid windows")
    }

    fn written(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("ref");
        write_cache(&mut FakeScore::default(), "m", &windows(), 2, &path, &mut |_| {}).expect("writes");
        path
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut cache = CacheReader::open(&written(folder.path()), "m").expect("opens");
        assert_eq!((cache.header().k, cache.header().vocab_size, cache.header().positions), (2, 3, 3));
        cache.check_windows(&windows()).expect("same windows");
        let tops = cache.next_positions(2).expect("reads");
        // reading 0 the logits are [0, 2, 1]
        assert_eq!((tops[0].ids.as_slice(), tops[0].logits.as_slice()), (&[1, 2][..], &[2.0, 1.0][..]));
        assert!((tops[0].log_sum_exp - (1.0 + 1f64.exp() + 2f64.exp()).ln()).abs() < 1e-14);
    }

    #[test]
    fn equal_logits_keep_the_lower_id() {
        let top = top_k(&[1.0, 2.0, 1.0, 1.0], 3).expect("finite");
        assert_eq!(top.ids, [1, 0, 2]);
    }

    #[test]
    fn other_models_windows_and_sizes_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = written(folder.path());
        let says = |error: EvalError| error.to_string();
        let error = CacheReader::open(&path, "other").map(|_| ()).map_err(says).expect_err("another model");
        assert!(error.contains("reference model: expected other, got m"), "{error}");
        let cache = CacheReader::open(&path, "m").expect("opens");
        let error = cache.check_windows(&windows().first(1)).map_err(says).expect_err("other windows");
        assert!(error.contains("hash of the token windows"), "{error}");
        for k in [0, 4] {
            let error = write_cache(&mut FakeScore::default(), "m", &windows(), k, &path, &mut |_| {}).map(|_| ()).map_err(says);
            assert!(error.expect_err("k").contains("1 to the vocabulary size 3"));
        }
    }

    #[test]
    fn broken_files_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = written(folder.path());
        let whole = std::fs::read(&path).expect("reads");
        let header = 12 + u32::from_le_bytes(whole[8..12].try_into().expect("four bytes")) as usize;
        let mut wrong_id = whole.clone();
        wrong_id[header + 8] = 9;
        let mut not_a_number = whole.clone();
        not_a_number[header..header + 8].copy_from_slice(&f64::NAN.to_le_bytes());
        let mut long_header = whole.clone();
        long_header[11] = 0xff;
        for bytes in
            [&whole[..4], &whole[..20], &whole[..whole.len() - 1], b"something else", &wrong_id, &not_a_number, &long_header]
        {
            std::fs::write(&path, bytes).expect("writes");
            let result = CacheReader::open(&path, "m").and_then(|mut cache| cache.next_positions(3).map(|_| ()));
            assert!(matches!(result, Err(EvalError::Cache { .. })), "{result:?}");
        }
    }

    #[test]
    fn no_flipped_bit_is_taken_for_the_reference() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = written(folder.path());
        let whole = std::fs::read(&path).expect("reads");
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).expect("writes");
            assert!(CacheReader::open(&path, "m").is_err(), "bit {bit}");
        }
    }
}
