//! What a sweep came to, as a table and as one JSON object.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::estimate;
use super::plan::PlanReport;
use crate::host::table::table;
use crate::record::{COQA_F1, EvaluationRecord, KL_MEAN, RunRecord, TEXT_PERPLEXITY};
use crate::study::experiment::{Job, Measure, decode_ms, with_error, with_interval};

/// Columns of the table that are numbers.
pub const RIGHT: [usize; 5] = [2, 3, 4, 5, 6];

/// Which scores the table shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// CoQA's F1, and what of it the baseline has more or less.
    Coqa,
    /// Perplexity and KL, where they are all that is scored.
    Text,
}

impl Columns {
    /// Of a sweep that measures this.
    pub fn of(measure: &Measure) -> Columns {
        if measure.coqa.is_none() && measure.text.is_some() { Columns::Text } else { Columns::Coqa }
    }

    /// The table's header.
    pub fn header(self) -> [&'static str; 7] {
        let [score, difference] = match self {
            Columns::Coqa => ["F1", "F1 − baseline"],
            Columns::Text => ["perplexity", "KL"],
        };
        ["experiment", "state", "bits", score, difference, "ms/token", "time"]
    }

    /// An experiment's row of the table.
    pub fn cells(self, name: &str, state: &str, bits: f64, record: Option<&RunRecord>, time: String) -> Vec<String> {
        let bits = record.and_then(|record| record.sizes).map_or(bits, |sizes| sizes.bits_per_weight_linears);
        let [score, difference] = record.map(|record| self.scores(&record.evaluation)).unwrap_or_default();
        vec![
            name.to_owned(),
            state.to_owned(),
            format!("{bits:.3}"),
            score,
            difference,
            record.and_then(decode_ms).map(|ms| format!("{ms:.2}")).unwrap_or_default(),
            time,
        ]
    }

    fn scores(self, evaluation: &EvaluationRecord) -> [String; 2] {
        let shown = match self {
            Columns::Coqa => {
                let f1 = evaluation.score(COQA_F1);
                [f1.map(with_error), f1.and_then(|f1| f1.paired.as_ref()).map(with_interval)]
            }
            Columns::Text => [
                evaluation.value(TEXT_PERPLEXITY).map(|perplexity| format!("{perplexity:.3}")),
                evaluation.value(KL_MEAN).map(|kl| format!("{kl:.5}")),
            ],
        };
        shown.map(Option::unwrap_or_default)
    }
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
    #[serde(skip)]
    pub(super) columns: Columns,
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
    pub perplexity: Option<f64>,
    /// Mean KL divergence from the baseline, nats a token.
    pub kl_mean: Option<f64>,
    pub decode_ms_per_token: Option<f64>,
    pub seconds: Option<f64>,
    pub failure: Option<String>,
    #[serde(skip)]
    pub(super) shown: Vec<String>,
}

impl ResultRow {
    /// Of an experiment whose record is `record`, if it has one; `failure` where it failed.
    pub fn of(
        columns: Columns,
        planned: &Job,
        state: &'static str,
        bits: f64,
        record: Option<&RunRecord>,
        failure: Option<String>,
    ) -> ResultRow {
        let evaluation = record.map(|record| record.evaluation.clone()).unwrap_or_default();
        let f1 = evaluation.score(COQA_F1);
        let paired = f1.and_then(|f1| f1.paired.as_ref());
        let seconds = record.map(estimate::taken);
        ResultRow {
            name: planned.name.clone(),
            id: planned.id.clone(),
            state,
            record: None,
            bits_per_weight: record.and_then(|record| record.sizes).map_or(bits, |sizes| sizes.bits_per_weight_linears),
            f1: f1.map(|f1| f1.value),
            f1_stderr: f1.and_then(|f1| f1.stderr),
            f1_difference: paired.map(|paired| paired.difference),
            f1_ci95: paired.map(|paired| paired.ci95),
            perplexity: evaluation.value(TEXT_PERPLEXITY),
            kl_mean: evaluation.value(KL_MEAN),
            decode_ms_per_token: record.and_then(decode_ms),
            seconds,
            failure,
            shown: columns.cells(&planned.name, state, bits, record, seconds.map(estimate::shown).unwrap_or_default()),
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
        writeln!(f, "{}\n", table(&self.columns.header(), &RIGHT, self.experiments.iter().map(|row| row.shown.clone())))?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_table_shows_the_text_s_scores_where_they_are_all() {
        let measure: Measure = serde_json::from_str(
            r#"{"coqa": null, "text": {"file": "t.txt", "window": null, "windows": null}, "bench": null, "weights": "fused"}"#,
        )
        .unwrap();
        let columns = Columns::of(&measure);
        assert_eq!(columns.header()[3..5], ["perplexity", "KL"]);
        assert_eq!(Columns::of(&Measure::default()).header()[3..5], ["F1", "F1 − baseline"]);
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/tiny-coqa");
        let record = RunRecord::load(&RunRecord::path(&results, "awq_4bit_g128")).unwrap();
        let cells = |columns: Columns| columns.cells("a", "done", 0.0, Some(&record), String::new())[3..5].to_vec();
        assert_eq!(cells(columns), ["29.530", "0.04499"]);
        assert_eq!(cells(Columns::Coqa), ["0.2923 ± 0.0180", "-0.0506 [-0.0795, -0.0232]"]);
    }
}
