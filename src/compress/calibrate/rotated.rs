//! What a rotation changes outside the layers: embedding, final norm, LM head. Tables are written a band of rows at a time, as
//! they are too large to be held.

use anyhow::Context;
use ndarray::ArrayView2;
use xxhash_rust::xxh3::Xxh3;

use super::weights::Weights;
use crate::artifact::prepared::Prepared;
use crate::artifact::quantize::{Written, write_prepared};
use crate::checkpoint::TensorView;
use crate::model::{Order, StoredForm, StoredWeight};
use crate::onnx::DataFile;
use crate::tensor::{self, DType, transpose_bytes};

/// Elements that are turned at a time: 64 MB in f32.
const BAND: usize = 1 << 24;
/// Name by which the graph asks for what a tied head multiplies by first; see [`crate::model::ModelRotation::head_matrix`].
const HEAD_MATRIX: &str = "model.norm.rotation.weight";

/// The weights outside the layers of a model that may be turned.
pub struct RotatedWeights<'a> {
    pub weights: Weights<'a>,
}

impl RotatedWeights<'_> {
    /// Whether the rotation changes the weight.
    pub fn has(&self, name: &str) -> bool {
        self.weights.rotation.is_some() && !name.starts_with("model.layers.")
    }

    /// Writes one of them.
    pub fn write(&self, stored: &StoredWeight, data: &DataFile<'_>) -> anyhow::Result<Written> {
        let name = stored.weight.as_str();
        let rotation = self.weights.rotation.as_ref().expect("asked for models that are turned");
        match &stored.form {
            _ if name == HEAD_MATRIX => {
                let matrix = rotation.head_matrix(&self.weights.final_norm()?).expect("asked for where the head is tied");
                let values = matrix.iter().copied().collect();
                write_prepared(&Prepared::Dense(stored.shape.clone(), values), stored, data)
            }
            StoredForm::Dense { initializer, dtype, order } if stored.shape.len() == 2 => {
                self.write_table(name, (*dtype, *order), initializer, data)
            }
            _ => {
                let values = self.weights.vector(name)?;
                write_prepared(&Prepared::Dense(stored.shape.clone(), values), stored, data)
            }
        }
    }

    fn write_table(
        &self,
        name: &str,
        (dtype, order): (DType, Order),
        initializer: &str,
        data: &DataFile<'_>,
    ) -> anyhow::Result<Written> {
        let Weights { checkpoint, rotation, .. } = &self.weights;
        let TensorView { dtype: stored, shape, bytes } = checkpoint.tensor(name)?;
        let &[out_features, in_features] = shape else { unreachable!("tables are matrices") };
        let (norm, mut hasher) = (self.weights.folded_norm(name)?, Xxh3::new());
        let rotation = rotation.as_ref().expect("asked for models that are turned");
        let (rows, element) = ((BAND / in_features).clamp(1, out_features), dtype.bytes_of(1));
        for (band, bytes) in bytes.chunks(rows * stored.bytes_of(in_features)).enumerate() {
            let (first, height) = (band * rows, bytes.len() / stored.bytes_of(in_features));
            let mut values = vec![0.0; height * in_features];
            tensor::convert::decode(stored, bytes, &mut values)
                .map_err(|error| error.shifted(first * in_features))
                .with_context(|| format!("weight {name}"))?;
            let w = ArrayView2::from_shape((height, in_features), &values).expect("whole rows");
            let turned = rotation.matrix(name, w, norm.as_deref());
            let mut band = vec![0; turned.len() * element];
            tensor::convert::encode(turned.as_slice().expect("turned in standard layout"), dtype, &mut band)
                .with_context(|| format!("weight {name}, turned"))?;
            hasher.update(&band);
            match order {
                Order::OutIn => data.write_part(initializer, first * in_features * element, &band)?,
                Order::InOut => {
                    let transposed = transpose_bytes(band, height, in_features, element);
                    for (i, line) in transposed.chunks(height * element).enumerate() {
                        data.write_part(initializer, (i * out_features + first) * element, line)?;
                    }
                }
            }
        }
        checkpoint.release(name)?;
        Ok(Written { relative_error: 0.0, digest: format!("{:032x}", hasher.digest128()) })
    }
}
