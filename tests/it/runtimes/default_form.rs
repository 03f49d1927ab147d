//! An artifact as `qonnx export` writes it when nothing is asked for, in each runtime: its tokens are those of this program.

use std::path::Path;

use qonnx::artifact::plan::RecipeFlags;
use qonnx::eval::coqa::Dataset;
use qonnx::generate::{Generate, GenerateOptions};
use qonnx::recipe::FormatName;
use qonnx::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, WeightKernels};
use qonnx::tensor::DType;
use serde_json::{Value, json};

use super::{Answer, Batch, Job, Runtime, Said, Side, limited, output};
use crate::support::{tiny, tools};

pub const NEW_TOKENS: usize = 32;
/// Stories of the fixture, and how many tokens of each are a prompt. No token that the model goes on with has a near rival, at 4 bits and
/// without: kernels that round activations to 8 bits make much of the last bit of a sum.
const PROMPTS: [(usize, usize); 8] = [(0, 23), (2, 57), (4, 91), (6, 125), (17, 40), (20, 91), (24, 23), (15, 142)];
/// Rows of a batch: the first prompts, of unequal lengths.
const ROWS: usize = 4;
/// End of sequence of the embedded model, and what its batches are padded with.
const EOS: u32 = 1;

/// What a runtime does with prompts or with a batch.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    /// This program's tokens.
    Same,
    /// A message that has this in it.
    Refused(&'static str),
}
use Outcome::{Refused, Same};

/// What is asked of a runtime: prompts one by one, a batch padded on the left, a batch padded on the right.
pub struct Expected {
    pub alone: Outcome,
    pub left: Outcome,
    pub right: Outcome,
}

/// The pipelines of Hugging Face take rows that are padded on the left, genai's on the right: a driver refuses the other.
pub const NO_RIGHT: Outcome = Refused("padded on the left");
pub const NO_LEFT: Outcome = Refused("padded on the right");

fn forms() -> [(&'static str, RecipeFlags); 2] {
    [("int4", tiny::bits(FormatName::Int4)), ("f32", tiny::bits(FormatName::F16))]
}

/// Exports the embedded model with f32 activations.
pub fn export(flags: RecipeFlags, artifact: &Path) {
    tiny::export(&tiny::request(&tiny::model(), flags, DType::F32), artifact);
}

fn engine(artifact: &Path, weights: WeightKernels) -> Engine {
    let options = EngineOptions { provider: ExecutionProvider::Cpu, threads: None, weights, launch: Launch::Replayed };
    Engine::load(artifact, &options).unwrap_or_else(|error| panic!("{error}"))
}

/// [`PROMPTS`], one by one and the first of them as batches.
pub fn job(artifact: &Path) -> Job {
    let engine = engine(artifact, WeightKernels::Fused);
    let data = qonnx::eval::coqa::load(&tiny::model().join("coqa-mini.json")).expect("the fixture is CoQA");
    let Dataset::Conversations(told) = data else { panic!("the fixture is stories with questions") };
    let encode = |text| engine.encode(text).unwrap_or_else(|error| panic!("{error}"));
    let prompts = PROMPTS.map(|(story, tokens)| encode(&told[story].story)[..tokens].to_vec()).to_vec();
    let batch = |side| Batch { side, pad: EOS, rows: prompts[..ROWS].to_vec() };
    Job { max_new_tokens: NEW_TOKENS, eos: vec![EOS], batches: vec![batch(Side::Left), batch(Side::Right)], prompts }
}

/// This program's tokens; with [`WeightKernels::FusedFast`] by the kernels that other programs get.
pub fn ours(artifact: &Path, weights: WeightKernels, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let options = GenerateOptions { max_new_tokens: NEW_TOKENS, stop: Vec::new() };
    let completions = engine(artifact, weights).generate(prompts, &options, &mut |_| {});
    let completions = completions.unwrap_or_else(|error| panic!("{error}"));
    completions.into_iter().map(|completion| completion.ids.into_iter().filter(|&id| id != EOS).collect()).collect()
}

#[track_caller]
fn compare(what: &str, said: &Said, ours: &[Vec<u32>], expected: Outcome) {
    match (said, expected) {
        (Said::Tokens(theirs), Same) => assert_eq!(theirs, ours, "{what}"),
        (Said::Refusal { error }, Refused(part)) => assert!(error.contains(part), "{what}: {error}"),
        _ => panic!("{what}: {said:?}, expected {expected:?}"),
    }
}

#[track_caller]
pub fn check_answer(what: &str, answer: &Answer, ours: &[Vec<u32>], expected: &Expected) {
    compare(&format!("{what}, alone"), &answer.greedy, ours, expected.alone);
    let [left, right] = &answer.batches[..] else { panic!("{what}: {} answers to two batches", answer.batches.len()) };
    compare(&format!("{what}, padded on the left"), left, &ours[..ROWS], expected.left);
    compare(&format!("{what}, padded on the right"), right, &ours[..ROWS], expected.right);
}

/// Both forms in a runtime that computes by kernels of that kind, after `prepare` did something to the artifact.
#[track_caller]
fn check(runtime: Runtime, weights: WeightKernels, prepare: fn(&Path), expected: &Expected) {
    if !runtime.is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, flags) in forms() {
        let artifact = folder.path().join(name);
        export(flags, &artifact);
        let job = job(&artifact);
        let ours = ours(&artifact, weights, &job.prompts);
        assert!(ours.iter().all(|ids| ids.len() == NEW_TOKENS), "{name}: too little is compared: {ours:?}");
        prepare(&artifact);
        let answer = runtime.greedy(&artifact, &job);
        check_answer(&format!("{name} in {runtime:?} {}", answer.version), &answer, &ours, expected);
    }
}

fn as_it_is(_: &Path) {}

#[test]
fn stock_onnxruntime_answers_as_this_program() {
    check(Runtime::Onnxruntime, WeightKernels::FusedFast, as_it_is, &Expected { alone: Same, left: Same, right: Same });
}

#[test]
fn optimum_answers_as_this_program() {
    check(Runtime::Optimum, WeightKernels::FusedFast, as_it_is, &Expected { alone: Same, left: Same, right: NO_RIGHT });
}

/// OpenVINO's GroupQueryAttention is for one sequence.
#[test]
fn openvino_answers_as_this_program_without_batches() {
    let one = Refused("the shape of input data (4) conflicts with the reshape pattern (1)");
    check(Runtime::OpenVino, WeightKernels::Fused, as_it_is, &Expected { alone: Same, left: one, right: one });
}

#[test]
fn openvinos_pipeline_has_no_group_query_attention() {
    let none = Refused("Cannot create GroupQueryAttention layer");
    check(Runtime::OpenVinoGenai, WeightKernels::Fused, as_it_is, &Expected { alone: none, left: none, right: none });
}

#[test]
fn genai_answers_as_this_program() {
    let expected = Expected { alone: Same, left: NO_LEFT, right: Same };
    check(Runtime::Genai, WeightKernels::FusedFast, as_it_is, &expected);
}

#[test]
fn transformers_js_wants_folders_of_its_own() {
    let none = Refused("onnx/model.onnx");
    check(Runtime::TransformersJs, WeightKernels::FusedFast, as_it_is, &Expected { alone: none, left: none, right: none });
}

#[test]
fn transformers_js_in_its_folders_answers_as_this_program() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let expected = Expected { alone: Same, left: Same, right: Same };
    check(Runtime::TransformersJs, WeightKernels::FusedFast, lay_out_for_transformers_js, &expected);
}

/// The files under the names that transformers.js looks for.
const RENAME: &str = "
import onnx, os, sys
folder = sys.argv[1]
os.mkdir(f'{folder}/onnx')
model = onnx.load(f'{folder}/model.onnx', load_external_data=False)
for tensor in model.graph.initializer:
    for entry in tensor.external_data:
        entry.value = 'model.onnx_data' if entry.key == 'location' else entry.value
open(f'{folder}/onnx/model.onnx', 'wb').write(model.SerializeToString())
os.rename(f'{folder}/model.onnx.data', f'{folder}/onnx/model.onnx_data')
";

fn lay_out_for_transformers_js(artifact: &Path) {
    let mut command = limited(&Runtime::Onnxruntime.interpreter());
    command.args(["-c", RENAME]).arg(artifact);
    output(command, "");
    let path = artifact.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("it is there")).expect("it is JSON");
    config["transformers.js_config"] = json!({"dtype": "fp32", "use_external_data_format": {"model.onnx": 1}});
    std::fs::write(path, config.to_string()).expect("the folder is ours");
}
