//! One weight's way from the checkpoint into a [`Sink`].
//!
//! A weight is worked on in chunks of rows, so that the f32 copy stays in the processor's cache and the memory in use is
//! the codes of one decoder layer, whatever the model's size.

use half::f16;
use ndarray::ArrayView2;
use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::prepared::{Prepared, Written};
use super::sink::Sink;
use crate::artifact::ArtifactError;
use crate::checkpoint::TensorView;
use crate::model::{Order, StoredForm, StoredWeight};
use crate::onnx::DataFile;
use crate::quant::{Codes, QuantError, QuantizedTensor, Rounding, Rtn, ScaleStorage, Scheme, squared_error};
use crate::tensor::{self, DType, transpose_bytes};

/// Elements of a chunk: 1 MiB of f32.
const CHUNK: usize = 1 << 18;
/// Elements that are transposed at a time: the largest linear of an 8B model, in one piece.
const BAND: usize = 1 << 26;

/// Rounds `view` to nearest as `stored` says, or leaves it as it is, and gives it to `sink`.
pub fn write<'c>(view: TensorView<'c>, stored: &StoredWeight, sink: &dyn Sink<'c>) -> Result<Written, ArtifactError> {
    match &stored.form {
        StoredForm::Dense { .. } => Ok(Written { relative_error: 0.0, digest: sink.dense(stored, view)? }),
        StoredForm::Quantized { scheme, .. } => {
            let (quantized, relative_error) =
                quantize(view, scheme, &Rtn).map_err(ArtifactError::at(|| format!("weight {}", stored.weight)))?;
            Ok(Written { relative_error, digest: sink.quantized(stored, &quantized)? })
        }
    }
}

/// Gives `sink` what was prepared before.
pub fn write_prepared(prepared: &Prepared, stored: &StoredWeight, sink: &dyn Sink<'_>) -> Result<Written, ArtifactError> {
    match prepared {
        Prepared::Quantized(tensor, found) => {
            Ok(Written { relative_error: found.relative_error, digest: sink.quantized(stored, tensor)? })
        }
        Prepared::Dense(_, values) => Ok(Written { relative_error: 0.0, digest: sink.changed(stored, values)? }),
    }
}

/// As [`write_dense`], from numbers in the checkpoint's order that are not the checkpoint's.
pub fn write_f32(values: &[f32], stored: &StoredWeight, data: &DataFile<'_>) -> Result<String, ArtifactError> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    write_dense(TensorView { dtype: DType::F32, shape: &stored.shape, bytes: &bytes }, stored, data)
}

/// Writes a weight that is not quantized as the graph has it; returns its digest.
///
/// # Panics
/// The graph has it quantized.
pub fn write_dense(view: TensorView<'_>, stored: &StoredWeight, data: &DataFile<'_>) -> Result<String, ArtifactError> {
    let StoredForm::Dense { initializer, dtype, order } = &stored.form else {
        unreachable!("weight {}: the graph has it quantized", stored.weight);
    };
    let written = match order {
        Order::OutIn => write_as_it_is(view, *dtype, initializer, data),
        Order::InOut => write_transposed(view, *dtype, BAND, initializer, data),
    };
    written.map_err(ArtifactError::at(|| format!("weight {}", stored.weight)))
}

fn write_as_it_is(view: TensorView<'_>, dtype: DType, initializer: &str, data: &DataFile<'_>) -> Result<String, ArtifactError> {
    let mut hasher = Xxh3::new();
    let mut offset = 0;
    // A batch of chunks is converted in parallel and written in order: the digest runs over the bytes in order.
    for batch in view.bytes.chunks(8 * CHUNK * view.dtype.bytes_of(1)) {
        let bytes = convert(batch, view.dtype, dtype, offset / dtype.bytes_of(1))?;
        hasher.update(&bytes);
        data.write_part(initializer, offset, &bytes)?;
        offset += bytes.len();
    }
    Ok(format!("{:032x}", hasher.digest128()))
}

/// Writes `[out_features, in_features]` as `[in_features, out_features]`, a band of output features at a time: an LM head is
/// too large to be held twice.
fn write_transposed(
    view: TensorView<'_>,
    dtype: DType,
    band: usize,
    initializer: &str,
    data: &DataFile<'_>,
) -> Result<String, ArtifactError> {
    let &[out_features, in_features] = view.shape else { unreachable!("only matrices are transposed") };
    let (element, mut hasher) = (dtype.bytes_of(1), Xxh3::new());
    let rows = (band / in_features).clamp(1, out_features);
    for (band, bytes) in view.bytes.chunks(rows * in_features * view.dtype.bytes_of(1)).enumerate() {
        let first = band * rows;
        let bytes = convert(bytes, view.dtype, dtype, first * in_features)?;
        hasher.update(&bytes);
        let height = bytes.len() / (in_features * element);
        let transposed = transpose_bytes(bytes, height, in_features, element);
        if height == out_features {
            data.write(initializer, &transposed)?;
            break;
        }
        for (i, line) in transposed.chunks(height * element).enumerate() {
            data.write_part(initializer, (i * out_features + first) * element, line)?;
        }
    }
    Ok(format!("{:032x}", hasher.digest128()))
}

/// `bytes` as elements of `to`; `first` is the index of the first one, for messages.
fn convert(bytes: &[u8], from: DType, to: DType, first: usize) -> Result<Vec<u8>, ArtifactError> {
    let mut converted = vec![0; bytes.len() / from.bytes_of(1) * to.bytes_of(1)];
    let pieces = bytes.par_chunks(CHUNK * from.bytes_of(1)).zip(converted.par_chunks_mut(CHUNK * to.bytes_of(1)));
    let fail = |error: tensor::convert::ConvertError, piece: usize| error.shifted(first + piece * CHUNK);
    pieces.enumerate().try_for_each(|(piece, (source, target))| {
        tensor::convert::convert(from, source, to, target).map_err(|error| fail(error, piece))
    })?;
    Ok(converted)
}

/// Rounds to nearest; the second value is the relative squared error.
fn quantize(
    view: TensorView<'_>,
    scheme: &Scheme,
    rounding: &(dyn Rounding + Sync),
) -> Result<(QuantizedTensor, f64), ArtifactError> {
    let (quantized, error, norm) = match scheme.scale_storage {
        ScaleStorage::F16 => in_chunks(view, scheme, rounding)?,
        ScaleStorage::Nested => in_one_piece(view, scheme, rounding)?,
    };
    refuse_lost_weights(&quantized, error, norm)?;
    Ok((quantized, if norm > 0.0 { error / norm } else { 0.0 }))
}

/// Scales that are quantized together need the whole weight at once.
fn in_one_piece(
    view: TensorView<'_>,
    scheme: &Scheme,
    rounding: &(dyn Rounding + Sync),
) -> Result<(QuantizedTensor, f64, f64), ArtifactError> {
    let &[out_features, in_features] = view.shape else { unreachable!("only matrices are planned as quantized") };
    let mut weights = vec![0f32; out_features * in_features];
    tensor::convert::decode(view.dtype, view.bytes, &mut weights)?;
    let w = ArrayView2::from_shape((out_features, in_features), &weights).expect("a whole matrix");
    let quantized = rounding.quantize(w, scheme, None)?.tensor;
    let (error, norm) = squared_error(&weights, &quantized);
    Ok((quantized, error, norm))
}

/// Rounds in chunks of whole rows.
fn in_chunks(
    view: TensorView<'_>,
    scheme: &Scheme,
    rounding: &(dyn Rounding + Sync),
) -> Result<(QuantizedTensor, f64, f64), ArtifactError> {
    let &[out_features, in_features] = view.shape else { unreachable!("only matrices are planned as quantized") };
    let groups = scheme.granularity.groups(in_features);
    let rows = (CHUNK / in_features).max(1);
    let row_bytes = in_features * view.dtype.bytes_of(1);
    let mut codes = vec![0u8; out_features * in_features];
    let mut scales = vec![0f32; out_features * groups];
    let mut zero_points = vec![0u8; if scheme.format.has_zero_points() { out_features * groups } else { 0 }];
    // Without zero points there is nothing to chunk, but the chunks below must still pair up.
    let zero_chunks: Vec<&mut [u8]> = match scheme.format.has_zero_points() {
        true => zero_points.chunks_mut(rows * groups).collect(),
        false => (0..out_features.div_ceil(rows)).map(|_| Default::default()).collect(),
    };
    let chunks = (view.bytes.par_chunks(rows * row_bytes), codes.par_chunks_mut(rows * in_features))
        .into_par_iter()
        .zip((scales.par_chunks_mut(rows * groups), zero_chunks).into_par_iter());
    let (error, norm) = chunks
        .enumerate()
        .map_init(Vec::new, |weights, (chunk, ((bytes, codes), (scales, zero_points)))| {
            weights.resize(codes.len(), 0f32);
            tensor::convert::decode(view.dtype, bytes, weights).map_err(|error| error.shifted(chunk * rows * in_features))?;
            let w = ArrayView2::from_shape((codes.len() / in_features, in_features), weights).expect("whole rows");
            let quantized = rounding.quantize(w, scheme, None)?.tensor;
            codes.copy_from_slice(&quantized.codes);
            scales.copy_from_slice(&quantized.scales);
            if let Some(points) = &quantized.zero_points {
                zero_points.copy_from_slice(points);
            }
            Ok(squared_error(weights, &quantized))
        })
        .try_reduce(|| (0.0, 0.0), |a, b| Ok::<_, ArtifactError>((a.0 + b.0, a.1 + b.1)))?;
    let zero_points = scheme.format.has_zero_points().then_some(zero_points);
    Ok((QuantizedTensor::new(*scheme, out_features, in_features, Codes { codes, scales, zero_points }), error, norm))
}

/// Scales are clipped to f16's range (see [`Scheme::fit`]). That may cost single groups; a weight that it clips or
/// empties would be another model.
pub fn refuse_lost_weights(quantized: &QuantizedTensor, error: f64, norm: f64) -> Result<(), QuantError> {
    let f16_max = f16::MAX.to_f32();
    if quantized.scales.iter().any(|scale| scale.abs() >= f16_max) {
        return Err(QuantError::ScaleTooLarge);
    }
    // Nearest codes, zero among them, are never farther off than all zeros are, and as far only if they are all zero.
    if norm > 0.0 && error >= norm {
        return Err(QuantError::ScaleTooSmall);
    }
    Ok(())
}

/// Digest of a dense weight's elements in the checkpoint's order.
pub fn digest_of_dense(bytes: &[u8], shape: &[usize], dtype: DType, order: Order) -> String {
    let digest = match order {
        Order::OutIn => xxh3_128(bytes),
        Order::InOut => xxh3_128(&transpose_bytes(bytes.to_vec(), shape[1], shape[0], dtype.bytes_of(1))),
    };
    format!("{digest:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{self, Content, Graph, Layout, Type};

    /// The bytes and the digest of a `[5, 3]` weight that is written transposed.
    fn transposed_in_bands_of(band: usize) -> (Vec<u8>, String) {
        let graph = Graph::new("one weight");
        let x = graph.input("x", Type::new(DType::F32, [1.into(), 1.into(), 3.into()]));
        let w = graph.declare("w", DType::F32, &[3, 5]);
        let y = graph.rename(graph.at("").matmul(x, w), "y");
        let model = graph.finish(&[y]).unwrap();
        let (folder, layout) = (tempfile::tempdir().unwrap(), Layout::of(&model));
        let data = DataFile::create(folder.path(), &layout).unwrap();
        let bytes: Vec<u8> = (0..15).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = TensorView { dtype: DType::F32, shape: &[5, 3], bytes: &bytes };
        let digest = write_transposed(view, DType::F32, band, "w", &data).unwrap();
        let model = onnx::decode(&data.finish().unwrap()).unwrap();
        let Content::Inline(stored) = &model.initializers()[0].content else { panic!("a small weight lies in the model") };
        (stored.clone(), digest)
    }

    #[test]
    fn bands_give_the_bytes_of_the_whole() {
        let (whole, digest) = transposed_in_bands_of(15);
        let expected: Vec<u8> = (0..15).flat_map(|i| ((i % 5 * 3 + i / 5) as f32).to_le_bytes()).collect();
        assert_eq!(whole, expected);
        for band in [1, 3, 6, 9, 14] {
            assert_eq!(transposed_in_bands_of(band), (whole.clone(), digest.clone()), "bands of {band}");
        }
    }
}
