use half::f16;
use multiversion::multiversion;
use ndarray::Array2;

use super::scale::f16_scale;
use super::{Format, Params, QuantError, ScaleStorage, Scheme};

/// A quantized weight in logical order: nothing here is packed or transposed.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensor {
    pub scheme: Scheme,
    pub out_features: usize,
    pub in_features: usize,
    /// `[out_features, in_features]`, one code a byte (meaning: [`super::Format`]).
    pub codes: Vec<u8>,
    /// `[out_features, groups]`, as they are stored: each exact in f16, or what `nested` stands for, which is not.
    pub scales: Vec<f32>,
    /// `[out_features, groups]`; none in symmetric formats, whose zero point is `2^(bits−1)`.
    pub zero_points: Option<Vec<u8>>,
    /// How the scales are stored where they are quantized themselves; `scales` then holds what these stand for, in f32. A
    /// runtime with f16 activations rounds them to f16 once more.
    pub nested: Option<NestedScales>,
    /// Input features kept in f16; the codes of their columns stand for zero.
    pub outliers: Option<Outliers>,
}

/// What a rounding makes: the scales as [`Scheme::fit`] gave them, not yet as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub zero_points: Option<Vec<u8>>,
}

/// Scales in 8 bits (bitsandbytes' `nested`): `scale[i] = dynamic_map[codes[i]] · absmax[i / 256] + offset`, `i` counting over
/// `[out_features, groups]`.
#[derive(Debug, Clone, PartialEq)]
pub struct NestedScales {
    pub codes: Vec<u8>,
    pub absmax: Vec<f32>,
    pub offset: f32,
}

/// Columns of a weight that are not quantized (LLM.int8, arXiv 2208.07339).
#[derive(Debug, Clone, PartialEq)]
pub struct Outliers {
    /// Ascending.
    pub in_features: Vec<usize>,
    /// `[out_features, outliers]`, each exact in f16.
    pub weights: Array2<f32>,
}

impl QuantizedTensor {
    /// Stores the scales as the scheme says; no outliers.
    ///
    /// Nested scales are quantized together, so `codes` must then be those of the whole weight.
    pub fn new(scheme: Scheme, out_features: usize, in_features: usize, codes: Codes) -> Self {
        let Codes { codes, scales, zero_points } = codes;
        let mut tensor =
            QuantizedTensor { scheme, out_features, in_features, codes, scales, zero_points, nested: None, outliers: None };
        tensor.store_scales();
        tensor
    }

    /// From scales that were quantized before: what an artifact holds.
    pub fn from_nested(scheme: Scheme, out_features: usize, in_features: usize, codes: Vec<u8>, nested: NestedScales) -> Self {
        let scales = nested.scales();
        let nested = Some(nested);
        QuantizedTensor { scheme, out_features, in_features, codes, scales, zero_points: None, nested, outliers: None }
    }

    fn store_scales(&mut self) {
        match self.scheme.scale_storage {
            ScaleStorage::F16 => self.scales.iter_mut().for_each(|scale| *scale = self.scheme.stored_scale(*scale)),
            ScaleStorage::Nested => {
                let nested = NestedScales::of(&self.scales);
                self.scales = nested.scales();
                self.nested = Some(nested);
            }
        }
    }

    /// Multiplies each output feature by its factor, finite and not zero: codes stay, scales and outliers are rounded again.
    ///
    /// # Errors
    /// Where a scale or an outlier is then beyond what f16 holds.
    ///
    /// # Panics
    /// Where there is not one factor for each output feature.
    pub fn scale_rows(&mut self, factors: &[f32]) -> Result<(), QuantError> {
        assert_eq!(factors.len(), self.out_features, "one factor for each output feature");
        let groups = self.groups();
        for (scales, factor) in self.scales.chunks_exact_mut(groups).zip(factors) {
            scales.iter_mut().for_each(|scale| *scale *= factor);
        }
        if self.scales.iter().any(|scale| scale.abs() > f16::MAX.to_f32()) {
            return Err(QuantError::ScaleTooLarge);
        }
        match self.scheme.scale_storage {
            ScaleStorage::F16 => self.scales.iter_mut().for_each(|scale| *scale = f16_scale(*scale)),
            ScaleStorage::Nested => self.store_scales(),
        }
        if let Some(outliers) = &mut self.outliers {
            for (mut row, factor) in outliers.weights.rows_mut().into_iter().zip(factors) {
                row.mapv_inplace(|w| w * factor);
            }
            outliers.round()?;
        }
        Ok(())
    }

    /// Takes codes, scales and zero points of some output features over from a tensor of the same scheme and shape, neither with
    /// scales that are quantized themselves: those of all rows hang together.
    pub(super) fn take_rows(&mut self, from: &QuantizedTensor, out_features: &[usize]) {
        let (in_features, groups) = (self.in_features, self.groups());
        for &out_feature in out_features {
            let codes = out_feature * in_features..(out_feature + 1) * in_features;
            self.codes[codes.clone()].copy_from_slice(&from.codes[codes]);
            let params = out_feature * groups..(out_feature + 1) * groups;
            self.scales[params.clone()].copy_from_slice(&from.scales[params.clone()]);
            if let (Some(to), Some(from)) = (&mut self.zero_points, &from.zero_points) {
                to[params.clone()].copy_from_slice(&from[params]);
            }
        }
    }

    /// Scales in a row.
    pub fn groups(&self) -> usize {
        self.scheme.granularity.groups(self.in_features)
    }

    /// Scale and zero point of one group of one output feature.
    pub fn params(&self, out_feature: usize, group: usize) -> Params {
        let index = out_feature * self.groups() + group;
        let zero_point = self.zero_points.as_ref().map_or(self.scheme.format.symmetric_zero_point(), |z| z[index]);
        Params { scale: self.scales[index], zero_point }
    }

    /// The weights that the codes stand for, `[out_features, in_features]`; exact, bit for bit what ONNX Runtime's
    /// DequantizeLinear computes in f32.
    pub fn dequantize(&self) -> Array2<f32> {
        let mut weights = Array2::zeros((self.out_features, self.in_features));
        self.dequantize_into(weights.as_slice_mut().expect("a fresh array is contiguous"));
        weights
    }

    /// As [`Self::dequantize`], into `weights`, row-major.
    ///
    /// # Panics
    /// Where `weights` is not `out_features · in_features` long.
    pub fn dequantize_into(&self, weights: &mut [f32]) {
        assert_eq!(weights.len(), self.codes.len(), "one weight for each code");
        let rows = weights.chunks_exact_mut(self.in_features.max(1)).enumerate();
        rows.for_each(|(out_feature, row)| self.dequantize_row_into(out_feature, row));
    }

    /// One output feature's weights, `in_features` long.
    pub(super) fn dequantize_row_into(&self, out_feature: usize, row: &mut [f32]) {
        let group_size = self.scheme.granularity.group_size(self.in_features);
        let codes = &self.codes[out_feature * self.in_features..][..self.in_features];
        for (group, (row, codes)) in row.chunks_mut(group_size).zip(codes.chunks(group_size)).enumerate() {
            decode_group(codes, &self.scheme, self.params(out_feature, group), row);
        }
        if let Some(outliers) = &self.outliers {
            for (&in_feature, &w) in outliers.in_features.iter().zip(outliers.weights.row(out_feature)) {
                row[in_feature] = w;
            }
        }
    }
}

/// As [`Scheme::decode`], for a group.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn decode_group(codes: &[u8], scheme: &Scheme, params: Params, weights: &mut [f32]) {
    let (scale, zero_point) = (scheme.stored_scale(params.scale), f32::from(params.zero_point));
    let weights = weights.iter_mut().zip(codes);
    match scheme.format {
        Format::Int { .. } => weights.for_each(|(w, &code)| *w = scale * (f32::from(code) - zero_point)),
        Format::Codebook(codebook) => {
            let levels = codebook.levels();
            weights.for_each(|(w, &code)| *w = scale * levels[usize::from(code & 0xF)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::quant::{Codebook, Granularity, Rtn, ScaleRule, rtn, with_outliers};

    fn scheme(format: Format, scale_storage: ScaleStorage) -> Scheme {
        Scheme { format, granularity: Granularity::PerGroup(16), scale_rule: ScaleRule::AbsMax, scale_storage }
    }

    #[test]
    fn scaled_rows_keep_their_codes() {
        let w = array![[0.5f32, -1.0, 4.0, -4.0], [0.25, 0.75, -0.5, 3.0]];
        let int4 = scheme(Format::Int { bits: 4, symmetric: false }, ScaleStorage::F16);
        let mut tensor = with_outliers(&Rtn, w.view(), &int4, None, &[2]).expect("small weights").tensor;
        let before = tensor.clone();
        tensor.scale_rows(&[0.5, 1.0 / 3.0]).expect("small weights");
        assert_eq!((&tensor.codes, &tensor.zero_points), (&before.codes, &before.zero_points));
        assert_eq!(tensor.scales[0], before.scales[0] * 0.5);
        assert_eq!(tensor.scales[1], f16::from_f32(before.scales[1] / 3.0).to_f32());
        assert_eq!(tensor.dequantize().column(2), array![2.0, f16::from_f32(-0.5 / 3.0).to_f32()]);
    }

    #[test]
    fn scaled_rows_of_nested_scales_are_nested_again() {
        let w: Vec<f32> = (0..64 * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013 * (1 + i / 64) as f32).collect();
        let nested = scheme(Format::Codebook(Codebook::Nf4), ScaleStorage::Nested);
        let mut tensor = rtn(&w, 32, &nested);
        let before = tensor.clone();
        tensor.scale_rows(&[2.0; 64]).expect("small weights");
        let expected = NestedScales::of(&before.scales.iter().map(|scale| scale * 2.0).collect::<Vec<_>>());
        assert_eq!((&tensor.scales, &tensor.nested, &tensor.codes), (&expected.scales(), &Some(expected), &before.codes));
    }

    #[test]
    fn rows_that_leave_f16_are_refused() {
        let int8 = scheme(Format::Int { bits: 8, symmetric: true }, ScaleStorage::F16);
        let mut tensor = rtn(&[1.0f32, 2.0, 3.0, 4.0], 2, &int8);
        assert_eq!(tensor.scale_rows(&[1.0, 1e7]), Err(QuantError::ScaleTooLarge));
        let w = array![[1.0, 2.0]];
        let mut tensor = with_outliers(&Rtn, w.view(), &int8, None, &[1]).expect("small weights").tensor;
        assert_eq!(tensor.scale_rows(&[5e4]), Err(QuantError::OutlierTooLarge { in_feature: 1 }));
    }

    #[test]
    fn what_an_artifact_holds_of_nested_scales_is_the_same_weight() {
        let w: Vec<f32> = (0..300 * 32).map(|i| ((i * 37 % 1009) as f32 - 504.0) * 0.0013).collect();
        let quantized = rtn(&w, 32, &scheme(Format::Codebook(Codebook::Fp4), ScaleStorage::Nested));
        let nested = quantized.nested.clone().expect("nested scales");
        assert_eq!((nested.codes.len(), nested.absmax.len()), (600, 3));
        let read = QuantizedTensor::from_nested(quantized.scheme, 300, 32, quantized.codes.clone(), nested);
        assert_eq!(read, quantized);
    }
}
