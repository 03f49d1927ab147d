//! The numbers of a checkpoint for another program are those that were computed, laid out as that program reads them.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value};

use super::{Check, check as checked, sizes, weights};
use crate::artifact::quantize::digest_of_dense;
use crate::artifact::targets::Part;
use crate::artifact::targets::{self, CheckpointForm, Matrices, Matrix};
use crate::artifact::{ArtifactError, packing, plan};
use crate::checkpoint::{Checkpoint, RawTensor, StoredNumber};
use crate::commands::CommandError;
use crate::contract::CONFIG_FILE;
use crate::host::{in_full, progress, read, shown};
use crate::model::{self, Architecture, DecoderGraph, GraphOptions, Order, StoredForm, StoredWeight, WeightForm};
use crate::quant::Granularity;
use crate::record::Manifest;
use crate::tensor::DType;

/// Every weight of the manifest is there, and nothing else; each is decoded to the digest that was recorded, and packed again it gives
/// the bytes that are there; config.json says how.
///
/// # Errors
/// A file cannot be read.
pub fn check(artifact: &Path, manifest: &Manifest, form: &dyn CheckpointForm) -> Result<Check, CommandError> {
    let failures = match Checkpoint::open(artifact) {
        Ok(checkpoint) => failures(artifact, &checkpoint, manifest, form),
        Err(error) => vec![in_full(&error)],
    };
    Ok(checked(weights::COMPUTED, &failures, format!("{} weights, packed as {}", manifest.weights.len(), manifest.target.name())))
}

fn failures(artifact: &Path, checkpoint: &Checkpoint, manifest: &Manifest, form: &dyn CheckpointForm) -> Vec<String> {
    let bytes = checkpoint.index().files().iter().map(|file| file.bytes).sum();
    let graph = match made_again(artifact, manifest, form, bytes) {
        Ok((_, graph)) => graph,
        Err(failures) => return failures,
    };
    let disagreements = weights::weights_disagree(&graph, manifest);
    if !disagreements.is_empty() {
        return disagreements;
    }
    let of_weights = graph.weights.iter().flat_map(|stored| parts(stored, form));
    let known: BTreeSet<String> = of_weights.map(|part| part.name).collect();
    let names = checkpoint.index().names();
    let foreign = names.iter().filter(|name| !known.contains(**name));
    let mut failures: Vec<String> = foreign.map(|name| format!("tensor {} belongs to no weight", shown(name))).collect();
    let bar = progress::count(graph.weights.len() as u64, "weights");
    for (stored, record) in graph.weights.iter().zip(&manifest.weights) {
        bar.set_message(record.name.clone());
        match digest(checkpoint, stored, form, sizes::activation(manifest)) {
            Ok(digest) if digest == record.digest => {}
            Ok(_) => failures.push(record.name.clone()),
            Err(problem) => failures.push(problem),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    failures
}

/// The list of weights, made again from config.json without what it says of how they are stored, which must be what they give.
pub(super) fn made_again(
    artifact: &Path,
    manifest: &Manifest,
    form: &dyn CheckpointForm,
    bytes: u64,
) -> Result<(Architecture, DecoderGraph), Vec<String>> {
    let of_config = |error: &dyn std::fmt::Display| vec![format!("config.json: {error}")];
    let text = read::text(&artifact.join(CONFIG_FILE), read::SETTINGS).map_err(|error| of_config(&error))?;
    let there: Map<String, Value> = serde_json::from_str(&text).map_err(|error| of_config(&error))?;
    let (model, said) = targets::without_description(there);
    let architecture = Architecture::from_value(&Value::Object(model.clone())).map_err(|error| of_config(&error))?;
    let mut forms = sizes::forms(&architecture, manifest, bytes)?;
    by_channel(&mut forms, &architecture, manifest).map_err(|error| vec![in_full(&error)])?;
    let weight_form = |name: &str| forms.get(name).copied().unwrap_or(WeightForm::Dense(DType::F32));
    let (activation, graph_form) = (sizes::activation(manifest), targets::graph_form(manifest.target));
    let options = GraphOptions { activation, max_context: manifest.max_context, rotated_head: false, form: graph_form };
    let graph = model::decoder(&architecture, &options, &weight_form)
        .map_err(|error| vec![format!("the manifest's forms make no model: {error}")])?;
    let expected = targets::config(form, &model, &Matrices::of(&graph.weights, activation));
    match targets::without_description(expected).1 == said {
        true => Ok((architecture, graph)),
        false => Err(vec!["config.json describes weights otherwise than the manifest".to_owned()]),
    }
}

/// A group that is as wide as its weight is recorded like a row with one scale, and is described otherwise: the recipe says which it is.
fn by_channel(
    forms: &mut HashMap<String, WeightForm>,
    architecture: &Architecture,
    manifest: &Manifest,
) -> Result<(), ArtifactError> {
    let Ok(expected) = architecture.expected_tensors() else { return Ok(()) };
    for (name, recipe) in plan::recipes(&manifest.recipe, &expected)? {
        let is_of_channels = recipe.scheme().is_some_and(|scheme| scheme.granularity == Granularity::PerChannel);
        let in_features = expected.iter().find(|tensor| tensor.name == name).and_then(|tensor| tensor.shape.last());
        match forms.get_mut(&name) {
            Some(WeightForm::Quantized(scheme))
                if is_of_channels && in_features.is_some_and(|&width| scheme.granularity == Granularity::PerGroup(width)) =>
            {
                scheme.granularity = Granularity::PerChannel;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The tensors of a weight.
fn parts(stored: &StoredWeight, form: &dyn CheckpointForm) -> Vec<Part> {
    match (Matrix::of(stored), &stored.form) {
        (Some(matrix), _) => form.parts(&matrix),
        (None, StoredForm::Dense { dtype, .. }) => {
            vec![Part { name: stored.weight.clone(), number: StoredNumber::Weight(*dtype), shape: stored.shape.clone() }]
        }
        (None, StoredForm::Quantized { .. }) => Vec::new(),
    }
}

/// The digest of a weight's numbers, or what is wrong with its tensors.
fn digest(
    checkpoint: &Checkpoint,
    stored: &StoredWeight,
    form: &dyn CheckpointForm,
    activation: DType,
) -> Result<String, String> {
    let parts = parts(stored, form);
    let mut tensors = Vec::new();
    for part in &parts {
        match checkpoint.raw(&part.name) {
            Some(RawTensor { number, shape, bytes, .. }) if number == part.number && shape == part.shape => tensors.push(bytes),
            Some(_) => return Err(format!("tensor {} has another shape or element type than {}'s", part.name, stored.weight)),
            None => return Err(format!("tensor {} is missing", part.name)),
        }
    }
    let bytes: Vec<&[u8]> = tensors.iter().map(AsRef::as_ref).collect();
    digest_of(&bytes, stored, form, activation)
}

/// The digest of a weight's numbers, whose parts have these `bytes`, or what is wrong with them.
pub(super) fn digest_of(
    bytes: &[&[u8]],
    stored: &StoredWeight,
    form: &dyn CheckpointForm,
    activation: DType,
) -> Result<String, String> {
    let Some(matrix) = Matrix::of(stored) else {
        let StoredForm::Dense { dtype, .. } = &stored.form else { return Err(format!("{} is no matrix", stored.weight)) };
        let bytes = bytes.first().copied().unwrap_or_default();
        return Ok(digest_of_dense(bytes, &stored.shape, *dtype, Order::OutIn));
    };
    let tensor = form.unpack(&matrix, bytes).ok_or_else(|| format!("{} cannot be decoded", stored.weight))?;
    let again = targets::packed(form, &matrix, &tensor, activation).map_err(|error| in_full(&error))?;
    match again.iter().zip(bytes).find(|((_, again), there)| again != *there) {
        Some(((part, _), _)) => Err(format!("tensor {} does not say what the others do", part.name)),
        None => Ok(packing::digest(&tensor)),
    }
}
