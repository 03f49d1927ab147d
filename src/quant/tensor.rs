use ndarray::Array2;

use super::{Params, Scheme};

/// A quantized weight in logical order: nothing here is packed or transposed.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensor {
    pub scheme: Scheme,
    pub out_features: usize,
    pub in_features: usize,
    /// `[out_features, in_features]`, one code a byte (meaning: [`super::Format`]).
    pub codes: Vec<u8>,
    /// `[out_features, groups]`, each exact in f16.
    pub scales: Vec<f32>,
    /// `[out_features, groups]`; none in symmetric formats, whose zero point is `2^(bits−1)`.
    pub zero_points: Option<Vec<u8>>,
    /// How the scales are stored where they are quantized themselves; `scales` then holds what these stand for.
    pub nested: Option<NestedScales>,
    /// Input features kept in f16; the codes of their columns stand for zero.
    pub outliers: Option<Outliers>,
}

/// What a rounding makes, scales in f16.
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
    /// Codes with scales in f16 and no outliers.
    pub fn new(scheme: Scheme, out_features: usize, in_features: usize, codes: Codes) -> Self {
        let Codes { codes, scales, zero_points } = codes;
        QuantizedTensor { scheme, out_features, in_features, codes, scales, zero_points, nested: None, outliers: None }
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
        if weights.is_empty() {
            return;
        }
        let group_size = self.scheme.granularity.group_size(self.in_features);
        let rows = weights.chunks_exact_mut(self.in_features).zip(self.codes.chunks_exact(self.in_features));
        for (out_feature, (row, codes)) in rows.enumerate() {
            for (group, (row, codes)) in row.chunks_mut(group_size).zip(codes.chunks(group_size)).enumerate() {
                let params = self.params(out_feature, group);
                for (w, &code) in row.iter_mut().zip(codes) {
                    *w = self.scheme.decode(code, params);
                }
            }
            if let Some(outliers) = &self.outliers {
                for (&in_feature, &w) in outliers.in_features.iter().zip(outliers.weights.row(out_feature)) {
                    row[in_feature] = w;
                }
            }
        }
    }
}
