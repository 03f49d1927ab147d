//! A library's manners: nothing is said or drawn unless the program owns the terminal, work ends where its caller says so, and what
//! went wrong is a type that says it in full.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use qonnx::artifact::plan::{Method, RecipeFlags};
use qonnx::artifact::quantized::QuantizedCheckpoint;
use qonnx::artifact::{ArtifactError, hashing};
use qonnx::checkpoint::CheckpointError;
use qonnx::checkpoint::hub::HubError;
use qonnx::commands::{CommandError, RuntimeChoice, evaluate, export, quantize, verify};
use qonnx::compress::calibrate::StatisticsCache;
use qonnx::compress::{self, CompressError};
use qonnx::eval::EvalError;
use qonnx::eval::coqa::{Progress, Protocol};
use qonnx::fault::Fault;
use qonnx::generate::GenerateError;
use qonnx::host::interrupt::{CancelToken, Interrupted};
use qonnx::host::{FileError, in_full, progress, terminal};
use qonnx::recipe::{BudgetRecipe, FormatName};
use qonnx::record::RecordError;
use qonnx::runtime::{ExecutionProvider, Launch, RuntimeError, WeightKernels};
use qonnx::study::StudyError;
use qonnx::study::experiment::{self, Ask, Device, ExperimentError, Measure, ScoringWeights};
use qonnx::study::sweep::{self, Overrides, SweepError};
use qonnx::tensor::DType;
use qonnx::tensor::convert::ConvertError;
use qonnx::usage::UsageError;

use crate::support::edited::Edited;
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
    assert!(said.contains("2 of 6 layers are kept") || error.is_interrupted(), "{said}");
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
    assert!(matches!(error, CommandError::Eval(EvalError::Model(GenerateError::Interrupted(Interrupted)))), "{error:?}");
    assert!(error.is_interrupted());
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
        assert!(error.is_interrupted(), "{what}: {error:?}");
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

const RUNTIME: RuntimeChoice = RuntimeChoice {
    provider: ExecutionProvider::Cpu,
    threads: None,
    weights: WeightKernels::FusedFast,
    launch: Launch::Eager,
    cancel: CancelToken::NEVER,
};

/// An error's sentence, and those of its causes.
fn sentences(error: &(dyn Error + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect()
}

/// What a disk says of a file that is not there.
fn missing() -> String {
    fs::metadata("/no/such/file").unwrap_err().to_string()
}

#[test]
fn what_is_wrong_with_a_models_files_is_told_by_type_and_in_full() {
    let place = tempfile::tempdir().unwrap();
    let gone = place.path().join("gone");
    let error = hashing::of_file(&gone).unwrap_err();
    assert_eq!(error.fault(), Fault::Failed);
    assert_eq!(sentences(&error), [format!("{}: cannot be read", gone.display()), missing()]);
    let ArtifactError::File(FileError { path, source, .. }) = error else { panic!("{error:?}") };
    assert_eq!((path, source.kind()), (gone, std::io::ErrorKind::NotFound));

    let error = QuantizedCheckpoint::open(place.path()).err().expect("there is none");
    assert!(matches!(error, ArtifactError::Manifest(_)) && error.fault() == Fault::BadInput, "{error:?}");

    let stopped = CancelToken::new();
    stopped.cancel();
    let error = hashing::Hash::new(&stopped).update(b"x").unwrap_err();
    assert!(matches!(error, ArtifactError::Interrupted(Interrupted)) && error.is_interrupted(), "{error:?}");
    assert_eq!((error.fault(), sentences(&error)), (Fault::Failed, vec![Interrupted.to_string()]));
}

#[test]
fn why_statistics_cannot_be_kept_is_told_by_type() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("letter"), "").unwrap();
    let error = StatisticsCache::open(place.path()).unwrap_err();
    assert!(matches!(&error, CompressError::Usage(UsageError::StatisticsForeign { file, .. }) if file == "letter"), "{error:?}");
    assert_eq!((error.fault(), sentences(&error).len()), (Fault::BadInput, 1));
    let below = place.path().join("letter/statistics");
    let error = StatisticsCache::open(&below).unwrap_err();
    assert!(matches!(&error, CompressError::File(FileError { path, .. }) if *path == below), "{error:?}");
    assert_eq!(error.fault(), Fault::Failed);
    assert_eq!(sentences(&error)[0], format!("--save-stats {}: cannot be made", below.display()));
    assert_eq!(sentences(&error).len(), 2, "and what the disk said");
}

#[test]
fn a_command_says_whose_fault_it_is_from_whichever_room_the_error_comes() {
    let edited = Edited::new();
    let run = |model: &Path, flags: RecipeFlags| {
        let output = export::Options::new(edited.at("out"));
        export::run(&tiny::request(model, flags, DType::F16), &output).expect_err("it is refused")
    };
    let empty = edited.at("empty");
    fs::create_dir(&empty).unwrap();
    let error = run(&empty, RecipeFlags::default());
    let CommandError::Checkpoint(CheckpointError::NoWeights { dir, .. }) = &error else { panic!("{error:?}") };
    assert_eq!((error.fault(), dir), (Fault::BadInput, &empty));

    // Three rooms deep, and each of two sentences there once.
    const WEIGHT: &str = "model.layers.1.mlp.up_proj.weight";
    edited.tensor(WEIGHT, |values| values[5] = f32::NAN);
    let error = run(&edited.model(), RecipeFlags::default());
    let CommandError::Compress(CompressError::Artifact(ArtifactError::In { place, source })) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*place, format!("weight {WEIGHT}"));
    assert!(matches!(**source, ArtifactError::Convert(ConvertError::NotFinite { .. })), "{source:?}");
    assert_eq!((error.fault(), sentences(&error)), (Fault::BadInput, vec![place.clone(), source.to_string()]));
    assert_eq!(in_full(&error), format!("{place}: {source}"));
    // The same number, found while the model is calibrated.
    let error = run(&edited.model(), RecipeFlags { method: Method::Gptq, ..RecipeFlags::default() });
    let CommandError::Compress(CompressError::In { place, source }) = &error else { panic!("{error:?}") };
    assert!(matches!(**source, CompressError::Convert(ConvertError::NotFinite { .. })), "{source:?}");
    assert_eq!((error.fault(), sentences(&error)), (Fault::BadInput, vec![format!("weight {WEIGHT}"), source.to_string()]));
    assert_eq!(*place, format!("weight {WEIGHT}"));

    let error = verify::run(&edited.model(), &RUNTIME).expect_err("it is no artifact");
    assert!(matches!(error, CommandError::Manifest(RecordError::Missing { .. })), "{error:?}");
    assert_eq!((error.fault(), sentences(&error).len()), (Fault::BadInput, 1));
}

/// The words of a backend's own error follow those of whoever asked it, and it says better whose fault it was.
#[test]
fn a_failed_backend_is_asked_whose_fault_it_was() {
    let dir = PathBuf::from("d");
    let backend = CommandError::from(GenerateError::from(RuntimeError::NotAnArtifact { dir, missing: "config.json".to_owned() }));
    assert_eq!(backend.fault(), Fault::BadInput);
    assert_eq!(sentences(&backend)[0], "the backend failed");
    assert!(sentences(&backend)[1].starts_with("d is not a qonnx artifact"), "{backend:?}");
    let unknown = CommandError::from(GenerateError::Backend("who knows".into()));
    assert_eq!((unknown.fault(), in_full(&unknown).as_str()), (Fault::Failed, "the backend failed: who knows"));
}

#[test]
fn a_study_hands_on_what_the_rooms_below_say() {
    let place = tempfile::tempdir().unwrap();
    let results = place.path().join("results");
    let ask = |model: &str| Ask {
        model: model.to_owned(),
        results: results.clone(),
        device: Device { provider: ExecutionProvider::Cpu, threads: None, f32: true, eager: false },
        measure: Measure { coqa: None, text: None, bench: None, weights: ScoringWeights::Dequantized },
        calibration: None,
        baseline: "fp16_baseline".to_owned(),
        keep: false,
    };
    let run = |experiment: &str, model: &str| {
        experiment::run(experiment, ask(model), Stdio::null()).map(drop).expect_err("it is refused")
    };
    let error = run("no-such-experiment", "m");
    assert!(matches!(error, StudyError::Experiment(ExperimentError::Unreadable { .. })), "{error:?}");
    assert_eq!((error.fault(), sentences(&error).len(), &sentences(&error)[1]), (Fault::BadInput, 2, &missing()));

    let file = place.path().join("mine.toml");
    fs::write(&file, "title = \"t\"\nmethod = \"rtn\"\nrecipe = \"no-such-recipe\"").unwrap();
    let error = run(&file.display().to_string(), "m");
    let StudyError::In { place: told, source } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, StudyError::Recipe(_)), "{source:?}");
    assert_eq!((error.fault(), told), (Fault::BadInput, &file.display().to_string()));
    let said = sentences(&error);
    assert_eq!((&said[0], &said[2], said.len()), (told, &missing(), 3), "{said:?}");
    assert!(said[1].starts_with("recipe no-such-recipe: cannot be read; "), "{said:?}");

    let model = place.path().join("gone").display().to_string();
    let error = run("int8_rtn", &model);
    assert!(matches!(error, StudyError::Artifact(ArtifactError::Hub(HubError::Ambiguous { .. }))), "{error:?}");
    assert_eq!(error.fault(), Fault::BadInput);

    let request = sweep::Request {
        file: place.path().join("gone.toml"),
        results,
        overrides: Overrides::default(),
        dry_run: true,
        devices: Vec::new(),
        jobs: 1,
        retry_failed: false,
    };
    let error = sweep::run(&request).map(drop).expect_err("there is no such file");
    assert!(matches!(error, StudyError::Sweep(SweepError::Unreadable { .. })), "{error:?}");
    assert_eq!((error.fault(), sentences(&error).len(), &sentences(&error)[1]), (Fault::BadInput, 2, &missing()));
}
