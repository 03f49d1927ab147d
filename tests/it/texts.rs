//! Texts as other programs save them: with a byte order mark, as UTF-16, blank, packed a thousand times over, or as no file at all.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");
const TEXT: &str = "The mill stood by the river for a long time.";
const MARK: &str = "\u{feff}";

fn qonnx(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(words).output().expect("qonnx starts")
}

#[track_caller]
fn report(words: &[&str]) -> Value {
    let output = qonnx(&[words, &["--json"]].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one object")
}

/// The sentence of a command that ends with exit code 2.
#[track_caller]
fn refusal(words: &[&str]) -> String {
    let output = qonnx(words);
    let sentence = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words:?}: {sentence}");
    sentence
}

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("temporary folders have plain names").to_owned()
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.at(name), bytes).expect("the place is ours");
        self.at(name)
    }
}

/// The embedded model at 4 bits, exported once.
static ARTIFACT: LazyLock<(Place, String)> = LazyLock::new(|| {
    let place = Place::new();
    let artifact = place.at("int4");
    report(&["export", MODEL, "--bits", "4", "--dtype", "f32", "-o", &artifact]);
    (place, artifact)
});

fn perplexity(text: &str) -> Value {
    report(&["eval", &ARTIFACT.1, "--task", "perplexity", "--text", text])
}

#[test]
fn a_mark_is_no_part_of_a_text() {
    let place = Place::new();
    let line = format!("{{\"text\": \"{TEXT}\"}}\n");
    let plain = perplexity(&place.put("n.txt", TEXT));
    for (name, text) in [("t.txt", format!("{MARK}{TEXT}")), ("t.jsonl", format!("{MARK}{line}")), ("n.jsonl", line.clone())] {
        let marked = perplexity(&place.put(name, text));
        assert_eq!((&marked["nll"], &marked["tokens"]), (&plain["nll"], &plain["tokens"]), "{name}");
    }
    // With the mark as a token of its own it would be 89.3.
    assert!(plain["perplexity"].as_f64().is_some_and(|perplexity| (perplexity - 43.0).abs() < 0.05), "{plain}");
}

/// The ids of a set, whatever its source is written as.
fn set_hash(place: &Place, source: &str) -> String {
    let mark = if source.starts_with('m') { MARK } else { "" };
    let set = format!("{mark}licence = \"x\"\nform = \"text\"\nsamples = 16\nlength = 64\n[source]\nfile = \"{source}\"\n");
    let set = place.put("s.toml", set);
    let out = place.at(&format!("{source}-out"));
    report(&["export", MODEL, "--method", "awq", "--bits", "4", "--dtype", "f32", "--calibration", &set, "-o", &out]);
    let manifest: Value = serde_json::from_slice(&fs::read(Path::new(&out).join("qonnx.json")).expect("exported")).expect("JSON");
    manifest["calibration"]["hash"].as_str().expect("a hash").to_owned()
}

#[test]
fn a_mark_is_no_part_of_a_calibration_set() {
    let place = Place::new();
    let text = fs::read_to_string(format!("{MODEL}/perplexity.txt")).expect("the fixture is there").trim().to_owned();
    let line = format!("{}\n", serde_json::json!({ "text": text }));
    for (name, text) in [
        ("n.txt", text.clone()),
        ("m.txt", format!("{MARK}{text}")),
        ("m.jsonl", format!("{MARK}{line}")),
        ("m.json", format!("{MARK}[{line}]")),
    ] {
        place.put(name, text);
    }
    let plain = set_hash(&place, "n.txt");
    for marked in ["m.txt", "m.jsonl", "m.json"] {
        assert_eq!(set_hash(&place, marked), plain, "{marked}");
    }
}

#[test]
fn utf_16_is_named() {
    let place = Place::new();
    let utf_16: Vec<u8> = [0xff, 0xfe].into_iter().chain(TEXT.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let text = place.put("u.txt", &utf_16);
    let sentence = refusal(&["eval", &ARTIFACT.1, "--task", "perplexity", "--text", &text]);
    assert!(sentence.contains("it is UTF-16; save it as UTF-8"), "{sentence}");
    let set = place.put("s.toml", "licence = \"x\"\nform = \"text\"\nsamples = 1\nlength = 8\n[source]\nfile = \"u.txt\"\n");
    let export = ["export", MODEL, "--method", "awq", "--bits", "4", "--calibration", &set, "-o", &place.at("o")];
    assert!(refusal(&export).contains("it is UTF-16; save it as UTF-8"));
}

#[test]
fn blank_documents_have_nothing_to_predict() {
    let place = Place::new();
    for (name, text) in [("e.jsonl", "{\"text\": \"\"}\n{\"text\": \"\"}\n"), ("e.txt", " \n"), ("z.txt", "")] {
        let sentence = refusal(&["eval", &ARTIFACT.1, "--task", "perplexity", "--text", &place.put(name, text)]);
        assert!(sentence.contains("holds no text; give a file with text"), "{name}: {sentence}");
    }
    let with_blank = perplexity(&place.put("b.jsonl", format!("{{\"text\": \"\"}}\n{{\"text\": \"{TEXT}\"}}\n")));
    assert_eq!(with_blank["nll"], perplexity(&place.put("t.txt", TEXT))["nll"]);
}

/// A checkpoint of the embedded model that takes `positions` tokens.
fn short_model(place: &Place, positions: u64) -> String {
    let folder = PathBuf::from(place.at("m"));
    fs::create_dir(&folder).expect("the place is ours");
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(Path::new(MODEL).join(name), folder.join(name)).expect("the fixture is there");
    }
    let mut config: Value = serde_json::from_slice(&fs::read(format!("{MODEL}/config.json")).expect("there")).expect("JSON");
    config["max_position_embeddings"] = positions.into();
    config["rope_scaling"] = Value::Null;
    fs::write(folder.join("config.json"), config.to_string()).expect("the place is ours");
    place.at("m")
}

#[test]
fn the_usual_window_gives_way_to_a_small_context_and_another_is_refused() {
    let place = Place::new();
    let artifact = place.at("a");
    report(&["export", &short_model(&place, 256), "--bits", "16", "--dtype", "f32", "-o", &artifact]);
    let text = format!("{MODEL}/perplexity.txt");
    let eval = ["eval", &artifact, "--task", "perplexity", "--text", &text];
    let usual = qonnx(&[&eval[..], &["--windows", "2", "--json"]].concat());
    let said = String::from_utf8_lossy(&usual.stderr).into_owned();
    assert!(said.contains("windows of 256 tokens, all that the model takes, and not of 1024"), "{said}");
    let usual: Value = serde_json::from_slice(&usual.stdout).expect("one object");
    let asked = report(&[&eval[..], &["--windows", "2", "--window", "256"]].concat());
    assert_eq!((&usual["nll"], &usual["tokens"]), (&asked["nll"], &asked["tokens"]));
    let sentence = refusal(&[&eval[..], &["--window", "257"]].concat());
    assert!(
        sentence.contains("windows of 257 tokens are longer than the model's context of 256; give --window 256 or less"),
        "{sentence}"
    );
}

/// What is said counts in an experiment as well, also where it is the usual number.
#[test]
fn an_experiment_takes_the_window_that_it_is_told() {
    let place = Place::new();
    let (model, results) = (short_model(&place, 512), place.at("results"));
    let (text, questions) = (format!("{MODEL}/perplexity.txt"), format!("{MODEL}/coqa-mini.json"));
    let run = |window: &[&str]| {
        let asked =
            ["--coqa", &questions, "--protocol", "official", "--limit", "1", "--text", &text, "--windows", "1", "--no-bench"];
        let output = qonnx(&[&["run", "fp16_baseline", "--model", &model, "--results", &results][..], &asked, window].concat());
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (usual, said) = run(&[]);
    assert!(usual, "{said}");
    let (told, said) = run(&["--window", "1024"]);
    assert!(!told && said.contains("windows of 1024 tokens are longer than the model's context of 512"), "{said}");
}

/// It is read as far as it takes to refuse it; how long it is nobody has counted.
#[test]
fn a_prompt_beyond_the_context_is_refused_without_a_number_that_is_none() {
    let place = Place::new();
    let artifact = place.at("a");
    report(&["export", &short_model(&place, 256), "--bits", "16", "--dtype", "f32", "-o", &artifact]);
    let sentence = refusal(&["generate", &artifact, &"Tom has a dog. ".repeat(1000), "--max-new-tokens", "4"]);
    assert!(sentence.contains("prompt 0: more than 256 tokens, which is the model's context; shorten the prompt"), "{sentence}");
    assert!(!sentence.contains("257"), "{sentence}");
}

#[test]
fn fifos_and_devices_are_refused_by_name_and_not_waited_for() {
    let place = Place::new();
    let fifo = place.at("fifo.txt");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is there").success());
    let set = place.put("s.toml", "licence = \"x\"\nform = \"text\"\nsamples = 1\nlength = 8\n[source]\nfile = \"fifo.txt\"\n");
    let out = place.at("o");
    let commands: [&[&str]; 6] = [
        &["eval", &ARTIFACT.1, "--task", "perplexity", "--text", &fifo],
        &["eval", &ARTIFACT.1, "--task", "coqa", "--data", &fifo],
        &["export", MODEL, "--method", "awq", "--bits", "4", "--calibration", &set, "-o", &out],
        &["plan", MODEL, "--recipe", &fifo],
        &["compare", &fifo, &fifo],
        &["sweep", &fifo, "--results", &out],
    ];
    for command in commands {
        let sentence = refusal(command);
        assert!(sentence.contains("it is a FIFO, not a file"), "{command:?}: {sentence}");
    }
    let sentence = refusal(&["eval", &ARTIFACT.1, "--task", "perplexity", "--text", "/dev/zero"]);
    assert!(sentence.contains("it is a device, not a file"), "{sentence}");
}

#[test]
fn a_set_that_unpacks_to_a_thousand_times_its_size_is_refused() {
    let place = Place::new();
    let file = fs::File::create(place.at("t.txt.gz")).expect("the place is ours");
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let text = "the cat sat on the mat ".repeat(45_000);
    (0..100).for_each(|_| packed.write_all(text.as_bytes()).expect("the place is ours"));
    packed.finish().expect("the place is ours");
    let set = place.put("s.toml", "licence = \"x\"\nform = \"text\"\nsamples = 1\nlength = 8\n[source]\nfile = \"t.txt.gz\"\n");
    let sentence = refusal(&["export", MODEL, "--method", "awq", "--bits", "4", "--calibration", &set, "-o", &place.at("o")]);
    assert!(sentence.contains("it unpacks to more than 67108864 bytes"), "{sentence}");
}
