//! What a sweep came to, as a table and as one JSON object.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::estimate;
use super::plan::PlanReport;
use crate::host::table::table;
use crate::record::RunRecord;
use crate::study::experiment::{decode_ms, with_error};

/// Columns of the table.
pub const HEADER: [&str; 7] = ["experiment", "state", "bits", "F1", "F1 − baseline", "ms/token", "time"];
/// Those that are numbers.
pub const RIGHT: [usize; 5] = [2, 3, 4, 5, 6];

/// An experiment's row of the table.
pub fn cells(name: &str, state: &str, bits: f64, record: Option<&RunRecord>, time: String) -> Vec<String> {
    let bits = record.and_then(|record| record.sizes).map_or(bits, |sizes| sizes.bits_per_weight_linears);
    let scores = record.and_then(|record| record.evaluation.as_ref());
    let difference = scores.and_then(|scores| scores.paired.as_ref()).map(|paired| {
        let [low, high] = paired.f1_ci95;
        format!("{:+.4} [{low:+.4}, {high:+.4}]", paired.f1_difference)
    });
    vec![
        name.to_owned(),
        state.to_owned(),
        format!("{bits:.3}"),
        scores.map(|scores| with_error(scores.coqa_f1, scores.coqa_f1_stderr)).unwrap_or_default(),
        difference.unwrap_or_default(),
        record.and_then(decode_ms).map(|ms| format!("{ms:.2}")).unwrap_or_default(),
        time,
    ]
}

/// `qonnx sweep`'s answer: what would be done, or what was.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum SweepReport {
    Plan(PlanReport),
    Results(Results),
}

/// What a sweep came to.
#[derive(Debug, Serialize)]
pub struct Results {
    pub sweep: PathBuf,
    pub results: PathBuf,
    pub experiments: Vec<ResultRow>,
    /// Experiments that have a record without a failure.
    pub done: usize,
    pub failed: usize,
    /// Of this run.
    pub seconds: f64,
}

/// One experiment.
#[derive(Debug, Serialize)]
pub struct ResultRow {
    pub name: String,
    pub id: String,
    /// `done`, `done before`, `failed`.
    pub state: &'static str,
    pub record: Option<PathBuf>,
    pub bits_per_weight: f64,
    pub f1: Option<f64>,
    pub f1_stderr: Option<f64>,
    pub f1_difference: Option<f64>,
    pub f1_ci95: Option<[f64; 2]>,
    pub decode_ms_per_token: Option<f64>,
    pub seconds: Option<f64>,
    pub failure: Option<String>,
    #[serde(skip)]
    pub(super) shown: Vec<String>,
}

impl ResultRow {
    /// Of an experiment whose record is `record`, if it has one; `failure` where it failed.
    pub fn of(
        name: &str,
        id: &str,
        state: &'static str,
        bits: f64,
        record: Option<&RunRecord>,
        failure: Option<String>,
    ) -> ResultRow {
        let scores = record.and_then(|record| record.evaluation.as_ref());
        let paired = scores.and_then(|scores| scores.paired.as_ref());
        let seconds = record.map(estimate::taken);
        ResultRow {
            name: name.to_owned(),
            id: id.to_owned(),
            state,
            record: None,
            bits_per_weight: record.and_then(|record| record.sizes).map_or(bits, |sizes| sizes.bits_per_weight_linears),
            f1: scores.map(|scores| scores.coqa_f1),
            f1_stderr: scores.and_then(|scores| scores.coqa_f1_stderr),
            f1_difference: paired.map(|paired| paired.f1_difference),
            f1_ci95: paired.map(|paired| paired.f1_ci95),
            decode_ms_per_token: record.and_then(decode_ms),
            seconds,
            failure,
            shown: cells(name, state, bits, record, seconds.map(estimate::shown).unwrap_or_default()),
        }
    }
}

impl SweepReport {
    /// Whether no experiment failed.
    pub fn succeeded(&self) -> bool {
        match self {
            SweepReport::Plan(_) => true,
            SweepReport::Results(results) => results.failed == 0,
        }
    }
}

impl fmt::Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SweepReport::Plan(plan) => plan.fmt(f),
            SweepReport::Results(results) => results.fmt(f),
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", table(&HEADER, &RIGHT, self.experiments.iter().map(|row| row.shown.clone())))?;
        for row in &self.experiments {
            if let Some(failure) = &row.failure {
                writeln!(f, "{} failed: {failure}", row.name)?;
            }
        }
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        let time = estimate::shown(self.seconds);
        write!(
            f,
            "{} of {} done{failed}, {time} in this run; records in {}",
            self.done,
            self.experiments.len(),
            self.results.display()
        )?;
        if self.failed > 0 {
            write!(f, "\ntheir output is in logs/ there; --retry-failed runs them again")?;
        }
        Ok(())
    }
}
