//! What `qonnx verify` notices, of artifacts whose files and manifests are not what they were, and that it answers for any.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qonnx::artifact::plan::RecipeFlags;
use qonnx::commands::{RuntimeChoice, verify};
use qonnx::host::in_full;
use qonnx::onnx::{self, WeightFinder};
use qonnx::recipe::FormatName;
use qonnx::record::Manifest;
use qonnx::runtime::{Launch, WeightKernels};
use qonnx::tensor::DType;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{made_up, tiny};

/// An artifact of one or more small layers.
struct Made {
    place: TempDir,
}

impl Made {
    fn new(layers: usize, flags: RecipeFlags, max_context: Option<usize>) -> Made {
        let place = tempfile::tempdir().expect("a temporary folder can be made");
        let text = fs::read(tiny::model().join("config.json")).expect("the fixture is readable");
        let mut config: Value = serde_json::from_slice(&text).expect("the fixture is JSON");
        let sizes = json!({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16});
        let fields = config.as_object_mut().expect("a configuration is an object");
        fields.extend(sizes.as_object().expect("they are an object").clone());
        let checkpoint = place.path().join("checkpoint");
        made_up::write_checkpoint(&checkpoint, &config, DType::BF16);
        let request = tiny::request(&checkpoint, flags, DType::F32);
        tiny::export(&qonnx::artifact::plan::Request { max_context, ..request }, &place.path().join("out"));
        Made { place }
    }

    fn artifact(&self) -> PathBuf {
        self.place.path().join("out")
    }

    fn manifest_path(&self) -> PathBuf {
        self.artifact().join("qonnx.json")
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.manifest_path()).expect("an artifact has a manifest")).expect("it is JSON")
    }

    /// Writes the manifest, with the hash of itself that its writer would give it.
    fn put(&self, manifest: &Value) {
        let text = match serde_json::from_value::<Manifest>(manifest.clone()) {
            Ok(mut sealed) => {
                sealed.seal();
                sealed.to_json()
            }
            Err(_) => manifest.to_string(),
        };
        fs::write(self.manifest_path(), text).expect("the place is ours");
    }

    /// Each check's name, whether it passed, and what it says; or the error.
    fn verify(&self) -> Result<Vec<(&'static str, bool, String)>, String> {
        let runtime = RuntimeChoice {
            provider: qonnx::runtime::ExecutionProvider::Cpu,
            threads: Some(1),
            weights: WeightKernels::Fused,
            launch: Launch::Replayed,
            cancel: qonnx::host::interrupt::CancelToken::NEVER,
        };
        let report = verify::run(&self.artifact(), &runtime).map_err(|error| in_full(&error))?;
        Ok(report.checks.into_iter().map(|check| (check.what, check.passed, check.detail)).collect())
    }

    #[track_caller]
    fn expect_failure(&self, what: &str, says: &str) {
        let checks = self.verify().unwrap_or_else(|error| panic!("{error}"));
        let failed: Vec<_> = checks.iter().filter(|(_, passed, _)| !passed).collect();
        assert!(failed.iter().any(|(name, _, detail)| *name == what && detail.contains(says)), "{says}: {checks:?}");
    }

    #[track_caller]
    fn expect_success(&self) -> Vec<(&'static str, bool, String)> {
        let checks = self.verify().unwrap_or_else(|error| panic!("{error}"));
        assert!(checks.len() == 5 && checks.iter().all(|(_, passed, _)| *passed), "{checks:?}");
        checks
    }
}

fn int4() -> RecipeFlags {
    tiny::bits(FormatName::Int4)
}

fn passes(checks: &Result<Vec<(&'static str, bool, String)>, String>) -> bool {
    matches!(checks, Ok(checks) if checks.iter().all(|(_, passed, _)| *passed))
}

#[test]
fn every_changed_byte_of_the_manifest_is_noticed() {
    let made = Made::new(1, int4(), None);
    let whole = fs::read(made.manifest_path()).expect("an artifact has a manifest");
    let original: Value = made.manifest();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] = bytes[at].wrapping_add(1 + (at % 7) as u8);
        fs::write(made.manifest_path(), &bytes).expect("the place is ours");
        if passes(&made.verify()) {
            let says = serde_json::from_slice::<Value>(&bytes).expect("it was read");
            assert_eq!(says, original, "byte {at}");
        }
    }
}

#[test]
fn the_files_are_those_of_the_folder() {
    let made = Made::new(1, int4(), None);
    let original = made.manifest();
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut manifest = original.clone();
        edit(&mut manifest);
        made.put(&manifest);
    };
    fs::write(made.artifact().join("NOTES.md"), "a note").expect("the place is ours");
    made.expect_success();
    edited(&|manifest| (manifest["weights"], manifest["outputs"]) = (json!([]), json!([])));
    made.expect_failure("hashes", "model.onnx is not in the manifest");
    edited(&|_| ());
    let unrecorded = made.artifact().join("generation_config.json");
    fs::write(&unrecorded, "{}").expect("the place is ours");
    made.expect_failure("hashes", "generation_config.json is in the folder and not in the manifest");
    fs::remove_file(&unrecorded).expect("the place is ours");
    edited(&|manifest| {
        let first = manifest["outputs"][0].clone();
        manifest["outputs"].as_array_mut().expect("a list").push(first);
    });
    made.expect_failure("hashes", "the manifest records a file twice");
    // Nothing outside the folder is opened, a FIFO least of all.
    let fifo = made.place.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo can be run").success());
    for name in ["../fifo", "/etc/passwd", ".", "..", "", "checkpoint/../out/config.json", "config.json/", "qonnx.json"] {
        edited(&|manifest| {
            let foreign = json!({"file": name, "bytes": 0, "blake3": "0".repeat(64)});
            manifest["outputs"].as_array_mut().expect("a list").push(foreign);
        });
        made.expect_failure("hashes", "is no name of a file beside the manifest");
    }
    edited(&|_| ());
    let tokenizer = made.artifact().join("tokenizer.json");
    fs::remove_file(&tokenizer).expect("the place is ours");
    std::os::unix::fs::symlink(&fifo, &tokenizer).expect("the place is ours");
    made.expect_failure("hashes", "tokenizer.json is no file");
}

#[test]
fn the_weights_are_those_of_the_graph() {
    let made = Made::new(2, int4(), None);
    let original = made.manifest();
    let edits: [(&str, Value); 16] = [
        ("/weights", json!([])),
        ("/weights/2/name", json!("x")),
        ("/weights/2/shape", json!([32])),
        ("/weights/2/shape/0", json!(u32::MAX)),
        ("/weights/2/format", json!("int8")),
        ("/weights/2/format", json!("int4 ")),
        ("/weights/2/format", json!("f32")),
        ("/weights/2/group_size", json!(0)),
        ("/weights/2/group_size", json!(16)),
        ("/weights/2/outliers", json!(3)),
        ("/weights/2/double_quantization", json!(true)),
        ("/weights/2/bytes", json!(1)),
        ("/weights/2/bits_per_weight", json!(2.0)),
        ("/max_context", json!(1u64 << 40)),
        ("/max_context", json!(17)),
        ("/activation", json!("bf16")),
    ];
    for (pointer, value) in edits {
        let mut manifest = original.clone();
        match manifest.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => manifest["weights"][2][pointer.rsplit('/').next().expect("a name")] = value.clone(),
        }
        made.put(&manifest);
        assert!(!passes(&made.verify()), "{pointer} = {value}");
    }
    let mut swapped = original.clone();
    let weights = swapped["weights"].as_array_mut().expect("a list");
    weights.swap(2, 3);
    made.put(&swapped);
    made.expect_failure("weights as computed", "stands where");
    made.put(&original);
    made.expect_success();
}

/// Anything may stand in a manifest, under a hash that fits: there is an answer, in little time and memory.
#[test]
fn no_manifest_makes_it_panic() {
    let made = Made::new(1, RecipeFlags { asymmetric: true, embedding: Some(FormatName::Int8), ..int4() }, None);
    let original = made.manifest();
    let mut pointers = Vec::new();
    leaves(&original, String::new(), &mut pointers);
    let numbers = [0u64, 1, 3, 31, 32, 64, 1 << 20, 1 << 31, 1 << 53, u64::MAX];
    let words = ["", "x", "f16", "f32", "bf16", "int2", "int3", "int8", "uint4", "uint3", "nf4", "fp4", "int7", "../x", "\u{0}"];
    let value = prop_oneof![
        prop::sample::select(numbers.to_vec()).prop_map(|number| json!(number)),
        prop::sample::select(words.to_vec()).prop_map(|word| json!(word)),
        Just(json!(null)),
        Just(json!([])),
        Just(json!(true)),
        Just(json!(-1.5)),
        prop::collection::vec(0u64..1 << 40, 0..4).prop_map(|shape| json!(shape)),
    ];
    let edits = prop::collection::vec((prop::sample::select(pointers), value), 1..4);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(400) });
    let outcome = runner.run(&edits, |edits| {
        let mut manifest = original.clone();
        for (pointer, value) in edits {
            if let Some(place) = manifest.pointer_mut(&pointer) {
                *place = value;
            }
        }
        made.put(&manifest);
        let started = Instant::now();
        let _ = made.verify();
        prop_assert!(started.elapsed() < Duration::from_secs(20));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Pointers to everything in a value but the single hashes of a long list.
fn leaves(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| leaves(field, format!("{pointer}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| leaves(item, format!("{pointer}/{at}"), found)),
        _ => {}
    }
    found.push(pointer);
}

#[test]
fn a_manifest_of_an_earlier_version_is_said_to_have_no_hash() {
    let made = Made::new(1, int4(), None);
    let mut manifest = made.manifest();
    manifest.as_object_mut().expect("an object").remove("manifest_blake3").expect("it has one");
    fs::write(made.manifest_path(), manifest.to_string()).expect("the place is ours");
    let checks = made.expect_success();
    assert!(checks[0].2.contains("has no hash of itself: an earlier version wrote it"), "{checks:?}");
}

/// Its guard against leaks is in the manifest.
#[test]
fn a_score_is_not_given_on_a_manifest_that_has_changed() {
    let made = Made::new(1, int4(), None);
    let mut manifest = made.manifest();
    manifest["weights"][2]["relative_error"] = json!(0.25);
    fs::write(made.manifest_path(), manifest.to_string()).expect("the place is ours");
    let text = tiny::model().join("perplexity.txt");
    let questions = tiny::model().join("coqa-mini.json");
    for flags in [["--task", "perplexity", "--text"], ["--task", "coqa", "--data"]] {
        let named = if flags[1] == "coqa" { &questions } else { &text };
        let output = qonnx().arg("eval").arg(made.artifact()).args(flags).arg(named).output().expect("qonnx starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("qonnx.json has changed since it was written"), "{stderr}");
    }
}

fn qonnx() -> Command {
    Command::new(env!("CARGO_BIN_EXE_qonnx"))
}

#[test]
fn artifacts_of_short_contexts_are_verified() {
    for positions in [64, 2, 1] {
        let made = Made::new(1, int4(), Some(positions));
        let checks = made.expect_success();
        let tokens = 24.min(positions / 2);
        assert!(checks[4].2.starts_with(&format!("{tokens} tokens as")), "{checks:?}");
    }
}

/// Hidden files are nobody's, so that no hash is asked of one: no weight may lie there.
#[test]
fn weights_in_another_file_than_the_artifacts_own_are_noticed() {
    let made = Made::new(1, int4(), None);
    let (path, manifest) = (made.artifact().join("model.onnx"), made.manifest());
    let (own, hidden) = (b"model.onnx.data", b".other.onnx.dat");
    fs::copy(made.artifact().join("model.onnx.data"), made.artifact().join(".other.onnx.dat")).expect("the place is ours");
    let whole = fs::read(&path).expect("an artifact has a graph");
    let places: Vec<usize> = (0..whole.len()).filter(|&at| whole[at..].starts_with(own)).collect();
    assert!(places.len() > 4, "{places:?}");
    // One initializer after the other: rotary tables, codes, scales.
    for at in places {
        let mut graph = whole.clone();
        graph[at..at + own.len()].copy_from_slice(hidden);
        fs::write(&path, &graph).expect("the place is ours");
        let mut manifest = manifest.clone();
        let outputs = manifest["outputs"].as_array_mut().expect("a list");
        let entry = outputs.iter_mut().find(|file| file["file"] == "model.onnx").expect("it is recorded");
        entry["blake3"] = json!(blake3::hash(&graph).to_hex().to_string());
        made.put(&manifest);
        made.expect_failure("weights as computed", "lies in .other.onnx.dat, expected model.onnx.data");
    }
}

/// A model of as many layers as no model has: what ONNX Runtime is given of each weight does not grow with their number.
#[test]
fn a_weight_of_three_hundred_layers_is_looked_at_in_a_graph_as_small_as_one_of_two() {
    let opened = |layers: usize| {
        let made = Made::new(layers, int4(), None);
        let checks = made.expect_success();
        let compared = 7 * layers;
        assert!(checks[3].2.starts_with(&format!("{compared} weights bit for bit")), "{checks:?}");
        let model = onnx::decode(&fs::read(made.artifact().join("model.onnx")).expect("it was made")).expect("it is ours");
        let finder = WeightFinder::new(&model);
        let codes = model.initializers().iter().map(|one| model.name_of(one.value)).filter(|name| name.ends_with("proj.weight"));
        let sizes = codes.map(|codes| {
            let part = finder.weight_of(codes).expect("a weight").model;
            (part.nodes().len(), part.initializers().len(), onnx::encode(&part).expect("it can be written").len())
        });
        let sizes: Vec<_> = sizes.collect();
        assert_eq!(sizes.len(), compared);
        sizes
    };
    let few = opened(2);
    // The numbers of layers in names, and places in the data file, have more digits.
    let same = |(one, other): (&(usize, usize, usize), &(usize, usize, usize))| {
        (one.0, one.1) == (other.0, other.1) && one.2.abs_diff(other.2) < 128
    };
    assert!(opened(300).iter().zip(few.iter().cycle()).all(same), "{few:?}");
}

/// Of the rotary tables, which come first, and of the last weight.
#[test]
fn a_changed_number_is_named_even_under_hashes_that_fit() {
    let made = Made::new(1, int4(), None);
    let data = made.artifact().join("model.onnx.data");
    let (whole, manifest) = (fs::read(&data).expect("readable"), made.manifest());
    for (at, says) in [(0, "holds other numbers than config.json gives it"), (whole.len() - 1, "1 wrong: model.")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&data, &bytes).expect("the place is ours");
        made.put(&manifest);
        made.expect_failure("hashes", "model.onnx.data has another BLAKE3");
        let mut manifest = manifest.clone();
        let outputs = manifest["outputs"].as_array_mut().expect("a list");
        let entry = outputs.iter_mut().find(|file| file["file"] == "model.onnx.data").expect("it is recorded");
        entry["blake3"] = json!(blake3::hash(&bytes).to_hex().to_string());
        made.put(&manifest);
        made.expect_failure("weights as computed", says);
    }
}
