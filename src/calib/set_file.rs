//! A calibration set as TOML says it: plain data, checked for contradictions, nothing read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::SetError;

/// How token ids come about; complete examples lie in `calibration/`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFile {
    pub source: SourceName,
    /// Licence of the text, as its publisher names it.
    pub licence: String,
    pub form: Form,
    #[serde(default)]
    pub packing: Option<Packing>,
    /// Decides which documents are taken, and in which order.
    #[serde(default)]
    pub seed: u64,
    /// Sequences; ids may leave it out, then all are taken.
    #[serde(default)]
    pub samples: Option<usize>,
    /// Tokens in a sequence; ids may leave it out, then sequences are as they are.
    #[serde(default)]
    pub length: Option<usize>,
    #[serde(default)]
    pub hash: Option<ExpectedHash>,
}

/// Where the text lies: a local file, or files of a hub data set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceName {
    /// Id of a hub data set, `org/name`.
    #[serde(default)]
    pub hub: Option<String>,
    /// Commit (best), branch or tag of the data set; `main` if absent.
    #[serde(default)]
    pub revision: Option<String>,
    /// Split of the data set; every data file if neither this nor `file` is given.
    #[serde(default)]
    pub split: Option<String>,
    /// With `hub`: one file by its path there. Else a local file, relative to the TOML.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Field of each row: `text`, `messages` (chat) or `input_ids` (ids) if absent. In CoQA form it says that the field holds
    /// prompts which are written out already.
    #[serde(default)]
    pub field: Option<String>,
    /// Line that stands between two documents of a `.txt` file, which is one document without it.
    #[serde(default)]
    pub separator: Option<String>,
    /// Rows are lines of one text and are joined by this.
    #[serde(default)]
    pub join: Option<String>,
}

/// What becomes of a document before it is tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As it is, with the special tokens that the tokenizer adds.
    Text,
    /// Messages through the model's own chat template.
    Chat,
    /// A CoQA conversation as the evaluation writes it, with all answers.
    Coqa,
    /// Token ids, as they are.
    Ids,
}

/// How documents become sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// One after the other, cut to the length.
    Packed,
    /// One document a sequence, its beginning; those that are shorter are left out and counted.
    Documents,
}

/// The hash that the token ids must have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a hash, or a table of tokenizer hash = hash")]
pub enum ExpectedHash {
    /// Under any tokenizer: for sets of ids.
    Any(String),
    /// By the first 16 digits of the BLAKE3 of `tokenizer.json`; other tokenizers are not checked.
    ByTokenizer(BTreeMap<String, String>),
}

impl Form {
    /// The word of the TOML.
    pub fn name(self) -> &'static str {
        match self {
            Form::Text => "text",
            Form::Chat => "chat",
            Form::Coqa => "coqa",
            Form::Ids => "ids",
        }
    }

    /// The field of a row unless the set names another.
    pub(super) fn default_field(self) -> &'static str {
        match self {
            Form::Text | Form::Coqa => "text",
            Form::Chat => "messages",
            Form::Ids => "input_ids",
        }
    }
}

impl Packing {
    /// The word of the TOML.
    pub fn name(self) -> &'static str {
        match self {
            Packing::Packed => "packed",
            Packing::Documents => "documents",
        }
    }
}

impl SetFile {
    /// Parses TOML; `path` is for messages.
    ///
    /// # Errors
    /// [`SetError::Syntax`] with the line, [`SetError::Setting`] for fields that contradict each other.
    pub fn parse(path: &str, text: &str) -> Result<SetFile, SetError> {
        let set: SetFile = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let message = error.message().lines().next().unwrap_or_default();
            SetError::Syntax { file: path.to_owned(), message: format!("{place}{message}") }
        })?;
        match set.contradiction() {
            Some(problem) => Err(SetError::Setting { set: path.to_owned(), problem }),
            None => Ok(set),
        }
    }

    /// Token ids in `file`, all of them as they are.
    pub(super) fn of_ids(file: PathBuf) -> SetFile {
        let source =
            SourceName { hub: None, revision: None, split: None, file: Some(file), field: None, separator: None, join: None };
        SetFile {
            source,
            licence: "not stated".to_owned(),
            form: Form::Ids,
            packing: None,
            seed: 0,
            samples: None,
            length: None,
            hash: None,
        }
    }

    /// The packing that holds.
    pub fn packing(&self) -> Packing {
        match self.form {
            Form::Ids => Packing::Documents,
            _ => self.packing.unwrap_or(Packing::Packed),
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        let source = &self.source;
        let is_ids = self.form == Form::Ids;
        let rules = [
            (source.hub.is_none() && source.file.is_none(), "[source] names neither a file nor a hub data set; give one"),
            (source.hub.is_none() && source.revision.is_some(), "revision is for hub data sets; leave it out, or give hub"),
            (source.hub.is_none() && source.split.is_some(), "split is for hub data sets; leave it out, or give hub"),
            (source.split.is_some() && source.file.is_some(), "split and file both choose files of a data set; give one of them"),
            (source.join.is_some() && self.form != Form::Text, "join is for form = \"text\"; leave it out"),
            (is_ids && self.packing == Some(Packing::Packed), "token ids are not packed; leave packing out"),
            (!is_ids && self.samples.is_none(), "samples is missing: the number of sequences"),
            (!is_ids && self.length.is_none(), "length is missing: the tokens of a sequence"),
            (self.samples == Some(0), "samples is 0; expected at least 1"),
            (self.length.is_some_and(|length| length < 2), "length is below 2; a sequence needs at least two tokens"),
        ];
        rules.iter().find(|(is_broken, _)| *is_broken).map(|(_, problem)| *problem)
    }
}
