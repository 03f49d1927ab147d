//! Checkpoints for other programs hold the quantized checkpoint's numbers, decoded here by what those programs' sources say
//! (`decode.py`), and what they cannot hold is refused by name before any work.

mod transformers_js;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qonnx::record::Manifest;
use serde_json::Value;

use crate::support::program::{done, model, qonnx, refused};
use crate::support::python::python;
use crate::support::{tiny, tools};

/// Recipe flags, and the targets that hold what they make.
const HELD: [(&[&str], &[&str]); 14] = [
    (&["--bits", "4"], &["compressed-tensors", "gptq", "mlx"]),
    (&["--bits", "4", "--asymmetric", "--group-size", "128"], &["compressed-tensors", "gptq"]),
    (&["--bits", "4", "--per-channel", "--asymmetric"], &["compressed-tensors", "gptq"]),
    (&["--bits", "8"], &["compressed-tensors", "gptq"]),
    (&["--bits", "8", "--group-size", "64"], &["compressed-tensors", "gptq", "mlx"]),
    (&["--bits", "8", "--asymmetric", "--group-size", "16"], &["compressed-tensors", "gptq"]),
    (&["--bits", "3", "--group-size", "64"], &["gptq", "mlx"]),
    (&["--bits", "3", "--asymmetric"], &["gptq"]),
    (&["--bits", "2"], &["compressed-tensors", "gptq", "mlx"]),
    (&["--bits", "2", "--asymmetric", "--group-size", "64"], &["compressed-tensors", "gptq"]),
    (&["--bits", "6", "--group-size", "128"], &["mlx"]),
    (&["--bits", "5"], &["mlx"]),
    (&["--method", "nf4", "--double-quantization"], &["bitsandbytes"]),
    (&["--method", "fp4", "--group-size", "128"], &["bitsandbytes"]),
];

const CHECKPOINTS: [&str; 5] = ["compressed-tensors", "gptq", "mlx", "bitsandbytes", "gguf"];

mod tensorrt;

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

/// What `decode.py` says of each folder.
fn decoded(quantized: &str, folders: &[String]) -> Vec<Value> {
    let script = tiny::root().join("tests/it/targets/decode.py");
    let output = python().arg(script).arg(quantized).args(folders).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_weight_is_decoded_as_the_formats_sources_say() {
    let has_python = tools::has("QONNX_PYTHON");
    for (flags, targets) in HELD {
        let place = Place::new();
        let q = place.text("q");
        done(&[&["quantize", &model(), "-o", &q][..], flags].concat());
        let folders: Vec<String> = targets.iter().map(|target| place.text(target)).collect();
        for (target, folder) in targets.iter().zip(&folders) {
            done(&["export", &q, "--target", target, "-o", folder]);
            done(&["verify", folder]);
        }
        for found in if has_python { decoded(&q, &folders) } else { Vec::new() } {
            assert_eq!((&found["linears"], &found["differing"]), (&42.into(), &0.into()), "{flags:?}: {found}");
            assert!(found["weights"].as_u64() > Some(4_000_000) && found["dense"].as_u64() == Some(14), "{found}");
        }
    }
}

/// What the readers of the formats say, where they are here: logits as of the dequantized model, or every weight.
#[test]
fn the_formats_readers_read_them() {
    let variable = "QONNX_RUNTIME_READERS";
    if !tools::has(variable) {
        return;
    }
    for (flags, target) in [
        (&["--bits", "4"][..], "compressed-tensors"),
        (&["--bits", "8"], "compressed-tensors"),
        (&["--bits", "2", "--group-size", "64"], "compressed-tensors"),
        (&["--bits", "4", "--asymmetric"], "compressed-tensors"),
        (&["--method", "nf4"], "bitsandbytes"),
        (&["--method", "nf4", "--double-quantization"], "bitsandbytes"),
        (&["--method", "fp4"], "bitsandbytes"),
        (&["--bits", "3"], "mlx"),
        (&["--bits", "4", "--group-size", "64"], "mlx"),
        (&["--bits", "6", "--group-size", "128"], "mlx"),
    ] {
        let place = Place::new();
        let (q, folder) = (place.text("q"), place.text("folder"));
        done(&[&["quantize", &model(), "-o", &q][..], flags].concat());
        done(&["export", &q, "--target", target, "--dtype", "f32", "-o", &folder]);
        let script = tiny::root().join("results/lab/checkpoint_readers.py");
        let mut command = Command::new(std::env::var_os(variable).expect("it is set"));
        let output = command.arg(script).args([&model(), &q, &folder]).output().expect("Python starts");
        assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
        match found["logits"].as_f64() {
            Some(difference) => assert!(difference < 1e-5 && found["same_tokens"] == true, "{flags:?}: {found}"),
            None => assert_eq!((&found["differing"], &found["weights"]), (&0.into(), &4_718_592.into()), "{flags:?}: {found}"),
        }
    }
}

/// llama.cpp reads the file: the same tokens, every weight bit for bit (by gguf's own `dequantize`), and what it computes is within what
/// its kernels lose, which round activations to 8 bits.
#[test]
fn llama_cpp_reads_gguf() {
    let variable = "QONNX_RUNTIME_READERS";
    if !tools::has(variable) {
        return;
    }
    let text = tiny::root().join("tests/it/targets/texts.txt").display().to_string();
    for (flags, linears_alone) in [
        (&["--bits", "4"][..], true),
        (&["--bits", "4", "--group-size", "128", "--embedding", "int8"], false),
        (&["--bits", "8"], true),
        (&["--bits", "6", "--group-size", "64"], true),
        (&["--bits", "5"], true),
        (&["--bits", "3"], true),
        (&["--bits", "2", "--embedding", "int4"], false),
    ] {
        let place = Place::new();
        let (q, folder) = (place.text("q"), place.text("folder"));
        done(&[&["quantize", &model(), "-o", &q][..], flags].concat());
        done(&["export", &q, "--target", "gguf", "-o", &folder]);
        done(&["verify", &folder]);
        let script = tiny::root().join("results/lab/llama_cpp.py");
        let mut command = Command::new(std::env::var_os(variable).expect("it is set"));
        let output = command.arg(script).args([&model(), &q, &text, &folder]).output().expect("Python starts");
        assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
        let weights = if linears_alone { 4_718_592 } else { 4_718_592 + 4096 * 256 };
        assert_eq!((&found["differing"], &found["weights"]), (&0.into(), &weights.into()), "{flags:?}: {found}");
        assert_eq!(found["same_tokens"], true, "{flags:?}: {found}");
        let perplexity = found["perplexity"].as_f64().unwrap();
        assert!((perplexity - 1.0).abs() < 0.005 && found["logits"].as_f64() < Some(0.05), "{flags:?}: {found}");
    }
}

/// Each way to cut texts that GGUF has a name for: llama.cpp makes the tokens that the tokenizer makes, but for what export warns of.
#[test]
fn llama_cpp_cuts_texts_as_the_tokenizer_does() {
    let variable = "QONNX_RUNTIME_READERS";
    if !tools::has(variable) {
        return;
    }
    let place = Place::new();
    let folder = tiny::root().join("tests/it/targets");
    let (script, text) = (folder.join("ways_to_cut.py"), folder.join("texts.txt").display().to_string());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os(variable).expect("it is set"));
        let output = command.arg(&script).args(arguments).output().expect("Python starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&["make", &model(), &text, &place.text("ways")]);
    for (way, unlike) in [
        ("llama-bpe", &[][..]),
        ("smaug-bpe", &[]),
        ("qwen2", &[]), // but for letters written as two characters, which is said
        ("gpt-2", &[]),
        ("smollm", &[]),
        ("pieces", &[]),
        ("tekken", &["Grüße aus München"]),
        ("metaspace", &["    Indented by four", "<|im_start|>user\nWho?", " leading", " "]),
    ] {
        let (model, out) = (place.text(&format!("ways/{way}")), place.text(way));
        let output = qonnx(&["export", &model, "--bits", "4", "--target", "gguf", "-o", &out]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{way}: {said}");
        let is_said = said.contains("llama.cpp cuts some texts into other tokens");
        assert_eq!(is_said, !unlike.is_empty() || way == "qwen2", "{way}: {said}");
        done(&["verify", &out]);
        let found: Value = serde_json::from_slice(&run(&["check", &text, &model, &out])).expect("a line of JSON");
        let other: Vec<&str> = found["other"].as_array().unwrap().iter().map(|part| part[0].as_str().unwrap()).collect();
        assert_eq!(found["paragraphs"], 12);
        assert!(other.len() == unlike.len() && other.iter().zip(unlike).all(|(a, b)| a.starts_with(b)), "{way}: {other:?}");
    }
}

/// What is recorded is what lies there, and what has changed is found: a weight, the tokenizer, a rotary factor.
#[test]
fn a_gguf_file_is_whole() {
    let place = Place::new();
    let out = place.text("out");
    let plan = done(&["plan", &model(), "--bits", "4", "--target", "gguf", "--json"]);
    let plan: Value = serde_json::from_str(&plan).unwrap();
    done(&["export", &model(), "--bits", "4", "--target", "gguf", "-o", &out]);
    let manifest = Manifest::load(&place.path("out")).unwrap();
    let path = place.path("out").join("model.gguf");
    let sound = fs::read(&path).unwrap();
    let recorded: u64 = manifest.weights.iter().map(|weight| weight.bytes).sum();
    assert!(manifest.sizes.model_bytes == recorded && recorded < sound.len() as u64);
    let whole: u64 = fs::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let planned = plan["artifact_bytes"].as_u64().unwrap();
    assert!(planned.abs_diff(whole) < 10_000, "{planned} planned, {whole} are there");
    let said = refused(&["generate", &out, "Once"]);
    assert!(said.contains("is a checkpoint for gguf, which ONNX Runtime cannot run"), "{said}");
    let find = |text: &[u8]| sound.windows(text.len()).position(|window| window == text).expect("it is there");
    // The first factor lies at the first aligned byte behind the head, whose last name is of the last tensor.
    let head = find(b"blk.5.ffn_down.weight");
    let factor = sound.len() - 1;
    for (byte, expected) in [
        (find(b"tokenizer.ggml.tokens") + 60, "the head of model.gguf says otherwise"),
        (head, "the head of model.gguf says otherwise"),
        (factor, "weights as computed"),
    ] {
        let mut damaged = sound.clone();
        damaged[byte] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let said = String::from_utf8_lossy(&qonnx(&["verify", &out]).stdout).into_owned();
        assert!(said.contains("model.gguf has another BLAKE3"), "{said}");
        let mut manifest = Manifest::load(&place.path("out")).unwrap();
        manifest.outputs.iter_mut().find(|file| file.file == "model.gguf").unwrap().blake3 =
            blake3::hash(&damaged).to_hex().to_string();
        manifest.seal();
        fs::write(place.path("out").join("qonnx.json"), manifest.to_json()).unwrap();
        let said = String::from_utf8_lossy(&qonnx(&["verify", &out]).stdout).into_owned();
        assert!(said.contains("FAIL") && said.contains(expected), "{said}");
    }
}

/// What llama.cpp would compute otherwise in silence is refused by name.
#[test]
fn models_that_llama_cpp_would_misread_are_refused() {
    let place = Place::new();
    let copy = place.path("model");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(tiny::model()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let tokenizer: Value = serde_json::from_slice(&fs::read(copy.join("tokenizer.json")).unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut tokenizer = tokenizer.clone();
        change(&mut tokenizer);
        fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        refused(&["export", &place.text("model"), "--bits", "4", "--target", "gguf", "-o", &place.text("out")])
    };
    let said = changed(&|t| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\s+".into());
    assert!(said.contains("cuts texts as no tokenizer that llama.cpp knows by name"), "{said}");
    let said = changed(&|t| t["normalizer"] = serde_json::json!({"type": "Lowercase"}));
    assert!(said.contains("normalizes texts by \"Lowercase\", which llama.cpp does not"), "{said}");
    let said = changed(&|t| {
        let twice = t["post_processor"]["processors"][1]["single"][0].clone();
        t["post_processor"]["processors"][1]["single"].as_array_mut().unwrap().insert(0, twice);
    });
    assert!(said.contains("puts other tokens around a text"), "{said}");
    fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(copy.join("config.json")).unwrap()).unwrap();
    config["model_type"] = "mistral".into();
    config["architectures"] = serde_json::json!(["MistralForCausalLM"]);
    config["sliding_window"] = 512.into();
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    let said = refused(&["export", &place.text("model"), "--bits", "4", "--target", "gguf", "-o", &place.text("out")]);
    assert!(said.contains("layers see no farther back than 512 positions"), "{said}");
}

#[test]
fn linears_of_several_forms_are_named() {
    let (place, mixed) =
        (Place::new(), ["--bits", "4", "--override", "*.down_proj=int8", "--override", "*.o_proj=f16", "--group-size", "32"]);
    let q = place.text("q");
    done(&[&["quantize", &model(), "-o", &q][..], &mixed].concat());
    let folders: Vec<String> = ["compressed-tensors", "mlx"].map(|target| place.text(target)).into();
    for (target, folder) in ["compressed-tensors", "mlx"].iter().zip(&folders) {
        done(&["export", &q, "--target", target, "-o", folder]);
        done(&["verify", folder]);
    }
    if tools::has("QONNX_PYTHON") {
        for found in decoded(&q, &folders) {
            assert_eq!((&found["linears"], &found["differing"]), (&36.into(), &0.into()), "{found}");
        }
    }
    let said = refused(&["export", &q, "--target", "gptq", "-o", &place.text("gptq")]);
    assert!(
        said.contains("down_proj.weight: is int8 in groups of 32 beside model.layers.0.self_attn.q_proj, which is int4 in"),
        "{said}"
    );
    let config: Value = serde_json::from_slice(&fs::read(place.path("mlx").join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization"]["bits"], 4);
    assert_eq!(config["quantization"]["model.layers.5.mlp.down_proj"]["bits"], 8);
}

/// From a model at once or by way of a quantized checkpoint, the bytes are the same; calibrated, rotated nowhere.
#[test]
fn the_way_does_not_matter() {
    for (flags, target) in [
        (&["--method", "gptq"][..], "gptq"),
        (&["--method", "awq"], "compressed-tensors"),
        (&["--method", "nf4"], "bitsandbytes"),
        (&["--method", "gptq", "--embedding", "int8"], "gguf"),
    ] {
        let place = Place::new();
        let (q, at_once, later) = (place.text("q"), place.text("at-once"), place.text("later"));
        done(&[&["quantize", &model(), "-o", &q][..], flags].concat());
        done(&[&["export", &model(), "--target", target, "-o", &at_once][..], flags].concat());
        done(&["export", &q, "--target", target, "-o", &later]);
        let names = |folder: &Path| -> BTreeSet<String> {
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let (a, b) = (place.path("at-once"), place.path("later"));
        assert_eq!(names(&a), names(&b));
        for name in names(&a) {
            assert!(fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap(), "{target}: {name}");
        }
        done(&["export", &q, "--target", target, "-o", &later, "--overwrite"]);
        // Codes, scales and zero points are those of the graph, too. llama.cpp wants vectors in f32.
        done(&["export", &q, "-o", &place.text("ort")]);
        let digests = |name: &str| {
            let weights = Manifest::load(&place.path(name)).unwrap().weights;
            let matrices = weights.into_iter().filter(|weight| weight.shape.len() == 2);
            matrices.map(|weight| (weight.name, weight.digest)).collect::<Vec<_>>()
        };
        assert_eq!(digests("ort"), digests("later"));
    }
}

/// What is recorded is what lies there: tensors' bytes by weight, and the files.
#[test]
fn bits_are_honest() {
    let place = Place::new();
    let out = place.text("out");
    for (flags, target) in [(&["--bits", "4"][..], "mlx"), (&["--bits", "8"], "gptq"), (&["--method", "nf4"], "bitsandbytes")] {
        let plan = done(&[&["plan", &model(), "--target", target, "--json"][..], flags].concat());
        let plan: Value = serde_json::from_str(&plan).unwrap();
        done(&[&["export", &model(), "--target", target, "-o", &out, "--overwrite"][..], flags].concat());
        let manifest = Manifest::load(&place.path("out")).unwrap();
        let index: Value =
            serde_json::from_slice(&fs::read(place.path("out").join("model.safetensors.index.json")).unwrap()).unwrap();
        let recorded: u64 = manifest.weights.iter().map(|weight| weight.bytes).sum();
        assert_eq!(Some(recorded), index["metadata"]["total_size"].as_u64());
        assert_eq!(manifest.sizes.model_bytes, recorded);
        let whole: u64 = fs::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        let planned = plan["artifact_bytes"].as_u64().unwrap();
        assert!(planned < whole && whole < planned + 100_000, "{target}: {planned} planned, {whole} are there");
        assert_eq!((manifest.onnx_opset, manifest.oldest_onnxruntime), (0, None));
    }
}

#[test]
fn what_a_target_cannot_hold_is_refused_before_any_work() {
    let place = Place::new();
    let out = place.text("out");
    let all = CHECKPOINTS.as_slice();
    for (targets, flags, said) in [
        (all, &["--bits", "16"][..], "no linear is quantized"),
        (all, &["--method", "llm-int8"], "keeps input features with outliers in f16"),
        (&all[..4], &["--bits", "4", "--embedding", "int8"], "weight model.embed_tokens.weight: is int8, expected f16"),
        (all, &["--bits", "4", "--rotate"], "the rotation of an LM head that is the embedding's needs a matrix of its own"),
        (all, &["--bits", "4", "--max-context", "128"], "--max-context means nothing"),
        (&["gptq", "compressed-tensors"], &["--bits", "5"], "q_proj.weight and 41 more: is int5, expected"),
        (&["gptq", "compressed-tensors"], &["--bits", "6"], "is int6, expected"),
        (&["compressed-tensors"], &["--bits", "3"], "is int3, expected 2, 4 or 8 bits"),
        (&["gptq", "compressed-tensors", "mlx"], &["--method", "nf4"], "is nf4, expected integers"),
        (&["gptq"], &["--bits", "4", "--override", "*.down_proj=f16"], "is not quantized beside"),
        (&["mlx"], &["--bits", "4", "--asymmetric"], "is uint4 with zero points"),
        (&["mlx"], &["--bits", "4", "--group-size", "256"], "has groups of 256, expected 32, 64 or 128"),
        (&["mlx"], &["--bits", "8"], "has one scale a row, expected groups"),
        (&["gguf"], &["--bits", "4", "--asymmetric"], "is uint4 with zero points, of which the minima of Q4_1 would be rounded"),
        (&["gguf"], &["--bits", "4", "--group-size", "16"], "has a scale for 16 weights, expected a multiple of 32"),
        (&["gguf"], &["--method", "nf4"], "is nf4, expected integers"),
        (&["bitsandbytes"], &["--bits", "4"], "is int4, expected nf4 or fp4"),
        (&["bitsandbytes"], &["--method", "nf4", "--group-size", "16"], "has groups of 16, expected 32 or more"),
        (&["bitsandbytes"], &["--method", "nf4", "--override", "*.down_proj=fp4"], "is fp4 in groups of 64 beside"),
    ] {
        for target in targets {
            let text = refused(&[&["export", &model(), "--target", target, "-o", &out][..], flags].concat());
            assert!(text.contains(said) && text.contains(target), "{target} {flags:?}: {text}");
        }
    }
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn what_has_changed_is_found_and_what_cannot_run_says_so() {
    let place = Place::new();
    let out = place.text("out");
    done(&["export", &model(), "--bits", "4", "--target", "gptq", "-o", &out]);
    let said = refused(&["generate", &out, "Once"]);
    assert!(said.contains("is a checkpoint for gptq, which ONNX Runtime cannot run"), "{said}");
    let layer = place.path("out").join("model-00003-of-00008.safetensors");
    let sound = fs::read(&layer).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&layer, &damaged).unwrap();
    let output = qonnx(&["verify", &out]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("model-00003-of-00008.safetensors has another BLAKE3"), "{said}");
    // A folder whose manifest was made to say the damaged file's hash: the weight's digest, or its other tensors, speak.
    let mut manifest = Manifest::load(&place.path("out")).unwrap();
    for (byte, expected) in [(damaged.len() - 1, "weights as computed"), (damaged.len() / 2, "weights as computed")] {
        let mut damaged = sound.clone();
        damaged[byte] ^= 1;
        fs::write(&layer, &damaged).unwrap();
        let record = manifest.outputs.iter_mut().find(|file| file.file == "model-00003-of-00008.safetensors").unwrap();
        record.blake3 = blake3::hash(&damaged).to_hex().to_string();
        manifest.seal();
        fs::write(place.path("out").join("qonnx.json"), manifest.to_json()).unwrap();
        let output = qonnx(&["verify", &out]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(&format!("FAIL  {expected}")), "{said}");
    }
    fs::write(place.path("out").join("notes"), "the only copy").unwrap();
    let said = refused(&["export", &model(), "--bits", "4", "--target", "mlx", "-o", &out, "--overwrite"]);
    assert!(said.contains("holds notes"), "{said}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_config() {
    let place = Place::new();
    let marked = place.path("model");
    fs::create_dir(&marked).unwrap();
    for entry in fs::read_dir(tiny::model()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, marked.join(path.file_name().unwrap())).unwrap();
    }
    for file in ["config.json", "generation_config.json"] {
        let text = fs::read(tiny::model().join(file)).unwrap();
        fs::write(marked.join(file), [b"\xef\xbb\xbf", text.as_slice()].concat()).unwrap();
    }
    let (plain, out, ort) = (place.text("plain"), place.text("gptq"), place.text("ort"));
    done(&["export", &place.text("model"), "--bits", "4", "--target", "gptq", "-o", &out]);
    done(&["export", &model(), "--bits", "4", "--target", "gptq", "-o", &plain]);
    done(&["verify", &out]);
    let read = |folder: &str, file: &str| fs::read(Path::new(folder).join(file)).unwrap();
    assert_eq!(read(&out, "config.json"), read(&plain, "config.json"));
    done(&["export", &place.text("model"), "--bits", "4", "-o", &ort]);
    let genai: Value = serde_json::from_slice(&read(&ort, "genai_config.json")).unwrap();
    assert_eq!(genai["model"]["eos_token_id"], 1);
}
