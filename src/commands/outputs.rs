//! Files that a user names for a command to write: before any work it is known that each can be made, is no input of the same
//! command, and takes the place of nothing but what this program has written.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::host::hidden::parent;
use crate::host::publish::{PartialFile, place};
use crate::onnx;
use crate::record::{MANIFEST_FILE, Manifest};
use crate::runtime::NEXT_TOKENS;
use crate::usage::UsageError;

/// A file to write.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// The flag that names it.
    pub flag: &'static str,
    pub path: &'a Path,
    pub kind: Kind,
}

/// What tells that a file at the place of an output is an earlier one of the same kind.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Whoever opens it looks at it.
    Checked,
    /// Answers in the official scorer's form.
    OfficialPredictions,
    /// A table with these columns.
    Csv(&'static [&'static str]),
    /// A graph for the decode loop.
    Graph,
}

/// An answer as the official scorer reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfficialAnswer {
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "turn_id")]
    _turn_id: u32,
    #[serde(rename = "answer")]
    _answer: String,
}

/// Refuses `outputs` that cannot be made, that are one of `inputs` (a file, or a file of a folder) or each other, that belong to
/// an artifact, or that would replace a file of somebody else's.
///
/// # Errors
/// [`UsageError`] by flag and path.
pub fn check(outputs: &[Output<'_>], inputs: &[&Path]) -> Result<(), UsageError> {
    let mut taken: HashSet<(u64, u64)> = inputs.iter().flat_map(|path| identities(path)).chain(standard()).collect();
    let mut names: HashSet<PathBuf> = HashSet::new();
    for Output { flag, path, kind } in outputs {
        let shown = || path.display().to_string();
        if !parent(path).is_dir() {
            return Err(UsageError::ParentMissing { path: shown() });
        }
        let is_new = names.insert(place(path));
        let Ok(found) = fs::metadata(path) else {
            match (is_new, belongs_to_artifact(path)) {
                (true, false) => can_be_made(flag, path)?,
                (_, true) => return Err(UsageError::OutputOfArtifact { flag, path: shown() }),
                (false, _) => return Err(UsageError::OutputIsInput { flag, path: shown() }),
            }
            continue;
        };
        if found.is_dir() {
            return Err(UsageError::OutputIsFolder { flag, path: shown() });
        }
        match (found.is_file(), kind) {
            (true, _) => {}
            (false, Kind::Checked) => return Err(UsageError::OutputNotFile { flag, path: shown() }),
            // A terminal or a pipe loses nothing.
            (false, _) => continue,
        }
        if !taken.insert((found.dev(), found.ino())) {
            return Err(UsageError::OutputIsInput { flag, path: shown() });
        }
        if belongs_to_artifact(path) {
            return Err(UsageError::OutputOfArtifact { flag, path: shown() });
        }
        if found.len() > 0 && !is_ours(path, *kind) {
            return Err(UsageError::OutputOfOthers { flag, path: shown(), kind: kind.name() });
        }
        can_be_made(flag, path)?;
    }
    Ok(())
}

/// Begins the file as it will be begun, and leaves nothing. That a disk has no room just now is said when it is written.
fn can_be_made(flag: &'static str, path: &Path) -> Result<(), UsageError> {
    use ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let no_place = [InvalidFilename, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem];
    match PartialFile::create(path) {
        Err(error) if no_place.contains(&error.kind()) => {
            Err(UsageError::OutputUnwritable { flag, path: path.display().to_string(), reason: error.to_string() })
        }
        _ => Ok(()),
    }
}

/// Files that stdout and stderr lead to.
fn standard() -> impl Iterator<Item = (u64, u64)> {
    let streams = [std::io::stdout().as_fd().try_clone_to_owned(), std::io::stderr().as_fd().try_clone_to_owned()];
    let found = streams.into_iter().flatten().filter_map(|stream| File::from(stream).metadata().ok());
    found.filter(|found| found.is_file()).map(|found| (found.dev(), found.ino()))
}

/// A file's device and number on it, or those of an artifact's or another folder's files: one file under any of its names,
/// links included.
fn identities(path: &Path) -> Vec<(u64, u64)> {
    let files: Vec<PathBuf> = match Manifest::load(path) {
        Ok(manifest) => manifest.outputs.iter().map(|file| path.join(&file.file)).chain([path.join(MANIFEST_FILE)]).collect(),
        Err(_) => fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
    };
    let found = files.into_iter().chain([path.to_owned()]).filter_map(|path| fs::metadata(path).ok());
    found.map(|found| (found.dev(), found.ino())).collect()
}

/// Whether the folder is an artifact's, which a file that its manifest does not have would break.
fn belongs_to_artifact(path: &Path) -> bool {
    Manifest::load(parent(&place(path))).is_ok()
}

fn is_ours(path: &Path, kind: Kind) -> bool {
    // Of somebody else's file no more is read than tells that it is one.
    let Ok(file) = File::open(path) else { return false };
    match kind {
        Kind::Checked => true,
        Kind::OfficialPredictions => serde_json::from_reader::<_, Vec<OfficialAnswer>>(BufReader::new(file)).is_ok(),
        Kind::Csv(columns) => has_at(&file, 0, (columns.join(",") + "\n").as_bytes()),
        // Version of the format, then the producer; an artifact's own graph has no choice of tokens in it.
        Kind::Graph => has_at(&file, 2, b"\x12\x05qonnx") && onnx::has_output(file, NEXT_TOKENS).unwrap_or(false),
    }
}

fn has_at(file: &File, offset: u64, expected: &[u8]) -> bool {
    let mut bytes = vec![0; expected.len()];
    file.read_exact_at(&mut bytes, offset).is_ok() && bytes == expected
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Checked => "answers",
            Kind::OfficialPredictions => "answers in the official scorer's form",
            Kind::Csv(_) => "a table of this version of qonnx bench",
            Kind::Graph => "a graph that qonnx bench has saved",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[&str] = &["a", "b"];

    fn refusal(outputs: &[(&'static str, &Path, Kind)], inputs: &[&Path]) -> Option<String> {
        let outputs: Vec<Output<'_>> = outputs.iter().map(|&(flag, path, kind)| Output { flag, path, kind }).collect();
        check(&outputs, inputs).err().map(|error| error.to_string())
    }

    /// A model of ours with that output, field by field as onnx.proto numbers them.
    fn graph_with(output: &str) -> String {
        let field = |number: u8, text: &str| format!("{}{}{text}", char::from(number << 3 | 2), char::from(text.len() as u8));
        let outputs = field(12, &field(1, "logits")) + &field(12, &field(1, output));
        format!("\u{8}\u{a}{}{}{}", field(2, "qonnx"), field(3, "0.1.0"), field(7, &(field(2, "g") + &outputs)))
    }

    #[test]
    fn a_graph_of_ours_that_is_not_the_loops_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let whole = graph_with("next_tokens");
        for theirs in [graph_with("present.0.key"), graph_with("other_tokens"), whole[..whole.len() - 1].to_owned()] {
            fs::write(&path, theirs).unwrap();
            let said = refusal(&[("--save-graph", &path, Kind::Graph)], &[]).expect("it is no graph of bench");
            assert!(said.contains("exists and is not a graph that qonnx bench has saved"), "{said}");
        }
    }

    /// Files with a hole as large as no memory: whoever read them whole would fail.
    #[test]
    fn no_more_is_read_than_tells_whose_a_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let (table, graph) = (folder.path().join("table"), folder.path().join("graph"));
        fs::write(&table, "a,b\n").unwrap();
        File::options().write(true).open(&table).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(refusal(&[("--csv", &table, Kind::Csv(COLUMNS))], &[]), None);
        // An initializer of 2^39 bytes before the output.
        let output = b"\x62\x0d\x0a\x0bnext_tokens";
        let varint =
            |bytes: u64| (0..6).map(|at| (bytes >> (7 * at) & 0x7f) as u8 | if at < 5 { 0x80 } else { 0 }).collect::<Vec<u8>>();
        let hole = 1 << 39;
        let initializer = [&[0x2a][..], &varint(hole)].concat();
        let length = initializer.len() as u64 + hole + output.len() as u64;
        let head = [b"\x08\x0a\x12\x05qonnx\x3a", varint(length).as_slice(), &initializer].concat();
        let file = File::create(&graph).unwrap();
        file.write_all_at(&head, 0).unwrap();
        file.write_all_at(output, head.len() as u64 + hole).unwrap();
        assert_eq!(refusal(&[("--save-graph", &graph, Kind::Graph)], &[]), None);
    }

    #[test]
    fn what_cannot_be_made_is_refused_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(300));
        let said = refusal(&[("--csv", &long, Kind::Csv(COLUMNS))], &[]).expect("no file system takes it");
        assert!(said.contains("cannot be made (its name has 300 bytes"), "{said}");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere/new", &link).unwrap();
        let said = refusal(&[("--csv", &link, Kind::Csv(COLUMNS))], &[]).expect("its folder is not there");
        assert!(said.contains("cannot be made"), "{said}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left but the link");
    }

    /// `--predictions /dev/stdout > file`: answers and table would write over each other.
    #[test]
    fn a_file_that_stdout_leads_to_is_no_output() {
        let found = |stream: std::os::fd::BorrowedFd<'_>| File::from(stream.try_clone_to_owned().unwrap()).metadata().unwrap();
        let is_file = found(std::io::stdout().as_fd()).is_file();
        let said = refusal(&[("--predictions", Path::new("/dev/stdout"), Kind::Checked)], &[]);
        let expected = if is_file { "also names for something else" } else { "is no file" };
        assert!(said.is_some_and(|said| said.contains(expected)));
    }

    #[test]
    fn only_earlier_outputs_of_the_same_kind_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let official = r#"[{"id":"a","turn_id":1,"answer":"x"}]"#;
        let graph = graph_with("next_tokens");
        let graph = graph.as_str();
        for (kind, ours) in [(Kind::OfficialPredictions, official), (Kind::Csv(COLUMNS), "a,b\n1,2\n"), (Kind::Graph, graph)] {
            assert_eq!(refusal(&[("--f", &path, kind)], &[]), None, "nothing is there");
            for empty_or_ours in ["", ours] {
                fs::write(&path, empty_or_ours).unwrap();
                assert_eq!(refusal(&[("--f", &path, kind)], &[]), None, "{ours}");
            }
            for theirs in ["notes", "[1, 2]", r#"{"version": "1.0"}"#, "a;b\n", r#"[{"id":"a","turn_id":1,"answer":"x","x":1}]"#]
            {
                fs::write(&path, theirs).unwrap();
                let said = refusal(&[("--f", &path, kind)], &[]).expect(theirs);
                assert!(said.starts_with("--f ") && said.contains("exists and is not"), "{said}");
            }
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_input_under_any_of_its_names_is_no_output() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("data"), "").unwrap();
        fs::hard_link(at("data"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("data"), at("soft")).unwrap();
        for name in ["data", "hard", "soft"] {
            for input in [&at("data"), folder.path()] {
                let said = refusal(&[("--f", &at(name), Kind::Checked)], &[input]).expect(name);
                assert!(said.contains("also names for something else"), "{said}");
            }
        }
        let twice = [("--f", at("new"), Kind::Checked), ("--g", at("new"), Kind::OfficialPredictions)];
        let twice = twice.each_ref().map(|(flag, path, kind)| (*flag, path.as_path(), *kind));
        assert!(refusal(&twice, &[]).is_some_and(|said| said.starts_with("--g ")));
        std::os::unix::fs::symlink("new", at("leads to new")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        let here = Path::new("no file of this name");
        for (first, second) in
            [(here, Path::new("./no file of this name")), (&at("new"), &at("folder/../new")), (&at("new"), &at("leads to new"))]
        {
            let said = refusal(&[("--f", first, Kind::Checked), ("--g", second, Kind::OfficialPredictions)], &[]);
            assert!(said.is_some_and(|said| said.starts_with("--g ")), "{}", second.display());
        }
        assert_eq!(refusal(&[("--f", &at("other"), Kind::Checked)], &[&at("data")]), None);
        assert_eq!(refusal(&[("--f", Path::new("/dev/null"), Kind::Csv(COLUMNS))], &[]), None);
    }
}
