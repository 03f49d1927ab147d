//! The folder that transformers.js reads: what is called how, what this program's commands make of it, what is refused.

use std::fs;
use std::path::Path;

use qonnx::artifact::plan::Request;
use qonnx::recipe::FormatName;
use qonnx::record::{Manifest, Target};
use qonnx::tensor::DType;
use serde_json::{Value, json};

use super::Place;
use crate::support::program::{done, model, qonnx, refused};
use crate::support::tiny;

fn export(place: &Place, name: &str, flags: &[&str]) -> String {
    let output = place.text(name);
    done(&[&["export", &model(), "--target", "transformers.js", "-o", &output][..], flags].concat());
    output
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("it is there")).expect("it is JSON")
}

#[test]
fn a_graph_is_called_by_how_its_linears_are_stored() {
    let place = Place::new();
    let cases: [(&[&str], &str, &str); 10] = [
        (&["--bits", "4", "--dtype", "f32"], "q4", "_q4"),
        (&["--bits", "3", "--dtype", "f32"], "q4", "_q4"),
        (&["--bits", "4"], "q4f16", "_q4f16"),
        (&["--bits", "2", "--dtype", "f32"], "q2", "_q2"),
        (&["--bits", "2"], "q2f16", "_q2f16"),
        (&["--bits", "6", "--dtype", "f32"], "q8", "_quantized"),
        (&["--bits", "8"], "int8", "_int8"),
        (&["--bits", "16", "--dtype", "f32"], "fp32", ""),
        (&["--bits", "16"], "fp16", "_fp16"),
        (&["--method", "nf4", "--dtype", "f32"], "bnb4", "_bnb4"),
    ];
    for (index, (flags, dtype, suffix)) in cases.into_iter().enumerate() {
        let artifact = export(&place, &format!("a{index}"), flags);
        let graph = format!("model{suffix}.onnx");
        for file in [format!("onnx/{graph}"), format!("onnx/{graph}_data")] {
            assert!(Path::new(&artifact).join(&file).is_file(), "{flags:?}: {file}");
        }
        assert_eq!(fs::read_dir(format!("{artifact}/onnx")).unwrap().count(), 2);
        let config = json(&Path::new(&artifact).join("config.json"));
        let said = json!({"dtype": dtype, "use_external_data_format": {&graph: 1}});
        assert_eq!(config["transformers.js_config"], said, "{flags:?}");
        let genai = json(&Path::new(&artifact).join("genai_config.json"));
        assert_eq!(genai["model"]["decoder"]["filename"], format!("onnx/{graph}"));
        assert_eq!(genai["model"]["decoder"]["session_options"]["provider_options"], json!([]), "f16 is for the browser's GPU");
        done(&["verify", &artifact]);
    }
}

#[test]
fn every_command_reads_the_folder() {
    let place = Place::new();
    let [default, artifact] = ["default", "web"].map(|name| place.text(name));
    done(&["export", &model(), "--dtype", "f32", "--bits", "4", "-o", &default]);
    export(&place, "web", &["--dtype", "f32", "--bits", "4"]);
    let text = |artifact: &str| done(&["generate", artifact, "Once upon a time", "--max-new-tokens", "16"]);
    assert_eq!(text(&artifact), text(&default));
    assert!(done(&["inspect", &artifact]).contains("every quantized weight is fused"));
    let bench =
        ["bench", &artifact, "--prompt", "16", "--batch", "1", "--gen", "4", "--max-repeats", "6", "--threads", "1", "--json"];
    let measured: Value = serde_json::from_str(&done(&bench)).expect("it prints JSON");
    let files = ["onnx/model_q4.onnx", "onnx/model_q4.onnx_data"];
    let bytes: u64 = files.iter().map(|file| fs::metadata(place.path("web").join(file)).unwrap().len()).sum();
    assert_eq!(measured["model_bytes"], bytes, "{measured}");
    let data = tiny::model().join("coqa-mini.json").display().to_string();
    let [a, b] = [("a", &default), ("b", &artifact)].map(|(name, scored)| {
        let answers = place.text(name);
        done(&["eval", scored, "--task", "coqa", "--data", &data, "--limit", "2", "--predictions", &answers]);
        answers
    });
    done(&["compare", &a, &b]);
}

/// What `verify` says of a folder in which something is wrong.
#[track_caller]
fn wrong(artifact: &str, said: &str) {
    let output = qonnx(&["verify", artifact]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains(said), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn verify_finds_what_is_damaged_below() {
    let place = Place::new();
    let artifact = export(&place, "a", &["--bits", "4"]);
    let at = |name: &str| place.path("a").join(name);
    let data = at("onnx/model_q4f16.onnx_data");
    let whole = fs::read(&data).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 1;
    fs::write(&data, &bytes).unwrap();
    wrong(&artifact, "onnx/model_q4f16.onnx_data has another BLAKE3 than recorded");
    fs::write(&data, &whole[1..]).unwrap();
    wrong(&artifact, "onnx/model_q4f16.onnx_data has");
    assert!(refused(&["generate", &artifact, "hello"]).contains("onnx/model_q4f16.onnx_data"));
    fs::remove_file(&data).unwrap();
    wrong(&artifact, "onnx/model_q4f16.onnx_data is missing");
    assert!(refused(&["generate", &artifact, "hello"]).contains("there is no onnx/model_q4f16.onnx_data"));
    fs::write(&data, &whole).unwrap();
    done(&["verify", &artifact]);
    fs::write(at("onnx/more.onnx"), "").unwrap();
    wrong(&artifact, "onnx/more.onnx is in the folder and not in the manifest");
    fs::remove_file(at("onnx/more.onnx")).unwrap();
    fs::remove_file(at("onnx/model_q4f16.onnx")).unwrap();
    assert!(refused(&["inspect", &artifact]).contains("there is no onnx/model_q4f16.onnx"));
}

#[test]
fn chunks_are_below_the_limit_and_verified() {
    let place = Place::new();
    let most = 2 << 20;
    let request = tiny::request(&tiny::model(), tiny::bits(FormatName::Int4), DType::F16);
    let output = place.path("a");
    let request = Request { target: Target::TransformersJs, data_file_bytes: Some(most), ..request };
    tiny::export(&request, &output);
    let manifest = Manifest::load(&output).unwrap();
    let chunks = manifest.data_files(&manifest.graph_file().unwrap());
    assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.bytes <= most), "{chunks:?}");
    let said = &json(&output.join("config.json"))["transformers.js_config"]["use_external_data_format"]["model_q4f16.onnx"];
    assert_eq!(*said, chunks.len());
    let artifact = place.text("a");
    done(&["verify", &artifact]);
    let last = output.join(&chunks.last().unwrap().file);
    fs::remove_file(&last).unwrap();
    assert!(refused(&["generate", &artifact, "hello"]).contains("there is no onnx/model_q4f16.onnx_data_"));
    let error = qonnx::commands::export::run(
        &Request { data_file_bytes: Some(1 << 20), ..request },
        &qonnx::commands::export::Options::new(place.path("b")),
    );
    let said = qonnx::host::in_full(&error.unwrap_err());
    assert!(said.contains("weight model.embed_tokens.weight: takes 2097152 bytes, expected at most 1048576"), "{said}");
    assert!(!place.path("b").exists());
}

#[test]
fn only_an_artifacts_own_files_are_replaced() {
    let place = Place::new();
    let artifact = export(&place, "a", &["--bits", "4"]);
    let again = |flags: &[&str]| {
        [&["export", &model(), "--target", "transformers.js", "-o", &artifact, "--overwrite"][..], flags]
            .concat()
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<String>>()
    };
    let words = again(&["--bits", "8"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let theirs = place.path("a").join("onnx/notes.txt");
    fs::write(&theirs, "the only copy").unwrap();
    assert!(refused(&words).contains("onnx/notes.txt"));
    fs::remove_file(&theirs).unwrap();
    fs::create_dir(place.path("a").join("onnx/more")).unwrap();
    assert!(refused(&words).contains("onnx/more"));
    fs::remove_dir(place.path("a").join("onnx/more")).unwrap();
    done(&words);
    assert!(place.path("a").join("onnx/model_int8.onnx").is_file() && !place.path("a").join("onnx/model_q4f16.onnx").exists());
    done(&["verify", &artifact]);
    // Of one whose manifest is damaged, too.
    fs::write(place.path("a").join("qonnx.json"), "{").unwrap();
    done(&words);
    done(&["verify", &artifact]);
}

#[test]
fn what_a_browser_has_no_kernel_for_is_refused_and_a_name_that_is_not_found_is_warned_of() {
    let place = Place::new();
    let said = refused(&["export", &model(), "--target", "transformers.js", "--embedding", "int4", "-o", &place.text("a")]);
    assert!(said.contains("weight model.embed_tokens.weight") && said.contains("give --embedding int8"), "{said}");
    assert!(!place.path("a").exists());
    let output = qonnx(&["export", &model(), "--target", "transformers.js", "-o", &place.text("a--b")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("transformers.js takes no folder of this name"), "{said}");
}
