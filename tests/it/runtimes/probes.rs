//! The probes of `graphs/probes`, asked anew: every runtime says what its table says. A release that says otherwise is to be looked at, and
//! the table made again.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Runtime, limited, output};
use crate::support::{tiny, tools};

fn folder() -> PathBuf {
    tiny::root().join("graphs/probes")
}

fn python(script: &str) -> Command {
    let mut command = limited(&Runtime::Onnxruntime.interpreter());
    command.arg(folder().join(script));
    command
}

/// The version and, for each probe, what was said, without the size of errors: that depends on the processor.
fn without_errors(mut runtime: Value) -> Value {
    let answers = runtime["answers"].as_object_mut().expect("probes by name");
    answers.values_mut().filter_map(Value::as_object_mut).for_each(|answer| {
        answer.remove("error");
    });
    runtime
}

/// Asks a runtime the probes by the Python of `interpreter`.
#[track_caller]
fn check(runtime: &str, interpreter: &Path) {
    let made = tempfile::tempdir().expect("a temporary folder can be made");
    let mut make = python("make.py");
    make.arg(made.path());
    output(make, "");
    let mut run = limited(interpreter);
    run.arg(folder().join("run.py")).arg(runtime).arg(made.path());
    let said: Value = serde_json::from_str(&output(run, "")).expect("it prints JSON");
    let text = std::fs::read_to_string(folder().join("answers.json")).expect("the table is there");
    let kept: Value = serde_json::from_str(&text).expect("the table is JSON");
    let (said, kept) = (without_errors(said), without_errors(kept[runtime].clone()));
    assert_eq!(said["version"], kept["version"], "{runtime}: make graphs/probes/answers.json again, its README.md says how");
    let probes = kept["answers"].as_object().expect("probes by name");
    assert_eq!(said["answers"].as_object().expect("probes by name").len(), probes.len(), "{runtime}");
    let changed = probes.iter().filter(|(probe, answer)| said["answers"][probe] != **answer);
    let changed: Vec<String> =
        changed.map(|(probe, answer)| format!("{probe}: it was {answer} and is {}", said["answers"][probe])).collect();
    assert!(changed.is_empty(), "{runtime}\n{}", changed.join("\n"));
}

fn have(variables: &[&str]) -> bool {
    variables.iter().all(|variable| tools::has(variable))
}

#[test]
fn onnxruntime_says_what_the_table_says() {
    if have(&["QONNX_PYTHON"]) {
        check("onnxruntime", &Runtime::Onnxruntime.interpreter());
    }
}

#[test]
fn openvino_says_what_the_table_says() {
    if have(&["QONNX_PYTHON", "QONNX_RUNTIME_OPENVINO"]) {
        check("openvino", &Runtime::OpenVino.interpreter());
    }
}

#[test]
fn node_says_what_the_table_says() {
    if have(&["QONNX_PYTHON", "QONNX_RUNTIME_NODE"]) {
        check("node", &Runtime::Onnxruntime.interpreter());
    }
}

#[test]
fn wasm_says_what_the_table_says() {
    if have(&["QONNX_PYTHON", "QONNX_RUNTIME_NODE", "QONNX_CHROMIUM"]) {
        check("wasm", &Runtime::Onnxruntime.interpreter());
    }
}

#[test]
fn the_page_is_made_of_the_answers() {
    if have(&["QONNX_PYTHON"]) {
        let page = std::fs::read_to_string(folder().join("README.md")).expect("the page is there");
        assert_eq!(output(python("table.py"), ""), page, "run graphs/probes/table.py");
    }
}
