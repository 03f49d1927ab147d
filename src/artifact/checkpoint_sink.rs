//! The folder of a checkpoint that another program loads, as a place for weights.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::dense;
use super::named_file::NamedFile;
use super::packing;
use super::shards::Shards;
use super::sink::{Bands, Sink};
use super::targets::{self, CheckpointForm, Matrix};
use crate::artifact::ArtifactError;
use crate::checkpoint::{INDEX_FILE, RawTensor, StoredNumber, TensorView, write_tensors_of_torch};
use crate::model::StoredWeight;
use crate::quant::QuantizedTensor;
use crate::tensor::DType;

/// Writes weights into a folder as `form` has them.
pub struct CheckpointSink<'c> {
    form: &'static dyn CheckpointForm,
    activation: DType,
    shards: Shards<'c>,
}

impl<'c> CheckpointSink<'c> {
    /// `files`: how often [`Sink::passed`] will be called.
    pub fn new(folder: &Path, files: usize, form: &'static dyn CheckpointForm, activation: DType) -> CheckpointSink<'c> {
        CheckpointSink { form, activation, shards: Shards::new(folder, files, write_tensors_of_torch) }
    }

    /// The names of the files, once all are written, and the one that says which tensor lies in which.
    pub fn finish(self) -> (Vec<String>, NamedFile) {
        let shards = self.shards.finish();
        let bytes: usize = shards.iter().map(|shard| shard.bytes).sum();
        let places = shards.iter().flat_map(|shard| shard.tensors.iter().map(|name| (name.clone(), json!(shard.file))));
        let places: Map<String, Value> = places.collect();
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": places });
        let text = serde_json::to_string_pretty(&index).expect("keys are strings") + "\n";
        (shards.into_iter().map(|shard| shard.file).collect(), NamedFile::made(INDEX_FILE, text.into_bytes()))
    }

    fn put_dense(&self, weight: &StoredWeight, bytes: Cow<'c, [u8]>) -> String {
        let (name, shape, number) = (weight.weight.clone(), weight.shape.clone(), StoredNumber::Weight(dense::dtype_of(weight)));
        self.shards.put(vec![RawTensor { name, number, shape, bytes }])
    }
}

impl<'c> Sink<'c> for CheckpointSink<'c> {
    fn quantized(&self, weight: &StoredWeight, tensor: &QuantizedTensor) -> Result<String, ArtifactError> {
        let matrix = Matrix::of(weight).expect("it is planned as quantized");
        let parts = targets::packed(self.form, &matrix, tensor, self.activation)?;
        let tensors = parts.into_iter().map(|(part, bytes)| {
            let targets::Part { name, number, shape } = part;
            RawTensor { name, number, shape, bytes: bytes.into() }
        });
        self.shards.put(tensors.collect());
        Ok(packing::digest(tensor))
    }

    fn dense(&self, weight: &StoredWeight, view: TensorView<'c>) -> Result<String, ArtifactError> {
        Ok(self.put_dense(weight, dense::of_view(weight, view)?))
    }

    fn changed(&self, weight: &StoredWeight, values: &[f32]) -> Result<String, ArtifactError> {
        Ok(self.put_dense(weight, dense::encoded(weight, values)?.into()))
    }

    /// The whole table is held, in the type that it is stored in.
    fn changed_in_bands(&self, weight: &StoredWeight, bands: &mut Bands<'_>) -> Result<String, ArtifactError> {
        Ok(self.put_dense(weight, dense::all_bands(weight, bands)?.into()))
    }

    fn passed(&self, _: usize) -> Result<(), ArtifactError> {
        Ok(self.shards.end()?)
    }
}
