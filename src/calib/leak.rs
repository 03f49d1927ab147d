//! Whether a model was calibrated on a text that it is scored on.
//!
//! Two texts share a passage if they have 13 words in a row in common, after lower-casing and dropping everything that is
//! neither letter nor digit: the rule by which GPT-3's training set was cleaned of its benchmarks (Brown et al. 2020,
//! appendix C), where 13 words was what made benchmarks' own boilerplate and common turns of phrase drop out. A word is a run
//! of letters and digits, so the rule says little about languages that are written without spaces.
//!
//! With the set at hand every passage is compared. An artifact remembers only every 38th, so that its manifest stays small: of
//! any 50 shared words in a row (38 starts of 13 words) at least one passage is remembered, so a shared run of that length is
//! always found and a shorter one only by chance. A CoQA story has 270 words on average.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_64;

use super::SetError;
use crate::eval::coqa::Dataset;
use crate::record::PassageRecord;

/// Words of a passage.
pub const PASSAGE_WORDS: usize = 13;
/// Shared words in a row that a recorded fingerprint always finds.
pub const RECORDED_RUN: usize = 50;
/// Every so many passages one is recorded.
const RECORDED_EVERY: usize = RECORDED_RUN + 1 - PASSAGE_WORDS;
/// Hexadecimal digits of a hash.
const DIGITS: usize = 16;

/// The passages of a set of texts, as hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    hashes: HashSet<u64>,
}

/// A passage that is also in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The first document that shares a passage.
    pub document: String,
    /// The words that are shared, normalized: its longest run.
    pub words: String,
    /// Documents that share a passage.
    pub documents: usize,
}

impl Fingerprint {
    /// Every passage of the texts.
    pub fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Fingerprint {
        Fingerprint { hashes: hashes_of(texts, 1) }
    }

    /// What an artifact remembers of the texts.
    pub fn record<'a>(texts: impl IntoIterator<Item = &'a str>) -> PassageRecord {
        let mut hashes: Vec<u64> = hashes_of(texts, RECORDED_EVERY).into_iter().collect();
        hashes.sort_unstable();
        let hashes = hashes.iter().map(|hash| format!("{hash:0width$x}", width = DIGITS)).collect();
        PassageRecord { words: PASSAGE_WORDS, every: RECORDED_EVERY, hashes }
    }

    /// What an artifact remembers.
    ///
    /// # Errors
    /// [`SetError::Record`] if it is damaged, or of passages of another length.
    pub fn from_record(record: &PassageRecord) -> Result<Fingerprint, SetError> {
        let damaged = |problem: String| SetError::Record { problem };
        if record.words != PASSAGE_WORDS {
            return Err(damaged(format!("passages of {} words, expected {PASSAGE_WORDS}", record.words)));
        }
        let digits = record.hashes.as_bytes().chunks(DIGITS);
        let hash = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == DIGITS);
            text.and_then(|text| u64::from_str_radix(text, 16).ok())
        };
        let hashes = digits.map(hash).collect::<Option<HashSet<u64>>>();
        let hashes = hashes.ok_or_else(|| damaged("the passages' hashes are not groups of 16 hexadecimal digits".to_owned()))?;
        Ok(Fingerprint { hashes })
    }

    /// Passages.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is no passage.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The first of `documents` (name and text) that shares a passage, and how many do.
    pub fn find<'a>(&self, documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Leak> {
        let mut found: Option<Leak> = None;
        for (name, text) in documents {
            let Some(words) = self.longest_run(text) else { continue };
            match &mut found {
                Some(leak) => leak.documents += 1,
                None => found = Some(Leak { document: name.to_owned(), words, documents: 1 }),
            }
        }
        found
    }

    /// The longest run of words all of whose passages are known.
    fn longest_run(&self, text: &str) -> Option<String> {
        let words = Words::of(text);
        let (mut best, mut run) = (0..0, 0..0);
        for start in 0..words.passages() {
            if !self.hashes.contains(&xxh3_64(words.run(start, PASSAGE_WORDS).as_bytes())) {
                continue;
            }
            run = if run.end == start && !run.is_empty() { run.start..start + 1 } else { start..start + 1 };
            if run.len() > best.len() {
                best = run.clone();
            }
        }
        (!best.is_empty()).then(|| words.run(best.start, best.len() + PASSAGE_WORDS - 1).to_owned())
    }
}

/// Names and texts of a data set, as [`Fingerprint::find`] takes them: the story of each conversation (questions and answers
/// are too short to be passages of their own), or each prompt.
pub fn evaluation_texts(dataset: &Dataset) -> Vec<(&str, &str)> {
    match dataset {
        Dataset::Conversations(all) => all.iter().map(|one| (one.id.as_str(), one.story.as_str())).collect(),
        Dataset::Prompts(all) => all.iter().map(|one| (one.id.as_str(), one.prompt.as_str())).collect(),
    }
}

fn hashes_of<'a>(texts: impl IntoIterator<Item = &'a str>, every: usize) -> HashSet<u64> {
    let mut hashes = HashSet::new();
    for text in texts {
        let words = Words::of(text);
        hashes.extend((0..words.passages()).step_by(every).map(|start| xxh3_64(words.run(start, PASSAGE_WORDS).as_bytes())));
    }
    hashes
}

/// A text's words in lower case, a space between two.
struct Words {
    text: String,
    /// Where each word begins and ends.
    spans: Vec<(usize, usize)>,
}

impl Words {
    fn of(text: &str) -> Words {
        let mut words = Words { text: String::with_capacity(text.len()), spans: Vec::new() };
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            if !words.text.is_empty() {
                words.text.push(' ');
            }
            let start = words.text.len();
            words.text.extend(word.chars().flat_map(char::to_lowercase));
            words.spans.push((start, words.text.len()));
        }
        words
    }

    fn passages(&self) -> usize {
        (self.spans.len() + 1).saturating_sub(PASSAGE_WORDS)
    }

    /// `count` words from word `start` on.
    fn run(&self, start: usize, count: usize) -> &str {
        &self.text[self.spans[start].0..self.spans[start + count - 1].1]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `count` words that stand nowhere else.
    fn words(name: &str, count: usize) -> String {
        (0..count).map(|index| format!("{name}{index}")).collect::<Vec<_>>().join(" ")
    }

    fn of(texts: &[&str]) -> Fingerprint {
        Fingerprint::of_texts(texts.iter().copied())
    }

    #[test]
    fn thirteen_words_in_a_row_are_a_passage_and_twelve_are_not() {
        let calibration = format!("{} {} {}", words("a", 30), words("shared", 20), words("b", 30));
        let set = of(&[&calibration]);
        for (count, found) in [(12, false), (13, true)] {
            let story = format!("{} {} {}", words("x", 9), words("shared", count), words("y", 9));
            assert_eq!(set.find([("s1", story.as_str())]).is_some(), found, "{count}");
        }
        assert_eq!(set.len(), 80 - 12);
    }

    #[test]
    fn case_punctuation_and_white_space_do_not_count_and_the_longest_run_is_quoted() {
        let set = of(&["Then, \"at last\",\nshe said: I'm NOT going to the harbor to-day, not with you, nor with him."]);
        let story = "At last she said i m not going to the harbor (to day) not with you. nor with me";
        let leak = set.find([("other", "no such thing"), ("s2", story), ("s3", story)]).expect("shared");
        assert_eq!((leak.document.as_str(), leak.documents), ("s2", 2));
        assert_eq!(leak.words, "at last she said i m not going to the harbor to day not with you nor with");
    }

    #[test]
    fn a_text_of_twelve_words_has_no_passage() {
        assert!(of(&[&words("a", 12)]).is_empty());
        assert!(of(&[""]).is_empty());
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let record = Fingerprint::record([words("a", 100).as_str()]);
        assert_eq!(Fingerprint::from_record(&record).expect("reads").len(), 3);
        for hashes in ["0123", "zzzzzzzzzzzzzzzz", "+123456789abcdef0", "é23456789abcdef"] {
            let damaged = PassageRecord { hashes: hashes.to_owned(), ..record.clone() };
            assert!(Fingerprint::from_record(&damaged).is_err(), "{hashes}");
        }
        assert!(Fingerprint::from_record(&PassageRecord { words: 8, ..record }).is_err());
    }

    proptest! {
        #[test]
        fn a_record_finds_every_run_of_fifty_shared_words(before in 0usize..200, after in 0usize..100, lead in 0usize..40) {
            let shared = words("shared", RECORDED_RUN);
            let calibration = format!("{} {shared} {}", words("a", before), words("b", after));
            let record = Fingerprint::record([calibration.as_str()]);
            let story = format!("{} {shared}", words("x", lead));
            let leak = Fingerprint::from_record(&record).expect("reads").find([("s", story.as_str())]);
            prop_assert!(leak.is_some());
        }
    }
}
