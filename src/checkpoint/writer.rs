//! Safetensors files of any size, written from what lies in memory or in other mapped files.

use std::borrow::Cow;
use std::fs::{self, File};
use std::path::Path;

use safetensors::{Dtype, SafeTensorError, View};

use crate::tensor::DType;

/// Element type of a tensor that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredNumber {
    U8,
    U32,
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

/// Writes a file of these tensors.
///
/// # Errors
/// The disk's own.
pub fn write_tensors(path: &Path, tensors: &[RawTensor<'_>]) -> std::io::Result<()> {
    // The crate puts a file in place that only its owner may read.
    let permissions = File::create(path)?.metadata()?.permissions();
    let named = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor));
    safetensors::serialize_to_file(named, None, path).map_err(|error| match error {
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
