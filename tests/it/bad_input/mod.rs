//! Broken flags, recipes, checkpoints, data files and artifacts, given to the program as a user would.
//!
//! Each case must end with exit code 2, nothing on stdout, a sentence on stderr that names the cause, no panic, and
//! nothing left where the output was to go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

mod checkpoints;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa")
}

/// A folder of its own for one case: what the program reads in `in/`, what it may write in `out/`.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for name in ["in", "out"] {
            fs::create_dir(folder.path().join(name)).expect("the temporary folder is ours");
        }
        Place { folder }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("in")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// `{model}` is the good checkpoint, `{artifact}` a good artifact, `{in}` and `{out}` this place's folders.
    fn fill(&self, argument: &str) -> String {
        let mut filled = argument.replace("{model}", &fixture().display().to_string());
        filled = filled.replace("{in}", &self.input().display().to_string());
        filled = filled.replace("{out}", &self.output().display().to_string());
        filled = filled.replace("{long}", &"*".repeat(100_000));
        filled = filled.replace("{deep}", &format!("{}b{}", "{a,".repeat(200), "}".repeat(200)));
        if filled.contains("{artifact}") {
            filled = filled.replace("{artifact}", &artifact().display().to_string());
        }
        filled
    }

    /// Runs `qonnx` with `arguments` split at spaces; what is wrong with the way it refuses, if anything.
    fn refusal(&self, arguments: &str, says: &[&str]) -> Vec<String> {
        let before = listing(&self.output());
        let arguments: Vec<String> = arguments.split(' ').map(|argument| self.fill(argument)).collect();
        let output = program(self.folder.path()).args(&arguments).output().expect("qonnx starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut faults = Vec::new();
        if output.status.code() != Some(2) {
            faults.push(format!("exit {:?}, expected 2", output.status.code()));
        }
        if !output.stdout.is_empty() {
            faults.push(format!("stdout has {} bytes, expected none", output.stdout.len()));
        }
        if !stderr.starts_with("error: ") {
            faults.push("stderr does not begin with `error: `".to_owned());
        }
        // Clap writes its usage below the sentence; a plan with several refusals indents each but the first.
        let is_continued = |line: &str| line.starts_with("       ");
        if !stderr.contains("--help") && !stderr.trim_end().lines().skip(1).all(is_continued) {
            faults.push("stderr is more than one sentence".to_owned());
        }
        faults.extend(
            ["panicked", "RUST_BACKTRACE", "unwrap"]
                .iter()
                .filter(|word| stderr.contains(*word))
                .map(|word| format!("stderr says `{word}`")),
        );
        faults.extend(says.iter().filter(|part| !stderr.contains(*part)).map(|part| format!("stderr lacks `{part}`")));
        let after = listing(&self.output());
        if after != before {
            faults.push(format!("the output folder holds {after:?}, expected {before:?}"));
        }
        if !faults.is_empty() {
            faults.push(format!("stderr was: {stderr}"));
        }
        faults
    }
}

/// The program, kept off the network and the user's own caches.
fn program(home: &Path) -> Command {
    let mut command = Command::cargo_bin("qonnx").expect("the binary is built with its tests");
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.join("hf")).env_remove("HF_TOKEN").timeout(Duration::from_secs(120));
    command
}

/// Names and sizes below `folder`, sorted.
fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("the folder can be listed").path();
        if path.is_dir() {
            found.extend(listing(&path));
        }
        let size = if path.is_dir() { 0 } else { fs::metadata(&path).map_or(0, |file| file.len()) };
        found.push((path, size));
    }
    found.sort();
    found
}

/// An INT4 artifact of the fixture, made once.
fn artifact() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let target = folder.path().join("artifact");
        let mut export = program(folder.path());
        export.arg("export").arg(fixture()).args(["--bits", "4", "--dtype", "f32", "-o"]).arg(target).assert().success();
        folder
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder.path().join("artifact"))
}

/// Fails with every case that was refused wrongly.
#[track_caller]
fn expect_none(faults: Vec<(String, Vec<String>)>) {
    let wrong: Vec<String> = faults
        .into_iter()
        .filter(|(_, faults)| !faults.is_empty())
        .map(|(case, faults)| format!("{case}\n    {}", faults.join("\n    ")))
        .collect();
    assert!(wrong.is_empty(), "{} cases refused wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn flags() {
    let cases: &[(&str, &[&str])] = &[
        ("exprot {model} -o {out}/a", &["unrecognized subcommand", "export"]),
        ("export {model}", &["--output"]),
        ("export {model} --bits 7 -o {out}/a", &["--bits", "2, 3, 4, 5, 6, 8 or 16"]),
        ("export {model} --bits four -o {out}/a", &["--bits", "2, 3, 4, 5, 6, 8 or 16"]),
        ("export {model} --group-size 0 -o {out}/a", &["group size 0", "power of two from 16 to 256"]),
        ("export {model} --group-size 8 -o {out}/a", &["group size 8", "power of two from 16 to 256"]),
        ("export {model} --group-size 48 -o {out}/a", &["group size 48", "power of two from 16 to 256"]),
        ("export {model} --group-size 512 -o {out}/a", &["group size 512", "power of two from 16 to 256"]),
        ("export {model} --group-size=-32 -o {out}/a", &["--group-size", "-32"]),
        ("export {model} --group-size 32 --per-channel -o {out}/a", &["--group-size", "--per-channel"]),
        ("export {model} --dtype bf16 -o {out}/a", &["--dtype", "bf16", "f16, f32"]),
        ("export {model} --scale best -o {out}/a", &["--scale", "least-squares"]),
        ("export {model} --embedding int2 -o {out}/a", &["--embedding", "f16, int8 or int4"]),
        ("export {model} --bits 4 --recipe int4-g32-rtn -o {out}/a", &["--bits", "--recipe", "cannot be used with"]),
        ("export {model} --override lm_head -o {out}/a", &["--override", "PATTERN=FORMAT"]),
        ("export {model} --override lm_head=int7 -o {out}/a", &["--override", "lm_head=int7"]),
        ("export {model} --override lm_head=int3 -o {out}/a", &["model.embed_tokens", "int3", "f16, int8 or int4"]),
        ("export {model} --method gptq --sweeps 101 -o {out}/a", &["sweeps", "101", "at most 100"]),
        ("export {model} --override model.layers.99.*=int8 -o {out}/a", &["model.layers.99.*", "matches no weight"]),
        ("export {model} --override [=int8 -o {out}/a", &["`[`", "not a glob"]),
        ("export {model} --max-context 0 -o {out}/a", &["max-context"]),
        ("export {model} --max-context 131073 -o {out}/a", &["--max-context 131073", "131072"]),
        ("export {model} --override model.layers.0.mlp.up_proj=int4 --recipe f33 -o {out}/a", &["recipe f33", "int4-g32-rtn"]),
        ("export {model} -o {out}/missing/a", &["missing/a", "parent folder does not exist"]),
        ("export {model} --bits 16 --asymmetric -o {out}/a", &["--bits 16", "--asymmetric"]),
        ("export {model} --bits 16 --group-size 32 -o {out}/a", &["--bits 16", "--group-size"]),
        ("export {model} --bits 16 --scale absmax -o {out}/a", &["--bits 16", "--scale"]),
        ("plan {model} --method gptq --calibration nosuch", &["nosuch: no such file, and no built-in set"]),
        ("plan {model} --context 8193", &["--context 8193", "8192 positions", "--max-context"]),
        (
            "eval {artifact} --task coqa --data {model}/coqa-mini.json --official-predictions {out}/o.json",
            &["--official-predictions", "--protocol official"],
        ),
        ("plan {model} --bits 9", &["--bits", "2, 3, 4, 5, 6, 8 or 16"]),
        ("plan {model} --batch none", &["--batch", "none"]),
        ("plan {model} --batch 0", &["--batch", "whole number from 1 on"]),
        ("plan {model} --context 0", &["--context", "whole number from 1 on"]),
        ("plan {in}", &["model.safetensors", "only an empty folder"]),
        ("generate {artifact} hello --max-new-tokens 0", &["--max-new-tokens", "whole number from 1 on"]),
        ("generate {artifact} hello --max-new-tokens 9000", &["9000 new ones", "context of 8192"]),
        ("generate {artifact} hello --no-cuda-graph", &["--no-cuda-graph works only on CUDA", "--ep cuda"]),
        ("bench {artifact} --no-cuda-graph", &["--no-cuda-graph works only on CUDA", "--ep cuda"]),
        ("generate {artifact} hello --threads 0", &["--threads", "whole number from 1 on"]),
        ("generate {artifact} hello --threads 100000", &["--threads", "whole number from 1 on, 1024 at most"]),
        ("generate {artifact} hello --max-new-tokens 18446744073709551615", &["--max-new-tokens", "2147483647 at most"]),
        ("generate {artifact} hello --max-new-tokens 2147483647", &["2147483647 new ones", "context of 8192"]),
        ("export {model} --max-context 134217728 -o {out}/a", &["--max-context", "131072"]),
        ("export {model} --override {deep}=int8 -o {out}/a", &["nest too deep"]),
        ("export {model} --override {long}=int8 -o {out}/a", &["is not a glob: it has 100000 bytes, at most 1000 are taken"]),
        ("generate {artifact} hello --max-new-tokens many", &["--max-new-tokens", "many"]),
        ("generate {artifact} hello --ep tpu", &["--ep", "tpu", "cpu, cuda"]),
        ("eval {artifact} --task squad", &["--task", "squad", "coqa, perplexity, kl"]),
        ("eval {artifact} --task coqa --protocol both", &["--protocol", "lm-eval, official"]),
        ("eval {artifact} --task coqa --limit few", &["--limit", "few"]),
        ("eval {artifact} --task coqa --limit 0", &["--limit", "whole number from 1 on"]),
        ("eval {artifact} --task coqa --batch 0", &["--batch", "whole number from 1 on"]),
        ("eval {artifact} --task perplexity --text {model}/perplexity.txt --window 0", &["--window", "number from 2 on"]),
        ("eval {artifact} --task perplexity --text {model}/perplexity.txt --window 1", &["--window", "number from 2 on"]),
        ("eval {artifact} --task perplexity --text {model}/perplexity.txt --windows 0", &["--windows", "number from 1 on"]),
        ("eval {artifact} --task kl --reference {artifact} --top-k 0", &["--top-k", "number from 1 on"]),
        ("eval {artifact} --task kl --reference {in} --text {model}/perplexity.txt", &["qonnx.json is missing"]),
        ("eval {artifact} --task coqa --rescore", &["--predictions"]),
        ("eval {artifact} --task coqa --rescore --predictions {in}/none.jsonl", &["none.jsonl"]),
        ("eval {artifact} --task coqa --data {model}/coqa-mini.json --predictions {out}/no/p.jsonl", &["no/p.jsonl", "parent"]),
        (
            "eval {artifact} --task coqa --data {model}/coqa-mini.json --protocol official --official-predictions {out}/no/p.json",
            &["no/p.json"],
        ),
        ("eval {artifact} --task perplexity", &["--text is missing"]),
        ("eval {artifact} --task kl --text {model}/perplexity.txt", &["--reference is missing"]),
        ("eval {artifact} --task perplexity --text {model}/perplexity.txt --limit 1", &["--limit", "perplexity", "--windows"]),
        ("eval {artifact} --task perplexity --text {model}/perplexity.txt --top-k 5", &["--top-k", "perplexity", "--windows"]),
        ("eval {artifact} --task kl --reference {artifact} --text {model}/perplexity.txt --batch 1", &["--batch", "--task kl"]),
        ("eval {artifact} --task coqa --data {model}/coqa-mini.json --windows 3", &["--windows", "--task coqa", "--limit"]),
        ("completions tcsh", &["tcsh", "bash"]),
    ];
    expect_none(cases.iter().map(|(arguments, says)| ((*arguments).to_owned(), Place::new().refusal(arguments, says))).collect());
}

#[test]
fn recipes() {
    let cases: &[(&str, &[&str])] = &[
        ("", &["missing field `weights`"]),
        ("[weights\nformat = \"int4\"", &["line 1"]),
        ("[weights]\nsymmetric = true", &["missing field `format`"]),
        ("[weights]\nformat = \"int7\"", &["line 2", "unknown variant `int7`", "`int4`"]),
        ("[weights]\nformat = 4", &["line 2", "wanted string"]),
        ("[weights]\nformat = \"int4\"\nbits = 4", &["line 3", "unknown field `bits`"]),
        ("[weights]\nformat = \"int4\"\nsymmetric = \"yes\"", &["line 3", "expected a boolean"]),
        ("[weights]\nformat = \"int4\"\ngranularity = \"row\"", &["line 3", "`row`", "`channel`"]),
        ("[weights]\nformat = \"int4\"\ngranularity = { group = 48 }", &["group size 48", "power of two"]),
        ("[weights]\nformat = \"int4\"\ngranularity = { group = -1 }", &["line 3", "-1"]),
        ("[weights]\nformat = \"int4\"\nscale = \"best\"", &["line 3", "`best`", "`least-squares`"]),
        ("[weights]\nformat = \"int4\"\nrounding = \"up\"", &["line 3", "`up`", "`rtn`"]),
        ("[weights]\nformat = \"int4\"\n[embedding]\nformat = \"int2\"", &["cannot be stored as int2"]),
        ("[weights]\nformat = \"int4\"\n[embedding]\nformat = \"int8\"\ngranularity = \"channel\"", &["one scale per channel"]),
        ("[weights]\nformat = \"int4\"\n[[override]]\nformat = \"int8\"", &["missing field `match`"]),
        ("[weights]\nformat = \"int4\"\n[[override]]\nmatch = \"lm_head\"", &["missing field `format`"]),
        ("[weights]\nformat = \"int4\"\n[[override]]\nmatch = \"*.fc1\"\nformat = \"int8\"", &["`*.fc1`", "matches no weight"]),
        ("[weights]\nformat = \"int4\"\n[[override]]\nmatch = \"a[\"\nformat = \"int8\"", &["`a[`", "not a glob"]),
        ("[weights]\nformat = \"int4\"\n[weights]\nformat = \"int8\"", &["duplicate key"]),
        ("\u{feff}{\"weights\": {\"format\": \"int4\"}}", &["line 1"]),
    ];
    let mut faults = Vec::new();
    for (text, says) in cases {
        let place = Place::new();
        fs::write(place.input().join("recipe.toml"), text).expect("the place is ours");
        let mut parts = vec!["recipe"];
        parts.extend(*says);
        faults.push((format!("{text:?}"), place.refusal("export {model} --recipe {in}/recipe.toml -o {out}/a", &parts)));
    }
    for (name, says) in [("int5-g32-rtn", "int4-g32-rtn"), ("{in}", "cannot be read"), ("{in}/none.toml", "none.toml")] {
        let arguments = format!("export {{model}} --recipe {name} -o {{out}}/a");
        faults.push((arguments.clone(), Place::new().refusal(&arguments, &["recipe", says])));
    }
    let place = Place::new();
    fs::write(place.input().join("recipe.toml"), b"[weights]\nformat = \"\xff\"").expect("the place is ours");
    faults.push((
        "not UTF-8".to_owned(),
        place.refusal("export {model} --recipe {in}/recipe.toml -o {out}/a", &["recipe.toml", "UTF-8"]),
    ));
    expect_none(faults);
}

#[test]
fn outputs_that_exist() {
    let place = Place::new();
    fs::create_dir(place.output().join("a")).expect("the place is ours");
    fs::write(place.output().join("a/thesis.txt"), "the only copy").expect("the place is ours");
    expect_none(vec![
        ("exists".to_owned(), place.refusal("export {model} -o {out}/a", &["exists already"])),
        ("foreign".to_owned(), place.refusal("export {model} -o {out}/a --overwrite", &["is not an artifact"])),
        ("a file".to_owned(), place.refusal("export {model} -o {out}/a/thesis.txt --overwrite", &["is not an artifact"])),
    ]);
}

/// One good conversation in the official layout, changed.
fn conversation(change: impl FnOnce(&mut Value)) -> String {
    let mut made = json!({
        "source": "race", "id": "one", "filename": "one.txt", "story": "Tom has a red hat.",
        "questions": [{"input_text": "Who has a hat?", "turn_id": 1}, {"input_text": "What color is it?", "turn_id": 2}],
        "answers": [
            {"input_text": "Tom", "turn_id": 1, "span_text": "Tom", "span_start": 0, "span_end": 3},
            {"input_text": "red", "turn_id": 2, "span_text": "red", "span_start": 10, "span_end": 13}],
    });
    change(&mut made);
    json!({"version": "1.0", "data": [made]}).to_string()
}

#[test]
fn data_files() {
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", Vec::new(), &["empty"]),
        ("only spaces", b"  \n \n".to_vec(), &[]),
        ("cut off", conversation(|_| ()).into_bytes()[..150].to_vec(), &["line 1"]),
        ("not UTF-8", b"{\"data\": [\"\xff\"]}".to_vec(), &["UTF-8"]),
        ("not JSON", b"version: 1.0\ndata: none\n".to_vec(), &["line 1"]),
        ("a number", b"17".to_vec(), &["17"]),
        ("another layout", br#"{"articles": []}"#.to_vec(), &["data"]),
        ("no conversations", br#"{"version": "1.0", "data": []}"#.to_vec(), &["no conversation"]),
        ("conversations are text", br#"{"data": ["one"]}"#.to_vec(), &["data"]),
        ("no story", conversation(|c| c["story"] = Value::Null).into_bytes(), &["story"]),
        ("an empty story", conversation(|c| c["story"] = json!("")).into_bytes(), &["story"]),
        ("a story that is a list", conversation(|c| c["story"] = json!(["Tom"])).into_bytes(), &["story", "list"]),
        ("no questions", conversation(|c| c["questions"] = json!([])).into_bytes(), &["question"]),
        ("a missing answer", conversation(|c| drop(c["answers"].as_array_mut().map(Vec::pop))).into_bytes(), &["one", "2", "1"]),
        ("an answer without text", conversation(|c| c["answers"][1] = json!({"turn_id": 2})).into_bytes(), &["input_text"]),
        ("a turn out of order", conversation(|c| c["questions"][1]["turn_id"] = json!(7)).into_bytes(), &["turn_id", "7", "2"]),
        ("a turn twice", conversation(|c| c["questions"][1]["turn_id"] = json!(1)).into_bytes(), &["turn_id", "1"]),
        ("a turn that is text", conversation(|c| c["answers"][0]["turn_id"] = json!("one")).into_bytes(), &["turn_id"]),
        (
            "an additional answer missing",
            conversation(|c| c["additional_answers"] = json!({"0": [{"input_text": "Tom", "turn_id": 1}]})).into_bytes(),
            &["additional_answers", "2 questions", "1 "],
        ),
    ];
    let mut faults = Vec::new();
    let coqa = "eval {artifact} --task coqa --protocol official --predictions {out}/p.jsonl --data";
    for (name, bytes, says) in cases {
        let place = Place::new();
        fs::write(place.input().join("data.json"), bytes).expect("the place is ours");
        let mut parts = vec!["data.json"];
        parts.extend(says);
        faults.push((name.to_owned(), place.refusal(&format!("{coqa} {{in}}/data.json"), &parts)));
    }
    for (name, line, says) in [
        ("a line without golds", r#"{"id": "a", "prompt": "Q: Who?"}"#, "golds"),
        ("a line with no gold", r#"{"id": "a", "prompt": "Q: Who?", "golds": []}"#, "golds"),
        ("an empty prompt", r#"{"id": "a", "prompt": "", "golds": ["Tom"]}"#, "prompt"),
        ("a broken second line", "{\"prompt\": \"Q\", \"golds\": [\"a\"]}\n{\"prompt\": ", "line 2"),
    ] {
        let place = Place::new();
        fs::write(place.input().join("data.jsonl"), line).expect("the place is ours");
        faults.push((name.to_owned(), place.refusal(&format!("{coqa} {{in}}/data.jsonl"), &["data.jsonl", says])));
    }
    faults.push(("no file".to_owned(), Place::new().refusal(&format!("{coqa} {{in}}/none.json"), &["none.json"])));
    faults.push(("a folder".to_owned(), Place::new().refusal(&format!("{coqa} {{in}}"), &["in"])));
    expect_none(faults);
}

#[test]
fn texts() {
    let mut faults = Vec::new();
    for (name, bytes, says) in [("empty", &b""[..], "text.txt"), ("not UTF-8", b"caf\xe9 au lait", "UTF-8")] {
        let place = Place::new();
        fs::write(place.input().join("text.txt"), bytes).expect("the place is ours");
        faults.push((name.to_owned(), place.refusal("eval {artifact} --task perplexity --text {in}/text.txt", &[says])));
    }
    faults.push((
        "no file".to_owned(),
        Place::new().refusal("eval {artifact} --task perplexity --text {in}/none.txt", &["none.txt"]),
    ));
    faults.push((
        "a folder".to_owned(),
        Place::new().refusal("eval {artifact} --task perplexity --text {in}", &["in cannot be read"]),
    ));
    for (name, text, says) in [
        ("windows that are no JSON", "{\"windows\": [[1, 2", "not valid JSON"),
        ("windows of text", r#"{"windows": [["the", "cat"]]}"#, "token id"),
        ("a window of one token", r#"{"windows": [[1]]}"#, "at least 2"),
        ("no windows", r#"{"windows": []}"#, "no windows"),
        ("an unknown token", r#"{"windows": [[1, 4096]]}"#, "below the vocabulary size 4096"),
    ] {
        let place = Place::new();
        fs::write(place.input().join("ids.json"), text).expect("the place is ours");
        faults.push((name.to_owned(), place.refusal("eval {artifact} --task perplexity --text {in}/ids.json", &[says])));
    }
    expect_none(faults);
}

#[test]
fn artifacts() {
    let mut faults = Vec::new();
    for command in ["generate {in} hello", "eval {in} --task coqa --data {model}/coqa-mini.json", "inspect {in}", "verify {in}"] {
        faults.push((format!("{command}: an empty folder"), Place::new().refusal(command, &["qonnx.json"])));
        let place = Place::new();
        fs::write(place.input().join("qonnx.json"), "{\"schema\": ").expect("the place is ours");
        faults.push((format!("{command}: a broken manifest"), place.refusal(command, &["qonnx.json", "line 1"])));
        let missing = command.replace("{in}", "{in}/none");
        faults.push((format!("{command}: no folder"), Place::new().refusal(&missing, &["none"])));
    }
    let place = Place::new();
    for file in listing(artifact()).into_iter().map(|(path, _)| path).filter(|path| !path.ends_with("model.onnx.data")) {
        fs::copy(&file, place.input().join(file.file_name().expect("a listed file has a name"))).expect("the place is ours");
    }
    faults.push(("no weights".to_owned(), place.refusal("generate {in} hello", &["model.onnx.data"])));
    fs::create_dir(place.input().join("model.onnx.data")).expect("the place is ours");
    let says = ["model.onnx.data: it is a folder, not a file"];
    faults.push(("a folder for weights".to_owned(), place.refusal("generate {in} hello", &says)));
    fs::remove_dir(place.input().join("model.onnx.data")).expect("the place is ours");
    let whole = fs::read(artifact().join("model.onnx.data")).expect("the artifact has weights");
    fs::write(place.input().join("model.onnx.data"), &whole[..whole.len() - 1]).expect("the place is ours");
    let says = ["model.onnx.data", "expected", "qonnx verify"];
    faults.push(("cut-off weights".to_owned(), place.refusal("generate {in} hello", &says)));
    expect_none(faults);
}

#[test]
fn comparisons() {
    let mut faults = Vec::new();
    for (name, bytes, says) in
        [("empty", "", "a.jsonl"), ("not JSON", "none\n", "line 1"), ("other lines", "{\"x\": 1}\n", "line 1")]
    {
        let place = Place::new();
        fs::write(place.input().join("a.jsonl"), bytes).expect("the place is ours");
        faults.push((name.to_owned(), place.refusal("compare {in}/a.jsonl {in}/a.jsonl", &["a.jsonl", says])));
    }
    faults.push(("no file".to_owned(), Place::new().refusal("compare {in}/a.jsonl {in}/b.jsonl", &["a.jsonl"])));
    expect_none(faults);
}

#[test]
fn a_prompt_on_stdin_that_is_not_text() {
    let place = Place::new();
    let mut generate = program(place.folder.path());
    let output = generate.arg("generate").arg(artifact()).arg("-").write_stdin(&b"caf\xe9"[..]).output().expect("qonnx starts");
    assert_eq!(output.status.code(), Some(2));
    let sentence = "error: the prompt on stdin is not UTF-8; convert it, for example with iconv\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), sentence);
}

/// What is wrong with the input is said whether or not the machine could run it.
#[test]
fn input_is_read_before_the_library_is_looked_for() {
    let place = Place::new();
    fs::write(place.input().join("data.json"), "{").expect("the place is ours");
    let run = |arguments: &str| {
        let arguments: Vec<String> = arguments.split(' ').map(|argument| place.fill(argument)).collect();
        let output = program(place.folder.path()).env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").args(arguments).output();
        let output = output.expect("qonnx starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, says) in [
        ("eval {artifact} --task coqa --data {in}/data.json", "data.json: line 1"),
        ("eval {artifact} --task perplexity --text {in}/none.txt", "none.txt cannot be read"),
        ("eval {artifact} --task kl --reference {artifact} --text {in}/none.txt", "none.txt cannot be read"),
        ("generate {in} hello", "qonnx.json is missing"),
    ] {
        let (code, stderr) = run(arguments);
        assert!(code == Some(2) && stderr.contains(says), "{arguments}: {code:?}, {stderr}");
    }
    // But CUDA before a model is fetched and hashed for a calibration that could not run.
    for (arguments, says) in [
        ("export no/such-model --method gptq --ep cuda -o {out}/a", "/nowhere/libonnxruntime.so"),
        ("export no/such-model --bits 4 --ep cuda -o {out}/a", "no/such-model"),
    ] {
        let (code, stderr) = run(arguments);
        assert!(code != Some(0) && stderr.contains(says), "{arguments}: {code:?}, {stderr}");
    }
    let (code, stderr) = run("generate {artifact} hello");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/nowhere/libonnxruntime.so") && stderr.contains("run scripts/get-onnxruntime.sh"), "{stderr}");
}
