//! The linears that read one input: AWQ's scales and clipping, rounding, and what that cost.

use std::collections::btree_map::Entry;

use half::f16;
use ndarray::{Array2, ArrayView1, ArrayView2};

use super::judge::{judge, judged_by_report};
use super::layer::{LayerResult, scale_rows};
use super::weights::CheckpointWeights;
use crate::artifact::prepared::{Prepared, RoundingOutcome};
use crate::artifact::quantize::refuse_lost_weights;
use crate::compress::CompressError;
use crate::model::{LinearInput, Scaling, Smooth};
use crate::quant::{
    AwqOptions, ClipOptions, InputStats, Rounded, Rounding, Rtn, ScaleBasis, Scheme, awq_clip, awq_scales, outlier_features,
    squared_distance, with_outliers,
};
use crate::recipe::{AwqRecipe, RoundingRecipe, WeightRecipe};
use crate::record::{CalibratedRecord, RtnKept};

/// Rows of a weight that AWQ judges a ratio by.
const JUDGED_ROWS: usize = 512;

/// One input of one layer and the linears that read it.
pub struct Group<'a> {
    pub input: &'a LinearInput,
    /// How each linear is stored.
    pub recipes: Vec<WeightRecipe>,
    pub awq: Option<AwqRecipe>,
    pub weights: &'a CheckpointWeights<'a>,
    /// Of the input; absent where nothing of the group uses any.
    pub stats: Option<InputStats>,
}

/// AWQ's scales as they can be stored.
struct StoredScales {
    scales: Vec<f32>,
    ratio: f64,
}

impl Group<'_> {
    /// Whether rounding this group uses statistics.
    pub fn needs_statistics(recipes: &[WeightRecipe], awq: Option<AwqRecipe>) -> bool {
        let scaled = awq.is_some() && recipes.iter().any(|recipe| recipe.scheme().is_some());
        scaled || recipes.iter().any(|recipe| recipe.calibrated_part().is_some())
    }

    /// Rounds every linear of the group into `result`.
    pub fn round_into(&self, result: &mut LayerResult) -> Result<(), CompressError> {
        let weights = self.weights.group(self.input)?;
        let scaling = self.scale(&weights, result)?;
        if let Some(scaling) = &scaling {
            result.scales.insert(self.input.place, scaling.scales.clone());
        }
        let rescaled = match (&self.stats, &scaling) {
            (Some(stats), Some(scaling)) => Some(stats.rescaled(&scaling.scales)),
            _ => None,
        };
        let stats = rescaled.as_ref().or(self.stats.as_ref());
        for ((name, w), recipe) in self.input.weights().zip(weights).zip(&self.recipes) {
            let prepared =
                self.round(&name, w, recipe, stats, scaling.as_ref()).map_err(CompressError::at(|| format!("weight {name}")))?;
            if let Some(prepared) = prepared {
                result.weights.insert(name, prepared);
            }
        }
        Ok(())
    }

    /// Scales of the input's features, if AWQ finds any; what comes before is divided by them.
    fn scale(&self, weights: &[Array2<f32>], result: &mut LayerResult) -> Result<Option<StoredScales>, CompressError> {
        let (Some(awq), Some(stats)) = (self.awq, &self.stats) else { return Ok(None) };
        let Some(scaling) = self.weights.survey.scaling(self.input) else { return Ok(None) };
        let quantized = weights.iter().zip(&self.recipes);
        let balance: Vec<(ArrayView2<'_, f32>, Scheme)> =
            quantized.filter_map(|(w, recipe)| Some((w.view(), recipe.scheme()?))).collect();
        if balance.is_empty() || !self.can_take_scales(scaling, result) {
            return Ok(None);
        }
        let options =
            AwqOptions { basis: ScaleBasis::ActivationAndWeight, ratio_steps: awq.ratio_steps, judged_rows: JUDGED_ROWS };
        let found = awq_scales(&balance, stats, scaling.sharing, &options);
        let Some(ratio) = found.ratio else { return Ok(None) };
        let scales = match scaling.smooth {
            Smooth::Norm(norm) => {
                let name = format!("model.layers.{}.{norm}.weight", self.input.layer);
                let (folded, scales) = folded_norm(&self.weights.vector(&name)?, &found.scales);
                result.weights.insert(name, Prepared::Dense(vec![folded.len()], folded));
                scales
            }
            Smooth::Linear(linear) => {
                self.divide_before(linear, scaling, &found.scales, result)?;
                found.scales
            }
        };
        Ok(Some(StoredScales { scales, ratio: f64::from(ratio) }))
    }

    /// Nested scales are quantized together, so that dividing a row would change them all.
    fn can_take_scales(&self, scaling: &Scaling, result: &LayerResult) -> bool {
        let Smooth::Linear(linear) = scaling.smooth else { return true };
        let name = format!("model.layers.{}.{linear}.weight", self.input.layer);
        !matches!(result.weights.get(&name), Some(Prepared::Quantized(tensor, _)) if tensor.nested.is_some())
    }

    /// Puts down what a linear before the group needs to take scales: its bias divided, its weight where it is not quantized.
    /// The rows themselves are divided when the layer is finished.
    fn divide_before(
        &self,
        linear: &str,
        scaling: &Scaling,
        scales: &[f32],
        result: &mut LayerResult,
    ) -> Result<(), CompressError> {
        let module = format!("model.layers.{}.{linear}", self.input.layer);
        let weight = format!("{module}.weight");
        if let Entry::Vacant(vacant) = result.weights.entry(weight) {
            let w = self.weights.matrix(vacant.key())?;
            vacant.insert(Prepared::Dense(w.shape().to_vec(), w.into_raw_vec_and_offset().0));
        }
        let mut linears = self.weights.survey.layer(self.input.layer).iter().flat_map(|input| &input.linears);
        if linears.any(|of_layer| of_layer.path == linear && of_layer.bias) {
            let name = format!("{module}.bias");
            let mut bias = self.weights.vector(&name)?;
            scale_rows(&mut bias, &scaling.sharing.divisors(scales));
            result.weights.insert(name, Prepared::Dense(vec![bias.len()], bias));
        }
        Ok(())
    }

    /// One linear; `None` where it stays as the checkpoint has it. `stats` are of the scaled input.
    fn round(
        &self,
        name: &str,
        w: Array2<f32>,
        recipe: &WeightRecipe,
        stats: Option<&InputStats>,
        scaling: Option<&StoredScales>,
    ) -> Result<Option<Prepared>, CompressError> {
        let scaled = match scaling {
            Some(scaling) => &w * &ArrayView1::from(scaling.scales.as_slice()),
            None => w.clone(),
        };
        let Some(scheme) = recipe.scheme() else {
            let is_changed = scaling.is_some() || self.weights.rotation.is_some();
            return Ok(is_changed.then(|| Prepared::Dense(scaled.shape().to_vec(), scaled.into_raw_vec_and_offset().0)));
        };
        let outliers = match (recipe.outlier_threshold, stats) {
            (Some(threshold), Some(stats)) => outlier_features(&stats.max_abs, threshold),
            _ => Vec::new(),
        };
        // As many bits as f16, and not its numbers.
        if 2 * outliers.len() >= w.ncols() {
            let (outliers, all) = (outliers.len(), w.ncols());
            tracing::warn!(
                "weight {name}: {outliers} of {all} input features are outliers, which is no smaller than f16; it stays f16"
            );
            return Ok(Some(Prepared::Dense(scaled.shape().to_vec(), scaled.into_raw_vec_and_offset().0)));
        }
        let aim = match (self.clips(name, recipe), stats) {
            (true, Some(stats)) => awq_clip(scaled.view(), &scheme, stats, &ClipOptions { steps: 20, max_shrink: 0.5 }),
            _ => scaled,
        };
        let rounding = rounding(recipe.rounding);
        let rounded = with_outliers(rounding.as_ref(), aim.view(), &scheme, stats, &outliers)?;
        drop(aim);
        let found = self.found(&w, &rounded, recipe, scaling)?;
        Ok(Some(Prepared::Quantized(Box::new(rounded.tensor), found)))
    }

    /// What rounding `w` came to, of the numbers that are written.
    ///
    /// # Errors
    /// The weights are lost: zero is as near to them.
    fn found(
        &self,
        w: &Array2<f32>,
        rounded: &Rounded,
        recipe: &WeightRecipe,
        scaling: Option<&StoredScales>,
    ) -> Result<RoundingOutcome, CompressError> {
        let mut effective = rounded.tensor.dequantize();
        if let Some(scaling) = scaling {
            effective /= &ArrayView1::from(scaling.scales.as_slice());
        }
        let (error, norm) = squared_distance(w.view(), effective.view());
        // GPTQ may rightly be farther from the weights than zero is, where their inputs hang together.
        let distance = if recipe.rounding == RoundingRecipe::Rtn { error } else { 0.0 };
        refuse_lost_weights(&rounded.tensor, distance, norm)?;
        let is_plain = scaling.is_none() && rounded.tensor.outliers.is_none();
        let calibrated = self.stats.as_ref().map(|stats| match is_plain {
            true => judged_by_report(&rounded.report).unwrap_or_else(|| judge(w, effective, &rounded.tensor.scheme, stats)),
            false => judge(w, effective, &rounded.tensor.scheme, stats),
        });
        let calibrated = calibrated.map(|judged| CalibratedRecord {
            damping: rounded.report.damping,
            dead_channels: rounded.report.dead_channels,
            awq_ratio: scaling.map(|scaling| scaling.ratio),
            target_error: rounded.report.target_error,
            rtn_kept: RtnKept::OutFeatures(rounded.report.rtn_kept),
            ..judged
        });
        Ok(RoundingOutcome { relative_error: if norm > 0.0 { error / norm } else { 0.0 }, calibrated })
    }

    /// Whether AWQ's clipping is searched for: not for q and k, whose product is what counts, and not under GPTQ, which would
    /// aim at the clipped weights.
    fn clips(&self, name: &str, recipe: &WeightRecipe) -> bool {
        let path = name.splitn(4, '.').nth(3).and_then(|path| path.strip_suffix(".weight"));
        let is_of_scores = path.is_some_and(|path| self.weights.architecture.family.is_of_scores(path));
        self.awq.is_some_and(|awq| awq.clip) && recipe.rounding == RoundingRecipe::Rtn && !is_of_scores
    }
}

fn rounding(recipe: RoundingRecipe) -> Box<dyn Rounding> {
    match recipe {
        RoundingRecipe::Rtn => Box::new(Rtn),
        RoundingRecipe::Gptq(settings) => Box::new(settings.gptq()),
    }
}

/// A norm's weight divided by `scales` and rounded to f16, and the scales that this really is, so that the layer's function
/// stays exactly what it was.
fn folded_norm(norm: &[f32], scales: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let fold = |(&norm, &scale): (&f32, &f32)| {
        let folded = f16::from_f32(norm / scale).to_f32();
        let exact = norm / folded;
        if folded != 0.0 && folded.is_finite() && exact.is_normal() { (folded, exact) } else { (norm, 1.0) }
    };
    norm.iter().zip(scales).map(fold).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folded_norm_times_its_scales_is_the_norm() {
        let norm = [1.0, 0.3333, -2.5, 0.0, 1e-7, 60000.0];
        let (folded, scales) = folded_norm(&norm, &[3.0, 0.7, 1.1, 2.0, 5.0, 0.1]);
        for ((norm, folded), scale) in norm.iter().zip(&folded).zip(&scales) {
            assert!((folded * scale - norm).abs() <= norm.abs() * 1e-7, "{norm}: {folded} × {scale}");
        }
        assert_eq!(folded[..3].iter().map(|&x| f16::from_f32(x).to_f32()).collect::<Vec<_>>(), folded[..3]);
        // What cannot be stored after the division keeps its weight and gets no scale.
        assert_eq!((folded[3], scales[3], folded[5], scales[5]), (0.0, 1.0, 60000.0, 1.0));
    }
}
