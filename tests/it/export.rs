//! What `qonnx export` leaves on the disk: the same bytes each time, as many as planned, all of them or none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use qonnx::artifact::plan::{RecipeFlags, Request};
use qonnx::commands::plan::{self, Load};
use qonnx::host::in_full;
use qonnx::recipe::{FormatName, GranularityName};
use qonnx::runtime::{Execution, ExecutionProvider};
use qonnx::tensor::DType;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::{made_up, tiny};

fn place() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

fn int4() -> RecipeFlags {
    tiny::bits(FormatName::Int4)
}

/// Names and contents of the files of a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries =
        fs::read_dir(folder).expect("the folder can be listed").map(|entry| entry.expect("an entry is readable").path());
    let name = |path: &Path| path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
    entries.map(|path| (name(&path), fs::read(&path).expect("the file is readable"))).collect()
}

/// Names in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder can be listed").map(|entry| entry.expect("an entry is readable"));
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn manifest(artifact: &Path) -> Value {
    serde_json::from_slice(&fs::read(artifact.join("qonnx.json")).expect("an artifact has a manifest")).expect("it is JSON")
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let place = place();
    let kinds = [int4(), RecipeFlags { asymmetric: true, embedding: Some(FormatName::Int8), ..tiny::bits(FormatName::Int2) }];
    for (kind, flags) in kinds.into_iter().enumerate() {
        let [first, second] = ["first", "second"].map(|name| {
            let output = place.path().join(format!("{name}-{kind}"));
            tiny::export(&tiny::request(&tiny::model(), flags.clone(), DType::F16), &output);
            contents(&output)
        });
        let expected = [
            "README.md",
            "config.json",
            "genai_config.json",
            "generation_config.json",
            "model.onnx",
            "model.onnx.data",
            "qonnx.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(first.keys().collect::<Vec<_>>(), expected);
        for (name, bytes) in &first {
            assert!(second.get(name) == Some(bytes), "{name} differs between two exports of one input");
        }
    }
}

#[test]
fn a_plan_says_how_many_bytes_there_will_be() {
    let place = place();
    let asymmetric = RecipeFlags { asymmetric: true, granularity: Some(GranularityName::Group(128)), ..int4() };
    let mut kinds = vec![asymmetric];
    kinds.extend([FormatName::F16, FormatName::Int8, FormatName::Int4, FormatName::Int2].map(tiny::bits));
    kinds.extend([FormatName::Int8, FormatName::Int4].map(|embedding| RecipeFlags { embedding: Some(embedding), ..int4() }));
    for (kind, flags) in kinds.into_iter().enumerate() {
        for activation in [DType::F16, DType::F32] {
            let request = tiny::request(&tiny::model(), flags.clone(), activation);
            let output = place.path().join(format!("{kind}-{activation}"));
            let exported = tiny::export(&request, &output);
            let planned = plan::run(&request, Load { batch: 1, context: Some(128) }).expect("what is exported can be planned");
            let real: usize = contents(&output).values().map(Vec::len).sum();
            assert_eq!(exported.artifact_bytes, real as u64);
            let off = (planned.artifact_bytes as f64 / real as f64 - 1.0).abs();
            assert!(off < 1e-3, "{flags:?} {activation}: planned {}, real {real}", planned.artifact_bytes);
            assert_eq!(planned.bits_per_weight_linears, exported.bits_per_weight_linears);
            assert_eq!(planned.bits_per_weight_model, exported.bits_per_weight_model);
        }
    }
}

/// The embedded model's configuration with `changes`.
fn config(changes: Value) -> Value {
    let text = fs::read(tiny::model().join("config.json")).expect("the fixture is readable");
    let mut config: Value = serde_json::from_slice(&text).expect("the fixture is JSON");
    let changes = changes.as_object().expect("changes are an object").clone();
    config.as_object_mut().expect("a configuration is an object").extend(changes);
    config
}

/// Exports a checkpoint of some shape at several widths; each must verify and fuse.
fn expect_whole(changes: Value, kinds: &[RecipeFlags]) {
    let place = place();
    let checkpoint = place.path().join("checkpoint");
    made_up::write_checkpoint(&checkpoint, &config(changes), DType::BF16);
    for (kind, flags) in kinds.iter().enumerate() {
        let output = place.path().join(kind.to_string());
        tiny::export(&tiny::request(&checkpoint, flags.clone(), DType::F32), &output);
        let runtime = qonnx::commands::RuntimeChoice {
            provider: qonnx::runtime::ExecutionProvider::Cpu,
            threads: None,
            weights: qonnx::runtime::WeightKernels::Fused,
            launch: qonnx::runtime::Launch::Replayed,
            cancel: qonnx::host::interrupt::CancelToken::NEVER,
        };
        let verified = qonnx::commands::verify::run(&output, &runtime).unwrap_or_else(|error| panic!("{}", in_full(&error)));
        assert!(verified.passed(), "{flags:?}: {verified}");
        let inspected = qonnx::commands::inspect::run(&output, &runtime).unwrap_or_else(|error| panic!("{}", in_full(&error)));
        assert!(inspected.every_weight_fused(), "{flags:?}: {inspected}");
        let cpu = ExecutionProvider::Cpu.onnxruntime_name();
        assert!(inspected.inspection.matmuls.iter().all(|matmul| matmul.provider == cpu), "{flags:?}: {inspected}");
        let dense = |execution: &Execution| matches!(execution, Execution::Dense { .. });
        let quantized = inspected.inspection.matmuls.iter().filter(|matmul| !dense(&matmul.execution)).count();
        // Two layers of seven linears; a quantized table is looked up and is, or stands beside, the head.
        let table = if flags.embedding.unwrap_or(FormatName::F16) == FormatName::F16 { 0 } else { 2 };
        let expected = if flags.format == Some(FormatName::F16) { 0 } else { 2 * 7 + table };
        assert_eq!(quantized, expected, "{flags:?}: {inspected}");
    }
}

fn every_width() -> Vec<RecipeFlags> {
    let mut kinds: Vec<_> = [FormatName::F16, FormatName::Int8, FormatName::Int4, FormatName::Int2].map(tiny::bits).into();
    kinds.push(RecipeFlags { asymmetric: true, embedding: Some(FormatName::Int4), ..int4() });
    kinds
}

#[test]
fn an_untied_head_is_exported() {
    expect_whole(json!({"tie_word_embeddings": false, "num_hidden_layers": 2}), &every_width());
}

#[test]
fn attention_and_mlp_biases_are_exported() {
    expect_whole(json!({"attention_bias": true, "mlp_bias": true, "num_hidden_layers": 2}), &every_width());
}

#[test]
fn a_head_dim_of_its_own_is_exported() {
    let changes = json!({"head_dim": 32, "num_hidden_layers": 2, "rope_scaling": null, "num_key_value_heads": 4});
    expect_whole(changes, &every_width());
}

#[test]
fn a_last_group_may_be_smaller_than_the_others() {
    let groups_of_128 = RecipeFlags { granularity: Some(GranularityName::Group(128)), ..int4() };
    let asymmetric = RecipeFlags { asymmetric: true, ..groups_of_128.clone() };
    let changes = json!({"intermediate_size": 752, "num_hidden_layers": 2});
    expect_whole(changes, &[int4(), groups_of_128, asymmetric, tiny::bits(FormatName::Int2)]);
}

/// Splits the embedded checkpoint into three shards with an index.
fn shard(folder: &Path) {
    for name in names(&tiny::model()).iter().filter(|name| name.ends_with(".json")) {
        fs::copy(tiny::model().join(name), folder.join(name)).expect("the fixture is readable");
    }
    let file = fs::read(tiny::model().join("model.safetensors")).expect("the fixture is readable");
    let length = usize::try_from(u64::from_le_bytes(file[..8].try_into().expect("eight bytes"))).expect("headers are small");
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).expect("the fixture's header is JSON");
    let mut shards = vec![(Map::new(), Vec::new()); 3];
    let mut weight_map = Map::new();
    for (number, (name, info)) in header.iter().filter(|(name, _)| *name != "__metadata__").enumerate() {
        let offsets: [usize; 2] = serde_json::from_value(info["data_offsets"].clone()).expect("offsets are numbers");
        let (entries, data) = &mut shards[number % 3];
        let start = data.len();
        data.extend(&file[8 + length..][offsets[0]..offsets[1]]);
        let mut moved = info.clone();
        moved["data_offsets"] = json!([start, data.len()]);
        entries.insert(name.clone(), moved);
        weight_map.insert(name.clone(), json!(format!("model-0000{}-of-00003.safetensors", number % 3 + 1)));
    }
    for (number, (entries, data)) in shards.into_iter().enumerate() {
        let header = Value::Object(entries).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(folder.join(format!("model-0000{}-of-00003.safetensors", number + 1)), bytes).expect("the place is ours");
    }
    let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).expect("the place is ours");
}

#[test]
fn shards_give_the_artifact_of_the_single_file() {
    let place = place();
    // Of the same name as the fixture, which the manifest records.
    let sharded = place.path().join("tiny-coqa");
    fs::create_dir(&sharded).expect("the place is ours");
    shard(&sharded);
    let export = |checkpoint: &Path, name: &str| {
        let output = place.path().join(name);
        tiny::export(&tiny::request(checkpoint, int4(), DType::F16), &output);
        let mut files = contents(&output);
        files.remove("qonnx.json");
        let mut manifest = manifest(&output);
        let inputs = manifest["inputs"].take();
        // It is of the inputs too.
        manifest["manifest_blake3"].take();
        (files, manifest, inputs.as_array().expect("inputs are a list").len())
    };
    let (one, sharded) = (export(&tiny::model(), "one"), export(&sharded, "sharded"));
    assert_eq!(one.1, sharded.1);
    assert!(one.0 == sharded.0, "some file differs");
    assert_eq!((one.2, sharded.2), (1, 3));
}

#[test]
fn overwrite_replaces_an_artifact_and_nothing_else() {
    let place = place();
    let output = place.path().join("artifact");
    let export = |bits: FormatName, overwrite: bool| {
        let request = tiny::request(&tiny::model(), tiny::bits(bits), DType::F16);
        let options = qonnx::commands::export::Options { overwrite, ..qonnx::commands::export::Options::new(output.clone()) };
        qonnx::commands::export::run(&request, &options)
    };
    export(FormatName::Int8, false).expect("nothing is in the way");
    let before = contents(&output);
    let refused = export(FormatName::Int4, false).expect_err("an artifact is in the way");
    assert!(refused.to_string().contains("--overwrite"), "{refused}");
    assert!(contents(&output) == before, "a refused export changed the artifact");
    export(FormatName::Int4, true).expect("an artifact may be replaced");
    assert_eq!(manifest(&output)["recipe"]["weights"]["format"], "int4");
    assert_eq!(names(place.path()), BTreeSet::from(["artifact".to_owned()]));
    fs::remove_file(output.join("qonnx.json")).expect("the place is ours");
    let refused = export(FormatName::Int4, true).expect_err("without its manifest it is somebody's folder");
    assert!(refused.to_string().contains("is not an artifact"), "{refused}");
}

/// A checkpoint whose export takes seconds: 170 million weights.
fn large(folder: &Path) {
    let changes = json!({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 10, "num_attention_heads": 16,
        "num_key_value_heads": 16});
    made_up::write_checkpoint(folder, &config(changes), DType::BF16);
}

#[test]
fn an_interrupt_leaves_nothing() {
    let place = place();
    let (checkpoint, out) = (place.path().join("checkpoint"), place.path().join("out"));
    large(&checkpoint);
    fs::create_dir(&out).expect("the place is ours");
    let mut export = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    export.arg("export").arg(&checkpoint).args(["--bits", "4", "--scale", "least-squares", "-o"]).arg(out.join("artifact"));
    let export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("qonnx starts");
    let started = Instant::now();
    // Work has begun when the temporary folder is there.
    while names(&out).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60), "no temporary folder appeared");
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed = Command::new("kill").args(["-INT", &export.id().to_string()]).status().expect("kill can be run");
    assert!(killed.success());
    let output = export.wait_with_output().expect("qonnx ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr, "error: interrupted; nothing was left behind\n");
    assert!(output.stdout.is_empty());
    assert_eq!(names(&out), BTreeSet::new());
}

#[test]
fn a_disk_that_is_full_leaves_nothing() {
    let place = place();
    // What a file may not grow beyond fails as a full disk does: each write behind it.
    let script = r#"trap "" XFSZ; ulimit -f 2048; exec "$0" export "$1" --bits 16 -o "$2""#;
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_qonnx")])
        .arg(tiny::model())
        .arg(place.path().join("artifact"))
        .output()
        .expect("bash is there");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot write ") && stderr.contains("model.onnx.data"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(names(place.path()), BTreeSet::new());
}

#[test]
fn a_recipe_file_and_its_flags_give_the_same_artifact() {
    let place = place();
    let recipe = "[weights]\nformat = \"int4\"\ngranularity = { group = 64 }\n[embedding]\nformat = \"int8\"\n";
    fs::write(place.path().join("recipe.toml"), recipe).expect("the place is ours");
    let flags = RecipeFlags { granularity: Some(GranularityName::Group(64)), embedding: Some(FormatName::Int8), ..int4() };
    let by_flags = tiny::request(&tiny::model(), flags, DType::F16);
    let named = qonnx::artifact::plan::RecipeChoice::Named(place.path().join("recipe.toml").display().to_string());
    let by_file = Request { recipe: named, ..by_flags.clone() };
    let [by_flags, by_file] = [("flags", by_flags), ("file", by_file)].map(|(name, request)| {
        let output = place.path().join(name);
        tiny::export(&request, &output);
        contents(&output)
    });
    assert!(by_flags["model.onnx"] == by_file["model.onnx"], "the graphs differ");
    assert!(by_flags["model.onnx.data"].len() == by_file["model.onnx.data"].len(), "the sizes differ");
}
