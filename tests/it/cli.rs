//! Every subcommand as a script uses it: the names in its `--json`, its exit code, its help, what a stopped run leaves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");

fn qonnx(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(arguments).output().expect("qonnx starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("qonnx writes UTF-8")
}

/// Runs with `--json`; stdout must be one object on one line.
#[track_caller]
fn report(arguments: &[&str], code: i32) -> Value {
    let output = qonnx(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.matches('\n').count(), 1, "{arguments:?}: {stdout}");
    let value: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}"));
    assert!(value.is_object(), "{arguments:?}: {stdout}");
    value
}

#[track_caller]
fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {report}"))
}

#[track_caller]
fn expect_between(report: &Value, name: &str, low: f64, high: f64) {
    let value = number(report, name);
    assert!((low..=high).contains(&value), "{name} is {value}, expected {low} to {high}");
}

/// The embedded model at 16 and 4 bits, in f32, exported once by the program.
struct Artifacts {
    folder: TempDir,
    int4: Value,
}

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let export = |bits: &str| {
        let output = folder.path().join(bits);
        report(&["export", MODEL, "--bits", bits, "--dtype", "f32", "-o", path(&output)], 0)
    };
    export("16");
    let int4 = export("4");
    Artifacts { folder, int4 }
});

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn artifact(bits: &str) -> String {
    path(&ARTIFACTS.folder.path().join(bits)).to_owned()
}

fn questions() -> String {
    format!("{MODEL}/coqa-mini.json")
}

fn place() -> (TempDir, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let root = folder.path().to_owned();
    (folder, move |name: &str| path(&root.join(name)).to_owned())
}

#[test]
fn export_and_plan_report_sizes() {
    let exported = &ARTIFACTS.int4;
    let folder = PathBuf::from(artifact("4"));
    let bytes: u64 =
        fs::read_dir(&folder).expect("it was exported").map(|e| e.expect("readable").metadata().expect("a file").len()).sum();
    assert_eq!(exported["artifact_bytes"].as_u64(), Some(bytes));
    // Codes of four bits and an f16 scale for 32 of them.
    assert_eq!(number(exported, "bits_per_weight_linears"), 4.5);
    expect_between(exported, "bits_per_weight_model", 4.5, 16.0);
    expect_between(exported, "seconds", 0.0, 120.0);
    expect_between(exported, "peak_rss_bytes", 1e6, 4e9);
    let planned = report(&["plan", MODEL, "--bits", "4", "--dtype", "f32", "--batch", "3", "--context", "100"], 0);
    for same in ["bits_per_weight_linears", "bits_per_weight_model"] {
        assert_eq!(planned[same], exported[same]);
    }
    assert!((number(&planned, "artifact_bytes") / bytes as f64 - 1.0).abs() < 1e-3, "{planned}");
    // Six layers of keys and values, two heads of 64 each, 3 × 100 positions of f32; logits of 3 × 4096.
    assert_eq!(planned["vram"]["kv_cache_bytes"], 6 * 2 * 2 * 64 * 300 * 4);
    assert_eq!(planned["vram"]["logits_bytes"], 3 * 4096 * 4);
    assert_eq!(planned["refusals"].as_array().map(Vec::len), Some(0));
    let most = &usize::MAX.to_string();
    let beyond = report(&["plan", MODEL, "--batch", most, "--context", "8192"], 0);
    assert_eq!(beyond["vram"]["total_bytes"], u64::MAX);
}

#[test]
fn an_override_to_another_format_has_that_formats_granularity() {
    let group_sizes = |flags: &[&str]| {
        let planned = report(&[&["plan", MODEL], flags].concat(), 0);
        let size = |kind: &str| {
            let mut weights = planned["weights"].as_array().expect("a list").iter();
            let weight = weights.find(|weight| weight["name"].as_str().is_some_and(|name| name.contains(kind)));
            weight.unwrap_or_else(|| panic!("no {kind}"))["group_size"].as_u64()
        };
        ["q_proj", "o_proj", "down_proj"].map(size)
    };
    // INT8 has a scale for each output feature, all of its 256 input features together.
    let mixed = ["--method", "llm-int8", "--override", "*.o_proj=nf4", "--override", "*.down_proj=int4"];
    assert_eq!(group_sizes(&mixed), [Some(256), Some(64), Some(32)]);
    // A group size that was asked for is for all.
    let grouped = ["--bits", "4", "--group-size", "128", "--override", "*.down_proj=int8"];
    assert_eq!(group_sizes(&grouped), [Some(128), Some(128), Some(128)]);
}

#[test]
fn a_plan_lists_its_refusals() {
    let (folder, at) = place();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(Path::new(MODEL).join(name), folder.path().join(name)).expect("the fixture can be copied");
    }
    let config = fs::read_to_string(at("config.json"))
        .expect("it was copied")
        .replace("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7");
    fs::write(at("config.json"), config).expect("the place is ours");
    let planned = report(&["plan", path(folder.path())], 2);
    let refusals: Vec<&str> = planned["refusals"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(refusals.len(), 1, "one fact, one sentence: {refusals:#?}");
    let says = ["config.json says 7 layers, the checkpoint has 6", "model.layers.6."];
    assert!(says.iter().all(|part| refusals[0].contains(part)), "{refusals:#?}");
}

#[test]
fn coqa_reports_scores_by_both_protocols() {
    for (protocol, questions_asked, stderr_over) in [("lm-eval", 25.0, "questions"), ("official", 248.0, "conversations")] {
        let scores = report(&["eval", &artifact("16"), "--task", "coqa", "--protocol", protocol, "--data", &questions()], 0);
        assert_eq!((scores["protocol"].as_str(), scores["stderr_over"].as_str()), (Some(protocol), Some(stderr_over)));
        assert_eq!(number(&scores, "questions"), questions_asked, "{scores}");
        // The embedded model answers these far better than chance, and not perfectly.
        expect_between(&scores, "f1", 0.15, 0.95);
        expect_between(&scores, "em", 0.05, number(&scores, "f1"));
        expect_between(&scores, "f1_stderr", 1e-4, 0.15);
        expect_between(&scores, "em_stderr", 1e-4, 0.15);
        expect_between(&scores, "questions_per_second", 0.1, 1e6);
        let domains = scores["by_domain"].as_object().expect("an object");
        let counted: f64 = domains.values().map(|domain| number(domain, "questions")).sum();
        assert_eq!((domains.len(), counted), (5, questions_asked));
        let weighted: f64 = domains.values().map(|domain| number(domain, "questions") * number(domain, "f1")).sum();
        assert!((weighted / counted - number(&scores, "f1")).abs() < 1e-12);
    }
}

#[test]
fn perplexity_and_divergence_report_what_they_measured() {
    let text = format!("{MODEL}/perplexity.txt");
    let measure = |bits: &str, more: &[&str]| {
        report(&[&["eval", &artifact(bits), "--text", &text, "--windows", "3", "--window", "256"], more].concat(), 0)
    };
    let whole = measure("16", &["--task", "perplexity"]);
    assert_eq!(number(&whole, "tokens"), 3.0 * 255.0);
    assert!((number(&whole, "nll").exp() / number(&whole, "perplexity") - 1.0).abs() < 1e-12);
    expect_between(&whole, "perplexity", 5.0, 200.0);
    let four = measure("4", &["--task", "perplexity"]);
    assert!(number(&four, "perplexity") > number(&whole, "perplexity"), "{four} {whole}");

    let reference = artifact("16");
    let divergence = measure("4", &["--task", "kl", "--reference", &reference]);
    expect_between(&divergence, "kl_mean", 1e-3, 1.0);
    expect_between(&divergence, "kl_p50", 1e-4, number(&divergence, "kl_mean"));
    expect_between(&divergence, "kl_p99", number(&divergence, "kl_mean"), 10.0);
    expect_between(&divergence, "same_top1", 0.6, 0.999);
    let none = measure("16", &["--task", "kl", "--reference", &reference]);
    assert!(number(&none, "kl_mean") < 1e-6 && number(&none, "same_top1") == 1.0, "{none}");

    let (_folder, at) = place();
    // With as many logits kept as there are, the file loses nothing but the digits of f32.
    let cached = ["--task", "kl", "--reference", &reference, "--reference-cache", &at("cache"), "--top-k", "4096"];
    let [written, read] = [measure("4", &cached), measure("4", &cached)];
    assert_eq!(written, read);
    assert!((number(&written, "kl_mean") - number(&divergence, "kl_mean")).abs() < 1e-5, "{written} {divergence}");
}

#[test]
fn a_killed_evaluation_goes_on_where_it_stopped() {
    let (_folder, at) = place();
    let run = |predictions: &str| {
        let more = ["--protocol", "official", "--limit", "40", "--predictions", predictions];
        report(&[&["eval", &artifact("4"), "--task", "coqa", "--data", &questions()], &more[..]].concat(), 0)
    };
    let whole = run(&at("whole.jsonl"));
    assert_eq!(number(&whole, "resumed"), 0.0);
    let lines = fs::read(at("whole.jsonl")).expect("predictions were asked for");
    // Killed in the middle of a line.
    let cut = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(16).expect("40 lines").0 + 100;
    fs::write(at("killed.jsonl"), &lines[..cut]).expect("the place is ours");
    let resumed = run(&at("killed.jsonl"));
    assert_eq!(number(&resumed, "resumed"), 17.0);
    for same in ["f1", "em", "f1_stderr", "em_stderr", "questions", "by_domain"] {
        assert_eq!(resumed[same], whole[same], "{same}");
    }
    let answers = |file: &str| -> BTreeSet<(String, u64, String)> {
        let lines = fs::read_to_string(file).expect("predictions were asked for");
        let line = |line: &str| -> Value { serde_json::from_str(line).expect("a line is JSON") };
        let key = |line: Value| {
            let name = |name: &str| line[name].as_str().expect("a string").to_owned();
            (name("id"), line["turn_id"].as_u64().expect("a number"), name("text"))
        };
        lines.lines().map(line).map(key).collect()
    };
    assert_eq!(answers(&at("killed.jsonl")), answers(&at("whole.jsonl")));
    let again = ["eval", &artifact("4"), "--task", "coqa", "--rescore", "--predictions", &at("killed.jsonl")];
    assert_eq!(report(&again, 0)["f1"], whole["f1"]);
    // The lines of one artifact are no beginning for another.
    let other = qonnx(&[
        "eval",
        &artifact("16"),
        "--task",
        "coqa",
        "--protocol",
        "official",
        "--data",
        &questions(),
        "--predictions",
        &at("whole.jsonl"),
    ]);
    assert_eq!(other.status.code(), Some(2));
    assert!(text(&other.stderr).contains("written by another run"), "{}", text(&other.stderr));
}

#[test]
fn official_predictions_have_the_official_form() {
    let (_folder, at) = place();
    let official = at("official.json");
    let more = ["--limit", "30", "--protocol", "official", "--official-predictions", &official];
    report(&[&["eval", &artifact("16"), "--task", "coqa", "--data", &questions()], &more[..]].concat(), 0);
    let predictions: Value = serde_json::from_slice(&fs::read(official).expect("it was asked for")).expect("JSON");
    let predictions = predictions.as_array().expect("a list");
    assert_eq!(predictions.len(), 30);
    for prediction in predictions {
        let names: Vec<&str> = prediction.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(names, ["id", "turn_id", "answer"]);
        assert!(prediction["id"].is_string() && prediction["turn_id"].is_u64() && prediction["answer"].is_string());
    }
}

#[test]
fn two_runs_are_compared_on_the_same_questions() {
    let (_folder, at) = place();
    let scores = ["16", "4"].map(|bits| {
        let more = ["--protocol", "official", "--limit", "60", "--predictions", &at(bits)];
        report(&[&["eval", &artifact(bits), "--task", "coqa", "--data", &questions()], &more[..]].concat(), 0)
    });
    let compared = report(&["compare", &at("16"), &at("4")], 0);
    for score in ["f1", "em"] {
        let difference = &compared[score];
        assert_eq!((&difference["a"], &difference["b"]), (&scores[0][score], &scores[1][score]));
        let gap = number(difference, "b") - number(difference, "a");
        assert!((number(difference, "difference") - gap).abs() < 1e-12);
        let [low, high] = [0, 1].map(|end| difference["ci95"][end].as_f64().expect("a number"));
        assert!(low <= gap && gap <= high, "{difference}");
        expect_between(difference, "smallest_detectable", 0.0, 1.0);
    }
    expect_between(&compared["mcnemar"], "p_exact", 0.0, 1.0);
    let same = report(&["compare", &at("16"), &at("16")], 0);
    assert_eq!(number(&same["f1"], "difference"), 0.0);
}

#[test]
fn generate_streams_what_its_report_says() {
    let prompt = "The old dog lay down by the";
    let arguments = ["generate", &artifact("4"), prompt, "--max-new-tokens", "40"];
    let reported = report(&arguments, 0);
    expect_between(&reported, "new_tokens", 1.0, 40.0);
    expect_between(&reported, "prompt_tokens", 6.0, 20.0);
    expect_between(&reported, "tokens_per_second", 1.0, 1e6);
    let streamed = qonnx(&arguments);
    assert_eq!(text(&streamed.stdout), format!("{}\n", reported["text"].as_str().expect("a string")));
    assert!(text(&streamed.stderr).contains("tokens/s"), "{}", text(&streamed.stderr));
    let ids = reported["ids"].as_array().expect("a list").len();
    assert!(ids >= 1 && reported["new_tokens"].as_u64().expect("a number") as usize - ids <= 1, "{reported}");

    let first_word = reported["text"].as_str().expect("a string").split_whitespace().next().expect("a word").to_owned();
    let stopped = report(&[&arguments[..], &["--stop", &first_word]].concat(), 0);
    assert_eq!(stopped["stop_reason"], "stop-string");
    assert!(!stopped["text"].as_str().expect("a string").contains(&first_word));
    let piped = Command::new("bash")
        .args(["-c", r#"printf %s "$2" | "$0" generate "$1" - --max-new-tokens 40 2>/dev/null"#])
        .args([env!("CARGO_BIN_EXE_qonnx"), &artifact("4"), prompt])
        .output();
    assert_eq!(piped.expect("bash is there").stdout, streamed.stdout);
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is_one() {
    let int4 = artifact("4");
    // `true` ends without reading, and the pipe is closed long before qonnx writes.
    let script = r#""$@" 2>&1 >&3 | cat; exit "${PIPESTATUS[0]}""#;
    for arguments in [&["plan", MODEL][..], &["completions", "zsh"], &["generate", &int4, "The dog", "--max-new-tokens", "4"]] {
        let closed = format!("exec 3> >(exec true); sleep 0.2; {script}");
        let mut command = Command::new("bash");
        let output =
            command.args(["-c", &closed, "bash", env!("CARGO_BIN_EXE_qonnx")]).args(arguments).output().expect("bash is there");
        let stderr = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("error"), "{arguments:?}: {stderr}");
    }
    let full = format!("exec 3> /dev/full; {script}");
    let mut command = Command::new("bash");
    let output = command.args(["-c", &full, "bash", env!("CARGO_BIN_EXE_qonnx"), "plan", MODEL]).output().expect("bash is there");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("error: stdout cannot be written: No space left"), "{}", text(&output.stdout));
}

#[test]
fn inspect_and_verify_answer_with_their_exit_code() {
    let inspected = report(&["inspect", &artifact("4")], 0);
    assert_eq!(inspected["not_fused"].as_array().map(Vec::len), Some(0));
    let fused = inspected["matmuls"].as_array().expect("a list").iter().filter(|matmul| matmul["quantized"] == true).count();
    assert_eq!(fused, 42);
    let verified = report(&["verify", &artifact("4")], 0);
    let checks = verified["checks"].as_array().expect("a list");
    assert_eq!(checks.len(), 5);
    assert!(checks.iter().all(|check| check["passed"] == true), "{verified}");

    let (folder, at) = place();
    for entry in fs::read_dir(artifact("4")).expect("it was exported") {
        let file = entry.expect("readable").path();
        fs::copy(&file, folder.path().join(file.file_name().expect("a name"))).expect("the place is ours");
    }
    let mut data = fs::read(at("model.onnx.data")).expect("it was copied");
    let middle = data.len() / 2;
    data[middle] ^= 1;
    fs::write(at("model.onnx.data"), data).expect("the place is ours");
    let broken = report(&["verify", path(folder.path())], 1);
    assert_eq!(broken["checks"][1]["passed"], false);
    assert!(broken["checks"][1]["detail"].as_str().expect("a string").contains("model.onnx.data has another BLAKE3"), "{broken}");
}

#[test]
fn doctor_names_what_was_found() {
    let output = qonnx(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let findings = report["findings"].as_array().expect("a list");
    assert_eq!((&findings[0]["what"], &findings[0]["found"]), (&"ONNX Runtime".into(), &true.into()));
    assert_eq!(output.status.code(), Some(0));
    let missing = Command::new(env!("CARGO_BIN_EXE_qonnx")).arg("doctor").env("ORT_DYLIB_PATH", "/nowhere.so").output();
    let missing = missing.expect("qonnx starts");
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stdout).contains("run scripts/get-onnxruntime.sh"), "{}", text(&missing.stdout));
}

const SUBCOMMANDS: [&str; 13] = [
    "plan",
    "export",
    "generate",
    "eval",
    "compare",
    "bench",
    "run",
    "sweep",
    "report",
    "inspect",
    "verify",
    "doctor",
    "completions",
];

#[test]
fn help_shows_examples_that_are_of_that_subcommand() {
    let top = text(&qonnx(&["--help"]).stdout);
    for name in SUBCOMMANDS {
        assert!(top.contains(&format!("\n  {name} ")), "{name} is not in:\n{top}");
        let help = text(&qonnx(&[name, "--help"]).stdout);
        let (_, examples) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name} --help has no examples:\n{help}"));
        assert!(examples.lines().any(|line| line.starts_with(&format!("  qonnx {name}"))), "{name}: {examples}");
    }
}

#[test]
fn completions_parse_and_know_every_subcommand() {
    for shell in ["bash", "zsh", "fish"] {
        let output = qonnx(&["completions", shell]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
        let script = text(&output.stdout);
        for name in SUBCOMMANDS {
            assert!(script.contains(name), "{shell}: {name}");
        }
        assert!(script.contains("reference-cache"), "{shell}");
    }
    let (_folder, at) = place();
    fs::write(at("completions.bash"), qonnx(&["completions", "bash"]).stdout).expect("the place is ours");
    let parsed = Command::new("bash").args(["-n", &at("completions.bash")]).output().expect("bash is there");
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{}", text(&parsed.stderr));
}
