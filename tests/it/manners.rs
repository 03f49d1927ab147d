//! A library's manners: nothing is said or drawn unless the program owns the terminal, and work ends where its caller says so.

use std::process::Command;

use qonnx::artifact::plan::{Method, RecipeFlags};
use qonnx::commands::{RuntimeChoice, evaluate, export};
use qonnx::compress;
use qonnx::eval::coqa::Protocol;
use qonnx::host::interrupt::{CancelToken, Interrupted};
use qonnx::host::{progress, terminal};
use qonnx::recipe::FormatName;
use qonnx::runtime::{ExecutionProvider, Launch, Weights};
use qonnx::tensor::DType;

use crate::support::{tiny, tools};

/// The test that this process is to run by itself, on a terminal.
const CHILD: &str = "QONNX_TEST_MANNERS";

/// What this test program, run again for one test on a terminal of its own, writes there.
fn on_a_terminal(mode: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let line =
        format!("{} --exact manners::nothing_is_drawn_unless_the_program_owns_the_terminal --nocapture", program.display());
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).env(CHILD, mode).output().expect("script starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn nothing_is_drawn_unless_the_program_owns_the_terminal() {
    match std::env::var(CHILD).as_deref() {
        Ok(mode) => {
            if mode == "program" {
                terminal::own();
            }
            terminal::say("a word");
            let bar = progress::count(2, "things");
            bar.inc(1);
            bar.tick();
            bar.abandon();
        }
        Err(_) if tools::finds("script") => {
            let (library, program) = (on_a_terminal("library"), on_a_terminal("program"));
            assert!(!library.contains("a word") && !library.contains("things"), "{library}");
            assert!(program.contains("a word") && program.contains("things"), "{program}");
        }
        Err(_) => {}
    }
}

#[test]
fn an_export_that_is_cancelled_keeps_its_finished_layers_and_goes_on_from_there() {
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("out");
    let flags = RecipeFlags { method: Method::Gptq, ..RecipeFlags::default() };
    let request = tiny::request(&tiny::model(), flags, DType::F16);
    let cancel = CancelToken::new();
    let calibration = compress::Options { cancel: cancel.clone(), ..compress::Options::default() };
    let options = export::Options { calibration, ..export::Options::new(output.clone()) };
    // Four inputs a layer: the second layer is finished by the eighth.
    let stop = |step: progress::Step| {
        if step.done == 8 {
            cancel.cancel();
        }
    };
    let error = export::watched(&request, &options, &stop).expect_err("it is stopped");
    let said = error.to_string();
    assert!(said.contains("2 of 6 layers are kept") || error.is::<Interrupted>(), "{said}");
    assert!(!output.exists());
    let seen = std::cell::Cell::new(0);
    let count = |step: progress::Step| seen.set(seen.get() + usize::from(step.what == "calibrate" && step.done > 8));
    let report = export::watched(&request, &export::Options::new(output.clone()), &count).expect("it goes on");
    assert!(report.artifact_bytes > 0 && output.join("model.onnx").is_file() && seen.get() == 16);
}

#[test]
fn an_evaluation_that_is_cancelled_keeps_its_answers_and_goes_on_from_there() {
    let place = tempfile::tempdir().unwrap();
    let (artifact, answers) = (place.path().join("artifact"), place.path().join("answers.jsonl"));
    tiny::export(&tiny::request(&tiny::model(), tiny::bits(FormatName::Int4), DType::F32), &artifact);
    let cancel = CancelToken::new();
    let runtime = RuntimeChoice {
        provider: ExecutionProvider::Cpu,
        threads: None,
        weights: Weights::FusedFast,
        launch: Launch::Eager,
        cancel: cancel.clone(),
    };
    let mut request = evaluate::CoqaRequest {
        artifact,
        data: tiny::model().join("coqa-mini.json").display().to_string(),
        protocol: Protocol::OFFICIAL,
        limit: Some(24),
        batch: 4,
        predictions: Some(answers.clone()),
        official_predictions: None,
        rescore: false,
        runtime,
    };
    let error = evaluate::coqa_watched(&request, &mut |_| cancel.cancel()).expect_err("it is stopped");
    assert!(error.chain().any(|cause| cause.is::<Interrupted>()), "{error:#}");
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap().lines().count();
    assert!((1..24).contains(&lines(&answers)), "what was answered before is there");
    request.runtime.cancel = CancelToken::NEVER;
    let scores = evaluate::coqa(&request).expect("it goes on");
    assert_eq!((scores.report.questions, lines(&answers)), (24, 24));
}
