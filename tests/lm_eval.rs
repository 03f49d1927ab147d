//! CoQA through the program equals lm-evaluation-harness's hf model, text by text, under tokenizer and generation configs that
//! checkpoints really have. The golden is from `scripts/golden_lm_eval.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");
const GOLDEN: &str = include_str!("goldens/lm_eval.json");

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

fn qonnx(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_qonnx")).args(args).output().expect("qonnx starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What differs from the golden in one case.
fn differences(case: &Value) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (model, artifact, lines) = (at("model"), at("artifact"), at("lines.jsonl"));
    fs::create_dir(&model).expect("the place is ours");
    for file in fs::read_dir(FIXTURE).expect("the fixture is there") {
        let file = file.expect("readable");
        fs::copy(file.path(), Path::new(&model).join(file.file_name())).expect("the place is ours");
    }
    change(Path::new(&model), &case["changes"]);
    qonnx(&["export", &model, "--bits", "16", "--dtype", "f32", "-o", &artifact]);
    let data = format!("{FIXTURE}/coqa-mini.json");
    let golden = case["texts"].as_object().expect("texts");
    let limit = golden.len().to_string();
    let asked = [
        "eval",
        &artifact,
        "--task",
        "coqa",
        "--data",
        &data,
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
