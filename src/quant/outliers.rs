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

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::quant::{Format, Granularity, QuantizedTensor, RoundingReport, Rtn, ScaleRule, ScaleStorage};

    fn int8(symmetric: bool) -> Scheme {
        Scheme {
            format: Format::Int { bits: 8, symmetric },
            granularity: Granularity::PerChannel,
            scale_rule: ScaleRule::SignedMax,
            scale_storage: ScaleStorage::F16,
        }
    }

    #[test]
    fn features_at_the_threshold_are_outliers() {
        assert_eq!(outlier_features(&[5.9, 6.0, 0.0, 70.0], 6.0), [1, 3]);
    }

    #[test]
    fn outliers_are_put_back_and_take_no_part_in_scales() {
        let w = array![[0.5, 100.0, -1.0, 0.3], [0.25, -0.1, 0.5, 0.0]];
        for symmetric in [true, false] {
            let with = with_outliers(&Rtn, w.view(), &int8(symmetric), None, &[1]).expect("small weights").tensor;
            let without = array![[0.5, 0.0, -1.0, 0.3], [0.25, 0.0, 0.5, 0.0]];
            let alone = Rtn.quantize(without.view(), &int8(symmetric), None).expect("small weights").tensor;
            assert_eq!((&with.codes, &with.scales, &with.zero_points), (&alone.codes, &alone.scales, &alone.zero_points));
            let zero = [with.params(0, 0), with.params(1, 0)].map(|params| params.zero_point);
            assert_eq!([with.codes[1], with.codes[5]], zero);
            // −0.1 in f16.
            assert_eq!(with.dequantize().column(1), array![100.0, -0.099_975_586]);
        }
        let nf4 = Scheme {
            format: Format::Codebook(crate::quant::Codebook::Nf4),
            granularity: Granularity::PerGroup(16),
            scale_rule: ScaleRule::AbsMax,
            scale_storage: ScaleStorage::F16,
        };
        let tensor = with_outliers(&Rtn, w.view(), &nf4, None, &[1]).expect("small weights").tensor;
        assert_eq!((tensor.codes[1], tensor.scales.as_slice()), (7, &[1.0, 0.5][..]));
    }

    #[test]
    fn an_outlier_beyond_f16_is_refused() {
        let w = array![[0.5, 1.0, 7e4], [0.5, 1.0, 0.0]];
        let error = with_outliers(&Rtn, w.view(), &int8(true), None, &[0, 2]).expect_err("7e4 is too large");
        assert_eq!(error, QuantError::OutlierTooLarge { in_feature: 2 });
    }

    /// A rounding that feeds errors of a feature into another one, seen from its statistics.
    struct Spy;

    impl Rounding for Spy {
        fn quantize(&self, w: ArrayView2<'_, f32>, scheme: &Scheme, x: Option<&InputStats>) -> Result<Rounded, QuantError> {
            let x = x.expect("statistics");
            assert_eq!(x.gram, array![[4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]);
            assert_eq!(x.cross, Some(array![[1.0, 0.0, 3.0], [0.0, 0.0, 0.0], [7.0, 0.0, 9.0]]));
            assert_eq!((&x.mean_abs[..], &x.max_abs[..]), (&[1.0, 0.0, 0.0][..], &[2.0, 0.0, 0.0][..]));
            // The outlier's column comes back with codes of its own: they are not kept.
            let mut tensor: QuantizedTensor = Rtn.quantize(w, scheme, None)?.tensor;
            tensor.codes[1] = 3;
            Ok(Rounded { tensor, report: RoundingReport { dead_channels: 2, ..RoundingReport::default() } })
        }
    }

    #[test]
    fn statistics_are_those_of_the_other_features() {
        let stats = InputStats {
            tokens: 3,
            gram: array![[4.0, 1.0, 2.0], [1.0, 9.0, 5.0], [2.0, 5.0, 0.0]],
            mean_abs: vec![1.0, 3.0, 0.0],
            max_abs: vec![2.0, 8.0, 0.0],
            cross: Some(Array2::from_shape_fn((3, 3), |(i, j)| (3 * i + j + 1) as f32)),
        };
        let w = array![[0.5, 1.0, -0.25]];
        let rounded = with_outliers(&Spy, w.view(), &int8(true), Some(&stats), &[1]).expect("small weights");
        assert_eq!((rounded.tensor.codes[1], rounded.report.dead_channels), (128, 1));
        assert_eq!(rounded.tensor.dequantize(), array![[0.5, 1.0, -0.25]]);
    }
}
