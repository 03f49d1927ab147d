//! Nothing of a person's is lost, and nothing damaged is gone on from: killed exports, files that are not ours, bits that
//! flip in what a resumed run finds, terminals and disks that are full.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use qonnx::record::RunRecord;
use qonnx::study::experiment::has_artifact;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::small;

/// A folder with a small model, and commands in which `@` stands for it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().expect("a temporary folder can be made"));
        small::write(place.0.path());
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.args(arguments.iter().map(|argument| argument.replace('@', &format!("{}/", self.0.path().display()))));
        command.stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
        command
    }

    fn qonnx(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("qonnx starts")
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.qonnx(arguments);
        assert!(output.status.success(), "{:?}: {}", output.status, stderr(&output));
        output
    }

    /// Hidden names in the folder.
    fn hidden(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the place is ours").map(|entry| entry.expect("readable"));
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with('.')).collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refused(output: &Output, says: &str) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(says), "{says}: {stderr}");
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("readable").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    entries.map(|path| (name(&path), fs::read(&path).expect("readable"))).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("the place is ours");
}

fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([name, "--", process]).status().expect("kill can be run").success());
}

/// Waits until `is_so`; `false` where the process ends before.
fn until(child: &mut Child, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        if child.try_wait().expect("it was started").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("nothing happened within a minute");
}

const EXPORT: [&str; 7] = ["export", "@model", "--bits", "4", "--dtype", "f32", "-o"];

fn exporting(more: &[&'static str]) -> Vec<&'static str> {
    [&EXPORT[..], more].concat()
}

#[test]
fn what_a_killed_export_leaves_the_next_one_clears() {
    let place = Place::new();
    let partial = || place.hidden().iter().any(|name| name.starts_with(".out.partial-"));
    let killed = (0..50).any(|_| {
        let mut export = place.command(&exporting(&["@out"])).stdout(Stdio::null()).spawn().expect("qonnx starts");
        let is_there = until(&mut export, partial);
        let _ = export.kill();
        export.wait().expect("it was started");
        let _ = fs::remove_dir_all(place.at("out"));
        is_there && partial()
    });
    assert!(killed, "no export was killed at its work");
    place.succeed(&exporting(&["@out"]));
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[test]
fn an_artifact_that_was_set_aside_is_put_back() {
    let place = Place::new();
    place.succeed(&exporting(&["@out"]));
    let whole = contents(&place.at("out"));
    // As an export leaves it that is killed between two renames, where the file system knows no exchange.
    fs::rename(place.at("out"), place.at(".out.replaced-0123456789abcdef")).expect("the place is ours");
    let output = place.qonnx(&exporting(&["@out"]));
    refused(&output, "exists already");
    assert!(stderr(&output).contains("what was there is back"), "{}", stderr(&output));
    assert!(contents(&place.at("out")) == whole);
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[test]
fn what_a_link_leads_to_is_replaced_and_the_link_stays() {
    let place = Place::new();
    fs::create_dir(place.at("disk")).expect("the place is ours");
    place.succeed(&["export", "@model", "--bits", "8", "--dtype", "f32", "-o", "@disk/real"]);
    std::os::unix::fs::symlink(place.at("disk/real"), place.at("out")).expect("the place is ours");
    let before = contents(&place.at("disk/real"));
    place.succeed(&exporting(&["@out", "--overwrite"]));
    assert!(place.at("out").is_symlink() && contents(&place.at("disk/real")) != before);
    place.succeed(&exporting(&["@other"]));
    assert!(contents(&place.at("out")) == contents(&place.at("other")));
    assert_eq!(fs::read_dir(place.at("disk")).expect("it is there").count(), 1);
    fs::remove_dir_all(place.at("disk/real")).expect("the place is ours");
    refused(&place.qonnx(&exporting(&["@out", "--overwrite"])), "is a link to nothing");
}

#[test]
fn a_file_is_made_where_a_link_to_nothing_leads_and_the_link_stays() {
    let place = Place::new();
    place.succeed(&exporting(&["@a"]));
    std::os::unix::fs::symlink("new.json", place.at("link")).expect("the place is ours");
    let coqa = ["eval", "@a", "--task", "coqa", "--protocol", "official", "--limit", "1", "--data", "@questions.json"];
    place.succeed(&[&coqa[..], &["--official-predictions", "@link"]].concat());
    assert!(place.at("link").is_symlink(), "the link was replaced");
    let answers: Value = serde_json::from_slice(&fs::read(place.at("new.json")).expect("it was made")).expect("it is JSON");
    assert!(answers[0]["answer"].is_string(), "{answers}");
}

/// Each command names a file that is somebody's, or something else's in the same command.
#[test]
fn a_file_that_is_not_ours_is_not_written_over() {
    let place = Place::new();
    place.succeed(&exporting(&["@a"]));
    fs::create_dir_all(place.at("results")).expect("the place is ours");
    fs::create_dir_all(place.at("report")).expect("the place is ours");
    fs::copy(place.at("questions.json"), place.at("results/int8_rtn.jsonl")).expect("the place is ours");
    for name in ["notes", "report/REPORT.md", "a/notes"] {
        fs::write(place.at(name), "the only copy").expect("the place is ours");
    }
    let coqa = ["eval", "@a", "--task", "coqa", "--protocol", "official", "--limit", "1", "--data", "@questions.json"];
    let bench = ["bench", "@a", "--prompt", "4", "--gen", "2", "--batch", "1", "--min-repeats", "1", "--max-repeats", "1"];
    let run = ["run", "int8_rtn", "--baseline", "int8_rtn", "--model", "@model", "--coqa", "@questions.json", "--no-bench"];
    let kl = ["eval", "@a", "--task", "kl", "--reference", "@a", "--text", "@text.txt"];
    let cases: [(Vec<&str>, &str, &str); 13] = [
        ([&coqa[..], &["--predictions", "@questions.json"]].concat(), "questions.json", "also names for something else"),
        ([&coqa[..], &["--predictions", "@notes"]].concat(), "notes", "not a per-question line"),
        ([&coqa[..], &["--predictions", "@a/qonnx.json"]].concat(), "a/qonnx.json", "also names for something else"),
        ([&coqa[..], &["--predictions", "/dev/null"]].concat(), "/dev/null", "is no file, and answers are read back"),
        ([&coqa[..], &["--official-predictions", "@notes"]].concat(), "notes", "exists and is not answers"),
        ([&coqa[..], &["--official-predictions", "@questions.json"]].concat(), "questions.json", "also names"),
        ([&bench[..], &["--csv", "@notes"]].concat(), "notes", "exists and is not a table"),
        ([&bench[..], &["--save-graph", "@notes"]].concat(), "notes", "exists and is not a graph"),
        ([&bench[..], &["--save-graph", "@a/model.onnx"]].concat(), "a/model.onnx", "also names for something else"),
        ([&kl[..], &["--reference-cache", "@notes"]].concat(), "notes", "KL reference file"),
        ([&run[..], &["--results", "@results"]].concat(), "results/int8_rtn.jsonl", "holds something else; move it away"),
        (exporting(&["@a", "--overwrite"]), "a/notes", "holds notes, which is no part of an artifact"),
        (exporting(&["@notes"]), "notes", "exists already"),
    ];
    for (arguments, file, says) in cases {
        let before = fs::read(place.at(file)).expect("it is there");
        refused(&place.qonnx(&arguments), says);
        assert!(fs::read(place.at(file)).expect("it is there") == before, "{arguments:?}");
    }
    fs::remove_file(place.at("results/int8_rtn.jsonl")).expect("the place is ours");
    place.succeed(&[&run[..], &["--results", "@results"]].concat());
    refused(&place.qonnx(&["report", "@results", "-o", "@report"]), "REPORT.md: exists and is no file of a report");
    assert_eq!(fs::read_to_string(place.at("report/REPORT.md")).expect("it is there"), "the only copy");
    assert_eq!(fs::read_dir(place.at("report")).expect("it is there").count(), 1);
}

#[test]
fn answers_belong_to_one_evaluation_at_a_time() {
    let place = Place::new();
    place.succeed(&exporting(&["@a"]));
    let eval = ["eval", "@a", "--task", "coqa", "--limit", "2", "--data", "@questions.json", "--predictions", "@answers"];
    place.succeed(&eval);
    let answers = fs::read(place.at("answers")).expect("they were written");
    let held = File::options().write(true).open(place.at("answers")).expect("it is there");
    held.try_lock().expect("nobody holds it");
    refused(&place.qonnx(&eval), "another process is writing its answers there just now");
    drop(held);
    place.succeed(&eval);
    assert!(fs::read(place.at("answers")).expect("it is there") == answers);
    let mut changed = answers.clone();
    let hash = changed.windows(14).position(|window| window == b"prompt_sha256\"").expect("each line has one") + 20;
    changed[hash] ^= 1;
    fs::write(place.at("answers"), changed).expect("the place is ours");
    refused(&place.qonnx(&eval), "line 1: has changed since it was written; remove the line");
}

#[test]
fn damaged_statistics_are_made_again() {
    let place = Place::new();
    let flags = ["--method", "gptq", "--group-size", "32", "--calibration", "@set.json", "--save-stats", "@stats"];
    let export = |out: &'static str| place.succeed(&[&exporting(&[out])[..], &flags].concat());
    export("@first");
    let kept = contents(&place.at("stats"));
    for (at, name) in kept.keys().enumerate() {
        flip(&place.at("stats").join(name), kept[name].len() / 2 + at);
    }
    let output = export("@second");
    assert_eq!(stderr(&output).matches("statistics are made again").count(), kept.len(), "{}", stderr(&output));
    assert!(contents(&place.at("first")) == contents(&place.at("second")), "the artifacts differ");
    assert!(contents(&place.at("stats")) == kept, "what was damaged is whole again");
}

const RUN: [&str; 13] = [
    "run",
    "int8_rtn",
    "--baseline",
    "int8_rtn",
    "--model",
    "@model",
    "--coqa",
    "@questions.json",
    "--no-bench",
    "--protocol",
    "official",
    "--text",
    "@text.txt",
];

fn scores(record: &Path) -> Value {
    let mut record: Value = serde_json::from_slice(&fs::read(record).expect("a record is there")).expect("it is JSON");
    record["evaluation"][0].as_object_mut().expect("it was scored").remove("questions_per_second");
    serde_json::json!([record["evaluation"], record["export"]["data_blake3"], record["sanity"], record["failure"]])
}

/// Kills a run into `results` while it answers; returns its work folder.
fn killed(place: &Place, results: &str) -> PathBuf {
    let command = [&RUN[..], &["--results", results]].concat();
    let folder = place.at(&results[1..]);
    let found = || {
        let works = fs::read_dir(folder.join(".work/experiments/int8_rtn")).into_iter().flatten().flatten();
        let work = works.map(|entry| entry.path()).find(|path| path.is_dir())?;
        let is_noted = fs::read_to_string(work.join("int8_rtn_results.json")).is_ok_and(|text| text.contains("\"sanity\":{"));
        let has_answers = fs::metadata(work.join("answers.jsonl")).is_ok_and(|found| found.len() > 0);
        (is_noted && has_answers).then_some(work)
    };
    let stopped = (0..50).find_map(|_| {
        let mut run = place.command(&command);
        let mut run = run.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("qonnx starts");
        let group = format!("-{}", run.id());
        let is_there = until(&mut run, || found().is_some());
        if is_there {
            signal("-STOP", &group);
        }
        let work = found();
        if is_there {
            signal("-KILL", &group);
        }
        run.wait().expect("it was started");
        if work.is_none() {
            fs::remove_dir_all(&folder).expect("the place is ours");
        }
        work
    });
    stopped.expect("no run was stopped while it answered")
}

/// Whatever flips in what a killed run has left, the next has the scores of one that was not killed.
#[test]
fn a_resumed_run_goes_on_from_nothing_that_has_changed() {
    let place = Place::new();
    place.succeed(&[&RUN[..], &["--results", "@whole"]].concat());
    let expected = scores(&place.at("whole/int8_rtn_results.json"));
    let results = ["@artifact", "@config", "@answers", "@record"];
    let files = ["artifact/model.onnx.data", "artifact/config.json", "answers.jsonl", "int8_rtn_results.json"];
    for (results, file) in results.into_iter().zip(files) {
        let work = killed(&place, results);
        let bytes = fs::metadata(work.join(file)).expect("it is there").len() as usize;
        flip(&work.join(file), bytes / 2);
        place.succeed(&[&RUN[..], &["--results", results]].concat());
        assert_eq!(scores(&place.at(&results[1..]).join("int8_rtn_results.json")), expected, "{file}");
    }
}

/// That a disk cannot be read says nothing of what is on it: the work of a killed run is there when the disk is well again.
#[test]
fn a_resumed_run_removes_nothing_that_cannot_be_read() {
    let place = Place::new();
    let work = killed(&place, "@results");
    let command = [&RUN[..], &["--results", "@results"]].concat();
    for file in ["artifact/model.onnx.data", "artifact/qonnx.json", "int8_rtn_results.json"] {
        let (file, well) = (work.join(file), place.at("well"));
        let before = [contents(&work.join("artifact")), BTreeMap::from([("answers".to_owned(), answers_in(&work))])];
        fs::rename(&file, &well).expect("the place is ours");
        // A link to itself: it is there, and the system cannot open it.
        std::os::unix::fs::symlink(&file, &file).expect("the place is ours");
        let output = place.qonnx(&command);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let named = file.parent().expect("a folder").display().to_string();
        assert!(stderr(&output).contains(&named), "{named}: {}", stderr(&output));
        fs::rename(&well, &file).expect("the place is ours");
        let after = [contents(&work.join("artifact")), BTreeMap::from([("answers".to_owned(), answers_in(&work))])];
        assert!(after == before, "{}", file.display());
    }
    place.succeed(&command);
    assert!(place.at("results/int8_rtn_results.json").is_file());
}

/// What is there when an experiment begins is known; what is there when it ends, hours later, is looked at again.
#[test]
fn what_is_put_in_the_place_of_a_kept_artifact_meanwhile_stays() {
    let place = Place::new();
    let command = [&RUN[..], &["--results", "@results", "--keep"]].concat();
    let [kept, work] = ["artifacts/int8_rtn", ".work/experiments/int8_rtn"].map(|name| place.at("results").join(name));
    let mut run = place.command(&command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("qonnx starts");
    assert!(until(&mut run, || work.is_dir()), "the run has begun");
    fs::create_dir_all(&kept).and_then(|()| fs::write(kept.join("notes"), "the only copy")).expect("the place is ours");
    let output = run.wait_with_output().expect("it was started");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(&kept.display().to_string()), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(kept.join("notes")).expect("it is there"), "the only copy");
    fs::remove_dir_all(&kept).expect("the place is ours");
    place.succeed(&command);
    let record = RunRecord::load(&place.at("results/int8_rtn_results.json")).expect("it is whole");
    assert!(has_artifact(&kept, &record).expect("readable"));
}

fn answers_in(work: &Path) -> Vec<u8> {
    fs::read(work.join("answers.jsonl")).expect("the answers are there")
}

#[test]
fn a_kept_artifact_is_the_record_s_only_with_every_byte() {
    let place = Place::new();
    place.succeed(&[&RUN[..], &["--results", "@results", "--keep"]].concat());
    let record = RunRecord::load(&place.at("results/int8_rtn_results.json")).expect("it is whole");
    let kept = place.at("results/artifacts/int8_rtn");
    assert!(has_artifact(&kept, &record).expect("readable"));
    for name in contents(&kept).into_keys() {
        let whole = fs::read(kept.join(&name)).expect("readable");
        flip(&kept.join(&name), whole.len() / 2);
        assert!(!has_artifact(&kept, &record).expect("readable"), "{name}");
        fs::write(kept.join(&name), whole).expect("the place is ours");
    }
    assert!(has_artifact(&kept, &record).expect("readable"));
    for name in contents(&kept).into_keys() {
        let (path, aside) = (kept.join(&name), place.at("aside"));
        fs::rename(&path, &aside).expect("the place is ours");
        assert!(!has_artifact(&kept, &record).expect("it is gone"), "{name}");
        std::os::unix::fs::symlink(&path, &path).expect("the place is ours");
        assert!(has_artifact(&kept, &record).is_err(), "{name} is there and cannot be opened");
        fs::rename(&aside, &path).expect("the place is ours");
    }
}

#[test]
fn what_was_not_compared_with_a_baseline_that_died_is_compared_when_it_is_there() {
    let place = Place::new();
    let file = "baseline = \"fp16_baseline\"\nexperiments = [\"fp16_baseline\", \"int8_rtn\"]\n";
    fs::write(place.at("sweep.toml"), file).expect("the place is ours");
    let sweep = ["sweep", "@sweep.toml", "--model", "@model", "--coqa", "@questions.json", "--protocol", "official"];
    let sweep = [&sweep[..], &["--no-bench", "--results", "@results"]].concat();
    let mut child = place.command(&sweep);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("qonnx starts");
    let workers = |parent: u32| {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        children.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).next()
    };
    let parent = child.id();
    assert!(until(&mut child, || workers(parent).is_some()), "no worker was started");
    signal("-KILL", &workers(parent).expect("it is there"));
    child.wait().expect("it was started");
    let record = |name: &str| -> Value {
        let text = fs::read(place.at("results").join(format!("{name}_results.json"))).expect("a record is there");
        serde_json::from_slice(&text).expect("it is JSON")
    };
    assert!(
        !record("fp16_baseline")["failure"].is_null() && record("int8_rtn")["evaluation"][0]["scores"][0]["paired"].is_null()
    );
    place.succeed(&[&sweep[..], &["--retry-failed"]].concat());
    let [baseline, other] = [record("fp16_baseline"), record("int8_rtn")];
    assert_eq!(other["evaluation"][0]["baseline"]["id"], baseline["id"], "{other}");
}

#[test]
fn terminals_that_are_full_or_gone_end_nothing() {
    let place = Place::new();
    place.succeed(&exporting(&["@a"]));
    let full = || File::options().write(true).open("/dev/full").expect("Linux has it");
    for asked in ["--help", "--version"] {
        let output = place.command(&[asked]).stdout(full()).output().expect("qonnx starts");
        assert_eq!(output.status.code(), Some(1), "{asked}");
        assert!(stderr(&output).contains("stdout cannot be written"), "{}", stderr(&output));
    }
    let ends_with = |arguments: &[&str], code: i32| {
        let status = place.command(arguments).stdout(Stdio::null()).stderr(full()).status().expect("qonnx starts");
        assert_eq!(status.code(), Some(code), "{arguments:?}");
        let closed = r#"exec "$0" "$@" 2>&- >/dev/null"#;
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(closed).arg(env!("CARGO_BIN_EXE_qonnx")).args(place.command(arguments).get_args());
        assert_eq!(shell.status().expect("bash is there").code(), Some(code), "{arguments:?}, closed");
    };
    ends_with(&["plan", "/nonexistent"], 2);
    ends_with(&["generate", "@a", "The", "--max-new-tokens", "2"], 0);
    ends_with(&[&RUN[..], &["--results", "@results"]].concat(), 0);
    assert!(scores(&place.at("results/int8_rtn_results.json"))[3].is_null());
}

#[test]
fn a_limit_on_the_size_of_files_is_said_as_a_full_disk_is() {
    let place = Place::new();
    let script = r#"ulimit -f 64; exec "$0" export "$1" --bits 16 -o "$2""#;
    let mut shell = Command::new("bash");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_qonnx")]).arg(place.at("model")).arg(place.at("out"));
    let output = shell.output().expect("bash is there");
    assert_eq!(output.status.code(), Some(1), "{:?}: {}", output.status, stderr(&output));
    assert!(stderr(&output).contains("model.onnx.data") && stderr(&output).contains("File too large"), "{}", stderr(&output));
    assert_eq!(place.hidden(), Vec::<String>::new());
}

#[test]
fn a_file_that_is_cut_short_while_it_is_mapped_is_named() {
    let place = Place::new();
    let weights = place.at("model/model.safetensors");
    let whole = fs::read(&weights).expect("it was written");
    let partial = || place.hidden().iter().any(|name| name.starts_with(".out.partial-"));
    let said = (0..50).find_map(|_| {
        fs::write(&weights, &whole).expect("the place is ours");
        let _ = fs::remove_dir_all(place.at("out"));
        let mut export = place.command(&exporting(&["@out"]));
        let mut export = export.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("qonnx starts");
        let is_there = until(&mut export, partial);
        if is_there {
            signal("-STOP", &export.id().to_string());
            File::options().write(true).open(&weights).and_then(|file| file.set_len(8192)).expect("the place is ours");
            signal("-CONT", &export.id().to_string());
        }
        let output = export.wait_with_output().expect("it was started");
        // It may have been done with the weights.
        (is_there && !output.status.success()).then_some(output)
    });
    let output = said.expect("no export was under way");
    assert_eq!(output.status.code(), Some(1), "{:?}", output.status);
    let expected =
        format!("error: {}: was cut short, or its disk failed", fs::canonicalize(&weights).expect("it is there").display());
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    fs::write(&weights, &whole).expect("the place is ours");
    place.succeed(&exporting(&["@out"]));
    assert_eq!(place.hidden(), Vec::<String>::new());
}
