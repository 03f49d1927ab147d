//! What an experiment's process is told, and what it says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Device, Job};
use crate::record::{BenchRecord, BenchSettings};

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    Experiment(Box<Job>),
    /// Its artifact alone, which is to be kept.
    Artifact(Box<Job>),
    /// The benchmark of an artifact, in a process whose memory is nothing else's.
    Bench {
        artifact: PathBuf,
        device: Device,
        settings: BenchSettings,
    },
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Stage {
        stage: String,
    },
    Progress {
        done: u64,
        total: u64,
        note: String,
    },
    /// What a benchmark measured.
    Measured {
        record: Box<BenchRecord>,
    },
    /// The record is written, with a failure or without.
    Ended {
        failure: Option<(String, String)>,
    },
    DiskFull {
        message: String,
    },
    /// It could not even be recorded.
    Broken {
        message: String,
    },
}
