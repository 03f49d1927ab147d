//! All weights of a model into a [`Sink`].

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::prepared::{PreparedWeights, Written, WrittenOutside};
use super::quantize;
use super::sink::Sink;
use crate::artifact::ArtifactError;
use crate::checkpoint::Checkpoint;
use crate::host::interrupt::CancelToken;
use crate::host::progress;
use crate::model::StoredWeight;
use crate::record::{CalibratedRecord, WeightRecord};

/// Writes all weights, a decoder layer at a time, the weights of a layer in parallel; what was measured of each, in their order.
///
/// # Errors
/// A weight cannot be read, quantized or written; `cancel` was cancelled.
pub fn weights<'c, P: PreparedWeights<'c>>(
    weights: &[StoredWeight],
    checkpoint: &'c Checkpoint,
    prepared: &P,
    sink: &dyn Sink<'c>,
    cancel: &CancelToken,
) -> Result<Vec<WrittenOutside>, P::Error> {
    let bytes = |name: &str| checkpoint.index().get(name).map_or(0, |info| info.bytes());
    let bar = progress::bytes(weights.iter().map(|weight| bytes(&weight.weight)).sum(), "quantize");
    let mut written = Vec::with_capacity(weights.len());
    for layer in by_layer(weights) {
        bar.set_message(layer_of(&layer[0].weight).to_owned());
        let of_layer = match layer_number(&layer[0].weight) {
            Some(layer) => prepared.layer(layer)?,
            None => BTreeMap::new(),
        };
        let results: Result<Vec<_>, P::Error> = layer
            .par_iter()
            .map(|stored| {
                cancel.check().map_err(ArtifactError::from)?;
                let result = match of_layer.get(&stored.weight) {
                    Some(prepared) => (quantize::write_prepared(prepared, stored, sink)?, prepared.record()),
                    None => outside_or_own(stored, checkpoint, prepared, sink)?,
                };
                bar.inc(bytes(&stored.weight));
                Ok(result)
            })
            .collect();
        written.extend(results?);
        sink.passed(written.len())?;
    }
    bar.finish_and_clear();
    Ok(written)
}

/// The weights in runs: those of a layer together, each of the others by itself.
pub fn by_layer(weights: &[StoredWeight]) -> impl Iterator<Item = &[StoredWeight]> {
    weights.chunk_by(|a, b| layer_of(&a.weight) == layer_of(&b.weight))
}

/// Puts down what was measured of each weight.
pub fn record(records: &mut [WeightRecord], written: Vec<(Written, Option<CalibratedRecord>)>) {
    for (record, (Written { relative_error, digest }, calibrated)) in records.iter_mut().zip(written) {
        *record = WeightRecord { relative_error, digest, calibrated, ..record.clone() };
    }
}

fn outside_or_own<'c, P: PreparedWeights<'c>>(
    stored: &StoredWeight,
    checkpoint: &'c Checkpoint,
    prepared: &P,
    sink: &dyn Sink<'c>,
) -> Result<WrittenOutside, P::Error> {
    if layer_number(&stored.weight).is_none()
        && let Some(written) = prepared.outside(stored, sink)?
    {
        return Ok(written);
    }
    Ok((own(stored, checkpoint, sink)?, None))
}

/// A weight as the checkpoint has it.
fn own<'c>(stored: &StoredWeight, checkpoint: &'c Checkpoint, sink: &dyn Sink<'c>) -> Result<Written, ArtifactError> {
    let written = quantize::write(checkpoint.tensor(&stored.weight)?, stored, sink)?;
    checkpoint.release(&stored.weight)?;
    Ok(written)
}

/// `model.layers.7` of a layer's weight; the whole name of any other.
fn layer_of(weight: &str) -> &str {
    let end = weight.match_indices('.').nth(2).map(|(position, _)| position);
    end.filter(|_| weight.starts_with("model.layers.")).map_or(weight, |end| &weight[..end])
}

/// 7 of `model.layers.7.mlp.down_proj.weight`.
fn layer_number(weight: &str) -> Option<usize> {
    layer_of(weight).strip_prefix("model.layers.")?.parse().ok()
}
