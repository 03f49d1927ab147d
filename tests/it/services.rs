//! The study's services: what Dockerfile, docker-compose.yaml and run.sh say hangs together, every RUN is a script that works
//! without Docker, every service's command is one that the binary takes. `scripts/prove-layers.sh` plays the layers for real.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use globset::Glob;
use serde::Deserialize;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[track_caller]
fn expect_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", text(&output.stdout), text(&output.stderr));
}

/// Instruction and rest of each line of the Dockerfile.
fn dockerfile() -> Vec<(String, String)> {
    let text = read("Dockerfile");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("instruction and rest")).collect()
}

/// The rests of the lines with this instruction.
fn rests(instruction: &str) -> Vec<String> {
    dockerfile().into_iter().filter(|(name, _)| name == instruction).map(|(_, rest)| rest).collect()
}

/// Whether Docker is not sent `path`, one of the top level or below it.
fn ignored(path: &str) -> bool {
    let patterns = read(".dockerignore");
    let matches = |pattern: &str| Glob::new(pattern).expect("a pattern").compile_matcher().is_match(path);
    patterns.lines().any(|pattern| matches(pattern) || matches(&format!("{pattern}/**")))
}

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
    volumes: BTreeMap<String, Option<()>>,
}

#[derive(Deserialize)]
struct Service {
    build: String,
    user: String,
    command: Vec<String>,
    environment: Vec<String>,
    volumes: Vec<String>,
    deploy: serde_json::Value,
}

fn compose() -> Compose {
    serde_saphyr::from_str(&read("docker-compose.yaml")).unwrap_or_else(|error| panic!("docker-compose.yaml: {error}"))
}

fn run_sh(arguments: &[&str], environment: &[(&str, &str)], folder: &Path) -> Output {
    let mut command = Command::new(folder.join("run.sh"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder).envs(environment.iter().copied());
    command.output().expect("run.sh starts")
}

#[test]
fn the_image_is_built_by_scripts_from_files_that_docker_is_sent() {
    let bases = rests("FROM");
    assert!(bases.last().is_some_and(|base| base.starts_with("nvidia/cuda:")), "{bases:?}");
    let stages: Vec<&str> = bases.iter().map(|base| base.split_once(" AS ").expect("a stage's name").1).collect();
    for run in rests("RUN") {
        let script = run.split(' ').next().expect("a command");
        assert!(script.starts_with("scripts/"), "RUN {run}: each layer is one script");
        let mode = fs::metadata(Path::new(ROOT).join(script)).unwrap_or_else(|error| panic!("{script}: {error}")).permissions();
        assert_eq!(mode.mode() & 0o111, 0o111, "{script} must be executable");
    }
    for copy in rests("COPY") {
        let words: Vec<&str> = copy.split(' ').collect();
        let (sources, _target) = words.split_at(words.len() - 1);
        if let Some(stage) = sources[0].strip_prefix("--from=") {
            assert!(stages.contains(&stage), "COPY {copy}: no stage {stage}");
            continue;
        }
        for source in sources {
            assert!(Path::new(ROOT).join(source).exists(), "COPY {copy}: {source} does not exist");
            assert!(*source == "." || !ignored(source), "COPY {copy}: {source} is in .dockerignore");
        }
    }
}

#[test]
fn a_layers_script_is_copied_before_it_runs() {
    let mut there: Vec<String> = Vec::new();
    for (instruction, rest) in dockerfile() {
        match instruction.as_str() {
            "FROM" => there.clear(),
            "COPY" => there.extend(rest.split(' ').map(str::to_owned)),
            "RUN" => {
                let script = rest.split(' ').next().expect("a command");
                assert!(there.iter().any(|name| name == script || name == "."), "RUN {rest}: {script} was not copied");
            }
            _ => (),
        }
    }
    // Nothing that was only built with is in the image, and it does not run as root.
    assert_eq!(rests("USER"), ["qonnx"]);
}

#[test]
fn secrets_and_what_is_big_stay_out_of_the_image_and_what_is_compiled_in_does_not() {
    for kept_out in [".env", ".git", ".git/config", "target", "target/release/qonnx", "results", "artifacts", ".venv", ".bare"] {
        assert!(ignored(kept_out), "{kept_out} is sent to Docker");
    }
    for needed in ["Cargo.toml", "Cargo.lock", "src", "src/main.rs", "graphs", "calibration", "fixtures", "benches", "scripts"] {
        assert!(!ignored(needed), "{needed} is needed to build");
    }
    let git = read(".gitignore");
    for kept_out in ["/.env", "/.bare/", "/target/", "/artifacts/"] {
        assert!(git.lines().any(|line| line == kept_out), "{kept_out} is not in .gitignore");
    }
}

#[test]
fn every_service_has_the_image_the_gpu_and_the_two_volumes() {
    let compose = compose();
    let names: Vec<&str> = compose.services.keys().map(String::as_str).collect();
    assert_eq!(names, ["baseline", "bnb-4bit", "bnb-8bit", "figures", "full-run", "quant", "quick"]);
    let hub = rests("ENV").iter().find_map(|set| set.strip_prefix("HF_HOME=").map(str::to_owned)).expect("HF_HOME is set");
    let folder = rests("WORKDIR").pop().expect("a folder");
    for (name, service) in &compose.services {
        assert_eq!(service.build, ".", "{name}");
        assert!(
            service.user.starts_with("${QONNX_UID:-") && !service.user.starts_with("${QONNX_UID:-0"),
            "{name}: {}",
            service.user
        );
        assert!(service.environment.iter().any(|variable| variable == "HF_TOKEN"), "{name}");
        assert_eq!(service.volumes, [format!("hub:{hub}"), format!("./results:{folder}/results")], "{name}");
        let device = service.deploy.pointer("/resources/reservations/devices/0").unwrap_or_else(|| panic!("{name} has no GPU"));
        assert_eq!(device["driver"], "nvidia", "{name}");
        assert_eq!(device["capabilities"][0], "gpu", "{name}");
    }
    assert!(compose.volumes.contains_key("hub"));
    let declared: Vec<String> = serde_json::from_str(&rests("VOLUME")[0]).expect("a list");
    assert_eq!(declared, [hub, format!("{folder}/results")]);
}

#[test]
fn run_sh_runs_what_docker_compose_runs() {
    for (name, service) in compose().services {
        let output = run_sh(&["--print", &name], &[], Path::new(ROOT));
        expect_code(&output, 0);
        assert_eq!(text(&output.stdout).trim_end(), service.command.join(" "), "{name}");
        let output = run_sh(&["--print", &name, "--", "--ep", "cuda"], &[], Path::new(ROOT));
        assert_eq!(text(&output.stdout).trim_end(), format!("{} --ep cuda", service.command.join(" ")), "{name}");
    }
}

#[test]
fn the_binary_takes_every_services_command() {
    let mut checked = 0;
    for (name, service) in compose().services {
        let [program, arguments @ ..] = &service.command[..] else { panic!("{name} has no command") };
        if program == "bash" {
            continue;
        }
        assert_eq!(program, "qonnx", "{name}");
        let help = Command::new(env!("CARGO_BIN_EXE_qonnx")).args(arguments).arg("--help").output().expect("qonnx starts");
        assert_eq!(help.status.code(), Some(0), "{name}: {arguments:?}: {}", text(&help.stderr));
        for file in arguments.iter().filter(|argument| argument.ends_with(".toml")) {
            assert!(Path::new(ROOT).join(file).is_file(), "{name}: {file} does not exist");
            assert!(
                !ignored(file) && rests("COPY").iter().any(|copy| file.starts_with(copy.split(' ').next().expect("a source")))
            );
        }
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn every_script_of_a_layer_explains_itself_and_refuses_what_it_does_not_know() {
    for script in ["install-packages.sh", "install-rust.sh", "install-qonnx.sh", "make-user.sh", "get-onnxruntime.sh"] {
        let run = |argument: &str| {
            let path = Path::new(ROOT).join("scripts").join(script);
            Command::new(path)
                .arg(argument)
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", "/nowhere")
                .output()
                .expect("starts")
        };
        let help = run("--help");
        expect_code(&help, 0);
        assert!(text(&help.stdout).contains(&format!("scripts/{script}")), "{script}: {}", text(&help.stdout));
        let unknown = run("--nosuch");
        expect_code(&unknown, 2);
        assert!(text(&unknown.stderr).contains("--nosuch"), "{script}: {}", text(&unknown.stderr));
    }
}

#[test]
fn run_sh_says_what_is_wrong() {
    let root = Path::new(ROOT);
    let help = run_sh(&["--help"], &[], root);
    expect_code(&help, 0);
    let help = text(&help.stdout);
    for name in compose().services.keys() {
        assert!(help.contains(&format!("\n  {name} ")), "{name} is not in --help:\n{help}");
    }
    assert!(help.contains("./run.sh --bare quick"), "{help}");
    for (arguments, expected) in [
        (&["quik"][..], "unknown service 'quik'; expected quick,"),
        (&["--naked", "quick"][..], "unknown flag '--naked'"),
        (&["--bare"][..], "name a service"),
    ] {
        let output = run_sh(arguments, &[], root);
        expect_code(&output, 2);
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

/// A folder with what run.sh needs and a PATH on which stand-ins tell what they were called with.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["run.sh", "scripts", "Cargo.toml", "benches"] {
            symlink_or_copy(&Path::new(ROOT).join(name), &folder.path().join(name));
        }
        fs::create_dir(folder.path().join("bin")).expect("a folder");
        Machine { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.path().join("bin").display());
        run_sh(arguments, &[&[("PATH", path.as_str())], environment].concat(), self.path())
    }
}

/// run.sh and the scripts work in the folder they lie in, so they are copied and the rest is linked.
fn symlink_or_copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).expect("copied");
    } else if from.ends_with("scripts") {
        fs::create_dir(to).expect("a folder");
        for entry in
            fs::read_dir(from).expect("a folder").flatten().filter(|entry| entry.path().extension() == Some("sh".as_ref()))
        {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    } else {
        symlink(from, to).expect("linked");
    }
}

#[test]
fn a_bare_run_takes_secrets_from_env_and_a_failure_stops_the_services_after_it() {
    let machine = Machine::new();
    let log = machine.path().join("log");
    let qonnx =
        machine.program("stand-in", &format!("echo \"$* $HF_TOKEN $HF_ENDPOINT\" >> {}; [ \"$1\" != run ]", log.display()));
    fs::write(machine.path().join(".env"), "# mine\nHF_TOKEN=hf_from_file\nHF_ENDPOINT=\n").expect("written");
    let qonnx = qonnx.to_str().expect("UTF-8");
    let output = machine.run(&["--bare", "quick", "figures"], &[("QONNX", qonnx)]);
    expect_code(&output, 0);
    let output = machine.run(&["--bare", "figures", "baseline", "quick"], &[("QONNX", qonnx), ("HF_TOKEN", "hf_from_shell")]);
    expect_code(&output, 1);
    assert_eq!(
        fs::read_to_string(log).expect("called"),
        "sweep benches/sweeps/quick.toml --results results/quick --report hf_from_file \nreport results/ hf_from_file \n\
         report results/ hf_from_shell \nrun fp16_baseline --model meta-llama/Llama-3.2-1B --ep cuda \
         --bench-batch 1,4,16 --bench-prompt 128,512 --bench-gen 128 hf_from_shell \n"
    );
    assert!(machine.path().join("results").is_dir());

    fs::write(machine.path().join(".env"), "hf_secret_without_a_name\n").expect("written");
    let output = machine.run(&["--bare", "figures"], &[("QONNX", qonnx)]);
    expect_code(&output, 1);
    let said = text(&output.stderr);
    assert!(said.contains(".env: expected NAME=value") && !said.contains("without_a_name"), "{said}");
}

/// The quickest service with the real program: records and report are there.
#[test]
fn quick_leaves_a_report_where_its_records_are() {
    let machine = Machine::new();
    symlink(Path::new(ROOT).join("fixtures"), machine.path().join("fixtures")).expect("linked");
    let library = std::env::var("ORT_DYLIB_PATH").unwrap_or_default();
    let home = std::env::var("HOME").unwrap_or_default();
    let environment = [("QONNX", env!("CARGO_BIN_EXE_qonnx")), ("ORT_DYLIB_PATH", library.as_str()), ("HOME", home.as_str())];
    let output = machine.run(&["--bare", "quick", "--", "--no-bench", "--limit", "60"], &environment);
    expect_code(&output, 0);
    let quick = machine.path().join("results/quick");
    for name in ["int4_rtn_g32_results.json", "REPORT.md", "report.html", "report.pdf"] {
        assert!(quick.join(name).is_file(), "{name}");
    }
    assert!(text(&output.stdout).contains("% of the baseline's 13.7 MB"), "{}", text(&output.stdout));
    // What `figures` reports on is not there, and it says where something is.
    let output = machine.run(&["--bare", "figures"], &environment);
    expect_code(&output, 2);
    assert!(text(&output.stderr).contains("there are records in results/quick"), "{}", text(&output.stderr));
}

/// The bare way in order, with stand-ins for what comes from the network: apt-get, curl, pip's wheel and cargo's build.
#[test]
fn a_bare_run_installs_what_is_missing_in_the_dockerfiles_order() {
    let machine = Machine::new();
    let log = machine.path().join("log");
    let note = format!("echo \"$(basename $0) $*\" >> {}", log.display());
    machine.program("dpkg-query", "echo installed");
    machine.program("apt-get", &note);
    machine.program("c++", "exit 0");
    machine.program("cargo", &format!("if [ \"$1\" = --version ]; then echo 'cargo 1.95.0 (x)'; else {note}; mkdir -p .bare/bin; cp bin/stand-in .bare/bin/qonnx; fi"));
    machine.program("stand-in", &note);
    let library = machine.path().join("libonnxruntime.so");
    fs::write(&library, "").expect("written");
    let output = machine.run(&["--bare", "figures"], &[("ORT_DYLIB_PATH", library.to_str().expect("UTF-8"))]);
    expect_code(&output, 0);
    let prefix = fs::canonicalize(machine.path().join(".bare")).expect("made");
    let expected = format!(
        "cargo install --quiet --locked --force --no-track --path . --root {}\nqonnx report results/\n",
        prefix.display()
    );
    assert_eq!(fs::read_to_string(&log).expect("called"), expected);

    // A package is missing, and the user is not root: what to type.
    machine.program("dpkg-query", "case \"$*\" in *curl*) echo config-files ;; *) echo installed ;; esac");
    machine.program("id", "echo 1000");
    let output = machine.run(&["--bare", "figures"], &[]);
    expect_code(&output, 1);
    assert!(text(&output.stderr).contains("missing packages: curl; run: sudo apt-get install curl"), "{}", text(&output.stderr));
}

#[test]
fn an_installer_that_is_not_the_pinned_file_is_not_run() {
    let machine = Machine::new();
    let ran = machine.path().join("ran");
    // curl leaves a program where it was told to.
    machine.program(
        "curl",
        &format!("while [ \"$1\" != --output ]; do shift; done; printf '#!/bin/sh\\ntouch {}\\n' > \"$2\"", ran.display()),
    );
    let path = format!("{}:/usr/bin:/bin", machine.path().join("bin").display());
    let mut command = Command::new(machine.path().join("scripts/install-rust.sh"));
    let output = command.env_clear().env("PATH", path).env("HOME", machine.path()).output().expect("starts");
    expect_code(&output, 1);
    assert!(text(&output.stderr).contains("not the file this script knows"), "{}", text(&output.stderr));
    assert!(!ran.exists(), "the downloaded program was run");
}

#[test]
fn toolchain_and_manifest_agree() {
    let script = read("scripts/install-rust.sh");
    let value = |name: &str| {
        let line = script.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        line.split(' ').next().expect("a value").to_owned()
    };
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    assert_eq!(manifest["package"]["rust-version"].as_str(), Some(value("least=").as_str()));
}
