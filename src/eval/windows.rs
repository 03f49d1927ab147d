//! The token windows that perplexity and KL divergence are taken over.
//!
//! A window is BOS and then up to `length − 1` tokens of the text: documents are tokenized one by one without special
//! tokens, joined by a separator, and cut without overlap, so every token is predicted once. The last window may be
//! shorter. With the separator `[eos, bos]` and length 1024 this is the form of the project's reference measurements.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::error::EvalError;
use super::pieces;
use crate::generate::Score;
use crate::host::read;

/// Window length unless told otherwise.
pub const DEFAULT_LENGTH: usize = 1024;

/// Token windows, each at least two ids long, and at least one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWindows(Vec<Vec<u32>>);

impl TokenWindows {
    /// Takes windows as they are.
    ///
    /// # Errors
    /// [`EvalError::NoWindows`]; [`EvalError::WindowTooShort`] for fewer than two ids.
    pub fn new(windows: Vec<Vec<u32>>) -> Result<TokenWindows, EvalError> {
        if windows.is_empty() {
            return Err(EvalError::NoWindows);
        }
        match windows.iter().position(|window| window.len() < 2) {
            Some(short) => Err(EvalError::WindowTooShort { window: short, got: windows[short].len() }),
            None => Ok(TokenWindows(windows)),
        }
    }

    /// Cuts tokenized documents into windows of `length` ids, each begun with `bos` if there is one.
    ///
    /// # Errors
    /// [`EvalError::WindowLength`] if `length` is below 2, [`EvalError::NoWindows`] if there is nothing to predict.
    pub fn cut(documents: &[Vec<u32>], separator: &[u32], bos: Option<u32>, length: usize) -> Result<TokenWindows, EvalError> {
        if length < 2 {
            return Err(EvalError::WindowLength { got: length });
        }
        let stream = documents.join(separator);
        let head: Vec<u32> = bos.into_iter().collect();
        let windows = stream.chunks(length - head.len()).map(|body| [&head, body].concat());
        TokenWindows::new(windows.filter(|window| window.len() >= 2).collect())
    }

    /// [`TokenWindows::cut`] of texts under the model's own tokenizer and BOS; documents are joined by BOS if there is one. With a
    /// `limit`, the first so many windows, and no more is tokenized than they need.
    ///
    /// # Errors
    /// As [`TokenWindows::cut`], and the tokenizer's.
    pub fn of_texts(model: &dyn Score, texts: &[String], length: usize, limit: Option<usize>) -> Result<TokenWindows, EvalError> {
        let separator: Vec<u32> = model.bos().into_iter().collect();
        let encode = |text: &str| model.encode_plain(text);
        // The windows that are wanted have less than this between them.
        let mut missing = limit.map_or(usize::MAX, |limit| limit.saturating_mul(length));
        let mut documents = Vec::new();
        for text in texts {
            let ids = if limit.is_none() { encode(text)? } else { pieces::first(&encode, text, missing)? };
            missing = missing.saturating_sub(ids.len() + separator.len());
            documents.push(ids);
            if missing == 0 {
                break;
            }
        }
        let windows = TokenWindows::cut(&documents, &separator, model.bos(), length)?;
        Ok(limit.map_or_else(|| windows.clone(), |limit| windows.first(limit)))
    }

    /// Windows from a JSON file `{"windows": [[id, …], …]}`; other fields are ignored.
    ///
    /// # Errors
    /// [`EvalError::Read`], [`EvalError::Text`] saying where the file is not of that form, and as [`TokenWindows::new`].
    pub fn load(path: &Path) -> Result<TokenWindows, EvalError> {
        let file = path.display().to_string();
        let bytes = read::file(path, u64::MAX).map_err(|source| EvalError::Read { file: file.clone(), source })?;
        if read::is_utf_16(&bytes) {
            return Err(EvalError::Text { file, detail: "it is UTF-16; save it as UTF-8".to_owned() });
        }
        TokenWindows::parse(read::unmarked(&bytes), &file)
    }

    /// [`TokenWindows::load`] of bytes in memory.
    ///
    /// # Errors
    /// As [`TokenWindows::load`].
    pub fn parse(bytes: &[u8], file: &str) -> Result<TokenWindows, EvalError> {
        let wrong = |detail: String| EvalError::Text { file: file.to_string(), detail };
        let document: Value = serde_json::from_slice(bytes).map_err(|error| wrong(format!("not valid JSON: {error}")))?;
        let expected = "expected an object with `windows`: a list of lists of token ids";
        let list = document.get("windows").and_then(Value::as_array).ok_or_else(|| wrong(expected.to_string()))?;
        let window = |(index, value): (usize, &Value)| {
            let ids =
                value.as_array().ok_or_else(|| wrong(format!("window {index}: expected a list of token ids, got {value}")))?;
            let id = |value: &Value| {
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                id.ok_or_else(|| wrong(format!("window {index}: expected a token id, got {value}")))
            };
            ids.iter().map(id).collect::<Result<Vec<u32>, _>>()
        };
        TokenWindows::new(list.iter().enumerate().map(window).collect::<Result<_, _>>()?)
    }

    /// The windows, in order.
    pub fn as_slice(&self) -> &[Vec<u32>] {
        &self.0
    }

    /// Refuses ids that no vocabulary of `vocab_size` has.
    ///
    /// # Errors
    /// [`EvalError::IdOutOfRange`] for the first of them.
    pub fn check_ids(&self, vocab_size: usize) -> Result<(), EvalError> {
        let mut ids = self.0.iter().enumerate().flat_map(|(window, ids)| ids.iter().map(move |&id| (window, id)));
        match ids.find(|&(_, id)| id as usize >= vocab_size) {
            Some((window, id)) => Err(EvalError::IdOutOfRange { window, id, vocab_size }),
            None => Ok(()),
        }
    }

    /// The first `count` windows, or all if there are fewer; at least one.
    pub fn first(&self, count: usize) -> TokenWindows {
        TokenWindows(self.0[..count.clamp(1, self.0.len())].to_vec())
    }

    /// Positions that have a next token to predict, over all windows.
    pub fn targets(&self) -> usize {
        self.0.iter().map(|window| window.len() - 1).sum()
    }

    /// SHA-256 over each window's length (u32) and ids, little-endian.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for window in &self.0 {
            hash.update((window.len() as u32).to_le_bytes());
            window.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Documents of a text file that are not blank: every `text` of a `.jsonl` file of `{"text": …}` lines, else the whole file as
/// one document.
///
/// # Errors
/// [`EvalError::Read`], or [`EvalError::Text`] naming the line that is not of that form; a file of blank documents is one.
pub fn load_texts(path: &Path) -> Result<Vec<String>, EvalError> {
    let file = path.display().to_string();
    let text = read::text(path, u64::MAX).map_err(|source| EvalError::Read { file: file.clone(), source })?;
    let wrong = |detail: String| EvalError::Text { file: file.clone(), detail };
    let mut documents = match path.extension() {
        Some(extension) if extension == "jsonl" => lines(&text, &wrong)?,
        _ => vec![text],
    };
    // Between two blank documents there would be nothing to predict but their separator.
    documents.retain(|document| !document.trim().is_empty());
    match documents.is_empty() {
        true => Err(wrong("holds no text; give a file with text".to_owned())),
        false => Ok(documents),
    }
}

/// The `text` of each line that is not blank.
fn lines(text: &str, wrong: &dyn Fn(String) -> EvalError) -> Result<Vec<String>, EvalError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let number = index + 1;
            let value: Value =
                serde_json::from_str(line).map_err(|error| wrong(format!("line {number}: not valid JSON: {error}")))?;
            let text = value.get("text").and_then(Value::as_str);
            text.map(str::to_string).ok_or_else(|| wrong(format!("line {number}: expected an object with a string `text`")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_begins_with_bos_and_every_token_is_predicted_once() {
        let windows = TokenWindows::cut(&[vec![5, 6, 7], vec![8, 9]], &[1, 0], Some(0), 4).expect("cuts");
        assert_eq!(windows.as_slice(), [vec![0, 5, 6, 7], vec![0, 1, 0, 8], vec![0, 9]]);
        assert_eq!(windows.targets(), 7);
        assert_eq!(windows.first(2).as_slice().len(), 2);
    }

    #[test]
    fn without_bos_a_last_window_of_one_token_is_dropped() {
        let windows = TokenWindows::cut(&[vec![5, 6, 7]], &[], None, 2).expect("cuts");
        assert_eq!(windows.as_slice(), [vec![5, 6]]);
    }

    #[test]
    fn bad_windows_are_refused() {
        assert!(matches!(TokenWindows::cut(&[vec![]], &[], Some(0), 8), Err(EvalError::NoWindows)));
        assert!(matches!(TokenWindows::cut(&[vec![1]], &[], Some(0), 1), Err(EvalError::WindowLength { got: 1 })));
        assert!(matches!(
            TokenWindows::parse(br#"{"windows": [[1, 2], [3]]}"#, "w"),
            Err(EvalError::WindowTooShort { window: 1, got: 1 })
        ));
        for (file, says) in [
            ("{", "not valid JSON"),
            ("[[1, 2]]", "expected an object with `windows`"),
            (r#"{"windows": [[1, 2], 7]}"#, "window 1: expected a list of token ids, got 7"),
            (r#"{"windows": [[1, -2]]}"#, "window 0: expected a token id, got -2"),
        ] {
            let error = TokenWindows::parse(file.as_bytes(), "w.json").expect_err(file).to_string();
            assert!(error.starts_with("w.json: ") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_hash_tells_where_windows_end() {
        let hash = |windows: &[&[u32]]| TokenWindows::new(windows.iter().map(|w| w.to_vec()).collect()).expect("valid").sha256();
        assert_eq!(hash(&[&[1, 2], &[3, 4]]), hash(&[&[1, 2], &[3, 4]]));
        assert_ne!(hash(&[&[1, 2], &[3, 4]]), hash(&[&[1, 2, 3, 4]]));
    }

    #[test]
    fn the_first_windows_are_those_of_the_whole_text() {
        let model = crate::eval::fake::FakeScore::default();
        let texts: Vec<String> = (1..40).map(|number| "ab c".repeat(number * number)).collect();
        for length in [2, 7, 64] {
            let all = TokenWindows::of_texts(&model, &texts, length, None).expect("cuts");
            for limit in [1, 2, 3, 10, 100_000] {
                assert_eq!(TokenWindows::of_texts(&model, &texts, length, Some(limit)).expect("cuts"), all.first(limit));
            }
        }
    }

    #[test]
    fn texts_come_whole_or_by_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("writes");
            path
        };
        assert_eq!(load_texts(&write("a.txt", "x\ny\n")).expect("reads"), ["x\ny\n"]);
        assert_eq!(load_texts(&write("a.jsonl", "{\"text\": \"x\"}\n\n{\"text\": \"y\"}\n")).expect("reads"), ["x", "y"]);
        assert_eq!(load_texts(&write("m.txt", "\u{feff}x")).expect("reads"), ["x"]);
        assert_eq!(load_texts(&write("m.jsonl", "\u{feff}{\"text\": \"x\"}\n{\"text\": \" \"}\n")).expect("reads"), ["x"]);
        for (name, blank) in [("e.jsonl", "{\"text\": \"\"}\n{\"text\": \"\"}\n"), ("e.txt", " \n"), ("z.txt", "")] {
            let error = load_texts(&write(name, blank)).expect_err("blank").to_string();
            assert!(error.ends_with(": holds no text; give a file with text"), "{error}");
        }
        std::fs::write(folder.path().join("u.txt"), b"\xff\xfex\0").expect("writes");
        let error = load_texts(&folder.path().join("u.txt")).expect_err("UTF-16");
        assert!(matches!(&error, EvalError::Read { source, .. } if source.to_string().contains("UTF-16")), "{error}");
        assert_eq!(error.fault(), crate::fault::Fault::BadInput);
        let error = load_texts(&write("b.jsonl", "{\"text\": \"x\"}\n{\"txt\": 1}\n")).expect_err("no text").to_string();
        assert!(error.contains("line 2: expected an object with a string `text`"), "{error}");
    }
}
