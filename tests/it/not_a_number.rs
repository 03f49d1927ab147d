//! Where activations leave the range of f16, every command that picks a token says so, and none gives a score: the largest of
//! NaN has an index like any other.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use edited::{Edited, FIXTURE};
use serde_json::json;

use crate::support::edited;

const HIDDEN: usize = 256;
const INNER: usize = 768;
/// What every sentence about it names.
const NAMED: [&str; 3] = ["is not a number (NaN or infinite)", "the range of f16 (65504)", "--dtype f32"];

/// One channel of layer 1's output is beyond f16, and nothing later reads it: in f32 the model is as good as before.
fn overflowing() -> Edited {
    let edited = Edited::new();
    edited.tensor("model.layers.1.mlp.down_proj.weight", |weight| {
        weight[5 * INNER..6 * INNER].iter_mut().for_each(|weight| *weight *= 2e5);
    });
    let later = (2..6)
        .flat_map(|layer| ["input_layernorm", "post_attention_layernorm"].map(|norm| format!("model.layers.{layer}.{norm}")));
    for norm in later.chain(["model.norm".to_owned()]) {
        edited.tensor(&format!("{norm}.weight"), |gains| {
            assert_eq!(gains.len(), HIDDEN);
            gains[5] = 0.0;
        });
    }
    edited
}

fn qonnx(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(args).output().expect("qonnx starts")
}

fn export(model: &Edited, dtype: &str, more: &[&str]) -> (String, Output) {
    let artifact = model.at(&format!("{dtype}{}", more.len())).display().to_string();
    let source = model.model().display().to_string();
    let output = qonnx(&[&["export", &source, "--dtype", dtype, "-o", &artifact], more].concat());
    (artifact, output)
}

/// It failed, with exit code 1, and says why.
fn says(output: &Output, named: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(named.iter().all(|named| said.contains(named)), "{said}");
}

#[test]
fn every_command_that_picks_a_token_refuses_what_is_no_number() {
    let model = overflowing();
    let (artifact, exported) = export(&model, "f16", &["--bits", "16"]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let questions = format!("{FIXTURE}/coqa-mini.json");
    says(&qonnx(&["generate", &artifact, "Tom has"]), &NAMED);
    let scored = qonnx(&["eval", &artifact, "--task", "coqa", "--data", &questions, "--limit", "4"]);
    says(&scored, &NAMED);
    assert!(scored.stdout.is_empty());
    let text = format!("{FIXTURE}/perplexity.txt");
    says(
        &qonnx(&["eval", &artifact, "--task", "perplexity", "--text", &text, "--windows", "1"]),
        &["the logits hold NaN", "--dtype f32"],
    );
    let benched = qonnx(&["bench", &artifact, "--batch", "1", "--prompt", "128", "--gen", "4"]);
    // A point that fails is a row, and the grid goes on.
    let shown = String::from_utf8_lossy(&benched.stdout) + String::from_utf8_lossy(&benched.stderr);
    assert!(NAMED.iter().all(|named| shown.contains(named)), "{shown}");
    let verified = qonnx(&["verify", &artifact]);
    assert_eq!(verified.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&verified.stdout);
    let golden = shown.lines().find(|line| line.contains("golden generation")).unwrap_or_else(|| panic!("{shown}"));
    assert!(golden.starts_with("FAIL") && NAMED.iter().all(|named| golden.contains(named)), "{golden}");
}

#[test]
fn a_run_is_recorded_as_failed() {
    let model = overflowing();
    let (results, source) = (model.at("results").display().to_string(), model.model().display().to_string());
    let questions = format!("{FIXTURE}/coqa-mini.json");
    let asked = [
        "run",
        "fp16_baseline",
        "--model",
        &source,
        "--coqa",
        &questions,
        "--limit",
        "4",
        "--dtype",
        "f16",
        "--no-bench",
        "--results",
        &results,
    ];
    says(&qonnx(&asked), &[]);
    let record = fs::read_to_string(Path::new(&results).join("fp16_baseline_results.json")).expect("a failure has a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let message = record["failure"]["message"].as_str().expect("a message");
    assert!(record["evaluation"] == serde_json::json!([]) && NAMED.iter().all(|named| message.contains(named)), "{message}");
}

#[test]
fn the_same_model_in_f32_is_as_good_as_it_was() {
    let model = overflowing();
    let (artifact, exported) = export(&model, "f32", &["--bits", "16"]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let verified = qonnx(&["verify", &artifact]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    assert!(qonnx(&["generate", &artifact, "Tom has", "--max-new-tokens", "4"]).status.success());
}

#[test]
fn calibration_says_it_before_anything_is_rounded() {
    let model = overflowing();
    let sequences: Vec<Vec<usize>> =
        (0..9).map(|row| (0..128).map(|column| 300 + (row * 131 + column * 37) % 3000).collect()).collect();
    let set = model.at("set.json");
    fs::write(&set, json!(sequences).to_string()).expect("the place is ours");
    let set = set.display().to_string();
    let calibrated = ["--method", "awq", "--bits", "4", "--calibration", &set];
    let (artifact, exported) = export(&model, "f16", &calibrated);
    let said = String::from_utf8_lossy(&exported.stderr);
    assert_eq!(exported.status.code(), Some(2), "{said}");
    let named = ["layer 1: the residual stream reaches ", "f16 ends at 65504", "export with --dtype f32"];
    assert!(named.iter().all(|named| said.contains(named)), "{said}");
    assert!(!Path::new(&artifact).exists());
    let (_, exported) = export(&model, "f32", &calibrated);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
}
