//! Experiments one after the other, or one on each device: started, watched, told to stop.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::board::{Board, State};
use super::plan::{Before, SweepPlan};
use crate::host::{FileError, in_full, interrupt};
use crate::record::{FailureRecord, RunRecord};
use crate::study::StudyError;
use crate::study::experiment::{Ending, Event, Job, News, Share, Task, Worker, has_artifact, work};

/// How often the table is drawn and interruptions are looked for.
const TICK: Duration = Duration::from_millis(250);
/// Statistics of calibration that are kept for each device; what is beyond it is made again.
const MOST_STATISTICS: u64 = 4 << 30;

/// Why no more experiments are started.
#[derive(Debug)]
pub enum Halt {
    Interrupted,
    DiskFull(String),
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    /// The baseline's artifact, for KL, where its record is there already.
    Reference,
    Experiment(usize),
}

/// What runs on one device.
struct Slot {
    /// The only GPU that its workers see.
    device: Option<String>,
    running: Option<(Item, Worker, Instant)>,
}

/// The experiments that are open, and what runs.
pub struct Queue<'a> {
    plan: &'a SweepPlan,
    board: Board,
    slots: Vec<Slot>,
    waiting: VecDeque<Item>,
    /// Experiments that run beside each other at most.
    at_once: usize,
    folder: PathBuf,
    halt: Option<Halt>,
    /// News by slot: what workers send to, and where it arrives.
    sender: Sender<(usize, News)>,
    news: Receiver<(usize, News)>,
}

impl<'a> Queue<'a> {
    /// Of the experiments `open`, by their row; one slot for each of `devices`.
    pub fn new(plan: &'a SweepPlan, open: &[usize], board: Board, devices: Vec<Option<String>>) -> Result<Queue<'a>, StudyError> {
        let folder = work::root(&plan.results)?;
        let (sender, news) = mpsc::channel();
        let at_once = devices.len().min(open.len());
        let mut queue = Queue {
            plan,
            board,
            slots: devices.into_iter().map(|device| Slot { device, running: None }).collect(),
            waiting: order(open, at_once, |row| plan.rows[row].seconds).into_iter().map(Item::Experiment).collect(),
            at_once,
            folder,
            halt: None,
            sender,
            news,
        };
        if queue.needs_reference(open)? {
            queue.waiting.push_front(Item::Reference);
        }
        let ended = queue.baseline_ended();
        match (open.contains(&0), ended.exists()) {
            (true, true) => fs::remove_file(&ended),
            (true, false) => Ok(()),
            (false, _) => fs::write(&ended, ""),
        }
        .map_err(FileError::at(&ended, "cannot be written"))?;
        Ok(queue)
    }

    /// KL of what is open is measured from the baseline, which ended before and whose artifact is not here.
    fn needs_reference(&self, open: &[usize]) -> Result<bool, StudyError> {
        let baseline = &self.plan.rows[0];
        let Before::Done(record) = &baseline.before else { return Ok(false) };
        let measures = baseline.planned.job.measure.text.is_some() && open.iter().any(|&row| row != 0);
        Ok(measures && !has_artifact(&self.reference(), record)?)
    }

    /// Where the baseline's artifact is kept for the time of the sweep, or for good.
    fn reference(&self) -> PathBuf {
        let kept = &self.plan.rows[0].planned.job.keep;
        kept.clone().unwrap_or_else(|| self.folder.join("reference"))
    }

    /// Is there once the baseline has ended, however: what runs beside it waits for that before it is compared.
    fn baseline_ended(&self) -> PathBuf {
        self.folder.join("baseline-ended")
    }

    /// Runs all of them; returns the table and why it ended early, if it did.
    pub fn run(mut self) -> Result<(Board, Option<Halt>), StudyError> {
        loop {
            self.fill()?;
            if self.slots.iter().all(|slot| slot.running.is_none()) {
                self.board.clear();
                return Ok((self.board, self.halt));
            }
            match self.news.recv_timeout(TICK) {
                Ok((slot, News::Said(event))) => self.hear(slot, &event),
                Ok((slot, News::Gone(status))) => self.end(slot, status)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if interrupt::check().is_err() && self.halt.is_none() {
                self.board.say("stopping: what runs ends within a few seconds; what is finished is kept");
                self.stop(Halt::Interrupted);
            }
            self.board.draw();
        }
    }

    /// Tells everything that runs to stop, and starts nothing more.
    fn stop(&mut self, why: Halt) {
        self.halt.get_or_insert(why);
        for (_, worker, _) in self.slots.iter_mut().filter_map(|slot| slot.running.as_mut()) {
            worker.stop();
        }
    }

    /// Gives free devices work. The baseline is the first, and others run beside it until they need it; while its artifact
    /// is made again, nothing does.
    fn fill(&mut self) -> Result<(), StudyError> {
        for slot in 0..self.slots.len() {
            let running = self.slots.iter().filter_map(|slot| slot.running.as_ref());
            let is_alone = running.map(|(item, ..)| item).any(|item| *item == Item::Reference);
            if self.slots[slot].running.is_some() || self.halt.is_some() || is_alone {
                continue;
            }
            let Some(item) = self.waiting.pop_front() else { continue };
            match self.start(slot, item) {
                Err(error) if error.is_disk_full() => self.stop(Halt::DiskFull(in_full(&error))),
                started => started?,
            }
        }
        Ok(())
    }

    fn start(&mut self, slot: usize, item: Item) -> Result<(), StudyError> {
        let row = match item {
            Item::Reference => 0,
            Item::Experiment(row) => row,
        };
        let reference = self.reference();
        let job = &self.plan.rows[row].planned.job;
        let is_reference = row == 0 && (job.measure.text.is_some() || job.keep.is_some());
        let job = Box::new(Job {
            save_stats: Some(self.statistics(slot)),
            keep: if is_reference { Some(reference.clone()) } else { job.keep.clone() },
            reference: (row != 0).then_some(reference),
            awaits: (row != 0).then(|| self.baseline_ended()),
            ..job.clone()
        });
        let log = log_file(&self.plan.results, &job.name)?;
        let task = match item {
            Item::Reference => Task::Artifact(job),
            Item::Experiment(_) => Task::Experiment(job),
        };
        let send = self.sender.clone();
        let listen = move |news| {
            // Nobody listens any more only when the sweep has ended.
            let _ = send.send((slot, news));
        };
        let of = if item == Item::Reference { 1 } else { self.at_once };
        let share = Share { device: self.slots[slot].device.clone(), of };
        let worker = Worker::start(&task, &share, Stdio::from(log), listen)?;
        let since = Instant::now();
        self.slots[slot].running = Some((item, worker, since));
        if let Item::Experiment(row) = item {
            self.board.set(row, State::Running { stage: "starts".to_owned(), progress: None, since });
        }
        Ok(())
    }

    fn hear(&mut self, slot: usize, event: &Event) {
        let Some((item, worker, since)) = &mut self.slots[slot].running else { return };
        worker.hear(event);
        let (Item::Experiment(row), since) = (*item, *since) else { return };
        match (event, self.board.state(row)) {
            (Event::Stage { stage }, _) => {
                self.board.set(row, State::Running { stage: stage.clone(), progress: None, since });
            }
            (Event::Progress { done, total, note }, State::Running { stage, .. }) => {
                let (stage, progress) = (stage.clone(), Some((*done, *total, note.clone())));
                self.board.set(row, State::Running { stage, progress, since });
            }
            _ => {}
        }
    }

    fn end(&mut self, slot: usize, status: std::io::Result<ExitStatus>) -> Result<(), StudyError> {
        let Some((item, worker, _)) = self.slots[slot].running.take() else { return Ok(()) };
        prune(&self.statistics(slot), MOST_STATISTICS)?;
        let row = match item {
            Item::Experiment(row) => row,
            Item::Reference => {
                self.end_reference(worker, status);
                return Ok(());
            }
        };
        let job = &self.plan.rows[row].planned.job;
        let state = match worker.ending(job, status)? {
            Ending::Finished => {
                let record = RunRecord::load(&RunRecord::path(&job.results, &job.name))?;
                State::Ended { record: Box::new(record), before: false }
            }
            Ending::Failed(failure) => State::Failed { message: told(&failure), is_recorded: true },
            Ending::Unrecorded(failure) => State::Failed { message: told(&failure), is_recorded: false },
            Ending::Stopped => State::Stopped,
            Ending::DiskFull(message) => {
                self.stop(Halt::DiskFull(format!("{}: {message}", job.name)));
                State::Stopped
            }
        };
        self.board.set(row, state);
        if row == 0 {
            let ended = self.baseline_ended();
            fs::write(&ended, "").map_err(FileError::at(&ended, "cannot be written"))?;
        }
        Ok(())
    }

    /// Without its artifact there is no KL; everything else there is.
    fn end_reference(&mut self, worker: Worker, status: std::io::Result<ExitStatus>) {
        if let (Some(why), None) = (worker.complaint(status), &self.halt) {
            self.board.say(&format!("the baseline's artifact cannot be made again, so there is no KL: {why}"));
        }
    }

    fn statistics(&self, slot: usize) -> PathBuf {
        self.folder.join(format!("statistics-{slot}"))
    }
}

fn told(failure: &FailureRecord) -> String {
    format!("{}: {}", failure.stage, failure.message)
}

/// In which order the experiments `open` are begun, where `at_once` of them run: as they come, one after the other; beside
/// each other the baseline first and then the longest first, so that nothing long is left to one slot at the end (Graham 1969).
fn order(open: &[usize], at_once: usize, seconds: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order = open.to_vec();
    if at_once > 1 {
        order.sort_by(|&a, &b| (a != 0).cmp(&(b != 0)).then(seconds(b).total_cmp(&seconds(a))));
    }
    order
}

/// What an experiment's process says.
fn log_file(results: &Path, name: &str) -> Result<File, StudyError> {
    let folder = results.join("logs");
    let make = || fs::create_dir_all(&folder).and_then(|()| File::create(folder.join(format!("{name}.log"))));
    Ok(make().map_err(FileError::at(&folder.join(name), "cannot be written"))?)
}

/// Removes the newest files of `folder` until it has at most `most` bytes: what every experiment shares comes first.
fn prune(folder: &Path, most: u64) -> Result<(), StudyError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let found = entry.and_then(|entry| {
            let meta = entry.metadata()?;
            Ok((meta.modified()?, meta.len(), entry.path()))
        });
        files.push(found.map_err(FileError::at(folder, "cannot be listed"))?);
    }
    files.sort();
    let mut kept = 0;
    for (_, bytes, path) in files {
        kept += bytes;
        if kept > most {
            fs::remove_file(&path).map_err(FileError::at(&path, "cannot be removed"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_each_other_the_longest_come_first_after_the_baseline() {
        let seconds = |row: usize| [1.0, 5.0, 9.0, 5.0, 7.0][row];
        assert_eq!(order(&[0, 1, 2, 3, 4], 1, seconds), [0, 1, 2, 3, 4]);
        assert_eq!(order(&[0, 1, 2, 3, 4], 2, seconds), [0, 2, 4, 1, 3]);
        assert_eq!(order(&[1, 3, 4], 2, seconds), [4, 1, 3]);
    }

    #[test]
    fn the_oldest_statistics_stay_within_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        for (age, name) in [(30, "first"), (20, "second"), (10, "third")] {
            let path = folder.path().join(name);
            fs::write(&path, [0; 100]).unwrap();
            let when = std::time::SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(&path).unwrap().set_modified(when).unwrap();
        }
        prune(folder.path(), 250).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["first", "second"]);
        prune(&folder.path().join("missing"), 1).unwrap();
    }
}
