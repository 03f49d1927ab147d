//! Artifacts in the runtimes of other people, each in its own environment (`scripts/runtime-env.sh`) and behind its own driver
//! (`drivers/`), and the operators that those runtimes take.

mod card;
mod default_form;
mod oldest;
mod portable;
mod probes;
mod transformers_js;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::support::{tiny, tools};

/// Who opens an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runtime {
    /// Stock onnxruntime with its own defaults, in a plain loop.
    Onnxruntime,
    /// One of the versions in scripts/runtimes/oldest.txt, with activations as they are: what they are rounded to otherwise
    /// differs from version to version.
    Oldest(&'static str),
    Genai,
    Optimum,
    OpenVino,
    OpenVinoGenai,
    TransformersJs,
    /// transformers.js in headless Chromium, computing on that device.
    Chromium(Device),
}

/// What a browser computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    Wasm,
    /// By SwiftShader, on the processor: what is placed where is as on a GPU, speeds are not.
    WebGpu,
}

/// What a driver is asked: each prompt alone, and each batch at once.
#[derive(Debug, Serialize)]
struct Job {
    prompts: Vec<Vec<u32>>,
    max_new_tokens: usize,
    eos: Vec<u32>,
    batches: Vec<Batch>,
}

/// Rows made as long as the longest.
#[derive(Debug, Serialize)]
struct Batch {
    side: Side,
    pad: u32,
    rows: Vec<Vec<u32>>,
}

/// Where the padding lies.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Left,
    Right,
}

/// What a driver answers.
#[derive(Debug, Deserialize)]
struct Answer {
    version: String,
    greedy: Said,
    batches: Vec<Said>,
    /// How many nodes of each operator each execution provider runs, where the driver asks for it.
    #[serde(default)]
    nodes: BTreeMap<String, BTreeMap<String, usize>>,
}

/// New tokens of each row, without the end of sequence; or why there are none.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Said {
    Tokens(Vec<Vec<u32>>),
    Refusal { error: String },
}

impl Runtime {
    /// The variable that names the interpreter, and the driver.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Runtime::Onnxruntime => ("QONNX_PYTHON", "run_ort.py"),
            Runtime::Oldest(_) => ("QONNX_RUNTIME_OLDEST", "run_ort.py"),
            Runtime::Genai => ("QONNX_RUNTIME_GENAI", "run_genai.py"),
            Runtime::Optimum => ("QONNX_RUNTIME_OPTIMUM", "run_optimum.py"),
            Runtime::OpenVino => ("QONNX_RUNTIME_OPENVINO", "run_openvino.py"),
            Runtime::OpenVinoGenai => ("QONNX_RUNTIME_OPENVINO", "run_openvino_genai.py"),
            Runtime::TransformersJs => ("QONNX_RUNTIME_NODE", "run_transformers.mjs"),
            Runtime::Chromium(_) => ("QONNX_RUNTIME_NODE", "run_chromium.mjs"),
        }
    }

    /// Whether it is here; as [`tools::has`].
    fn is_here(self) -> bool {
        tools::has(self.parts().0) && (!matches!(self, Runtime::Chromium(_)) || tools::has("QONNX_CHROMIUM"))
    }

    /// Its Python or Node.
    fn interpreter(self) -> PathBuf {
        let variable = self.parts().0;
        let set = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set; run all tests by scripts/test.sh"));
        match self {
            Runtime::Oldest(version) => Path::new(&set).join(version).join("python"),
            _ => PathBuf::from(set),
        }
    }

    /// What it says to each prompt and batch of the job.
    #[track_caller]
    fn greedy(self, artifact: &Path, job: &Job) -> Answer {
        let mut asked = serde_json::to_value(job).expect("a job is JSON");
        asked["artifact"] = artifact.to_str().expect("test folders are UTF-8").into();
        let mut command = limited(&self.interpreter());
        command.arg(tiny::root().join("tests/it/runtimes/drivers").join(self.parts().1));
        command.args(match self {
            Runtime::Oldest(_) => Some("--exact"),
            Runtime::Chromium(Device::Wasm) => Some("wasm"),
            Runtime::Chromium(Device::WebGpu) => Some("webgpu"),
            _ => None,
        });
        let answer = output(command, &asked.to_string());
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{self:?}: {error}\n{answer}"))
    }
}

/// A command that is ended, with status 124, where it hangs.
fn limited(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "400"]).arg(program);
    command
}

/// What a command that reads `stdin` prints.
///
/// # Panics
/// Where it fails, with what it said.
#[track_caller]
fn output(mut command: Command, stdin: &str) -> String {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    child.stdin.take().expect("it is piped").write_all(stdin.as_bytes()).expect("it reads its input");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}
