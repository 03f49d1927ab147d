//! What is made for TensorRT keeps to its documented rules, runs in ONNX Runtime, and what breaks one of them is refused or found.

use std::fs;
use std::path::Path;

use qonnx::onnx::{decode, tensorrt};
use qonnx::record::Manifest;

use super::Place;
use crate::support::program::{done, model, qonnx, refused};

const POSITIVE: [&str; 6] = ["--bits", "4", "--group-size", "128", "--scale", "least-squares-positive"];

fn violations(folder: &Path) -> Vec<String> {
    tensorrt::violations(&decode(&fs::read(folder.join("model.onnx")).unwrap()).unwrap())
}

#[test]
fn what_it_takes_keeps_to_the_rules_and_runs_in_onnxruntime() {
    for flags in [
        &POSITIVE[..],
        &["--bits", "4", "--group-size", "64", "--scale", "absmax"],
        &["--bits", "8"],
        &["--method", "gptq", "--group-size", "128", "--scale", "least-squares-positive", "--override", "*.down_proj=f16"],
    ] {
        let place = Place::new();
        let out = place.text("out");
        done(&[&["export", &model(), "--target", "tensorrt", "-o", &out], flags].concat());
        assert_eq!(violations(&place.path("out")), Vec::<String>::new(), "{flags:?}");
        let said = done(&["verify", &out]);
        assert!(said.contains("TensorRT's rules") && said.contains("documented rules, not TensorRT itself"), "{said}");
        assert!(said.contains("logits") && !said.contains("FAIL"), "{flags:?}: {said}");
    }
}

#[test]
fn what_it_does_not_take_is_refused_before_any_work() {
    let place = Place::new();
    let out = place.text("out");
    let both = "has scales of both signs, expected positive ones; choose --scale least-squares-positive";
    for (flags, said) in [
        (&["--bits", "4", "--group-size", "128"][..], both),
        (&["--method", "gptq", "--group-size", "128"], both),
        (&["--bits", "4", "--scale", "absmax"], "is int4 in groups of 32, expected int4 in groups of 64 or 128"),
        (&["--bits", "4", "--asymmetric", "--group-size", "128"], "is uint4 with zero points in groups of 128"),
        (&["--bits", "8", "--group-size", "128"], "is int8 in groups of 128"),
        (&["--bits", "3", "--group-size", "128"], "is int3 in groups of 128"),
        (&["--bits", "8", "--dtype", "f32"], "activations are f32, expected f16"),
        (&["--bits", "8", "--embedding", "int8"], "model.embed_tokens"),
        (&["--target-bpw", "5"], "a budget (--target-bpw, --target-size) may choose widths that it does not hold"),
    ] {
        let text = refused(&[&["export", &model(), "--target", "tensorrt", "-o", &out], flags].concat());
        assert!(text.contains(said), "{flags:?}: {text}");
    }
    let q = place.text("q");
    done(&["quantize", &model(), "--bits", "4", "--group-size", "128", "-o", &q]);
    let text = refused(&["export", &q, "--target", "tensorrt", "-o", &out]);
    assert!(text.contains(both), "{text}");
    assert!(!place.path("out").exists());
}

/// What other targets have and the checker must find; then a scale whose sign was turned in a file.
#[test]
fn the_checker_finds_what_breaks_a_rule() {
    let place = Place::new();
    for (target, flags, said) in [
        ("ort", &["--bits", "4"][..], "TensorRT has no GroupQueryAttention"),
        ("ort", &["--bits", "3"], "TensorRT has no BitShift"),
        ("matmulnbits", &["--bits", "4"], "TensorRT has no MatMulNBits"),
        ("portable", &["--bits", "4"], "has blocks of 32, expected 64 or 128"),
        ("portable", &["--bits", "4", "--group-size", "128", "--asymmetric"], "has zero points, expected none"),
        ("portable", &["--bits", "8", "--group-size", "64"], "has blocks of int8, expected one scale for each output"),
        ("portable", &["--bits", "2", "--group-size", "64"], "its codes are i2, expected int4 or int8"),
        ("portable", &["--bits", "8", "--dtype", "f32"], "its scales are computed, expected an initializer"),
    ] {
        let out = place.text("out");
        done(&[&["export", &model(), "--target", target, "-o", &out, "--overwrite"], flags].concat());
        let found = violations(&place.path("out"));
        assert!(found.iter().any(|sentence| sentence.contains(said)), "{target} {flags:?}: {found:?}");
    }
    let out = place.text("out");
    done(&[&["export", &model(), "--target", "tensorrt", "-o", &out, "--overwrite"], &POSITIVE[..]].concat());
    let graph = decode(&fs::read(place.path("out").join("model.onnx")).unwrap()).unwrap();
    let scales = graph.initializers().iter().find(|one| graph.name_of(one.value).ends_with("q_proj.weight.scales"));
    let Some(qonnx::onnx::Content::External(range)) = scales.map(|one| &one.content) else {
        panic!("scales lie in the data file")
    };
    let path = place.path("out").join("model.onnx.data");
    let mut data = fs::read(&path).unwrap();
    data[range.offset as usize + 1] ^= 0x80;
    fs::write(&path, &data).unwrap();
    let mut manifest = Manifest::load(&place.path("out")).unwrap();
    manifest.outputs.iter_mut().find(|file| file.file == "model.onnx.data").unwrap().blake3 =
        blake3::hash(&data).to_hex().to_string();
    manifest.seal();
    fs::write(place.path("out").join("qonnx.json"), manifest.to_json()).unwrap();
    let said = String::from_utf8_lossy(&qonnx(&["verify", &out]).stdout).into_owned();
    assert!(said.contains("FAIL  TensorRT's rules") && said.contains("has scales that are not positive"), "{said}");
}
