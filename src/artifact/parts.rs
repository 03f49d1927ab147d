//! A quantized weight as named tensors, in logical order, one code a byte: how finished layers and quantized checkpoints hold it.

use ndarray::Array2;

use crate::checkpoint::Numbers;
use crate::quant::{Codes, NestedScales, Outliers, QuantizedTensor, Scheme};

/// Ending of the tensor of codes: the one that every quantized weight has.
pub const CODES: &str = ".codes";

/// A named tensor: shape and numbers.
pub type Part = (String, Vec<usize>, Numbers);

/// Gives a tensor by its name: shape and numbers.
pub type Take<'a> = dyn FnMut(&str) -> Option<(Vec<usize>, Numbers)> + 'a;

/// The tensors of weight `name`, the codes first.
pub fn of(name: &str, tensor: &QuantizedTensor) -> Vec<Part> {
    let (rows, columns, groups) = (tensor.out_features, tensor.in_features, tensor.groups());
    let mut parts = Vec::new();
    let mut put = |part: &str, shape: &[usize], numbers| parts.push((format!("{name}{part}"), shape.to_vec(), numbers));
    put(CODES, &[rows, columns], Numbers::U8(tensor.codes.clone()));
    put(".scales", &[rows, groups], Numbers::F32(tensor.scales.clone()));
    if let Some(points) = &tensor.zero_points {
        put(".zero_points", &[rows, groups], Numbers::U8(points.clone()));
    }
    if let Some(NestedScales { codes, absmax, offset }) = &tensor.nested {
        put(".nested.codes", &[codes.len()], Numbers::U8(codes.clone()));
        put(".nested.absmax", &[absmax.len()], Numbers::F32(absmax.clone()));
        put(".nested.offset", &[1], Numbers::F32(vec![*offset]));
    }
    if let Some(Outliers { in_features, weights }) = &tensor.outliers {
        let ids = in_features.iter().map(|&feature| feature as u32).collect();
        put(".outliers.in_features", &[in_features.len()], Numbers::U32(ids));
        put(".outliers.weights", &[rows, in_features.len()], Numbers::F32(weights.iter().copied().collect()));
    }
    parts
}

/// Puts the weight `name` together again; `take` gives a tensor by its name. `None` where one is missing or of another kind.
pub fn read(name: &str, scheme: Scheme, take: &mut Take<'_>) -> Option<QuantizedTensor> {
    let mut take = |part: &str| take(&format!("{name}{part}"));
    let (shape, codes) = bytes(take(CODES)?)?;
    let &[out_features, in_features] = shape.as_slice() else { return None };
    let (_, scales) = floats(take(".scales")?)?;
    let zero_points = take(".zero_points").and_then(bytes).map(|(_, points)| points);
    let mut tensor = match take(".nested.codes").and_then(bytes) {
        None => QuantizedTensor::new(scheme, out_features, in_features, Codes { codes, scales, zero_points }),
        Some((_, nested)) => {
            let (_, absmax) = floats(take(".nested.absmax")?)?;
            let offset = *floats(take(".nested.offset")?)?.1.first()?;
            let nested = NestedScales { codes: nested, absmax, offset };
            QuantizedTensor::from_nested(scheme, out_features, in_features, codes, nested)
        }
    };
    if let Some((shape, weights)) = take(".outliers.weights").and_then(floats) {
        let (_, Numbers::U32(ids)) = take(".outliers.in_features")? else { return None };
        let weights = Array2::from_shape_vec((*shape.first()?, *shape.get(1)?), weights).ok()?;
        tensor.outliers = Some(Outliers { in_features: ids.iter().map(|&id| id as usize).collect(), weights });
    }
    Some(tensor)
}

fn bytes((shape, numbers): (Vec<usize>, Numbers)) -> Option<(Vec<usize>, Vec<u8>)> {
    match numbers {
        Numbers::U8(numbers) => Some((shape, numbers)),
        _ => None,
    }
}

fn floats((shape, numbers): (Vec<usize>, Numbers)) -> Option<(Vec<usize>, Vec<f32>)> {
    match numbers {
        Numbers::F32(numbers) => Some((shape, numbers)),
        _ => None,
    }
}
