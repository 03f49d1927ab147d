//! The engine on ONNX Runtime's CPU execution provider, against its own logits and one prompt at a time.

use qonnx::fault::Fault;
use qonnx::generate::{Completion, Generate, GenerateError, GenerateOptions, Score, Steps, StopReason};
use qonnx::model::WeightForm;
use qonnx::onnx::{Graph, Type, encode};
use qonnx::runtime::{Engine, EngineOptions, Execution, ExecutionProvider, Launch, WeightKernels, inspect};
use qonnx::tensor::DType;

use crate::support::random as support;

const CPU: EngineOptions =
    EngineOptions { provider: ExecutionProvider::Cpu, threads: Some(1), weights: WeightKernels::Fused, launch: Launch::Replayed };

fn engine(form: &dyn Fn(&str) -> WeightForm) -> Engine {
    engine_of(DType::F32, form)
}

fn engine_of(activation: DType, form: &dyn Fn(&str) -> WeightForm) -> Engine {
    let dir = tempfile::tempdir().unwrap();
    support::write_artifact(dir.path(), activation, form);
    Engine::load(dir.path(), &CPU).unwrap_or_else(|error| panic!("{error}"))
}

fn new_tokens(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, stop: Vec::new() }
}

/// The model's own text, so that prompts are varied and long.
fn text(words: usize) -> String {
    (0..words).map(|word| ["the ", "white ", "cat ", "sat; ", "barn\n", "Q: "][word * word % 6]).collect()
}

/// Greedy continuation by reading everything again for each token: no cache, no batch, no sharing.
fn by_logits(engine: &mut Engine, prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    while ids.len() < prompt.len() + max_new_tokens {
        let mut best = 0;
        let visit = &mut |_: usize, logits: ndarray::ArrayView2<'_, f32>| {
            let last = logits.row(logits.nrows() - 1);
            best = (0..last.len()).rev().max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap() as u32;
        };
        engine.logits(&ids, visit).unwrap();
        if best == support::EOS {
            break;
        }
        ids.push(best);
    }
    ids[prompt.len()..].to_vec()
}

fn run(engine: &mut Engine, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Completion> {
    let mut streamed = vec![String::new(); prompts.len()];
    let completions = engine.generate(prompts, options, &mut |piece| streamed[piece.row].push_str(piece.text)).unwrap();
    let texts: Vec<&str> = completions.iter().map(|completion| completion.text.as_str()).collect();
    assert_eq!(streamed, texts, "what is streamed is the text");
    completions
}

#[test]
fn decoding_with_a_cache_equals_reading_everything_again() {
    for form in [&support::dense as &dyn Fn(&str) -> _, &support::int4] {
        let mut engine = engine(form);
        let prompt = engine.encode(&text(30)).unwrap();
        assert_eq!(prompt[0], support::BOS);
        let expected = by_logits(&mut engine, &prompt, 40);
        let completion = run(&mut engine, &[prompt], &new_tokens(40)).remove(0);
        assert_eq!(completion.ids, expected);
    }
}

#[test]
fn a_batch_gives_what_each_prompt_gives_alone() {
    let mut engine = engine(&support::dense);
    let story = text(150);
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    // A chain of turns, one of them twice, one that leaves the chain, and two strangers; longer than one chunk.
    for turn in ["Q: who?\nA:", "Q: who?\nA: she\nQ: why?\nA:", "Q: who?\nA: she\nQ: why?\nA:", "Q: who? Not\nA:"] {
        prompts.push(engine.encode(&format!("{story}{turn}")).unwrap());
    }
    prompts.push(engine.encode("x").unwrap());
    prompts.push(engine.encode(&text(20)[3..]).unwrap());
    let options = new_tokens(70);
    let alone: Vec<Completion> =
        prompts.iter().map(|prompt| run(&mut engine, std::slice::from_ref(prompt), &options).remove(0)).collect();
    assert!(alone.iter().any(|completion| completion.ids != alone[0].ids), "prompts matter");
    let together = run(&mut engine, &prompts, &options);
    assert_eq!(together, alone);
    let timings = engine.timings();
    assert!(prompts[0].len() > 512, "the trunk takes several chunks: {}", prompts[0].len());
    assert_eq!(timings.prompt_tokens, prompts.iter().map(Vec::len).sum::<usize>());
    let branch = prompts[3].len() - (prompts[0].len() - "\nA:".len());
    assert_eq!(timings.prefill_tokens, prompts[1].len() + branch + prompts[4].len() + prompts[5].len());
}

/// What a benchmark times is what generation runs: each prompt by itself, chunk by chunk. Padded side by side it was one run.
#[test]
fn steps_read_prompts_as_generate_does() {
    const TOKENS: usize = 600;
    let mut engine = engine(&support::dense);
    let prompt = |row: u32| (0..TOKENS as u32).map(|i| if i == 0 { support::BOS } else { (i * i + 31 * row) % 120 }).collect();
    let read = |engine: &Engine| {
        let timings = engine.timings();
        (timings.prompt_tokens, timings.prefill_tokens, timings.prefill_runs)
    };
    for rows in [1, 3] {
        let prompts: Vec<Vec<u32>> = (0..rows).map(prompt).collect();
        let expected = run(&mut engine, &prompts, &new_tokens(4));
        let (rows, by_generate) = (rows as usize, read(&engine));
        // Of 512 tokens and the other 88.
        assert_eq!(by_generate, (rows * TOKENS, rows * TOKENS, rows * 2));
        let mut steps = engine.steps();
        steps.allocate(rows, TOKENS, 4).unwrap();
        // Again and again into the same rows, as a benchmark does.
        for _ in 0..2 {
            let mut tokens = vec![steps.prefill(&prompts).unwrap()];
            for past in TOKENS..TOKENS + 3 {
                let next = steps.step(&tokens[tokens.len() - 1], past).unwrap();
                tokens.push(next);
            }
            for (row, completion) in expected.iter().enumerate() {
                let ids: Vec<u32> = tokens.iter().map(|tokens| tokens[row]).collect();
                assert_eq!(ids[..completion.ids.len()], completion.ids);
            }
        }
        drop(steps);
        assert_eq!(read(&engine), by_generate);
    }
    // Equal prompts stand for unrelated ones, of which generation would read one.
    let prompts: Vec<Vec<u32>> = vec![prompt(0); 2];
    run(&mut engine, &prompts, &new_tokens(4));
    assert_eq!(read(&engine), (2 * TOKENS, TOKENS, 2));
    let mut steps = engine.steps();
    steps.allocate(2, TOKENS, 4).unwrap();
    steps.prefill(&prompts).unwrap();
    drop(steps);
    assert_eq!(read(&engine), (2 * TOKENS, 2 * TOKENS, 4));
}

#[test]
fn rows_end_at_their_own_stop_string_token_and_length() {
    let mut engine = engine(&support::dense);
    let prompts: Vec<Vec<u32>> = (1..9).map(|words| engine.encode(&text(words * 5)).unwrap()).collect();
    let free = run(&mut engine, &prompts, &new_tokens(30));
    // A stop string of two tokens from the middle of each row's own text, so that rows end at different times.
    let stop: Vec<String> =
        free.iter().enumerate().filter_map(|(row, completion)| middle(&completion.text, 1 + row % 4)).collect();
    assert!(stop.len() >= 4, "{stop:?}");
    let options = GenerateOptions { max_new_tokens: 30, stop: stop.clone() };
    let stopped = run(&mut engine, &prompts, &options);
    for (free, stopped) in free.iter().zip(&stopped) {
        let cut = stop.iter().fold(free.text.as_str(), |text, stop| text.split(stop.as_str()).next().unwrap());
        assert_eq!(stopped.text, cut);
        assert!(free.ids.starts_with(&stopped.ids));
        assert_eq!(stopped.reason == StopReason::StopString, cut.len() < free.text.len());
    }
    assert!(stopped.iter().filter(|completion| completion.reason == StopReason::StopString).count() >= 4);
}

fn middle(text: &str, at: usize) -> Option<String> {
    let middle: String = text.chars().skip(at).take(2).collect();
    (middle.chars().count() == 2 && !middle.contains('\u{fffd}')).then_some(middle)
}

#[test]
fn logits_do_not_depend_on_the_chunks_they_come_in() {
    let mut engine = engine(&support::int4);
    let ids = engine.encode_plain(&text(110)).unwrap();
    assert!(ids.len() > 512);
    let mut rows: Vec<Vec<f32>> = Vec::new();
    let collect = &mut |first: usize, logits: ndarray::ArrayView2<'_, f32>| {
        assert_eq!(first, rows.len());
        rows.extend(logits.rows().into_iter().map(|row| row.to_vec()));
    };
    engine.logits(&ids, collect).unwrap();
    assert_eq!((rows.len(), rows[0].len()), (ids.len(), 130));
    // A prefix that ends elsewhere falls into other chunks.
    for length in [1, 255, 300] {
        let mut last = Vec::new();
        engine.logits(&ids[..length], &mut |_, logits| last = logits.row(logits.nrows() - 1).to_vec()).unwrap();
        let largest = last.iter().zip(&rows[length - 1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-4, "{largest} at {length}");
    }
}

#[test]
fn prompts_that_cannot_be_read_are_refused_by_row() {
    let mut engine = engine(&support::dense);
    assert_eq!((engine.context_length(), engine.bos()), (1536, Some(support::BOS)));
    let refused =
        |engine: &mut Engine, prompts: &[Vec<u32>]| engine.generate(prompts, &new_tokens(4), &mut |_| {}).err().unwrap();
    assert!(matches!(refused(&mut engine, &[vec![1], vec![]]), GenerateError::EmptyPrompt { row: 1 }));
    let error = refused(&mut engine, &[vec![1; 1533]]);
    assert!(matches!(error, GenerateError::PromptTooLong { row: 0, tokens: 1533, max_new_tokens: 4, context: 1536 }));
    let full = run(&mut engine, &[vec![1; 1532]], &new_tokens(4)).remove(0);
    assert_eq!((full.ids.len(), full.reason), (4, StopReason::Length));
    assert_eq!(run(&mut engine, &[], &new_tokens(4)), []);
    let nothing = run(&mut engine, &[vec![1, 2]], &new_tokens(0)).remove(0);
    assert_eq!(nothing, Completion { ids: vec![], text: String::new(), reason: StopReason::Length });
}

#[test]
fn inspect_finds_every_quantized_product_fused() {
    let dir = tempfile::tempdir().unwrap();
    support::write_artifact(dir.path(), DType::F32, &support::int4);
    let inspection = inspect(dir.path(), &CPU).unwrap_or_else(|error| panic!("{error}"));
    let quantized: Vec<_> = inspection.matmuls.iter().filter(|matmul| matmul.quantized).collect();
    assert_eq!(quantized.len(), 3 * 7);
    for matmul in &quantized {
        assert_eq!(matmul.execution, Execution::Fused { operator: "MatMulNBits".to_owned() }, "{matmul:?}");
        assert_eq!(matmul.provider, "CPUExecutionProvider");
    }
    let head: Vec<_> = inspection.matmuls.iter().filter(|matmul| !matmul.quantized).collect();
    assert_eq!(head.len(), 1);
    assert_eq!(head[0].execution, Execution::Dense { operator: "MatMul".to_owned() });
    assert!(inspection.memory_copies.is_empty());
    assert_eq!(inspection.operators["CPUExecutionProvider"]["GroupQueryAttention"], 3);
}

#[test]
fn an_f16_cache_is_shared_and_copied_like_an_f32_one() {
    let mut engine = engine_of(DType::F16, &|_| WeightForm::Dense(DType::F16));
    let story = text(40);
    let turns = ["Q: a", "Q: a b", "Q: a b c", "Q: x"].map(|turn| engine.encode(&format!("{story}{turn}")).unwrap());
    let options = new_tokens(1);
    let first = run(&mut engine, &turns, &options);
    for (turn, completion) in turns.iter().zip(first) {
        assert_eq!(completion.ids, by_logits(&mut engine, turn, 1));
    }
    // A few tokens only: over many, rounding to f16 may tell a batch from a row alone.
    let options = new_tokens(4);
    let together = run(&mut engine, &turns, &options);
    for (turn, completion) in turns.iter().zip(together) {
        assert_eq!(run(&mut engine, std::slice::from_ref(turn), &options), [completion]);
    }
}

#[test]
fn a_graph_that_qonnx_did_not_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    support::write_artifact(dir.path(), DType::F32, &support::dense);
    let path = dir.path().join("model.onnx");
    let refused = || {
        let error = Engine::load(dir.path(), &CPU).err().unwrap();
        assert_eq!(error.fault(), Fault::BadInput);
        error.to_string()
    };
    let of_model = |what: &str| format!("{} is not a decoder that qonnx wrote: {what}; export it again", path.display());
    let graph = Graph::new("other");
    let x = graph.input("x", Type::new(DType::F32, [2.into()]));
    let y = graph.at("m").add(x, x);
    std::fs::write(&path, encode(&graph.finish(&[y]).unwrap()).unwrap()).unwrap();
    assert_eq!(refused(), of_model("it has no table model.rotary_emb.cos"));
    std::fs::write(&path, b"\x08\xff not a model").unwrap();
    assert!(refused().starts_with(&of_model("")[..of_model("").len() - "; export it again".len()]));
    std::fs::remove_file(dir.path().join("model.onnx.data")).unwrap();
    assert!(refused().contains("there is no model.onnx.data"), "{}", refused());
}

#[test]
fn a_folder_that_is_no_artifact_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Engine::load(dir.path(), &CPU).err().unwrap();
    let expected = format!(
        "{} is not a qonnx artifact: there is no model.onnx; make one with `qonnx export MODEL -o DIR`",
        dir.path().display()
    );
    assert_eq!(error.to_string(), expected);
}
