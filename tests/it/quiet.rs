//! What each command does to the world beside its output: no connection to anywhere, no file outside the folders it was given.
//!
//! Every command runs, on local files and without HF_HUB_OFFLINE, under strace with an empty home, in a network namespace of its own where the system gives one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use regex::Regex;
use tempfile::TempDir;

use crate::support::tools;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");

/// Calls that reach others, and calls that change files.
const TRACED: &str = "trace=socket,connect,sendto,sendmsg,sendmmsg,bind,listen,open,openat,openat2,creat,mkdir,mkdirat,rename,\
    renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,truncate,mknod,mknodat,chmod,fchmodat";

/// A folder with everything that commands may write to, and a home that they may not.
struct Place {
    folder: TempDir,
}

/// What one command did that it should not have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Loud {
    connections: Vec<String>,
    files: Vec<String>,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        for folder in ["home", "tmp", "out"] {
            fs::create_dir(place.at(folder)).expect("the place is ours");
        }
        let text = fs::read_to_string(format!("{MODEL}/perplexity.txt")).expect("the fixture is there");
        fs::write(place.at("text.txt"), text).expect("the place is ours");
        let set = "licence = \"x\"\nform = \"text\"\nsamples = 16\nlength = 64\n[source]\nfile = \"text.txt\"\n";
        fs::write(place.at("set.toml"), set).expect("the place is ours");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `qonnx` with the words of `line`, where `@` is the place and `%` the model; returns what was loud about it.
    #[track_caller]
    fn run(&self, line: &str) -> Loud {
        let log = self.at("strace.log");
        let root = self.folder.path().display().to_string();
        let words = line.split(' ').map(|word| word.replace('@', &root).replace('%', MODEL));
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-qq", "--seccomp-bpf", "-s", "4096", "-e", TRACED, "-o"]).arg(&log);
        if *HAS_NAMESPACES {
            command.args(["unshare", "-rn"]);
        }
        command.arg(env!("CARGO_BIN_EXE_qonnx")).args(words).current_dir(self.at("out"));
        command.env("HOME", self.at("home")).env("TMPDIR", self.at("tmp")).stdin(Stdio::null());
        command.env("QONNX_CACHE", libraries());
        // Nothing forbids the hub: with local files there is nothing to ask it.
        for variable in
            ["HF_HUB_OFFLINE", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME"]
        {
            command.env_remove(variable);
        }
        let output = command.output().expect("strace starts; install it (Debian: apt install strace)");
        assert!(output.status.success(), "qonnx {line}: {}", String::from_utf8_lossy(&output.stderr));
        loud(&fs::read_to_string(&log).expect("strace wrote its log"), &[self.at("out"), self.at("tmp")])
    }
}

/// Where ONNX Runtime lies, which the empty home no longer says.
fn libraries() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").unwrap_or_else(|| set("HOME").unwrap_or_default().join(".cache")).join("qonnx");
    set("QONNX_CACHE").unwrap_or_else(cache)
}

/// Whether a process may have a network of its own here.
static HAS_NAMESPACES: LazyLock<bool> = LazyLock::new(|| {
    let tried = Command::new("unshare").args(["-rn", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
});

/// Reads a log of strace: connections, and changes of files that lie in none of `allowed`.
fn loud(log: &str, allowed: &[PathBuf]) -> Loud {
    let call = Regex::new(r"^\d+ +(\w+)\((.*)$").expect("a valid pattern");
    let mut loud = Loud::default();
    // A call that another thread interrupts in the log is whole in its first half: its arguments.
    for line in log.lines() {
        let Some(found) = call.captures(line) else { continue };
        let (name, arguments) = (&found[1], &found[2]);
        match name {
            "socket" | "connect" | "sendto" | "sendmsg" | "sendmmsg" | "bind" | "listen" => {
                loud.connections.push(line.to_owned())
            }
            "open" | "openat" | "openat2"
                if !["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| arguments.contains(flag)) => {}
            _ => {
                let outside = paths(arguments).into_iter().filter(|path| !is_allowed(path, allowed));
                loud.files.extend(outside.map(|path| path.display().to_string()));
            }
        }
    }
    loud
}

/// The paths of a call: each quoted one, in the folder that its descriptor is.
fn paths(arguments: &str) -> Vec<PathBuf> {
    let path = Regex::new(r#"(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)""#).expect("a valid pattern");
    path.captures_iter(arguments)
        .map(|found| Path::new(found.get(1).map_or("/", |folder| folder.as_str())).join(&found[2]))
        .collect()
}

/// Devices, and the namespace's own set-up below /proc, are nobody's files.
fn is_allowed(path: &Path, allowed: &[PathBuf]) -> bool {
    let is_device = path.starts_with("/dev") && !path.starts_with("/dev/shm");
    is_device || path.starts_with("/proc") || allowed.iter().any(|folder| path.starts_with(folder))
}

#[test]
fn no_command_on_local_files_connects_anywhere_or_writes_beside_its_output() {
    if !tools::finds("strace") {
        return;
    }
    let place = Place::new();
    let lines = [
        "plan % --bits 4",
        "export % --bits 16 --dtype f32 -o @/out/whole",
        "export % --bits 4 --dtype f32 -o @/out/int4",
        "export % --bits 4 --method gptq --dtype f32 --calibration @/set.toml --save-stats @/out/stats -o @/out/gptq",
        "generate @/out/int4 Who --max-new-tokens 2",
        "eval @/out/int4 --task coqa --data %/coqa-mini.json --limit 2 --predictions @/out/answers.jsonl",
        "eval @/out/int4 --task perplexity --text @/text.txt --windows 1",
        "eval @/out/int4 --task kl --reference @/out/whole --reference-cache @/out/kl --text @/text.txt --windows 1",
        "bench @/out/int4 --batch 1 --prompt 8 --gen 2 --csv @/out/bench.csv",
        "verify @/out/int4",
        "inspect @/out/int4",
        "doctor",
        "run fp16_baseline --results @/out/results --model % --coqa %/coqa-mini.json --limit 4 --no-bench",
        "run int4_rtn_g32 --results @/out/results --model % --coqa %/coqa-mini.json --limit 4 --no-bench",
        "compare @/out/results/fp16_baseline.jsonl @/out/results/int4_rtn_g32.jsonl",
        "report @/out/results -o @/out/report",
    ];
    for line in lines {
        assert_eq!(place.run(line), Loud::default(), "qonnx {line}");
    }
    for empty in ["home", "tmp"] {
        let left: Vec<_> = fs::read_dir(place.at(empty)).expect("it was made").flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_is_loud_is_seen() {
    if !tools::finds("strace") {
        return;
    }
    let log = r#"7  openat(AT_FDCWD</out>, "a", O_RDONLY|O_CLOEXEC) = 3</out/a>
7  openat(AT_FDCWD</out>, "a", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 3</out/a>
7  openat(AT_FDCWD</out>, "/home/x/.cache/db", O_RDWR|O_CREAT, 0644 <unfinished ...>
7  unlinkat(5</home/y>, "z", 0) = 0
7  rename("/out/a", "/etc/b") = 0
7  openat(AT_FDCWD</out>, "/dev/null", O_RDWR) = 3
8  connect(4<UDP:[1]>, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.1")}, 16) = 0"#;
    let found = loud(log, &[PathBuf::from("/out")]);
    assert_eq!(
        found.files,
        ["/home/x/.cache/db", "/home/y/z", "/etc/b"].map(PathBuf::from).map(|path| path.display().to_string())
    );
    assert_eq!(found.connections.len(), 1);
}
