//! `qonnx worker`: the process in which an experiment runs, so that its crash and its memory are its own.
//!
//! It is given its job as one line of JSON on stdin, and answers with lines of JSON on stdout. Stdin stays open for as long
//! as the work is wanted: its end, however it comes about, stops the worker, so none outlives the process that started it.

use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::messages::{Event, Task};
use super::{Device, stages};
use crate::commands::bench;
use crate::host::{in_full, interrupt};
use crate::record::{BenchPoint, BenchSettings, Outcome};
use crate::runtime::WeightKernels;
use crate::study::StudyError;

/// A stage that looks for interruptions ends within this time of one; any other is ended, which nothing here minds.
const GRACE: Duration = Duration::from_secs(3);

/// Does what stdin says.
pub fn run() -> Result<(), StudyError> {
    // Ctrl-C in a terminal reaches every process; this one waits for the word of the one that started it.
    let mut line = String::new();
    let mut stdin = std::io::stdin().lock();
    stdin.read_line(&mut line).map_err(|source| StudyError::Worker { what: "the worker's job cannot be read", source })?;
    drop(stdin);
    let task = serde_json::from_str(&line).map_err(StudyError::NotAJob).inspect_err(|error| {
        say(&Event::Broken { message: in_full(error) });
    })?;
    thread::spawn(end_with_stdin);
    let outcome = match task {
        Task::Experiment(job) => stages::run(&job, &mut say),
        Task::Artifact(job) => stages::artifact(&job).map(|()| stages::Outcome::Finished),
        Task::Bench { artifact, device, settings } => measure(artifact, &device, settings),
    };
    say(&match outcome {
        Ok(stages::Outcome::Finished) => Event::Ended { failure: None },
        Ok(stages::Outcome::Failed(failure)) => Event::Ended { failure: Some((failure.stage, failure.message)) },
        Ok(stages::Outcome::DiskFull(message)) => Event::DiskFull { message },
        Err(error) if error.is_disk_full() => Event::DiskFull { message: in_full(&error) },
        Err(error) => Event::Broken { message: in_full(&error) },
    });
    Ok(())
}

fn measure(artifact: PathBuf, device: &Device, settings: BenchSettings) -> Result<stages::Outcome, StudyError> {
    let request = bench::Request { artifact, runtime: device.runtime(WeightKernels::FusedFast), settings };
    let mut bar = bench::bar();
    let mut report = bench::run(&request, &mut |now| {
        let note = format!("batch {}, prompt {}", now.batch, now.prompt_tokens);
        say(&Event::Progress { done: now.points as u64, total: now.of as u64, note });
        bar(now);
    })?;
    let failed: Vec<String> = report.record.points.iter().filter_map(failure).collect();
    if failed.len() == report.record.points.len()
        && let Some(first) = failed.first()
    {
        return Err(StudyError::NoPoint { first: first.clone() });
    }
    report.record.warnings.extend(failed);
    say(&Event::Measured { record: Box::new(report.record) });
    Ok(stages::Outcome::Finished)
}

/// Why a point was not measured, for another reason than memory.
fn failure(point: &BenchPoint) -> Option<String> {
    match &point.outcome {
        Outcome::Failed { message } => Some(format!("batch {}, prompt {}: {message}", point.batch, point.prompt_tokens)),
        Outcome::Measured(_) | Outcome::OutOfMemory { .. } => None,
    }
}

/// One line on stdout. A reader that has gone also closes stdin, which ends the work.
fn say(event: &Event) {
    let mut line = serde_json::to_string(event).expect("events are plain data");
    line.push('\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn end_with_stdin() {
    // Nothing more is ever sent: what comes is the end.
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    interrupt::ask();
    thread::sleep(GRACE);
    std::process::exit(130);
}
