//! Every family, tied and untied, with biases and without, in each type that checkpoints have.

use std::fs;
use std::path::Path;

use qonnx::tensor::DType;
use serde_json::Value;

use super::{Place, differing, done, qonnx};
use crate::support::{made_up, small, tiny};

const WAYS: [&[&str]; 4] = [
    &["--bits", "3", "--group-size", "32"],
    &["--bits", "5", "--asymmetric", "--group-size", "32"],
    &["--method", "llm-int8", "--outlier-threshold", "4", "--calibration", "SET"],
    &["--method", "awq+gptq", "--rotate", "--bits", "6", "--group-size", "32", "--calibration", "SET"],
];
const TYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

fn write_model(place: &Path, case: &Value, dtype: DType) {
    let mut config = case["config"].clone();
    // The fixture's tokenizer has so many tokens.
    for (key, value) in [("vocab_size", 4096), ("num_hidden_layers", 2)] {
        config[key] = value.into();
    }
    if config["layer_types"].is_array() {
        config["layer_types"].as_array_mut().unwrap().truncate(2);
    }
    made_up::write_checkpoint(&place.join("model"), &config, dtype);
    small::write_beside(place);
}

#[test]
fn each_family_has_the_artifacts_of_its_model() {
    let text = fs::read(tiny::root().join("tests/goldens/families.json")).expect("the golden is committed");
    let cases: Vec<Value> = serde_json::from_slice(&text).expect("the golden is JSON");
    let mut compared = 0;
    for (case, dtype) in cases.iter().zip(TYPES.iter().cycle()) {
        let place = Place::new();
        write_model(place.0.path(), case, *dtype);
        let (model, set) = (place.text("model"), place.text("set.json"));
        for (at, way) in WAYS.iter().enumerate() {
            let [q, at_once, later] = ["q", "at-once", "later"].map(|name| place.text(&format!("{name}-{at}")));
            let flags: Vec<&str> = way.iter().map(|flag| if *flag == "SET" { &set } else { *flag }).collect();
            let exported = qonnx(&[&["export", &model, "--dtype", "f32", "-o", &at_once], &flags[..]].concat());
            let quantized = qonnx(&[&["quantize", &model, "--dtype", "f32", "-o", &q], &flags[..]].concat());
            let named = || format!("{} of {dtype}, {way:?}: {}", case["name"], String::from_utf8_lossy(&quantized.stderr));
            assert_eq!(exported.status.code(), quantized.status.code(), "{}", named());
            if exported.status.success() {
                done(&["export", &q, "--dtype", "f32", "-o", &later]);
                assert_eq!(differing(at_once.as_ref(), later.as_ref()), Vec::<String>::new(), "{}", named());
                compared += 1;
            } else {
                assert_eq!((exported.status.code(), &exported.stderr), (Some(2), &quantized.stderr), "{}", named());
            }
        }
    }
    println!("{compared} artifacts of {} models", cases.len());
    assert!(compared > 3 * cases.len(), "{compared} of {} models", cases.len());
}
