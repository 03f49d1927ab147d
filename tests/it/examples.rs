//! The library's examples run and say what they promise.

use std::path::Path;
use std::process::Command;

/// What the example of that name prints, which `cargo test` has built beside the program.
fn example(name: &str, arguments: &[&str]) -> String {
    let built = Path::new(env!("CARGO_BIN_EXE_qonnx")).with_file_name("examples").join(name);
    assert!(built.is_file(), "{} is not built; `cargo test` or `cargo build --examples` does", built.display());
    let ran = Command::new(built).args(arguments).output().expect("it starts");
    assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("UTF-8")
}

#[test]
fn gptq_of_one_matrix_costs_less_than_nearest() {
    let said = example("gptq_matrix", &[]);
    let numbers: Vec<f64> =
        said.lines().next().expect("a line").split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[1] > 0.0 && numbers[1] < 0.8 * numbers[0], "{said}");
}

#[test]
fn a_small_graph_is_written_and_run() {
    assert!(example("small_graph", &[]).contains("ONNX Runtime ["));
}

#[test]
fn an_artifact_is_loaded_and_goes_on() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let artifact = place.path().join("a").display().to_string();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");
    let export = ["export", fixture, "--bits", "4", "--dtype", "f32", "-o", &artifact];
    let made = Command::new(env!("CARGO_BIN_EXE_qonnx")).args(export).output().expect("qonnx starts");
    assert!(made.status.success());
    let prompt = "The village lies in";
    let said = example("generate", &[&artifact, prompt]);
    let generated = Command::new(env!("CARGO_BIN_EXE_qonnx"))
        .args(["generate", &artifact, prompt, "--max-new-tokens", "16", "--stop", "\\n"])
        .output()
        .expect("qonnx starts");
    let text = String::from_utf8(generated.stdout).expect("UTF-8");
    assert!(said.contains(text.trim_end()) && said.trim_end().ends_with("tokens"), "{said:?} and {text:?}");
}
