//! The embedded model through the artifact gives what Hugging Face transformers gives.
//!
//! Runs on the CPU in f32, and on CUDA in f16 with `QONNX_TEST_EP=cuda`. Goldens come from
//! tests/goldens/make/golden_logits.py and tests/goldens/make/golden_answers.py.

#[path = "it/support/made_up.rs"]
mod made_up;
#[path = "it/support/tensors.rs"]
mod tensors;
#[path = "it/support/tiny.rs"]
mod tiny;

use std::sync::{LazyLock, Mutex, MutexGuard};

use ndarray::ArrayView2;
use qonnx::eval::coqa::{self, Protocol, Question};
use qonnx::generate::{Completion, Generate, GenerateError, GenerateOptions, Score, Steps, StopReason};
use qonnx::recipe::FormatName;
use qonnx::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, WeightKernels};
use qonnx::tensor::DType;
use serde_json::{Value, json};

/// What is asked of an execution provider.
struct Bar {
    provider: ExecutionProvider,
    activation: DType,
    /// Largest absolute difference of a logit.
    logits: f32,
    /// Smallest part of positions whose best token is transformers'.
    same_top1: f64,
    /// Smallest part of turns whose text is transformers'.
    same_answers: f64,
    /// Smallest part of turns whose text does not depend on the other prompts of the call.
    same_in_batch: f64,
}

const CPU: Bar = Bar {
    provider: ExecutionProvider::Cpu,
    activation: DType::F32,
    logits: 2e-3,
    same_top1: 1.0,
    same_answers: 0.995,
    same_in_batch: 1.0,
};
// f16 has 11 bits: a batch of another size may sum in another order and tip a near tie.
const CUDA: Bar = Bar {
    provider: ExecutionProvider::Cuda,
    activation: DType::F16,
    logits: 0.15,
    same_top1: 0.97,
    same_answers: 0.95,
    same_in_batch: 0.95,
};

fn bar() -> Bar {
    match std::env::var("QONNX_TEST_EP").as_deref() {
        Err(_) | Ok("cpu") => CPU,
        Ok("cuda") => CUDA,
        Ok(other) => panic!("QONNX_TEST_EP is {other}; expected cpu or cuda"),
    }
}

/// The unquantized artifact.
fn load(launch: Launch) -> Engine {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let artifact = folder.path().join("artifact");
    tiny::export(&tiny::request(&tiny::model(), tiny::bits(FormatName::F16), bar().activation), &artifact);
    let options = EngineOptions { provider: bar().provider, threads: None, weights: WeightKernels::Fused, launch };
    // The weights stay mapped after the folder is gone.
    Engine::load(&artifact, &options).unwrap_or_else(|error| panic!("{error}"))
}

/// Loaded once: the tests take turns.
fn engine() -> MutexGuard<'static, Engine> {
    static ENGINE: LazyLock<Mutex<Engine>> = LazyLock::new(|| Mutex::new(load(Launch::Replayed)));
    // A test that failed leaves the engine usable: each call starts with an empty cache.
    ENGINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn logits(engine: &mut Engine, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let collect = &mut |_: usize, chunk: ArrayView2<'_, f32>| rows.extend(chunk.rows().into_iter().map(|row| row.to_vec()));
    engine.logits(ids, collect).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rows.len(), ids.len());
    rows
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a vocabulary is not empty")
}

/// Standard base64 without line breaks, of little-endian f32.
fn floats(base64: &str) -> Vec<f32> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is not base64"),
    };
    let digits: Vec<u8> = base64.trim_end_matches('=').bytes().map(digit).collect();
    let whole = |four: &[u8]| four.iter().fold(0u32, |bits, &digit| bits << 6 | u32::from(digit)) << (6 * (4 - four.len()));
    let bytes: Vec<u8> = digits.chunks(4).flat_map(|four| whole(four).to_be_bytes()[1..four.len()].to_vec()).collect();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect()
}

fn numbers(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a golden holds numbers")
}

fn golden(name: &str) -> String {
    let path = tiny::root().join("tests/goldens").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn logits_are_those_of_transformers() {
    let (bar, mut engine) = (bar(), engine());
    let golden: Value = serde_json::from_str(&golden("tiny_logits.json")).expect("a golden is JSON");
    let (mut largest, mut same, mut positions) = (0f32, 0, 0);
    for text in golden["texts"].as_array().expect("the golden has texts") {
        let rows = logits(&mut engine, &numbers(&text["ids"]));
        for (position, packed) in numbers(&text["positions"]).into_iter().zip(text["logits"].as_array().expect("logits")) {
            let (ours, theirs) = (&rows[position as usize], floats(packed.as_str().expect("base64 is text")));
            assert_eq!(ours.len(), theirs.len());
            largest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
            same += usize::from(best(ours) == best(&theirs));
            positions += 1;
        }
    }
    println!("{positions} positions: largest difference {largest:.2e}, same best token at {same}");
    assert!(positions >= 16);
    assert!(largest <= bar.logits, "logits differ by {largest}, allowed {}", bar.logits);
    assert!(same as f64 >= bar.same_top1 * positions as f64, "same best token at {same} of {positions}");
}

/// Every turn of the embedded questions, story by story.
fn stories() -> Vec<Vec<Question>> {
    let data = coqa::load(&tiny::model().join("coqa-mini.json")).expect("the fixture is CoQA");
    Protocol::OFFICIAL.stories(&data).into_iter().map(|story| story.questions).collect()
}

fn ask(engine: &mut Engine, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Completion> {
    engine.generate(prompts, options, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
}

fn encoded(engine: &Engine, story: &[Question]) -> Vec<Vec<u32>> {
    story.iter().map(|question| engine.encode(&question.prompt).unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// As the evaluation asks: the protocol's stop strings and the text of the end-of-sequence token.
fn protocol_options(engine: &Engine) -> GenerateOptions {
    let stop = Protocol::OFFICIAL.stop(engine.end_of_sequence_text().as_deref());
    GenerateOptions { max_new_tokens: Protocol::OFFICIAL.max_new_tokens, stop }
}

#[test]
fn greedy_answers_are_those_of_transformers() {
    let (bar, mut engine) = (bar(), engine());
    let options = protocol_options(&engine);
    let golden = golden("tiny_answers.jsonl");
    let mut expected = golden.lines().map(|line| serde_json::from_str::<Value>(line).expect("a golden line is JSON"));
    let (mut turns, mut differing) = (0, Vec::new());
    for story in stories() {
        let prompts = encoded(&engine, &story);
        let completions = ask(&mut engine, &prompts, &options);
        for ((question, prompt), completion) in story.iter().zip(&prompts).zip(completions) {
            let theirs = expected.next().expect("the golden has every turn");
            let place = format!("{} turn {}", question.id, question.turn_id);
            assert_eq!((theirs["id"].as_str(), theirs["turn_id"].as_u64()), (Some(&*question.id), Some(question.turn_id.into())));
            assert_eq!(theirs["prompt_tokens"].as_u64(), Some(prompt.len() as u64), "{place}");
            // Transformers keeps the end-of-sequence token among the ids.
            let mut ids = numbers(&theirs["ids"]);
            if ids.last().is_some_and(|last| engine.companions().generation.eos.contains(last)) {
                ids.pop();
            }
            turns += 1;
            if theirs["text"].as_str() != Some(completion.text.as_str()) || ids != completion.ids {
                differing.push(format!("{place}: {:?}, transformers {}", completion.text, theirs["text"]));
            }
        }
    }
    assert_eq!(expected.next(), None, "the golden has other turns");
    println!("{turns} turns, {} differ from transformers: {differing:#?}", differing.len());
    assert!(turns >= 120);
    assert!((turns - differing.len()) as f64 >= bar.same_answers * turns as f64, "{differing:#?}");
}

#[test]
fn reading_at_once_prefers_what_decoding_token_by_token_chose() {
    let (bar, mut engine) = (bar(), engine());
    let options = protocol_options(&engine);
    for story in stories().into_iter().step_by(4) {
        let prompt = encoded(&engine, &story).pop().expect("a story has questions");
        let completion = ask(&mut engine, std::slice::from_ref(&prompt), &options).remove(0);
        let text: Vec<u32> = prompt.iter().chain(&completion.ids).copied().collect();
        let rows = logits(&mut engine, &text);
        for (row, &chosen) in rows[prompt.len() - 1..].iter().zip(&completion.ids) {
            let behind = row[best(row)] - row[chosen as usize];
            assert!(behind <= bar.logits, "{}: token {chosen} is {behind} behind", story[0].id);
        }
        let ended = completion.reason == StopReason::EndOfSequence;
        let after = rows.last().expect("a prompt has tokens");
        let (end, at_end) = (engine.companions().generation.eos[0] as usize, after[best(after)]);
        assert!(!ended || at_end - after[end] <= bar.logits, "{}: it ended where another token is better", story[0].id);
    }
}

#[test]
fn a_turn_asked_alone_is_answered_as_among_others() {
    let (bar, mut engine) = (bar(), engine());
    let options = protocol_options(&engine);
    let (mut turns, mut same) = (0, 0);
    // Two stories in a call: turns that begin alike, strangers, and rows that end at different times.
    for pair in stories().chunks(2).step_by(3) {
        let prompts: Vec<Vec<u32>> = pair.iter().flat_map(|story| encoded(&engine, story)).collect();
        let together = ask(&mut engine, &prompts, &options);
        for (prompt, among) in prompts.iter().zip(together) {
            let alone = ask(&mut engine, std::slice::from_ref(prompt), &options).remove(0);
            turns += 1;
            same += usize::from(alone == among);
        }
    }
    println!("{same} of {turns} turns are answered alone as among others");
    assert!(turns >= 60);
    assert!(same as f64 >= bar.same_in_batch * turns as f64, "{same} of {turns}");
}

#[test]
fn answers_end_at_the_stop_string_at_the_end_of_sequence_and_at_the_limit() {
    let mut engine = engine();
    let options = protocol_options(&engine);
    let free = GenerateOptions { stop: Vec::new(), max_new_tokens: 40 };
    let mut reasons = [0; 3];
    for story in stories().iter().step_by(3) {
        let prompts = encoded(&engine, story);
        let (stopped, whole) = (ask(&mut engine, &prompts, &options), ask(&mut engine, &prompts, &free));
        let short = ask(&mut engine, &prompts, &GenerateOptions { max_new_tokens: 2, ..options.clone() });
        for ((stopped, whole), short) in stopped.iter().zip(&whole).zip(&short) {
            assert!(!stopped.text.contains("\nQ:"), "{:?}", stopped.text);
            assert!(stopped.ids.iter().all(|id| !engine.companions().generation.eos.contains(id)));
            assert!(whole.reason != StopReason::StopString && short.ids.len() <= 2);
            match stopped.reason {
                StopReason::StopString => {
                    assert!(whole.text.starts_with(&format!("{}\nQ:", stopped.text)), "{:?}, {:?}", stopped.text, whole.text);
                    reasons[0] += 1;
                }
                StopReason::EndOfSequence => {
                    assert_eq!(stopped, whole);
                    reasons[1] += 1;
                }
                StopReason::Length => panic!("{:?} went on for {} tokens", stopped.text, stopped.ids.len()),
            }
            if short.reason == StopReason::Length {
                assert_eq!(short.ids, stopped.ids[..2]);
                reasons[2] += 1;
            }
        }
    }
    assert!(reasons.iter().all(|&count| count > 0), "{reasons:?}");
}

/// Long continuations of batches whose rows end one by one: on a GPU their steps are recorded, replayed, and recorded anew
/// when the batch becomes smaller.
#[test]
fn replayed_steps_choose_what_launched_ones_do() {
    let (bar, mut replaying, mut launching) = (bar(), engine(), load(Launch::Eager));
    let options = GenerateOptions { max_new_tokens: 160, stop: Vec::new() };
    let (mut same, mut prompts, mut replayed, mut lengths) = (0, 0, 0, Vec::new());
    for story in stories().iter().take(6) {
        // A passage is gone on with for long, a question is answered in a few words.
        let passage = story[0].prompt.split("\n\nQ:").next().expect("a prompt has a beginning");
        let half = passage.char_indices().nth(passage.chars().count() / 2).map_or(0, |(place, _)| place);
        let texts = [&passage[..half], passage, story[0].prompt.as_str(), story[1].prompt.as_str()];
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| replaying.encode(text).expect("it was encoded before")).collect();
        let (one, other) = (ask(&mut replaying, &ids, &options), ask(&mut launching, &ids, &options));
        replayed += replaying.timings().replayed_steps;
        assert_eq!(launching.timings().replayed_steps, 0);
        same += one.iter().zip(&other).filter(|(one, other)| one.ids == other.ids).count();
        lengths.extend(one.iter().map(|completion| completion.ids.len()));
        prompts += ids.len();
    }
    println!("{same} of {prompts} continuations are the same, of {lengths:?} tokens; {replayed} steps were replayed");
    assert_eq!(replayed > 0, bar.provider == ExecutionProvider::Cuda);
    assert!(lengths.iter().filter(|&&length| length > 130).count() >= 6, "no continuation is long: {lengths:?}");
    assert!(lengths.iter().any(|&length| length < 60), "some rows leave the batch: {lengths:?}");
    assert!(same as f64 >= bar.same_in_batch * prompts as f64, "{same} of {prompts}");
}

/// A token whose activations leave f16 is an error at the step that reads it, launched or replayed, and in a prompt; the steps
/// before it choose tokens.
#[test]
fn a_step_whose_logits_are_no_numbers_is_an_error() {
    const HOT: u32 = 7;
    // On a GPU nothing else may run while a step is recorded.
    let _turn = engine();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (checkpoint, artifact) = (folder.path().join("checkpoint"), folder.path().join("artifact"));
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64,
        "max_position_embeddings": 256, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 1});
    made_up::write_checkpoint(&checkpoint, &config, DType::BF16);
    // Just below the end of f16, and the first layer adds to it.
    let weights = checkpoint.join("model.safetensors");
    tensors::edit(&weights, "model.embed_tokens.weight", |table| table[HOT as usize * 64..][..64].fill(65280.0));
    tensors::edit(&weights, "model.layers.0.mlp.down_proj.weight", |down| down.iter_mut().for_each(|weight| *weight *= 64.0));
    tiny::export(&tiny::request(&checkpoint, tiny::bits(FormatName::F16), DType::F16), &artifact);
    for launch in [Launch::Eager, Launch::Replayed] {
        let options = EngineOptions { provider: bar().provider, threads: None, weights: WeightKernels::Fused, launch };
        let mut engine = Engine::load(&artifact, &options).unwrap_or_else(|error| panic!("{error}"));
        let mut steps = engine.steps();
        steps.allocate(2, 3, 8).unwrap_or_else(|error| panic!("{error}"));
        steps.prefill(&[vec![20, 21, 22], vec![30, 31, 32]]).unwrap_or_else(|error| panic!("{error}"));
        for past in 3..6 {
            let next = steps.step(&[40, 41], past).unwrap_or_else(|error| panic!("{error}"));
            assert!(next.iter().all(|&token| token < 4096));
        }
        let error = steps.step(&[40, HOT], 6).expect_err("it is no number");
        let said = error.to_string();
        assert!(matches!(error, GenerateError::NotANumber { prompt: 1, position: 6, .. }), "{said}");
        assert!(said.contains("f16 (65504)") && said.contains("--dtype f32"), "{said}");
        drop(steps);
        let greedy = GenerateOptions { max_new_tokens: 4, stop: Vec::new() };
        let error = engine.generate(&[vec![20, 21], vec![HOT, 20]], &greedy, &mut |_| {}).expect_err("it is no number");
        assert!(matches!(error, GenerateError::NotANumber { prompt: 1, position: 1, .. }), "{error}");
    }
}
