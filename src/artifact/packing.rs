//! A quantized weight's numbers into the artifact's data file, and back.

use std::borrow::Cow;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::Array2;
use xxhash_rust::xxh3::xxh3_128;

use crate::artifact::ArtifactError;
use crate::model::{StoredCodes, StoredForm, StoredOutliers, StoredScales, StoredWeight};
use crate::onnx::DataFile;
use crate::onnx::bnb4::{pack_high_first, unpack_high_first};
use crate::onnx::pack::{self, Blocks};
use crate::quant::{Codes, Format, NestedScales, Outliers, QuantizedTensor, Scheme};
use crate::tensor::{DType, transpose_bytes};

/// Writes a weight that is already quantized, whoever did it, as `stored` says; returns its digest.
///
/// # Errors
/// `quantized` is not what the plan promised (another scheme, shape or number of outliers), or the file cannot be written.
pub fn write(quantized: &QuantizedTensor, stored: &StoredWeight, data: &DataFile<'_>) -> Result<String, ArtifactError> {
    check(quantized, stored)?;
    let StoredForm::Quantized { scheme, codes, scales, zero_points, outliers } = &stored.form else {
        unreachable!("checked above");
    };
    write_codes(quantized, codes, stored, data)?;
    write_scales(quantized, scales, codes, stored, data)?;
    if let (Some(initializer), Some(points)) = (zero_points, &quantized.zero_points) {
        let (out_features, groups, dtype) = (quantized.out_features, quantized.groups(), scheme.format.code_dtype());
        match codes {
            StoredCodes::MatMulNBits { block_size, first_row, .. } => {
                let blocks = blocks_of(stored, scheme, *block_size);
                let packed = pack::pack_zero_points(&by_block(points, groups, blocks), blocks);
                data.write_part(initializer, first_row * blocks.zero_point_row_bytes(), &packed)?;
            }
            _ => data.write(initializer, &pack::pack_dequantize_linear(points, out_features, groups, dtype))?,
        }
    }
    if let (Some(names), Some(outliers)) = (outliers, &quantized.outliers) {
        write_outliers(outliers, names, data)?;
    }
    Ok(digest(quantized))
}

fn check(quantized: &QuantizedTensor, stored: &StoredWeight) -> Result<(), ArtifactError> {
    let mismatch = |problem: String| Err(ArtifactError::Mismatch { what: format!("weight {}", stored.weight), problem });
    let shape = [quantized.out_features, quantized.in_features];
    if stored.shape != shape {
        return mismatch(format!("the plan has the shape {:?}, the codes have {shape:?}", stored.shape));
    }
    let StoredForm::Quantized { scheme, outliers, .. } = &stored.form else {
        return mismatch("the plan keeps it dense, and it was quantized".to_owned());
    };
    // How a scale was found is of no meaning for where it lies.
    let planned = Scheme { scale_rule: quantized.scheme.scale_rule, ..*scheme };
    let got = quantized.scheme;
    if planned != got {
        return mismatch(format!("the plan says {scheme:?}, it was quantized as {got:?}"));
    }
    let [planned, got] = [
        outliers.as_ref().map(|outliers| outliers.count),
        quantized.outliers.as_ref().map(|outliers| outliers.in_features.len()),
    ];
    match planned == got {
        true => Ok(()),
        false => mismatch(format!("{} outliers were planned, there are {}", planned.unwrap_or(0), got.unwrap_or(0))),
    }
}

fn write_codes(
    quantized: &QuantizedTensor,
    names: &StoredCodes,
    stored: &StoredWeight,
    data: &DataFile<'_>,
) -> Result<(), ArtifactError> {
    let QuantizedTensor { codes, out_features, in_features, .. } = quantized;
    match names {
        StoredCodes::DequantizeLinear(name) => {
            let dtype = quantized.scheme.format.code_dtype();
            data.write(name, &pack::pack_dequantize_linear(codes, *out_features, *in_features, dtype))?;
        }
        StoredCodes::Cells(name) => {
            let (cells, dtype) = (in_cells(codes, &quantized.scheme), quantized.scheme.format.code_dtype());
            data.write(name, &pack::pack_dequantize_linear(&cells, *out_features, *in_features, dtype))?;
        }
        StoredCodes::Planes { low, high } => {
            let planes = stored.planes().expect("the codes lie in planes");
            let [low_bytes, high_bytes] = planes.pack(codes);
            data.write(low, &low_bytes)?;
            data.write(high, &high_bytes)?;
        }
        StoredCodes::MatMulNBits { name, block_size, first_row } => {
            let blocks = blocks_of(stored, &quantized.scheme, *block_size);
            let points = quantized.zero_points.as_deref().map(|points| by_block(points, quantized.groups(), blocks));
            let packed = pack::pack_matmul_nbits(&in_cells(codes, &quantized.scheme), points.as_deref(), blocks);
            data.write_part(name, first_row * blocks.row_bytes(), &packed)?;
        }
        StoredCodes::MatMulBnb4(name) => data.write(name, &pack_high_first(codes))?,
    }
    Ok(())
}

fn write_scales(
    quantized: &QuantizedTensor,
    names: &StoredScales,
    codes: &StoredCodes,
    stored: &StoredWeight,
    data: &DataFile<'_>,
) -> Result<(), ArtifactError> {
    match (names, &quantized.nested) {
        (StoredScales::Nested { codes, absmax, offset }, Some(nested)) => {
            data.write(codes, &nested.codes)?;
            data.write(absmax, &f32_bytes(&nested.absmax))?;
            data.write(offset, &nested.offset.to_le_bytes())?;
        }
        (StoredScales::Nested { .. }, None) => unreachable!("a tensor whose scheme nests its scales has nested scales"),
        (StoredScales::Plain { name, dtype }, _) => {
            let (out_features, groups, element) = (quantized.out_features, quantized.groups(), dtype.bytes_of(1));
            if let StoredCodes::MatMulNBits { block_size, first_row, .. } = codes {
                let blocks = blocks_of(stored, &quantized.scheme, *block_size);
                let scales = plain_bytes(&by_block(&quantized.scales, groups, blocks), *dtype);
                data.write_part(name, first_row * blocks.per_row() * element, &scales)?;
                return Ok(());
            }
            let scales = plain_bytes(&quantized.scales, *dtype);
            data.write(name, &if by_group(codes) { transpose_bytes(scales, out_features, groups, element) } else { scales })?;
        }
    }
    Ok(())
}

/// `[count, out_features]`: as the right operand of MatMul.
fn write_outliers(outliers: &Outliers, names: &StoredOutliers, data: &DataFile<'_>) -> Result<(), ArtifactError> {
    let features: Vec<u8> = outliers.in_features.iter().flat_map(|&feature| (feature as i32).to_le_bytes()).collect();
    data.write(&names.in_features, &features)?;
    let weights: Vec<f32> = outliers.weights.t().iter().copied().collect();
    data.write(&names.weights, &f16_bytes(&weights))?;
    Ok(())
}

/// Inverse of [`write`]: the weight's numbers in logical order, from the bytes that `bytes` finds by an initializer's name.
///
/// # Errors
/// Those of `bytes`, and outliers that are no input features of the weight.
pub fn read<'a, E: From<ArtifactError>>(
    stored: &StoredWeight,
    bytes: &dyn Fn(&str) -> Result<&'a [u8], E>,
) -> Result<QuantizedTensor, E> {
    let StoredForm::Quantized { scheme, codes, scales, zero_points, outliers } = &stored.form else {
        unreachable!("called for quantized weights");
    };
    let &[out_features, in_features] = stored.shape.as_slice() else { unreachable!("quantized weights are matrices") };
    let (dtype, groups) = (scheme.format.code_dtype(), scheme.granularity.groups(in_features));
    let unpacked = match codes {
        StoredCodes::DequantizeLinear(name) => pack::unpack_dequantize_linear(bytes(name)?, out_features, in_features, dtype),
        StoredCodes::Planes { low, high } => stored.planes().expect("the codes lie in planes").unpack(bytes(low)?, bytes(high)?),
        StoredCodes::Cells(name) => {
            from_cells(pack::unpack_dequantize_linear(bytes(name)?, out_features, in_features, dtype), scheme)
        }
        StoredCodes::MatMulNBits { name, block_size, first_row } => {
            let blocks = blocks_of(stored, scheme, *block_size);
            let rows = rows_of(bytes(name)?, *first_row, out_features, blocks.row_bytes());
            from_cells(pack::unpack_matmul_nbits(rows, blocks), scheme)
        }
        StoredCodes::MatMulBnb4(name) => unpack_high_first(bytes(name)?),
    };
    let mut quantized = match scales {
        StoredScales::Nested { codes, absmax, offset } => {
            let nested =
                NestedScales { codes: bytes(codes)?.to_vec(), absmax: f32s(bytes(absmax)?), offset: f32s(bytes(offset)?)[0] };
            QuantizedTensor::from_nested(*scheme, out_features, in_features, unpacked, nested)
        }
        StoredScales::Plain { name, dtype: scale_dtype } => {
            let (scales, element) = (bytes(name)?, scale_dtype.bytes_of(1));
            let numbers = |bytes: &[u8]| if *scale_dtype == DType::F32 { f32s(bytes) } else { f16s(bytes) };
            let points = zero_points.as_ref().map(|name| bytes(name)).transpose()?;
            let (scales, zero_points) = match codes {
                StoredCodes::MatMulNBits { block_size, first_row, .. } => {
                    let blocks = blocks_of(stored, scheme, *block_size);
                    let scales = rows_of(scales, *first_row, out_features, blocks.per_row() * element);
                    let points = points.map(|points| {
                        let rows = rows_of(points, *first_row, out_features, blocks.zero_point_row_bytes());
                        by_own_group(&pack::unpack_zero_points(rows, blocks), groups, blocks)
                    });
                    (by_own_group(&numbers(scales), groups, blocks), points)
                }
                _ => {
                    let points = points.map(|points| pack::unpack_dequantize_linear(points, out_features, groups, dtype));
                    let scales = scales.to_vec();
                    let scales = if by_group(codes) { transpose_bytes(scales, groups, out_features, element) } else { scales };
                    (numbers(&scales), points)
                }
            };
            QuantizedTensor::new(*scheme, out_features, in_features, Codes { codes: unpacked, scales, zero_points })
        }
    };
    quantized.outliers = outliers.as_ref().map(|names| read_outliers(names, stored, bytes)).transpose()?;
    Ok(quantized)
}

fn read_outliers<'a, E: From<ArtifactError>>(
    names: &StoredOutliers,
    stored: &StoredWeight,
    bytes: &dyn Fn(&str) -> Result<&'a [u8], E>,
) -> Result<Outliers, E> {
    let (out_features, in_features) = (stored.shape[0], stored.shape[1]);
    let features = bytes(&names.in_features)?.as_chunks::<4>().0.iter().map(|&bytes| i32::from_le_bytes(bytes) as usize);
    let features: Vec<usize> = features.collect();
    let ascending = features.is_sorted_by(|a, b| a < b) && features.last().is_none_or(|&last| last < in_features);
    let mismatch = |what: &str, problem: String| ArtifactError::Mismatch { what: what.to_owned(), problem };
    if !ascending {
        return Err(mismatch(&names.in_features, format!("expected ascending input features below {in_features}")).into());
    }
    let weights = Array2::from_shape_vec((names.count, out_features), f16s(bytes(&names.weights)?))
        .map_err(|error| mismatch(&names.weights, error.to_string()))?;
    Ok(Outliers { in_features: features, weights: weights.t().as_standard_layout().into_owned() })
}

/// Digest of a quantized weight's numbers in logical order.
pub fn digest(quantized: &QuantizedTensor) -> String {
    let mut parts = vec![xxh3_128(&quantized.codes)];
    match &quantized.nested {
        None => parts.push(xxh3_128(&f16_bytes(&quantized.scales))),
        Some(nested) => {
            parts.extend([xxh3_128(&nested.codes), xxh3_128(&f32_bytes(&nested.absmax)), xxh3_128(&nested.offset.to_le_bytes())]);
        }
    }
    parts.push(xxh3_128(quantized.zero_points.as_deref().unwrap_or_default()));
    if let Some(outliers) = &quantized.outliers {
        let features: Vec<u8> = outliers.in_features.iter().flat_map(|&feature| (feature as u64).to_le_bytes()).collect();
        let weights: Vec<f32> = outliers.weights.iter().copied().collect();
        parts.extend([xxh3_128(&features), xxh3_128(&f16_bytes(&weights))]);
    }
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
    format!("{:032x}", xxh3_128(&bytes))
}

/// Whether scales and zero points lie as `[groups, out_features]`.
fn by_group(codes: &StoredCodes) -> bool {
    matches!(codes, StoredCodes::DequantizeLinear(_) | StoredCodes::Cells(_) | StoredCodes::Planes { .. })
}

/// How a weight lies as MatMulNBits has it.
fn blocks_of(stored: &StoredWeight, scheme: &Scheme, block_size: usize) -> Blocks {
    let &[out_features, in_features] = stored.shape.as_slice() else { unreachable!("quantized weights are matrices") };
    Blocks { out_features, in_features, block_size, bits: scheme.format.code_dtype().bits() }
}

/// A weight's own rows among those of the weights that share an initializer.
fn rows_of(bytes: &[u8], first_row: usize, rows: usize, row_bytes: usize) -> &[u8] {
    &bytes[first_row * row_bytes..][..rows * row_bytes]
}

/// What a group has, for each block of it: the only group of a row may be several blocks.
fn by_block<T: Copy>(values: &[T], groups: usize, blocks: Blocks) -> Vec<T> {
    let repeat = if groups == 1 { blocks.per_row() } else { 1 };
    values.iter().flat_map(|&value| std::iter::repeat_n(value, repeat)).collect()
}

/// Inverse of [`by_block`].
fn by_own_group<T: Copy>(values: &[T], groups: usize, blocks: Blocks) -> Vec<T> {
    let repeat = if groups == 1 { blocks.per_row() } else { 1 };
    values.iter().step_by(repeat.max(1)).copied().collect()
}

/// Codes in the cells that runtimes have: the middle of a symmetric format is the middle of its cell, an asymmetric one stays.
fn in_cells<'c>(codes: &'c [u8], scheme: &Scheme) -> Cow<'c, [u8]> {
    match shift_of(scheme) {
        0 => Cow::Borrowed(codes),
        shift => codes.iter().map(|code| code + shift).collect(),
    }
}

/// Inverse of [`in_cells`].
fn from_cells(mut cells: Vec<u8>, scheme: &Scheme) -> Vec<u8> {
    let shift = shift_of(scheme);
    cells.iter_mut().for_each(|cell| *cell = cell.wrapping_sub(shift));
    cells
}

fn shift_of(scheme: &Scheme) -> u8 {
    let Format::Int { bits, symmetric: true } = scheme.format else { return 0 };
    (1 << (scheme.format.code_dtype().bits() - 1)) - (1 << (bits - 1))
}

/// Numbers that f16 holds, as f32 where that is asked for.
fn plain_bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    if dtype == DType::F32 { f32_bytes(values) } else { f16_bytes(values) }
}

pub(super) fn f16_bytes(values: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

pub(super) fn f16s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect()
}

pub(super) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}
