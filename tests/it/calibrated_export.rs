//! Calibrated exports as a user makes them: every method, what is kept when one is stopped, statistics that are used again, and
//! which flags do not go together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::small::{self, LENGTH, SEQUENCES};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");

struct Place(TempDir);

impl Place {
    /// A folder with a small calibration set of token ids.
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        small::set_of_tokens(folder.path());
        Place(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn export(&self, name: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.args(["export", MODEL, "--dtype", "f32", "--json", "--calibration"]).arg(self.at("set.json"));
        command.args(flags).arg("-o").arg(self.at(name));
        command
    }

    #[track_caller]
    fn exported(&self, name: &str, flags: &[&str]) -> Value {
        report(&self.export(name, flags).output().expect("qonnx starts"))
    }

    fn manifest(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.at(name).join("qonnx.json")).expect("an artifact has a manifest");
        serde_json::from_str(&text).expect("a manifest is JSON")
    }

    /// Names beside the set and the artifacts of these names.
    fn others(&self, known: &[&str]) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).expect("the place is ours").map(|entry| entry.expect("readable").file_name());
        let names = names.map(|name| name.into_string().expect("names are plain"));
        names.filter(|name| name != "set.json" && !known.contains(&name.as_str())).collect()
    }
}

#[track_caller]
fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

fn qonnx(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(arguments).output().expect("qonnx starts")
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("an artifact is a folder").map(|entry| entry.expect("readable"));
    let file = |entry: fs::DirEntry| {
        (entry.file_name().into_string().expect("names are plain"), fs::read(entry.path()).expect("readable"))
    };
    entries.map(file).collect()
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// Exports, verifies, inspects and speaks; the artifact's manifest.
#[track_caller]
fn whole(flags: &[&str], bits: std::ops::Range<f64>) -> (Value, Value) {
    let place = Place::new();
    let exported = place.exported("out", flags);
    let out = place.at("out").display().to_string();
    for check in ["verify", "inspect"] {
        let output = qonnx(&[check, &out]);
        assert!(output.status.success(), "{check} {flags:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
    let said = qonnx(&["generate", &out, "Once upon a time", "--max-new-tokens", "4"]);
    assert!(said.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&said.stderr));
    let got = exported["bits_per_weight_linears"].as_f64().expect("a number");
    assert!(bits.contains(&got), "{flags:?}: {got} bits a weight");
    assert_eq!(place.others(&["out"]), Vec::<String>::new(), "no work folder is left");
    (exported, place.manifest("out"))
}

/// Every kind of weight has a smaller output error than round to nearest.
#[track_caller]
fn better_than_rtn(exported: &Value) {
    let kinds = exported["calibrated"].as_array().expect("calibrated exports list what they found");
    assert_eq!(kinds.len(), 7);
    for kind in kinds {
        let [got, rtn] = ["output_error", "rtn_output_error"].map(|name| kind[name].as_f64().expect("a number"));
        assert!(got < rtn, "{kind}");
    }
}

#[test]
fn gptq_beats_round_to_nearest_on_every_weight() {
    for (group_size, bits) in [("128", 4.12..4.13), ("32", 4.49..4.51)] {
        let (exported, manifest) = whole(&["--method", "gptq", "--group-size", group_size], bits);
        better_than_rtn(&exported);
        assert_eq!(manifest["schema"], 2);
        assert_eq!(manifest["recipe"]["weights"]["rounding"]["method"], "gptq");
        assert_eq!(manifest["calibration"]["tokens"], SEQUENCES * LENGTH);
        let weights = manifest["weights"].as_array().expect("a list");
        let linears: Vec<&Value> = weights.iter().filter(|weight| weight.get("calibrated").is_some()).collect();
        assert_eq!(linears.len(), 6 * 7);
        for weight in linears {
            let found = &weight["calibrated"];
            let [got, rtn] = ["output_error", "rtn_output_error"].map(|name| found[name].as_f64().expect("a number"));
            assert!(got < rtn, "{weight}");
            assert_eq!(found["damping"], 0.01);
        }
    }
}

/// Transforms, roundings and formats that no built-in recipe puts together.
#[test]
fn every_transform_goes_with_every_rounding_and_format() {
    const NF4: &str = "[weights]\nformat = \"nf4\"\ngranularity = { group = 64 }";
    const INT8: &str = "[weights]\nformat = \"int8\"\ngranularity = \"channel\"\noutlier_threshold = 6.0";
    const AWQ: &str = "awq = { ratio_steps = 20, clip = false }";
    let set = "[calibration]\nset = \"own-36x256\"";
    let recipes = [
        (format!("{NF4}\nrounding = \"gptq\"\n{set}"), 4.24..4.26),
        (
            format!(
                "{NF4}\nrounding = \"gptq\"\ndouble_quantization = true\n[transform]\n{AWQ}\nrotation = {{ kind = \"random\", seed = \
                 1 }}\n{set}"
            ),
            4.12..4.13,
        ),
        (
            format!("{INT8}\nrounding = \"gptq\"\n[transform]\n{AWQ}\nrotation = {{ kind = \"hadamard\", seed = 0 }}\n{set}"),
            8.0..13.0,
        ),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("recipe.toml");
    for (recipe, bits) in recipes {
        fs::write(&path, &recipe).expect("the place is ours");
        whole(&["--recipe", path.to_str().expect("paths are plain")], bits);
    }
    whole(&["--method", "awq", "--rotate", "--target-bpw", "4"], 3.8..4.0001);
}

#[test]
fn awq_scales_and_rounds_to_nearest() {
    let (exported, manifest) = whole(&["--method", "awq", "--group-size", "128"], 4.12..4.13);
    better_than_rtn(&exported);
    let ratios =
        manifest["weights"].as_array().expect("a list").iter().filter_map(|weight| weight["calibrated"]["awq_ratio"].as_f64());
    assert!(ratios.filter(|ratio| *ratio > 0.0).count() >= 7, "some weights are scaled");
}

#[test]
fn awq_then_gptq_at_odd_widths() {
    let (exported, _) = whole(&["--method", "awq+gptq", "--bits", "3", "--group-size", "128"], 3.12..3.13);
    better_than_rtn(&exported);
}

#[test]
fn gptq_may_aim_at_the_unquantized_model_and_be_turned() {
    let flags = ["--method", "gptq", "--bits", "2", "--target-correction", "0.5", "--rotate=random", "--seed", "3"];
    let (_, manifest) = whole(&flags, 2.49..2.51);
    assert_eq!(manifest["recipe"]["transform"]["rotation"], json!({"kind": "random", "seed": 3}));
    assert_eq!(manifest["recipe"]["weights"]["rounding"]["target"], 0.5);
}

#[test]
fn llm_int8_keeps_outliers() {
    let (exported, manifest) = whole(&["--method", "llm-int8", "--outlier-threshold", "8"], 8.05..13.0);
    let outliers =
        exported["calibrated"].as_array().expect("a list").iter().map(|kind| kind["outliers"].as_u64().expect("a count"));
    assert!(outliers.sum::<u64>() > 0, "{exported}");
    assert_eq!(manifest["recipe"]["weights"]["outlier_threshold"], 8.0);
}

#[test]
fn a_weight_whose_outliers_take_as_much_as_f16_is_f16_and_says_so() {
    let (_, manifest) = whole(&["--method", "llm-int8", "--outlier-threshold", "1e-6"], 15.99..16.0001);
    let linears = manifest["weights"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|weight| weight["name"].as_str().expect("a name").contains("_proj"));
    for weight in linears {
        assert!(weight["format"] == "f16" && weight.get("outliers").is_none(), "{weight}");
    }
}

/// What needs no calibration set takes none.
#[test]
fn codebooks_and_rotations_need_no_set() {
    let place = Place::new();
    let cases: [(&[&str], f64); 4] = [
        (&["--method", "nf4"], 4.25),
        (&["--method", "nf4", "--double-quantization"], 4.127),
        (&["--method", "fp4"], 4.25),
        (&["--rotate", "--bits", "8"], 8.05),
    ];
    for (flags, bits) in cases {
        let out = place.at("out").display().to_string();
        let exported =
            report(&qonnx(&[&["export", MODEL, "--dtype", "f32", "--json", "--overwrite", "-o", &out], flags].concat()));
        let got = exported["bits_per_weight_linears"].as_f64().expect("a number");
        assert!((got - bits).abs() < 0.005, "{flags:?}: {got}");
        for check in ["verify", "inspect"] {
            let output = qonnx(&[check, &out]);
            assert!(output.status.success(), "{check} {flags:?}: {}", String::from_utf8_lossy(&output.stdout));
        }
        assert_eq!(place.manifest("out").get("calibration"), None);
    }
    // Turning keeps the model's function: 8 bits stay close to the unquantized model.
    let [f16, rotated] = ["f16", "out"].map(|name| place.at(name).display().to_string());
    report(&qonnx(&["export", MODEL, "--bits", "16", "--dtype", "f32", "--json", "-o", &f16]));
    let text = place.at("text.txt");
    fs::write(&text, "The cat sat by the river and watched the boats go past until the evening came.\n")
        .expect("the place is ours");
    let text = text.display().to_string();
    let scores = report(&qonnx(&["eval", &rotated, "--task", "kl", "--reference", &f16, "--text", &text, "--json"]));
    let kl = scores["kl_mean"].as_f64().expect("a number");
    assert!(kl < 3e-3, "{scores}");
}

#[test]
fn the_built_in_set_is_the_default_and_is_recorded() {
    let place = Place::new();
    let out = place.at("out").display().to_string();
    let leaking = ["--overwrite", "--method", "gptq", "--override", "model.layers.[1-5].*=int4"];
    let exported = report(&qonnx(&[&["export", MODEL, "--dtype", "f32", "--json", "-o", &out], &leaking[..]].concat()));
    better_than_rtn(&exported);
    let calibration = &place.manifest("out")["calibration"];
    assert_eq!(calibration["set"], qonnx::recipe::DEFAULT_CALIBRATION);
    assert!(calibration["licence"].as_str().is_some_and(|licence| !licence.is_empty()), "{calibration}");
    // The set's own text, used as an evaluation, is recognized.
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/calibration/own.txt");
    let output = qonnx(&["eval", &out, "--task", "perplexity", "--text", own]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("words in a row with document 1 of"), "{stderr}");
    let output = qonnx(&["eval", &out, "--task", "coqa", "--data", &format!("{MODEL}/coqa-mini.json"), "--limit", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn work_folder(place: &Place) -> Option<PathBuf> {
    place.others(&[]).into_iter().find(|name| name.starts_with(".out.calibrated-")).map(|name| place.at(&name))
}

/// Waits until so many layers are finished.
fn until_finished(child: &mut Child, place: &Place, layers: usize) {
    let deadline = Instant::now() + Duration::from_secs(300);
    let finished =
        || work_folder(place).is_some_and(|folder| folder.join(format!("layer-{:03}.safetensors", layers - 1)).is_file());
    while !finished() {
        assert!(Instant::now() < deadline, "no layer was finished");
        assert_eq!(child.try_wait().expect("it was started"), None, "the export ended before it could be stopped");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_killed_export_goes_on_and_gives_the_same_bytes() {
    const FLAGS: &[&str] = &["--method", "awq+gptq", "--group-size", "64"];
    let place = Place::new();
    let mut child = place.export("out", FLAGS).stdout(Stdio::null()).spawn().expect("qonnx starts");
    until_finished(&mut child, &place, 2);
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let work = work_folder(&place).expect("finished layers are kept");
    let first = work.join("layer-000.safetensors");
    let written = fs::metadata(&first).and_then(|meta| meta.modified()).expect("it is there");
    // Another recipe has a folder of its own.
    let mut other = place.export("out", &["--method", "gptq"]).stdout(Stdio::null()).spawn().expect("qonnx starts");
    thread::sleep(Duration::from_millis(200));
    other.kill().expect("it can be killed");
    other.wait().expect("it ends");
    assert_eq!(fs::metadata(&first).and_then(|meta| meta.modified()).expect("it is there"), written);
    place.exported("out", FLAGS);
    assert!(!work.exists(), "the work folder goes when the artifact is there");
    place.exported("straight", FLAGS);
    same(&place.at("out"), &place.at("straight"));
}

#[test]
fn an_interrupted_export_says_what_it_keeps() {
    let place = Place::new();
    let mut child =
        place.export("out", &["--method", "gptq"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("qonnx starts");
    until_finished(&mut child, &place, 1);
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill is there").success());
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("interrupted; ") && stderr.contains("of 6 layers are kept in"), "{stderr}");
    assert!(!place.at("out").exists());
}

#[test]
fn kept_statistics_give_the_same_bytes_without_running_the_model() {
    let place = Place::new();
    let stats = place.at("stats").display().to_string();
    let flags = ["--method", "gptq", "--save-stats", &stats];
    place.exported("first", &flags);
    let kept = contents(&place.at("stats"));
    assert_eq!(kept.len(), 6 * 4, "one file for each input");
    // Without ONNX Runtime nothing could run: what is there is enough.
    let mut again = place.export("second", &flags);
    report(&again.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").output().expect("qonnx starts"));
    same(&place.at("first"), &place.at("second"));
    // Another rounding shares what comes before the first rounded weight, and nothing else.
    place.exported("third", &["--method", "gptq", "--bits", "2", "--save-stats", &stats]);
    let more = contents(&place.at("stats"));
    assert_eq!(more.len(), 6 * 4 + 6 * 4 - 1);
    assert!(kept.iter().all(|(name, bytes)| &more[name] == bytes));
}

#[test]
fn a_budgets_search_keeps_its_statistics_and_reads_them_again() {
    let place = Place::new();
    let stats = place.at("stats").display().to_string();
    let flags = ["--target-bpw", "3.5", "--save-stats", &stats];
    place.exported("first", &flags);
    let kept = contents(&place.at("stats"));
    assert_eq!(kept.len(), 6 * 4, "one file for each input, and rounding to nearest asks for none beside");
    // One that is missing is made again, the same; another size shares them all.
    fs::remove_file(place.at("stats").join(kept.keys().nth(7).expect("24 files"))).expect("the place is ours");
    place.exported("second", &flags);
    same(&place.at("first"), &place.at("second"));
    place.exported("third", &["--target-bpw", "3", "--save-stats", &stats]);
    assert!(contents(&place.at("stats")) == kept, "nothing is added or changed");
    let file = place.at("stats").join(kept.keys().next().expect("24 files"));
    fs::write(&file, "no statistics").expect("the place is ours");
    // One that is damaged is made again, and says so.
    let output = place.export("fourth", &flags).output().expect("qonnx starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains(&file.display().to_string()), "{stderr}");
    same(&place.at("first"), &place.at("fourth"));
    assert!(contents(&place.at("stats")) == kept, "what was damaged is whole again");
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let place = Place::new();
    let out = place.at("out").display().to_string();
    let cases: [(&[&str], &str); 10] = [
        (&["--method", "nf4", "--bits", "4"], "--bits means nothing to --method nf4"),
        (&["--method", "nf4", "--asymmetric"], "--asymmetric means nothing to --method nf4"),
        (&["--method", "gptq", "--double-quantization"], "--double-quantization means nothing to --method gptq"),
        (&["--method", "awq", "--sweeps", "3"], "--sweeps means nothing to --method awq"),
        (&["--calibration", "own-36x256"], "--calibration means nothing to --method rtn"),
        (&["--save-stats", "no-statistics-of-rtn"], "--save-stats means nothing"),
        (&["--evaluation", "x.json"], "--evaluation means nothing"),
        (&["--bits", "16", "--rotate"], "--bits 16 is not quantized, so --rotate means nothing"),
        (&["--rotate", "--embedding", "int8"], "embedding and LM head stay f16"),
        (&["--method", "gptq", "--calibration", "no-such-set"], "no-such-set: no such file, and no built-in set"),
    ];
    for (flags, expected) in cases {
        let output = qonnx(&[&["export", MODEL, "-o", &out], flags].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {stderr}");
        assert!(stderr.contains(expected), "{flags:?}: {stderr}");
    }
    assert!(!Path::new("no-statistics-of-rtn").exists(), "a request that is refused makes nothing");
    let output = qonnx(&["export", MODEL, "--recipe", "int4-g32-gptq", "--method", "gptq", "-o", &out]);
    assert_eq!(output.status.code(), Some(2), "a recipe and a method are two answers to one question");
    assert_eq!(place.others(&[]), Vec::<String>::new());
}

/// Each way in which a set cannot serve is a sentence, before any layer is worked on.
#[test]
fn a_set_that_is_too_small_is_refused() {
    let place = Place::new();
    fs::write(place.at("few.json"), "[[301, 302, 303, 304]]").expect("the place is ours");
    let out = place.at("out").display().to_string();
    let few = place.at("few.json").display().to_string();
    let output = qonnx(&["export", MODEL, "--method", "gptq", "--dtype", "f32", "--calibration", &few, "-o", &out]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("calibration tokens are fewer than the"), "{stderr}");
    // Under a budget too, where the search itself could do with fewer, and before it.
    let output = qonnx(&["export", MODEL, "--target-bpw", "3", "--dtype", "f32", "--calibration", &few, "-o", &out]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("calibration tokens are fewer than the"), "{stderr}");
    assert_eq!(place.others(&["few.json"]), [""; 0], "nothing is left behind");
}

/// A set that shares a passage with what the artifact will be scored on is refused before any work, by every command.
#[test]
fn a_set_that_leaks_is_refused() {
    let place = Place::new();
    let questions = format!("{MODEL}/coqa-mini.json");
    let set = "licence = \"test\"\nform = \"text\"\npacking = \"packed\"\nsamples = 9\nlength = 128\nseed = 1\n\
               [source]\nfile = \"story.txt\"\n";
    let data: Value = serde_json::from_str(&fs::read_to_string(&questions).expect("the fixture is there")).expect("JSON");
    let stories = data["data"].as_array().expect("a list").iter().map(|story| story["story"].as_str().expect("a text"));
    fs::write(place.at("story.txt"), stories.collect::<Vec<_>>().join("\n\n")).expect("the place is ours");
    fs::write(place.at("leak.toml"), set).expect("the place is ours");
    let [leak, out, results] = ["leak.toml", "out", "results"].map(|name| place.at(name).display().to_string());
    let calibrated = ["--calibration", &leak];
    let export = ["export", MODEL, "--method", "gptq", "--evaluation", &questions, "-o", &out];
    let run = ["run", "gptq_4bit_g32", "--model", MODEL, "--coqa", &questions, "--results", &results];
    for command in [&export[..], &run[..]] {
        let output = qonnx(&[command, &calibrated].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("words in a row with document"), "{stderr}");
    }
    assert!(!place.at("out").exists());
}

#[test]
fn statistics_that_are_damaged_are_named_and_made_again() {
    let place = Place::new();
    let stats = place.at("stats");
    let shown = stats.display().to_string();
    let flags = ["--method", "gptq", "--save-stats", &shown];
    place.exported("first", &flags);
    let kept = contents(&stats);
    for name in kept.keys() {
        fs::write(stats.join(name), "no statistics").expect("the place is ours");
    }
    let output = place.export("second", &flags).output().expect("qonnx starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.matches(&format!("statistics are made again: {shown}")).count(), kept.len(), "{stderr}");
    same(&place.at("first"), &place.at("second"));
    assert!(contents(&stats) == kept, "what was damaged is whole again");
    assert_eq!(place.others(&["first", "second", "stats"]), [""; 0], "nothing is left behind");
}

/// A kept layer that is another's would leave weights as round to nearest has them, without a word.
#[test]
fn a_kept_layer_that_is_not_the_layer_is_made_again() {
    const FLAGS: &[&str] = &["--method", "gptq"];
    let place = Place::new();
    let mut child = place.export("out", FLAGS).stdout(Stdio::null()).spawn().expect("qonnx starts");
    until_finished(&mut child, &place, 2);
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let work = work_folder(&place).expect("finished layers are kept");
    fs::copy(work.join("layer-000.safetensors"), work.join("layer-001.safetensors")).expect("both are there");
    let output = place.export("out", FLAGS).output().expect("qonnx starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("layer 1 is made again"), "{stderr}");
    assert!(stderr.contains("layer-001.safetensors: weight model.layers."), "{stderr}");
    place.exported("straight", FLAGS);
    same(&place.at("out"), &place.at("straight"));
}
