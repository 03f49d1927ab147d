//! What rounding costs at a linear's output, of the numbers that the artifact holds.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use super::layer::LayerResult;
use crate::artifact::prepared::{Prepared, RoundingOutcome};
use crate::compress::CompressError;
use crate::model::{LinearInput, Scaling};
use crate::quant::{InputStats, QuantizedTensor, RoundingReport, Scheme, fake_quantize, output_error, squared_distance};
use crate::record::{CalibratedRecord, RtnKept};

/// What the rounding itself has judged.
pub fn judged_by_report(report: &RoundingReport) -> Option<CalibratedRecord> {
    Some(judged(report.output_error?, report.rtn_output_error?))
}

/// Output errors of what the artifact multiplies by, and of plain round to nearest.
pub fn judge(w: &Array2<f32>, effective: Array2<f32>, scheme: &Scheme, stats: &InputStats) -> CalibratedRecord {
    let rtn = fake_quantize(w.as_slice().expect("read in standard layout"), w.ncols(), scheme);
    let rtn = Array2::from_shape_vec(w.dim(), rtn).expect("as many weights as there were");
    judged(relative_output_error(w.view(), effective, stats), relative_output_error(w.view(), rtn, stats))
}

fn judged(output_error: f64, rtn_output_error: f64) -> CalibratedRecord {
    CalibratedRecord {
        output_error,
        rtn_output_error,
        damping: None,
        dead_channels: 0,
        awq_ratio: None,
        target_error: None,
        rtn_kept: RtnKept::default(),
    }
}

/// `tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ)`; not divided where nothing comes out.
fn relative_output_error(w: ArrayView2<'_, f32>, effective: Array2<f32>, stats: &InputStats) -> f64 {
    let total = output_error(w, stats.gram.view());
    let error = output_error((&w - &effective).view(), stats.gram.view());
    if total > 0.0 { error / total } else { error }
}

/// Judges a linear again whose rows are divided by the scales that AWQ found for a later input, as its own scales are rounded once
/// more with them: `w` is the linear's weight, `stats` of `own`, what it reads.
///
/// # Errors
/// A scale is beyond f16 once its row is divided.
pub fn judge_divided(
    result: &mut LayerResult,
    (scaling, input): (&Scaling, &LinearInput),
    w: impl FnOnce(&str) -> Result<Array2<f32>, CompressError>,
    (own, stats): (&LinearInput, &InputStats),
) -> Result<(), CompressError> {
    let Some((name, factors)) = result.divided_rows(scaling, input) else { return Ok(()) };
    let columns = result.scales.get(&own.place).cloned();
    let Some(Prepared::Quantized(tensor, found)) = result.weights.get_mut(&name) else { return Ok(()) };
    let effective = effective(tensor, &factors, columns.as_deref()).map_err(CompressError::at(|| format!("weight {name}")))?;
    let w = w(&name)?;
    let (error, norm) = squared_distance(w.view(), effective.view());
    let relative_error = if norm > 0.0 { error / norm } else { 0.0 };
    let output_error = relative_output_error(w.view(), effective, stats);
    let calibrated = found.calibrated.take().map(|judged| CalibratedRecord { output_error, ..judged });
    *found = RoundingOutcome { relative_error, calibrated };
    Ok(())
}

/// What a tensor stands for once its rows are multiplied by `factors`, in the checkpoint's own basis.
fn effective(tensor: &QuantizedTensor, factors: &[f32], columns: Option<&[f32]>) -> Result<Array2<f32>, CompressError> {
    let mut written = tensor.clone();
    written.scale_rows(factors)?;
    let mut effective = written.dequantize();
    effective /= &ArrayView1::from(factors).insert_axis(Axis(1));
    if let Some(columns) = columns {
        effective /= &ArrayView1::from(columns);
    }
    Ok(effective)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::model::{Architecture, Smooth, Survey};
    use crate::quant::{Rounding, Rtn};
    use crate::recipe::{FormatName, WeightRecipe};

    /// Two heads of width 16; v and o are 32 × 32.
    fn survey() -> Survey {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 8, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
            "torch_dtype": "float32",
        });
        Architecture::from_json(&config.to_string()).unwrap().survey().unwrap()
    }

    #[test]
    fn a_divided_linear_is_judged_by_the_scales_that_are_written() {
        const NAME: &str = "model.layers.0.self_attn.v_proj.weight";
        let survey = survey();
        let of_v = survey.scalings(0).find(|(scaling, _)| scaling.smooth == Smooth::Linear("self_attn.v_proj"));
        let (of_v, own) = (of_v.expect("v takes scales where heads are not shared"), &survey.layer(0)[0]);
        // Four bits hold these exactly: codes down to −8, scale 1.
        let w = Array2::from_shape_fn((32, 32), |(i, j)| if j == 0 { -8.0 } else { ((i * 5 + j * 3) % 8) as f32 });
        let scheme = WeightRecipe::of(FormatName::Int4).scheme().unwrap();
        let tensor = Rtn.quantize(w.view(), &scheme, None).unwrap().tensor;
        assert_eq!(tensor.dequantize(), w);
        let found = RoundingOutcome {
            relative_error: 0.0,
            calibrated: Some(CalibratedRecord { awq_ratio: Some(0.5), ..judged(0.0, 0.25) }),
        };
        let mut result = LayerResult::default();
        result.weights.insert(NAME.to_owned(), Prepared::Quantized(Box::new(tensor), found));
        let stats = InputStats { tokens: 1, gram: Array2::eye(32), mean_abs: vec![1.0; 32], max_abs: vec![1.0; 32], cross: None };
        let again = |result: &mut LayerResult| {
            judge_divided(result, of_v, |_| Ok(w.clone()), (own, &stats)).unwrap();
            let Prepared::Quantized(_, found) = &result.weights[NAME] else { panic!("it was quantized") };
            found.clone()
        };
        // No scales, no change; powers of two change nothing either.
        assert_eq!(again(&mut result).relative_error, 0.0);
        let scales = |first: f32| [vec![first], vec![1.0; 31]].concat();
        result.scales.insert(1, scales(4.0));
        assert_eq!(again(&mut result).relative_error, 0.0);
        // A third is none of f16's numbers: every weight of the first row is off by as much.
        result.scales.insert(1, scales(3.0));
        let found = again(&mut result);
        let off = f64::from(f16::from_f32(1.0 / 3.0).to_f32()) * 3.0 - 1.0;
        let squares = |row: usize| w.row(row).iter().map(|&w| f64::from(w * w)).sum::<f64>();
        let expected = off * off * squares(0) / (0..32).map(squares).sum::<f64>();
        let calibrated = found.calibrated.expect("it was judged before");
        for got in [found.relative_error, calibrated.output_error] {
            assert!((got / expected - 1.0).abs() < 1e-2, "{got}, expected {expected}");
        }
        assert_eq!((calibrated.rtn_output_error, calibrated.awq_ratio), (0.25, Some(0.5)));
        // The layer's file holds those scales.
        let Prepared::Quantized(written, _) = &result.finished(&survey, 0).unwrap()[NAME] else { panic!("it was quantized") };
        assert_eq!(written.scales[0], f16::from_f32(1.0 / 3.0).to_f32().copysign(written.scales[0]));
    }
}
