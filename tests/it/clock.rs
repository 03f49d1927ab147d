//! Chat templates that write the time: which time, who says so, and that a worker is told the same.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::small;

/// Eight sequences of chats, of which each says when it was held.
const SET: &str = "licence = \"x\"\nform = \"chat\"\nsamples = 8\nlength = 16\n[source]\nfile = \"chats.jsonl\"\n";

/// A small model with this chat template, and a set of chats.
fn place(template: &str) -> TempDir {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    small::write(place.path());
    let config = json!({ "chat_template": template, "eos_token": "<|end_of_text|>" }).to_string();
    fs::write(place.path().join("model/tokenizer_config.json"), config).expect("the place is ours");
    let chat = |number: u32| json!({ "messages": [{ "role": "user", "content": format!("The {number}th cat sat there.") }] });
    let chats: Vec<String> = (0..60).map(|number| chat(number).to_string()).collect();
    fs::write(place.path().join("chats.jsonl"), chats.join("\n")).expect("the place is ours");
    fs::write(place.path().join("set.toml"), SET).expect("the place is ours");
    place
}

/// Runs the words of `line`, where `@` stands for the place.
fn qonnx(place: &TempDir, line: &str, epoch: Option<&str>) -> Output {
    let at = format!("{}/", place.path().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    command.args(line.split(' ').map(|word| word.replace('@', &at))).env_remove("SOURCE_DATE_EPOCH");
    command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch))).output().expect("qonnx starts")
}

/// Exports and gives the record of the calibration set, and what was said.
#[track_caller]
fn calibration(place: &TempDir, name: &str, epoch: Option<&str>) -> (Value, String) {
    let line = format!("export @model --bits 4 --method gptq --dtype f32 --calibration @set.toml -o @{name}");
    let output = qonnx(place, &line, epoch);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (manifest(&place.path().join(name))["calibration"].clone(), said)
}

fn manifest(artifact: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(artifact.join("qonnx.json")).expect("it was made")).expect("JSON")
}

const TIMED: &str = "{{ strftime_now('%d %b %Y %H:%M:%S') }} {% for m in messages %}{{ m.content }}{% endfor %}";

#[test]
fn the_same_time_gives_the_same_ids_and_the_record_says_which() {
    let place = place(TIMED);
    let (first, said) = calibration(&place, "a", Some("1704067200"));
    assert!(!said.contains("today's date"), "{said}");
    let (same, _) = calibration(&place, "b", Some("1704067200"));
    let (other, _) = calibration(&place, "c", Some("1735689600"));
    assert_eq!(first, same);
    assert_ne!(first["hash"], other["hash"]);
    assert_eq!((&first["template_time"], &other["template_time"]), (&json!(1704067200), &json!(1735689600)));
    // Told nothing, it says how the ids are made again.
    let (now, said) = calibration(&place, "d", None);
    let epoch = now["template_time"].as_i64().expect("the template asked").to_string();
    assert!(said.contains(&format!("set SOURCE_DATE_EPOCH={epoch} to keep them")), "{said}");
    assert_eq!(calibration(&place, "e", Some(&epoch)).0, now);
}

#[test]
fn a_template_that_asks_for_no_time_has_none_in_its_record() {
    let place = place("{% for m in messages %}{{ m.content }}{% endfor %}");
    let (first, said) = calibration(&place, "a", Some("1704067200"));
    assert!(first.get("template_time").is_none() && !said.contains("today's date"), "{first} {said}");
    assert_eq!(calibration(&place, "b", None).0, first);
}

#[test]
fn a_time_that_is_no_number_is_refused() {
    let place = place(TIMED);
    let output = qonnx(&place, "export @model --bits 4 --method gptq --calibration @set.toml -o @a", Some("today"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("SOURCE_DATE_EPOCH is \"today\", expected seconds since 1970 as a whole number"), "{said}");
}

/// An experiment's id has the hash of its set: the worker must make the set that the plan made, however much later.
#[test]
fn a_worker_is_told_the_time_of_the_plan() {
    let place = place(TIMED);
    let sweep = "model = \"./model\"\nexperiments = [\"fp16_baseline\", \"gptq_4bit_g128\"]\n\
        [measure]\ncoqa = { data = \"questions.json\", protocol = \"official\", limit = 2 }\n";
    fs::write(place.path().join("sweep.toml"), sweep).expect("the place is ours");
    let line = "sweep @sweep.toml --results @results --no-bench --keep --calibration @set.toml";
    let run = qonnx(&place, line, None);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let artifact: PathBuf = place.path().join("results/artifacts/gptq_4bit_g128");
    let told = manifest(&artifact)["calibration"]["template_time"].as_i64().expect("the template asked");
    let plan = qonnx(&place, &format!("{line} --dry-run --json"), Some(&told.to_string()));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap_or_else(|_| panic!("{plan:?}"));
    let states: Vec<&Value> = plan["experiments"].as_array().expect("a list").iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["done", "done"], "{plan}");
}

/// Nothing of this program runs the template then: the artifact has it as the checkpoint has.
#[test]
fn a_template_that_cannot_be_compiled_is_a_warning_of_the_export() {
    let place = place("{% for %}");
    for (command, code) in [("plan @model --bits 4", 0), ("export @model --bits 4 --dtype f32 -o @a", 0)] {
        let output = qonnx(&place, command, None);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("tokenizer_config.json: cannot be used as a chat template: line 1: "), "{said}");
    }
    let copied = fs::read(place.path().join("a/tokenizer_config.json")).expect("it goes along");
    assert!(copied == fs::read(place.path().join("model/tokenizer_config.json")).expect("it is there"));
    let whole = self::place(TIMED);
    let output = qonnx(&whole, "plan @model --bits 4", Some("today"));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
