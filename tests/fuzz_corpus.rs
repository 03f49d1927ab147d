//! The inputs that fuzzing kept (`fuzz/corpus/`) through the readers that it fuzzes: none panics, none is slow, none takes memory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../fuzz/readers.rs"]
mod readers;

/// Longest that one input may take; the template engine gives itself ten seconds.
const MOST_TIME: Duration = Duration::from_secs(30);

/// Most memory of all inputs together, as fuzzing itself is held to.
const MOST_MEMORY: u64 = 2 << 30;

/// What somebody else may have written of all that is read.
const FOREIGN: &[&str] = &[
    "answers",
    "calibration",
    "chat_template",
    "config",
    "coqa",
    "experiment",
    "generation_config",
    "graph",
    "kl_reference",
    "manifest",
    "recipe",
    "record",
    "safetensors",
    "shard_index",
    "sweep",
    "tensor_file",
    "tokenizer",
    "tokenizer_config",
    "windows",
];

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[test]
fn every_kept_input_ends_soon_and_in_little_memory() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, reader) in readers::READERS {
        let folder = corpus.join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        assert!((1..=60).contains(&files.len()), "{name}: {} inputs", files.len());
        for file in files {
            let bytes = fs::read(&file).expect("readable");
            let begun = Instant::now();
            reader(&bytes);
            assert!(begun.elapsed() < MOST_TIME, "{}: {:?}", file.display(), begun.elapsed());
        }
        assert!(peak_memory() < MOST_MEMORY, "{name}: {} bytes", peak_memory());
    }
}

/// Each reader has a target of its name, and the target calls that reader.
#[test]
fn every_reader_is_fuzzed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("readable");
    for (name, _) in readers::READERS {
        let target = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).expect("a target");
        assert!(target.contains(&format!("readers::run({name:?}, bytes)")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), readers::READERS.len());
    readers::run("config", b"{}");
    let names: Vec<&str> = readers::READERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, FOREIGN);
}
