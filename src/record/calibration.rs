//! What an artifact remembers of the text that it was calibrated on.

use serde::{Deserialize, Serialize};

/// The calibration set of an artifact: enough to make the same token ids again, and to see later that a text which the
/// artifact is scored on was among them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRecord {
    /// Name of the set, without folder.
    pub set: String,
    /// Name of the local file, or `id@commit: file, …` of a hub data set.
    pub source: String,
    pub licence: String,
    /// `text`, `chat`, `coqa` or `ids`.
    pub form: String,
    /// `packed` or `documents`.
    pub packing: String,
    pub seed: u64,
    pub sequences: usize,
    /// Over all sequences.
    pub tokens: usize,
    /// Documents (or sequences of ids) that were left out because they are shorter than a sequence.
    pub too_short: usize,
    /// BLAKE3 of `tokenizer.json`.
    pub tokenizer: String,
    /// BLAKE3 of the token ids: for each sequence its length and its ids, each a little-endian u32.
    pub hash: String,
    /// Seconds since 1970 (UTC) that the chat template was told, where it asked: `SOURCE_DATE_EPOCH` set to them makes the same ids
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_time: Option<i64>,
    pub passages: PassageRecord,
}

/// Hashes of every n-th run of words of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassageRecord {
    /// Words in a run.
    pub words: usize,
    /// Words from the start of one kept run to that of the next.
    pub every: usize,
    /// The hashes, ascending, each 16 hexadecimal digits, without anything between them.
    pub hashes: String,
}
