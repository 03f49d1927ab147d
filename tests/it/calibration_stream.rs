//! Statistics of the embedded model's activations are those of Hugging Face transformers, however they are computed.
//!
//! Runs on the CPU in f32, and on CUDA in f16 with `QONNX_TEST_EP=cuda`.
//! The golden comes from tests/goldens/make/golden_statistics.py.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use ndarray::{Array2, ArrayD, ArrayView2, Axis, Ix2};
use qonnx::calib::{ActivationStream, Both, CalibError, Head, Matrix, Observe, Progress, StreamOptions, TooFewTokens, Weight};
use qonnx::checkpoint::Checkpoint;
use qonnx::fault::Fault;
use qonnx::generate::Score;
use qonnx::model::Architecture;
use qonnx::quant::InputStats;
use qonnx::recipe::FormatName;
use qonnx::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, WeightKernels};
use qonnx::tensor::{DType, convert};
use serde_json::Value;

use crate::support::tiny;

/// What is asked of an execution provider.
struct Bar {
    provider: ExecutionProvider,
    activation: DType,
    /// Largest error of a statistic, relative to what it is a part of.
    relative: f64,
    /// Largest difference of a logit from the engine's.
    logits: f32,
}

const CPU: Bar = Bar { provider: ExecutionProvider::Cpu, activation: DType::F32, relative: 1e-4, logits: 1e-4 };
// f16 has 11 bits, and transformers computes in f32.
const CUDA: Bar = Bar { provider: ExecutionProvider::Cuda, activation: DType::F16, relative: 2e-2, logits: 0.1 };

fn bar() -> Bar {
    match std::env::var("QONNX_TEST_EP").as_deref() {
        Err(_) | Ok("cpu") => CPU,
        Ok("cuda") => CUDA,
        Ok(other) => panic!("QONNX_TEST_EP is {other}; expected cpu or cuda"),
    }
}

fn options() -> StreamOptions {
    StreamOptions {
        provider: bar().provider,
        threads: None,
        reference: false,
        batch_tokens: None,
        scratch: std::env::temp_dir(),
        too_few_tokens: TooFewTokens::Refuse,
        artifact: DType::F32,
    }
}

/// A checkpoint's weights, widened.
struct Model {
    cfg: Architecture,
    weights: HashMap<String, ArrayD<f32>>,
}

impl Model {
    /// The embedded model; `change` is applied to every weight of a decoder linear.
    fn tiny(change: impl Fn(f32) -> f32) -> Model {
        let text = std::fs::read_to_string(tiny::model().join("config.json")).expect("the fixture has a configuration");
        let cfg = Architecture::from_json(&text).expect("the fixture is a Llama");
        let checkpoint = Checkpoint::open(&tiny::model()).expect("the fixture is a checkpoint");
        let read = |name: &str, shape: &[usize]| {
            let mut values = vec![0f32; shape.iter().product()];
            let view = checkpoint.tensor(name).expect("the fixture has every weight");
            convert::decode(view.dtype, view.bytes, &mut values).expect("the fixture's weights are floats");
            if name.ends_with("_proj.weight") {
                values.iter_mut().for_each(|w| *w = change(*w));
            }
            ArrayD::from_shape_vec(shape, values).expect("the shape is the weight's")
        };
        let tensors = cfg.expected_tensors().expect("sizes that fit");
        let weights = tensors.into_iter().map(|t| (t.name.clone(), read(&t.name, &t.shape))).collect();
        Model { cfg, weights }
    }

    fn table(&self) -> Matrix<'_> {
        let table = self.weights["model.embed_tokens.weight"].view();
        Both::same(table.into_dimensionality::<Ix2>().expect("a table is a matrix"))
    }

    /// What the stream wants next, with `beside` as the unquantized model.
    fn wanted<'a>(&'a self, beside: Option<&'a Model>, stream: &ActivationStream<'_>) -> Vec<Weight<'a>> {
        let of = |name: &str| Weight {
            quantized: self.weights[name].view(),
            reference: beside.map(|model| model.weights[name].view()),
        };
        stream.wanted().iter().map(|wanted| of(&wanted.name)).collect()
    }

    /// Through so many stages.
    fn advance(&self, stream: &mut ActivationStream<'_>, beside: Option<&Model>, stages: usize) -> Result<(), CalibError> {
        (0..stages).try_for_each(|_| stream.advance(&self.wanted(beside, stream)))
    }

    fn embed(&self, id: u32, row: &mut [f32]) {
        let table = &self.weights["model.embed_tokens.weight"];
        row.copy_from_slice(table.index_axis(Axis(0), id as usize).as_slice().expect("rows are contiguous"));
    }

    fn start<'a>(
        &self,
        options: &StreamOptions,
        sequences: &[Vec<u32>],
        observe: Observe<'a>,
    ) -> Result<ActivationStream<'a>, CalibError> {
        ActivationStream::start(&self.cfg, options, sequences, &mut |id, row| self.embed(id, row), observe)
    }

    /// Statistics of every input, in the order of the layers; the LM head's last.
    fn statistics(&self, beside: Option<&Model>, options: &StreamOptions, sequences: &[Vec<u32>]) -> Vec<InputStats> {
        let options = StreamOptions { reference: beside.is_some(), ..options.clone() };
        let mut stream = self.start(&options, sequences, silent()).unwrap_or_else(|error| panic!("{error}"));
        self.pass(&mut stream, beside).unwrap_or_else(|error| panic!("{error}"))
    }

    fn pass(&self, stream: &mut ActivationStream<'_>, beside: Option<&Model>) -> Result<Vec<InputStats>, CalibError> {
        let mut statistics_of_next = || {
            self.advance(stream, beside, 1)?;
            stream.statistics()
        };
        (0..4 * self.cfg.num_hidden_layers + 1).map(|_| statistics_of_next()).collect()
    }
}

fn silent<'a>() -> Observe<'a> {
    Box::new(|_| ControlFlow::Continue(()))
}

fn same(w: f32) -> f32 {
    w
}

/// As tests/goldens/make/golden_statistics.py rounds.
fn rounded(w: f32) -> f32 {
    (w * 32.0).round_ties_even() / 32.0
}

fn golden() -> Value {
    let text = std::fs::read_to_string(tiny::root().join("tests/goldens/statistics.json")).expect("the golden is there");
    serde_json::from_str(&text).expect("the golden is JSON")
}

fn sequences(golden: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(golden["sequences"].clone()).expect("the golden has sequences")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a golden number")
}

/// Places that the golden script picks.
fn picked(width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..8).map(move |i| ((i * 97 + 5) % width, (i * 61 + 3) % width))
}

/// Largest errors of a matrix: of the trace relative to itself, of entries relative to the geometric mean of `scale`'s diagonal.
fn matrix_error(ours: ArrayView2<'_, f32>, scale: ArrayView2<'_, f32>, golden: &Value) -> f64 {
    let trace: f64 = ours.diag().iter().map(|&v| f64::from(v)).sum();
    let mut error = (trace / number(&golden["trace"]) - 1.0).abs();
    for ((row, column), theirs) in picked(ours.nrows()).zip(golden["entries"].as_array().expect("entries")) {
        let scale = (f64::from(scale[[row, row]]) * f64::from(scale[[column, column]])).sqrt();
        error = error.max((f64::from(ours[[row, column]]) - number(theirs)).abs() / scale);
    }
    error
}

fn vector_error(ours: &[f32], golden: &Value) -> f64 {
    let sum: f64 = ours.iter().map(|&v| f64::from(v)).sum();
    let mut error = (sum / number(&golden["sum"]) - 1.0).abs();
    for ((channel, _), theirs) in picked(ours.len()).zip(golden["entries"].as_array().expect("entries")) {
        error = error.max((f64::from(ours[channel]) / number(theirs) - 1.0).abs());
    }
    error
}

fn compare(ours: &[InputStats], theirs: &Value) {
    let (bar, theirs) = (bar(), theirs.as_array().expect("a list of inputs"));
    assert_eq!(ours.len(), theirs.len());
    for (input, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(ours.tokens, 869);
        let mut errors = vec![
            matrix_error(ours.gram.view(), ours.gram.view(), &theirs["gram"]),
            vector_error(&ours.mean_abs, &theirs["mean_abs"]),
            vector_error(&ours.max_abs, &theirs["max_abs"]),
        ];
        errors.extend(ours.cross.as_ref().map(|cross| matrix_error(cross.view(), ours.gram.view(), &theirs["cross"])));
        println!("input {input}: {errors:?}");
        assert!(errors.iter().all(|error| *error <= bar.relative), "input {input}: {errors:?}");
        assert_eq!(ours.gram, ours.gram.t(), "input {input} is symmetric");
    }
}

#[test]
fn statistics_of_every_input_are_those_of_transformers() {
    let golden = golden();
    let statistics = Model::tiny(same).statistics(None, &options(), &sequences(&golden));
    assert!(statistics.iter().all(|input| input.cross.is_none()));
    compare(&statistics, &golden["plain"]);
}

#[test]
fn statistics_of_a_quantized_model_and_their_cross_with_the_unquantized_one_are_those_of_transformers() {
    let golden = golden();
    let statistics = Model::tiny(rounded).statistics(Some(&Model::tiny(same)), &options(), &sequences(&golden));
    assert!(statistics.iter().all(|input| input.cross.is_some()));
    compare(&statistics, &golden["rounded"]);
}

/// Largest difference, of matrices relative to the diagonal.
fn difference(a: &InputStats, b: &InputStats) -> f32 {
    let scale = |i: usize, j: usize| (a.gram[[i, i]] * a.gram[[j, j]]).sqrt();
    let gram = a.gram.indexed_iter().map(|((i, j), v)| (v - b.gram[[i, j]]).abs() / scale(i, j).max(f32::MIN_POSITIVE));
    let mean = a.mean_abs.iter().zip(&b.mean_abs).map(|(a, b)| (a - b).abs() / a);
    let max = a.max_abs.iter().zip(&b.max_abs).map(|(a, b)| (a - b).abs() / a);
    let crossed = a.cross.iter().zip(&b.cross).flat_map(|(a, b)| a.indexed_iter().zip(b));
    let cross = crossed.map(|(((i, j), a), b)| (a - b).abs() / scale(i, j).max(f32::MIN_POSITIVE));
    gram.chain(mean).chain(max).chain(cross).fold(0.0, f32::max)
}

#[test]
fn batches_do_not_change_results() {
    let (model, sequences) = (Model::tiny(same), sequences(&golden()));
    let whole = model.statistics(None, &options(), &sequences);
    let tolerance = if bar().provider == ExecutionProvider::Cpu { 2e-5 } else { 1e-2 };
    for batch_tokens in [Some(1), Some(330)] {
        let cut = model.statistics(None, &StreamOptions { batch_tokens, ..options() }, &sequences);
        for (input, (whole, cut)) in whole.iter().zip(&cut).enumerate() {
            let difference = difference(whole, cut);
            assert!(difference <= tolerance, "input {input} in batches of {batch_tokens:?}: {difference}");
        }
    }
}

#[test]
fn statistics_that_nobody_asks_for_change_nothing() {
    let (model, beside, sequences) = (Model::tiny(rounded), Model::tiny(same), sequences(&golden()));
    let first = model.statistics(Some(&beside), &options(), &sequences);
    // CUDA adds up |x| in no certain order.
    let tolerance = if bar().provider == ExecutionProvider::Cpu { 0.0 } else { 1e-5 };
    let options = StreamOptions { reference: true, ..options() };
    let mut stream = model.start(&options, &sequences, silent()).unwrap_or_else(|error| panic!("{error}"));
    model.advance(&mut stream, Some(&beside), 1).unwrap_or_else(|error| panic!("{error}"));
    for layer in 0..model.cfg.num_hidden_layers {
        assert_eq!(stream.layer(), layer);
        let again = stream.statistics().unwrap_or_else(|error| panic!("{error}"));
        assert!(difference(&again, &first[4 * layer]) <= tolerance && again.tokens == 869, "layer {layer}");
        model.advance(&mut stream, Some(&beside), 4).unwrap_or_else(|error| panic!("{error}"));
    }
    assert_eq!(stream.layer(), model.cfg.num_hidden_layers);
    let last = stream.statistics().unwrap_or_else(|error| panic!("{error}"));
    assert!(difference(&last, &first[24]) <= tolerance);
}

#[test]
fn a_stream_that_is_rewound_goes_on_as_if_nothing_had_been() {
    let (model, other, sequences) = (Model::tiny(same), Model::tiny(rounded), sequences(&golden()));
    let mut stream = model.start(&options(), &sequences, silent()).unwrap_or_else(|error| panic!("{error}"));
    let tolerance = if bar().provider == ExecutionProvider::Cpu { 0.0 } else { 1e-5 };
    model.advance(&mut stream, None, 2).unwrap_or_else(|error| panic!("{error}"));
    let mark = stream.mark().unwrap_or_else(|error| panic!("{error}"));
    let ends = [&model, &other, &model].map(|model| {
        stream.rewind(&mark).unwrap_or_else(|error| panic!("{error}"));
        model.advance(&mut stream, None, 3).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((stream.layer(), stream.passed()), (1, 5));
        stream.statistics().unwrap_or_else(|error| panic!("{error}"))
    });
    let straight = model.statistics(None, &options(), &sequences).swap_remove(4);
    for index in [0, 2] {
        assert!(difference(&ends[index], &straight) <= tolerance, "rewound {index} times");
    }
    assert!(difference(&ends[1], &straight) > 1e-3, "other weights lead elsewhere");
}

fn engine() -> Engine {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let artifact = folder.path().join("artifact");
    tiny::export(&tiny::request(&tiny::model(), tiny::bits(FormatName::F16), bar().activation), &artifact);
    let options =
        EngineOptions { provider: bar().provider, threads: None, weights: WeightKernels::Fused, launch: Launch::Replayed };
    Engine::load(&artifact, &options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn logits_are_those_of_the_artifact() {
    let (bar, sequences) = (bar(), sequences(&golden()));
    let model = Model::tiny(|w| half::f16::from_f32(w).to_f32());
    let mut stream = model.start(&options(), &sequences, silent()).unwrap_or_else(|error| panic!("{error}"));
    model.advance(&mut stream, None, 25).unwrap_or_else(|error| panic!("{error}"));
    let table = model.table();
    let mut ours: Vec<Vec<Vec<f32>>> = vec![Vec::new(); sequences.len()];
    let identity = Array2::eye(model.cfg.hidden_size);
    for matrix in [None, Some(Both::same(identity.view()))] {
        ours.iter_mut().for_each(Vec::clear);
        let visit = &mut |logits: qonnx::calib::Logits<'_>| {
            assert!(logits.reference.is_none() && logits.first == ours[logits.sequence].len());
            ours[logits.sequence].extend(logits.quantized.rows().into_iter().map(|row| row.to_vec()));
        };
        stream.logits(&Head { table, matrix }, visit).unwrap_or_else(|error| panic!("{error}"));
        let mut engine = engine();
        let mut largest = 0f32;
        for (ids, ours) in sequences.iter().zip(&ours) {
            assert_eq!(ids.len(), ours.len());
            let mut compare = |first: usize, theirs: ArrayView2<'_, f32>| {
                for (ours, theirs) in ours[first..].iter().zip(theirs.rows()) {
                    largest = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
                }
            };
            engine.logits(ids, &mut compare).unwrap_or_else(|error| panic!("{error}"));
        }
        println!("largest difference {largest:.1e}");
        assert!(largest <= bar.logits, "logits differ by {largest}");
    }
}

#[test]
fn a_reference_stream_has_logits_of_its_own() {
    let (model, beside, sequences) = (Model::tiny(rounded), Model::tiny(same), sequences(&golden()));
    let logits = |model: &Model, beside: Option<&Model>| {
        let options = StreamOptions { reference: beside.is_some(), ..options() };
        let mut stream = model.start(&options, &sequences, silent()).unwrap_or_else(|error| panic!("{error}"));
        model.advance(&mut stream, beside, 25).unwrap_or_else(|error| panic!("{error}"));
        let (mut quantized, mut reference) = (Vec::new(), Vec::new());
        let head = Head { table: model.table(), matrix: None };
        let visit = &mut |logits: qonnx::calib::Logits<'_>| {
            quantized.extend(logits.quantized.iter().copied());
            reference.extend(logits.reference.iter().flatten().copied());
        };
        stream.logits(&head, visit).unwrap_or_else(|error| panic!("{error}"));
        (quantized, reference)
    };
    let (quantized, reference) = logits(&model, Some(&beside));
    assert_eq!((&quantized, &reference), (&logits(&model, None).0, &logits(&beside, None).0));
    assert_ne!(quantized, reference);
}

fn refusal(sequences: &[Vec<u32>], options: &StreamOptions) -> String {
    let error = Model::tiny(same).start(options, sequences, silent()).map(drop).expect_err("the set is refused");
    assert_eq!(error.fault(), Fault::BadInput);
    error.to_string()
}

#[test]
fn sets_that_do_not_fit_the_model_are_refused() {
    let sequence = |tokens: usize| vec![7u32; tokens];
    let expected = "the calibration set has no sequences; give at least one";
    assert_eq!(refusal(&[], &options()), expected);
    let expected = "calibration sequence 1 has no tokens; leave it out";
    assert_eq!(refusal(&[sequence(3), sequence(0)], &options()), expected);
    let expected = "calibration sequence 0 has 131073 tokens, and the model has 131072 positions (max_position_embeddings); \
                    use shorter sequences";
    assert_eq!(refusal(&[sequence(131073)], &options()), expected);
    let expected = "calibration sequence 1 holds token id 4096, beyond the model's vocabulary of 4096; make the set with the \
                    model's own tokenizer";
    assert_eq!(refusal(&[sequence(3), vec![4095, 4096]], &options()), expected);
    let expected = "767 calibration tokens are fewer than the 768 input features of mlp.down_proj, so that its statistics would \
                    leave directions unseen; use a set with more or longer sequences";
    assert_eq!(refusal(&[sequence(500), sequence(267)], &options()), expected);
}

#[test]
fn few_tokens_are_enough_where_they_are_allowed() {
    let options = StreamOptions { too_few_tokens: TooFewTokens::Allow, ..options() };
    let statistics = Model::tiny(same).statistics(None, &options, &[vec![5, 6, 7]]);
    assert!(statistics.iter().all(|input| input.tokens == 3 && input.gram.diag().sum() > 0.0));
}

#[test]
fn activations_that_are_not_finite_name_layer_and_input() {
    let mut model = Model::tiny(same);
    let up = model.weights.get_mut("model.layers.2.mlp.up_proj.weight").expect("the model has six layers");
    up.index_axis_mut(Axis(0), 41).fill(f32::INFINITY);
    let mut stream = model.start(&options(), &sequences(&golden()), silent()).unwrap_or_else(|error| panic!("{error}"));
    let error = model.pass(&mut stream, None).map(drop).expect_err("infinity is refused");
    let advice = match bar().provider.is_gpu() {
        false => "check the checkpoint's weights, and the roundings of the layers before",
        true => {
            "activations beyond 65504 do not fit f16; calibrate on the CPU, which computes in f32, and export with f32 activations"
        }
    };
    assert_eq!(error.to_string(), format!("layer 2: the input of mlp.down_proj is NaN or infinite in channel 41; {advice}"));
    assert_eq!(error.fault(), Fault::BadInput);
}

#[test]
fn stages_are_called_in_turn_with_weights_that_fit() {
    let model = Model::tiny(same);
    let mut stream = model.start(&options(), &sequences(&golden()), silent()).unwrap_or_else(|error| panic!("{error}"));
    fn said<T>(result: Result<T, CalibError>) -> String {
        result.map(drop).expect_err("it is refused").to_string()
    }
    assert_eq!(said(stream.statistics()), "statistics was called where advance comes next");
    let short = ArrayD::ones(vec![255]);
    let expected =
        "model.layers.0.input_layernorm.weight must have shape [256], got [255]; give it as [out_features, in_features]";
    assert_eq!(said(stream.advance(&[Weight::same(short.view())])), expected);
    model.advance(&mut stream, None, 1).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<String> = stream.wanted().into_iter().map(|wanted| wanted.name).collect();
    assert_eq!(names, ["q", "k", "v"].map(|linear| format!("model.layers.0.self_attn.{linear}_proj.weight")));
    let mut swapped = model.wanted(None, &stream);
    swapped.swap(0, 1);
    let expected = "model.layers.0.self_attn.q_proj.weight must have shape [256, 256], got [128, 256]; give it as \
                    [out_features, in_features]";
    assert_eq!(said(stream.advance(&swapped)), expected);
    let head = Head { table: model.table(), matrix: None };
    let error = stream.logits(&head, &mut |_| {}).expect_err("layers are still to come").to_string();
    assert_eq!(error, "logits was called where advance comes next");
    // What was refused changed nothing.
    model.advance(&mut stream, None, 24).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said(stream.advance(&[])), "advance was called where logits comes next");
    assert!(stream.wanted().is_empty());
}

#[test]
fn progress_counts_batches_and_can_stop_the_stage() {
    let (model, sequences) = (Model::tiny(same), sequences(&golden()));
    let (seen, stop_at) = (RefCell::new(Vec::new()), Cell::new(usize::MAX));
    let observe = Box::new(|progress: Progress| {
        seen.borrow_mut().push((progress.step, progress.done, progress.all));
        if seen.borrow().len() >= stop_at.get() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // Four sequences of 160 tokens in two batches, two of 96 in one, one of 37.
    let options = StreamOptions { batch_tokens: Some(320), ..options() };
    let mut stream = model.start(&options, &sequences, observe).unwrap_or_else(|error| panic!("{error}"));
    model.advance(&mut stream, None, 1).and_then(|()| stream.statistics()).unwrap_or_else(|error| panic!("{error}"));
    let each = |step: &'static str| (1..=4).map(move |done| (step, done, 4));
    assert_eq!(*seen.borrow(), each("forward").chain(each("statistics")).collect::<Vec<_>>());
    stop_at.set(10);
    let error = model.advance(&mut stream, None, 1).expect_err("it was stopped");
    assert_eq!((error.to_string().as_str(), error.fault()), ("interrupted while calibrating layer 0", Fault::Failed));
    assert_eq!(seen.borrow().last(), Some(&("forward", 2, 4)));
}

#[test]
fn a_scratch_folder_that_is_not_there_is_named() {
    let options = StreamOptions { scratch: PathBuf::from("/no/such/folder"), ..options() };
    let started = Model::tiny(same).start(&options, &[vec![1; 768]], silent()).map(drop);
    match bar().provider.is_gpu() {
        false => {
            let expected =
                "the scratch file for activations in /no/such/folder cannot be used; give a folder with 786432 bytes free";
            assert_eq!(started.expect_err("there is no such folder").to_string(), expected);
        }
        true => assert!(started.is_ok(), "activations stay on the device"),
    }
}

/// Sums of many tokens, in f32 as the runtime adds them, against f64. 65536 tokens of one sequence of activations each, all of
/// one sign: the worst case, in which a sum only grows and every rounding is of the whole.
#[test]
fn sums_of_many_tokens_keep_their_digits() {
    let tokens = 65536;
    let model = Model::tiny(same);
    let mut cfg = model.cfg.clone();
    (cfg.config.hidden_size, cfg.config.intermediate_size) = (32, 32);
    let value = |id: u32, channel: usize| 0.5 + ((id * 31 + channel as u32 * 17) % 101) as f32 / 128.0; // exact in f16
    let mut embedding = |id: u32, row: &mut [f32]| row.iter_mut().enumerate().for_each(|(c, v)| *v = value(id, c));
    let sequences: Vec<Vec<u32>> = (0..tokens / 64).map(|s| (0..64).map(|t| (s * 64 + t) as u32 % 4096).collect()).collect();
    let mut stream =
        ActivationStream::start(&cfg, &options(), &sequences, &mut embedding, silent()).unwrap_or_else(|e| panic!("{e}"));
    stream.advance(&[Weight::same(ArrayD::ones(vec![32]).view())]).unwrap_or_else(|error| panic!("{error}"));
    let ours = stream.statistics().unwrap_or_else(|error| panic!("{error}"));
    let rows: Vec<Vec<f64>> = (0..4096u32)
        .map(|id| {
            let x: Vec<f64> = (0..32).map(|channel| f64::from(value(id, channel))).collect();
            let rms = (x.iter().map(|x| x * x).sum::<f64>() / 32.0 + cfg.rms_norm_eps).sqrt();
            x.iter().map(|x| x / rms).collect()
        })
        .collect();
    let worst = (0..32).flat_map(|i| (0..32).map(move |j| (i, j))).map(|(i, j)| {
        let exact = rows.iter().map(|x| x[i] * x[j]).sum::<f64>() / 4096.0;
        (f64::from(ours.gram[[i, j]]) / exact - 1.0).abs()
    });
    let worst = worst.fold(0.0, f64::max);
    println!("largest relative error of {tokens} tokens: {worst:.1e}");
    let allowed = if bar().provider == ExecutionProvider::Cpu { 1e-5 } else { 1e-3 }; // f16 rounds x itself
    assert!(worst <= allowed, "{worst}");
}
