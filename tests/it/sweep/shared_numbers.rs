//! Experiments that differ in the type of activations alone are calibrated once.

use qonnx::record::Manifest;

use super::Place;

const BOTH: &str = r#"
experiments = ["fp16_baseline"]

[axes]
method = ["gptq"]
bits = [4]
dtype = ["f32", "f16"]

[measure]
coqa = { data = "MODEL/coqa-mini.json", protocol = "official", limit = 4, batch = 4 }
"#;

const NAMES: [&str; 2] = ["gptq_4bit_g32_f32_activations", "gptq_4bit_g32_f16_activations"];

#[test]
fn the_second_artifact_of_a_recipe_takes_a_tenth_of_the_time_and_holds_the_same_codes() {
    let place = Place::new(BOTH);
    let output = place.run(&["--keep"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seconds = NAMES.map(|name| place.record(name)["export"]["seconds"].as_f64().expect("a time"));
    println!(
        "export: {seconds:?} s, {:.1} %",
        100.0 * seconds.iter().copied().fold(f64::MAX, f64::min) / seconds[0].max(seconds[1])
    );
    // The longer one is started first, and either may be that.
    assert!(seconds[0].min(seconds[1]) < 0.1 * seconds[0].max(seconds[1]), "{seconds:?}");
    let [wide, narrow] = NAMES.map(|name| Manifest::load(&place.at("results").join("artifacts").join(name)).expect("it is kept"));
    assert_eq!((wide.activation.as_str(), narrow.activation.as_str()), ("f32", "f16"));
    let codes = |manifest: &Manifest| {
        let quantized = manifest.weights.iter().filter(|weight| weight.format == "int4");
        quantized.map(|weight| (weight.name.clone(), weight.digest.clone())).collect::<Vec<_>>()
    };
    assert_eq!(codes(&wide).len(), 42);
    assert_eq!(codes(&wide), codes(&narrow));
    assert!(!place.at("results").join(".work").exists(), "what was shared is cleared");
    // They are two experiments: nothing is run again, and neither is the other's duplicate.
    let again = place.run(&["--keep"]);
    assert!(again.status.success() && String::from_utf8_lossy(&again.stderr).contains("to run: 0"), "{again:?}");
}

#[test]
fn who_waits_for_shared_numbers_takes_no_time_for_it() {
    let place = Place::new(BOTH);
    let output = place.run(&["--jobs", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seconds = NAMES.map(|name| place.record(name)["export"]["seconds"].as_f64().expect("a time"));
    assert!(seconds[0].min(seconds[1]) < 0.3 * seconds[0].max(seconds[1]), "{seconds:?}");
    assert!(!place.at("results").join(".work").exists(), "what was shared is cleared");
}
