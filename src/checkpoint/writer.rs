//! Safetensors files of any size, written from what lies in memory or in other mapped files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use safetensors::{Dtype, SafeTensorError, View};

use crate::tensor::DType;

/// Element type of a tensor that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredNumber {
    U8,
    U32,
    I32,
    I64,
    /// F32, F16 or BF16.
    Weight(DType),
}

/// A tensor to write: little-endian, row-major.
#[derive(Debug, Clone)]
pub struct RawTensor<'a> {
    pub name: String,
    pub number: StoredNumber,
    pub shape: Vec<usize>,
    pub bytes: Cow<'a, [u8]>,
}

impl StoredNumber {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            StoredNumber::U8 => 1,
            StoredNumber::U32 | StoredNumber::I32 => 4,
            StoredNumber::I64 => 8,
            StoredNumber::Weight(dtype) => dtype.bytes_of(1),
        }
    }

    /// Of a tensor that lies in a file; `None` where the program writes none of it.
    pub(super) fn of(dtype: Dtype) -> Option<StoredNumber> {
        Some(match dtype {
            Dtype::U8 => StoredNumber::U8,
            Dtype::U32 => StoredNumber::U32,
            Dtype::I32 => StoredNumber::I32,
            Dtype::I64 => StoredNumber::I64,
            Dtype::F16 => StoredNumber::Weight(DType::F16),
            Dtype::BF16 => StoredNumber::Weight(DType::BF16),
            Dtype::F32 => StoredNumber::Weight(DType::F32),
            _ => return None,
        })
    }
}

/// Writes a file of these tensors.
///
/// # Errors
/// The disk's own.
pub fn write_tensors(path: &Path, tensors: &[RawTensor<'_>]) -> std::io::Result<()> {
    write(path, tensors, None)
}

/// As [`write_tensors`], with the word by which transformers knows a file of its own.
///
/// # Errors
/// The disk's own.
pub fn write_tensors_of_torch(path: &Path, tensors: &[RawTensor<'_>]) -> std::io::Result<()> {
    write(path, tensors, Some(HashMap::from([("format".to_owned(), "pt".to_owned())])))
}

fn write(path: &Path, tensors: &[RawTensor<'_>], words: Option<HashMap<String, String>>) -> std::io::Result<()> {
    // The crate puts a file in place that only its owner may read.
    let permissions = File::create(path)?.metadata()?.permissions();
    let named = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor));
    safetensors::serialize_to_file(named, words, path).map_err(|error| match error {
        SafeTensorError::IoError(error) => error,
        other => std::io::Error::other(other),
    })?;
    fs::set_permissions(path, permissions)
}

impl View for &RawTensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.number {
            StoredNumber::U8 => Dtype::U8,
            StoredNumber::U32 => Dtype::U32,
            StoredNumber::I32 => Dtype::I32,
            StoredNumber::I64 => Dtype::I64,
            StoredNumber::Weight(DType::F16) => Dtype::F16,
            StoredNumber::Weight(DType::BF16) => Dtype::BF16,
            StoredNumber::Weight(_) => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
