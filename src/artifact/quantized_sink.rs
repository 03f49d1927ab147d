//! The folder of a quantized checkpoint, as a place for weights: safetensors files, a layer in each.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::parts;
use super::sink::{Bands, Sink};
use crate::artifact::ArtifactError;
use crate::checkpoint::{RawTensor, StoredNumber, TensorView, write_tensors};
use crate::host::FileError;
use crate::model::StoredWeight;
use crate::quant::QuantizedTensor;
use crate::tensor::{self, DType};

/// Writes weights into `folder`.
pub struct QuantizedSink<'c> {
    folder: PathBuf,
    /// Files that there will be.
    files: usize,
    state: Mutex<State<'c>>,
}

#[derive(Default)]
struct State<'c> {
    /// Names of the files that are written.
    written: Vec<String>,
    /// Weights of the file that is being filled.
    tensors: Vec<RawTensor<'c>>,
}

impl<'c> QuantizedSink<'c> {
    /// `files`: how often [`Sink::passed`] will be called.
    pub fn new(folder: &Path, files: usize) -> QuantizedSink<'c> {
        QuantizedSink { folder: folder.to_owned(), files, state: Mutex::default() }
    }

    /// Names of the files, once all are written.
    pub fn finish(self) -> Vec<String> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).written
    }

    /// Adds the tensors of one weight, which follow each other; their digest.
    fn put(&self, tensors: Vec<RawTensor<'c>>) -> String {
        let digest = digest(tensors.iter().map(|tensor| tensor.bytes.as_ref()));
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tensors.extend(tensors);
        digest
    }

    fn put_one(&self, weight: &StoredWeight, dtype: DType, bytes: Cow<'c, [u8]>) -> String {
        let (name, shape) = (weight.weight.clone(), weight.shape.clone());
        self.put(vec![RawTensor { name, number: StoredNumber::Weight(dtype), shape, bytes }])
    }
}

/// xxh3-128 of tensors that follow each other.
pub fn digest<'b>(parts: impl Iterator<Item = &'b [u8]>) -> String {
    let mut hasher = Xxh3::new();
    parts.for_each(|bytes| hasher.update(bytes));
    format!("{:032x}", hasher.digest128())
}

impl<'c> Sink<'c> for QuantizedSink<'c> {
    fn quantized(&self, weight: &StoredWeight, tensor: &QuantizedTensor) -> Result<String, ArtifactError> {
        let stored = parts::of(&weight.weight, tensor).into_iter().map(|(name, shape, numbers)| {
            let (number, bytes) = numbers.into_stored();
            RawTensor { name, number, shape, bytes: bytes.into() }
        });
        Ok(self.put(stored.collect()))
    }

    fn dense(&self, weight: &StoredWeight, view: TensorView<'c>) -> Result<String, ArtifactError> {
        Ok(self.put_one(weight, view.dtype, Cow::Borrowed(view.bytes)))
    }

    fn changed(&self, weight: &StoredWeight, values: &[f32]) -> Result<String, ArtifactError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(self.put_one(weight, DType::F32, bytes.into()))
    }

    /// In f16, as every artifact has a table that is not the checkpoint's any more; in that form the whole table is held.
    fn changed_in_bands(&self, weight: &StoredWeight, bands: &mut Bands<'_>) -> Result<String, ArtifactError> {
        let mut bytes = Vec::with_capacity(DType::F16.bytes_of(weight.elements()));
        while let Some(rows) = bands()? {
            let values = rows.as_slice().expect("bands are in standard layout");
            let mut band = vec![0; DType::F16.bytes_of(values.len())];
            tensor::convert::encode(values, DType::F16, &mut band)
                .map_err(ArtifactError::at(|| format!("weight {}", weight.weight)))?;
            bytes.extend(band);
        }
        Ok(self.put_one(weight, DType::F16, bytes.into()))
    }

    fn passed(&self, _: usize) -> Result<(), ArtifactError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tensors = std::mem::take(&mut state.tensors);
        // Weights come in any order, files are the same each time.
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let name = format!("model-{:05}-of-{:05}.safetensors", state.written.len() + 1, self.files);
        let path = self.folder.join(&name);
        write_tensors(&path, &tensors).map_err(FileError::at(&path, "cannot be written"))?;
        state.written.push(name);
        Ok(())
    }
}
