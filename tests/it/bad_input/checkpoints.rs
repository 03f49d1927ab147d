//! Checkpoints that are broken in one place each.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Place, artifact, expect_none, fixture, listing, program};

/// A copy of the good checkpoint, to be broken.
struct Checkpoint {
    folder: PathBuf,
}

impl Checkpoint {
    fn copy_to(folder: &Path) -> Checkpoint {
        for name in [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            fs::copy(fixture().join(name), folder.join(name)).expect("the fixture can be copied");
        }
        Checkpoint { folder: folder.to_owned() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.folder.join(name), bytes).expect("the place is ours");
    }

    fn fifo(&self, name: &str) {
        let _ = fs::remove_file(self.folder.join(name));
        let made = std::process::Command::new("mkfifo").arg(self.folder.join(name)).status();
        assert!(made.expect("mkfifo is there").success());
    }

    /// Gives every tensor another name.
    fn rename(&self, change: impl Fn(&str) -> String) {
        self.header(|header| {
            header.shift_remove("__metadata__");
            *header = std::mem::take(header).into_iter().map(|(name, entry)| (change(&name), entry)).collect();
        });
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join(name)).expect("the file was copied");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.join(name)).expect("the file was copied")
    }

    fn config(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut config: Map<String, Value> = serde_json::from_slice(&self.read("config.json")).expect("the fixture is JSON");
        change(&mut config);
        self.write("config.json", Value::Object(config).to_string());
    }

    /// Header, data.
    fn weights(&self) -> (Map<String, Value>, Vec<u8>) {
        let mut file = self.read("model.safetensors");
        let data = file.split_off(8 + header_length(&file));
        (serde_json::from_slice(&file[8..]).expect("the fixture's header is JSON"), data)
    }

    fn header(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let (mut header, data) = self.weights();
        change(&mut header);
        self.write("model.safetensors", safetensors(&Value::Object(header).to_string(), &data));
    }

    /// Overwrites one bf16 element of `tensor`.
    fn element(&self, tensor: &str, index: usize, bits: u16) {
        let (header, mut data) = self.weights();
        let start = header[tensor]["data_offsets"][0].as_u64().expect("an offset is a number");
        let at = usize::try_from(start).expect("offsets are small") + 2 * index;
        data[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        self.write("model.safetensors", safetensors(&Value::Object(header).to_string(), &data));
    }

    /// Sets every bf16 element of `tensor` to `bits`.
    fn fill(&self, tensor: &str, bits: u16) {
        let (header, mut data) = self.weights();
        let range = data_range(&header, tensor);
        data[range].as_chunks_mut::<2>().0.fill(bits.to_le_bytes());
        self.write("model.safetensors", safetensors(&Value::Object(header).to_string(), &data));
    }

    /// Adds an `lm_head.weight` that is the embedding, its first byte changed by `difference`.
    fn add_head(&self, difference: u8) {
        let (mut header, mut data) = self.weights();
        let (start, table) = (data.len(), data_range(&header, "model.embed_tokens.weight"));
        data.extend_from_within(table);
        data[start] ^= difference;
        let shape = header["model.embed_tokens.weight"]["shape"].clone();
        let head = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert("lm_head.weight".into(), head);
        self.write("model.safetensors", safetensors(&Value::Object(header).to_string(), &data));
    }
}

fn header_length(file: &[u8]) -> usize {
    let prefix = file[..8].try_into().expect("eight bytes");
    usize::try_from(u64::from_le_bytes(prefix)).expect("headers are small")
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = u64::try_from(header.len()).expect("headers are small").to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn data_range(header: &Map<String, Value>, tensor: &str) -> std::ops::Range<usize> {
    let offset = |end: usize| header[tensor]["data_offsets"][end].as_u64().expect("an offset is a number");
    let [start, end] = [offset(0), offset(1)].map(|offset| usize::try_from(offset).expect("offsets are small"));
    start..end
}

const DOWN_PROJ: &str = "model.layers.3.mlp.down_proj.weight";
const NORM: &str = "model.norm.weight";

type Break = fn(&Checkpoint);

#[test]
fn configurations() {
    let cases: &[(&str, Break, &[&str])] = &[
        ("no config.json", |c| c.remove("config.json"), &["config.json"]),
        ("config.json cut off", |c| c.write("config.json", "{\"architectures\": [\"Llama"), &["config.json", "line 1"]),
        ("config.json is a list", |c| c.write("config.json", "[]"), &["config.json"]),
        ("config.json is empty", |c| c.write("config.json", ""), &["config.json"]),
        (
            "another architecture",
            |c| c.config(|v| v["architectures"] = json!(["GPT2LMHeadModel"])),
            &["GPT2LMHeadModel", "LlamaForCausalLM"],
        ),
        (
            "no architecture",
            |c| c.config(|v| v.retain(|key, _| key != "architectures" && key != "model_type")),
            &["architectures", "model_type", "LlamaForCausalLM"],
        ),
        ("an unknown rope type", |c| c.config(|v| v["rope_scaling"]["rope_type"] = json!("yarn")), &["yarn", "llama3"]),
        ("a rope factor of zero", |c| c.config(|v| v["rope_scaling"]["factor"] = json!(0.0)), &["factor", "0"]),
        (
            "no rope factor",
            |c| c.config(|v| drop(v["rope_scaling"].as_object_mut().map(|r| r.shift_remove("factor")))),
            &["factor"],
        ),
        ("another activation", |c| c.config(|v| v["hidden_act"] = json!("gelu")), &["hidden_act", "gelu", "silu"]),
        ("no hidden_size", |c| c.config(|v| drop(v.shift_remove("hidden_size"))), &["hidden_size"]),
        ("hidden_size is text", |c| c.config(|v| v["hidden_size"] = json!("256")), &["hidden_size"]),
        ("hidden_size is zero", |c| c.config(|v| v["hidden_size"] = json!(0)), &["hidden_size", "0"]),
        ("hidden_size is negative", |c| c.config(|v| v["hidden_size"] = json!(-256)), &["hidden_size"]),
        ("heads that do not divide", |c| c.config(|v| v["num_key_value_heads"] = json!(3)), &["num_key_value_heads", "3", "4"]),
        ("no heads", |c| c.config(|v| v["num_attention_heads"] = json!(0)), &["num_attention_heads", "0"]),
        ("an odd head_dim", |c| c.config(|v| v["head_dim"] = json!(63)), &["head_dim", "63"]),
        ("no layers", |c| c.config(|v| v["num_hidden_layers"] = json!(0)), &["num_hidden_layers", "0"]),
        ("one layer too many", |c| c.config(|v| v["num_hidden_layers"] = json!(7)), &["model.layers.6."]),
        (
            "more layers than memory",
            |c| c.config(|v| v["num_hidden_layers"] = json!(2_000_000_000)),
            &["config.json says 2000000000 layers, the checkpoint has 6"],
        ),
        ("a FIFO for config.json", |c| c.fifo("config.json"), &["config.json: it is a FIFO, not a file"]),
        ("a FIFO for tokenizer.json", |c| c.fifo("tokenizer.json"), &["tokenizer.json: it is a FIFO, not a file"]),
        (
            "a FIFO for the index",
            |c| {
                c.remove("model.safetensors");
                c.fifo("model.safetensors.index.json");
            },
            &["model.safetensors.index.json: expected a file, got a folder, a FIFO or a device"],
        ),
        ("config.json in UTF-16", |c| c.write("config.json", b"\xff\xfe{\0}\0"), &["config.json: it is UTF-16"]),
        ("another vocab_size", |c| c.config(|v| v["vocab_size"] = json!(4097)), &["model.embed_tokens.weight", "4097", "4096"]),
        ("another intermediate_size", |c| c.config(|v| v["intermediate_size"] = json!(1024)), &["mlp", "1024", "768"]),
        (
            "quantized already",
            |c| c.config(|v| drop(v.insert("quantization_config".into(), json!({"quant_method": "gptq"})))),
            &["gptq"],
        ),
        ("no tokenizer.json", |c| c.remove("tokenizer.json"), &["tokenizer.json is missing"]),
        (
            "a broken tokenizer.json",
            |c| c.write("tokenizer.json", "{\"version\": "),
            &["tokenizer.json is not a tokenizer that can be used", "line 1"],
        ),
        ("a broken generation_config.json", |c| c.write("generation_config.json", "none"), &["generation_config.json"]),
    ];
    expect_none(cases.iter().map(|(name, broken, says)| ((*name).to_owned(), checkpoint_refusal(*broken, says))).collect());
}

#[test]
fn tensors_that_no_part_needs_are_left_out_with_a_warning() {
    let place = Place::new();
    let checkpoint = Checkpoint::copy_to(&place.input());
    let (mut header, mut data) = checkpoint.weights();
    let bias = json!({"dtype": "BF16", "shape": [4], "data_offsets": [data.len(), data.len() + 8]});
    header.insert("model.layers.0.self_attn.q_proj.bias".into(), bias);
    data.extend([0; 8]);
    checkpoint.write("model.safetensors", safetensors(&Value::Object(header).to_string(), &data));
    let run = program(place.folder.path()).arg("plan").arg(place.input()).assert().success();
    let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(stderr.contains("1 tensors") && stderr.contains("model.layers.0.self_attn.q_proj.bias"), "{stderr}");
}

#[test]
fn a_token_that_the_model_has_no_row_for() {
    let place = Place::new();
    for (file, _) in listing(artifact()) {
        fs::copy(&file, place.input().join(file.file_name().expect("a listed file has a name"))).expect("the place is ours");
    }
    let config = fs::read_to_string(place.input().join("config.json")).expect("it was copied");
    let smaller = config.replace("\"vocab_size\": 4096", "\"vocab_size\": 10");
    assert_ne!(config, smaller);
    fs::write(place.input().join("config.json"), smaller).expect("the place is ours");
    let says = &["token \"he\" has id 259", "vocabulary of 10", "tokenizer"];
    expect_none(vec![("a token without a row".to_owned(), place.refusal("generate {in} hello", says))]);
}

#[test]
fn a_tied_head_that_repeats_the_embedding_is_exported() {
    let place = Place::new();
    Checkpoint::copy_to(&place.input()).add_head(0);
    let (input, output) = (place.input(), place.output().join("a"));
    program(place.folder.path()).arg("export").arg(input).arg("-o").arg(&output).assert().success();
    assert!(output.join("qonnx.json").is_file());
}

#[test]
fn checkpoints() {
    let cases: &[(&str, Break, &[&str])] = &[
        ("no safetensors", |c| c.remove("model.safetensors"), &["model.safetensors"]),
        ("an empty file", |c| c.write("model.safetensors", ""), &["model.safetensors", "0 bytes"]),
        ("a file of seven bytes", |c| c.write("model.safetensors", [0; 7]), &["model.safetensors", "7 bytes"]),
        ("a huge header length", |c| c.write("model.safetensors", [255; 64]), &["model.safetensors", "header length"]),
        ("a header past the end", |c| c.write("model.safetensors", &c.read("model.safetensors")[..100]), &["truncated"]),
        ("data cut off", |c| c.write("model.safetensors", &c.read("model.safetensors")[..11_000_000]), &["truncated"]),
        ("a header that is no JSON", |c| c.write("model.safetensors", safetensors("{\"a\": ", &[])), &["not the JSON"]),
        ("a header that is no UTF-8", |c| c.write("model.safetensors", b"\x02\0\0\0\0\0\0\0\xff\xff"), &["UTF-8"]),
        ("no tensors", |c| c.write("model.safetensors", safetensors("{}", &[])), &["model.embed_tokens.weight"]),
        (
            "trailing bytes",
            |c| c.write("model.safetensors", [c.read("model.safetensors"), vec![0; 4]].concat()),
            &["belong to no tensor"],
        ),
        (
            "a missing tensor",
            |c| {
                c.header(|h| {
                    let w = h.shift_remove(DOWN_PROJ);
                    h.insert("other".into(), w.unwrap_or_default());
                })
            },
            &[DOWN_PROJ],
        ),
        (
            "a transposed weight",
            |c| c.header(|h| h[DOWN_PROJ]["shape"] = json!([768, 256])),
            &[DOWN_PROJ, "[256, 768]", "[768, 256]"],
        ),
        (
            "a weight without elements",
            |c| c.header(|h| h[DOWN_PROJ] = json!({"dtype": "BF16", "shape": [0, 768], "data_offsets": [0, 0]})),
            &["model.safetensors"],
        ),
        ("a flat weight", |c| c.header(|h| h[DOWN_PROJ]["shape"] = json!([256 * 768])), &[DOWN_PROJ, "196608"]),
        ("a shape that overflows", |c| c.header(|h| h[DOWN_PROJ]["shape"] = json!([u64::MAX, 2])), &[DOWN_PROJ, "overflow"]),
        ("a shape that lies", |c| c.header(|h| h[DOWN_PROJ]["shape"] = json!([256, 767])), &[DOWN_PROJ, "bytes"]),
        ("integers for weights", |c| c.header(|h| h[DOWN_PROJ]["dtype"] = json!("I16")), &[DOWN_PROJ, "I16", "BF16"]),
        ("an unknown element type", |c| c.header(|h| h[DOWN_PROJ]["dtype"] = json!("Q4")), &[DOWN_PROJ, "Q4"]),
        (
            "integers for all weights",
            |c| {
                c.header(|h| {
                    h.shift_remove("__metadata__");
                    h.values_mut().for_each(|entry| entry["dtype"] = json!("I16"));
                })
            },
            &["element type I16", "and the same of 53 more"],
        ),
        (
            "names of an adapter's state",
            |c| c.rename(|name| format!("base_model.model.{name}")),
            &[
                "there is no model.embed_tokens.weight, model.layers.0.input_layernorm.weight, ",
                "the names there begin with base_model.model. (base_model.model.model.embed_tokens.weight, ",
                "and 53 more), as peft's state does",
                "merge_and_unload",
            ],
        ),
        (
            "names of another wrapper",
            |c| c.rename(|name| format!("module.{name}")),
            &["the names there begin with module. (module.model.embed_tokens.weight, "],
        ),
        (
            "names of GPTQ's codes",
            |c| c.rename(|name| name.replace("_proj.weight", "_proj.qweight")),
            &[
                "there is no model.layers.0.self_attn.q_proj.weight, ",
                "and 39 more, but model.layers.0.",
                "quantized already (GPTQ or AWQ)",
            ],
        ),
        ("names of another model", |c| c.rename(|name| name.replace("model.", "gpt.h.")), &["its tensors are gpt.h."]),
        ("offsets in reverse", |c| c.header(|h| h[NORM]["data_offsets"] = json!([512, 0])), &[NORM, "data_offsets"]),
        ("overlapping tensors", |c| c.header(|h| h[NORM]["data_offsets"] = h[DOWN_PROJ]["data_offsets"].clone()), &[NORM]),
        ("a weight that is NaN", |c| c.element(DOWN_PROJ, 1000, 0x7fc0), &[DOWN_PROJ, "NaN"]),
        ("an infinite weight", |c| c.element(DOWN_PROJ, 1000, 0xff80), &[DOWN_PROJ, "inf"]),
        ("a weight beyond f16 scales", |c| c.element(DOWN_PROJ, 1000, 0x7149), &[DOWN_PROJ, "a scale is beyond", "override"]),
        ("a weight below f16 scales", |c| c.fill(DOWN_PROJ, 0x2e00), &[DOWN_PROJ, "every weight rounds to zero", "override"]),
        ("a tied head of its own", |c| c.add_head(1), &["lm_head.weight", "tie_word_embeddings to false"]),
        ("a norm that is NaN", |c| c.element(NORM, 3, 0x7fc0), &[NORM, "NaN"]),
        ("an index without its shard", |c| index(c, "model-00001-of-00002.safetensors"), &["model-00001-of-00002.safetensors"]),
        ("an index that leaves the folder", |c| index(c, "../model.safetensors"), &["../model.safetensors", "file name"]),
        (
            "an index that is no JSON",
            |c| {
                c.remove("model.safetensors");
                c.write("model.safetensors.index.json", "{");
            },
            &["index"],
        ),
    ];
    expect_none(cases.iter().map(|(name, broken, says)| ((*name).to_owned(), checkpoint_refusal(*broken, says))).collect());
    expect_none(vec![
        (
            "no folder".to_owned(),
            Place::new().refusal("export {in}/none -o {out}/a", &["none", "neither a folder nor a repository"]),
        ),
        ("a file".to_owned(), Place::new().refusal("export {model}/config.json -o {out}/a", &["config.json", "this is a file"])),
    ]);
}

fn checkpoint_refusal(broken: Break, says: &[&str]) -> Vec<String> {
    let place = Place::new();
    broken(&Checkpoint::copy_to(&place.input()));
    place.refusal("export {in} --bits 4 -o {out}/a", says)
}

/// Replaces the only file by an index whose every tensor is said to be in `shard`.
fn index(checkpoint: &Checkpoint, shard: &str) {
    let (header, _) = checkpoint.weights();
    let map: Map<String, Value> = header.keys().map(|name| (name.clone(), json!(shard))).collect();
    checkpoint.remove("model.safetensors");
    checkpoint.write("model.safetensors.index.json", json!({ "weight_map": map }).to_string());
}

/// A model whose activations leave the numbers is an error that says where, not an artifact.
#[test]
fn activations_that_are_not_finite() {
    let place = Place::new();
    // The largest bf16 number everywhere: what the MLP multiplies is beyond f32.
    Checkpoint::copy_to(&place.input()).fill("model.layers.2.post_attention_layernorm.weight", 0x7f7f);
    let mut export = program(place.folder.path());
    export.arg("export").arg(place.input()).args(["--method", "gptq", "--dtype", "f32", "-o"]).arg(place.output().join("a"));
    let run = export.assert().failure();
    let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(stderr.contains("layer 2: the input of mlp.gate_proj") && stderr.contains("NaN or infinite"), "{stderr}");
    assert!(!place.output().join("a").exists(), "the layers before it are kept, and no artifact is there");
}
