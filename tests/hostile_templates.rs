//! Chat templates that somebody wrote to hang a program, to fill its memory or to overflow its stack: each ends in a sentence.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use qonnx::calib::{self, SetError, Vocabulary};
use serde_json::json;

#[path = "it/support/hostile_templates.rs"]
mod hostile_templates;

/// Longest that one may take; the program itself gives up after ten seconds.
const MOST_TIME: Duration = Duration::from_secs(30);

/// Most memory of all of them together.
const MOST_MEMORY: u64 = 2 << 30;

/// What becomes of a chat under `template`, through the same door as in an export.
fn load(folder: &Path, template: &str) -> Result<(), SetError> {
    fs::write(folder.join("tokenizer_config.json"), json!({ "chat_template": template }).to_string())
        .expect("the folder is ours");
    let vocabulary = Vocabulary::open(folder, 4096)?;
    let no_hub = || panic!("a local file needs no hub");
    calib::load(&folder.join("set.toml").display().to_string(), &vocabulary, no_hub).map(drop)
}

fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa/tokenizer.json");
    fs::copy(fixture, folder.path().join("tokenizer.json")).expect("the fixture is there");
    let chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n";
    fs::write(folder.path().join("rows.jsonl"), chat).expect("the folder is ours");
    let set = "licence = \"x\"\nform = \"chat\"\nsamples = 1\nlength = 2\n[source]\nfile = \"rows.jsonl\"\n";
    fs::write(folder.path().join("set.toml"), set).expect("the folder is ours");
    folder
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[test]
fn each_is_refused_in_a_sentence_in_bounded_time_and_memory() {
    let folder = place();
    let refused = hostile_templates::refused().into_iter().map(|(name, template)| (name, template, true));
    let chains = hostile_templates::chains().into_iter().map(|(name, template)| (name, template, false));
    for (name, template, must_refuse) in refused.chain(chains) {
        let begun = Instant::now();
        let loaded = load(folder.path(), &template);
        assert!(begun.elapsed() < MOST_TIME, "{name}: {:?}", begun.elapsed());
        match loaded {
            // A chain that renders to less than two tokens, or to enough.
            Ok(()) | Err(SetError::TooLittle { .. }) => assert!(!must_refuse, "{name} was rendered"),
            Err(error) => {
                let sentence = error.to_string();
                assert!(matches!(error, SetError::Chat { .. } | SetError::Template { .. }), "{name}: {sentence}");
                assert!(sentence.chars().count() < 700 && sentence.contains("form = \"text\""), "{name}: {sentence}");
            }
        }
        assert!(peak_memory() < MOST_MEMORY, "{name}: {} bytes", peak_memory());
    }
}
