//! The safetensors header: 8 bytes of little-endian length, then that much JSON, then the tensors' bytes.
//!
//! Source of the rules: <https://huggingface.co/docs/safetensors>. The JSON is trusted in nothing; what comes out of
//! [`parse_header`] lies inside the file, without overlaps or holes, and each range has the size that its shape asks for.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::fault::Fault;
use crate::host::shown;
use crate::tensor::DType;

/// Bytes of the length field in front of the header.
pub(super) const LENGTH_BYTES: usize = 8;

/// No real header comes near it (an 8B model's is 35 kB), and a lying length must not reserve memory.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// How a file begins that a git clone without git-lfs leaves behind.
const LFS_POINTER: &[u8; LENGTH_BYTES] = b"version ";

/// What is wrong with one safetensors file; the sentence gets its file name from the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    #[error("the file has {got} bytes, expected at least the 8 of a safetensors header length; download it again")]
    TooShort { got: u64 },
    #[error("this is a git-lfs pointer, expected the weights themselves; run git lfs pull in its folder")]
    LfsPointer,
    #[error("the header length says {got} bytes, expected at most {MAX_HEADER_BYTES}; this is no safetensors file")]
    TooLong { got: u64 },
    #[error("the header length says {header} bytes, but the file has {file} bytes in all; it is truncated, download it again")]
    PastEnd { header: u64, file: u64 },
    #[error("the header is not UTF-8 from byte {at} on; this is no safetensors file, or a damaged one")]
    NotUtf8 { at: usize },
    #[error("the header is not the JSON of a safetensors file: {reason}; the file is damaged, download it again")]
    NotJson { reason: String },
    #[error("tensor {tensor} appears twice in the header, expected once; write the file again")]
    Duplicate { tensor: String },
    #[error("tensor {tensor}: element type \"{got}\" is unknown to safetensors; weights are read as F32, F16 or BF16")]
    UnknownDtype { tensor: String, got: String },
    #[error("tensor {tensor}: shape {shape} overflows 64 bits; the header is damaged")]
    ShapeOverflow { tensor: String, shape: String },
    #[error("tensor {tensor}: data_offsets start at {start} after their end {end}; the header is damaged")]
    Reversed { tensor: String, start: u64, end: u64 },
    #[error(
        "tensor {tensor}: data_offsets end at byte {end}, but only {data} bytes of data follow the header; \
         the file is truncated, download it again"
    )]
    OutOfFile { tensor: String, end: u64, data: u64 },
    #[error(
        "tensor {tensor}: {dtype} of shape {shape} takes {expected} bytes, but data_offsets span {got}; the header is damaged"
    )]
    Size { tensor: String, dtype: String, shape: String, expected: u64, got: u64 },
    #[error(
        "tensors {first} and {second} overlap from byte {at} of the data on, expected disjoint ranges; the header is damaged"
    )]
    Overlap { first: String, second: String, at: u64 },
    #[error("bytes {start} to {end} of the data belong to no tensor, expected no holes; the file is damaged, download it again")]
    Hole { start: u64, end: u64 },
}

impl HeaderError {
    /// A broken file is the input's fault, whichever way it is broken.
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}

/// Element type as the file names it: one that weights are read from, or one that is only listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredDtype {
    Weight(DType),
    Other(safetensors::Dtype),
}

impl StoredDtype {
    fn of(dtype: safetensors::Dtype) -> StoredDtype {
        match dtype {
            safetensors::Dtype::F32 => StoredDtype::Weight(DType::F32),
            safetensors::Dtype::F16 => StoredDtype::Weight(DType::F16),
            safetensors::Dtype::BF16 => StoredDtype::Weight(DType::BF16),
            other => StoredDtype::Other(other),
        }
    }
}

/// One tensor of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTensor {
    pub dtype: StoredDtype,
    pub shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub range: Range<u64>,
}

/// A checked header: tensors by name.
pub type Header = BTreeMap<String, HeaderTensor>;

/// Bytes of the JSON header that `first`, the beginning of a file of `file_bytes`, announces; the 8 of the length itself
/// are not counted.
pub fn header_bytes(first: &[u8], file_bytes: u64) -> Result<u64, HeaderError> {
    let Some(length) = first.first_chunk::<LENGTH_BYTES>() else {
        return Err(HeaderError::TooShort { got: file_bytes.min(first.len() as u64) });
    };
    if length == LFS_POINTER {
        return Err(HeaderError::LfsPointer);
    }
    let header = u64::from_le_bytes(*length);
    if header.saturating_add(LENGTH_BYTES as u64) > file_bytes {
        return Err(HeaderError::PastEnd { header, file: file_bytes });
    }
    if header > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong { got: header });
    }
    Ok(header)
}

/// Reads and checks the header of a file of `file_bytes` that begins with `first` (the whole header at least; what
/// follows it is not looked at).
///
/// Never panics and reserves no more memory than the header's own size asks for, whatever the bytes are.
pub fn parse_header(first: &[u8], file_bytes: u64) -> Result<Header, HeaderError> {
    let header = header_bytes(first, file_bytes)?;
    let end = LENGTH_BYTES + header as usize; // at most MAX_HEADER_BYTES + 8
    let Some(json) = first.get(LENGTH_BYTES..end) else {
        return Err(HeaderError::PastEnd { header, file: first.len() as u64 });
    };
    let json = std::str::from_utf8(json).map_err(|e| HeaderError::NotUtf8 { at: e.valid_up_to() })?;
    let Entries(mut entries) =
        serde_json::from_str(json).map_err(|e| HeaderError::NotJson { reason: shown(&e.to_string()).to_string() })?;

    entries.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(HeaderError::Duplicate { tensor: shown(&pair[0].0).to_string() });
    }
    let data = file_bytes - end as u64;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let dtype = check_entry(&name, &entry, data)?;
        tensors.push((name, dtype, entry));
    }
    check_coverage(&tensors, data)?;

    let place = |(name, dtype, entry): (String, StoredDtype, Entry)| {
        let (start, stop) = entry.data_offsets;
        (name, HeaderTensor { dtype, shape: entry.shape, range: end as u64 + start..end as u64 + stop })
    };
    Ok(tensors.into_iter().map(place).collect())
}

/// One tensor for itself: known element type, offsets inside the data, as many bytes as the shape asks for.
fn check_entry(name: &str, entry: &Entry, data: u64) -> Result<StoredDtype, HeaderError> {
    let tensor = || shown(name).to_string();
    let unknown = |_| HeaderError::UnknownDtype { tensor: tensor(), got: shown(&entry.dtype).to_string() };
    let dtype: safetensors::Dtype = serde_json::from_value(serde_json::Value::String(entry.dtype.clone())).map_err(unknown)?;

    let (start, end) = entry.data_offsets;
    if start > end {
        return Err(HeaderError::Reversed { tensor: tensor(), start, end });
    }
    if end > data {
        return Err(HeaderError::OutOfFile { tensor: tensor(), end, data });
    }
    let bits = entry.shape.iter().try_fold(dtype.bitsize() as u64, |bits, &dim| bits.checked_mul(dim as u64));
    let Some(bits) = bits else {
        return Err(HeaderError::ShapeOverflow { tensor: tensor(), shape: shown_shape(&entry.shape) });
    };
    let expected = bits.div_ceil(8);
    if expected != end - start {
        let (dtype, shape) = (entry.dtype.clone(), shown_shape(&entry.shape));
        return Err(HeaderError::Size { tensor: tensor(), dtype, shape, expected, got: end - start });
    }
    Ok(StoredDtype::of(dtype))
}

/// A shape may have a million dimensions.
fn shown_shape(shape: &[usize]) -> String {
    shown(&format!("{shape:?}")).to_string()
}

/// All tensors together: the ranges tile the data, each byte in exactly one of them.
fn check_coverage(tensors: &[(String, StoredDtype, Entry)], data: u64) -> Result<(), HeaderError> {
    let mut order: Vec<(u64, u64, &str)> =
        tensors.iter().map(|(name, _, entry)| (entry.data_offsets.0, entry.data_offsets.1, name.as_str())).collect();
    order.sort_unstable();
    let (mut covered, mut last) = (0, "");
    for (start, end, name) in order {
        if start < covered && start < end {
            return Err(HeaderError::Overlap { first: shown(last).to_string(), second: shown(name).to_string(), at: start });
        }
        if start > covered {
            return Err(HeaderError::Hole { start: covered, end: start });
        }
        if end > covered {
            (covered, last) = (end, name);
        }
    }
    if covered < data {
        return Err(HeaderError::Hole { start: covered, end: data });
    }
    Ok(())
}

/// A tensor's line in the JSON, unchecked.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    /// Counted from the end of the header.
    data_offsets: (u64, u64),
}

/// The lines in the file's order. A list and not a map, since a map would swallow a name that comes twice.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Entries(entries))
    }
}
