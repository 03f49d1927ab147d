//! Every write, sync, rename and opening for writing fails once, in every command that writes; after each failure nothing is
//! lost that was there, and the same command again gives what it would have given. A library that is compiled here and
//! preloaded makes them fail, and tells the order of the calls.

mod power;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::small;

const OPERATIONS: [&str; 4] = ["write", "fsync", "rename", "open"];
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// More calls of a kind than any command here makes.
const MOST: usize = 400;

/// The library.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("fail_nth.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/faults/fail_nth.c");
        let output = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).args([source, "-ldl"]).output();
        let output = output.expect("cc is what Rust links with");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (folder, path)
    });
    path
}

/// What fails in a run.
#[derive(Debug, Clone, Copy)]
struct Fault {
    operation: &'static str,
    n: usize,
}

/// A folder with a small model; `work` in it is where commands write, and where calls fail.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().expect("a temporary folder can be made"));
        small::write(place.0.path());
        fs::create_dir(place.work()).expect("the place is ours");
        place
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("calls")
    }

    fn qonnx(&self, arguments: &[&str], fault: Option<Fault>) -> Output {
        self.command(arguments, fault.map(|fault| (fault, self.work()))).output().expect("qonnx starts")
    }

    /// Calls fail at `path` and nowhere else.
    fn qonnx_under(&self, path: &Path, arguments: &[&str], fault: Fault) -> Output {
        self.command(arguments, Some((fault, path.to_owned()))).output().expect("qonnx starts")
    }

    fn command(&self, arguments: &[&str], fault: Option<(Fault, PathBuf)>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.args(arguments.iter().map(|argument| argument.replace("@", &self.at("")))).stdin(Stdio::null());
        command.env("RUST_BACKTRACE", "0");
        if let Some((Fault { operation, n }, under)) = fault {
            let errno = if operation == "write" { ENOSPC } else { EIO };
            command.env("LD_PRELOAD", shim()).env("FAIL_UNDER", fs::canonicalize(under).expect("it is there"));
            command.env("FAIL_OP", operation).env("FAIL_N", n.to_string()).env("FAIL_ERRNO", errno.to_string());
            command.env("FAIL_LOG", self.log());
        }
        command
    }

    /// The kinds and paths of the calls of `arguments`, in order, where nothing fails.
    fn calls(&self, arguments: &[&str]) -> Vec<(String, String)> {
        let _ = fs::remove_file(self.log());
        succeed(&self.qonnx(arguments, Some(Fault { operation: "write", n: 0 })));
        let log = fs::read_to_string(self.log()).expect("calls were noted");
        let call = |line: &str| {
            let mut words = line.splitn(3, ' ').skip(1).map(str::to_owned);
            (words.next().expect("a kind"), words.next().expect("a path"))
        };
        log.lines().map(call).collect()
    }
}

#[track_caller]
fn succeed(output: &Output) {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Names and contents of all files below `folder`.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it is below").display().to_string();
                found.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    found
}

fn emptied(folder: &Path) {
    fs::remove_dir_all(folder).and_then(|()| fs::create_dir(folder)).expect("the place is ours");
}

fn copied(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp can be run").success());
}

/// A command, what lies in the work folder before it, and what of that must still be there whenever it fails.
struct Scenario<'a> {
    /// `@` stands for the place.
    command: &'a [&'a str],
    /// A folder whose contents lie in the work folder at the start.
    before: Option<&'a Path>,
    /// The results, without what differs between two runs of one command.
    results: fn(&Path) -> BTreeMap<String, Value>,
    /// Whether a failure that was recorded is tried again only if that is asked for.
    retry: &'a [&'a str],
}

impl Scenario<'_> {
    fn prepare(&self, place: &Place) {
        emptied(&place.work());
        if let Some(before) = self.before {
            copied(&before.join("."), &place.work());
        }
    }

    /// Fails each call in turn; returns how many there were.
    fn run(&self, place: &Place) -> usize {
        self.prepare(place);
        let (start, before) = (contents(&place.work()), (self.results)(&place.work()));
        succeed(&place.qonnx(self.command, None));
        let expected = (self.results)(&place.work());
        assert!(!expected.is_empty());
        let mut calls = 0;
        for operation in OPERATIONS {
            for n in 1.. {
                assert!(n <= MOST, "{operation}: more than {MOST} calls; is each of them needed?");
                self.prepare(place);
                let _ = fs::remove_file(place.log());
                let failed = place.qonnx(self.command, Some(Fault { operation, n }));
                if !self.is_reached(place, operation, n) {
                    assert!(n > 1, "{operation}: no call");
                    break;
                }
                calls += 1;
                self.check(place, (operation, n), &failed, &start, [&before, &expected]);
            }
        }
        calls
    }

    /// Whether some process made the call that was to fail.
    fn is_reached(&self, place: &Place, operation: &str, n: usize) -> bool {
        let mut made: BTreeMap<&str, usize> = BTreeMap::new();
        let log = fs::read_to_string(place.log()).unwrap_or_default();
        for line in log.lines() {
            let mut words = line.splitn(3, ' ');
            let (process, kind) = (words.next().expect("a process"), words.next().expect("a kind"));
            *made.entry(process).or_default() += usize::from(kind == operation);
        }
        made.values().any(|&calls| calls >= n)
    }

    fn check(
        &self,
        place: &Place,
        fault: (&str, usize),
        failed: &Output,
        start: &BTreeMap<String, Vec<u8>>,
        [before, expected]: [&BTreeMap<String, Value>; 2],
    ) {
        let stderr = String::from_utf8_lossy(&failed.stderr);
        let at = format!("{fault:?}: {:?}: {stderr}", failed.status);
        assert!(matches!(failed.status.code(), Some(0 | 1)) && !stderr.contains("panicked"), "{at}");
        let said = complaint(place, failed);
        assert!(failed.status.success() || said.contains(&place.at("work")), "{at}: which file? {said}");
        // What was there is there, or what was to come.
        let after = (self.results)(&place.work());
        for (name, value) in before {
            let is_whole = after.get(name).is_some_and(|now| now == value || Some(now) == expected.get(name));
            assert!(is_whole, "{at}: {name} is lost");
        }
        if failed.status.success() && after == *expected {
            return;
        }
        // As it was before, to the last hidden byte: the command will do what it did when nothing failed.
        if contents(&place.work()) == *start {
            return;
        }
        let mut again = place.qonnx(self.command, None);
        if !again.status.success() && !self.retry.is_empty() {
            again = place.qonnx(&[self.command, self.retry].concat(), None);
        }
        assert!(again.status.success(), "{at}; again: {}", String::from_utf8_lossy(&again.stderr));
        let after = (self.results)(&place.work());
        assert_eq!(after.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{at}");
        for (name, value) in expected {
            assert!(after[name] == *value, "{at}: {name} is another: {} instead of {value}", after[name]);
        }
    }
}

/// What a person reads of a failure: stderr, why an experiment failed in its record, and in the table of a sweep.
fn complaint(place: &Place, failed: &Output) -> String {
    let mut said = String::from_utf8_lossy(&failed.stderr).into_owned();
    let table = String::from_utf8_lossy(&failed.stdout).into_owned();
    said.extend(table.lines().filter(|line| line.contains("failed: ")));
    for (name, bytes) in contents(&place.work()) {
        if let (true, Ok(record)) = (name.ends_with("_results.json"), serde_json::from_slice::<Value>(&bytes)) {
            said += record["failure"]["message"].as_str().unwrap_or_default();
        }
    }
    said
}

/// Every byte of every file, hidden ones included: nothing else may lie there at the end.
fn all_files(work: &Path) -> BTreeMap<String, Value> {
    let hash = |bytes: &[u8]| Value::from(blake3::hash(bytes).to_hex().to_string());
    contents(work).into_iter().filter(|(name, _)| !name.starts_with('.')).map(|(name, bytes)| (name, hash(&bytes))).collect()
}

/// As [`all_files`], and hidden names.
fn nothing_hidden(work: &Path) {
    let hidden: Vec<String> = contents(work).into_keys().filter(|name| name.starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    let folders = fs::read_dir(work).expect("it is there").map(|entry| entry.expect("readable").file_name());
    let hidden: Vec<_> = folders.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

/// Records and answers without their times.
fn records(work: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (name, bytes) in contents(work) {
        if name.starts_with('.') || name.contains("/.work/") {
            continue;
        }
        if name.ends_with("_results.json") {
            let record: Value = serde_json::from_slice(&bytes).expect("a record is whole");
            let mut scores = record["evaluation"].clone();
            for fields in scores.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                fields.remove("questions_per_second");
            }
            let export = record["export"]["data_blake3"].clone();
            // One that failed is no result.
            if record["failure"].is_null() {
                found.insert(name, serde_json::json!([record["id"], record["sizes"], scores, export, record["sanity"]]));
            }
        } else if name.ends_with(".jsonl") {
            found.insert(name, answers(&bytes));
        }
    }
    found
}

fn answers(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    let answer = |line: &str| -> Option<Value> {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(serde_json::json!([line["id"], line["turn_id"], line["text"], line["f1"]]))
    };
    text.lines().filter_map(answer).collect()
}

/// The answers of an interrupted run grow; they are compared when they are whole.
fn scored(work: &Path) -> BTreeMap<String, Value> {
    contents(work)
        .into_iter()
        .filter(|(name, _)| !name.starts_with('.') && !name.contains("/."))
        .filter(|(name, _)| !name.starts_with("artifact"))
        .map(|(name, bytes)| match name.ends_with(".jsonl") {
            true => (name, answers(&bytes)),
            false => (name, Value::from(blake3::hash(&bytes).to_hex().to_string())),
        })
        .collect()
}

const EXPORT: [&str; 7] = ["export", "@model", "--bits", "4", "--dtype", "f32", "-o"];

#[test]
fn export() {
    let place = Place::new();
    let command = [&EXPORT[..], &["@work/out"]].concat();
    let calls = Scenario { command: &command, before: None, results: all_files, retry: &[] }.run(&place);
    assert!(calls > 20, "{calls} calls");
    nothing_hidden(&place.work());
}

#[test]
fn overwriting_export() {
    let place = Place::new();
    let before = place.0.path().join("before");
    fs::create_dir(&before).expect("the place is ours");
    succeed(&place.qonnx(&["export", "@model", "--bits", "8", "--dtype", "f32", "-o", "@before/out"], None));
    let command = [&EXPORT[..], &["@work/out", "--overwrite"]].concat();
    Scenario { command: &command, before: Some(&before), results: whole_artifact, retry: &[] }.run(&place);
    nothing_hidden(&place.work());
}

/// One value for all of an artifact: a mixture of two is neither.
fn whole_artifact(work: &Path) -> BTreeMap<String, Value> {
    let files = all_files(&work.join("out"));
    if files.is_empty() { BTreeMap::new() } else { BTreeMap::from([("out".to_owned(), Value::from_iter(files))]) }
}

#[test]
fn calibrated_export() {
    let place = Place::new();
    let flags = ["@work/out", "--method", "gptq", "--group-size", "32", "--calibration", "@set.json"];
    let command = [&EXPORT[..], &flags].concat();
    Scenario { command: &command, before: None, results: all_files, retry: &[] }.run(&place);
    nothing_hidden(&place.work());
}

const ASK: [&str; 9] =
    ["--model", "@model", "--coqa", "@questions.json", "--limit", "2", "--no-bench", "--results", "@work/results"];

#[test]
fn run() {
    let place = Place::new();
    let command = [&["run", "int8_rtn", "--baseline", "int8_rtn"], &ASK[..]].concat();
    Scenario { command: &command, before: None, results: records, retry: &[] }.run(&place);
    assert!(!place.work().join("results/.work").exists());
}

#[test]
fn sweep() {
    let place = Place::new();
    let file = "baseline = \"fp16_baseline\"\nexperiments = [\"fp16_baseline\", \"int8_rtn\"]\n";
    fs::write(place.0.path().join("sweep.toml"), file).expect("the place is ours");
    let command = [&["sweep", "@sweep.toml"], &ASK[..]].concat();
    Scenario { command: &command, before: None, results: records, retry: &["--retry-failed"] }.run(&place);
    assert!(!place.work().join("results/.work").exists());
}

/// A record of the same experiment that failed before is no record of this run.
#[test]
fn what_could_not_be_recorded_is_gone_on_from() {
    let place = Place::new();
    fs::write(place.0.path().join("sweep.toml"), "baseline = \"int8_rtn\"\nexperiments = [\"int8_rtn\"]\n").expect("ours");
    let record = place.work().join("results/int8_rtn_results.json");
    for start in [&["run", "int8_rtn", "--baseline", "int8_rtn"][..], &["sweep", "@sweep.toml", "--retry-failed"]] {
        let command = [start, &ASK[..]].concat();
        succeed(&place.qonnx(&command, None));
        let mut failed: Value = serde_json::from_slice(&fs::read(&record).expect("a record")).expect("JSON");
        failed["failure"] = serde_json::json!({"stage": "bench", "message": "made up"});
        fs::write(&record, failed.to_string()).expect("the place is ours");
        let ended = place.qonnx_under(&record, &command, Fault { operation: "rename", n: 1 });
        assert!(!ended.status.success() || start[0] == "sweep", "{}", String::from_utf8_lossy(&ended.stderr));
        let before: Value = serde_json::from_slice(&fs::read(&record).expect("a record")).expect("JSON");
        assert_eq!(before, failed, "it could not be replaced");
        let left = contents(&place.work().join("results/.work"));
        assert!(left.keys().any(|name| name.ends_with("model.onnx")), "{:?}", left.keys());
        succeed(&place.qonnx(&command, None));
        assert!(!place.work().join("results/.work").exists());
        emptied(&place.work());
    }
}

#[test]
fn eval() {
    let place = Place::new();
    let before = place.0.path().join("before");
    fs::create_dir(&before).expect("the place is ours");
    succeed(&place.qonnx(&[&EXPORT[..], &["@before/artifact"]].concat(), None));
    let coqa =
        ["eval", "@work/artifact", "--task", "coqa", "--protocol", "official", "--data", "@questions.json", "--limit", "3"];
    let written = ["--batch", "1", "--predictions", "@work/answers.jsonl", "--official-predictions", "@work/official.json"];
    Scenario { command: &[&coqa[..], &written].concat(), before: Some(&before), results: scored, retry: &[] }.run(&place);
    let kl = ["eval", "@work/artifact", "--task", "kl", "--reference", "@work/artifact", "--text", "@text.txt", "--top-k", "8"];
    let command = [&kl[..], &["--reference-cache", "@work/cache"]].concat();
    Scenario { command: &command, before: Some(&before), results: scored, retry: &[] }.run(&place);
}

#[test]
fn report() {
    let place = Place::new();
    let before = place.0.path().join("before");
    fs::create_dir(&before).expect("the place is ours");
    for experiment in ["fp16_baseline", "int8_rtn"] {
        let asked = ASK.map(|argument| argument.replace("@work", "@before"));
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        succeed(&place.qonnx(&[&["run", experiment, "--baseline", "fp16_baseline"], &asked[..]].concat(), None));
    }
    let command = ["report", "@work/results", "-o", "@work/report"];
    Scenario { command: &command, before: Some(&before), results: all_files, retry: &[] }.run(&place);
}

/// The record says that there are answers: their name is on the disk before its own.
#[test]
fn the_disk_has_the_answers_before_their_record() {
    let place = Place::new();
    let calls = place.calls(&[&["run", "int8_rtn", "--baseline", "int8_rtn"], &ASK[..]].concat());
    let results = fs::canonicalize(place.work()).expect("it is there").join("results").display().to_string();
    let at = |kind: &str, path: String| calls.iter().position(|call| *call == (kind.to_owned(), path.clone()));
    let answers = at("rename", format!("{results}/int8_rtn.jsonl")).expect("the answers get their name");
    let record = at("rename", format!("{results}/int8_rtn_results.json")).expect("the record gets its name");
    assert!(answers < record && calls[answers..record].contains(&("fsync".to_owned(), results)), "{calls:?}");
}

/// What is renamed is on the disk, and what makes it again goes only when the new name is on the disk too.
#[test]
fn the_disk_has_each_thing_before_the_next_depends_on_it() {
    let place = Place::new();
    let flags = ["@work/out", "--method", "gptq", "--group-size", "32", "--calibration", "@set.json", "--overwrite"];
    let command = [&EXPORT[..], &flags].concat();
    succeed(&place.qonnx(&command, None));
    let calls = place.calls(&command);
    let at = |kind: &str, is: &dyn Fn(&str) -> bool| calls.iter().position(|(name, path)| name == kind && is(path));
    let work = fs::canonicalize(place.work()).expect("it is there").display().to_string();
    let out = format!("{work}/out");
    let named = at("rename", &|path| path == out).expect("the artifact gets its name");
    let synced_after = calls[named..].iter().position(|(kind, path)| kind == "fsync" && *path == work);
    let durable = named + synced_after.expect("the folder with the name is put on the disk");
    for file in contents(Path::new(&out)).into_keys() {
        let synced = at("fsync", &|path| path.contains("/.out.partial-") && path.ends_with(&format!("/{file}")));
        assert!(synced.is_some_and(|synced| synced < named), "{file} is put on the disk before the artifact is named: {calls:?}");
    }
    let is_hidden_folder =
        |path: &str| path.contains("/.out.partial-") && !path.rsplit("/.out.partial-").next().expect("a key").contains('/');
    assert!(at("fsync", &is_hidden_folder).is_some_and(|synced| synced < named), "{calls:?}");
    let removed = at("unlink", &|path| path.contains("calibrated") && !path.contains("/.lock"));
    assert!(removed.is_none_or(|removed| removed > durable), "{calls:?}");
    let replaced = at("unlink", &|path| path.contains("/.out.partial-"));
    assert!(replaced.is_none_or(|removed| removed > durable), "{calls:?}");
}
