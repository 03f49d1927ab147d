//! A sweep as a person runs it: killed, interrupted, crashed, on a full disk, with bad input.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

mod shared_numbers;
mod text_alone;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");

/// Three experiments that take a second or two each, one of them calibrated.
const FAST: &str = r#"
experiments = ["fp16_baseline", "int4_rtn_g32", "bnb_8bit"]

[measure]
coqa = { data = "MODEL/coqa-mini.json", protocol = "official", limit = 12, batch = 4 }
bench = { batches = [1], prompts = [8], new_tokens = 2, warmup = 0, min_repeats = 1, max_repeats = 1 }
"#;

/// A folder with a sweep in it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new(sweep: &str) -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let place = Place { folder };
        place.write("sweep.toml", &format!("model = \"{MODEL}\"\n{}", sweep.replace("MODEL", MODEL)));
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("the place is ours");
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.arg("sweep").arg(self.at("sweep.toml")).arg("--results").arg(self.at("results")).args(flags);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, flags: &[&str]) -> Output {
        self.command(flags).output().expect("qonnx starts")
    }

    /// In a process group of its own, like a shell's job.
    fn start(&self, flags: &[&str]) -> Child {
        let mut command = self.command(flags);
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("qonnx starts")
    }

    fn record(&self, name: &str) -> Value {
        let path = self.at("results").join(format!("{name}_results.json"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).expect("a record is JSON")
    }

    /// What the results folder has, timings taken out: records and answers.
    fn results(&self) -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.at("results")).expect("the sweep made it") {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let value = if name.ends_with("_results.json") {
                without_timings(serde_json::from_str(&fs::read_to_string(&path).expect("readable")).expect("JSON"))
            } else if name.ends_with(".jsonl") {
                let text = fs::read_to_string(&path).expect("readable");
                let mut lines: Vec<Value> =
                    text.lines().map(|line| without_timings(serde_json::from_str(line).expect("JSON"))).collect();
                lines.sort_by_key(|line| (line["id"].to_string(), line["turn_id"].as_u64()));
                Value::Array(lines)
            } else {
                continue;
            };
            found.insert(name, value);
        }
        found
    }
}

/// A record or an answer without what differs between two runs of the same thing: times, memory, and what is counted by time.
fn without_timings(mut value: Value) -> Value {
    const TIMES: [&str; 17] = [
        "seconds",
        "xxh3", // of an answer with its time
        "peak_rss_bytes",
        "peak_anonymous_bytes",
        "questions_per_second",
        "load_seconds",
        "weights_memory_bytes",
        "copy_bytes_per_second",
        "memory_peak_bytes",
        "bandwidth_fraction",
        "prefill_ms",
        "prefill_tokens_per_second",
        "ttft_ms",
        "decode_ms_per_token",
        "decode_tokens_per_second",
        "power",
        "stages",
    ];
    match &mut value {
        Value::Object(fields) => {
            // A benchmark's warnings are of its times; the record's own stay.
            let is_benchmark = fields.contains_key("points");
            let varies = |name: &str| TIMES.contains(&name) || (is_benchmark && name == "warnings");
            fields.retain(|name, _| !varies(name));
            fields.values_mut().for_each(|field| *field = without_timings(field.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_timings(item.take())),
        _ => {}
    }
    value
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("qonnx writes UTF-8")
}

#[track_caller]
fn succeed(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn signal(signal: &str, target: &str) {
    let sent = Command::new("kill").args([signal, "--", target]).stderr(Stdio::null()).status();
    sent.expect("kill is there");
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

#[test]
fn killed_ten_times_it_ends_with_the_same_records() {
    let sweep = FAST.replace("\"bnb_8bit\"", "\"gptq_4bit_g32\", \"bnb_8bit\"");
    let whole = Place::new(&sweep);
    let started = Instant::now();
    succeed(&whole.run(&[]));
    let took = started.elapsed();
    let expected = whole.results();
    assert_eq!(expected.len(), 8, "{:?}", expected.keys());
    assert!(expected["bnb_8bit_results.json"]["benchmarks"]["points"][0].to_string().contains("bytes_per_step"));

    let killed = Place::new(&sweep);
    let mut random = Pcg64::seed_from_u64(4);
    for _ in 0..10 {
        let mut sweep = killed.start(&[]);
        // Within the time of one experiment, so that each stage of each has its chance to be the last.
        let share = f64::from(random.next_u32() % 1000) / 1000.0;
        std::thread::sleep(took.div_f64(4.0).min(Duration::from_secs(4)).mul_f64(share));
        signal("-KILL", &format!("-{}", sweep.id()));
        sweep.wait().expect("it was started here");
    }
    let last = killed.run(&["--json"]);
    succeed(&last);
    assert_eq!(report(&last)["done"], 4);
    let results = killed.results();
    assert_eq!(results.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, value) in &expected {
        assert_eq!(&results[name], value, "{name}");
    }
    // Everything is done: nothing runs again, and nothing is left to run from.
    let before = fs::read(killed.at("results/bnb_8bit_results.json")).expect("a record");
    succeed(&killed.run(&[]));
    assert_eq!(fs::read(killed.at("results/bnb_8bit_results.json")).expect("a record"), before);
    assert!(!killed.at("results/.work").exists());
}

#[test]
fn interrupted_it_keeps_what_is_finished_and_goes_on() {
    let place = Place::new(FAST);
    let sweep = place.command(&["--no-bench"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("qonnx starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !place.at("results/fp16_baseline_results.json").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    signal("-INT", &sweep.id().to_string());
    let output = sweep.wait_with_output().expect("it was started here");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: interrupted; ") && stderr.contains("the same command goes on from there"), "{stderr}");
    let first = fs::read(place.at("results/fp16_baseline_results.json")).expect("it was finished");
    succeed(&place.run(&["--no-bench"]));
    assert_eq!(fs::read(place.at("results/fp16_baseline_results.json")).expect("it stays"), first);
    assert_eq!(place.results().len(), 6);
}

#[test]
fn a_crash_costs_one_row() {
    let place = Place::new(FAST);
    let mut sweep = place.start(&["--no-bench"]);
    let log = place.at("results/logs/int4_rtn_g32.log");
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut killed = false;
    while !killed && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        // The worker's process is the sweep's only child.
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", sweep.id())).unwrap_or_default();
        if let (true, Some(child)) = (log.exists(), children.split_whitespace().next()) {
            signal("-KILL", child);
            killed = true;
        }
    }
    assert!(killed);
    assert_eq!(sweep.wait().expect("it was started here").code(), Some(1));
    let failure = place.record("int4_rtn_g32")["failure"].clone();
    assert!(failure["message"].as_str().is_some_and(|message| message.contains("signal 9 (SIGKILL)")), "{failure}");
    for name in ["fp16_baseline", "bnb_8bit"] {
        assert_eq!(place.record(name)["failure"], Value::Null);
    }
    // A failure stays until it is asked to be tried again.
    let again = place.run(&["--no-bench", "--json"]);
    assert_eq!((again.status.code(), &report(&again)["failed"]), (Some(1), &1.into()));
    let retried = place.run(&["--no-bench", "--retry-failed", "--json"]);
    succeed(&retried);
    assert_eq!((&report(&retried)["done"], &report(&retried)["failed"]), (&3.into(), &0.into()));
    assert!(place.record("int4_rtn_g32")["evaluation"][0]["scores"][0]["paired"].is_object());
}

#[test]
fn a_full_disk_stops_it_and_it_goes_on_with_room() {
    let place = Place::new(FAST);
    // No file may have more than a megabyte: what a write past it says is what a full disk says.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$@\"";
    let command = place.command(&["--no-bench"]);
    let full = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .expect("bash is there");
    let stderr = text(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the disk is full. 0 of 3 experiments are done"), "{stderr}");
    assert!(!place.at("results/fp16_baseline_results.json").exists(), "{stderr}");
    succeed(&place.run(&["--no-bench"]));
}

#[test]
fn a_failed_stage_is_recorded_with_what_came_before() {
    let place = Place::new(FAST);
    place.write(
        "broken.toml",
        "title = \"Outliers\"\nmethod = \"llm-int8\"\n[recipe.weights]\nformat = \"int8\"\ngranularity = \"channel\"\nscale = \
         \"absmax\"\noutlier_threshold = 6.0\n[recipe.calibration]\nset = \"SET\"\n"
            .replace("SET", &place.at("set.json").display().to_string())
            .as_str(),
    );
    let windows: Vec<Vec<u32>> = (0..8).map(|start| (0..128).map(|id| 10 + start * 128 + id).collect()).collect();
    place.write("set.json", &serde_json::to_string(&windows).expect("numbers"));
    let sweep = fs::read_to_string(place.at("sweep.toml")).expect("it was written");
    place.write("sweep.toml", &sweep.replace("\"int4_rtn_g32\"", "\"broken.toml\""));
    let mut sweep = place.start(&["--no-bench"]);
    // The set is there while the sweep is planned, and gone when it is needed.
    let deadline = Instant::now() + Duration::from_secs(120);
    while !place.at("results/logs/fp16_baseline.log").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::remove_file(place.at("set.json")).expect("it was written");
    assert_eq!(sweep.wait().expect("it was started here").code(), Some(1));
    let record = place.record("broken");
    assert_eq!(record["failure"]["stage"], "export", "{record}");
    assert!(record["failure"]["message"].as_str().is_some_and(|message| message.contains("set.json")), "{record}");
    assert_eq!(record["environment"]["ep"], "cpu");
    assert_eq!(place.record("bnb_8bit")["failure"], Value::Null);
}

#[test]
fn a_dry_run_shows_the_plan_and_leaves_nothing() {
    let place = Place::new(
        "experiments = [\"int8_rtn\", \"bnb_8bit\"]\n[axes]\nmethod = [\"rtn\", \"nf4\"]\nbits = [4]\ngroup_size = [64, 128]\n[[exclude]]\n\
         method = \"nf4\"\ngroup_size = 128\nreason = \"NF4 is published with 64\"\n[measure]\ncoqa = { data = \
         \"MODEL/coqa-mini.json\", protocol = \"official\" }",
    );
    let output = place.run(&["--dry-run"]);
    succeed(&output);
    let shown = text(&output.stdout);
    let expected = ["fp16_baseline", "int8_rtn", "rtn_4bit_g64", "rtn_4bit_g128", "nf4_4bit_g64", "an estimate"];
    assert!(expected.iter().all(|part| shown.contains(part)), "{shown}");
    assert!(shown.contains("larger by input features with outliers, which calibration finds: bnb_8bit"), "{shown}");
    assert!(shown.contains("left out: method = nf4, bits = 4, group_size = 128 (NF4 is published with 64)"), "{shown}");
    assert!(!place.at("results").exists());
    let plan = report(&place.run(&["--dry-run", "--json"]));
    assert_eq!((&plan["open"], plan["experiments"].as_array().map(Vec::len)), (&6.into(), Some(6)));
    let bits: Vec<f64> =
        plan["experiments"].as_array().expect("a list").iter().filter_map(|row| row["bits_per_weight"].as_f64()).collect();
    assert_eq!(bits, [16.0, bits[1], bits[1], 4.25, 4.125, 4.25]);
}

/// The sweep of `toml` is refused with `code`, by a sentence that has each of `parts`.
#[track_caller]
fn refused(place: &Place, code: i32, parts: &[&str]) {
    let output = place.run(&["--dry-run"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "no `{part}` in: {stderr}");
    }
}

#[test]
fn bad_input_is_refused_before_any_work() {
    let measure = "[measure]\ncoqa = { data = \"MODEL/coqa-mini.json\", protocol = \"official\" }";
    let cases: [(&str, &[&str]); 12] = [
        ("experiments = [\"int8_rtn\"]\nexperiment = 1", &["sweep.toml: line 3: unknown field `experiment`"]),
        ("experiments = [\"int8\"]", &["experiment int8: cannot be read; give a TOML file or one of fp16_baseline"]),
        ("experiments = [\"int8_rtn\", \"int8_rtn\"]", &["experiment int8_rtn is named twice"]),
        (
            "experiments = [\"int8_rtn\"]\n[axes]\nmethod = [\"rtn\"]\nbits = [8]",
            &["int8_rtn and rtn_8bit_channel are the same recipe on the same data"],
        ),
        ("[axes]\nmethod = [\"rtn\"]\n[[exclude]]\nmethod = \"rtn\"", &["line 4: missing field `reason`"]),
        ("[axes]\nmethod = []", &["method of [axes] has no value"]),
        ("[axes]\nmethod = [\"rtn\"]\nlayout = [\"portable\"]", &["layout \"portable\" of [axes]: only \"ort\" exists"]),
        (
            "[axes]\nmethod = [\"nf4\", \"rtn\"]\ngroup_size = [64, \"channel\"]",
            &["one experiment cannot be run", "method = nf4, group_size = channel: --per-channel means nothing to --method nf4"],
        ),
        (
            "[axes]\nmethod = [\"rtn\"]\ngroup_size = [32, 48]",
            &["rtn_4bit_g48 (method = rtn, group_size = 48): recipe: group size 48", "[[exclude]] with a reason"],
        ),
        ("experiments = [\"gptq_4bit_g32\"]\ncalibration = \"nothing\"", &["gptq_4bit_g32", "nothing"]),
        ("experiments = [\"int8_rtn\"]\n[measure]\ncoqa = { data = \"./none.json\", protocol = \"official\" }", &["none.json"]),
        ("experiments = [\"int8_rtn\"]\n[measure]\nbench = { prompts = [100000] }", &["100000"]),
    ];
    for (sweep, parts) in cases {
        let has_measure = sweep.contains("[measure]") || sweep.contains("[axes]");
        let place = Place::new(&if has_measure { sweep.to_owned() } else { format!("{sweep}\n{measure}") });
        refused(&place, 2, parts);
        assert!(!place.at("results").exists(), "{sweep}");
    }
    refused(&Place::new("experiments = [\"int8_rtn\"]\n[measure]\n"), 0, &[]);
}

#[test]
fn records_that_cannot_be_read_are_named() {
    let place = Place::new(FAST);
    fs::create_dir(place.at("results")).expect("the place is ours");
    for (record, part) in [("{ \"schema\": 7 }", "has schema 7, expected 1 to 2"), ("{ \"schema\": 2, ", "damaged")] {
        place.write("results/int4_rtn_g32_results.json", record);
        refused(&place, 2, &["int4_rtn_g32_results.json", part]);
    }
}

#[test]
fn results_that_are_a_file_are_wrong_input() {
    let place = Place::new(FAST);
    place.write("results", "mine");
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(place.at("results")).expect("it is still there"), "mine");
}

#[test]
fn two_sweeps_do_not_share_a_results_folder() {
    let place = Place::new(FAST);
    let mut first = place.start(&["--no-bench"]);
    let deadline = Instant::now() + Duration::from_secs(120);
    while !place.at("results/logs").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let second = place.run(&["--no-bench"]);
    signal("-KILL", &format!("-{}", first.id()));
    first.wait().expect("it was started here");
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another sweep runs in it"), "{}", text(&second.stderr));
}

#[test]
fn run_writes_a_record_that_a_sweep_takes_as_its_own() {
    let place = Place::new(FAST);
    let results = place.at("results");
    let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "int4_rtn_g32", "--json", "--limit", "12", "--no-bench"]);
    let output = command.arg("--results").arg(&results).output().expect("qonnx starts");
    succeed(&output);
    let record = report(&output);
    assert_eq!((&record["experiment_name"], &record["failure"]), (&"int4_rtn_g32".into(), &Value::Null));
    assert_eq!(record["evaluation"][0]["counts"]["questions"], 12);
    assert_eq!(record["sizes"]["bits_per_weight_linears"], 4.5);
    assert!(record["sanity"]["text"].as_str().is_some_and(|text| !text.trim().is_empty()), "{record}");
    assert!(record["warnings"][0].as_str().is_some_and(|warning| warning.contains("fp16_baseline has no scores")), "{record}");
    let lines = fs::read_to_string(results.join("int4_rtn_g32.jsonl")).expect("answers");
    assert_eq!(lines.lines().count(), 12);
    assert!(!results.join(".work").exists());
    // The sweep measures something else, so it replaces the record, and says so.
    let plan = place.run(&["--dry-run"]);
    assert!(text(&plan.stdout).contains("other, replaced"), "{}", text(&plan.stdout));
    // Asked for the same, it would take the record as it is, had it been compared with the baseline.
    let perplexity = Path::new(MODEL).join("perplexity.txt").display().to_string();
    let sweep =
        fs::read_to_string(place.at("sweep.toml")).expect("it was written").replace("limit = 12, batch = 4", "limit = 12");
    place.write("sweep.toml", &sweep);
    let same = report(&place.run(&["--dry-run", "--json", "--no-bench", "--text", &perplexity]));
    let states: Vec<&Value> = same["experiments"].as_array().expect("a list").iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["to do", "not compared, again", "to do"]);
    for name in ["fp16_baseline", "int4_rtn_g32"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", name, "--limit", "12", "--no-bench"]);
        succeed(&command.arg("--results").arg(&results).output().expect("qonnx starts"));
    }
    assert_eq!(place.record("int4_rtn_g32")["evaluation"][0]["baseline"]["id"], place.record("fp16_baseline")["id"]);
    let same = report(&place.run(&["--dry-run", "--json", "--no-bench", "--text", &perplexity]));
    let states: Vec<&Value> = same["experiments"].as_array().expect("a list").iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["done", "done", "to do"]);
}

#[test]
fn two_at_once_leave_the_records_of_one_after_the_other() {
    let [one, two] = [(); 2].map(|()| Place::new(FAST));
    succeed(&one.run(&["--no-bench"]));
    succeed(&two.run(&["--no-bench", "--jobs", "2"]));
    assert_eq!(two.results(), one.results());
    let baseline = &two.record("fp16_baseline")["id"];
    assert_eq!(&two.record("bnb_8bit")["evaluation"][0]["baseline"]["id"], baseline, "it waited for the baseline's answers");
}

/// Two GPTQs see the same first input, and different ones behind the weights that they rounded.
#[test]
fn statistics_that_two_experiments_share_are_made_once() {
    const OF_AN_EXPORT: usize = 6 * 4;
    let place = Place::new(&FAST.replace("\"int4_rtn_g32\", \"bnb_8bit\"", "\"gptq_4bit_g32\", \"gptq_4bit_g128\""));
    let mut sweep = place.start(&[]);
    let exported = |name: &str| {
        let work = fs::read_dir(place.at("results/.work/experiments").join(name)).into_iter().flatten().flatten();
        let record = |entry: fs::DirEntry| fs::read_to_string(entry.path().join(format!("{name}_results.json"))).ok();
        // Behind the line with its checksum.
        let json = |text: String| serde_json::from_str::<Value>(text.split_once('\n')?.1).ok();
        let so_far = work.filter_map(record).filter_map(json);
        so_far.into_iter().any(|record| !record["export"].is_null())
    };
    let kept = || fs::read_dir(place.at("results/.work/statistics-0")).into_iter().flatten().count();
    let deadline = Instant::now() + Duration::from_secs(300);
    while !exported("gptq_4bit_g128") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal("-STOP", &format!("-{}", sweep.id()));
    let both = kept();
    signal("-KILL", &format!("-{}", sweep.id()));
    sweep.wait().expect("it was started here");
    assert_eq!(both, 2 * OF_AN_EXPORT - 1, "all of both but one, which both have");
}

#[test]
fn a_report_comes_with_a_sweep_that_asks_for_one() {
    let place = Place::new(
        "experiments = [\"int8_rtn\"]\n[measure]\ncoqa = { data = \"MODEL/coqa-mini.json\", protocol = \"official\", limit = 4 }",
    );
    succeed(&place.run(&["--report", "--dry-run"]));
    assert!(!place.at("results").exists());
    // One conversation: nothing can be compared, which is said and not tried again and again.
    let output = place.run(&["--report", "--json"]);
    succeed(&output);
    let said = report(&output);
    assert_eq!(said["done"], 2);
    let files = said["report"]["files"].as_array().expect("the report's files are listed");
    assert!(files.iter().any(|file| file == "report.pdf"), "{files:?}");
    let page = fs::read_to_string(place.at("results/report.html")).expect("it was written");
    assert!(page.contains("None can be named"), "nothing was compared");
    assert_eq!(report(&place.run(&["--dry-run", "--json"]))["open"], 0);
    // A record that no report can be of is named before any work.
    let mut foreign = place.record("int8_rtn");
    (foreign["experiment_name"], foreign["id"]) = ("other".into(), "0".into());
    foreign["model"]["blake3"] = "beef".into();
    place.write("results/other_results.json", &foreign.to_string());
    let output = place.run(&["--report", "--limit", "5"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("other_results.json: is of model"), "{}", text(&output.stderr));
    assert_eq!(place.record("int8_rtn")["evaluation"][0]["counts"]["questions"], 4, "nothing was run");
}

#[test]
fn an_id_is_of_recipe_calibration_and_protocol() {
    let place = Place::new("");
    place.write("own.toml", "title = \"t\"\nmethod = \"rtn\"\nrecipe = \"int4-g32-rtn\"\n");
    let own = place.at("own.toml").display().to_string();
    let ids = |sweep: &str, flags: &[&str]| -> BTreeMap<String, String> {
        let measure = "[measure]\ncoqa = { data = \"MODEL/coqa-mini.json\", protocol = \"official\", limit = 4 }";
        let experiments = format!("experiments = [\"fp16_baseline\", \"{own}\", \"gptq_4bit_g32\"]\n{sweep}\n");
        let text = format!("model = \"MODEL\"\n{experiments}{measure}\n").replace("MODEL", MODEL);
        place.write("sweep.toml", &text);
        let plan = report(&place.run(&[&["--dry-run", "--json", "--no-bench"], flags].concat()));
        let rows = plan["experiments"].as_array().expect("a list").clone();
        rows.iter().map(|row| (row["name"].to_string(), row["id"].to_string())).collect()
    };
    let differing = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| -> Vec<String> {
        a.iter().filter(|(name, id)| b[*name] != **id).map(|(name, _)| name.trim_matches('"').to_owned()).collect()
    };
    let first = ids("", &[]);
    assert_eq!(differing(&first, &ids("", &[])), [""; 0]);
    let set: Vec<Vec<u32>> = (0..9).map(|row| (0..128).map(|at| 300 + (row * 131 + at * 17) % 3000).collect()).collect();
    place.write("set.json", &serde_json::json!(set).to_string());
    let set = place.at("set.json").display().to_string();
    assert_eq!(differing(&first, &ids("", &["--calibration", &set])), ["gptq_4bit_g32"]);
    assert_eq!(differing(&first, &ids("", &["--limit", "5"])).len(), 3);
    assert_eq!(differing(&first, &ids("", &["--protocol", "lm-eval"])).len(), 3);
    place.write("own.toml", "title = \"t\"\nmethod = \"rtn\"\nrecipe = \"int4-g128-rtn\"\n");
    assert_eq!(differing(&first, &ids("", &[])), ["own"]);
}

#[test]
fn an_experiment_may_be_called_like_what_lies_beside_its_work() {
    let own = |name: &str| format!("\"OWN/{name}.toml\"");
    let names = ["baseline-ended", "models.json", "reference", "sweep.lock"];
    let list = names.map(own).join(", ");
    let place = Place::new("");
    let measure = "coqa = { data = \"MODEL/coqa-mini.json\", protocol = \"official\", limit = 4, batch = 4 }\n\
                   text = { file = \"MODEL/perplexity.txt\", window = 128, windows = 1 }";
    let sweep = format!("model = \"MODEL\"\nexperiments = [\"fp16_baseline\", {list}]\n[measure]\n{measure}");
    let here = place.at("").display().to_string();
    place.write("sweep.toml", &sweep.replace("MODEL", MODEL).replace("OWN", here.trim_end_matches('/')));
    for (name, recipe) in names.into_iter().zip(["int2-g32-rtn", "int4-g32-rtn", "int8-g32-rtn", "nf4-g64-rtn"]) {
        place.write(&format!("{name}.toml"), &format!("title = \"t\"\nmethod = \"rtn\"\nrecipe = \"{recipe}\"\n"));
    }
    succeed(&place.run(&["--no-bench"]));
    for name in names {
        let kl = place.record(name)["evaluation"][2]["scores"][0].clone();
        assert!(kl["metric"] == "kl_mean" && kl["value"].as_f64().is_some_and(|kl| kl > 0.0), "{name}");
    }
    assert!(!place.at("results/.work").exists());
}

#[test]
fn a_baseline_that_nobody_knows_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "int8_rtn", "--baseline", "nosuch", "--results"]);
    let output = command.arg(folder.path()).output().expect("qonnx starts");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("--baseline nosuch: "), "{}", text(&output.stderr));
}

#[test]
fn a_study_of_another_model_is_not_overwritten() {
    let place = Place::new("experiments = [\"int8_rtn\"]");
    let mut record = serde_json::json!({
        "schema": 1, "experiment_name": "int8_rtn", "id": "0", "title": "t", "method": "rtn", "baseline": null,
        "model": {"source": "other", "revision": null, "parameters": 1, "blake3": "beef", "calibration": null},
        "recipe": {"weights": {"format": "int8"}},
        "program": {"version": "0", "commit": null, "dirty": false},
        "environment": {"ep": "cpu", "onnxruntime": null, "cpu": "c", "cores": 1, "threads": null, "gpu": null, "driver": null,
            "activation": "f32"},
        "sizes": null, "export": null, "sanity": null, "evaluation": null, "benchmarks": null, "stages": [], "warnings": [],
        "failure": null,
    });
    fs::create_dir(place.at("results")).expect("the place is ours");
    place.write("results/int8_rtn_results.json", &record.to_string());
    let parts = ["int8_rtn_results.json: is of another model (other, beef", "keep the studies of two models in two folders"];
    refused(&place, 2, &parts);
    let mut run = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    run.args(["run", "int8_rtn", "--model", MODEL, "--no-coqa", "--no-bench", "--results"]).arg(place.at("results"));
    let output = run.output().expect("qonnx starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is of another model"), "{}", text(&output.stderr));
    // Of an older run of the same model it is replaced, and the plan says so.
    record["model"]["blake3"] = report(&place_plan(&place))["model_blake3"].clone();
    place.write("results/int8_rtn_results.json", &record.to_string());
    assert_eq!(report(&place.run(&["--dry-run", "--json"]))["experiments"][1]["state"], "other, replaced");
}

/// The plan of a sweep whose results folder is somewhere else.
fn place_plan(place: &Place) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    command.arg("sweep").arg(place.at("sweep.toml")).args(["--dry-run", "--json", "--results"]).arg(place.at("empty"));
    command.output().expect("qonnx starts")
}
