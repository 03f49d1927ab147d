//! What an experiment scored, task by task.
//!
//! ```json
//! [{ "task": "coqa", "version": "official 1.0", "data": "coqa-mini.json", "counts": { "questions": 248 }, "questions_per_second": 205.0,
//!    "predictions": "int8_rtn.jsonl", "baseline": { "name": "fp16_baseline", "id": "990bdb3ce45d51b5" },
//!    "scores": [{ "metric": "f1", "value": 0.29, "stderr": 0.018,
//!                 "paired": { "difference": -0.05, "ci95": [-0.08, -0.02], "smallest_detectable": 0.04 } }] }]
//! ```
//!
//! A task that is added is one more object of the list, with names of its own for its metrics and for what it counts.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The task of questions about a passage.
pub const COQA: &str = "coqa";
/// The task of predicting a text.
pub const PERPLEXITY: &str = "perplexity";
/// The task of predicting a text as the baseline does.
pub const KL: &str = "kl";
/// What CoQA counts.
pub const QUESTIONS: &str = "questions";
/// What perplexity and KL count.
pub const WINDOWS: &str = "windows";
/// As [`WINDOWS`]: those that are predicted.
pub const TOKENS: &str = "tokens";

/// A metric of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreName {
    pub task: &'static str,
    pub metric: &'static str,
}

/// A fraction from 0 to 1.
pub const COQA_F1: ScoreName = ScoreName { task: COQA, metric: "f1" };
/// A fraction from 0 to 1.
pub const COQA_EM: ScoreName = ScoreName { task: COQA, metric: "em" };
/// exp of the mean negative log-likelihood of a token.
pub const TEXT_PERPLEXITY: ScoreName = ScoreName { task: PERPLEXITY, metric: "perplexity" };
/// Mean of KL(baseline ‖ this), nats a token.
pub const KL_MEAN: ScoreName = ScoreName { task: KL, metric: "kl_mean" };

/// Every task that was scored, in the order it was; empty where none was.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EvaluationRecord {
    pub tasks: Vec<TaskRecord>,
}

/// One task, and its scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// `coqa`, `perplexity`, `kl`.
    pub task: String,
    /// Of what is asked and how it is scored: a protocol's name and version, `official 1.0`. Two versions are not compared.
    pub version: String,
    /// Name of the data's file, or the id of a hub data set.
    pub data: String,
    /// How much of the data was scored: `questions`; `windows` and `tokens`.
    pub counts: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub questions_per_second: Option<f64>,
    /// File of the answers, beside the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions: Option<String>,
    /// The baseline that the scores are set against. Where one has no paired difference all the same, a warning says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineRecord>,
    pub scores: Vec<ScoreRecord>,
}

/// The record that something is set against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineRecord {
    pub name: String,
    pub id: String,
}

/// One metric's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRecord {
    pub metric: String,
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired: Option<PairedRecord>,
}

/// A paired comparison with the baseline, question by question (`eval/compare.rs`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairedRecord {
    /// This less the baseline.
    pub difference: f64,
    pub ci95: [f64; 2],
    /// True difference that these questions would show with 80 % chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest_detectable: Option<f64>,
    /// McNemar's two-sided mid-p, of a metric that says right or wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_mid: Option<f64>,
}

impl EvaluationRecord {
    /// What a task scored, if it was asked.
    pub fn task(&self, task: &str) -> Option<&TaskRecord> {
        self.tasks.iter().find(|record| record.task == task)
    }

    /// A metric of a task, if it was measured.
    pub fn score(&self, name: ScoreName) -> Option<&ScoreRecord> {
        self.task(name.task)?.score(name.metric)
    }

    /// As [`Self::score`]: its value alone.
    pub fn value(&self, name: ScoreName) -> Option<f64> {
        self.score(name).map(|score| score.value)
    }

    /// Puts a task in, in place of what it scored before.
    pub fn set(&mut self, record: TaskRecord) {
        match self.tasks.iter_mut().find(|before| before.task == record.task) {
            Some(before) => *before = record,
            None => self.tasks.push(record),
        }
    }
}

impl TaskRecord {
    /// A metric, if it was measured.
    pub fn score(&self, metric: &str) -> Option<&ScoreRecord> {
        self.scores.iter().find(|score| score.metric == metric)
    }

    /// How many of `unit` were scored.
    pub fn count(&self, unit: &str) -> u64 {
        self.counts.get(unit).copied().unwrap_or_default()
    }
}

impl ScoreRecord {
    /// A value that nothing more is known of.
    pub fn plain(name: ScoreName, value: f64) -> ScoreRecord {
        ScoreRecord { metric: name.metric.to_owned(), value, stderr: None, paired: None }
    }
}

/// `f1 of coqa`
impl fmt::Display for ScoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.metric, self.task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, metric: &str, value: f64) -> TaskRecord {
        let text = format!(
            r#"{{"task": "{name}", "version": "1", "data": "d", "counts": {{"documents": 7}}, "scores": [{{"metric": "{metric}", "value": {value}}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_task_that_nobody_knew_of_needs_no_field() {
        let mut evaluation = EvaluationRecord::default();
        evaluation.set(task("arc", "accuracy", 0.5));
        evaluation.set(task(COQA, "f1", 0.25));
        let read: EvaluationRecord = serde_json::from_str(&serde_json::to_string(&evaluation).unwrap()).unwrap();
        assert_eq!(read, evaluation);
        assert_eq!(read.value(ScoreName { task: "arc", metric: "accuracy" }), Some(0.5));
        assert_eq!(read.task("arc").map(|arc| [arc.count("documents"), arc.count(QUESTIONS)]), Some([7, 0]));
        assert_eq!((read.value(COQA_F1), read.value(COQA_EM), read.value(KL_MEAN)), (Some(0.25), None, None));
    }

    #[test]
    fn what_a_task_scores_again_takes_the_place_of_what_it_scored() {
        let mut evaluation = EvaluationRecord { tasks: vec![task(COQA, "f1", 0.25), task(PERPLEXITY, "perplexity", 9.0)] };
        evaluation.set(task(COQA, "f1", 0.5));
        assert_eq!(evaluation.tasks, [task(COQA, "f1", 0.5), task(PERPLEXITY, "perplexity", 9.0)]);
    }
}
