//! Weights that are not quantized, in the type that they are stored in.

use std::borrow::Cow;

use super::sink::Bands;
use crate::artifact::ArtifactError;
use crate::checkpoint::TensorView;
use crate::model::{StoredForm, StoredWeight};
use crate::tensor::{self, DType};

/// The type of a weight that is planned as dense.
pub fn dtype_of(weight: &StoredWeight) -> DType {
    let StoredForm::Dense { dtype, .. } = &weight.form else {
        unreachable!("weight {}: is planned as quantized", weight.weight);
    };
    *dtype
}

/// The bytes of a weight as the checkpoint has it.
///
/// # Errors
/// The type does not hold a number.
pub fn of_view<'c>(weight: &StoredWeight, view: TensorView<'c>) -> Result<Cow<'c, [u8]>, ArtifactError> {
    let dtype = dtype_of(weight);
    if view.dtype == dtype {
        return Ok(Cow::Borrowed(view.bytes));
    }
    let mut bytes = vec![0; dtype.bytes_of(weight.elements())];
    tensor::convert::convert(view.dtype, view.bytes, dtype, &mut bytes)
        .map_err(ArtifactError::at(|| format!("weight {}", weight.weight)))?;
    Ok(bytes.into())
}

/// The bytes of numbers that are not the checkpoint's any more.
///
/// # Errors
/// As [`of_view`].
pub fn encoded(weight: &StoredWeight, values: &[f32]) -> Result<Vec<u8>, ArtifactError> {
    let dtype = dtype_of(weight);
    let mut bytes = vec![0; dtype.bytes_of(values.len())];
    tensor::convert::encode(values, dtype, &mut bytes).map_err(ArtifactError::at(|| format!("weight {}", weight.weight)))?;
    Ok(bytes)
}

/// As [`encoded`], of numbers that come in bands: all of them.
///
/// # Errors
/// As [`of_view`]; a band cannot be had.
pub fn all_bands(weight: &StoredWeight, bands: &mut Bands<'_>) -> Result<Vec<u8>, ArtifactError> {
    let mut bytes = Vec::with_capacity(dtype_of(weight).bytes_of(weight.elements()));
    while let Some(rows) = bands()? {
        bytes.extend(encoded(weight, rows.as_slice().expect("bands are in standard layout"))?);
    }
    Ok(bytes)
}
