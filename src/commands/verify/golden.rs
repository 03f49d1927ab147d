//! The artifact's kernels continue a text as its dequantized weights do.

use std::path::Path;

use super::{Check, sizes};
use crate::artifact::targets;
use crate::commands::CommandError;
use crate::companions::Companions;
use crate::generate::{Generate, GenerateOptions, Score};
use crate::host::in_full;
use crate::model::GraphForm;
use crate::record::{Manifest, Target};
use crate::runtime::{Engine, EngineOptions, OwnGraph, RuntimeError, WeightKernels};

/// Text that both ways of running the weights continue.
const PROMPT: &str = "Once upon a time there was a little white cat who lived in a house near the river.";
const GOLDEN_TOKENS: usize = 24;
const WHAT: &str = "golden generation";

/// Runs both; that one cannot be run is a failed check.
pub fn check(artifact: &Path, manifest: &Manifest, options: &EngineOptions) -> Check {
    let (passed, detail) = compare(artifact, manifest, options).unwrap_or_else(|error| (false, in_full(&error)));
    Check { what: WHAT, passed, detail }
}

/// Tokens, and the logits that each was chosen by.
type Continued = (Vec<u32>, Vec<Vec<f32>>);

fn compare(artifact: &Path, manifest: &Manifest, options: &EngineOptions) -> Result<(bool, String), CommandError> {
    let ids = |weights| -> Result<Continued, CommandError> {
        if targets::graph_form(manifest.target) == GraphForm::Portable {
            return by_its_own_graph(artifact, manifest, &EngineOptions { weights, ..*options });
        }
        let mut engine = Engine::load(artifact, &EngineOptions { weights, ..*options })?;
        let positions = engine.context_length().min(manifest.max_context);
        let mut prompt = engine.encode(PROMPT)?;
        // An artifact of a short context continues the beginning of the text.
        let max_new_tokens = GOLDEN_TOKENS.min(positions / 2);
        prompt.truncate(positions - max_new_tokens);
        if max_new_tokens == 0 || prompt.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let greedy = GenerateOptions { max_new_tokens, stop: Vec::new() };
        let completion = engine.generate(std::slice::from_ref(&prompt), &greedy, &mut |_| {})?.remove(0);
        let mut logits = Vec::new();
        let text: Vec<u32> = prompt.iter().chain(&completion.ids).copied().collect();
        engine.logits(&text, &mut |_, rows| logits.extend(rows.rows().into_iter().map(|row| row.to_vec())))?;
        Ok((completion.ids, logits.split_off(prompt.len() - 1)))
    };
    if matches!(manifest.target, Target::MatMulNBits | Target::TransformersJs) {
        // Nothing dequantizes these weights before a session is made, so there is nothing to compare with.
        let (tokens, _) = ids(WeightKernels::Fused)?;
        return Ok((true, format!("{} tokens; MatMulNBits has no dequantized form to compare with", tokens.len())));
    }
    let (fused, _) = ids(WeightKernels::Fused)?;
    let (reference, logits) = ids(WeightKernels::Dequantized)?;
    let Some(first) = fused.iter().zip(&reference).position(|(a, b)| a != b) else {
        return Ok((fused == reference, format!("{} tokens as the dequantized weights give them", fused.len())));
    };
    // A kernel may sum in another order; what it must not do is prefer a token that the reference finds clearly worse.
    let tolerance = if manifest.activation == "f32" { 2e-3 } else { 0.25 };
    let margin = logits[first][reference[first] as usize] - logits[first][fused[first] as usize];
    Ok((margin <= tolerance, format!("token {first} differs from the dequantized weights', whose logits are {margin:.4} apart")))
}

/// The decode loop's graph can be made of forms with lengths alone; any other runs as it is.
fn by_its_own_graph(artifact: &Path, manifest: &Manifest, options: &EngineOptions) -> Result<Continued, CommandError> {
    let companions = Companions::read(artifact).map_err(RuntimeError::from)?;
    let mut text = companions.tokenizer.encode(PROMPT, true).map_err(RuntimeError::from)?;
    let count = GOLDEN_TOKENS.min(manifest.max_context / 2);
    text.truncate(manifest.max_context - count);
    let (mut graph, mut ids, mut logits) = (OwnGraph::load(artifact, options)?, Vec::new(), Vec::new());
    while ids.len() < count && !text.is_empty() {
        let last = graph.read(&text)?.pop().unwrap_or_default();
        if last.iter().any(|logit| !logit.is_finite()) {
            let (position, activations) = (ids.len(), sizes::activation(manifest));
            return Err(RuntimeError::NotANumber { prompt: 0, position, activations }.into());
        }
        let best = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id as u32);
        text = vec![best];
        ids.push(best);
        logits.push(last);
    }
    Ok((ids, logits))
}
