//! Every family of models gives the logits of Hugging Face transformers, of a whole prompt and token by token, and what its file
//! says of scales, rotations and stages is true.
//!
//! Goldens come from tests/goldens/make/golden_families.py.

mod work;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ndarray::{Array2, ArrayD, Axis, Ix2};
use qonnx::calib::{ActivationStream, Both, Head, StreamOptions, TooFewTokens, Weight};
use qonnx::checkpoint::Checkpoint;
use qonnx::generate::Score;
use qonnx::model::{Architecture, ModelRotation, RotationOptions, Smooth, architectures};
use qonnx::quant::RotationKind;
use qonnx::recipe::FormatName;
use qonnx::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, WeightKernels};
use qonnx::tensor::{DType, convert};
use serde_json::Value;

use crate::support::{made_up, python, tiny, tools};

/// Largest difference of a logit: f32 on the CPU, logits of size 10.
const BAR: f32 = 2e-3;

fn cases() -> Vec<Value> {
    let text = std::fs::read(tiny::root().join("tests/goldens/families.json")).expect("the golden is committed");
    serde_json::from_slice(&text).expect("the golden is JSON")
}

fn rows(case: &Value, key: &str) -> Vec<Vec<f32>> {
    serde_json::from_value(case[key].clone()).expect("logits are numbers")
}

fn ids(case: &Value) -> Vec<u32> {
    serde_json::from_value(case["ids"].clone()).expect("ids are numbers")
}

fn difference(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().flatten().zip(theirs.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The f32 artifact of a case, in a folder of its own.
fn artifact(case: &Value, place: &Path) -> PathBuf {
    let (checkpoint, artifact) = (place.join("checkpoint"), place.join("artifact"));
    made_up::write_checkpoint(&checkpoint, &case["config"], DType::BF16);
    tiny::export(&tiny::request(&checkpoint, tiny::bits(FormatName::F16), DType::F32), &artifact);
    artifact
}

fn engine(artifact: &Path) -> Engine {
    let options = EngineOptions {
        provider: ExecutionProvider::Cpu,
        threads: Some(1),
        weights: WeightKernels::Fused,
        launch: Launch::Replayed,
    };
    Engine::load(artifact, &options).unwrap_or_else(|error| panic!("{error}"))
}

fn logits(engine: &mut Engine, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let collect =
        &mut |_: usize, chunk: ndarray::ArrayView2<'_, f32>| rows.extend(chunk.rows().into_iter().map(|row| row.to_vec()));
    engine.logits(ids, collect).unwrap_or_else(|error| panic!("{error}"));
    rows
}

/// The artifact in stock onnxruntime, a token at a time, keys and values handed on.
fn step_by_step(artifact: &Path, ids: &[u32]) -> Vec<Vec<f32>> {
    let script = tiny::root().join("tests/it/families/step_by_step.py");
    let mut child = python::python().arg(script).arg(artifact).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(ids).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the script says why on stderr");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

#[test]
fn every_family_gives_the_logits_of_transformers_in_one_pass_and_token_by_token() {
    let cases = cases();
    let mut known: Vec<&str> = cases.iter().filter_map(|case| case["config"]["architectures"][0].as_str()).collect();
    known.dedup();
    assert_eq!(known, architectures(), "each family has its cases");
    for case in &cases {
        let (place, ids) = (tempfile::tempdir().unwrap(), ids(case));
        let artifact = artifact(case, place.path());
        let positions: Vec<usize> = serde_json::from_value(case["positions"].clone()).expect("positions are numbers");
        let picked = |rows: Vec<Vec<f32>>| positions.iter().map(|&position| rows[position].clone()).collect::<Vec<_>>();
        let whole = difference(&picked(logits(&mut engine(&artifact), &ids)), &rows(case, "prefill"));
        println!("{}: prefill {whole:.1e}", case["name"]);
        assert!(whole < BAR, "{}: logits differ by {whole}", case["name"]);
        if tools::has("QONNX_PYTHON") {
            let steps = difference(&picked(step_by_step(&artifact, &ids)), &rows(case, "steps"));
            println!("{}: steps {steps:.1e}", case["name"]);
            assert!(steps < BAR, "{}, token by token: logits differ by {steps}", case["name"]);
        }
    }
}

/// A checkpoint's weights in f32.
struct Model {
    architecture: Architecture,
    weights: BTreeMap<String, ArrayD<f32>>,
    /// What a rotated model's tied head multiplies by first.
    head_matrix: Option<Array2<f32>>,
}

impl Model {
    fn read(case: &Value, place: &Path) -> Model {
        let checkpoint = place.join("checkpoint");
        let architecture = Architecture::from_value(&case["config"]).unwrap_or_else(|error| panic!("{error}"));
        let opened = Checkpoint::open(&checkpoint).unwrap();
        let read = |name: &str, shape: &[usize]| {
            let (view, mut values) = (opened.tensor(name).unwrap(), vec![0f32; shape.iter().product()]);
            convert::decode(view.dtype, view.bytes, &mut values).unwrap();
            ArrayD::from_shape_vec(shape, values).unwrap()
        };
        let tensors = architecture.expected_tensors().unwrap();
        let weights = tensors.into_iter().map(|tensor| (tensor.name.clone(), read(&tensor.name, &tensor.shape))).collect();
        Model { architecture, weights, head_matrix: None }
    }

    fn matrix(&self, name: &str) -> Array2<f32> {
        self.weights[name].clone().into_dimensionality::<Ix2>().expect("a matrix")
    }

    fn vector(&self, name: &str) -> Vec<f32> {
        self.weights[name].iter().copied().collect()
    }

    /// Logits at every position, through the stages in turn.
    fn logits(&self, ids: &[u32]) -> Vec<Vec<f32>> {
        let options = StreamOptions {
            provider: ExecutionProvider::Cpu,
            threads: Some(1),
            reference: false,
            batch_tokens: None,
            scratch: std::env::temp_dir(),
            too_few_tokens: TooFewTokens::Allow,
            artifact: DType::F32,
        };
        let table = self.matrix("model.embed_tokens.weight");
        let mut embedding = |id: u32, row: &mut [f32]| row.copy_from_slice(&table.row(id as usize).to_vec());
        let observe = Box::new(|_| ControlFlow::Continue(()));
        let mut stream = ActivationStream::start(&self.architecture, &options, &[ids.to_vec()], &mut embedding, observe).unwrap();
        while !stream.wanted().is_empty() {
            let weights: Vec<Weight<'_>> =
                stream.wanted().iter().map(|wanted| Weight::same(self.weights[&wanted.name].view())).collect();
            stream.advance(&weights).unwrap();
        }
        let head = if self.architecture.tie_word_embeddings { table } else { self.matrix("lm_head.weight") };
        let matrix = self.head_matrix.as_ref().map(|matrix| Both::same(matrix.view()));
        let mut rows = Vec::new();
        let visit =
            &mut |logits: qonnx::calib::Logits<'_>| rows.extend(logits.quantized.rows().into_iter().map(|row| row.to_vec()));
        stream.logits(&Head { table: Both::same(head.view()), matrix }, visit).unwrap();
        rows
    }

    /// The same model in a turned basis.
    fn rotated(&self, kind: RotationKind) -> Model {
        let options = RotationOptions { kind, seed: 5, residual: true, heads: true };
        let rotation = ModelRotation::new(&self.architecture, &options).unwrap();
        let turn = |(name, weight): (&String, &ArrayD<f32>)| {
            let turned = match weight.ndim() {
                2 => {
                    let norm = rotation.folded_norm(name).map(|norm| self.vector(&norm));
                    rotation.matrix(name, self.matrix(name).view(), norm.as_deref()).into_dyn()
                }
                _ => ndarray::Array1::from(rotation.vector(name, &self.vector(name))).into_dyn(),
            };
            (name.clone(), turned)
        };
        let head_matrix = rotation.head_matrix(&self.vector("model.norm.weight"));
        Model { architecture: self.architecture.clone(), weights: self.weights.iter().map(turn).collect(), head_matrix }
    }

    /// The same model with scales of 2^-3 to 2^3 moved at one place of every layer.
    fn scaled(&self, place: usize) -> Model {
        let survey = self.architecture.survey().unwrap();
        let scale = |source: usize| ((source * 5 % 7) as f32 - 3.0).exp2();
        let mut weights = self.weights.clone();
        for layer in 0..self.architecture.num_hidden_layers {
            let (scaling, input) = survey.scalings(layer).nth(place).expect("as many in each layer");
            let smooth = match scaling.smooth {
                Smooth::Norm(norm) => vec![format!("model.layers.{layer}.{norm}.weight")],
                Smooth::Linear(linear) => {
                    ["weight", "bias"].map(|field| format!("model.layers.{layer}.{linear}.{field}")).to_vec()
                }
            };
            for name in smooth {
                let Some(weight) = weights.get_mut(&name) else { continue };
                weight.axis_iter_mut(Axis(0)).enumerate().for_each(|(feature, mut row)| row /= scale(feature));
            }
            for name in input.weights() {
                let columns = weights.get_mut(&name).expect("a weight of the layer").axis_iter_mut(Axis(1)).enumerate();
                columns.for_each(|(feature, mut column)| column *= scale(scaling.sharing.source(feature)));
            }
        }
        Model { architecture: self.architecture.clone(), weights, head_matrix: None }
    }
}

#[test]
fn the_stages_of_every_family_in_turn_are_the_model_and_no_rewriting_changes_what_it_says() {
    for case in &cases() {
        let (place, ids, name) = (tempfile::tempdir().unwrap(), ids(case), &case["name"]);
        let artifact = artifact(case, place.path());
        let model = Model::read(case, place.path());
        let plain = model.logits(&ids);
        let found = difference(&plain, &logits(&mut engine(&artifact), &ids));
        assert!(found < BAR, "{name}: the stages give other logits by {found}");
        let scalings = model.architecture.survey().unwrap().scalings(0).count();
        assert_eq!(scalings, 4, "{name}: every input can take scales");
        let scaled = (0..scalings).map(|place| (format!("scaling {place}"), model.scaled(place)));
        let turned = [RotationKind::Hadamard, RotationKind::Random].map(|kind| (format!("{kind:?}"), model.rotated(kind)));
        for (what, changed) in scaled.chain(turned) {
            assert_ne!(changed.weights, model.weights, "{name}, {what}");
            let found = difference(&plain, &changed.logits(&ids));
            println!("{name}, {what}: {found:.1e}");
            assert!(found < BAR, "{name}, {what}: logits differ by {found}");
        }
    }
}

/// Each weight is an input's linear, or a bias or norm: nothing is named twice, and nothing is forgotten.
#[test]
fn every_weight_of_every_family_is_named_by_one_rule() {
    for case in &cases() {
        let architecture = Architecture::from_value(&case["config"]).unwrap_or_else(|error| panic!("{error}"));
        let (survey, name) = (architecture.survey().unwrap(), &case["name"]);
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for weight in survey.inputs.iter().flat_map(|input| input.weights().collect::<Vec<_>>()) {
            *times.entry(weight).or_default() += 1;
        }
        for tensor in &survey.tensors {
            let is_linear = tensor.shape.len() == 2 && tensor.name.starts_with("model.layers.");
            assert_eq!(times.remove(&tensor.name), is_linear.then_some(1), "{name}: {}", tensor.name);
        }
        assert!(times.is_empty(), "{name}: {times:?} are no weights");
        for (scaling, input) in survey.scalings(0) {
            assert!(input.weights().eq(scaling.balance.iter().map(|path| format!("model.layers.0.{path}.weight"))), "{name}");
        }
    }
}
