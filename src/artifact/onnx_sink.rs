//! The external data files of an ONNX artifact, as a place for weights.

use std::sync::mpsc::Sender;

use xxhash_rust::xxh3::Xxh3;

use super::packing;
use super::quantize::{write_dense, write_f32};
use super::sink::{Bands, Sink};
use crate::artifact::ArtifactError;
use crate::checkpoint::TensorView;
use crate::model::{Order, StoredForm, StoredWeight};
use crate::onnx::DataFile;
use crate::quant::QuantizedTensor;
use crate::tensor::{self, transpose_bytes};

/// Writes weights where a graph looks for them.
pub struct OnnxSink<'d> {
    pub data: DataFile<'d>,
    /// Each of the files.
    pub chunks: Vec<GrowingFile>,
}

/// A data file while it is filled.
pub struct GrowingFile {
    /// For each number of weights that are written, up to where the file is final.
    pub ends: Vec<u64>,
    /// Who hashes what is final.
    pub grown_to: Sender<u64>,
}

impl<'c> Sink<'c> for OnnxSink<'_> {
    fn quantized(&self, weight: &StoredWeight, tensor: &QuantizedTensor) -> Result<String, ArtifactError> {
        packing::write(tensor, weight, &self.data)
    }

    fn dense(&self, weight: &StoredWeight, view: TensorView<'c>) -> Result<String, ArtifactError> {
        write_dense(view, weight, &self.data)
    }

    fn changed(&self, weight: &StoredWeight, values: &[f32]) -> Result<String, ArtifactError> {
        write_f32(values, weight, &self.data)
    }

    fn changed_in_bands(&self, weight: &StoredWeight, bands: &mut Bands<'_>) -> Result<String, ArtifactError> {
        let StoredForm::Dense { initializer, dtype, order } = &weight.form else {
            unreachable!("weight {}: only dense ones come in bands", weight.weight);
        };
        let (&[out_features, in_features], element) = (&weight.shape[..], dtype.bytes_of(1)) else {
            unreachable!("weight {}: only matrices come in bands", weight.weight);
        };
        let (mut hasher, mut first) = (Xxh3::new(), 0);
        while let Some(rows) = bands()? {
            let (height, values) = (rows.nrows(), rows.as_slice().expect("bands are in standard layout"));
            let mut band = vec![0; values.len() * element];
            tensor::convert::encode(values, *dtype, &mut band)
                .map_err(ArtifactError::at(|| format!("weight {}", weight.weight)))?;
            hasher.update(&band);
            match order {
                Order::OutIn => self.data.write_part(initializer, first * in_features * element, &band)?,
                Order::InOut => {
                    let transposed = transpose_bytes(band, height, in_features, element);
                    for (i, line) in transposed.chunks(height * element).enumerate() {
                        self.data.write_part(initializer, (i * out_features + first) * element, line)?;
                    }
                }
            }
            first += height;
        }
        Ok(format!("{:032x}", hasher.digest128()))
    }

    fn passed(&self, weights: usize) -> Result<(), ArtifactError> {
        for GrowingFile { ends, grown_to } in &self.chunks {
            // The other end is gone only when it has failed, which is reported where it is waited for.
            let _ = grown_to.send(ends[weights]);
        }
        Ok(())
    }
}
