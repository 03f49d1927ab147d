//! A worker from outside: started, listened to, told to stop, and what it means that it is gone.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::messages::{Event, Task};
use super::{Job, work};
use crate::calib::{Clock, SOURCE_DATE_EPOCH};
use crate::host::{in_full, interrupt};
use crate::record::FailureRecord;
use crate::study::StudyError;

/// How often a waiting process looks whether it was interrupted.
pub const TICK: Duration = Duration::from_millis(200);

/// How an experiment's process ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Its record is written and has no failure.
    Finished,
    /// Its record says why.
    Failed(FailureRecord),
    /// As [`Ending::Failed`], and not even that could be written.
    Unrecorded(FailureRecord),
    DiskFull(String),
    /// It was told to.
    Stopped,
}

/// News of a worker.
#[derive(Debug)]
pub enum News {
    Said(Event),
    /// It is gone. The last event that it had come to and its exit status tell how it went.
    Gone(std::io::Result<ExitStatus>),
}

/// How many threads rayon takes, where it is set.
const RAYON_THREADS: &str = "RAYON_NUM_THREADS";

/// What a worker has of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The only GPU that it sees; all where none is named.
    pub device: Option<String>,
    /// Workers that the processor's cores are shared between, for rounding and what else rayon runs: two that each took all of
    /// them would hinder each other more than they help. ONNX Runtime's threads are the job's own.
    pub of: usize,
}

/// Threads of each of `of` workers on so many cores, where there are several.
fn threads(cores: usize, of: usize) -> Option<usize> {
    (of > 1).then(|| (cores / of).max(1))
}

/// A worker that runs.
pub struct Worker {
    /// Its end is the worker's.
    lifeline: Option<ChildStdin>,
    was_stopped: bool,
    last_stage: String,
    last_word: Option<Event>,
}

impl Worker {
    /// Starts a worker on `task` with its share of the machine; `listen` is called on another thread.
    pub fn start(task: &Task, share: &Share, log: Stdio, listen: impl Fn(News) + Send + 'static) -> Result<Worker, StudyError> {
        let mut command = Command::new(own_program()?);
        command.arg0("qonnx").arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        if let Some(device) = &share.device {
            command.env("CUDA_VISIBLE_DEVICES", device);
        }
        // A chat template that writes the date makes in the worker what the job's id was taken of. What is no time the worker refuses.
        if let Ok(clock) = Clock::of_process() {
            command.env(SOURCE_DATE_EPOCH, clock.seconds().to_string());
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        if let (Some(threads), None) = (threads(cores, share.of), std::env::var_os(RAYON_THREADS)) {
            command.env(RAYON_THREADS, threads.to_string());
        }
        let mut process =
            command.spawn().map_err(|source| StudyError::Worker { what: "a worker process cannot be started", source })?;
        let mut lifeline = process.stdin.take().expect("stdin is piped");
        let stdout = process.stdout.take().expect("stdout is piped");
        let mut line = serde_json::to_string(task)?;
        line.push('\n');
        // A worker that is gone already says so below.
        let _ = lifeline.write_all(line.as_bytes());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    listen(News::Said(event));
                }
            }
            listen(News::Gone(process.wait()));
        });
        Ok(Worker { lifeline: Some(lifeline), was_stopped: false, last_stage: "load".to_owned(), last_word: None })
    }

    /// Tells it to stop at the next safe point, within a few seconds.
    pub fn stop(&mut self) {
        self.was_stopped = true;
        self.lifeline = None;
    }

    /// Takes note of what it said.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Stage { stage } => self.last_stage.clone_from(stage),
            Event::Progress { .. } | Event::Measured { .. } => {}
            Event::Ended { .. } | Event::DiskFull { .. } | Event::Broken { .. } => self.last_word = Some(event.clone()),
        }
    }

    /// Why it did not do what it was told, if it did not.
    pub fn complaint(self, status: std::io::Result<ExitStatus>) -> Option<String> {
        match self.last_word {
            Some(Event::Ended { failure: None }) => None,
            Some(Event::Ended { failure: Some((_, message)) } | Event::DiskFull { message } | Event::Broken { message }) => {
                Some(message)
            }
            _ => Some(death(status)),
        }
    }

    /// What became of it, once it is gone. Of one that died without a word a record is written here.
    pub fn ending(self, job: &Job, status: std::io::Result<ExitStatus>) -> Result<Ending, StudyError> {
        let failure = |message: String| FailureRecord { stage: self.last_stage.clone(), message };
        let failure = match self.last_word {
            Some(Event::Ended { failure: None }) => return Ok(Ending::Finished),
            Some(Event::Ended { failure: Some((stage, message)) }) => {
                return Ok(Ending::Failed(FailureRecord { stage, message }));
            }
            Some(Event::DiskFull { message }) => return Ok(Ending::DiskFull(message)),
            _ if self.was_stopped => return Ok(Ending::Stopped),
            Some(Event::Broken { message }) => return Ok(Ending::Unrecorded(failure(message))),
            _ => failure(death(status)),
        };
        match work::record_death(job, failure.clone()) {
            Err(error) if error.is_disk_full() => Ok(Ending::DiskFull(in_full(&error))),
            Err(error) => Err(error),
            Ok(_) => Ok(Ending::Failed(failure)),
        }
    }
}

/// Runs `task` to its end and hears all that it says; the worker and its exit status tell how it went.
pub fn attend(
    task: &Task,
    log: Stdio,
    mut heard: impl FnMut(Event),
) -> Result<(Worker, std::io::Result<ExitStatus>), StudyError> {
    let (send, news) = mpsc::channel();
    let mut worker = Worker::start(task, &Share { device: None, of: 1 }, log, move |news| {
        // Nobody listens any more only when this process ends.
        let _ = send.send(news);
    })?;
    let status = loop {
        match news.recv_timeout(TICK) {
            Ok(News::Said(event)) => {
                worker.hear(&event);
                heard(event);
            }
            Ok(News::Gone(status)) => break status,
            Err(RecvTimeoutError::Disconnected) => break Err(std::io::ErrorKind::BrokenPipe.into()),
            Err(RecvTimeoutError::Timeout) if interrupt::check().is_err() => worker.stop(),
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    Ok((worker, status))
}

/// The file that this process runs, by the inode: a rebuilt program would be another.
fn own_program() -> Result<PathBuf, StudyError> {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return Ok(own.to_owned());
    }
    std::env::current_exe().map_err(|source| StudyError::Worker { what: "the program's own file is not known", source })
}

/// Why a process died that said nothing.
fn death(status: std::io::Result<ExitStatus>) -> String {
    const SIGKILL: i32 = 9;
    match status {
        Err(error) => format!("its process was lost: {error}"),
        Ok(status) => match (status.signal(), status.code()) {
            (Some(SIGKILL), _) => {
                "its process was killed by signal 9 (SIGKILL), as the kernel does where memory runs out (see dmesg); free memory, \
                 or take a smaller model"
                    .to_owned()
            }
            (Some(signal), _) => format!("its process died of signal {signal}; its log says how far it came"),
            (None, code) => format!("its process ended with code {} and without a word", code.unwrap_or_default()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_between_those_that_run_at_once() {
        assert_eq!([threads(32, 1), threads(32, 2), threads(3, 2), threads(2, 4)], [None, Some(16), Some(1), Some(1)]);
    }

    #[test]
    fn a_death_is_told_by_its_signal() {
        let of = |raw| death(Ok(ExitStatus::from_raw(raw)));
        assert!(of(9).contains("SIGKILL") && of(9).contains("memory"), "{}", of(9));
        assert!(of(11).contains("signal 11"), "{}", of(11));
        assert!(of(7 << 8).contains("code 7"), "{}", of(7 << 8));
    }
}
