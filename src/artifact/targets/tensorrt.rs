//! TensorRT: the portable form with weights that its parser takes.
//!
//! Source: "Quantization Schemes" of TensorRT's documentation: symmetric INT8 and INT4, "the supported block sizes are {64, 128}", scales
//! of f16 or f32; the parser's own `Scale coefficients must all be positive` (onnx-tensorrt, issue 764). What of these is of the graph
//! alone, [`onnx::tensorrt`](crate::onnx::tensorrt) looks at in a file.

use std::collections::BTreeMap;

use super::form::{Matrix, of_each};
use crate::artifact::ArtifactError;
use crate::artifact::sink::{Bands, Sink};
use crate::checkpoint::TensorView;
use crate::model::StoredWeight;
use crate::onnx::tensorrt::BLOCKS;
use crate::quant::{Format, Granularity, QuantizedTensor, ScaleRule};
use crate::recipe::{RoundingRecipe, ScaleFitName, WeightRecipe};
use crate::record::Target;
use crate::tensor::DType;

/// What of a model TensorRT does not take, one sentence each.
pub fn refusals(weights: &[StoredWeight], recipes: &BTreeMap<String, WeightRecipe>, activation: DType) -> Vec<String> {
    let name = Target::TensorRt.name();
    let mut sentences = Vec::new();
    if activation != DType::F16 {
        sentences.push(format!("--target {name}: activations are {}, expected f16; leave out --dtype", activation.name()));
    }
    let quantized: Vec<Matrix<'_>> = weights.iter().filter_map(Matrix::of).collect();
    let refuses =
        |matrix: &Matrix<'_>| form(matrix).or_else(|| scales(matrix, recipes.get(&format!("{}.weight", matrix.module))?));
    sentences.extend(of_each(name, &refuses, &quantized));
    sentences
}

fn form(matrix: &Matrix<'_>) -> Option<String> {
    let granularity = match matrix.scheme.granularity {
        Granularity::PerChannel => "with one scale a row".to_owned(),
        Granularity::PerGroup(size) => format!("in groups of {size}"),
    };
    let is_taken = match (matrix.scheme.format, matrix.scheme.granularity) {
        (Format::Int { bits: 4, symmetric: true }, Granularity::PerGroup(size)) => BLOCKS.contains(&size),
        (Format::Int { bits: 8, symmetric: true }, Granularity::PerChannel) => true,
        _ => false,
    };
    (!is_taken).then(|| {
        format!(
            "is {} {granularity}, expected int4 in groups of 64 or 128, or int8 with one scale a row; choose --bits 4 --group-size 128 \
             --scale least-squares-positive, --bits 8, or --target portable",
            matrix.format()
        )
    })
}

/// A rule that gives scales of both signs is refused before any work.
fn scales(matrix: &Matrix<'_>, recipe: &WeightRecipe) -> Option<String> {
    let is_fitted = matches!(&recipe.rounding, RoundingRecipe::Gptq(gptq) if gptq.scale_fit == ScaleFitName::Gram);
    let is_of_both = is_fitted || matches!(matrix.scheme.scale_rule, ScaleRule::SignedMax | ScaleRule::LeastSquares);
    is_of_both.then(|| {
        "has scales of both signs, expected positive ones; choose --scale least-squares-positive when it is quantized, or --target \
         portable"
            .to_owned()
    })
}

/// A place for weights that lets no scale pass that is not positive: numbers may be chosen by whoever made a quantized checkpoint.
pub struct PositiveScales<S>(pub S);

impl<'c, S: Sink<'c>> Sink<'c> for PositiveScales<S> {
    fn quantized(&self, weight: &StoredWeight, tensor: &QuantizedTensor) -> Result<String, ArtifactError> {
        if let Some(scale) = tensor.scales.iter().find(|scale| **scale <= 0.0) {
            return Err(ArtifactError::Refused(vec![format!(
                "--target {}: weight {}: has the scale {scale}, expected positive ones; choose --scale least-squares-positive when it is \
                 quantized",
                Target::TensorRt.name(),
                weight.weight
            )]));
        }
        self.0.quantized(weight, tensor)
    }

    fn dense(&self, weight: &StoredWeight, view: TensorView<'c>) -> Result<String, ArtifactError> {
        self.0.dense(weight, view)
    }

    fn changed(&self, weight: &StoredWeight, values: &[f32]) -> Result<String, ArtifactError> {
        self.0.changed(weight, values)
    }

    fn changed_in_bands(&self, weight: &StoredWeight, bands: &mut Bands<'_>) -> Result<String, ArtifactError> {
        self.0.changed_in_bands(weight, bands)
    }

    fn passed(&self, weights: usize) -> Result<(), ArtifactError> {
        self.0.passed(weights)
    }
}
