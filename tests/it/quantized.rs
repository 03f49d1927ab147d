//! A quantized checkpoint is a stage: its artifacts are, byte for byte, those that are made of the model at once, and those in f16
//! and in f32 hold the same codes and scales.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use qonnx::record::Manifest;

use crate::support::program::{done, model, qonnx, refused};
use crate::support::small;

mod families;
mod hostile;

/// One of each thing that a recipe can ask for, and whether it is calibrated.
const RECIPES: [(&str, bool); 7] = [
    ("f16", false),
    ("int4-g32-embedding8-rtn", false),
    ("nf4-g64-nested-rtn", false),
    ("int8-outlier-rtn", true),
    ("int3-g128-gptq", true),
    ("int4-g128-awq-gptq", true),
    ("int4-g128-rotated-gptq", true),
];

/// All files of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().display().to_string(), fs::read(&path).unwrap())).collect()
}

/// Names of files whose bytes differ.
fn differing(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (files(a), files(b));
    assert!(a.keys().eq(b.keys()), "{:?} and {:?}", a.keys(), b.keys());
    a.into_iter().filter(|(name, bytes)| b[name] != *bytes).map(|(name, _)| name).collect()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

#[test]
fn artifacts_of_a_quantized_checkpoint_are_those_of_its_model() {
    for (recipe, is_calibrated) in RECIPES {
        let place = Place::new();
        let (q, at_once, later) = (place.text("q"), place.text("at-once"), place.text("later"));
        let set = small::set_of_tokens(place.0.path()).display().to_string();
        let calibration = if is_calibrated { &["--calibration", &set][..] } else { &[] };
        done(&[&["quantize", &model(), "--recipe", recipe, "-o", &q], calibration].concat());
        done(&[&["export", &model(), "--recipe", recipe, "-o", &at_once], calibration].concat());
        done(&["export", &q, "-o", &later]);
        assert_eq!(differing(&place.path("at-once"), &place.path("later")), Vec::<String>::new(), "{recipe}");
        let wide = place.text("wide");
        done(&["export", &q, "--dtype", "f32", "-o", &wide]);
        let [narrow, wide] = ["later", "wide"].map(|name| Manifest::load(&place.path(name)).unwrap());
        assert_eq!((narrow.activation.as_str(), wide.activation.as_str()), ("f16", "f32"));
        let is_quantized = |format: &str| !["f16", "bf16", "f32"].contains(&format);
        let pairs = narrow.weights.iter().zip(&wide.weights).filter(|(narrow, _)| is_quantized(&narrow.format));
        // Of codes, scales and zero points.
        let count = pairs.map(|(narrow, wide)| assert_eq!(narrow.digest, wide.digest, "{recipe}: {}", narrow.name)).count();
        assert_eq!(count > 0, recipe != "f16");
    }
}

#[test]
fn a_second_artifact_takes_a_tenth_of_the_first_ones_time_at_most() {
    let place = Place::new();
    let (q, a, b) = (place.text("q"), place.text("a"), place.text("b"));
    let seconds = |commands: &[&[&str]]| {
        let started = Instant::now();
        commands.iter().for_each(|arguments| drop(done(arguments)));
        started.elapsed().as_secs_f64()
    };
    let first = seconds(&[&["quantize", &model(), "--method", "gptq", "-o", &q], &["export", &q, "-o", &a]]);
    let second = seconds(&[&["export", &q, "--dtype", "f32", "-o", &b]]);
    println!("first {first:.2} s, second {second:.2} s: {:.1} %", 100.0 * second / first);
    assert!(second < 0.1 * first, "{second} of {first} s");
}

#[test]
fn a_budget_is_searched_once() {
    let place = Place::new();
    let (q, at_once, later) = (place.text("q"), place.text("at-once"), place.text("later"));
    let set = small::set_of_tokens(place.0.path()).display().to_string();
    let asked = ["--method", "gptq", "--target-bpw", "3.4", "--calibration", &set];
    done(&[&["quantize", &model(), "-o", &q], &asked[..]].concat());
    done(&[&["export", &model(), "-o", &at_once], &asked[..]].concat());
    done(&["export", &q, "-o", &later]);
    assert_eq!(differing(&place.path("at-once"), &place.path("later")), Vec::<String>::new());
    assert!(Manifest::load(&place.path("later")).unwrap().budget.is_some());
}

#[test]
fn what_is_damaged_is_named_and_nothing_is_left() {
    let place = Place::new();
    let (q, out) = (place.text("q"), place.text("out"));
    done(&["quantize", &model(), "--bits", "4", "-o", &q]);
    let layer = place.path("q").join("model-00003-of-00008.safetensors");
    let sound = fs::read(&layer).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&layer, &damaged).unwrap();
    let said = refused(&["export", &q, "-o", &out]);
    assert!(said.contains("weight model.layers.1.") || said.contains(": model.layers.1."), "{said}");
    assert!(said.contains("has changed since it was written"), "{said}");
    fs::remove_file(&layer).unwrap();
    let said = refused(&["export", &q, "-o", &out]);
    assert!(said.contains("model-00003-of-00008.safetensors"), "{said}");
    fs::write(&layer, &sound).unwrap();
    fs::write(place.path("q").join("quantized.json"), r#"{"schema": 7}"#).unwrap();
    let said = refused(&["export", &q, "-o", &out]);
    assert!(said.contains("has schema 7, expected 1"), "{said}");
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 1, "nothing beside it");
}

#[test]
fn what_is_chosen_is_not_chosen_again() {
    let place = Place::new();
    let (q, out) = (place.text("q"), place.text("out"));
    done(&["quantize", &model(), "--bits", "4", "-o", &q]);
    for (flags, said_of) in [
        (&["--bits", "4"][..], "a recipe"),
        (&["--recipe", "int4-g32-rtn"], "a recipe"),
        (&["--override", "lm_head=f16"], "--override"),
        (&["--calibration", "own-36x256"], "--calibration"),
        (&["--save-stats", "stats"], "--save-stats"),
        (&["--evaluation", "x.json"], "--evaluation"),
    ] {
        let said = refused(&[&["export", &q, "-o", &out][..], flags].concat());
        assert!(said.contains("is quantized already") && said.contains(said_of), "{said}");
    }
    let plan = qonnx(&["plan", &q]);
    let said = String::from_utf8_lossy(&plan.stdout);
    assert!(plan.status.code() == Some(2) && said.contains("give the folder to `qonnx export`"), "{said}");
    let said = refused(&["quantize", &q, "-o", &out]);
    assert!(said.contains("give the folder to `qonnx export`"), "{said}");
    // Only its own kind is replaced.
    let said = refused(&["export", &model(), "--bits", "4", "-o", &q, "--overwrite"]);
    assert!(said.contains("exists and is not an artifact, so --overwrite does not replace it"), "{said}");
    done(&["export", &q, "-o", &out]);
    let said = refused(&["quantize", &model(), "--bits", "4", "-o", &out, "--overwrite"]);
    assert!(said.contains("exists and is not a quantized checkpoint, so --overwrite does not replace it"), "{said}");
    done(&["quantize", &model(), "--bits", "8", "-o", &q, "--overwrite"]);
    fs::write(place.path("q").join("notes"), "the only copy").unwrap();
    let said = refused(&["quantize", &model(), "--bits", "4", "-o", &q, "--overwrite"]);
    assert!(said.contains("holds notes, which is no part of a quantized checkpoint"), "{said}");
    assert!(fs::read_to_string(place.path("q").join("quantized.json")).unwrap().contains("\"int8\""));
}

#[test]
fn one_that_needs_f32_says_so() {
    let place = Place::new();
    let (q, out) = (place.text("q"), place.text("out"));
    done(&["quantize", &model(), "--bits", "4", "--dtype", "f32", "-o", &q]);
    let said = refused(&["export", &q, "-o", &out]);
    assert!(said.contains("export it with --dtype f32"), "{said}");
    done(&["export", &q, "--dtype", "f32", "-o", &out]);
}
