//! LLM.int8 (arXiv 2208.07339): the few input features whose activations are far larger than the others' stay in f16. The paper
//! looks for them in every batch; here calibration chooses them once.

use half::f16;
use ndarray::{ArrayView2, Axis};

use super::{InputStats, Outliers, QuantError, Rounded, Rounding, Scheme};

/// Input features whose largest magnitude reaches the threshold (the paper's is 6), ascending.
pub fn outlier_features(max_abs: &[f32], threshold: f32) -> Vec<usize> {
    (0..max_abs.len()).filter(|&feature| max_abs[feature] >= threshold).collect()
}

/// Rounds `w` without the columns of `in_features` (ascending), which stay in f16: they take part in no scale, no error is fed
/// into them, and their codes stand for zero. Without any, it is `rounding` alone.
///
/// `output_error` of the report is that of the other columns.
///
/// # Errors
/// Those of `rounding`, and where f16 cannot hold an outlier.
///
/// # Panics
/// Where a feature is not one of `w`'s.
pub fn with_outliers(
    rounding: &dyn Rounding,
    w: ArrayView2<'_, f32>,
    scheme: &Scheme,
    x: Option<&InputStats>,
    in_features: &[usize],
) -> Result<Rounded, QuantError> {
    if in_features.is_empty() {
        return rounding.quantize(w, scheme, x);
    }
    let mut outliers = Outliers { in_features: in_features.to_vec(), weights: w.select(Axis(1), in_features) };
    outliers.round()?;
    let mut others = w.to_owned();
    in_features.iter().for_each(|&feature| others.column_mut(feature).fill(0.0));
    let others_only = x.map(|x| silence(x, in_features));
    let Rounded { mut tensor, mut report } = rounding.quantize(others.view(), scheme, others_only.as_ref())?;
    let group_size = scheme.granularity.group_size(tensor.in_features);
    for out_feature in 0..tensor.out_features {
        for &in_feature in in_features {
            let params = tensor.params(out_feature, in_feature / group_size);
            tensor.codes[out_feature * tensor.in_features + in_feature] = scheme.encode(0.0, params);
        }
    }
    tensor.outliers = Some(outliers);
    // Silenced features look dead to a rounding that counts them.
    let silenced = x.map_or(0, |x| in_features.iter().filter(|&&feature| x.gram[[feature, feature]] != 0.0).count());
    report.dead_channels = report.dead_channels.saturating_sub(silenced);
    Ok(Rounded { tensor, report })
}

/// The statistics of an input whose `in_features` are always zero.
fn silence(x: &InputStats, in_features: &[usize]) -> InputStats {
    let mut x = x.clone();
    for &feature in in_features {
        x.gram.row_mut(feature).fill(0.0);
        x.gram.column_mut(feature).fill(0.0);
        if let Some(cross) = &mut x.cross {
            cross.row_mut(feature).fill(0.0);
            cross.column_mut(feature).fill(0.0);
        }
        (x.mean_abs[feature], x.max_abs[feature]) = (0.0, 0.0);
    }
    x
}

impl Outliers {
    /// Rounds every weight to f16.
    pub(super) fn round(&mut self) -> Result<(), QuantError> {
        for ((_, outlier), w) in self.weights.indexed_iter_mut() {
            let rounded = f16::from_f32(*w);
            if rounded.is_infinite() {
                return Err(QuantError::OutlierTooLarge { in_feature: self.in_features[outlier] });
            }
            *w = rounded.to_f32();
        }
        Ok(())
    }
}
