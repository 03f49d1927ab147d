//! Many experiments on one model: planned first, each in a process of its own, its record written as it ends.
//!
//! ```text
//! SweepFile (TOML) ─▶ members: named experiments, the product of axes ─▶ SweepPlan: ids, sizes, what is done
//!                                                                            │
//!                       results/<name>_results.json ◀─ worker processes ◀─ Queue ─▶ Board
//! ```
//!
//! A sweep holds no state of its own: what is done stands in the results folder, so the same command goes on where the
//! last one was stopped, however it was.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

mod axes;
mod board;
mod error;
mod estimate;
mod file;
mod plan;
mod queue;
mod report;
mod words;

pub use error::SweepError;
pub use file::{Overrides, SweepFile};
pub use plan::{PlanReport, PlanRow};
use report::Columns;
pub use report::{ResultRow, Results, SweepReport};

use crate::host::terminal;
use crate::record::RunRecord;
use crate::runtime::{self};
use crate::study::StudyError;
use crate::study::experiment::{Job, work};
use board::{Board, Line, State};
use plan::{Before, SweepPlan, SweepRow};
use queue::{Halt, Queue};

/// What `qonnx sweep` was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub file: PathBuf,
    pub results: PathBuf,
    pub overrides: Overrides,
    /// Show the plan and end.
    pub dry_run: bool,
    /// GPUs, one experiment on each; none: whatever the program sees.
    pub devices: Vec<String>,
    /// Experiments at once on one device.
    pub jobs: usize,
    pub retry_failed: bool,
}

/// `qonnx sweep`.
///
/// # Errors
/// Everything that can be known before any work; an interruption or a full disk, which leave what is finished.
/// An experiment that fails is a row of the report.
pub fn run(request: &Request) -> Result<SweepReport, StudyError> {
    let started = Instant::now();
    let (results, overrides) = (request.results.clone(), request.overrides.clone());
    let plan = plan::plan(&request.file, results, overrides, request.dry_run, request.retry_failed)?;
    let slots = slots(request, &plan)?;
    let shown = plan.report(request.retry_failed);
    if request.dry_run {
        return Ok(SweepReport::Plan(shown));
    }
    let open: Vec<usize> = (0..plan.rows.len()).filter(|&row| plan.rows[row].is_open(request.retry_failed)).collect();
    let provider = plan.rows[0].planned.job.device.provider;
    if provider.is_gpu() && !open.is_empty() {
        runtime::require(provider)?;
    }
    let lock = work::hold_for_sweep(&plan.results)?.ok_or_else(|| SweepError::Busy { folder: plan.results.clone() })?;
    terminal::say(format_args!("{shown}\n"));
    let columns = Columns::of(&plan.rows[0].planned.job.measure);
    let board = Board::new(columns, plan.rows.iter().map(|row| line(row, request.retry_failed)).collect(), slots.len());
    let (board, halt) = Queue::new(&plan, &open, board, slots)?.run()?;
    let rows: Vec<ResultRow> =
        plan.rows.iter().enumerate().map(|(row, planned)| result(columns, planned, board.state(row))).collect();
    let is_done = |row: &&ResultRow| row.state.starts_with("done");
    let (done, all, folder) = (rows.iter().filter(is_done).count(), rows.len(), plan.results.clone());
    match halt {
        Some(Halt::Interrupted) => return Err(SweepError::Interrupted { done, all, folder }.into()),
        Some(Halt::DiskFull(message)) => return Err(SweepError::DiskFull { message, done, all, folder }.into()),
        None => {}
    }
    drop(lock);
    // What one that could not even be recorded came to is gone on from.
    let is_recorded =
        |Job { name, id, .. }: &Job| RunRecord::load(&RunRecord::path(&plan.results, name)).is_ok_and(|record| record.id == *id);
    let is_lost = |row| matches!(board.state(row), State::Failed { is_recorded: false, .. });
    if plan.rows.iter().enumerate().all(|(at, row)| is_recorded(&row.planned.job) && !is_lost(at)) {
        work::clear(&plan.results);
    }
    Ok(SweepReport::Results(Results {
        sweep: request.file.clone(),
        results: folder,
        failed: rows.iter().filter(|row| row.failure.is_some()).count(),
        done,
        experiments: rows,
        seconds: started.elapsed().as_secs_f64(),
        columns,
    }))
}

/// The device of each slot.
fn slots(request: &Request, plan: &SweepPlan) -> Result<Vec<Option<String>>, SweepError> {
    let job = &plan.rows[0].planned.job;
    if request.devices.is_empty() {
        return match request.jobs {
            jobs if jobs > 1 && job.measure.bench.is_some() => Err(SweepError::JobsTimed { jobs }),
            jobs => Ok(vec![None; jobs.clamp(1, plan.rows.len())]),
        };
    }
    let refused = || SweepError::Devices { got: request.devices.join(",") };
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let devices = lent(&request.devices, visible.as_deref()).filter(|_| job.device.provider.is_gpu()).ok_or_else(refused)?;
    // What NVML cannot count is noticed when it is used.
    if let (None, Ok(count)) = (visible, runtime::gpu_count())
        && let Some(missing) = devices.iter().find(|device| device.parse::<u32>().is_ok_and(|device| device >= count))
    {
        return Err(SweepError::NoDevice { missing: missing.clone(), count });
    }
    Ok(devices.into_iter().map(Some).collect())
}

/// What CUDA calls the GPUs of these numbers, counted among those that `visible` shows to this process; `None` where one is
/// no number, is there twice, or is not shown.
fn lent(numbers: &[String], visible: Option<&str>) -> Option<Vec<String>> {
    let numbers = numbers.iter().map(|number| number.parse::<usize>().ok()).collect::<Option<Vec<_>>>()?;
    let distinct: BTreeSet<usize> = numbers.iter().copied().collect();
    if distinct.len() < numbers.len() {
        return None;
    }
    let shown: Option<Vec<&str>> = visible.map(|list| list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect());
    let name = |number: usize| match &shown {
        None => Some(number.to_string()),
        Some(shown) => shown.get(number).map(|name| (*name).to_owned()),
    };
    numbers.into_iter().map(name).collect()
}

fn line(row: &SweepRow, retry_failed: bool) -> Line {
    let state = match &row.before {
        Before::Done(record) => State::Ended { record: record.clone(), before: true },
        Before::Failed(record) if !retry_failed => State::Failed { message: failure(record), is_recorded: true },
        _ => State::Waiting,
    };
    Line { name: row.name().to_owned(), bits: row.planned.bits_per_weight, seconds: row.seconds, state }
}

fn failure(record: &RunRecord) -> String {
    record.failure.as_ref().map(|failure| format!("{}: {}", failure.stage, failure.message)).unwrap_or_default()
}

fn result(columns: Columns, row: &SweepRow, state: &State) -> ResultRow {
    let path = RunRecord::path(&row.planned.job.results, row.name());
    let (word, record, failure) = match state {
        State::Ended { record, before: true } => ("done before", Some((**record).clone()), None),
        State::Ended { record, before: false } => ("done", Some((**record).clone()), None),
        State::Failed { message, .. } => ("failed", RunRecord::load(&path).ok(), Some(message.clone())),
        State::Waiting | State::Running { .. } | State::Stopped => ("stopped", None, None),
    };
    let result = ResultRow::of(columns, &row.planned.job, word, row.planned.bits_per_weight, record.as_ref(), failure);
    ResultRow { record: Some(path).filter(|path| path.is_file()), ..result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_counted_among_those_that_this_process_may_use() {
        let lent = |numbers: &str, visible| {
            let numbers: Vec<String> = numbers.split(',').map(str::to_owned).collect();
            lent(&numbers, visible).map(|devices| devices.join(" "))
        };
        assert_eq!(lent("0,1", None).as_deref(), Some("0 1"));
        assert_eq!(lent("1,0", Some("2, GPU-8932f937")).as_deref(), Some("GPU-8932f937 2"));
        assert_eq!(lent("0,00", None), None, "one GPU under two names");
        assert_eq!(lent("0,1", Some("2")), None, "only one is shown");
        assert_eq!(lent("0", Some("")), None, "none is shown");
        assert_eq!(lent("zero", None), None);
    }
}
