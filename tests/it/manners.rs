//! A library's manners: nothing is said or drawn unless the program owns the terminal, and work ends where its caller says so.

use std::process::Command;

use qonnx::artifact::plan::{Method, RecipeFlags};
use qonnx::commands::{RuntimeChoice, evaluate, export, quantize};
use qonnx::compress;
use qonnx::eval::coqa::{Progress, Protocol};
use qonnx::generate::GenerateError;
use qonnx::host::interrupt::{CancelToken, Interrupted};
use qonnx::host::{progress, terminal};
use qonnx::recipe::{BudgetRecipe, FormatName};
use qonnx::runtime::{ExecutionProvider, Launch, WeightKernels};
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
        weights: WeightKernels::FusedFast,
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
    let mut stop = |now: &Progress| {
        if now.done > 0 {
            cancel.cancel();
        }
    };
    let error = evaluate::coqa_watched(&request, &mut stop).expect_err("it is stopped");
    let is_stopped =
        |cause: &(dyn std::error::Error + 'static)| matches!(cause.downcast_ref(), Some(GenerateError::Interrupted(Interrupted)));
    assert!(error.chain().any(is_stopped), "{error:#}");
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap().lines().count();
    assert!((1..24).contains(&lines(&answers)), "what was answered before is there");
    request.runtime.cancel = CancelToken::NEVER;
    let scores = evaluate::coqa(&request).expect("it goes on");
    assert_eq!((scores.report.questions, lines(&answers)), (24, 24));
}

/// Cancels at the first step of `what`: what an export and a quantization then say, and what is left beside their output.
fn cancelled_at(what: &'static str, flags: &RecipeFlags) {
    for quantizes in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let request = tiny::request(&tiny::model(), flags.clone(), DType::F16);
        let cancel = CancelToken::new();
        let stop = |step: progress::Step| {
            if step.what == what {
                cancel.cancel();
            }
        };
        stop(progress::Step { what: "start", done: 0, all: 1 });
        let calibration = compress::Options { cancel: cancel.clone(), ..compress::Options::default() };
        let options = export::Options { calibration, ..export::Options::new(place.path().join("out")) };
        let error = match quantizes {
            false => export::watched(&request, &options, &stop).err(),
            true => quantize::watched(&request, &options, &stop).err(),
        };
        let error = error.expect("it is stopped");
        assert!(error.is::<Interrupted>(), "{what}: {error:#}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "{what}: nothing is left");
    }
}

#[test]
fn a_search_for_widths_and_the_writing_of_weights_end_by_the_token_and_leave_nothing() {
    let budget = Some(BudgetRecipe::Bpw(3.4));
    cancelled_at("budget", &RecipeFlags { method: Method::Gptq, budget, ..RecipeFlags::default() });
    cancelled_at("calibrate", &RecipeFlags { method: Method::Gptq, ..RecipeFlags::default() });
    cancelled_at("start", &RecipeFlags::default());
}

#[test]
fn a_model_that_changes_while_it_is_worked_on_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(tiny::model()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let config = folder.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let request = tiny::request(&folder, RecipeFlags { method: Method::Gptq, ..RecipeFlags::default() }, DType::F16);
    let change = |step: progress::Step| {
        if step.done > 0 {
            std::fs::write(&config, text.replace("500000.0", "10000.0")).unwrap();
        }
    };
    for quantizes in [false, true] {
        std::fs::write(&config, &text).unwrap();
        let options = export::Options::new(place.path().join(format!("out-{quantizes}")));
        let error = match quantizes {
            false => export::watched(&request, &options, &change).err(),
            true => quantize::watched(&request, &options, &change).err(),
        };
        let error = error.expect("config.json has changed").to_string();
        assert_eq!(error, "config.json: the model's has changed since the work began; run the command again");
        assert!(!options.output.exists());
    }
}
