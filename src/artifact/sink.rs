//! Where the weights of a model go. ONNX's data file is one place ([`OnnxSink`](super::onnx_sink::OnnxSink)), a quantized checkpoint
//! another ([`QuantizedSink`](super::quantized_sink::QuantizedSink)); each further format is a file of its own.

use ndarray::Array2;

use crate::artifact::ArtifactError;
use crate::checkpoint::TensorView;
use crate::model::StoredWeight;
use crate::quant::QuantizedTensor;

/// Takes the weights of a model, layer after layer, those of a layer in any order and from several threads.
///
/// Each method returns the digest of what was written, xxh3-128 of the numbers in logical order.
pub trait Sink<'c>: Sync {
    /// A quantized matrix.
    fn quantized(&self, weight: &StoredWeight, tensor: &QuantizedTensor) -> Result<String, ArtifactError>;

    /// A weight that is not quantized, as the checkpoint has it.
    fn dense(&self, weight: &StoredWeight, view: TensorView<'c>) -> Result<String, ArtifactError>;

    /// A weight that is not quantized and not the checkpoint's any more, row-major.
    fn changed(&self, weight: &StoredWeight, values: &[f32]) -> Result<String, ArtifactError>;

    /// As [`Self::changed`], of a matrix too large to be held in f32: bands of whole rows, in order.
    fn changed_in_bands(&self, weight: &StoredWeight, bands: &mut Bands<'_>) -> Result<String, ArtifactError>;

    /// All weights of a layer, or one outside the layers, are written: `weights` of them since the start.
    fn passed(&self, weights: usize) -> Result<(), ArtifactError>;
}

/// Gives one band of rows after the other, `[rows, in_features]`; `None` behind the last.
pub type Bands<'a> = dyn FnMut() -> Result<Option<Array2<f32>>, ArtifactError> + 'a;
