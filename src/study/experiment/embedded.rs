//! The embedded model, its questions and its text: a checkout's own, or those that are compiled in, unpacked into the cache once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::{FileError, cache, publish, terminal};
use crate::study::StudyError;

/// Where a checkout has it.
const FIXTURE: &str = "fixtures/tiny-coqa";
const QUESTIONS: &str = "coqa-mini.json";
const TEXT: &str = "perplexity.txt";

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../fixtures/tiny-coqa/", $name)).as_slice())),+]
    };
}

/// What a run of it reads; the weights are for testing and research, which the README says.
const FILES: [(&str, &[u8]); 9] = files![
    "README.md",
    "coqa-mini.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "perplexity.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The embedded model's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded(PathBuf);

impl Embedded {
    /// The one in this checkout, else unpacked, which is said.
    ///
    /// # Errors
    /// There is no cache, or it cannot be written.
    pub fn find() -> Result<Embedded, StudyError> {
        let here = Path::new(FIXTURE);
        if FILES.iter().all(|(name, _)| here.join(name).is_file()) {
            return Ok(Embedded(here.to_owned()));
        }
        let cache = cache::folder().ok_or(StudyError::NoCache)?;
        // By version, so that two of them share nothing.
        let folder = cache.join(concat!("tiny-coqa-", env!("CARGO_PKG_VERSION")));
        unpacked(&folder).map_err(FileError::at(&folder, "the embedded model cannot be unpacked; give --model"))?;
        Ok(Embedded(folder))
    }

    pub fn model(&self) -> String {
        self.0.display().to_string()
    }

    pub fn questions(&self) -> String {
        self.0.join(QUESTIONS).display().to_string()
    }

    pub fn text(&self) -> PathBuf {
        self.0.join(TEXT)
    }
}

/// Writes what is not there as it is compiled in.
fn unpacked(folder: &Path) -> std::io::Result<()> {
    let differs = |(name, bytes): &&(&str, &[u8])| fs::read(folder.join(name)).map_or(true, |there| there != *bytes);
    let missing: Vec<_> = FILES.iter().filter(differs).collect();
    if missing.is_empty() {
        return Ok(());
    }
    terminal::say(format_args!("the embedded model is unpacked into {}", folder.display()));
    fs::create_dir_all(folder)?;
    missing.into_iter().try_for_each(|(name, bytes)| publish::file(&folder.join(name), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_written_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        unpacked(&folder).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        fs::remove_file(folder.join("tokenizer.json")).unwrap();
        unpacked(&folder).unwrap();
        for (name, bytes) in FILES {
            assert!(fs::read(folder.join(name)).unwrap() == bytes, "{name}");
        }
    }
}
