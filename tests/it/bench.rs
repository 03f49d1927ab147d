//! `qonnx bench` as a script uses it. Nothing here asserts how long anything takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");
/// What keeps a run short: what is tested are names, counts and ratios.
const QUICK: [&str; 8] = ["--gen", "4", "--warmup", "0", "--max-repeats", "6", "--threads", "1"];

fn qonnx(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(arguments).output().expect("qonnx starts")
}

/// The embedded model in 4 bits and f32, exported once.
static ARTIFACT: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let target = folder.path().join("int4");
    let output = qonnx(&["export", MODEL, "--bits", "4", "--dtype", "f32", "-o", text(&target)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (folder, target)
});

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn bench(arguments: &[&str]) -> Output {
    qonnx(&[&["bench", text(&ARTIFACT.1)], &QUICK[..], arguments].concat())
}

#[track_caller]
fn stdout(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("qonnx writes UTF-8")
}

#[track_caller]
fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {value}"))
}

#[test]
fn numbers_of_a_point_belong_together() {
    let report: Value = serde_json::from_str(&stdout(&bench(&["--batch", "1,3", "--prompt", "16", "--json"]), 0)).unwrap();
    assert_eq!((report["ep"].as_str(), report["threads"].as_u64()), (Some("cpu"), Some(1)));
    let files = ["model.onnx", "model.onnx.data"].map(|file| fs::metadata(ARTIFACT.1.join(file)).unwrap().len());
    assert_eq!(report["model_bytes"].as_u64(), Some(files.iter().sum()));
    assert_eq!(report["peak_device_bytes"], Value::Null);
    assert!(number(&report, "peak_rss_bytes") > number(&report, "weights_memory_bytes"));
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for (point, batch) in points.iter().zip([1.0, 3.0]) {
        let point = &point["outcome"];
        assert_eq!(point["outcome"], "measured");
        let (prefill, decode) = (&point["prefill_ms"], &point["decode_ms_per_token"]);
        // Six repeats; two loops of three steps are what a median's interval needs at least.
        assert_eq!(prefill["values"].as_array().unwrap().len(), 6);
        let steps = decode["values"].as_array().unwrap().len();
        assert!(steps >= 6 && steps.is_multiple_of(3), "{steps}");
        let close = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-9, "{got}, expected {expected}");
        close(number(point, "prefill_tokens_per_second"), batch * 16.0 * 1e3 / number(prefill, "p50"));
        close(number(point, "decode_tokens_per_second"), batch * 1e3 / number(decode, "p50"));
        let bandwidth = number(point, "bytes_per_step") * 1e3 / number(decode, "p50");
        close(number(point, "bandwidth_fraction"), bandwidth / number(&report, "copy_bytes_per_second"));
        for samples in [prefill, decode] {
            let [min, p50, p95, p99, max] = ["min", "p50", "p95", "p99", "max"].map(|name| number(samples, name));
            assert!(min <= p50 && p50 <= p95 && p95 <= p99 && p99 <= max, "{samples}");
        }
        assert_eq!(point["ttft_ms"].is_null(), batch > 1.0);
    }
    // Two more rows hold two more sequences' keys and values: 16 + 2 tokens of each.
    let bytes = |at: usize| number(&points[at]["outcome"], "bytes_per_step");
    let config: Value = serde_json::from_str(&fs::read_to_string(ARTIFACT.1.join("config.json")).unwrap()).unwrap();
    let [layers, heads, dim] = ["num_hidden_layers", "num_key_value_heads", "head_dim"].map(|name| number(&config, name));
    assert_eq!(bytes(1) - bytes(0), 2.0 * 18.0 * layers * 2.0 * heads * dim * 4.0);
}

#[test]
fn a_batch_that_no_memory_holds_is_a_row_and_the_others_are_measured() {
    let output = bench(&["--batch", "1,1000000000", "--prompt", "16", "--json"]);
    let report: Value = serde_json::from_str(&stdout(&output, 0)).unwrap();
    let outcomes: Vec<&str> =
        report["points"].as_array().unwrap().iter().map(|point| point["outcome"]["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["measured", "out-of-memory"]);
    let table = stdout(&bench(&["--batch", "1,1000000000", "--prompt", "16"]), 0);
    assert!(table.contains("out of memory"), "{table}");
    assert!(table.contains("batch 1000000000, prompt 16: out of memory while making room for the batch"), "{table}");
}

#[test]
fn csv_and_markdown_have_a_line_for_each_point() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("speed.csv");
    let markdown = stdout(&bench(&["--batch", "1,2", "--prompt", "8", "--csv", text(&file), "--markdown"]), 0);
    let rows: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    let cells = rows[0].matches('|').count();
    assert_eq!(rows.len(), 4, "{markdown}");
    assert!(rows.iter().all(|row| row.matches('|').count() == cells), "{markdown}");
    let mut reader = csv::Reader::from_path(&file).unwrap();
    let header = reader.headers().unwrap().clone();
    let lines: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let field = |line: &csv::StringRecord, name: &str| line[header.iter().position(|field| field == name).unwrap()].to_owned();
    assert_eq!(lines.iter().map(|line| field(line, "batch")).collect::<Vec<_>>(), ["1", "2"]);
    for line in &lines {
        let number = |name: &str| field(line, name).parse::<f64>().unwrap();
        assert_eq!(field(line, "outcome"), "measured");
        assert!(number("decode_ms_per_token_ci95_low") <= number("decode_ms_per_token_p50"));
        assert!(
            (number("decode_tokens_per_second") * number("decode_ms_per_token_p50") / 1e3 / number("batch") - 1.0).abs() < 1e-9
        );
        assert_eq!(field(line, "joules_per_token"), "");
    }
    let on_stdout = stdout(&bench(&["--batch", "1", "--prompt", "8", "--csv", "-"]), 0);
    assert_eq!((on_stdout.lines().count(), on_stdout.starts_with("artifact,ep,threads,")), (2, true));
}

#[test]
fn the_measured_graph_can_be_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decode.onnx");
    stdout(&bench(&["--batch", "1", "--prompt", "8", "--save-graph", text(&file)]), 0);
    let model = qonnx::onnx::decode(&fs::read(&file).unwrap()).unwrap();
    for name in ["input_ids", "seqlens_k", "next_tokens"] {
        assert!(model.find(name).is_some(), "{name}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_loaded() {
    let cases: [(&[&str], &str); 7] = [
        (&["--prompt", "16,100000"], "--prompt 100000 and --gen 4 take 100004 positions, the artifact covers "),
        (&["--min-repeats", "7"], "--min-repeats 7 is more than --max-repeats 6; lower the one or raise the other"),
        (&["--batch", "1,0"], "expected a whole number from 1 on"),
        (&["--confidence", "2"], "expected a fraction between 0 and 1"),
        (&["--csv", "/nowhere/at/all.csv"], "output /nowhere/at/all.csv: its parent folder does not exist; create it first"),
        (&["--json", "--markdown"], "cannot be used with"),
        (&["--json", "--csv", "-"], "--csv - writes to stdout, and so does --json; give --csv a file"),
    ];
    for (arguments, says) in cases {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(says), "{arguments:?}: {said}");
    }
    let output = qonnx(&["bench", MODEL]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("qonnx.json is missing; give a folder written by `qonnx export`"), "{said}");
}
