//! A calibration set: sequences of token ids, and the record of where they come from.

use std::path::{Path, PathBuf};

use super::leak::{Fingerprint, evaluation_texts};
use super::sample::{Sample, sample};
use super::set_file::{ExpectedHash, SetFile};
use super::source::{Base, Document, documents, folder_of, locate};
use super::{SetError, Vocabulary, builtin};
use crate::checkpoint::hub::{Hub, HubError};
use crate::eval::coqa::Dataset;
use crate::host::read;
use crate::record::CalibrationRecord;

/// Digits of a tokenizer's hash by which a set's expected hash is found.
const TOKENIZER_DIGITS: usize = 16;

/// Words of a shared passage that an error quotes.
const QUOTED_WORDS: usize = 20;

/// Sequences that a model is calibrated on.
#[derive(Debug, Clone)]
pub struct CalibrationSet {
    /// Token ids; every id is one of the model's.
    pub sequences: Vec<Vec<u32>>,
    pub record: CalibrationRecord,
    passages: Fingerprint,
}

/// The set that `name` says for the model of `vocabulary`: a built-in one, a `.toml` file, or a `.json` file of token ids.
/// `hub` is called only for a set whose source is a hub data set.
///
/// # Errors
/// [`SetError`]; a set that is too small, has other ids than its hash says, or ids beyond the vocabulary is one.
pub fn load(
    name: &str,
    vocabulary: &Vocabulary,
    hub: impl FnOnce() -> Result<Hub, HubError>,
) -> Result<CalibrationSet, SetError> {
    let (set, base) = find(name)?;
    let path = Path::new(name);
    let stem = path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
    let shown = if matches!(base, Base::BuiltIn) { name.to_owned() } else { stem };
    let located = locate(&set.source, &base, hub)?;
    let encode = |document: &Document, number: usize| match document {
        Document::Text(text) => vocabulary.encode(text, number),
        Document::Chat(messages) => vocabulary.encode_chat(messages, number),
        Document::Ids(ids) => Ok(ids.clone()),
    };
    let Sample { sequences, too_short } = sample(documents(&located, &set)?, &set, &encode)?;
    refuse_too_few(&set, &shown, &sequences, too_short)?;
    refuse_beyond(&sequences, &shown, vocabulary.size())?;
    let hash = hash(&sequences);
    refuse_other(&set, &shown, &hash, vocabulary)?;
    let numbered = (1..).zip(&sequences);
    let texts = numbered.map(|(number, ids)| vocabulary.decode(ids, number)).collect::<Result<Vec<String>, _>>()?;
    let texts = || texts.iter().map(String::as_str);
    let record = CalibrationRecord {
        set: shown,
        source: located.described,
        form: set.form.name().to_owned(),
        packing: set.packing().name().to_owned(),
        licence: set.licence,
        seed: set.seed,
        sequences: sequences.len(),
        tokens: sequences.iter().map(Vec::len).sum(),
        too_short,
        tokenizer: vocabulary.tokenizer_hash().to_owned(),
        hash,
        template_time: vocabulary.told_time(),
        passages: Fingerprint::record(texts()),
    };
    Ok(CalibrationSet { sequences, record, passages: Fingerprint::of_texts(texts()) })
}

/// Refuses a name that [`load`] would not know, from the name and the set's own file alone.
///
/// # Errors
/// [`SetError`]: no such set or file, or a TOML that contradicts itself.
pub fn refuse_unknown(name: &str) -> Result<(), SetError> {
    find(name).map(drop)
}

impl CalibrationSet {
    /// What the set is called: a built-in name, or that of its file without folder and ending.
    pub fn name(&self) -> &str {
        &self.record.set
    }

    /// BLAKE3 of the token ids: for each sequence its length and its ids, each a little-endian u32.
    pub fn hash(&self) -> &str {
        &self.record.hash
    }

    /// Tokens over all sequences.
    pub fn tokens(&self) -> usize {
        self.record.tokens
    }

    /// Refuses the set if it shares a passage with the data that a model calibrated on it is scored on; `evaluation` is what
    /// that data is called. What counts is the text of the sequences themselves, so what the source has beside them does no
    /// harm.
    ///
    /// # Errors
    /// [`SetError::Leak`], which names the document and quotes the words.
    pub fn refuse_leak(&self, dataset: &Dataset, evaluation: &str) -> Result<(), SetError> {
        refuse(&self.passages, self.name(), evaluation_texts(dataset), evaluation)
    }
}

/// [`CalibrationSet::refuse_leak`] for an artifact whose set is not at hand: finds shared runs of
/// [`RECORDED_RUN`](super::RECORDED_RUN) words and, by chance, shorter ones.
///
/// # Errors
/// [`SetError::Leak`], or [`SetError::Record`] for a damaged record.
pub fn refuse_recorded_leak(record: &CalibrationRecord, dataset: &Dataset, evaluation: &str) -> Result<(), SetError> {
    refuse(&Fingerprint::from_record(&record.passages)?, &record.set, evaluation_texts(dataset), evaluation)
}

/// As [`refuse_recorded_leak`], for plain texts, which have numbers for names.
///
/// # Errors
/// As [`refuse_recorded_leak`].
pub fn refuse_recorded_text(record: &CalibrationRecord, texts: &[String], evaluation: &str) -> Result<(), SetError> {
    let names: Vec<String> = (1..=texts.len()).map(|number| number.to_string()).collect();
    let documents = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    refuse(&Fingerprint::from_record(&record.passages)?, &record.set, documents, evaluation)
}

fn refuse(passages: &Fingerprint, set: &str, documents: Vec<(&str, &str)>, evaluation: &str) -> Result<(), SetError> {
    let Some(leak) = passages.find(documents) else { return Ok(()) };
    let document = match leak.documents {
        1 => leak.document,
        many => format!("{} (and {} more)", leak.document, many - 1),
    };
    let words: Vec<&str> = leak.words.split(' ').collect();
    let mut quote = words[..words.len().min(QUOTED_WORDS)].join(" ");
    if words.len() > QUOTED_WORDS {
        quote += " …";
    }
    Err(SetError::Leak { set: set.to_owned(), evaluation: evaluation.to_owned(), document, quote, words: words.len() })
}

/// The set as written, and what its file names are relative to.
fn find(name: &str) -> Result<(SetFile, Base), SetError> {
    if let Some(text) = builtin::set(name) {
        return Ok((SetFile::parse(name, text)?, Base::BuiltIn));
    }
    let path = Path::new(name);
    if !path.is_file() {
        return Err(SetError::Unknown { name: name.to_owned() });
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => {
            let text =
                read::text(path, read::SETTINGS).map_err(|source| SetError::Unreadable { file: name.to_owned(), source })?;
            Ok((SetFile::parse(name, &text)?, folder_of(path)))
        }
        Some("json") => {
            let file = path.file_name().map(PathBuf::from).unwrap_or_default();
            Ok((SetFile::of_ids(file), folder_of(path)))
        }
        _ => Err(SetError::UnknownKind { name: name.to_owned() }),
    }
}

fn refuse_too_few(set: &SetFile, name: &str, sequences: &[Vec<u32>], too_short: usize) -> Result<(), SetError> {
    let samples = set.samples.unwrap_or(1);
    if sequences.len() >= samples {
        return Ok(());
    }
    Err(SetError::TooLittle {
        set: name.to_owned(),
        sequences: sequences.len(),
        samples,
        of_length: set.length.map(|length| format!(" of {length} tokens")).unwrap_or_default(),
        too_short: if too_short > 0 { format!(", {too_short} documents are shorter") } else { String::new() },
    })
}

fn refuse_beyond(sequences: &[Vec<u32>], name: &str, vocab_size: usize) -> Result<(), SetError> {
    let numbered = (1..).zip(sequences);
    let mut beyond = numbered.filter_map(|(number, ids)| Some((number, *ids.iter().find(|id| **id as usize >= vocab_size)?)));
    match beyond.next() {
        Some((sequence, id)) => Err(SetError::BeyondVocabulary { set: name.to_owned(), sequence, id, vocab_size }),
        None => Ok(()),
    }
}

fn refuse_other(set: &SetFile, name: &str, got: &str, vocabulary: &Vocabulary) -> Result<(), SetError> {
    let expected = match &set.hash {
        None => None,
        Some(ExpectedHash::Any(hash)) => Some(hash),
        Some(ExpectedHash::ByTokenizer(hashes)) => hashes.get(&vocabulary.tokenizer_hash()[..TOKENIZER_DIGITS]),
    };
    match expected.filter(|expected| *expected != got) {
        None => Ok(()),
        Some(expected) => Err(SetError::WrongHash { set: name.to_owned(), expected: expected.clone(), got: got.to_owned() }),
    }
}

/// BLAKE3 of the sequences, each as its length and its ids, all little-endian u32, so that it tells where they end.
fn hash(sequences: &[Vec<u32>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for sequence in sequences {
        hasher.update(&(sequence.len() as u32).to_le_bytes());
        sequence.iter().for_each(|id| {
            hasher.update(&id.to_le_bytes());
        });
    }
    hasher.finalize().to_hex().to_string()
}
