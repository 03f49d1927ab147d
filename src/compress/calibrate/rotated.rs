//! What a rotation changes outside the layers: embedding, final norm, LM head. Tables are written a band of rows at a time, as
//! they are too large to be held.

use ndarray::ArrayView2;

use super::weights::CheckpointWeights;
use crate::artifact::ArtifactError;
use crate::artifact::prepared::Written;
use crate::artifact::sink::Sink;
use crate::checkpoint::TensorView;
use crate::compress::CompressError;
use crate::model::{ModelRotation, StoredForm, StoredWeight};
use crate::tensor;

/// Elements that are rotated at a time: 64 MB in f32.
const BAND: usize = 1 << 24;
/// Name by which the graph asks for what a tied head multiplies by first; see [`crate::model::ModelRotation::head_matrix`].
const HEAD_MATRIX: &str = "model.norm.rotation.weight";

/// The weights outside the layers of a model that may be rotated.
pub struct RotatedWeights<'a> {
    pub weights: CheckpointWeights<'a>,
}

impl RotatedWeights<'_> {
    /// Whether the rotation changes the weight.
    pub fn has(&self, name: &str) -> bool {
        self.weights.rotation.is_some() && !name.starts_with("model.layers.")
    }

    /// Gives `sink` one of them.
    pub fn write(&self, stored: &StoredWeight, sink: &dyn Sink<'_>) -> Result<Written, CompressError> {
        let name = stored.weight.as_str();
        let rotation = self.weights.rotation.as_ref().expect("asked for models that are rotated");
        let digest = match &stored.form {
            _ if name == HEAD_MATRIX => {
                let matrix = rotation.head_matrix(&self.weights.final_norm()?).expect("asked for where the head is tied");
                sink.changed(stored, &matrix.iter().copied().collect::<Vec<f32>>())?
            }
            StoredForm::Dense { .. } if stored.shape.len() == 2 => self.write_table(stored, rotation, sink)?,
            _ => sink.changed(stored, &self.weights.vector(name)?)?,
        };
        Ok(Written { relative_error: 0.0, digest })
    }

    fn write_table(&self, stored: &StoredWeight, rotation: &ModelRotation, sink: &dyn Sink<'_>) -> Result<String, CompressError> {
        let (name, checkpoint) = (stored.weight.as_str(), self.weights.checkpoint);
        let TensorView { dtype, shape, bytes } = checkpoint.tensor(name)?;
        let &[out_features, in_features] = shape else { unreachable!("tables are matrices") };
        let norm = self.weights.folded_norm(name)?;
        let rows = (BAND / in_features).clamp(1, out_features);
        let mut bands = bytes.chunks(rows * dtype.bytes_of(in_features)).enumerate();
        let digest = sink.changed_in_bands(stored, &mut || {
            let Some((band, bytes)) = bands.next() else { return Ok(None) };
            let height = bytes.len() / dtype.bytes_of(in_features);
            let mut values = vec![0.0; height * in_features];
            tensor::convert::decode(dtype, bytes, &mut values)
                .map_err(|error| error.shifted(band * rows * in_features))
                .map_err(ArtifactError::at(|| format!("weight {name}")))?;
            let w = ArrayView2::from_shape((height, in_features), &values).expect("whole rows");
            Ok(Some(rotation.matrix(name, w, norm.as_deref())))
        })?;
        checkpoint.release(name)?;
        Ok(digest)
    }
}
