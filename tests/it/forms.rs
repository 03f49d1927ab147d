//! One model for several targets: the same integers everywhere, and whatever a target's form is, the same logits.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use qonnx::record::Manifest;
use serde_json::Value;

use crate::support::program::{done, model, refused};
use crate::support::{small, tools};

const TARGETS: [&str; 3] = ["ort", "portable", "matmulnbits"];
/// Flags of one of each kind of numbers that all three hold.
const KINDS: [&[&str]; 7] = [
    &["--bits", "16"],
    &["--bits", "8"],
    &["--bits", "8", "--asymmetric", "--group-size", "64"],
    &["--bits", "4"],
    &["--bits", "3", "--group-size", "64"],
    &["--bits", "5", "--asymmetric"],
    &["--bits", "2"],
];

/// A folder with an artifact of the embedded model for each target.
fn exported(flags: &[&str]) -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let output = place.path().join("out").display().to_string();
    let targets = TARGETS.join(",");
    done(&[&["export", &model(), "--dtype", "f32", "--target", &targets, "-o", &output], flags].concat());
    place
}

#[test]
fn every_target_holds_the_same_integers_and_scales_and_does_what_they_say() {
    for flags in KINDS {
        let place = exported(flags);
        let folder = |target: &str| place.path().join("out").join(target);
        let manifests = TARGETS.map(|target| Manifest::load(&folder(target)).expect("it was just written"));
        let is_quantized = |format: &str| !["f16", "bf16", "f32"].contains(&format);
        let digests = |manifest: &Manifest| -> Vec<(String, String)> {
            let quantized = manifest.weights.iter().filter(|weight| is_quantized(&weight.format));
            quantized.map(|weight| (weight.name.clone(), weight.digest.clone())).collect()
        };
        assert_eq!(digests(&manifests[0]).len(), if flags == KINDS[0] { 0 } else { 42 });
        for (target, manifest) in TARGETS.iter().zip(&manifests) {
            assert_eq!(manifest.target.name(), *target);
            assert_eq!(digests(manifest), digests(&manifests[0]), "{flags:?} {target}");
            // Decodes every weight from the file itself, and generates.
            done(&["verify", &folder(target).display().to_string()]);
        }
        let left: Vec<_> = std::fs::read_dir(place.path().join("out")).expect("it is there").collect();
        assert_eq!(left.len(), TARGETS.len(), "nothing beside them: {left:?}");
    }
}

/// Stock onnxruntime on each folder, a batch of three rows of unequal lengths padded on either side; prints the largest difference from
/// rows alone, and from the first folder's rows alone, relative to the largest logit.
const COMPARE: &str = r#"
import json, sys, numpy as np, onnx, onnxruntime as ort
rows, first, report = [[5, 99, 1023, 77, 300, 12, 8], [40, 41, 2000], [9, 8, 7, 6, 5]], None, {}
for folder in sys.argv[1:]:
    onnx.checker.check_model(folder + "/model.onnx", full_check=True)
    model = onnx.load(folder + "/model.onnx", load_external_data=False)
    for node in model.graph.node:  # what rounds activations is no question of the form
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    options = ort.SessionOptions(); options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]

    def run(ids, mask, cache):
        out = dict(zip(names, session.run(None, {"input_ids": ids, "attention_mask": mask, **cache})))
        return out["logits"], {name.replace("present", "past_key_values"): out[name] for name in names if name != "logits"}

    def logits(batch, side):
        """Of each row's tokens, and of two more that it is given afterwards."""
        longest = max(map(len, batch))
        pads = [(longest - len(row), 0) if side == "left" else (0, longest - len(row)) for row in batch]
        ids = np.array([np.pad(row, pad, constant_values=3) for row, pad in zip(batch, pads)], np.int64)
        mask = np.array([np.pad(np.ones(len(row), np.int64), pad) for row, pad in zip(batch, pads)])
        cache = {v.name: np.zeros((len(batch), v.shape[1], 0, v.shape[3]), np.float32) for v in session.get_inputs() if v.name.startswith("past")}
        out, cache = run(ids, mask, cache)
        parts = [[out[at, left:longest - right]] for at, (left, right) in enumerate(pads)]
        for token in (17, 1234):
            mask = np.concatenate([mask, np.ones((len(batch), 1), np.int64)], 1)
            out, cache = run(np.full((len(batch), 1), token, np.int64), mask, cache)
            for at in range(len(batch)):
                parts[at].append(out[at])
        return [np.concatenate(part) for part in parts]

    alone = [logits([row], "left")[0] for row in rows]
    first = first or alone
    apart = lambda a, b: max(float(abs(x - y).max() / abs(y).max()) for x, y in zip(a, b))
    sides = {side: apart(logits(rows, side), alone) for side in ("left", "right")}
    report[folder] = {"first": apart(alone, first), "domains": sorted(o.domain for o in model.opset_import), "opset": model.opset_import[0].version, **sides}
print(json.dumps(report))
"#;

#[test]
fn every_form_gives_the_same_logits_whatever_side_rows_are_padded_on() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    for flags in KINDS {
        let place = exported(flags);
        let folders = TARGETS.map(|target| place.path().join("out").join(target));
        let python = std::env::var_os("QONNX_PYTHON").expect("it is set");
        let output = Command::new(python).args(["-c", COMPARE]).args(&folders).output().expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        for (target, folder) in TARGETS.iter().zip(&folders) {
            let said = &report[folder.display().to_string()];
            for what in ["first", "left", "right"] {
                let apart = said[what].as_f64().expect("a number");
                assert!(apart < 2e-5, "{flags:?} {target} {what}: {apart}");
            }
            let is_portable = *target == "portable";
            let domains: Vec<&str> = said["domains"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
            assert_eq!(domains == [""], is_portable, "{target}: {domains:?}");
            if is_portable {
                assert_eq!(said["opset"], if flags.contains(&"2") { 25 } else { 23 });
            }
        }
    }
}

#[test]
fn what_a_target_cannot_hold_is_refused_by_name_and_nothing_is_left() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let output = place.path().join("out").display().to_string();
    for (flags, said) in [
        (&["--method", "nf4"][..], "integers in the portable form: ONNX has no codebooks"),
        (&["--bits", "4", "--embedding", "int8"], "f16 in the portable form: ONNX looks no packed rows up"),
    ] {
        for targets in ["portable", "ort,portable"] {
            let stderr = refused(&[&["export", &model(), "--target", targets, "-o", &output][..], flags].concat());
            assert!(stderr.contains(said), "{flags:?}: {stderr}");
            let left = std::fs::read_dir(place.path()).expect("the place is ours").count();
            assert_eq!(left, 0, "{flags:?} {targets}: something is left");
        }
    }
}

/// Somebody else's files lie there, under whatever names: they stay, and nothing of ours stays beside them.
#[test]
fn what_lies_where_targets_go_stays() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = place.path().join("out");
    std::fs::create_dir_all(folder.join(".quantized")).expect("the place is ours");
    std::fs::write(folder.join(".quantized/notes.txt"), "mine").expect("the place is ours");
    let output = folder.display().to_string();
    let asked = ["export", &model(), "--bits", "4", "--target", "ort,portable", "-o", &output];
    done(&asked);
    assert_eq!(std::fs::read_to_string(folder.join(".quantized/notes.txt")).expect("it stays"), "mine");
    let said = refused(&asked);
    assert!(said.contains("out/ort") && said.contains("exists"), "{said}");
    done(&[&asked[..], &["--overwrite"]].concat());
    assert_eq!(std::fs::read_dir(place.path()).expect("the place is ours").count(), 1, "nothing beside the folder");
    // What says how numbers are chosen is refused of numbers that are chosen, for several targets as for one.
    let (q, other) = (place.path().join("q").display().to_string(), place.path().join("other").display().to_string());
    done(&["quantize", &model(), "--bits", "4", "-o", &q]);
    let said = refused(&["export", &q, "--target", "ort,portable", "--save-stats", "stats", "-o", &other]);
    assert!(said.contains("is quantized already") && said.contains("--save-stats"), "{said}");
    assert!(!place.path().join("other").exists());
}

/// What lies beside `out` and is hidden.
fn hidden(place: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place).expect("the place is ours").map(|entry| entry.expect("readable").path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".out."))).collect()
}

#[test]
fn what_is_in_the_way_is_refused_before_any_work() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let at = |name: &str| place.path().join(name).display().to_string();
    let asked = |output: &str| refused(&["export", &model(), "--method", "gptq", "--target", "ort,portable", "-o", output]);
    std::fs::write(place.path().join("file"), "mine").expect("the place is ours");
    assert!(asked(&at("file")).contains("exists and is not a folder for several targets"));
    assert!(asked(&at("nowhere/out")).contains("its parent folder does not exist"));
    std::fs::create_dir_all(place.path().join("out/portable")).expect("the place is ours");
    let started = Instant::now();
    assert!(asked(&at("out")).contains("out/portable: exists already"));
    assert!(started.elapsed() < Duration::from_secs(4), "it calibrates first");
    assert!(!place.path().join("out/ort").exists() && hidden(place.path()).is_empty());
    let stats = at("out/ort");
    let said =
        refused(&["export", &model(), "--method", "gptq", "--target", "ort,mlx", "-o", &at("out"), "--save-stats", &stats]);
    assert!(said.contains("lies in the artifact's own folder"), "{said}");
    let said = refused(&["export", &model(), "--target-bpw", "3.5", "--target", "ort,gptq", "-o", &at("new")]);
    assert!(said.contains("--target gptq: a budget"), "{said}");
    let said = refused(&["plan", &model(), "--bits", "5", "--target", "ort,gptq"]);
    assert!(said.contains("--target ort,gptq: a plan is of one artifact"), "{said}");
}

#[test]
fn numbers_that_are_chosen_outlive_an_interruption() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let (output, set) = (place.path().join("out"), small::set_of_tokens(place.path()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    command.args(["export", &model(), "--method", "gptq", "--target", "ort,portable,matmulnbits", "--calibration"]);
    command.arg(set).arg("-o").arg(&output).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().expect("qonnx starts");
    let is_chosen = || hidden(place.path()).iter().any(|folder| folder.join("model/quantized.json").exists());
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_chosen() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let stopped = Command::new("kill").args(["-INT", &running.id().to_string()]).status().expect("kill is there");
    assert!(stopped.success());
    let ended = running.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("the numbers are chosen and kept in"), "{said}");
    let chosen = hidden(place.path()).remove(0).join("model/quantized.json");
    let first = std::fs::metadata(&chosen).and_then(|file| file.modified()).expect("it is kept");
    command.arg("--overwrite");
    let again = command.spawn().expect("qonnx starts");
    let mut seen = first;
    while output.read_dir().map_or(0, Iterator::count) < 3 && Instant::now() < deadline {
        seen = std::fs::metadata(&chosen).and_then(|file| file.modified()).unwrap_or(seen);
        std::thread::sleep(Duration::from_millis(2));
    }
    let ended = again.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(seen, first, "the numbers were chosen again");
    assert!(hidden(place.path()).is_empty(), "nothing is left beside the artifacts");
}

#[test]
fn a_portable_artifact_is_scored_in_its_default_form() {
    let place = exported(KINDS[3]);
    let portable = place.path().join("out/portable").display().to_string();
    let stderr = refused(&["generate", &portable, "Once"]);
    assert!(stderr.contains("is in the portable form") && stderr.contains("--target ort"), "{stderr}");
    done(&["generate", &place.path().join("out/matmulnbits").display().to_string(), "Once"]);
}
