//! `results/lab/criterion_table.py` on results written by hand.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::tools;

fn estimate(point: f64, low: f64, high: f64) -> Value {
    json!({"median": {"point_estimate": point, "confidence_interval": {"lower_bound": low, "upper_bound": high}}})
}

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("the place is ours");
    fs::write(path, value.to_string()).expect("the place is ours");
}

fn table(folder: &Path) -> Output {
    let python = std::env::var_os("QONNX_PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/lab/criterion_table.py");
    Command::new(python).arg(script).arg(folder).args(["--machine", "shared"]).output().expect("Python starts")
}

#[test]
fn each_benchmark_is_a_row_with_its_change_against_the_run_before() {
    if !tools::finds("python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    write(&at("pack/int4/new/benchmark.json"), &json!({"full_id": "pack/int4", "throughput": {"Elements": 3_000_000}}));
    write(&at("pack/int4/new/estimates.json"), &estimate(1_500_000.0, 1_450_000.0, 1_600_000.0));
    write(&at("pack/int4/change/estimates.json"), &estimate(-0.25, -0.27, -0.22));
    write(&at("copy/new/benchmark.json"), &json!({"full_id": "copy", "throughput": {"Bytes": 8_000}}));
    write(&at("copy/new/estimates.json"), &estimate(812.5, 800.0, 830.0));
    write(&at("copy/change/estimates.json"), &estimate(0.01, -0.02, 0.03));
    write(&at("headers/new/benchmark.json"), &json!({"full_id": "headers", "throughput": null}));
    write(&at("headers/new/estimates.json"), &estimate(12_340.0, 12_000.0, 12_800.0));
    let output = table(folder.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<&str> = said.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(
        rows,
        [
            "| copy | 812 ns | 800 ns – 830 ns | 9.85 GB/s | no change |",
            "| headers | 12.3 µs | 12.0 µs – 12.8 µs |  | – |",
            "| pack/int4 | 1.50 ms | 1.45 ms – 1.60 ms | 2.00 G/s | -25.0 % (-27.0 … -22.0) |",
        ]
    );
    assert!(said.contains(", shared; Linux"), "{said}");
}

#[test]
fn a_folder_without_results_is_a_sentence() {
    if !tools::finds("python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = table(folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds no benchmarks; run cargo bench first"));
}
