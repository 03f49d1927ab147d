//! One experiment: a named recipe exported, checked, scored and measured, in a process of its own, and its record.
//!
//! ```text
//! Experiment (TOML) ─▶ Subject::plan ─▶ Job, with an id ─▶ worker process ─▶ results/<name>_results.json
//!                      (model, data)                        (stages.rs)
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Serialize;

use crate::host::table::{size, table};
use crate::host::terminal;
use crate::record::{
    BenchSettings, COQA, COQA_EM, COQA_F1, EvaluationRecord, KL_MEAN, Outcome, PairedRecord, QUESTIONS, RunRecord, ScoreRecord,
    TEXT_PERPLEXITY,
};
use crate::runtime::{self};
use crate::study::StudyError;

mod blank;
mod builtin;
mod child;
mod embedded;
mod error;
mod job;
mod messages;
mod named;
mod scores;
mod stages;
mod subject;
pub mod work;
pub mod worker;

pub use builtin::builtin_names;
pub use child::{Ending, News, Share, Worker};
pub use embedded::Embedded;
pub use error::ExperimentError;
pub use job::{CoqaMeasure, Device, Job, Measure, ProtocolName, ScoringWeights, TextMeasure};
pub use messages::{Event, Task};
pub use named::{Experiment, MethodLabel, placed};
pub use stages::has_artifact;
pub use subject::{Ask, Planned, Subject};

/// How a benchmark samples unless told otherwise: a grid of one point, as often as a median within about 2 % takes.
pub fn bench_settings(cuda_graph: bool) -> BenchSettings {
    BenchSettings {
        batches: vec![1],
        prompts: vec![128],
        new_tokens: 32,
        warmup: 2,
        min_repeats: 6,
        max_repeats: 30,
        confidence: 0.02,
        cuda_graph,
    }
}

/// What one experiment came to.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// File of the record.
    pub path: PathBuf,
    #[serde(flatten)]
    pub record: RunRecord,
}

/// `qonnx run`: a built-in experiment or the TOML file of one; `log` is where its process reports.
///
/// # Errors
/// What was asked is wrong, it was interrupted, or it could not even be recorded; an experiment that failed has a record.
pub fn run(experiment: &str, ask: Ask, log: Stdio) -> Result<RunReport, StudyError> {
    let experiment = Experiment::load(experiment)?;
    let results = ask.results.clone();
    known_baseline(&ask.baseline, &experiment.name, &results)?;
    if ask.device.provider.is_gpu() {
        runtime::require(ask.device.provider)?;
    }
    let job = Subject::open(ask)?.plan(&experiment)?.job;
    recorded(&job)?;
    let (worker, status) = child::attend(&Task::Experiment(Box::new(job.clone())), log, |event| {
        if let Event::Stage { stage } = &event {
            terminal::say(format_args!("{}: {stage}", job.name));
        }
    })?;
    let name = job.name.clone();
    let path = RunRecord::path(&results, &name);
    match worker.ending(&job, status)? {
        Ending::DiskFull(message) => Err(ExperimentError::DiskFull { name, message }.into()),
        Ending::Stopped => Err(ExperimentError::Interrupted { name, folder: results }.into()),
        // What it came to stays, and the next run goes on from there.
        Ending::Unrecorded(failure) => {
            Err(ExperimentError::Failed { name, message: format!("{}: {}", failure.stage, failure.message) }.into())
        }
        Ending::Failed(_) | Ending::Finished => {
            work::clear(&results);
            Ok(RunReport { record: RunRecord::load(&path)?, path })
        }
    }
}

/// Refuses a baseline that nobody can mean: not this experiment, none that has run, none that is built in.
fn known_baseline(baseline: &str, experiment: &str, results: &Path) -> Result<(), ExperimentError> {
    let is_known = baseline == experiment || builtin_names().contains(&baseline) || RunRecord::path(results, baseline).is_file();
    let unknown = || ExperimentError::NoBaseline { name: baseline.to_owned(), folder: results.to_owned() };
    if is_known { Ok(()) } else { Err(unknown()) }
}

/// The record that the results folder has under the job's name, whatever it is of.
///
/// # Errors
/// It cannot be read, or is of another model, whose study it would take the place of.
pub fn recorded(job: &Job) -> Result<Option<RunRecord>, StudyError> {
    work::refuse_foreign(job)?;
    let path = RunRecord::path(&job.results, &job.name);
    if !path.exists() {
        return Ok(None);
    }
    let record = RunRecord::load(&path)?;
    if !job.model_blake3.is_empty() && record.model.blake3 != job.model_blake3 {
        let shown = |source: &str, blake3: &str| format!("{source}, {:.8}", blake3);
        let (got, now) = (shown(&record.model.source, &record.model.blake3), shown(&job.model, &job.model_blake3));
        return Err(ExperimentError::OtherModel { path, got, now }.into());
    }
    Ok(Some(record))
}

impl RunReport {
    /// Whether every stage ended well.
    pub fn succeeded(&self) -> bool {
        self.record.failure.is_none()
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        writeln!(f, "{}: {}, {}\n", record.experiment_name, record.title, record.model.source)?;
        let mut rows: Vec<(&str, String)> = Vec::new();
        if let Some(sizes) = &record.sizes {
            rows.push(("bits per weight, linears", format!("{:.3}", sizes.bits_per_weight_linears)));
            rows.push(("bits per weight, model", format!("{:.3}", sizes.bits_per_weight_model)));
            rows.push(("model", size(sizes.model_bytes)));
        }
        if let Some(sanity) = &record.sanity {
            rows.push(("says", first_words(&sanity.text)));
        }
        rows.extend(score_rows(&record.evaluation));
        rows.extend(decode_ms(record).map(|ms| ("decode", format!("{ms:.2} ms/token"))));
        let lines = rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]);
        f.write_str(&table(&["", ""], &[], lines))?;
        for warning in &record.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        if let Some(failure) = &record.failure {
            write!(f, "\nfailed in stage {}: {}", failure.stage, failure.message)?;
        }
        write!(f, "\n\nrecord: {}", self.path.display())
    }
}

fn score_rows(evaluation: &EvaluationRecord) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(coqa) = evaluation.task(COQA) {
        let scores = [("CoQA F1", COQA_F1), ("CoQA EM", COQA_EM)];
        rows.extend(scores.iter().filter_map(|&(what, name)| Some((what, with_error(coqa.score(name.metric)?)))));
        rows.push(("questions", format!("{}, protocol {}", coqa.count(QUESTIONS), coqa.version)));
        let paired = coqa.score(COQA_F1.metric).and_then(|score| score.paired.as_ref());
        rows.extend(paired.map(|paired| ("F1 less the baseline's", with_interval(paired))));
    }
    rows.extend(evaluation.value(TEXT_PERPLEXITY).map(|perplexity| ("perplexity", format!("{perplexity:.3}"))));
    rows.extend(evaluation.value(KL_MEAN).map(|kl| ("KL from the baseline", format!("{kl:.5}"))));
    rows
}

/// `0.3431 ± 0.0243`
pub fn with_error(score: &ScoreRecord) -> String {
    let error = score.stderr.map(|stderr| format!(" ± {stderr:.4}")).unwrap_or_default();
    format!("{:.4}{error}", score.value)
}

/// `-0.0091 [-0.0240, +0.0054]`
pub fn with_interval(paired: &PairedRecord) -> String {
    let [low, high] = paired.ci95;
    format!("{:+.4} [{low:+.4}, {high:+.4}]", paired.difference)
}

/// Median of a decoding step at the first point of the grid that was measured with the smallest batch.
pub fn decode_ms(record: &RunRecord) -> Option<f64> {
    let points = record.benchmarks.iter().flat_map(|bench| &bench.points);
    let measured = points.filter_map(|point| match &point.outcome {
        Outcome::Measured(measured) => Some((point.batch, point.prompt_tokens, measured.decode_ms_per_token.p50)),
        _ => None,
    });
    measured.min_by_key(|(batch, prompt, _)| (*batch, *prompt)).map(|(.., ms)| ms)
}

fn first_words(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MOST { line } else { format!("{}…", line.chars().take(MOST).collect::<String>().trim_end()) }
}
