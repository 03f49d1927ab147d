//! CoQA through the program equals lm-evaluation-harness's hf model, text by text, under tokenizer and generation configs that
//! checkpoints really have. The golden is from `tests/goldens/make/golden_lm_eval.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");
const GOLDEN: &str = include_str!("../goldens/lm_eval.json");

/// JSON merge patch (RFC 7396), but null is a value.
fn merged(value: Value, patch: &Value) -> Value {
    match (value, patch) {
        (Value::Object(mut object), Value::Object(patch)) => {
            for (key, part) in patch {
                let before = object.get(key).cloned().unwrap_or(Value::Null);
                object.insert(key.clone(), merged(before, part));
            }
            Value::Object(object)
        }
        (_, patch) => patch.clone(),
    }
}

fn change(model: &Path, changes: &Value) {
    for change in changes.as_array().expect("a list") {
        let path = model.join(change[0].as_str().expect("a file"));
        if change[1].is_null() {
            fs::remove_file(path).expect("the fixture has it");
            continue;
        }
        let before = serde_json::from_str(&fs::read_to_string(&path).expect("the fixture has it")).expect("JSON");
        fs::write(&path, merged(before, &change[1]).to_string()).expect("the place is ours");
    }
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(args).output().expect("qonnx starts")
}

fn qonnx(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The artifact of the embedded model with `changes`, in `folder`.
fn artifact(folder: &Path, changes: &Value) -> String {
    let (model, artifact) = (folder.join("model"), folder.join("artifact").display().to_string());
    fs::create_dir(&model).expect("the place is ours");
    for file in fs::read_dir(FIXTURE).expect("the fixture is there") {
        let file = file.expect("readable");
        fs::copy(file.path(), model.join(file.file_name())).expect("the place is ours");
    }
    change(&model, changes);
    qonnx(&["export", &model.display().to_string(), "--bits", "16", "--dtype", "f32", "-o", &artifact]);
    artifact
}

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa/coqa-mini.json");

/// What differs from the golden in one case.
fn differences(case: &Value) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lines = folder.path().join("lines.jsonl").display().to_string();
    let artifact = artifact(folder.path(), &case["changes"]);
    let golden = case["texts"].as_object().expect("texts");
    let limit = golden.len().to_string();
    let asked = [
        "eval",
        &artifact,
        "--task",
        "coqa",
        "--data",
        DATA,
        "--batch",
        "8",
        "--limit",
        &limit,
        "--predictions",
        &lines,
        "--json",
    ];
    let scores: Value = serde_json::from_str(&qonnx(&asked)).expect("JSON");
    let lines = fs::read_to_string(&lines).expect("eval wrote it");
    let lines: BTreeMap<String, Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|line| (line["id"].as_str().expect("an id").to_owned(), line["text"].clone()))
        .collect();
    assert_eq!(lines.len(), golden.len());
    let mut differ: Vec<String> = golden
        .iter()
        .filter(|(id, text)| lines[*id] != **text)
        .map(|(id, text)| format!("{}: {id}: lm-eval {text}, qonnx {}", case["name"], lines[id]))
        .collect();
    for metric in ["f1", "em"] {
        let (ours, theirs) = (scores[metric].as_f64().expect("a score"), case[metric].as_f64().expect("a score"));
        if (ours - theirs).abs() > 1e-12 {
            differ.push(format!("{}: {metric} {theirs} of lm-eval, {ours} of qonnx", case["name"]));
        }
    }
    differ
}

#[test]
fn texts_and_scores_are_those_of_lm_eval() {
    let golden: Value = serde_json::from_str(GOLDEN).expect("the golden is JSON");
    let cases = golden["cases"].as_array().expect("a list");
    assert!(cases.len() >= 12);
    let differ: Vec<String> = cases.iter().flat_map(differences).collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn what_is_not_followed_is_refused_under_lm_eval_and_noted_under_official() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path(), &json!([["generation_config.json", {"num_beams": 4, "repetition_penalty": 1.2}]]));
    let asked = ["eval", &artifact, "--task", "coqa", "--data", DATA, "--limit", "1", "--json"];
    let refused = run(&asked);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("num_beams = 4") && said.contains("protocol lm-eval cannot claim its scores"), "{said}");
    let scores: Value = serde_json::from_str(&qonnx(&[&asked[..], &["--protocol", "official"]].concat())).expect("JSON");
    let notes = [
        "answers were made under generation_config.json's repetition_penalty = 1.2",
        "generation_config.json's num_beams = 4 would change answers in Hugging Face and was not followed",
    ];
    assert_eq!(scores["notes"], json!(notes));
    // The record of an experiment has them among its warnings.
    let (model, results) = (folder.path().join("model").display().to_string(), folder.path().join("results"));
    let results_folder = results.display().to_string();
    let ran = [
        "run",
        "fp16_baseline",
        "--model",
        &model,
        "--coqa",
        DATA,
        "--protocol",
        "official",
        "--limit",
        "1",
        "--no-bench",
        "--results",
        &results_folder,
    ];
    qonnx(&ran);
    let record = fs::read_to_string(results.join("fp16_baseline_results.json")).expect("a record");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    let warnings = record["warnings"].as_array().expect("a list");
    assert!(notes.iter().all(|note| warnings.contains(&json!(note))), "{warnings:?}");
}

#[test]
fn an_answer_that_lm_eval_would_go_on_with_beyond_the_context_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let endless = json!({"max_new_tokens": 5000, "suppress_tokens": [1, 50], "eos_token_id": null});
    let short =
        json!([["generation_config.json", endless], ["config.json", {"max_position_embeddings": 700, "rope_scaling": null}]]);
    let artifact = artifact(folder.path(), &short);
    let ran = run(&["eval", &artifact, "--task", "coqa", "--data", DATA, "--limit", "1"]);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.contains("the end of the context of 700 tokens") && said.contains("max_new_tokens = 5000"), "{said}");
}

#[test]
fn a_tokenizer_that_transformers_builds_anew_is_refused_under_lm_eval_where_it_reads_otherwise() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path(), &json!([["tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"}]]));
    let asked = ["eval", &artifact, "--task", "coqa", "--data", DATA, "--limit", "1", "--json"];
    let refused = run(&asked);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("tokenizer_class LlamaTokenizerFast") && said.contains("--protocol official"), "{said}");
    let scores: Value = serde_json::from_str(&qonnx(&[&asked[..], &["--protocol", "official"]].concat())).expect("JSON");
    assert!(
        scores["notes"][0].as_str().is_some_and(|note| note.contains("as LlamaTokenizerFast, which reads")),
        "{}",
        scores["notes"]
    );
    // Every prompt that was made elsewhere is looked at, under one id too.
    let prompts = folder.path().join("prompts.jsonl").display().to_string();
    let line = |prompt: &str| json!({"id": "s", "prompt": prompt, "golds": ["x"]}).to_string();
    fs::write(&prompts, [line("The word."), line("The")].join("\n")).expect("the place is ours");
    let refused = run(&["eval", &artifact, "--task", "coqa", "--data", &prompts]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    // An experiment says so before it makes an artifact.
    let (model, results) = (folder.path().join("model").display().to_string(), folder.path().join("results"));
    let results_folder = results.display().to_string();
    let of = ["--model", &model, "--coqa", DATA, "--protocol", "lm-eval", "--no-bench", "--results", &results_folder];
    let refused = run(&[&["run", "fp16_baseline"], &of[..]].concat());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("tokenizer_class LlamaTokenizerFast"), "{said}");
    assert!(!results.join("fp16_baseline_results.json").exists());
}

#[test]
fn a_class_that_nothing_is_known_of_is_noted_as_that() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path(), &json!([["tokenizer_config.json", {"tokenizer_class": "CodeLlamaTokenizer"}]]));
    let asked = ["eval", &artifact, "--task", "coqa", "--data", DATA, "--limit", "1", "--json"];
    assert!(String::from_utf8_lossy(&run(&asked).stderr).contains("is not known to read these prompts"));
    let scores: Value = serde_json::from_str(&qonnx(&[&asked[..], &["--protocol", "official"]].concat())).expect("JSON");
    assert!(scores["notes"][0].as_str().is_some_and(|note| note.contains("is not known to read")), "{}", scores["notes"]);
}

#[test]
fn n_positions_is_the_harness_context_and_nobody_elses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = artifact(folder.path(), &json!([["config.json", {"n_positions": 256}]]));
    let asked = ["eval", &artifact, "--task", "coqa", "--data", DATA, "--limit", "2", "--json"];
    let refused = run(&asked);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("n_positions is 256, which lm-evaluation-harness takes for the context"), "{said}");
    let scores: Value = serde_json::from_str(&qonnx(&[&asked[..], &["--protocol", "official"]].concat())).expect("JSON");
    assert_eq!((&scores["truncated"], &scores["notes"]), (&json!(0), &json!([])));
}
