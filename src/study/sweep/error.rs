//! Everything that can be wrong with a sweep before any work, and what ends one.

use std::path::PathBuf;

use crate::fault::Fault;
use crate::host::NAMED;

/// Every way a sweep can be wrong or end early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    #[error("sweep {file}: cannot be read; give a TOML file, like those in benches/sweeps/")]
    Unreadable { file: String, source: std::io::Error },
    #[error("sweep {file}: {message}; see benches/sweeps/ for complete examples")]
    Syntax { file: String, message: String },
    #[error("sweep {file}: it names no experiments; add experiments = [\"int8_rtn\", …] or [axes]")]
    Empty { file: String },
    #[error("sweep {file}: [[exclude]] without [axes] excludes nothing; leave it out, or the experiment itself")]
    ExcludeOfNothing { file: String },
    #[error("sweep {file}: [[exclude]] {number} matches no combination of [axes]; leave it out, or mend it: {what}")]
    ExcludeIdle { file: String, number: usize, what: String },
    #[error("sweep {file}: [[exclude]] {number} has an empty reason; say why, the plan shows it")]
    ExcludeUnreasoned { file: String, number: usize },
    #[error("sweep {file}: layout {got:?} of [axes]: only \"ort\" exists, which is how every artifact is laid out; leave it out")]
    Layout { file: String, got: String },
    #[error("sweep {file}: {axis} of [axes] has no value; give it one, or leave it out")]
    EmptyAxis { file: String, axis: &'static str },
    #[error("sweep {file}: the values of [axes] make {count} combinations, at most {most} are taken; leave some out")]
    TooMany { file: String, count: u128, most: u128 },
    #[error("sweep {file}: bits {got} of [axes]; expected 2, 3, 4, 5, 6, 8 or 16")]
    Bits { file: String, got: u8 },
    #[error("sweep {file}: {what} of [measure] makes no sense; expected {expected}")]
    Senseless { file: String, what: &'static str, expected: &'static str },
    #[error("sweep {file}: experiment {name} is named twice; leave one out, or give it another name")]
    DuplicateName { file: String, name: String },
    #[error(
        "sweep {file}: {a} and {b} are the same recipe on the same data (id {id}); leave one out, or exclude its combination"
    )]
    DuplicateId { file: String, a: String, b: String, id: String },
    #[error("sweep {file}: {} cannot be run:\n  {}\nexclude a combination by [[exclude]] with a reason, or leave the experiment out", count(.refusals.len()), first(.refusals))]
    Refused { file: String, refusals: Vec<String> },
    #[error("--jobs {jobs}: experiments beside each other on the CPU would time each other; add --no-bench, or leave --jobs out")]
    JobsTimed { jobs: usize },
    #[error(
        "--devices {got:?}: expected different numbers of GPUs like 0,1, counted among those of CUDA_VISIBLE_DEVICES, and --ep cuda"
    )]
    Devices { got: String },
    #[error("--devices: there is no GPU {missing}, NVML lists {count}, counted from 0; see `qonnx doctor`")]
    NoDevice { missing: String, count: u32 },
    #[error("results folder {folder}: another sweep runs in it; wait for it, or choose another with --results", folder = folder.display())]
    Busy { folder: PathBuf },
    #[error("interrupted; {done} of {all} experiments are done in {folder}, the same command goes on from there", folder = folder.display())]
    Interrupted { done: usize, all: usize, folder: PathBuf },
    #[error(
        "{message}; the disk is full. {done} of {all} experiments are done in {folder}: free some space and run the same command \
         again",
        folder = folder.display()
    )]
    DiskFull { message: String, done: usize, all: usize, folder: PathBuf },
}

fn count(experiments: usize) -> String {
    if experiments == 1 { "one experiment".to_owned() } else { format!("{experiments} experiments") }
}

impl SweepError {
    /// What is asked is the input's fault, what happens is not.
    pub fn fault(&self) -> Fault {
        match self {
            SweepError::Busy { .. } | SweepError::Interrupted { .. } | SweepError::DiskFull { .. } => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}

/// The first refusals, a line each, and how many more there are.
fn first(refusals: &[String]) -> String {
    let more = refusals.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("and {more} more"));
    refusals.iter().take(NAMED).cloned().chain(more).collect::<Vec<_>>().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_three_are_said_and_the_rest_counted() {
        let refusals =
            |count: usize| SweepError::Refused { file: "s".into(), refusals: (1..=count).map(|n| format!("r{n}")).collect() };
        let said = refusals(3).to_string();
        assert!(said.contains("3 experiments cannot be run:\n  r1\n  r2\n  r3\nexclude"), "{said}");
        let said = refusals(10_000).to_string();
        assert!(said.contains("10000 experiments cannot be run:\n  r1\n  r2\n  r3\n  and 9997 more\nexclude"), "{said}");
    }
}
