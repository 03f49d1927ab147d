//! The model card of an artifact, `README.md`: what it is made of and how, what is known of its quality, and how each runtime opens it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::host::shown;
use crate::host::table::size;
use crate::recipe::Recipe;
use crate::record::{COQA_EM, COQA_F1, EvaluationRecord, KL_MEAN, Manifest, ScoreName, ScoreRecord, Target, WeightRecord};

/// Keys of a card's head that say under what licence a model is; they hold for what is made of it, too.
const LICENCE_KEYS: [&str; 3] = ["license", "license_name", "license_link"];

/// Lines of a card's head that say the licence, as they stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Licence(Vec<String>);

impl Licence {
    /// That of a card with this text; none of one that does not say.
    pub fn of(card: &str) -> Licence {
        let mut lines = card.lines().map(str::trim_end);
        if lines.next() != Some("---") || !lines.clone().any(|line| line == "---") {
            return Licence::default();
        }
        let mut head = lines.take_while(|line| *line != "---").peekable();
        let mut licence = Vec::new();
        while let Some(line) = head.next() {
            let Some((key, value)) = line.split_once(':').filter(|(key, _)| LICENCE_KEYS.contains(key)) else { continue };
            // What goes on in the next line, or is more than a plain word, is YAML that nobody here reads.
            let goes_on = head.peek().is_some_and(|next| next.starts_with([' ', '-']));
            match is_plain(value.trim()) && !goes_on {
                true => licence.push(line.to_owned()),
                false => {
                    tracing::warn!("the model's card says its {key} in a form that is not carried over; add it to the artifact's")
                }
            }
        }
        Licence(licence)
    }
}

/// Whether it is YAML's plain form of a text, without anything that means something in it.
fn is_plain(value: &str) -> bool {
    let is_usual = |character: char| character.is_ascii_alphanumeric() || "-_./+ ():".contains(character);
    value.starts_with(|first: char| first.is_ascii_alphanumeric())
        && value.chars().all(is_usual)
        && !value.contains(": ")
        && !value.ends_with(':')
}

/// The card's text.
pub fn card(manifest: &Manifest, licence: &Licence, evaluation: Option<&EvaluationRecord>) -> String {
    let mut card = head(manifest, licence);
    let base = &manifest.model.source;
    let said = writeln!(
        card,
        "\n# {} in {}\n\n{} of {}, made by [qonnx](https://crates.io/crates/qonnx) {} for {}.\n",
        shown(base),
        formats(&manifest.weights),
        what(manifest),
        shown(base),
        manifest.qonnx_version,
        manifest.target.name(),
    );
    said.expect("a text can be written to");
    table(&mut card, "what", "", &facts(manifest));
    if let Some(rows) = evaluation.map(scores).filter(|rows| !rows.is_empty()) {
        card.push_str("\n## Quality\n\n");
        table(&mut card, "score", "value", &rows);
    }
    card.push_str("\n## How to run it\n\nIn this folder:\n\n");
    card.push_str(&runtimes(manifest.target).join("\n"));
    card.push_str(
        "\n## Provenance\n\n`qonnx.json` has the whole recipe, every weight's format and error, and the BLAKE3 of each file of the base model and of \
         this folder; `qonnx verify .` checks them.\n",
    );
    card
}

/// What the hub reads.
fn head(manifest: &Manifest, licence: &Licence) -> String {
    let mut lines = vec!["---".to_owned()];
    // A local folder's name is no repository.
    if manifest.model.source.contains('/') {
        lines.push(format!("base_model: {}", manifest.model.source));
        lines.extend(is_quantized(manifest).then(|| "base_model_relation: quantized".to_owned()));
    }
    lines.extend(licence.0.iter().cloned());
    lines.push(format!("library_name: {}", library(manifest.target)));
    lines.push("pipeline_tag: text-generation".to_owned());
    lines.push(format!("tags: [qonnx{}]", if is_quantized(manifest) { ", quantized" } else { "" }));
    lines.push("---\n".to_owned());
    lines.join("\n")
}

/// Whether any weight has other numbers than the model's.
fn is_quantized(manifest: &Manifest) -> bool {
    manifest.weights.iter().any(|weight| weight.group_size.is_some())
}

fn what(manifest: &Manifest) -> &'static str {
    match (manifest.target.is_onnx(), is_quantized(manifest)) {
        (true, true) => "A quantized ONNX artifact",
        (true, false) => "An ONNX artifact",
        (false, _) if manifest.target == Target::Gguf => "A GGUF file",
        (false, _) => "A quantized checkpoint",
    }
}

/// What the hub calls the program that opens it.
fn library(target: Target) -> &'static str {
    match target {
        Target::Ort | Target::Portable | Target::MatMulNBits | Target::TensorRt => "onnx",
        Target::CompressedTensors | Target::Gptq | Target::Bitsandbytes => "transformers",
        Target::TransformersJs => "transformers.js",
        Target::Mlx => "mlx",
        Target::Gguf => "gguf",
    }
}

/// Formats of the linears, the most frequent first: `INT4 and INT8`.
fn formats(weights: &[WeightRecord]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let linears = weights.iter().filter(|weight| weight.name.starts_with("model.layers.") && weight.shape.len() == 2);
    linears.for_each(|weight| *counts.entry(&weight.format).or_default() += weight.shape.iter().product::<usize>());
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, elements)| std::cmp::Reverse(*elements));
    counts.iter().map(|(format, _)| format.to_uppercase()).collect::<Vec<_>>().join(" and ")
}

fn facts(manifest: &Manifest) -> Vec<[String; 2]> {
    let sizes = &manifest.sizes;
    let row = |what: &str, value: String| [what.to_owned(), value];
    let revision = manifest.model.revision.as_ref().map(|revision| row("base model's revision", format!("`{revision}`")));
    let calibration = manifest.calibration.as_ref().map(|calibration| row("calibrated on", shown(&calibration.set).to_string()));
    let is_onnx = manifest.target.is_onnx();
    let oldest = manifest.oldest_onnxruntime.as_ref().map(|version| row("oldest onnxruntime", version.clone()));
    let opset = is_onnx.then(|| row("opset", manifest.onnx_opset.to_string()));
    let context = is_onnx.then(|| row("positions", manifest.max_context.to_string()));
    [
        Some(row("bits per weight, linears", format!("{:.3}", sizes.bits_per_weight_linears))),
        Some(row("bits per weight, model", format!("{:.3}", sizes.bits_per_weight_model))),
        Some(row("bytes of weights", size(sizes.model_bytes))),
        Some(row("parameters", manifest.model.parameters.to_string())),
        Some(row("activations", manifest.activation.clone())),
        Some(row("recipe", format!("`{}`", recipe(&manifest.recipe)))),
        calibration,
        revision,
        context,
        opset,
        oldest,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The recipe on one line.
fn recipe(recipe: &Recipe) -> String {
    serde_json::to_string(recipe).expect("a recipe has keys that are strings")
}

/// What a record says: KL, CoQA with its interval, and the paired difference where there is one.
fn scores(evaluation: &EvaluationRecord) -> Vec<[String; 2]> {
    let named: [(&str, ScoreName); 3] =
        [("CoQA F1", COQA_F1), ("CoQA exact match", COQA_EM), ("KL from the base model, nats a token", KL_MEAN)];
    named
        .into_iter()
        .filter_map(|(what, name)| {
            let task = evaluation.task(name.task)?;
            let counts: Vec<String> = task.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
            let of = format!("{what} ({}, {}, {})", shown(&task.data), task.version, counts.join(", "));
            Some([of, score(evaluation.score(name)?)])
        })
        .collect()
}

fn score(score: &ScoreRecord) -> String {
    let mut said = format!("{:.4}", score.value);
    if let Some(stderr) = score.stderr {
        write!(said, " ± {:.4} (95 %)", 1.96 * stderr).expect("a text can be written to");
    }
    if let Some(paired) = &score.paired {
        let [low, high] = paired.ci95;
        write!(said, "; {:+.4} [{low:+.4}, {high:+.4}] against the base model", paired.difference)
            .expect("a text can be written to");
    }
    said
}

fn table(card: &mut String, left: &str, right: &str, rows: &[[String; 2]]) {
    writeln!(card, "| {left} | {right} |\n|---|---|").expect("a text can be written to");
    for [what, value] in rows {
        writeln!(card, "| {what} | {} |", value.replace('|', "\\|")).expect("a text can be written to");
    }
}

/// How each runtime of the target opens it.
fn runtimes(target: Target) -> Vec<&'static str> {
    const ORT: &str = include_str!("card/onnxruntime.md");
    const GENAI: &str = include_str!("card/genai.md");
    const TRANSFORMERS: &str = include_str!("card/transformers.md");
    const VLLM: &str = include_str!("card/vllm.md");
    const QONNX: &str = include_str!("card/qonnx.md");
    match target {
        Target::Ort => vec![ORT, GENAI, include_str!("card/optimum.md"), QONNX],
        Target::MatMulNBits => vec![ORT, GENAI, QONNX],
        Target::TransformersJs => vec![include_str!("card/transformers_js.md"), GENAI, QONNX],
        Target::Portable => vec![include_str!("card/openvino.md"), ORT, GENAI],
        Target::TensorRt => vec![include_str!("card/tensorrt.md"), ORT],
        Target::CompressedTensors => vec![TRANSFORMERS, VLLM],
        Target::Gptq => vec![VLLM],
        Target::Bitsandbytes => vec![TRANSFORMERS],
        Target::Mlx => vec![include_str!("card/mlx.md")],
        Target::Gguf => vec![include_str!("card/llama_cpp.md")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_read_from_a_cards_head_alone() {
        let card = "---\nlanguage: en\nlicense: llama3.2\nlicense_name: x y\nextra:\n  license: no\n---\n\nlicense: mit\n";
        assert_eq!(Licence::of(card).0, ["license: llama3.2", "license_name: x y"]);
        assert_eq!(Licence::of("---\r\nlicense: mit\r\n---\r\n").0, ["license: mit"]);
        for other in [
            "# A model\n\nlicense: mit",
            "---\nlicense: mit\n\nno end",
            "----------\nlicense: mine\n---",
            "---\nlicense: [mit,\n  apache-2.0]\n---",
            "---\nlicense:\n- mit\n---",
            "---\nlicense_name: \"a\n  b\"\n---",
            "---\nlicense: *l\n---",
            "---\nlicense_link: >-\n  https://x\n---",
            "---\nlicense: see: that\n---",
        ] {
            assert_eq!(Licence::of(other), Licence::default(), "{other}");
        }
        assert_eq!(Licence::of(""), Licence::default());
    }
}
