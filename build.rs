//! Tells a release build which commit it is of, where git knows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What the program is made of.
const PARTS: [&str; 7] = ["build.rs", "Cargo.lock", "Cargo.toml", "benches/experiments", "calibration", "graphs", "src"];

/// What layers and statistics that are kept for another run are computed by: they are made again where any of it has changed.
const NUMERICS: [&str; 12] = [
    "Cargo.lock",
    "src/artifact",
    "src/calib",
    "src/checkpoint",
    "src/compress",
    "src/model",
    "src/onnx",
    "src/quant",
    "src/recipe",
    "src/recipe.rs",
    "src/runtime",
    "src/tensor",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    NUMERICS.iter().for_each(|part| println!("cargo:rerun-if-changed={part}"));
    println!("cargo:rustc-env=QONNX_NUMERICS={:016x}", hash_of(&NUMERICS));
    // A debug build would be compiled anew after every commit.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_release && is_own_repository() {
        state_commit();
    }
}

/// Of the names and contents of all files in `parts`, in the order of their names.
fn hash_of(parts: &[&str]) -> u64 {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut open: Vec<PathBuf> = parts.iter().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) => files.push(path),
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| (file, fs::read(file).ok()).hash(&mut hasher));
    hasher.finish()
}

/// Whether the repository around is this project's, not that of somebody who unpacked its source.
fn is_own_repository() -> bool {
    let folder = env::var("CARGO_MANIFEST_DIR").ok().and_then(|folder| Path::new(&folder).canonicalize().ok());
    git(&["rev-parse", "--show-toplevel"]).map(Into::into) == folder
}

fn state_commit() {
    // Not the index, which `git status` writes too: what it says beside these is in the parts themselves. A missing file would
    // count as changed.
    let watched = ["HEAD", "logs/HEAD"].into_iter().filter_map(|file| git(&["rev-parse", "--git-path", file]));
    let watched = watched.filter(|file| Path::new(file).exists());
    for path in watched.chain(PARTS.map(str::to_owned)) {
        println!("cargo:rerun-if-changed={path}");
    }
    let changed = git(&[&["--no-optional-locks", "status", "--porcelain", "--"], &PARTS[..]].concat());
    if let (Some(commit), Some(changed)) = (git(&["rev-parse", "HEAD"]), changed) {
        println!("cargo:rustc-env=QONNX_COMMIT={commit}");
        println!("cargo:rustc-env=QONNX_DIRTY={}", !changed.is_empty());
    }
}

/// What git answers, without the line's end; `None` where there is no git or no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
