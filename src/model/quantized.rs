//! How a quantized matrix lies in the artifact, and the product with it.

use super::module::{Module, Table};
use super::options::GraphForm;
use super::stored::{CHANNEL_BLOCK, STORED_FLOAT, StoredCodes, StoredForm, StoredOutliers, StoredScales, planes_of};
use crate::onnx::bnb4::NESTED_BLOCK;
use crate::onnx::{Bnb4, Bnb4Levels, NBits, NestedOperand, Planes, QuantizedOperand, Value};
use crate::quant::{Codebook, Format, Granularity, NestedScales, ScaleStorage, Scheme};
use crate::tensor::DType;

/// Names of a MatMulNBits weight's initializers.
struct StoredNBits {
    name: String,
    block_size: usize,
    scales: StoredScales,
    zero_points: Option<String>,
}

impl StoredNBits {
    fn codes(&self, first_row: usize) -> StoredCodes {
        StoredCodes::MatMulNBits { name: self.name.clone(), block_size: self.block_size, first_row }
    }
}

impl Module<'_> {
    /// `x Wᵀ` with a quantized `W`, `shape` `[out_features, in_features]`, of which `outliers` input features are not.
    ///
    /// Integers are standard DequantizeLinear before MatMul, put together from planes at odd widths, and ONNX Runtime makes
    /// MatMulNBits of them; for codebooks there is no standard operator, so they are MatMulBnb4.
    #[track_caller]
    pub fn quantized(&self, x: Value, shape: [usize; 2], scheme: Scheme, outliers: usize) -> Value {
        let (y, codes, scales, zero_points) = match scheme.format {
            Format::Int { .. } => match self.graph_form() {
                GraphForm::MatMulNBits => {
                    let (y, stored) = self.n_bits(x, shape, &scheme);
                    (y, stored.codes(0), stored.scales, stored.zero_points)
                }
                GraphForm::QuantizeDequantize | GraphForm::Portable => self.affine(x, shape, &scheme),
            },
            Format::Codebook(_) if self.graph_form() == GraphForm::Portable => {
                let y = self.refuse("linear", "format", "integers in the portable form: ONNX has no codebooks", "a codebook");
                return y;
            }
            Format::Codebook(codebook) => self.codebook(x, shape, &scheme, codebook),
        };
        let (y, outliers) = match outliers {
            0 => (y, None),
            count => {
                let (more, outliers) = self.outliers(x, shape, count);
                (self.op().add(y, more), Some(outliers))
            }
        };
        let form = StoredForm::Quantized { scheme, codes, scales, zero_points, outliers };
        self.store(self.initializer("weight"), &shape, form);
        y
    }

    #[track_caller]
    fn affine(&self, x: Value, shape: [usize; 2], scheme: &Scheme) -> (Value, StoredCodes, StoredScales, Option<String>) {
        let [out_features, in_features] = shape;
        let scales_shape = match scheme.granularity {
            Granularity::PerChannel => vec![out_features],
            Granularity::PerGroup(size) => vec![in_features.div_ceil(size.max(1)), out_features],
        };
        self.refuse_affine(shape, scheme);
        let (codes, stored_codes) = self.integer_codes(shape, scheme);
        let names = ["weight.scales", "weight.zero_points"].map(|name| self.initializer(name));
        let [scales_name, zero_points_name] = names;
        let scales = self.declare(&scales_name, STORED_FLOAT, &scales_shape);
        let dtype = scheme.format.code_dtype();
        let zero_points = scheme.format.has_zero_points().then(|| self.declare(&zero_points_name, dtype, &scales_shape));
        let scales = self.op().cast(scales, self.activation());
        let block_size = match scheme.granularity {
            Granularity::PerChannel => None,
            Granularity::PerGroup(size) => Some(size),
        };
        let w = self.op().dequantize_linear(QuantizedOperand { codes, scales, zero_points }, block_size);
        (
            self.op().matmul(x, w),
            stored_codes,
            StoredScales::Plain { name: scales_name, dtype: STORED_FLOAT },
            zero_points.map(|_| zero_points_name),
        )
    }

    /// One product with the weights of several linears, whose rows follow each other.
    #[track_caller]
    pub fn fused(&self, name: &str, parts: &[(&str, usize)], x: Value, scheme: Scheme) -> Option<Value> {
        let Format::Int { .. } = scheme.format else { return None };
        let (m, in_features) = (self.child(name), self.op().last_dim(x));
        let (y, stored) = m.n_bits(x, [parts.iter().map(|(_, rows)| rows).sum(), in_features], &scheme);
        let mut first_row = 0;
        for (part, out_features) in parts {
            let form = StoredForm::Quantized {
                scheme,
                codes: stored.codes(first_row),
                scales: stored.scales.clone(),
                zero_points: stored.zero_points.clone(),
                outliers: None,
            };
            let shape = [*out_features, in_features];
            self.store(self.child(part).initializer("weight"), &shape, form);
            first_row += out_features;
        }
        Some(y)
    }

    /// The product as MatMulNBits has it, for runtimes that fuse nothing. A scale for each output feature is repeated for each block:
    /// the operator knows no wider ones.
    #[track_caller]
    fn n_bits(&self, x: Value, [out_features, in_features]: [usize; 2], scheme: &Scheme) -> (Value, StoredNBits) {
        if scheme.scale_storage == ScaleStorage::Nested {
            self.refuse("linear", "double quantization", "of a codebook's scales", "of an integer format's");
        }
        self.refuse_group_size(scheme);
        let block_size = match scheme.granularity {
            // A row that is one block is that whichever way it is called.
            Granularity::PerChannel if in_features.is_power_of_two() && (16..=256).contains(&in_features) => in_features,
            Granularity::PerChannel => CHANNEL_BLOCK,
            Granularity::PerGroup(size) => size,
        };
        let n = NBits { bits: scheme.format.code_dtype().bits(), block_size, in_features, out_features };
        let [name, scales_name, points_name] =
            ["weight", "weight.scales", "weight.zero_points"].map(|name| self.initializer(name));
        let codes = self.declare(&name, DType::U8, &n.packed_shape());
        let scales = self.declare(&scales_name, self.activation(), &[out_features, n.blocks()]);
        let has_points = scheme.format.has_zero_points();
        let zero_points = has_points.then(|| self.declare(&points_name, DType::U8, &n.zero_points_shape()));
        let y = self.op().matmul_n_bits(x, QuantizedOperand { codes, scales, zero_points }, n);
        let scales = StoredScales::Plain { name: scales_name, dtype: self.activation() };
        (y, StoredNBits { name, block_size, scales, zero_points: has_points.then_some(points_name) })
    }

    /// What ONNX Runtime would not fuse, or fuse wrongly.
    #[track_caller]
    fn refuse_affine(&self, [out_features, _]: [usize; 2], scheme: &Scheme) {
        if scheme.scale_storage == ScaleStorage::Nested {
            self.refuse("linear", "double quantization", "of a codebook's scales", "of an integer format's");
        }
        if scheme.format.bits() == 2 && !out_features.is_multiple_of(4) {
            // ONNX Runtime 1.31 and 1.32 fuse such weights to wrong numbers without a word.
            self.refuse("linear", "out_features", "a multiple of 4 with 2-bit codes", &out_features.to_string());
        }
        self.refuse_group_size(scheme);
    }

    #[track_caller]
    fn refuse_group_size(&self, scheme: &Scheme) {
        if let Granularity::PerGroup(size) = scheme.granularity
            && !(size.is_power_of_two() && (16..=256).contains(&size))
        {
            self.refuse("linear", "group_size", "a power of two from 16 to 256", &size.to_string());
        }
    }

    /// Codes `[in_features, out_features]` of the element type that DequantizeLinear takes.
    #[track_caller]
    fn integer_codes(&self, shape: [usize; 2], scheme: &Scheme) -> (Value, StoredCodes) {
        let [out_features, in_features] = shape;
        let is_odd = Planes::hold(scheme.format.bits());
        if !is_odd || self.graph_form() == GraphForm::Portable {
            let name = self.initializer("weight");
            let codes = self.declare(&name, scheme.format.code_dtype(), &[in_features, out_features]);
            return (codes, if is_odd { StoredCodes::Cells(name) } else { StoredCodes::DequantizeLinear(name) });
        }
        let planes = planes_of(scheme, shape);
        let [low, high] = ["weight.low", "weight.high"].map(|name| self.initializer(name));
        let [low_shape, high_shape] = planes.shapes();
        let low_plane = self.declare(&low, DType::U8, &low_shape);
        let high_plane = self.declare(&high, DType::U8, &high_shape);
        (self.op().from_planes(low_plane, high_plane, planes), StoredCodes::Planes { low, high })
    }

    #[track_caller]
    fn codebook(
        &self,
        x: Value,
        [out_features, in_features]: [usize; 2],
        scheme: &Scheme,
        codebook: Codebook,
    ) -> (Value, StoredCodes, StoredScales, Option<String>) {
        let block_size = scheme.granularity.group_size(in_features);
        let levels = match codebook {
            Codebook::Nf4 => Bnb4Levels::Nf4,
            Codebook::Fp4 => Bnb4Levels::Fp4,
        };
        let w = Bnb4 { in_features, out_features, block_size, levels };
        let codes_name = self.initializer("weight");
        self.refuse_codebook(w, scheme);
        let codes = self.declare(&codes_name, DType::U8, &[w.packed_bytes()]);
        let (scales, stored) = self.block_scales(w.blocks(), scheme.scale_storage);
        let scales = self.op().cast(scales, self.activation());
        (self.op().matmul_bnb4(x, codes, scales, w), StoredCodes::MatMulBnb4(codes_name), stored, None)
    }

    /// Blocks run over the flattened weight, so they must end where a row ends.
    #[track_caller]
    fn refuse_codebook(&self, w: Bnb4, scheme: &Scheme) {
        if scheme.granularity == Granularity::PerChannel {
            self.refuse("linear", "granularity", "groups with a codebook", "one scale for each output feature");
        }
        self.refuse_group_size(scheme);
        if !w.in_features.is_multiple_of(w.block_size) {
            let expected = format!("a divisor of in_features {} with a codebook", w.in_features);
            self.refuse("linear", "group_size", &expected, &w.block_size.to_string());
        }
    }

    /// The scales `[blocks]` of a codebook's blocks, f16 or f32.
    #[track_caller]
    fn block_scales(&self, blocks: usize, storage: ScaleStorage) -> (Value, StoredScales) {
        let scales = self.initializer("weight.scales");
        if storage == ScaleStorage::F16 {
            return (self.declare(&scales, STORED_FLOAT, &[blocks]), StoredScales::Plain { name: scales, dtype: STORED_FLOAT });
        }
        let [absmax, offset] = ["weight.scales.absmax", "weight.scales.offset"].map(|name| self.initializer(name));
        let nested = NestedOperand {
            codes: self.declare(&scales, DType::U8, &[blocks]),
            absmax: self.declare(&absmax, DType::F32, &[blocks.div_ceil(NESTED_BLOCK), 1]),
            offset: self.declare(&offset, DType::F32, &[]),
            map: self.op().graph().shared_table("dynamic_map", NestedScales::dynamic_map()),
        };
        (self.op().nested_scales(nested, blocks), StoredScales::Nested { codes: scales, absmax, offset })
    }

    /// The product of the `count` input features that are not quantized.
    #[track_caller]
    fn outliers(&self, x: Value, [out_features, in_features]: [usize; 2], count: usize) -> (Value, StoredOutliers) {
        let stored = StoredOutliers {
            count,
            in_features: self.initializer("weight.outliers.in_features"),
            weights: self.initializer("weight.outliers"),
        };
        if count > in_features {
            let expected = format!("at most in_features {in_features}");
            return (self.refuse("linear", "outliers", &expected, &count.to_string()), stored);
        }
        let op = self.op();
        let features = self.declare(&stored.in_features, DType::I32, &[count]);
        let w = self.declare(&stored.weights, STORED_FLOAT, &[count, out_features]);
        (op.matmul(op.gather_last(x, features), op.cast(w, self.activation())), stored)
    }

    /// A quantized table as MatMulNBits and GatherBlockQuantized share it.
    #[track_caller]
    pub fn packed_table(&self, shape: [usize; 2], scheme: Scheme) -> Table {
        let [out_features, in_features] = shape;
        let refused = |name, expected: &str, got: &str| Table::Dense(self.refuse("table", name, expected, got));
        match scheme.format {
            Format::Codebook(_) => return refused("format", "int8 or int4 for the embedding table", "a codebook"),
            Format::Int { symmetric: false, .. } => {
                return refused("format", "symmetric for the embedding table", "asymmetric");
            }
            Format::Int { bits, .. } if !matches!(bits, 2 | 4 | 8) => {
                return refused("bits", "8 or 4 for the embedding table, whose rows are looked up packed", &bits.to_string());
            }
            Format::Int { .. } => {}
        }
        let block_size = scheme.granularity.group_size(in_features);
        let n = NBits { bits: usize::from(scheme.format.bits()), block_size, in_features, out_features };
        if !in_features.is_multiple_of(block_size) {
            return refused("group_size", "a divisor of hidden_size for the embedding table", &block_size.to_string());
        }
        let [codes_name, scales_name] = ["weight", "weight.scales"].map(|name| self.initializer(name));
        let codes = self.declare(&codes_name, DType::U8, &n.packed_shape());
        // In the activation type, not behind a Cast: OpenVINO looks packed rows up with constant scales only.
        let dtype = self.activation();
        let scales = self.declare(&scales_name, dtype, &[out_features, n.blocks(), 1]);
        let form = StoredForm::Quantized {
            scheme,
            codes: StoredCodes::MatMulNBits { name: codes_name.clone(), block_size, first_row: 0 },
            scales: StoredScales::Plain { name: scales_name, dtype },
            zero_points: None,
            outliers: None,
        };
        self.store(codes_name, &shape, form);
        Table::Packed { codes, scales, shape: n }
    }
}
