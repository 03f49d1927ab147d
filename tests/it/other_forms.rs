//! Checkpoints that are written in another way than transformers writes them today and hold the same model: what it loads
//! (5.17.0, with the unchanged model's numbers), export takes, and writes the same graph and the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// Name, header entry without offsets, bytes.
type Tensor = (String, Value, Vec<u8>);

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa")
}

/// The embedded model's tensors, to be written in another way.
fn tensors() -> Vec<Tensor> {
    let file = fs::read(model().join("model.safetensors")).expect("the fixture is readable");
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).expect("the fixture's header is JSON");
    let data = &file[8 + length..];
    let tensor = |(name, entry): (String, Value)| {
        let [start, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().expect("an offset") as usize);
        (name, json!({"dtype": entry["dtype"], "shape": entry["shape"]}), data[start..end].to_vec())
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(tensor).collect()
}

fn write_safetensors(path: &Path, tensors: &[Tensor]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, entry, bytes) in tensors {
        let mut entry = entry.clone();
        entry["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
        header.insert(name.clone(), entry);
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(path, file).expect("the place is ours");
}

/// A folder with everything of the embedded model but its weights.
fn folder(place: &Path, change: &dyn Fn(&mut Value)) -> PathBuf {
    let folder = place.join("checkpoint");
    fs::create_dir(&folder).expect("the place is ours");
    for name in ["generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model().join(name), folder.join(name)).expect("the fixture can be copied");
    }
    let text = fs::read(model().join("config.json")).expect("the fixture is readable");
    let mut config = serde_json::from_slice(&text).expect("the fixture is JSON");
    change(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).expect("the place is ours");
    folder
}

/// Exports with the program itself; what it said on stderr.
#[track_caller]
fn export(checkpoint: &Path, output: &Path) -> String {
    let mut qonnx = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    qonnx.args(["export", "--bits", "4", "--dtype", "f32"]).arg(checkpoint).arg("-o").arg(output).env_remove("RUST_LOG");
    let output = qonnx.output().expect("qonnx starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    stderr
}

fn graph_and_data(artifact: &Path) -> [Vec<u8>; 2] {
    let [graph, data] =
        ["model.onnx", "model.onnx.data"].map(|file| fs::read(artifact.join(file)).expect("an artifact has both"));
    // It names its model, and each form lies in a folder of another name.
    let mut graph = qonnx::onnx::decode(&graph).expect("it was just written");
    graph.set_metadata(Vec::new());
    [qonnx::onnx::encode(&graph).expect("it was read"), data]
}

fn write_shards(folder: &Path, tensors: &[Tensor]) {
    let (first, second) = tensors.split_at(tensors.len() / 2);
    write_safetensors(&folder.join(SHARDS[0]), first);
    write_safetensors(&folder.join(SHARDS[1]), second);
}

/// An index of both shards that puts each tensor in `shard_of(which half, its name)`, and `more` in the first.
fn write_index(folder: &Path, tensors: &[Tensor], shard_of: &dyn Fn(usize) -> usize, more: &[&str]) {
    let half = tensors.len() / 2;
    let shard = |at: usize| SHARDS[shard_of(usize::from(at >= half))];
    let mut map: Map<String, Value> =
        tensors.iter().enumerate().map(|(at, (name, ..))| (name.clone(), json!(shard(at)))).collect();
    map.extend(more.iter().map(|name| ((*name).to_owned(), json!(SHARDS[0]))));
    fs::write(folder.join(INDEX), json!({"metadata": {}, "weight_map": map}).to_string()).expect("the place is ours");
}

/// Names, changed.
fn renamed(change: impl Fn(&str) -> String) -> Vec<Tensor> {
    tensors().into_iter().map(|(name, entry, bytes)| (change(&name), entry, bytes)).collect()
}

/// A tied head, stored again in f32.
fn head_in_f32() -> Vec<Tensor> {
    let mut all = tensors();
    let (_, entry, bytes) = all.iter().find(|(name, ..)| name == "model.embed_tokens.weight").expect("a Llama has it").clone();
    let wide = bytes.as_chunks::<2>().0.iter().flat_map(|&[low, high]| [0, 0, low, high]).collect();
    all.push(("lm_head.weight".to_owned(), json!({"dtype": "F32", "shape": entry["shape"]}), wide));
    all
}

type Write = Box<dyn Fn(&Path)>;

/// Name, change of config.json, how the weights are written, what stderr must say.
type Form = (&'static str, fn(&mut Value), Write, &'static [&'static str]);

fn forms() -> Vec<Form> {
    let single = |tensors: Vec<Tensor>| -> Write {
        Box::new(move |folder| write_safetensors(&folder.join("model.safetensors"), &tensors))
    };
    let same = |_: &mut Value| ();
    let indexed = |shard_of: fn(usize) -> usize, more: &'static [&'static str]| -> Write {
        Box::new(move |folder| {
            write_shards(folder, &tensors());
            write_index(folder, &tensors(), &shard_of, more);
        })
    };
    vec![
        ("the old spelling", |c| c["architectures"] = json!(["LLaMAForCausalLM"]), single(tensors()), &[]),
        ("silu by its other name", |c| c["hidden_act"] = json!("swish"), single(tensors()), &[]),
        ("a tied head in f32", same, single(head_in_f32()), &[]),
        (
            "a prefix twice",
            same,
            single(renamed(|name| format!("model.{name}"))),
            &["56 tensors are read under other names", "model.model.embed_tokens.weight as model.embed_tokens.weight"],
        ),
        (
            "no prefix",
            same,
            single(renamed(|name| name.strip_prefix("model.").unwrap_or(name).to_owned())),
            &["embed_tokens.weight as model.embed_tokens.weight"],
        ),
        (
            "an index that names what is not there",
            same,
            indexed(|half| half, &["model.layers.0.self_attn.rotary_emb.inv_freq"]),
            &["the index names 1 tensors that no shard has", "model.layers.0.self_attn.rotary_emb.inv_freq"],
        ),
        ("an index that mixes up its shards", same, indexed(|half| 1 - half, &[]), &[]),
        ("shards without an index", same, Box::new(|folder| write_shards(folder, &tensors())), &[]),
        (
            "an adapter beside the weights",
            same,
            Box::new(|folder| {
                write_safetensors(&folder.join("model.safetensors"), &tensors());
                fs::write(folder.join("adapter_config.json"), "{}").expect("the place is ours");
                write_safetensors(&folder.join("adapter_model.safetensors"), &tensors()[..1]);
                write_safetensors(&folder.join("consolidated.safetensors"), &tensors()[..1]);
                fs::write(folder.join("quantize_config.json"), "{\"bits\": 4}").expect("the place is ours");
            }),
            &[
                "adapter_config.json, adapter_model.safetensors: an adapter lies beside the weights and is not applied",
                "consolidated.safetensors: more weights lie beside",
                "quantize_config.json: settings of a quantization",
            ],
        ),
    ]
}

#[test]
fn what_transformers_loads_is_exported_with_the_same_bytes() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let unchanged = place.path().join("unchanged");
    assert_eq!(export(&model(), &unchanged), "", "an ordinary checkpoint is exported without a word");
    let expected = graph_and_data(&unchanged);
    for (name, config, write, says) in forms() {
        let place = tempfile::tempdir().expect("a temporary folder can be made");
        let checkpoint = folder(place.path(), &config);
        write(&checkpoint);
        let artifact = place.path().join("artifact");
        let stderr = export(&checkpoint, &artifact);
        for part in says {
            assert!(stderr.contains(part), "{name}: stderr lacks `{part}`: {stderr}");
        }
        assert_eq!(says.is_empty(), stderr.is_empty(), "{name}: {stderr}");
        assert!(graph_and_data(&artifact) == expected, "{name}: another graph or other bytes");
    }
}

#[test]
fn a_model_of_few_positions_is_planned_at_all_of_them() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let checkpoint = folder(place.path(), &|config| config["max_position_embeddings"] = json!(256));
    write_safetensors(&checkpoint.join("model.safetensors"), &tensors());
    let run = Command::new(env!("CARGO_BIN_EXE_qonnx")).args(["plan", "--json"]).arg(checkpoint).output().expect("qonnx starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let plan: Value = serde_json::from_slice(&run.stdout).expect("one JSON object");
    assert_eq!((plan["max_context"].as_u64(), plan["vram"]["context"].as_u64()), (Some(256), Some(256)));
}

#[test]
fn a_context_beyond_all_memory_is_refused() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let checkpoint = folder(place.path(), &|config| config["max_position_embeddings"] = json!(1_u64 << 31));
    write_safetensors(&checkpoint.join("model.safetensors"), &tensors());
    let plan = |context: &str| {
        let mut qonnx = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        let run = qonnx.arg("plan").arg(&checkpoint).args(["--max-context", context]).output().expect("qonnx starts");
        (run.status.code(), String::from_utf8_lossy(&run.stdout).into_owned())
    };
    let (code, said) = plan("134217728");
    assert_eq!(code, Some(2), "{said}");
    // A gigabyte of f32, 32 to a position.
    assert!(said.contains("--max-context 134217728: expected 1 to 8388608, for the artifact has a row"), "{said}");
    assert_eq!(plan("100000").0, Some(0));
}

#[test]
fn a_folder_is_planned_and_exported_without_a_home() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let (model, artifact) = (model(), place.path().join("artifact"));
    for arguments in [vec!["plan".into(), model.clone()], vec!["export".into(), model, "-o".into(), artifact]] {
        let mut qonnx = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        for name in ["HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"] {
            qonnx.env_remove(name);
        }
        let run = qonnx.args(arguments).output().expect("qonnx starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn a_cache_below_a_tilde_is_found() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let home = tempfile::tempdir().expect("a temporary folder can be made");
    let repository = home.path().join("hfx/hub/models--org--tiny");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).expect("the place is ours");
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        fs::copy(model().join(name), snapshot.join(name)).expect("the fixture can be copied");
    }
    fs::create_dir(repository.join("refs")).expect("the place is ours");
    fs::write(repository.join("refs/main"), COMMIT).expect("the place is ours");
    for (name, value) in [("HF_HOME", "~/hfx"), ("HF_HUB_CACHE", "$HOME/hfx/hub")] {
        let mut qonnx = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        qonnx
            .env_remove("HF_HOME")
            .env_remove("HF_HUB_CACHE")
            .env("HOME", home.path())
            .env(name, value)
            .env("HF_HUB_OFFLINE", "1");
        let run = qonnx.args(["plan", "org/tiny"]).output().expect("qonnx starts");
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        assert!(String::from_utf8_lossy(&run.stdout).starts_with("org/tiny: 5.8 M parameters"));
    }
}

#[test]
fn an_output_that_nothing_could_open_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let output = place.path().join(std::ffi::OsStr::from_bytes(b"a\xff"));
    let run = Command::new(env!("CARGO_BIN_EXE_qonnx")).arg("export").arg(model()).arg("-o").arg(&output).output();
    let run = run.expect("qonnx starts");
    let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("the path is not UTF-8") && !output.exists(), "{stderr}");
}

/// Also what older exports left behind: the chat template of an instruct model.
#[test]
fn what_lies_beside_the_weights_comes_along() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let checkpoint = folder(place.path(), &|_| ());
    write_safetensors(&checkpoint.join("model.safetensors"), &tensors());
    fs::write(checkpoint.join("chat_template.jinja"), "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}")
        .expect("the place is ours");
    let artifact = place.path().join("artifact");
    export(&checkpoint, &artifact);
    let manifest: Value =
        serde_json::from_slice(&fs::read(artifact.join("qonnx.json")).expect("it is there")).expect("a manifest is JSON");
    let outputs: Vec<&str> =
        manifest["outputs"].as_array().expect("a list").iter().filter_map(|output| output["file"].as_str()).collect();
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ] {
        let [mut theirs, ours] =
            [&checkpoint, &artifact].map(|folder| fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")));
        if file == "tokenizer_config.json" {
            // transformers.js looks for the template there alone; the rest is byte for byte as it was.
            let text = String::from_utf8(theirs).expect("JSON is a text");
            let template = fs::read_to_string(checkpoint.join("chat_template.jinja")).expect("it is there");
            theirs = text.replacen('{', &format!("{{\n  \"chat_template\": {},", json!(template)), 1).into_bytes();
        }
        assert!(theirs == ours && outputs.contains(&file), "{file}, {outputs:?}");
    }
    assert!(outputs.contains(&"genai_config.json"));
}

#[test]
fn files_that_others_read_and_the_licence_come_along() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let checkpoint = folder(place.path(), &|_| ());
    write_safetensors(&checkpoint.join("model.safetensors"), &tensors());
    let carried = ["LICENSE.txt", "NOTICE", "added_tokens.json", "merges.txt", "tokenizer.model", "vocab.json"];
    for file in carried {
        fs::write(checkpoint.join(file), format!("what {file} says")).expect("the place is ours");
    }
    let (quantized, artifact) = (place.path().join("q"), place.path().join("artifact"));
    let mut quantize = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    let ran =
        quantize.arg("quantize").arg(&checkpoint).args(["--bits", "4", "-o"]).arg(&quantized).output().expect("qonnx starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let exported = Command::new(env!("CARGO_BIN_EXE_qonnx")).arg("export").arg(&quantized).arg("-o").arg(&artifact).status();
    assert!(exported.expect("qonnx starts").success());
    for file in carried {
        let read = fs::read_to_string(artifact.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(read, format!("what {file} says"));
    }
}
