//! What a decoder layer's weights became, and its file in the work folder.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array2, ArrayView1};
use serde::{Deserialize, Serialize};

use super::weights::CheckpointWeights;
use crate::artifact::parts;
use crate::artifact::prepared::{Prepared, RoundingOutcome};
use crate::checkpoint::{Numbers, TensorFile};
use crate::compress::CompressError;
use crate::model::{LinearInput, Scaling, Smooth, Survey};
use crate::recipe::WeightRecipe;

/// A finished layer: what differs from the checkpoint.
///
/// Rows of v and up are not divided by AWQ's scales yet, which [`Self::finished`] does: calibration computes in the
/// checkpoint's own basis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerResult {
    pub weights: BTreeMap<String, Prepared>,
    /// AWQ's scales of each input that has some, by its place in the layer: columns of its linears hold them.
    pub scales: BTreeMap<usize, Vec<f32>>,
}

/// The file's note.
#[derive(Serialize, Deserialize)]
struct Note {
    found: BTreeMap<String, RoundingOutcome>,
}

impl LayerResult {
    /// The weight of a linear that reads `input`, as the stream multiplies by it: dequantized, AWQ's scales taken out.
    pub fn effective(
        &self,
        weights: &CheckpointWeights<'_>,
        input: &LinearInput,
        name: &str,
    ) -> Result<Array2<f32>, CompressError> {
        let mut w = match self.weights.get(name) {
            Some(Prepared::Quantized(tensor, _)) => tensor.dequantize(),
            Some(Prepared::Dense(..)) | None => return weights.matrix(name),
        };
        if let Some(scales) = self.scales.get(&input.place) {
            w /= &ArrayView1::from(scales.as_slice());
        }
        Ok(w)
    }

    /// BLAKE3 of everything that decides [`Self::effective`] beside the checkpoint.
    pub fn hash_input(&self, input: &LinearInput, hash: &mut blake3::Hasher) {
        for name in input.weights() {
            let Some(Prepared::Quantized(tensor, _)) = self.weights.get(&name) else { continue };
            hash.update(name.as_bytes()).update(&tensor.codes);
            update_f32(hash, &tensor.scales);
            hash.update(tensor.zero_points.as_deref().unwrap_or_default());
            if let Some(outliers) = &tensor.outliers {
                let features: Vec<u8> = outliers.in_features.iter().flat_map(|&feature| (feature as u64).to_le_bytes()).collect();
                hash.update(&features);
                update_f32(hash, &outliers.weights);
            }
        }
        if let Some(scales) = self.scales.get(&input.place) {
            update_f32(hash, scales);
        }
    }

    /// The weight whose rows AWQ's scales of a later input divide, if there are any, and what its rows are multiplied by.
    pub fn divided_rows(&self, scaling: &Scaling, input: &LinearInput) -> Option<(String, Vec<f32>)> {
        let (Smooth::Linear(linear), Some(scales)) = (scaling.smooth, self.scales.get(&input.place)) else {
            return None;
        };
        Some((format!("model.layers.{}.{linear}.weight", input.layer), scaling.sharing.divisors(scales)))
    }

    /// The weights as the artifact holds them.
    ///
    /// # Errors
    /// A scale is beyond f16 once its row is divided.
    pub fn finished(mut self, survey: &Survey, layer: usize) -> Result<BTreeMap<String, Prepared>, CompressError> {
        for (scaling, input) in survey.scalings(layer) {
            let Some((name, factors)) = self.divided_rows(scaling, input) else { continue };
            match self.weights.get_mut(&name) {
                Some(Prepared::Quantized(tensor, _)) => {
                    tensor.scale_rows(&factors).map_err(CompressError::at(|| format!("weight {name}")))?;
                }
                Some(Prepared::Dense(_, values)) => scale_rows(values, &factors),
                None => unreachable!("a weight that takes scales is put down before they are used"),
            }
        }
        Ok(self.weights)
    }

    /// Writes the layer's file.
    pub fn write(&self, path: &Path) -> Result<(), CompressError> {
        let mut file = TensorFile::default();
        let mut found = BTreeMap::new();
        for (name, prepared) in &self.weights {
            match prepared {
                Prepared::Dense(shape, values) => file.put(name.clone(), shape, Numbers::F32(values.clone())),
                Prepared::Quantized(tensor, of) => {
                    found.insert(name.clone(), of.clone());
                    parts::of(name, tensor).into_iter().for_each(|(name, shape, numbers)| file.put(name, &shape, numbers));
                }
            }
        }
        for (place, scales) in &self.scales {
            file.put(format!("awq.{place}"), &[scales.len()], Numbers::F32(scales.clone()));
        }
        file.note = serde_json::to_string(&Note { found }).expect("a note is plain data");
        Ok(file.write(path)?)
    }

    /// A weight that should be among this layer's and is not, or the reverse.
    pub fn disagreement(&self, layer: usize, recipes: &BTreeMap<String, WeightRecipe>) -> Option<String> {
        let prefix = format!("model.layers.{layer}.");
        let quantized = recipes.iter().filter(|(name, recipe)| name.starts_with(&prefix) && recipe.scheme().is_some());
        let missing = |name: &&String| !self.weights.contains_key(*name);
        let foreign = self.weights.keys().find(|name| !name.starts_with(&prefix));
        quantized.map(|(name, _)| name).find(missing).or(foreign).cloned()
    }

    /// Reads what [`Self::write`] wrote; `recipes` are those of the weights by name.
    pub fn read(path: &Path, recipes: &BTreeMap<String, WeightRecipe>) -> Result<LayerResult, CompressError> {
        let mut file = TensorFile::read(path)?;
        let damaged =
            |source| CompressError::Damaged { file: path.to_owned(), problem: "it is damaged; remove it".to_owned(), source };
        let note: Note = serde_json::from_str(&file.note).map_err(|error| damaged(Some(error.into())))?;
        let mut result = LayerResult::default();
        for (name, found) in note.found {
            let scheme = recipes.get(&name).and_then(WeightRecipe::scheme).ok_or_else(|| damaged(None))?;
            let tensor = parts::read(&name, scheme, &mut |part| file.take(part)).ok_or_else(|| damaged(None))?;
            result.weights.insert(name, Prepared::Quantized(Box::new(tensor), found));
        }
        let rest: Vec<String> = file.names().map(str::to_owned).collect();
        for name in rest {
            let (shape, values) = file.take_f32(&name).ok_or_else(|| damaged(None))?;
            match name.strip_prefix("awq.").map(str::parse).transpose() {
                Ok(Some(place)) => drop(result.scales.insert(place, values)),
                Ok(None) => drop(result.weights.insert(name, Prepared::Dense(shape, values))),
                Err(error) => return Err(damaged(Some(error.into()))),
            }
        }
        Ok(result)
    }
}

/// Rows of a row-major matrix, or elements of a vector, times their factors.
pub fn scale_rows(values: &mut [f32], factors: &[f32]) {
    let width = values.len() / factors.len();
    for (row, factor) in values.chunks_exact_mut(width).zip(factors) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

fn update_f32<'a>(hash: &mut blake3::Hasher, values: impl IntoIterator<Item = &'a f32>) {
    let bytes: Vec<u8> = values.into_iter().flat_map(|value| value.to_le_bytes()).collect();
    hash.update(&bytes);
}

#[cfg(test)]
mod tests {
    use crate::record::{CalibratedRecord, RtnKept};

    use super::*;
    use crate::quant::{Rtn, with_outliers};
    use crate::recipe::FormatName;

    fn recipes() -> BTreeMap<String, WeightRecipe> {
        let nested = WeightRecipe { double_quantization: true, ..WeightRecipe::of(FormatName::Nf4) };
        let all = [
            ("asymmetric", WeightRecipe { symmetric: false, ..WeightRecipe::of(FormatName::Int4) }),
            ("nested", nested),
            ("outliers", WeightRecipe::of(FormatName::Int8)),
        ];
        all.map(|(name, recipe)| (name.to_owned(), recipe)).into()
    }

    #[test]
    fn a_layer_reads_back_as_itself() {
        let w = Array2::from_shape_fn((6, 128), |(i, j)| ((i * 131 + j * 17) % 101) as f32 / 50.0 - 1.0);
        let mut result = LayerResult::default();
        for (name, recipe) in recipes() {
            let features: &[usize] = if name == "outliers" { &[3, 77] } else { &[] };
            let scheme = recipe.scheme().unwrap();
            let rounded = with_outliers(&Rtn, w.view(), &scheme, None, features).unwrap();
            let calibrated = (name == "nested").then_some(CalibratedRecord {
                output_error: 1.0 / 3.0,
                rtn_output_error: 0.5,
                damping: None,
                dead_channels: 2,
                awq_ratio: Some(0.45),
                target_error: Some(0.25),
                rtn_kept: RtnKept::OutFeatures(4),
            });
            let found = RoundingOutcome { relative_error: 0.1 + 0.2, calibrated };
            result.weights.insert(name, Prepared::Quantized(Box::new(rounded.tensor), found));
        }
        result.weights.insert("norm".to_owned(), Prepared::Dense(vec![3], vec![1.0, -0.5, 3e-8]));
        result.scales.insert(2, vec![0.3; 128]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        result.write(&path).unwrap();
        assert_eq!(LayerResult::read(&path, &recipes()).unwrap(), result);
    }
}
