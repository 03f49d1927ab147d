//! Every reader of bytes that somebody else wrote, as a function of those bytes. Fuzzed by `fuzz_targets/`, one target each;
//! `tests/fuzz_corpus.rs` runs the same functions over the inputs in `corpus/`.

use std::fs;
use std::path::Path;

use qonnx::calib::{ChatTemplate, Clock, Message, SetFile};
use qonnx::checkpoint::{Index, TensorFile, parse_header};
use qonnx::companions::{Companions, SpecialTokens, Tokenizer};
use qonnx::eval::coqa::{self, lines};
use qonnx::eval::{CacheReader, TokenWindows};
use qonnx::model::Architecture;
use qonnx::onnx;
use qonnx::recipe::Recipe;
use qonnx::record::{Manifest, RunRecord};
use qonnx::report::{RecordFile, Study};
use qonnx::study::experiment::Experiment;
use qonnx::study::sweep::SweepFile;

/// What a reader returns does not matter; it must return, and soon, and in little memory.
type Reader = fn(&[u8]);

/// Readers by their names.
pub const READERS: &[(&str, Reader)] = &[
    ("answers", answers),
    ("calibration", calibration),
    ("chat_template", chat_template),
    ("config", config),
    ("coqa", coqa),
    ("experiment", experiment),
    ("generation_config", generation_config),
    ("graph", graph),
    ("kl_reference", kl_reference),
    ("manifest", manifest),
    ("recipe", recipe),
    ("record", record),
    ("safetensors", safetensors),
    ("shard_index", shard_index),
    ("sweep", sweep),
    ("tensor_file", tensor_file),
    ("tokenizer", tokenizer),
    ("tokenizer_config", tokenizer_config),
    ("windows", windows),
];

/// Runs the reader `name`.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, reader) = READERS.iter().find(|(known, _)| *known == name).expect("a target is called as its reader");
    reader(bytes);
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Puts the bytes where a reader that takes a path finds them.
fn in_a_folder(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(name), bytes).expect("the folder is ours");
    read(folder.path());
}

fn answers(bytes: &[u8]) {
    if let Ok(lines) = lines::parse_lines(bytes, "answers.jsonl") {
        drop(coqa::rescore(&lines, "answers.jsonl"));
    }
}

fn calibration(bytes: &[u8]) {
    drop(SetFile::parse("set.toml", text(bytes)));
}

/// A template, a NUL, and the messages as JSON.
fn chat_template(bytes: &[u8]) {
    let (template, messages) =
        text(bytes).split_once('\0').unwrap_or((text(bytes), "[{\"role\": \"user\", \"content\": \"Hi\"}]"));
    let Ok(messages) = serde_json::from_str::<Vec<Message>>(messages) else { return };
    if let Ok(template) = ChatTemplate::new(template, Default::default(), Clock::default()) {
        drop(template.render(&messages));
    }
}

fn config(bytes: &[u8]) {
    drop(Architecture::from_json(text(bytes)));
}

/// The first byte chooses the file's ending; parquet files are known by their own.
fn coqa(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (name, bytes) = match first {
        b'P' => ("coqa.parquet", bytes),
        b'l' => ("coqa.jsonl", rest),
        _ => ("coqa.json", rest),
    };
    drop(coqa::parse(bytes, name));
}

fn experiment(bytes: &[u8]) {
    drop(Experiment::parse("name", "name.toml", text(bytes)));
}

/// Beside the smallest tokenizer and configuration that are read before it.
fn generation_config(bytes: &[u8]) {
    const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}"#;
    in_a_folder("generation_config.json", bytes, |folder| {
        fs::write(folder.join("config.json"), r#"{"vocab_size": 2}"#).expect("the folder is ours");
        fs::write(folder.join("tokenizer.json"), TOKENIZER).expect("the folder is ours");
        drop(Companions::read(folder));
    });
}

fn graph(bytes: &[u8]) {
    if let Ok(model) = onnx::decode(bytes) {
        drop(onnx::encode(&model));
    }
}

/// A reference of the model `m`, without the hash at its end: a wrong one would hide what lies behind it.
fn kl_reference(bytes: &[u8]) {
    let sealed = [bytes, blake3::hash(bytes).as_bytes()].concat();
    in_a_folder("reference", &sealed, |folder| {
        let Ok(mut reference) = CacheReader::open(&folder.join("reference"), "m") else { return };
        for _ in 0..reference.header().positions {
            if reference.next_positions(1).is_err() {
                return;
            }
        }
    });
}

fn manifest(bytes: &[u8]) {
    in_a_folder("qonnx.json", bytes, |folder| drop(Manifest::load(folder).map(|manifest| manifest.to_json())));
}

fn recipe(bytes: &[u8]) {
    drop(Recipe::parse("recipe.toml", text(bytes)));
}

fn record(bytes: &[u8]) {
    in_a_folder("x_results.json", bytes, |folder| {
        if let Ok(record) = RunRecord::load(&folder.join("x_results.json")) {
            drop(Study::new(vec![RecordFile { file: "x_results.json".to_owned(), record }]));
        }
    });
}

fn safetensors(bytes: &[u8]) {
    drop(parse_header(bytes, bytes.len() as u64));
}

/// Beside a shard `s` with one tensor, `a`.
fn shard_index(bytes: &[u8]) {
    const HEADER: &str = r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}   "#;
    let shard = [&(HEADER.len() as u64).to_le_bytes()[..], HEADER.as_bytes(), &[0; 4]].concat();
    in_a_folder("model.safetensors.index.json", bytes, |folder| {
        fs::write(folder.join("s"), shard).expect("the folder is ours");
        drop(Index::open(folder));
    });
}

fn sweep(bytes: &[u8]) {
    drop(SweepFile::parse("sweep.toml", text(bytes)));
}

fn tensor_file(bytes: &[u8]) {
    in_a_folder("layer", bytes, |folder| drop(TensorFile::read(&folder.join("layer"))));
}

fn tokenizer(bytes: &[u8]) {
    in_a_folder("tokenizer.json", bytes, |folder| {
        if let Ok(tokenizer) = Tokenizer::open(&folder.join("tokenizer.json")) {
            let ids = tokenizer.encode("The cat's 1st é小 <|x|>\n", true).unwrap_or_default();
            drop(tokenizer.decode(&ids, true));
        }
    });
}

fn tokenizer_config(bytes: &[u8]) {
    in_a_folder("tokenizer_config.json", bytes, |folder| drop(SpecialTokens::read(folder)));
}

fn windows(bytes: &[u8]) {
    drop(TokenWindows::parse(bytes, "windows.json"));
}
