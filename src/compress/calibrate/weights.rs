//! The checkpoint's weights in f32, rotated where the recipe says so.

use ndarray::{Array2, ArrayView2};

use crate::checkpoint::{Checkpoint, TensorView};
use crate::compress::CompressError;
use crate::model::{Architecture, LinearInput, ModelRotation, Survey};
use crate::tensor;

/// Where weights come from before they are rounded.
pub struct CheckpointWeights<'a> {
    pub checkpoint: &'a Checkpoint,
    pub architecture: &'a Architecture,
    /// What the architecture asks of the checkpoint.
    pub survey: &'a Survey,
    pub rotation: Option<ModelRotation>,
}

impl CheckpointWeights<'_> {
    /// A linear's weight, `[out_features, in_features]`.
    ///
    /// # Errors
    /// A weight is not a number or infinite.
    pub fn matrix(&self, name: &str) -> Result<Array2<f32>, CompressError> {
        let (shape, values) = self.read(name)?;
        let &[out_features, in_features] = shape.as_slice() else { unreachable!("a linear's weight is a matrix") };
        let w = Array2::from_shape_vec((out_features, in_features), values).expect("as many values as the shape says");
        match &self.rotation {
            None => Ok(w),
            Some(rotation) => Ok(rotation.matrix(name, w.view(), self.folded_norm(name)?.as_deref())),
        }
    }

    /// The weights of the linears that read `input`.
    pub fn group(&self, input: &LinearInput) -> Result<Vec<Array2<f32>>, CompressError> {
        input.weights().map(|name| self.matrix(&name)).collect()
    }

    /// A norm's weight or a bias.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, CompressError> {
        let (_, values) = self.read(name)?;
        Ok(match &self.rotation {
            None => values,
            Some(rotation) => rotation.vector(name, &values),
        })
    }

    /// The final norm's weight as the checkpoint has it.
    pub fn final_norm(&self) -> Result<Vec<f32>, CompressError> {
        Ok(self.read("model.norm.weight")?.1)
    }

    /// The LM head's weight, `[vocab_size, hidden_size]`; the embedding where they are tied.
    pub fn head_table(&self) -> Result<Array2<f32>, CompressError> {
        self.matrix(if self.architecture.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" })
    }

    /// What the head's input is multiplied by before, if by anything.
    pub fn head_matrix(&self) -> Result<Option<Array2<f32>>, CompressError> {
        match &self.rotation {
            None => Ok(None),
            Some(rotation) => Ok(rotation.head_matrix(&self.final_norm()?)),
        }
    }

    /// The norm whose weight a rotation folds into the matrix `name`.
    pub fn folded_norm(&self, name: &str) -> Result<Option<Vec<f32>>, CompressError> {
        let norm = self.rotation.as_ref().and_then(|rotation| rotation.folded_norm(name));
        norm.map(|norm| Ok(self.read(&norm)?.1)).transpose()
    }

    /// Row `id` of the embedding, `[hidden_size]`.
    pub fn embedding(&self, id: usize, row: &mut [f32]) -> Result<(), CompressError> {
        const NAME: &str = "model.embed_tokens.weight";
        let TensorView { dtype, bytes, .. } = self.checkpoint.tensor(NAME)?;
        let bytes_of_row = dtype.bytes_of(row.len());
        let bytes = &bytes[id * bytes_of_row..][..bytes_of_row];
        tensor::convert::decode(dtype, bytes, row)
            .map_err(|error| error.shifted(id * row.len()))
            .map_err(CompressError::at(|| format!("weight {NAME}")))?;
        if let Some(rotation) = &self.rotation {
            let rotated = rotation.matrix(NAME, ArrayView2::from_shape((1, row.len()), row).expect("one row"), None);
            row.iter_mut().zip(&rotated).for_each(|(old, &new)| *old = new);
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), CompressError> {
        let view = self.checkpoint.tensor(name)?;
        let mut values = vec![0.0; view.shape.iter().product()];
        tensor::convert::decode(view.dtype, view.bytes, &mut values).map_err(CompressError::at(|| format!("weight {name}")))?;
        let shape = view.shape.to_vec();
        self.checkpoint.release(name)?;
        Ok((shape, values))
    }
}
