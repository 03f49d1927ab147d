//! One JSON line for each answered question: the record from which a run resumes and scores are recomputed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::protocol::{Protocol, Question};
use crate::eval::error::EvalError;
use crate::host::{lock, read};

/// A lock that was just let go of may be held a moment longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// One question, what the model wrote, and how it scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionLine {
    pub id: String,
    pub turn_id: u32,
    pub domain: String,
    /// Name of the protocol.
    pub protocol: String,
    pub protocol_version: String,
    /// What the caller calls the model, e.g. the artifact's hash.
    pub model: String,
    pub prompt_sha256: String,
    /// The prompt was longer than the context less the new tokens and lost its beginning.
    pub truncated: bool,
    /// What the model wrote, cut at the stop string.
    pub text: String,
    /// End-of-sequence text that also stopped the answer.
    pub eos: Option<String>,
    /// The answer in `text`.
    pub prediction: String,
    pub golds: Vec<String>,
    pub em: f64,
    pub f1: f64,
    /// Wall time of the call that answered, divided by the prompts in it.
    pub seconds: f64,
}

/// The per-question lines of a run, in a file or in memory only.
pub struct AnswerLog {
    lines: Vec<QuestionLine>,
    file: Option<(PathBuf, File)>,
    /// Whether its lines have checksums. Those of an earlier version have none, and a file is gone on with as it was begun.
    has_checksums: bool,
}

impl AnswerLog {
    /// Keeps lines in memory.
    pub fn in_memory() -> AnswerLog {
        AnswerLog { lines: Vec::new(), file: None, has_checksums: false }
    }

    /// Opens `path` to go on after the lines it has, or creates it. A last line that was cut off is removed from the file, once
    /// it is known to be the beginning of one of ours.
    ///
    /// The file is this log's alone until it is dropped.
    ///
    /// # Errors
    /// [`EvalError::Lines`] if a line is not one of ours or has changed since it was written, [`EvalError::InUse`] if another
    /// process writes to it, [`EvalError::Read`] or [`EvalError::Write`] from the disk.
    pub fn open(path: &Path) -> Result<AnswerLog, EvalError> {
        let name = path.display().to_string();
        let read = |source| EvalError::Read { file: name.clone(), source };
        let write = |source| EvalError::Write { file: name.clone(), source };
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(read(Error::new(ErrorKind::InvalidInput, "it is not a file")));
        }
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(write)?;
        match lock::hold_open(&file, PATIENCE) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(EvalError::InUse { file: name }),
            Err(TryLockError::Error(source)) => return Err(write(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(read)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let (before, last) = bytes.split_at(whole);
        let kept = if is_torn(last) { before } else { &bytes[..] };
        let lines = parse_lines(kept, &name)?;
        if kept.len() < bytes.len() {
            file.set_len(kept.len() as u64).map_err(write)?;
        }
        file.seek(SeekFrom::End(0)).map_err(write)?;
        // Cut off right before its line feed.
        if kept.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n").map_err(write)?;
        }
        let has_checksums = lines.is_empty() || have_checksums(kept);
        Ok(AnswerLog { lines, file: Some((path.to_path_buf(), file)), has_checksums })
    }

    /// All lines, in the order they were written.
    pub fn lines(&self) -> &[QuestionLine] {
        &self.lines
    }

    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "the answers in memory".to_string(), |(path, _)| path.display().to_string())
    }

    /// Appends lines; they are on their way to the disk when this returns.
    pub(super) fn append(&mut self, lines: Vec<QuestionLine>) -> Result<(), EvalError> {
        let name = self.name();
        if let Some((_, file)) = &mut self.file {
            let mut text = String::new();
            for line in &lines {
                let line = serde_json::to_string(line).expect("strings, numbers and lists always serialize");
                text += &if self.has_checksums { sealed(&line) } else { line };
                text.push('\n');
            }
            file.write_all(text.as_bytes()).map_err(|source| EvalError::Write { file: name, source })?;
        }
        self.lines.extend(lines);
        Ok(())
    }

    /// Positions of the lines by question, after checking that they were written by this model under this protocol, with
    /// this end-of-sequence text, for these questions.
    pub(super) fn answered(
        &self,
        questions: &[&Question],
        protocol: &Protocol,
        model: &str,
        eos: Option<&str>,
    ) -> Result<HashMap<(String, u32), usize>, EvalError> {
        let known: HashMap<(&str, u32), &Question> = questions.iter().map(|q| ((q.id.as_str(), q.turn_id), *q)).collect();
        let mut answered = HashMap::new();
        for (index, line) in self.lines.iter().enumerate() {
            let differs = |what: &'static str, expected: &str, got: &str| EvalError::OtherRun {
                file: self.name(),
                line: index + 1,
                what,
                expected: expected.to_string(),
                got: got.to_string(),
            };
            let protocol_line = format!("{} {}", line.protocol, line.protocol_version);
            let protocol_now = format!("{} {}", protocol.name, protocol.version);
            if protocol_line != protocol_now {
                return Err(differs("protocol", &protocol_now, &protocol_line));
            }
            if line.model != model {
                return Err(differs("model", model, &line.model));
            }
            if line.eos.as_deref() != eos {
                return Err(differs("end-of-sequence text", &quoted(eos), &quoted(line.eos.as_deref())));
            }
            let Some(question) = known.get(&(line.id.as_str(), line.turn_id)) else {
                return Err(differs("question", "one of the data's", &format!("{} turn {}", line.id, line.turn_id)));
            };
            if question.prompt_sha256 != line.prompt_sha256 {
                return Err(differs("prompt hash", &question.prompt_sha256, &line.prompt_sha256));
            }
            if question.golds != line.golds {
                return Err(differs("references", &question.golds.join(" | "), &line.golds.join(" | ")));
            }
            if answered.insert((line.id.clone(), line.turn_id), index).is_some() {
                return Err(differs("question", "each question once", &format!("{} turn {} again", line.id, line.turn_id)));
            }
        }
        Ok(answered)
    }
}

/// Reads a file of lines, leaving it as it is.
///
/// # Errors
/// [`EvalError::Read`], or [`EvalError::Lines`] naming the first line that is not one of ours, a cut-off last one included.
pub fn read_lines(path: &Path) -> Result<Vec<QuestionLine>, EvalError> {
    let file = path.display().to_string();
    let bytes = read::file(path, u64::MAX).map_err(|source| EvalError::Read { file: file.clone(), source })?;
    parse_lines(&bytes, &file)
}

/// Lines of a per-question file held in memory; `file` is its name for messages. Where one has a checksum, all have: lines
/// of other programs have none.
///
/// # Errors
/// [`EvalError::Lines`] naming the line.
pub fn parse_lines(bytes: &[u8], file: &str) -> Result<Vec<QuestionLine>, EvalError> {
    if read::is_utf_16(bytes) {
        return Err(EvalError::Lines { file: file.to_owned(), line: 1, detail: "it is UTF-16; save it as UTF-8".to_owned() });
    }
    let have_checksums = have_checksums(bytes);
    let parsed = numbered(bytes).map(|(line, number)| {
        let wrong = |detail: String| EvalError::Lines { file: file.to_string(), line: number, detail };
        let parsed = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        match checksum(line) {
            None if !have_checksums => Ok(parsed),
            Some((text, sum)) if xxh3_64(text) == sum => Ok(parsed),
            _ => Err(EvalError::Changed { file: file.to_string(), line: number }),
        }
    });
    parsed.collect()
}

/// Whether this program wrote the answers in the file at `path`, whatever has happened to them since: its first line is one of
/// ours, or damaged and begins as ours do. There is nothing in an empty file that is anybody's.
///
/// # Errors
/// [`EvalError::Read`].
pub fn are_ours(path: &Path) -> Result<bool, EvalError> {
    let wrong = |source| EvalError::Read { file: path.display().to_string(), source };
    let bytes = read::file(path, u64::MAX).map_err(wrong)?;
    Ok(numbered(&bytes).next().is_none_or(|(first, _)| is_ours(first)))
}

fn is_ours(line: &[u8]) -> bool {
    let is_whole = || serde_json::from_slice::<QuestionLine>(line).is_ok();
    let is_json = || serde_json::from_slice::<serde_json::Value>(line).is_ok();
    is_whole() || begins_as_ours(line) && (checksum(line).is_some() || !is_json())
}

/// The lines in which something stands, with their numbers.
fn numbered(bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let lines = read::unmarked(bytes).split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.zip(1..).filter(|(line, _)| !line.is_empty())
}

fn have_checksums(bytes: &[u8]) -> bool {
    numbered(bytes).any(|(line, _)| checksum(line).is_some())
}

/// For messages.
fn quoted(text: Option<&str>) -> String {
    text.map_or_else(|| "none".to_string(), |text| format!("`{text}`"))
}

/// What stands before a line's checksum, which is of all before it.
const CHECKSUM: &str = ",\"xxh3\":\"";
const DIGITS: usize = 16;

/// A line's JSON object with the checksum of what is before it as its last field.
fn sealed(line: &str) -> String {
    let open = line.strip_suffix('}').expect("a line is an object");
    format!("{open}{CHECKSUM}{:0width$x}\"}}", xxh3_64(open.as_bytes()), width = DIGITS)
}

/// What the checksum of a line is of, and what it should be; `None` for a line without one.
fn checksum(line: &[u8]) -> Option<(&[u8], u64)> {
    let rest = line.strip_suffix(b"\"}")?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    let sum = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((rest.strip_suffix(CHECKSUM.as_bytes())?, sum))
}

/// Whether this is the beginning of one of our lines: of JSON that ends too soon, with our first fields as we write them.
/// Anything else without a line feed at its end is somebody's file.
fn is_torn(last: &[u8]) -> bool {
    let ends_early = serde_json::from_slice::<serde_json::Value>(last).is_err_and(|error| error.is_eof());
    !last.is_empty() && ends_early && begins_as_ours(last)
}

/// Whether a line, or what there is of one, has our first fields as we write them.
fn begins_as_ours(line: &[u8]) -> bool {
    const ID: &[u8] = b"{\"id\":\"";
    const TURN: &[u8] = b",\"turn_id\":";
    let begins = |text: &[u8], with: &[u8]| text.iter().zip(with).all(|(a, b)| a == b);
    let after_id = line.get(ID.len()..).unwrap_or_default();
    let escaped = |at: usize| after_id[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let end = (0..after_id.len()).find(|&at| after_id[at] == b'"' && !escaped(at));
    begins(line, ID) && end.is_none_or(|end| begins(&after_id[end + 1..], TURN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> QuestionLine {
        QuestionLine {
            id: id.into(),
            turn_id: 1,
            domain: "cnn".into(),
            protocol: "official".into(),
            protocol_version: "1.0".into(),
            model: "m".into(),
            prompt_sha256: "ab".into(),
            truncated: false,
            text: " four\n".into(),
            eos: None,
            prediction: "four".into(),
            golds: vec!["four".into()],
            em: 1.0,
            f1: 2.0 / 3.0,
            seconds: 0.1 + 0.2,
        }
    }

    fn written(path: &Path) -> Vec<u8> {
        let mut log = AnswerLog::open(path).unwrap();
        log.append(vec![line("a\\\""), line("b")]).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn whatever_was_cut_off_of_ours_is_gone_on_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        let whole = written(&path);
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let done = usize::from(cut >= first - 1) + usize::from(cut == whole.len() - 1);
            let mut log = AnswerLog::open(&path).unwrap_or_else(|error| panic!("{cut}: {error}"));
            assert_eq!(log.lines().len(), done, "{cut}");
            log.append([line("a\\\""), line("b")][done..].to_vec()).unwrap();
            assert!(std::fs::read(&path).unwrap() == whole, "{cut}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("theirs");
        for theirs in [
            r#"{"version": "1.0", "data": []}"#,
            "notes",
            r#"{"notes": "the only copy"#,
            r#"{"id":"1","prompt":"P","golds":["x"]}"#,
            r#"{"id":"1","prompt":"P","#,
            "[1, 2]",
            "\0\0\0",
        ] {
            std::fs::write(&path, theirs).unwrap();
            let error = AnswerLog::open(&path).err().unwrap_or_else(|| panic!("{theirs}"));
            assert!(matches!(error, EvalError::Lines { line: 1, .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), theirs);
        }
    }

    #[test]
    fn no_flipped_bit_of_a_line_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        let whole = written(&path);
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match parse_lines(&bytes, "f") {
                Err(EvalError::Lines { .. } | EvalError::Changed { .. }) => {}
                // White space at the end is no part of a line, and a checksum may have capital letters.
                taken => assert_eq!(taken.unwrap(), [line("a\\\""), line("b")], "bit {bit}"),
            }
        }
    }

    #[test]
    fn a_file_without_checksums_is_gone_on_with_as_it_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        let unsealed = |id: &str| serde_json::to_string(&line(id)).unwrap() + "\n";
        std::fs::write(&path, unsealed("a")).unwrap();
        AnswerLog::open(&path).unwrap().append(vec![line("b")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), unsealed("a") + &unsealed("b"));
        assert_eq!(read_lines(&path).unwrap(), [line("a"), line("b")]);
        assert_eq!(AnswerLog::open(&path).unwrap().lines().len(), 2);
        // A new one has them.
        std::fs::write(&path, "").unwrap();
        AnswerLog::open(&path).unwrap().append(vec![line("a")]).unwrap();
        assert!(have_checksums(&std::fs::read(&path).unwrap()));
    }

    #[test]
    fn damaged_answers_are_ours_and_other_json_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        let whole = written(&path);
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
        let fields = whole.windows(9).position(|found| found == b"\"domain\":").unwrap();
        for bit in 8 * fields..8 * first {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            // Without its checksum, a line that is JSON is taken for somebody's.
            let is_sealed = bit / 8 < first - CHECKSUM.len() - DIGITS - 2;
            assert!(are_ours(&path).unwrap() || !is_sealed, "bit {bit}");
        }
        for theirs in [
            r#"{"version": "1.0", "data": []}"#,
            "notes",
            "\nnotes",
            r#"{"id":"1","turn_id":1,"answer":"x"}"#,
            r#"{"id":"1","prompt":"P","golds":["x"]"#,
        ] {
            std::fs::write(&path, theirs).unwrap();
            assert!(!are_ours(&path).unwrap(), "{theirs}");
        }
        for nothing in ["", "\n"] {
            std::fs::write(&path, nothing).unwrap();
            assert!(are_ours(&path).unwrap());
        }
        // The system cannot open it: that says nothing of what is in it.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert!(matches!(are_ours(&link), Err(EvalError::Read { .. })));
    }

    #[test]
    fn one_run_at_a_time_writes_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        let first = AnswerLog::open(&path).unwrap();
        let error = AnswerLog::open(&path).err().unwrap();
        assert!(matches!(error, EvalError::InUse { .. }), "{error}");
        drop(first);
        AnswerLog::open(&path).unwrap();
    }
}
