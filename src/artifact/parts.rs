//! A quantized weight as named tensors, in logical order, one code a byte: how finished layers and quantized checkpoints hold it.

use half::f16;
use ndarray::Array2;

use crate::checkpoint::Numbers;
use crate::onnx::bnb4::NESTED_BLOCK;
use crate::quant::{Codes, NestedScales, Outliers, QuantizedTensor, ScaleStorage, Scheme};

/// Ending of the tensor of codes: the one that every quantized weight has.
pub const CODES: &str = ".codes";
const SCALES: &str = ".scales";
const ZERO_POINTS: &str = ".zero_points";
const NESTED_CODES: &str = ".nested.codes";
const NESTED_ABSMAX: &str = ".nested.absmax";
const NESTED_OFFSET: &str = ".nested.offset";
/// Ending of the tensor that says which input features are outliers.
pub const OUTLIERS: &str = ".outliers.in_features";
const OUTLIER_WEIGHTS: &str = ".outliers.weights";
/// Endings of all tensors that a quantized weight may have, in their order.
pub const PARTS: [&str; 8] = [CODES, SCALES, ZERO_POINTS, NESTED_CODES, NESTED_ABSMAX, NESTED_OFFSET, OUTLIERS, OUTLIER_WEIGHTS];

/// A named tensor: shape and numbers.
pub type Part = (String, Vec<usize>, Numbers);

/// Shape and numbers of a tensor.
pub type Numbered = (Vec<usize>, Numbers);

/// The tensors of weight `name`, the codes first.
pub fn of(name: &str, tensor: &QuantizedTensor) -> Vec<Part> {
    let (rows, columns, groups) = (tensor.out_features, tensor.in_features, tensor.groups());
    let mut parts = Vec::new();
    let mut put = |part: &str, shape: &[usize], numbers| parts.push((format!("{name}{part}"), shape.to_vec(), numbers));
    put(CODES, &[rows, columns], Numbers::U8(tensor.codes.clone()));
    put(SCALES, &[rows, groups], Numbers::F32(tensor.scales.clone()));
    if let Some(points) = &tensor.zero_points {
        put(ZERO_POINTS, &[rows, groups], Numbers::U8(points.clone()));
    }
    if let Some(NestedScales { codes, absmax, offset }) = &tensor.nested {
        put(NESTED_CODES, &[codes.len()], Numbers::U8(codes.clone()));
        put(NESTED_ABSMAX, &[absmax.len()], Numbers::F32(absmax.clone()));
        put(NESTED_OFFSET, &[1], Numbers::F32(vec![*offset]));
    }
    if let Some(Outliers { in_features, weights }) = &tensor.outliers {
        let ids = in_features.iter().map(|&feature| feature as u32).collect();
        put(OUTLIERS, &[in_features.len()], Numbers::U32(ids));
        put(OUTLIER_WEIGHTS, &[rows, in_features.len()], Numbers::F32(weights.iter().copied().collect()));
    }
    parts
}

/// Puts the weight `name` together again; `take` gives a tensor by its name.
///
/// `None` where a tensor is missing or of another kind, where shapes do not fit each other and the scheme, and where a number is none
/// that a rounding gives: a code beyond the format's bits, a scale that f16 does not hold, an outlier that is no input feature.
pub fn read(name: &str, scheme: Scheme, take: &mut dyn FnMut(&str) -> Option<Numbered>) -> Option<QuantizedTensor> {
    let mut take = |part: &str| take(&format!("{name}{part}"));
    let (shape, codes) = bytes(take(CODES)?)?;
    let &[out_features, in_features] = shape.as_slice() else { return None };
    let count = out_features.checked_mul(scheme.granularity.groups(in_features))?;
    let shape_of_scales = [out_features, count.checked_div(out_features)?];
    let scales = shaped(floats(take(SCALES)?)?, &shape_of_scales)?;
    let zero_points = match scheme.format.has_zero_points() {
        true => Some(shaped(bytes(take(ZERO_POINTS)?)?, &shape_of_scales)?),
        false => None,
    };
    let are_codes = |codes: &[u8]| codes.iter().all(|&code| u32::from(code) < 1 << scheme.format.bits());
    if !are_codes(&codes) || !zero_points.as_deref().is_none_or(are_codes) {
        return None;
    }
    let mut tensor = match scheme.scale_storage {
        ScaleStorage::F16 if are_f16(&scales) => {
            QuantizedTensor::new(scheme, out_features, in_features, Codes { codes, scales, zero_points })
        }
        ScaleStorage::F16 => return None,
        ScaleStorage::Nested => {
            let nested = nested(count, &mut take)?;
            let tensor = QuantizedTensor::from_nested(scheme, out_features, in_features, codes, nested);
            (tensor.scales == scales).then_some(tensor)?
        }
    };
    if let Some(features) = take(OUTLIERS) {
        tensor.outliers = Some(outliers(features, take(OUTLIER_WEIGHTS)?, [out_features, in_features])?);
    }
    Some(tensor)
}

/// Scales, `count` of them, in 8 bits.
fn nested(count: usize, take: &mut dyn FnMut(&str) -> Option<Numbered>) -> Option<NestedScales> {
    let codes = shaped(bytes(take(NESTED_CODES)?)?, &[count])?;
    let absmax = shaped(floats(take(NESTED_ABSMAX)?)?, &[count.div_ceil(NESTED_BLOCK)])?;
    let offset = shaped(floats(take(NESTED_OFFSET)?)?, &[1])?[0];
    let is_finite = offset.is_finite() && absmax.iter().all(|max| max.is_finite());
    is_finite.then_some(NestedScales { codes, absmax, offset })
}

/// Outliers of a weight of the shape `[out_features, in_features]`.
fn outliers((shape, ids): Numbered, weights: Numbered, [out_features, in_features]: [usize; 2]) -> Option<Outliers> {
    let Numbers::U32(ids) = ids else { return None };
    let ids: Vec<usize> = ids.into_iter().map(|id| id as usize).collect();
    let weights = shaped(floats(weights)?, &[out_features, ids.len()])?;
    let are_features =
        shape == [ids.len()] && ids.is_sorted_by(|a, b| a < b) && ids.last().is_none_or(|&last| last < in_features);
    if !are_features || !are_f16(&weights) {
        return None;
    }
    let weights = Array2::from_shape_vec((out_features, ids.len()), weights).ok()?;
    Some(Outliers { in_features: ids, weights })
}

/// Whether f16 holds each of them, and none is infinite or NaN.
fn are_f16(numbers: &[f32]) -> bool {
    numbers.iter().all(|&number| number.is_finite() && f16::from_f32(number).to_f32() == number)
}

/// The numbers of a tensor of this shape.
fn shaped<T>((got, numbers): (Vec<usize>, Vec<T>), shape: &[usize]) -> Option<Vec<T>> {
    (got == shape).then_some(numbers)
}

fn bytes((shape, numbers): Numbered) -> Option<(Vec<usize>, Vec<u8>)> {
    match numbers {
        Numbers::U8(numbers) => Some((shape, numbers)),
        _ => None,
    }
}

fn floats((shape, numbers): Numbered) -> Option<(Vec<usize>, Vec<f32>)> {
    match numbers {
        Numbers::F32(numbers) => Some((shape, numbers)),
        _ => None,
    }
}
