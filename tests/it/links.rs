//! Artifacts whose files are links, as hub clients keep them and as users make them for large files: every command gives what it
//! gives for the files themselves, and nothing but the artifact's own data is read through them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa")
}

fn qonnx(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(arguments).output().expect("qonnx starts")
}

#[track_caller]
fn stdout(arguments: &[&str]) -> String {
    let run = qonnx(arguments);
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("UTF-8")
}

/// An INT4 artifact of the embedded model.
fn artifact() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let place = tempfile::tempdir().expect("a temporary folder can be made");
        let path = place.path().join("artifact");
        stdout(&["export", model().to_str().expect("UTF-8"), "--dtype", "f32", "-o", path.to_str().expect("UTF-8")]);
        (place, path)
    });
    path
}

/// The artifact as a hub's cache holds it: a snapshot of links to blobs whose names say nothing.
fn snapshot(place: &Path) -> PathBuf {
    let (blobs, snapshot) = (place.join("blobs"), place.join("snapshots/abc"));
    fs::create_dir_all(&blobs).and_then(|()| fs::create_dir_all(&snapshot)).expect("the place is ours");
    for (number, entry) in fs::read_dir(artifact()).expect("it was made").enumerate() {
        let file = entry.expect("it can be listed");
        let blob = format!("{number:040x}");
        fs::copy(file.path(), blobs.join(&blob)).expect("the place is ours");
        symlink(Path::new("../../blobs").join(&blob), snapshot.join(file.file_name())).expect("the place is ours");
    }
    snapshot
}

/// The artifact's files, its data a link to another disk's folder.
fn data_elsewhere(place: &Path) -> PathBuf {
    let (folder, disk) = (place.join("artifact"), place.join("disk"));
    fs::create_dir_all(&folder).and_then(|()| fs::create_dir_all(&disk)).expect("the place is ours");
    for entry in fs::read_dir(artifact()).expect("it was made") {
        let file = entry.expect("it can be listed");
        fs::copy(file.path(), folder.join(file.file_name())).expect("the place is ours");
    }
    let data = folder.join("model.onnx.data");
    fs::rename(&data, disk.join("größe 1.bin"))
        .and_then(|()| symlink(disk.join("größe 1.bin"), data))
        .expect("the place is ours");
    folder
}

/// What each command says of an artifact, without what times and places change.
fn said(artifact: &Path) -> Vec<String> {
    let artifact = artifact.to_str().expect("UTF-8");
    let text = model().join("perplexity.txt");
    let text = text.to_str().expect("UTF-8");
    let generated: serde_json::Value =
        serde_json::from_str(&stdout(&["generate", artifact, "Tom has", "--max-new-tokens", "4", "--json"])).expect("JSON");
    let scored = stdout(&["eval", artifact, "--task", "perplexity", "--text", text, "--windows", "1", "--json"]);
    let questions = model().join("coqa-mini.json");
    let questions = questions.to_str().expect("UTF-8");
    let coqa = ["eval", artifact, "--task", "coqa", "--data", questions, "--limit", "4", "--json"];
    let mut answered: serde_json::Value = serde_json::from_str(&stdout(&coqa)).expect("JSON");
    answered.as_object_mut().expect("one object").retain(|name, _| !name.contains("second"));
    vec![
        answered.to_string().replace(artifact, "ARTIFACT"),
        generated["text"].to_string(),
        scored.replace(artifact, "ARTIFACT"),
        stdout(&["inspect", artifact]).replace(artifact, "ARTIFACT"),
        stdout(&["verify", artifact]).replace(artifact, "ARTIFACT"),
    ]
}

#[test]
fn every_command_follows_the_artifacts_own_links() {
    let expected = said(artifact());
    for link in [snapshot, data_elsewhere] {
        let place = tempfile::tempdir().expect("a temporary folder can be made");
        assert_eq!(said(&link(place.path())), expected);
    }
}

/// Other programs look for the weights of a saved graph in the artifact's folder, under the name that they have there.
#[test]
fn the_saved_graph_of_a_linked_artifact_names_its_own_data_file() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let saved = |artifact: &Path, name: &str| {
        let file = place.path().join(name);
        let (artifact, graph) = (artifact.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
        let quick = ["--batch", "1", "--prompt", "8", "--gen", "2", "--warmup", "0", "--min-repeats", "1", "--max-repeats", "1"];
        stdout(&[&["bench", artifact, "--save-graph", graph], &quick[..]].concat());
        fs::read(file).expect("it was saved")
    };
    let expected = saved(artifact(), "plain.onnx");
    assert!(expected.windows(15).any(|bytes| bytes == b"model.onnx.data"));
    for (link, name) in [(snapshot as fn(&Path) -> PathBuf, "snapshot"), (data_elsewhere, "elsewhere")] {
        let folder = link(&place.path().join(name));
        assert!(saved(&folder, &format!("{name}.onnx")) == expected, "{name}");
    }
}

#[test]
fn a_linked_artifact_reads_nothing_else_from_the_folder_behind_the_link() {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = data_elsewhere(place.path());
    // As long as the right name, so that the protobuf around it stays right; the file is there and has the right bytes.
    let (right, wrong) = (b"model.onnx.data", b"model.onnx.evil");
    let disk = place.path().join("disk");
    fs::copy(disk.join("größe 1.bin"), disk.join("model.onnx.evil")).expect("the place is ours");
    let mut graph = fs::read(folder.join("model.onnx")).expect("it was copied");
    let at = graph.windows(right.len()).position(|window| window == right).expect("the graph names its data");
    graph[at..at + wrong.len()].copy_from_slice(wrong);
    fs::write(folder.join("model.onnx"), graph).expect("the place is ours");
    let folder = folder.to_str().expect("UTF-8");
    for command in [&["generate", folder, "Tom has"][..], &["inspect", folder]] {
        let run = qonnx(command);
        let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("it keeps weights in model.onnx.evil, expected model.onnx.data alone"), "{stderr}");
    }
}
