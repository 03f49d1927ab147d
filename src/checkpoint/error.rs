use std::io;
use std::path::{Path, PathBuf};

use super::HeaderError;
use crate::fault::Fault;

/// Why a folder is not a checkpoint that weights can be read from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    #[error("checkpoint {}: no such folder; give the folder that holds config.json and model.safetensors", dir.display())]
    NoFolder { dir: PathBuf },
    #[error("checkpoint {}: this is a file; give the folder that holds it", dir.display())]
    NotAFolder { dir: PathBuf },
    #[error(
        "checkpoint {}: neither model.safetensors nor model.safetensors.index.json is there, only {found}; {advice}",
        dir.display()
    )]
    NoWeights { dir: PathBuf, found: String, advice: &'static str },
    #[error(
        "checkpoint {}: model.safetensors.index.json is missing, and so is {missing} of the {count} shards that {found} speaks of; \
         download them",
        dir.display()
    )]
    ShardsIncomplete { dir: PathBuf, found: String, missing: String, count: usize },
    #[error("{}: expected a file, got a folder, a FIFO or a device; put the file itself there", file.display())]
    NotAFile { file: PathBuf },
    #[error("{}: {problem}; download it again", file.display())]
    Unfit { file: PathBuf, problem: String },
    #[error("{}: cannot be read", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}: {problem}", file.display())]
    Header { file: PathBuf, problem: HeaderError },
    #[error(
        "{}: not the JSON of a safetensors index ({reason}), expected an object whose weight_map names a shard for each tensor; \
         download it again",
        file.display()
    )]
    IndexJson { file: PathBuf, reason: String },
    #[error("{}: weight_map is empty, expected a shard for each tensor; download it again", file.display())]
    IndexEmpty { file: PathBuf },
    #[error("{}: shard {shard:?} of tensor {tensor} is not a plain file name; a shard lies beside the index", file.display())]
    ShardPath { file: PathBuf, shard: String, tensor: String },
    #[error("{}: shard {shard} is missing, which holds tensor {tensor}; download it", file.display())]
    ShardMissing { file: PathBuf, shard: String, tensor: String },
    #[error("{}: tensor {tensor} should be in shard {shard}, but that file does not have it; download both again", file.display())]
    NotInShard { file: PathBuf, shard: String, tensor: String },
    #[error("{}: tensor {tensor} is in {first} and again in {second}, expected in one; download the checkpoint again", place.display())]
    TwoShards { place: PathBuf, tensor: String, first: String, second: String },
    #[error("checkpoint {}: no tensor {tensor} among its {count}; the model needs it, so another file may be missing", dir.display())]
    NoTensor { dir: PathBuf, tensor: String, count: usize },
    #[error(
        "weight {tensor} in {}: element type {got} is not supported, expected F32, F16 or BF16; take the unquantized checkpoint",
        file.display()
    )]
    Dtype { file: PathBuf, tensor: String, got: String },
    #[error("{}: had {expected} bytes when its header was read and has {got} now; nobody may write to it meanwhile", file.display())]
    Changed { file: PathBuf, expected: u64, got: u64 },
}

impl CheckpointError {
    /// Why the text `file` could not be read: what it is, or what the disk said.
    pub(super) fn unread(file: &Path, source: io::Error) -> CheckpointError {
        match source.kind() {
            io::ErrorKind::InvalidInput => CheckpointError::NotAFile { file: file.into() },
            io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidData => {
                CheckpointError::Unfit { file: file.into(), problem: source.to_string() }
            }
            _ => CheckpointError::Read { file: file.into(), source },
        }
    }

    /// Only a file that exists and cannot be read, or changes under us, is not the input's own fault.
    pub fn fault(&self) -> Fault {
        match self {
            CheckpointError::Read { .. } | CheckpointError::Changed { .. } => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}
