//! The folder of a quantized checkpoint, as a place for weights: safetensors files, a layer in each.

use std::borrow::Cow;
use std::path::Path;

use super::parts;
use super::shards::Shards;
use super::sink::{Bands, Sink};
use crate::artifact::ArtifactError;
use crate::checkpoint::{RawTensor, StoredNumber, TensorView, write_tensors};
use crate::model::StoredWeight;
use crate::quant::QuantizedTensor;
use crate::tensor::{self, DType};

/// Writes weights into a folder.
pub struct QuantizedSink<'c> {
    shards: Shards<'c>,
}

impl<'c> QuantizedSink<'c> {
    /// `files`: how often [`Sink::passed`] will be called.
    pub fn new(folder: &Path, files: usize) -> QuantizedSink<'c> {
        QuantizedSink { shards: Shards::new(folder, files, write_tensors) }
    }

    /// Names of the files, once all are written.
    pub fn finish(self) -> Vec<String> {
        self.shards.finish().into_iter().map(|shard| shard.file).collect()
    }

    fn put_one(&self, weight: &StoredWeight, dtype: DType, bytes: Cow<'c, [u8]>) -> String {
        let (name, shape) = (weight.weight.clone(), weight.shape.clone());
        self.shards.put(vec![RawTensor { name, number: StoredNumber::Weight(dtype), shape, bytes }])
    }
}

impl<'c> Sink<'c> for QuantizedSink<'c> {
    fn quantized(&self, weight: &StoredWeight, tensor: &QuantizedTensor) -> Result<String, ArtifactError> {
        let stored = parts::of(&weight.weight, tensor).into_iter().map(|(name, shape, numbers)| {
            let (number, bytes) = numbers.into_stored();
            RawTensor { name, number, shape, bytes: bytes.into() }
        });
        Ok(self.shards.put(stored.collect()))
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
        Ok(self.shards.end()?)
    }
}
