//! What of a model a calibration set depends on: tokenizer, chat template, size of the vocabulary.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::SetError;
use super::chat::{ChatTemplate, Clock, Message};
use crate::companions::{SpecialTokens, Tokenizer};
use crate::contract::{ADDITIONAL_TEMPLATES, CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE};
use crate::host::read;

/// The additional template that wins over all others.
const DEFAULT_TEMPLATE: &str = "default.jinja";

/// A model's tokenizer and the ids that its embedding has rows for.
pub struct Vocabulary {
    model: PathBuf,
    tokenizer: Tokenizer,
    /// Rows of the token embedding.
    size: usize,
    template: Option<Template>,
}

/// A chat template that is compiled when the first chat comes: without chats it does no harm, whatever it is.
struct Template {
    path: PathBuf,
    text: String,
    special_tokens: BTreeMap<String, String>,
    compiled: OnceLock<Result<ChatTemplate, String>>,
}

impl Template {
    /// What a folder of additional templates comes to that has no default, where no other file has one.
    fn unusable(folder: PathBuf) -> Template {
        let reason = format!("it has no {DEFAULT_TEMPLATE} and the model no {CHAT_TEMPLATE_FILE}, so transformers takes none");
        let compiled = OnceLock::from(Err(reason));
        Template { path: folder, text: String::new(), special_tokens: BTreeMap::new(), compiled }
    }

    fn compiled(&self) -> Result<&ChatTemplate, SetError> {
        let clock = Clock::of_process()?;
        let compile = || {
            if self.text.contains("strftime_now") && !Clock::is_told() {
                let (path, seconds) = (self.path.display(), clock.seconds());
                tracing::warn!(
                    "{path} writes today's date: the same set has other token ids tomorrow; set SOURCE_DATE_EPOCH={seconds} to keep them"
                );
            }
            ChatTemplate::new(&self.text, self.special_tokens.clone(), clock).map_err(|error| error.to_string())
        };
        let compiled = self.compiled.get_or_init(compile).as_ref();
        compiled.map_err(|reason| SetError::Template { path: self.path.clone(), reason: reason.clone() })
    }
}

impl Vocabulary {
    /// Reads the tokenizer files of the model in folder `model`, whose embedding has `size` rows.
    ///
    /// # Errors
    /// [`SetError::Companion`], [`SetError::Unreadable`] or [`SetError::ModelFile`].
    pub fn open(model: &Path, size: usize) -> Result<Vocabulary, SetError> {
        let tokenizer = Tokenizer::of_model(model)?;
        Ok(Vocabulary { template: chat_template(model)?, model: model.to_owned(), tokenizer, size })
    }

    /// BLAKE3 of `tokenizer.json`, hexadecimal.
    pub fn tokenizer_hash(&self) -> &str {
        self.tokenizer.hash()
    }

    /// Rows of the token embedding.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A text's ids with the special tokens that the tokenizer adds; `document` is its number for messages.
    pub(super) fn encode(&self, text: &str, document: usize) -> Result<Vec<u32>, SetError> {
        self.ids(text, true, document)
    }

    /// A chat's ids through the template, which writes the special tokens itself.
    pub(super) fn encode_chat(&self, messages: &[Message], document: usize) -> Result<Vec<u32>, SetError> {
        let template = self.template.as_ref().ok_or_else(|| SetError::NoChatTemplate { model: self.model.clone() })?;
        let text = template.compiled()?.render(messages).map_err(|reason| SetError::Chat {
            model: self.model.clone(),
            document,
            reason,
        })?;
        self.ids(&text, false, document)
    }

    /// What the chats so far were told of the time, in seconds since 1970, if their template asked for it.
    pub(super) fn told_time(&self) -> Option<i64> {
        let compiled = self.template.as_ref()?.compiled.get()?.as_ref().ok()?;
        compiled.told_time().map(Clock::seconds)
    }

    fn ids(&self, text: &str, special: bool, document: usize) -> Result<Vec<u32>, SetError> {
        self.tokenizer.encode(text, special).map_err(|error| SetError::Encode { document, reason: error.to_string() })
    }

    /// The text of a sequence, special tokens left out.
    pub fn decode(&self, ids: &[u32], sequence: usize) -> Result<String, SetError> {
        self.tokenizer.decode(ids, true).map_err(|error| SetError::Encode { document: sequence, reason: error.to_string() })
    }
}

/// Refuses a chat template that an artifact of the model in folder `model` would have, which has no additional ones, and that could
/// not be used for a chat. One that writes the time is not asked for it.
///
/// # Errors
/// [`SetError::Template`] and whatever keeps it from being read.
pub fn check_template(model: &Path) -> Result<(), SetError> {
    let found = match of_file(model.join(CHAT_TEMPLATE_FILE))? {
        None => of_config(model)?,
        found => found,
    };
    let Some((path, text)) = found else { return Ok(()) };
    let compiled = ChatTemplate::new(&text, SpecialTokens::by_name(model)?, Clock::default());
    compiled.map(drop).map_err(|error| SetError::Template { path, reason: error.to_string() })
}

/// The template that transformers takes: the default one of the folder of additional templates, else the one in a file of its own,
/// else the one in `tokenizer_config.json`. A folder with other templates alone hides what `tokenizer_config.json` has, and then
/// transformers takes none.
fn chat_template(model: &Path) -> Result<Option<Template>, SetError> {
    let additional = model.join(ADDITIONAL_TEMPLATES);
    let found = match of_file(additional.join(DEFAULT_TEMPLATE))? {
        None => of_file(model.join(CHAT_TEMPLATE_FILE))?,
        found => found,
    };
    let found = match found {
        None if has_templates(&additional) => return Ok(Some(Template::unusable(additional))),
        None => of_config(model)?,
        found => found,
    };
    let Some((path, text)) = found else { return Ok(None) };
    let special_tokens = SpecialTokens::by_name(model)?;
    Ok(Some(Template { path, text, special_tokens, compiled: OnceLock::new() }))
}

/// Whether a folder, which there may be none of, has files of templates.
fn has_templates(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().ends_with(".jinja") && entry.path().is_file())
}

/// A template with the file that it comes from.
type Found = Option<(PathBuf, String)>;

fn of_file(path: PathBuf) -> Result<Found, SetError> {
    Ok(optional(&path)?.map(|text| (path, text)))
}

/// The template in `tokenizer_config.json`: a string, or a list of named ones, of which `default` counts.
fn of_config(model: &Path) -> Result<Found, SetError> {
    let path = model.join(TOKENIZER_CONFIG_FILE);
    let Some(text) = optional(&path)? else { return Ok(None) };
    let config: Value = serde_json::from_str(&text).map_err(|error| SetError::ModelFile {
        path: path.clone(),
        what: "JSON",
        reason: error.to_string(),
    })?;
    let template = match &config["chat_template"] {
        Value::Array(list) => list.iter().find(|entry| entry["name"] == "default").map(|entry| &entry["template"]),
        other => Some(other),
    };
    Ok(template.and_then(Value::as_str).map(|text| (path, text.to_owned())))
}

fn optional(path: &Path) -> Result<Option<String>, SetError> {
    match read::text(path, read::SETTINGS) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(SetError::Unreadable { file: path.display().to_string(), source }),
    }
}
