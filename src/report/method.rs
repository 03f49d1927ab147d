//! What was asked and how it was measured, in the words that every format shows.

use super::study::{Study, short};
use super::{marks, numbers};
use crate::record::{COQA, PERPLEXITY, QUESTIONS, TOKENS, WINDOWS};

/// The question of the study.
pub fn question(study: &Study) -> String {
    let model = &study.baseline().record.model;
    format!(
        "How few bits can the weights of {} ({} parameters) have before its answers get worse, and what does that save in memory and time?",
        numbers::clipped(&model.source, 60),
        numbers::count(model.parameters)
    )
}

/// How it was answered, one paragraph each.
pub fn paragraphs(study: &Study) -> Vec<String> {
    [experiments(study), Some(accuracy(study)), speed(study), Some(traceable())].into_iter().flatten().collect()
}

fn experiments(study: &Study) -> Option<String> {
    let quantized = study.rows.len() - 1;
    let failed = study.failed().count();
    let ended = match failed {
        0 => String::new(),
        1 => " One of them ended early and is shown as failed.".to_owned(),
        _ => format!(" {failed} of them ended early and are shown as failed."),
    };
    Some(format!(
        "{quantized} quantized experiments are compared with one baseline, {}, of the same checkpoint. Each \
         experiment exports an ONNX artifact, has it write a few words, scores it and times it through ONNX Runtime. Bits per weight count everything that a \
         weight needs on disk: codes, scales, zero points and what stayed in f16.{ended}",
        study.baseline().name()
    ))
}

fn accuracy(study: &Study) -> String {
    let baseline = study.baseline();
    match (baseline.task(COQA), baseline.task(PERPLEXITY)) {
        (Some(coqa), _) => format!(
            "Accuracy is F1 on {} CoQA questions ({}, protocol {}). Artifacts answer the same questions as the baseline, so differences are \
             paired: 95 % intervals come from 10,000 bootstrap resamples of the paired differences, by question or, where a \
             protocol asks several turns of one, by conversation, and a difference whose interval reaches 0 is called \
             not distinguishable. That is not the same as equal, so every comparison also states the smallest true difference that its questions would show \
             with 80 % chance.",
            numbers::count(coqa.count(QUESTIONS)),
            numbers::clipped(&coqa.data, 50),
            numbers::clipped(&coqa.version, 40)
        ),
        (None, Some(text)) => format!(
            "Accuracy is how well a text is predicted, token by token: perplexity, and the mean KL divergence from the baseline in nats, \
             over {} tokens in {} windows of {}. CoQA was not asked, so of no difference it is known whether chance explains it.",
            numbers::count(text.count(TOKENS)),
            numbers::count(text.count(WINDOWS)),
            numbers::clipped(&text.data, 50)
        ),
        (None, None) => "The baseline was not scored, so no difference in accuracy is known.".to_owned(),
    }
}

fn speed(study: &Study) -> Option<String> {
    let bench = study.rows.iter().find_map(|row| row.bench())?;
    let settings = &bench.settings;
    let list = |values: &[usize]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let graph = if settings.cuda_graph { " Decoding steps were replayed from a CUDA graph." } else { "" };
    Some(format!(
        "Times are medians after {} warm-up runs, over {} to {} repeats: sampling ends with the last of them, or when the 95 % interval of the median is within \
         ±{} % of it. Prompts of {} \
         tokens, batches of {}, {} new tokens. Raw samples stay in the records; outliers are reported, not dropped.{graph}",
        settings.warmup,
        settings.min_repeats,
        settings.max_repeats,
        numbers::three_digits(100.0 * settings.confidence).trim_end_matches('0').trim_end_matches('.'),
        list(&settings.prompts),
        list(&settings.batches),
        settings.new_tokens
    ))
}

fn traceable() -> String {
    "Every number here is read from a record, NAME_results.json, and none is computed by other means than ratios and differences of them; # is an \
     experiment's number in all tables."
        .to_owned()
}

/// Methods of the study and what they do.
pub fn methods(study: &Study) -> Vec<(String, String)> {
    let mut names: Vec<&str> = study.rows.iter().map(|row| row.record.method.as_str()).collect();
    names.sort_by_key(|method| (marks::order(method), *method));
    names.dedup();
    let meaning = |method: &str| {
        marks::meaning(method).unwrap_or("a method this version has no words for; see the record's recipe").to_owned()
    };
    names.into_iter().map(|method| (numbers::clipped(method, 24), meaning(method))).collect()
}

/// What it was measured with.
pub fn facts(study: &Study) -> Vec<(&'static str, String)> {
    let record = &study.baseline().record;
    let (model, program, environment) = (&record.model, &record.program, &record.environment);
    let mut facts = vec![("Model", numbers::clipped(&model.source, 60))];
    facts.extend(model.revision.as_ref().map(|revision| ("Revision", short(revision))));
    facts.push(("Content hash", format!("blake3 {}", short(&model.blake3))));
    facts.push(("Parameters", numbers::count(model.parameters)));
    facts.push(("Program", program_line(program)));
    facts.push(("ONNX Runtime", environment.onnxruntime.clone().unwrap_or_else(|| numbers::NONE.to_owned())));
    facts.push(("Execution provider", format!("{}, {} activations", environment.ep, environment.activation)));
    let names: Vec<String> = study.devices.iter().map(|device| numbers::clipped(&device.name, 60)).collect();
    if !names.is_empty() {
        facts.push(("Measured on", names.join("; ")));
    }
    facts.extend(environment.driver.as_ref().map(|driver| ("Driver", driver.clone())));
    facts
}

fn program_line(program: &crate::record::ProgramRecord) -> String {
    let commit = program.commit.as_ref().map(|commit| format!(", commit {}", short(commit))).unwrap_or_default();
    let dirty = if program.dirty { " with local changes" } else { "" };
    format!("qonnx {}{commit}{dirty}", program.version)
}
