//! The numbers of a GGUF file are those that were computed, and its head says what the model's files say.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::checkpoint::{digest_of, made_again};
use super::{Check, check as checked, sizes, weights};
use crate::artifact::targets::{self, CheckpointForm, GGUF_FILE, Gguf};
use crate::host::{in_full, progress};
use crate::model::StoredWeight;
use crate::record::Manifest;
use crate::tensor::DType;

/// The head is what the folder's other files give, and each weight is decoded to the digest that was recorded.
pub fn check(artifact: &Path, manifest: &Manifest, form: &dyn CheckpointForm) -> Check {
    let failures = failures(artifact, manifest, form).unwrap_or_else(|failures| failures);
    checked(weights::COMPUTED, &failures, format!("{} weights, packed as {}", manifest.weights.len(), manifest.target.name()))
}

/// What is wrong with weights; an error where it is with what all of them stand on.
fn failures(artifact: &Path, manifest: &Manifest, form: &dyn CheckpointForm) -> Result<Vec<String>, Vec<String>> {
    let unread = |error: std::io::Error| vec![format!("{GGUF_FILE} cannot be read: {error}")];
    let file = File::open(artifact.join(GGUF_FILE)).map_err(unread)?;
    let bytes = file.metadata().map_err(unread)?.len();
    let (architecture, graph) = made_again(artifact, manifest, form, bytes)?;
    let disagreements = weights::weights_disagree(&graph, manifest);
    if !disagreements.is_empty() {
        return Err(disagreements);
    }
    let gguf = Gguf::of(&manifest.model.source, artifact, &architecture, &graph.weights);
    let gguf = gguf.map_err(|error| vec![in_full(&error)])?;
    let says_otherwise = || vec![format!("the head of {GGUF_FILE} says otherwise than the files beside it")];
    let is_there = |expected: &[u8], start: u64| {
        let mut there = vec![0; expected.len()];
        file.read_exact_at(&mut there, start).is_ok() && there == expected
    };
    let factors = gguf.rope_factors.as_ref();
    let are_factors = |(start, factors): &(u64, Vec<f32>)| {
        is_there(&factors.iter().flat_map(|factor| factor.to_le_bytes()).collect::<Vec<_>>(), *start)
    };
    if bytes != gguf.bytes() || !is_there(gguf.head(), 0) || !factors.is_none_or(are_factors) {
        return Err(says_otherwise());
    }
    let mut failures = Vec::new();
    let bar = progress::count(graph.weights.len() as u64, "weights");
    for (stored, record) in graph.weights.iter().zip(&manifest.weights) {
        bar.set_message(record.name.clone());
        match digest(&file, &gguf, stored, form, sizes::activation(manifest)) {
            Ok(digest) if digest == record.digest => {}
            Ok(_) => failures.push(record.name.clone()),
            Err(problem) => failures.push(problem),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(failures)
}

/// The digest of a weight's numbers, or what is wrong with them.
fn digest(
    file: &File,
    gguf: &Gguf,
    stored: &StoredWeight,
    form: &dyn CheckpointForm,
    activation: DType,
) -> Result<String, String> {
    let place = gguf.place(&stored.weight);
    let mut rows = vec![0; targets::stored_bits(form, stored) / 8];
    file.read_exact_at(&mut rows, place.start).map_err(|error| format!("{} cannot be read: {error}", stored.weight))?;
    digest_of(&[&place.from_file(&rows, stored.shape[0])], stored, form, activation)
}
