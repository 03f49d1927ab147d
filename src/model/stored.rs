use crate::onnx::Planes;
use crate::onnx::bnb4::NESTED_BLOCK;
use crate::quant::{Granularity, Scheme};
use crate::tensor::DType;

/// What a planner asks for one weight of the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightForm {
    /// Kept as it is, stored with this element type; a Cast to the activation type follows where they differ.
    Dense(DType),
    /// Quantized; shape of the weight is `[out_features, in_features]`.
    Quantized(Scheme),
    /// Quantized but for so many input features, which stay f16.
    Outliers { scheme: Scheme, outliers: usize },
}

/// How the artifact stores one weight of the checkpoint: the list of these, made while the graph is written, is all
/// that export needs to fill the external data file, one weight at a time and in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWeight {
    /// Name in the checkpoint, `model.layers.7.mlp.down_proj.weight`.
    pub weight: String,
    /// Shape in the checkpoint; `[out_features, in_features]` for linears and the embedding.
    pub shape: Vec<usize>,
    pub form: StoredForm,
}

/// Names are those of the graph's initializers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredForm {
    Dense {
        initializer: String,
        dtype: DType,
        order: Order,
    },
    Quantized {
        scheme: Scheme,
        codes: StoredCodes,
        scales: StoredScales,
        /// Of the type that a runtime holds codes in, laid out like the scales.
        zero_points: Option<String>,
        outliers: Option<StoredOutliers>,
    },
}

/// Axis order of a dense matrix in the artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As in the checkpoint.
    OutIn,
    /// Transposed, as the right operand of MatMul.
    InOut,
}

/// Where the codes of a quantized matrix lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredCodes {
    /// Standard DequantizeLinear on axis 0: codes `[in_features, out_features]`, scales `[groups, out_features]` (or
    /// `[out_features]` per channel), sub-byte codes packed along the last axis, low bits first.
    DequantizeLinear(String),
    /// The same with 3 bits in cells of 4, and 5 and 6 in cells of 8: a symmetric code is its number, an asymmetric one and its zero point
    /// are as they are.
    Cells(String),
    /// The same of codes that are put together from two planes when a session is made ([`Planes`]).
    Planes { low: String, high: String },
    /// MatMulNBits and GatherBlockQuantized: unsigned codes `[rows, blocks, block_size·bits/8]` in cells of 2, 4 or 8 bits, low
    /// bits first, the last block padded with the zero point; scales `[rows, blocks]`; a symmetric code is stored plus `2^(bits−1)` of
    /// its cell. The weight's rows begin at `first_row`: several weights may share the initializer.
    MatMulNBits { name: String, block_size: usize, first_row: usize },
    /// Codes of a codebook in the checkpoint's order, the first of each pair in the high bits; scales `[out_features · groups]`.
    MatMulBnb4(String),
}

/// Where the scales of a quantized matrix lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredScales {
    /// Numbers of their own. f16 holds them all; a runtime may want them wider.
    Plain { name: String, dtype: DType },
    /// uint8 codes in the order of `[out_features, groups]`, an f32 for each 256 of them, and an f32 added to all.
    Nested { codes: String, absmax: String, offset: String },
}

/// Input features that are not quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutliers {
    pub count: usize,
    /// int32 `[count]`, ascending.
    pub in_features: String,
    /// f16 `[count, out_features]`
    pub weights: String,
}

/// Scales of linears and outliers are stored in 16 bits whatever the activations are; a Cast that is folded at load widens them.
pub(super) const STORED_FLOAT: DType = DType::F16;
/// Weights that share a scale in memory where there is one for each output feature: MatMulNBits wants blocks, so ONNX Runtime repeats it
/// when it fuses.
pub(super) const CHANNEL_BLOCK: usize = 32;

impl StoredWeight {
    /// Number of weights.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bits that the weight takes in the artifact: codes, scales, zero points and outliers; alignment, and the few constants
    /// that all weights share, excluded.
    pub fn stored_bits(&self) -> usize {
        let StoredForm::Quantized { scheme, codes, scales, zero_points, outliers } = &self.form else {
            return self.dense_bits(None);
        };
        let (out_features, in_features) = (self.shape[0], self.shape[1]);
        let bits = usize::from(scheme.format.bits());
        let (groups, row_bits) = match codes {
            StoredCodes::MatMulNBits { block_size, .. } => {
                let blocks = in_features.div_ceil(*block_size);
                (blocks, blocks * block_size * scheme.format.code_dtype().bits())
            }
            StoredCodes::Cells(_) => (scheme.granularity.groups(in_features), in_features * scheme.format.code_dtype().bits()),
            _ => (scheme.granularity.groups(in_features), in_features * bits),
        };
        let scale_bits = match scales {
            StoredScales::Plain { dtype, .. } => out_features * groups * dtype.bits(),
            StoredScales::Nested { .. } => out_features * groups * 8 + (out_features * groups).div_ceil(NESTED_BLOCK) * 32 + 32,
        };
        let zero_point_bits = if zero_points.is_some() { out_features * groups * scheme.format.code_dtype().bits() } else { 0 };
        let outlier_bits = outliers.as_ref().map_or(0, |outliers| outliers.bits(out_features, STORED_FLOAT));
        out_features * row_bits + scale_bits + zero_point_bits + outlier_bits
    }

    /// Bits that a runtime with activations of type `activation` holds once it has loaded the weight: codes of odd widths at
    /// the next of 2, 4 and 8 bits, everything that is not a code in the activation type, a scale per channel repeated for each
    /// 32 weights.
    pub fn memory_bits(&self, activation: DType) -> usize {
        let StoredForm::Quantized { scheme, codes, zero_points, outliers, .. } = &self.form else {
            return self.dense_bits(Some(activation));
        };
        let (out_features, in_features) = (self.shape[0], self.shape[1]);
        let group_size = match (codes, scheme.granularity) {
            (StoredCodes::DequantizeLinear(_) | StoredCodes::Cells(_) | StoredCodes::Planes { .. }, Granularity::PerChannel) => {
                CHANNEL_BLOCK
            }
            (StoredCodes::MatMulNBits { block_size, .. }, _) => *block_size,
            _ => scheme.granularity.group_size(in_features),
        };
        let (groups, code) = (in_features.div_ceil(group_size), scheme.format.code_dtype().bits());
        let zero_point = if zero_points.is_some() { code } else { 0 };
        let outlier_bits = outliers.as_ref().map_or(0, |outliers| outliers.bits(out_features, activation));
        out_features * groups * (group_size * code + activation.bits() + zero_point) + outlier_bits
    }

    fn dense_bits(&self, activation: Option<DType>) -> usize {
        let stored = match &self.form {
            StoredForm::Dense { dtype, .. } => *dtype,
            StoredForm::Quantized { .. } => unreachable!("called for dense weights"),
        };
        self.elements() * activation.unwrap_or(stored).bits()
    }

    /// Names of all its initializers.
    pub fn initializers(&self) -> impl Iterator<Item = &str> {
        let mut names = Vec::new();
        match &self.form {
            StoredForm::Dense { initializer, .. } => names.push(initializer.as_str()),
            StoredForm::Quantized { codes, scales, zero_points, outliers, .. } => {
                names.extend(codes.initializers());
                match scales {
                    StoredScales::Plain { name, .. } => names.push(name),
                    StoredScales::Nested { codes, absmax, offset } => names.extend([codes.as_str(), absmax, offset]),
                }
                names.extend(zero_points.as_deref());
                names.extend(outliers.iter().flat_map(|outliers| [outliers.in_features.as_str(), outliers.weights.as_str()]));
            }
        }
        names.into_iter()
    }

    /// How the codes lie in two planes, where they do.
    pub fn planes(&self) -> Option<Planes> {
        let StoredForm::Quantized { scheme, codes: StoredCodes::Planes { .. }, .. } = &self.form else { return None };
        let &[out_features, in_features] = self.shape.as_slice() else { return None };
        Some(planes_of(scheme, [out_features, in_features]))
    }

    /// Whether this is one of a decoder layer's seven linears.
    pub fn is_decoder_linear(&self) -> bool {
        self.shape.len() == 2 && self.weight.starts_with("model.layers.")
    }
}

impl StoredCodes {
    /// Names of the initializers, the one that stands for the weight first.
    pub fn initializers(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            StoredCodes::DequantizeLinear(name)
            | StoredCodes::Cells(name)
            | StoredCodes::MatMulNBits { name, .. }
            | StoredCodes::MatMulBnb4(name) => (name, None),
            StoredCodes::Planes { low, high } => (low, Some(high)),
        };
        std::iter::once(first).chain(second).map(String::as_str)
    }
}

impl StoredOutliers {
    fn bits(&self, out_features: usize, weight: DType) -> usize {
        self.count * (DType::I32.bits() + out_features * weight.bits())
    }
}

/// The planes of a weight `[out_features, in_features]` of an odd width.
pub(super) fn planes_of(scheme: &Scheme, [out_features, in_features]: [usize; 2]) -> Planes {
    let (bits, signed) = (usize::from(scheme.format.bits()), !scheme.format.has_zero_points());
    Planes { bits, in_features, out_features, signed }
}
