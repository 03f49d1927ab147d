//! Every command works on every family: a small checkpoint of each is exported in every way that there is, verified, scored,
//! timed and spoken with, and an export that was stopped goes on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use half::{bf16, f16};
use qonnx::checkpoint::Checkpoint;
use qonnx::contract::MODEL_FILE;
use qonnx::model::architectures;
use qonnx::onnx::{Content, decode};
use qonnx::tensor::{DType, convert};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{made_up, small};

/// A golden's configuration of each family, by its name. A Llama's work is all the other tests'.
const MODELS: [(&str, &str); 2] = [("MistralForCausalLM", "mistral with a window"), ("Qwen3ForCausalLM", "qwen3, tied")];
/// Norms that stand between a linear and its product with another: they belong to no residual stream.
const HEAD_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];
const LINEARS: usize = 7;

/// A folder with a checkpoint of one family and what is needed to work on it.
struct Place {
    folder: TempDir,
    architecture: &'static str,
    layers: usize,
}

impl Place {
    fn new((architecture, golden): (&'static str, &str), layers: usize) -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let case = super::cases().into_iter().find(|case| case["name"] == golden).expect("a golden of this name");
        let mut config = case["config"].clone();
        assert_eq!(config["architectures"], json!([architecture]));
        // The fixture's tokenizer has so many tokens.
        for (key, value) in [("vocab_size", 4096), ("num_hidden_layers", layers)] {
            config[key] = value.into();
        }
        made_up::write_checkpoint(&folder.path().join("model"), &config, DType::BF16);
        small::write_beside(folder.path());
        Place { folder, architecture, layers }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `@name` is a place in the folder.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        for argument in arguments {
            match argument.strip_prefix('@') {
                Some(name) => command.arg(self.at(name)),
                None => command.arg(argument),
            };
        }
        command
    }

    #[track_caller]
    fn qonnx(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("qonnx starts");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}, {arguments:?}: {stdout}{stderr}", self.architecture);
        output
    }

    #[track_caller]
    fn report(&self, arguments: &[&str]) -> Value {
        let output = self.qonnx(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Exports to `name` and verifies it; the manifest.
    #[track_caller]
    fn exported(&self, name: &str, flags: &[&str]) -> Value {
        let out = format!("@{name}");
        self.qonnx(&[&["export", "@model", "--dtype", "f32", "-o", &out], flags].concat());
        self.qonnx(&["verify", &out]);
        let manifest = fs::read(self.at(name).join("qonnx.json")).expect("an artifact has a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
        assert_eq!(manifest["model"]["architecture"], self.architecture);
        manifest
    }

    /// How far an artifact's predictions are from another's, on a text.
    #[track_caller]
    fn divergence(&self, artifact: &str, reference: &str) -> f64 {
        let words = ["eval", artifact, "--task", "kl", "--reference", reference, "--text", "@text.txt"];
        number(&self.report(&words), "kl_mean")
    }
}

#[track_caller]
fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {value}"))
}

fn weights(manifest: &Value) -> &[Value] {
    manifest["weights"].as_array().expect("a manifest lists its weights")
}

fn linears(manifest: &Value) -> Vec<&Value> {
    weights(manifest).iter().filter(|weight| weight["name"].as_str().expect("a name").contains("_proj.weight")).collect()
}

/// The numbers of an artifact's dense weight, as they lie in its files.
fn dense(artifact: &Path, name: &str) -> Vec<f32> {
    let model = decode(&fs::read(artifact.join(MODEL_FILE)).expect("it is there")).expect("a model");
    let value = model.find(name).unwrap_or_else(|| panic!("{name} is in the graph"));
    let initializer = model.initializers().iter().find(|initializer| initializer.value == value).expect("a constant");
    let bytes = match &initializer.content {
        Content::Inline(bytes) => bytes.clone(),
        Content::External(range) => {
            let data = fs::read(artifact.join(&range.location)).expect("it is there");
            data[range.offset as usize..][..range.length as usize].to_vec()
        }
        Content::Declared => panic!("{name} has no bytes"),
    };
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match model.type_of(value).dtype {
        DType::BF16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        DType::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        other => panic!("{name} is {other}"),
    }
}

/// What a way to quantize must give, beside an artifact that verifies.
type Check = fn(&Place, &Value);

/// Rounding to nearest of the same scheme costs more, weight by weight.
fn better_than_nearest(place: &Place, manifest: &Value) {
    assert_eq!(linears(manifest).len(), LINEARS * place.layers);
    for weight in linears(manifest) {
        let [got, nearest] = ["output_error", "rtn_output_error"].map(|name| number(&weight["calibrated"], name));
        assert!(got < nearest, "{}: {weight}", place.architecture);
    }
}

/// An input's linears share their scales, and most inputs have some: where none are better, rounding goes without.
fn scaled(place: &Place, manifest: &Value) {
    let ratios: Vec<Option<f64>> =
        linears(manifest).into_iter().map(|weight| weight["calibrated"]["awq_ratio"].as_f64()).collect();
    assert_eq!(ratios.len(), LINEARS * place.layers);
    let mut inputs = Vec::new();
    for layer in ratios.chunks(LINEARS) {
        let [q, k, v, o, gate, up, down] = *layer else { panic!("seven linears a layer") };
        assert!(q == k && k == v && gate == up, "{}: {layer:?}", place.architecture);
        inputs.extend([q, o, gate, down]);
    }
    assert!(inputs.iter().flatten().count() > inputs.len() / 2, "{}: {inputs:?}", place.architecture);
}

fn some_outliers(place: &Place, manifest: &Value) {
    let outliers = linears(manifest).iter().filter(|weight| weight["outliers"].as_u64().is_some_and(|count| count > 0)).count();
    assert!(outliers > 0, "{}: an activation of these is above the threshold", place.architecture);
}

fn of_mixed_widths(place: &Place, manifest: &Value) {
    let formats: BTreeMap<&str, usize> =
        linears(manifest).iter().map(|weight| (weight["format"].as_str().expect("a name"), 1)).collect();
    assert!(formats.len() > 1, "{}: {formats:?}", place.architecture);
    assert!(number(&manifest["budget"], "predicted_kl") > 0.0);
}

fn nothing_more(_: &Place, _: &Value) {}

const WAYS: [(&str, &[&str], Range<f64>, Check); 7] = [
    ("int4", &["--bits", "4", "--group-size", "32"], 4.49..4.51, nothing_more),
    ("nf4", &["--method", "nf4", "--group-size", "32"], 4.4..4.6, nothing_more),
    ("gptq", &["--method", "gptq", "--group-size", "32", "--calibration", "@set.json"], 4.49..4.51, better_than_nearest),
    ("awq", &["--method", "awq", "--group-size", "32", "--calibration", "@set.json"], 4.49..4.51, scaled),
    (
        "rotated",
        &["--method", "awq+gptq", "--rotate", "--group-size", "32", "--calibration", "@set.json"],
        4.49..4.51,
        better_than_nearest,
    ),
    ("outliers", &["--method", "llm-int8", "--outlier-threshold", "4", "--calibration", "@set.json"], 8.0..15.99, some_outliers),
    ("budget", &["--target-bpw", "4.6", "--calibration", "@set.json"], 4.0..4.6001, of_mixed_widths),
];

#[test]
fn every_way_to_quantize_goes_with_every_family() {
    let known: Vec<&str> = std::iter::once("LlamaForCausalLM").chain(MODELS.map(|(architecture, _)| architecture)).collect();
    assert_eq!(known, architectures(), "each family has its model");
    for model in MODELS {
        let place = Place::new(model, 2);
        let plain = place.exported("f16", &["--bits", "16"]);
        for (name, flags, bits, check) in WAYS {
            let manifest = place.exported(name, flags);
            let got = number(&manifest["sizes"], "bits_per_weight_linears");
            assert!(bits.contains(&got), "{}, {name}: {got} bits a weight", place.architecture);
            check(&place, &manifest);
            let divergence = place.divergence(&format!("@{name}"), "@f16");
            println!("{}, {name}: KL {divergence:.3}", place.architecture);
            assert!(divergence > 1e-6, "{}, {name}: it says what the unquantized model says", place.architecture);
        }
        assert_eq!(place.divergence("@f16", "@f16"), 0.0);
        let names: Vec<&Value> = weights(&plain).iter().map(|weight| &weight["name"]).collect();
        let tied = names.iter().all(|name| **name != "lm_head.weight");
        assert_eq!(tied, model.1.ends_with("tied"), "{names:?}");
    }
}

#[test]
fn an_artifact_of_every_family_is_scored_timed_and_spoken_with() {
    for model in MODELS {
        let place = Place::new(model, 2);
        let exported = place.exported("out", &["--bits", "8"]);
        let coqa =
            ["eval", "@out", "--task", "coqa", "--data", "@questions.json", "--limit", "1", "--predictions", "@said.jsonl"];
        let scores = place.report(&coqa);
        let said = fs::read_to_string(place.at("said.jsonl")).expect("answers are written");
        assert!(number(&scores, "f1") <= 1.0 && said.lines().count() >= 1, "{scores}");
        let read = place.report(&["eval", "@out", "--task", "perplexity", "--text", "@text.txt"]);
        // A model of random weights knows less than one that gives every token the same chance.
        assert!(number(&read, "perplexity") > 4096.0, "{read}");
        let quick = ["--prompt", "8", "--gen", "4", "--batch", "1", "--warmup", "0", "--min-repeats", "1", "--max-repeats", "2"];
        let timed = place.report(&[&["bench", "@out"], &quick[..]].concat());
        assert_eq!(timed["points"][0]["outcome"]["outcome"], "measured", "{timed}");
        let whole = place.qonnx(&["generate", "@out", "Once upon a time", "--max-new-tokens", "4"]).stdout;
        let again = place.qonnx(&["generate", "@out", "Once upon a time", "--max-new-tokens", "4"]).stdout;
        assert!(!whole.is_empty() && whole == again, "the most likely token is the same each time");
        place.qonnx(&["inspect", "@out"]);
        let planned = place.report(&["plan", "@model", "--bits", "8", "--dtype", "f32"]);
        assert_eq!(planned["parameters"], exported["model"]["parameters"]);
        assert_eq!(planned["bits_per_weight_model"], exported["sizes"]["bits_per_weight_model"]);
    }
}

/// Rotations fold norms of the residual stream into linears; those of heads, whose names end alike, are none of them.
#[test]
fn a_rotation_leaves_norms_of_heads_as_they_are_and_what_the_model_says() {
    let place = Place::new(MODELS[1], 2);
    place.exported("f16", &["--bits", "16"]);
    let manifest = place.exported("rotated", &["--bits", "8", "--rotate", "--group-size", "16"]);
    let checkpoint = Checkpoint::open(&place.at("model")).expect("it is whole");
    for norm in (0..place.layers).flat_map(|layer| HEAD_NORMS.map(|norm| format!("model.layers.{layer}.{norm}.weight"))) {
        let view = checkpoint.tensor(&norm).expect("it is there");
        let mut expected = vec![0f32; 16];
        convert::decode(view.dtype, view.bytes, &mut expected).expect("floats");
        assert_eq!(dense(&place.at("rotated"), &norm), expected, "{norm}");
        assert!(expected.iter().any(|weight| *weight != 1.0));
        let stored = weights(&manifest).iter().find(|weight| weight["name"] == norm.as_str()).expect("it is listed");
        assert_eq!(stored["format"], "bf16", "{norm}: the checkpoint's own type");
    }
    let folded = dense(&place.at("rotated"), "model.layers.1.input_layernorm.weight");
    assert!(folded.iter().all(|weight| *weight == 1.0), "{folded:?}");
    let divergence = place.divergence("@rotated", "@f16");
    assert!(divergence < 0.1, "{divergence}");
}

#[test]
fn a_calibration_that_was_stopped_goes_on_and_gives_the_same_bytes() {
    for model in MODELS {
        let place = Place::new(model, 8);
        let export = [
            "export",
            "@model",
            "--dtype",
            "f32",
            "--method",
            "awq+gptq",
            "--group-size",
            "32",
            "--calibration",
            "@set.json",
            "-o",
        ];
        let mut child = place.command(&[&export[..], &["@out"]].concat()).stderr(Stdio::null()).spawn().expect("qonnx starts");
        let deadline = Instant::now() + Duration::from_secs(120);
        let first = loop {
            let first = place.work().map(|work| work.join("layer-000.safetensors")).filter(|first| first.is_file());
            if let Some(first) = first {
                break first;
            }
            assert!(Instant::now() < deadline, "no layer was finished");
            assert_eq!(child.try_wait().expect("it was started"), None, "the export ended before it could be stopped");
            thread::sleep(Duration::from_millis(2));
        };
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        assert!(first.is_file() && !place.at("out").exists(), "it was stopped between two layers");
        let resumed = place.qonnx(&[&export[..], &["@out"]].concat());
        let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
        place.qonnx(&[&export[..], &["@straight"]].concat());
        let files = ["model.onnx", "model.onnx.data", "qonnx.json"];
        for file in files {
            let [resumed, straight] = ["out", "straight"].map(|name| fs::read(place.at(name).join(file)).expect("it is there"));
            assert!(resumed == straight, "{}: {file} differs; {said}", place.architecture);
        }
        assert_eq!(place.work(), None, "the work folder goes when the artifact is there");
    }
}

impl Place {
    /// The folder in which an export keeps finished layers.
    fn work(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("the place is ours").filter_map(Result::ok);
        let is_work = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".out.calibrated-");
        entries.filter(is_work).map(|entry| entry.path()).find(|path| path.is_dir())
    }
}
