//! What a sweep would do: its experiments with their sizes, what is done already, how long the rest may take.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::axes::Excluded;
use super::file::{Member, SweepFile};
use super::{Overrides, SweepError, estimate};
use crate::host::in_full;
use crate::host::table::{size, table};
use crate::record::RunRecord;
use crate::study::StudyError;
use crate::study::experiment::{Ask, Planned, Subject, recorded};

/// A sweep that can be run.
pub struct SweepPlan {
    pub file: PathBuf,
    pub results: PathBuf,
    pub model: String,
    pub rows: Vec<SweepRow>,
    pub excluded: Vec<Excluded>,
    /// By how much earlier records say that the rules are off, and how many.
    factor: f64,
    records: usize,
}

/// One experiment of the sweep.
pub struct SweepRow {
    pub planned: Planned,
    pub before: Before,
    /// Estimated.
    pub seconds: f64,
}

/// What the results folder has of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub enum Before {
    Nothing,
    /// A record of just this, without a failure.
    Done(Box<RunRecord>),
    /// A record of just this that says why it ended early.
    Failed(Box<RunRecord>),
    /// A record of just this that holds no comparison with the baseline as it is now.
    Uncompared(Box<RunRecord>),
    /// A record under this name of something else, which is replaced.
    Other(Box<RunRecord>),
    /// The model is not here, so ids are not known.
    Unknown,
}

impl SweepRow {
    pub fn name(&self) -> &str {
        &self.planned.job.name
    }

    /// Whether it is to be run.
    pub fn is_open(&self, retry_failed: bool) -> bool {
        match self.before {
            Before::Done(_) => false,
            Before::Failed(_) => retry_failed,
            Before::Nothing | Before::Uncompared(_) | Before::Other(_) | Before::Unknown => true,
        }
    }
}

/// Plans the sweep in `path`. A dry run downloads no model; with `retry_failed` a baseline that failed will be there.
pub fn plan(path: &Path, results: PathBuf, overrides: Overrides, dry: bool, retry_failed: bool) -> Result<SweepPlan, StudyError> {
    let sweep = SweepFile::load(path)?;
    let ask = sweep.ask(path, results, overrides)?;
    let (members, excluded) = sweep.members(path)?;
    let Ask { results, .. } = ask.clone();
    let mut subject = if dry { Subject::glance(ask)? } else { Subject::open(ask)? };
    let file = path.display().to_string();
    let mut rows = Vec::new();
    for planned in planned(&members, &mut subject, &file)? {
        let before = before(&planned)?;
        rows.push(SweepRow { seconds: estimate::by_rule(&planned), planned, before });
    }
    refuse_duplicates(&rows, &file)?;
    open_incomparable(&mut rows, retry_failed);
    share_numbers(&mut rows, retry_failed);
    let (factor, records) = bring_into_line(&mut rows);
    let model = subject.model().to_owned();
    Ok(SweepPlan { file: path.to_owned(), results, model, rows, excluded, factor, records })
}

/// The jobs of all members; every one that the model or its recipe refuses is named.
fn planned(members: &[Member], subject: &mut Subject, file: &str) -> Result<Vec<Planned>, StudyError> {
    let (mut jobs, mut refusals) = (Vec::new(), Vec::new());
    for Member { experiment, combination } in members {
        match subject.plan(experiment) {
            Ok(planned) => jobs.push(planned),
            Err(error) => {
                let of = combination.as_ref().map(|combination| format!(" ({combination})")).unwrap_or_default();
                refusals.push(format!("{}{of}: {}", experiment.name, in_full(&error)));
            }
        }
    }
    if refusals.is_empty() { Ok(jobs) } else { Err(SweepError::Refused { file: file.to_owned(), refusals }.into()) }
}

fn before(planned: &Planned) -> Result<Before, StudyError> {
    let Some(record) = recorded(&planned.job)?.map(Box::new) else { return Ok(Before::Nothing) };
    Ok(match (&planned.job.id, &record.failure) {
        (id, _) if id.is_empty() => Before::Unknown,
        (id, None) if *id == record.id => Before::Done(record),
        (id, Some(_)) if *id == record.id => Before::Failed(record),
        _ => Before::Other(record),
    })
}

/// What was never compared with the baseline as it is now is done again: beside an earlier baseline, or beside none.
fn open_incomparable(rows: &mut [SweepRow], retry_failed: bool) {
    let Some((baseline, others)) = rows.split_first_mut() else { return };
    if matches!(baseline.before, Before::Failed(_)) && !retry_failed {
        return;
    }
    let is_scored = |row: &&mut SweepRow| row.planned.job.measure.coqa.is_some() || row.planned.job.measure.text.is_some();
    for row in others.iter_mut().filter(is_scored) {
        row.before = match std::mem::replace(&mut row.before, Before::Nothing) {
            Before::Done(record) if record.compared_with() != Some(&baseline.planned.job.id) => Before::Uncompared(record),
            before => before,
        };
    }
}

fn refuse_duplicates(rows: &[SweepRow], file: &str) -> Result<(), SweepError> {
    for (place, row) in rows.iter().enumerate() {
        // The baseline's id differs in that it has no baseline; where ids are not known, recipes tell.
        let (id, recipe) = (&row.planned.job.id, &row.planned.job.recipe);
        let same = |before: &&SweepRow| {
            let other = &before.planned.job;
            let is_same_form = other.device.activation() == row.planned.job.device.activation();
            other.recipe == *recipe && is_same_form || (other.id == *id && !id.is_empty())
        };
        if let Some(before) = rows[..place].iter().find(same) {
            let (a, b, id) = (before.name().to_owned(), row.name().to_owned(), row.planned.job.id.clone());
            return Err(SweepError::DuplicateId { file: file.to_owned(), a, b, id });
        }
    }
    Ok(())
}

/// Experiments whose artifacts hold the same numbers, and that are to be run, have them chosen once; those of one alone are kept
/// nowhere.
fn share_numbers(rows: &mut [SweepRow], retry_failed: bool) {
    let open = rows.iter().filter(|row| row.is_open(retry_failed));
    let places: Vec<Option<PathBuf>> = open.map(|row| row.planned.numbers.clone()).collect();
    for SweepRow { planned, .. } in rows {
        let is_shared = places.iter().filter(|place| **place == planned.numbers).count() > 1;
        planned.job.quantized = planned.numbers.clone().filter(|_| is_shared);
    }
}

/// Corrects estimates by what finished experiments took; of one that ran before, what it took itself.
fn bring_into_line(rows: &mut [SweepRow]) -> (f64, usize) {
    let finished = |row: &SweepRow| match &row.before {
        Before::Done(record) | Before::Uncompared(record) | Before::Other(record) if record.failure.is_none() => {
            Some(estimate::taken(record))
        }
        _ => None,
    };
    let pairs: Vec<(f64, f64)> = rows.iter().filter_map(|row| Some((row.seconds, finished(row)?))).collect();
    let factor = estimate::factor(&pairs);
    for row in rows.iter_mut() {
        row.seconds = finished(row).unwrap_or(row.seconds * factor);
    }
    (factor, pairs.len())
}

impl SweepPlan {
    fn open(&self, retry_failed: bool) -> impl Iterator<Item = &SweepRow> {
        self.rows.iter().filter(move |row| row.is_open(retry_failed))
    }

    /// The plan for people and for programs.
    pub fn report(&self, retry_failed: bool) -> PlanReport {
        let rows = self.rows.iter().map(|row| PlanRow {
            name: row.name().to_owned(),
            id: row.planned.job.id.clone(),
            title: row.planned.job.title.clone(),
            bits_per_weight: row.planned.bits_per_weight,
            artifact_bytes: row.planned.artifact_bytes,
            outliers_unknown: row.planned.job.recipe.weights.outlier_threshold.is_some(),
            estimated_seconds: row.seconds,
            state: match row.before {
                Before::Nothing => "to do",
                Before::Done(_) => "done",
                Before::Failed(_) if retry_failed => "failed, again",
                Before::Failed(_) => "failed",
                Before::Uncompared(_) => "not compared, again",
                Before::Other(_) => "other, replaced",
                Before::Unknown => "unknown",
            },
        });
        PlanReport {
            sweep: self.file.clone(),
            results: self.results.clone(),
            model: self.model.clone(),
            model_blake3: self.rows.first().map(|row| row.planned.job.model_blake3.clone()).unwrap_or_default(),
            experiments: rows.collect(),
            excluded: self
                .excluded
                .iter()
                .map(|one| ExcludedRow { combination: one.combination.shown(), reason: one.reason.clone() })
                .collect(),
            open: self.open(retry_failed).count(),
            estimated_seconds: self.open(retry_failed).map(|row| row.seconds).sum(),
            estimated_from: match self.records {
                0 => "the model's size".to_owned(),
                1 => format!("the model's size, × {:.2} by one finished experiment", self.factor),
                records => format!("the model's size, × {:.2} by {records} finished experiments", self.factor),
            },
        }
    }
}

/// A plan as it is shown.
#[derive(Debug, Serialize)]
pub struct PlanReport {
    pub sweep: PathBuf,
    pub results: PathBuf,
    pub model: String,
    /// Of its files; empty where it is not here yet.
    pub model_blake3: String,
    pub experiments: Vec<PlanRow>,
    pub excluded: Vec<ExcludedRow>,
    /// Experiments that are to be run.
    pub open: usize,
    /// Of these, one after the other.
    pub estimated_seconds: f64,
    pub estimated_from: String,
}

/// One experiment of a plan.
#[derive(Debug, Serialize)]
pub struct PlanRow {
    pub name: String,
    pub id: String,
    pub title: String,
    /// Of LLM.int8 without its outliers.
    pub bits_per_weight: f64,
    pub artifact_bytes: u64,
    /// Input features with outliers come on top, which calibration finds.
    pub outliers_unknown: bool,
    pub estimated_seconds: f64,
    pub state: &'static str,
}

/// One combination that is left out.
#[derive(Debug, Serialize)]
pub struct ExcludedRow {
    pub combination: String,
    pub reason: String,
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} experiments on {}, results in {}\n",
            self.sweep.display(),
            self.experiments.len(),
            self.model,
            self.results.display()
        )?;
        let rows = self.experiments.iter().map(|row| {
            let seconds =
                if row.state == "done" || row.state == "failed" { String::new() } else { estimate::shown(row.estimated_seconds) };
            let bits = format!("{:.3}", row.bits_per_weight);
            vec![row.name.clone(), bits, size(row.artifact_bytes), seconds, row.state.to_owned(), row.title.clone()]
        });
        writeln!(f, "{}", table(&["experiment", "bits/weight", "artifact", "about", "state", ""], &[1, 2, 3], rows))?;
        let unknown: Vec<&str> =
            self.experiments.iter().filter(|row| row.outliers_unknown).map(|row| row.name.as_str()).collect();
        if !unknown.is_empty() {
            writeln!(f, "larger by input features with outliers, which calibration finds: {}", unknown.join(", "))?;
        }
        for excluded in &self.excluded {
            writeln!(f, "left out: {} ({})", excluded.combination, excluded.reason)?;
        }
        let bytes: u64 = self.experiments.iter().map(|row| row.artifact_bytes).sum();
        let time = estimate::shown(self.estimated_seconds);
        write!(f, "\nto run: {}, about {time} one after the other (an estimate, from {});", self.open, self.estimated_from)?;
        write!(f, " all artifacts together: {}", size(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SWEEP: &str = r#"
        experiments = ["fp16_baseline", "gptq_4bit_g32"]
        [axes]
        method = ["gptq"]
        bits = [4]
        group_size = [128]
        dtype = ["f32", "f16"]
        [measure]
        coqa = { data = "coqa-mini.json", protocol = "official", limit = 4 }
    "#;

    /// Where the numbers of each experiment on the model in `folder` are shared.
    fn places(folder: &Path) -> Vec<Option<PathBuf>> {
        let file = folder.join("sweep.toml");
        fs::write(&file, format!("model = {:?}\n{SWEEP}", folder.display().to_string())).unwrap();
        let plan = plan(&file, folder.join("results"), Overrides::default(), true, false).unwrap();
        plan.rows.into_iter().map(|row| row.planned.job.quantized).collect()
    }

    #[test]
    fn numbers_are_shared_by_those_that_have_the_same_and_never_with_another_model() {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let before = places(folder.path());
        assert_eq!(before.len(), 4);
        assert_eq!(before[..2], [None, None], "the baseline and one of its own");
        assert!(before[2].is_some() && before[2] == before[3], "{before:?}");
        assert_eq!(places(folder.path()), before);
        let config = folder.path().join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("\"rope_theta\": 500000.0", "\"rope_theta\": 10000.0")).unwrap();
        let after = places(folder.path());
        assert!(after[2].is_some() && after[2] == after[3] && after[2] != before[2], "{before:?} {after:?}");
    }
}
