//! What of a model a calibration set depends on: tokenizer, chat template, size of the vocabulary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::SetError;
use super::chat::{ChatTemplate, Clock, Message};
use crate::companions::{SpecialTokens, Tokenizer};
use crate::contract::{CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE};
use crate::host::read;

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

/// Refuses a chat template of the model in folder `model` that could not be used for a chat. One that writes the time is not asked
/// for it.
///
/// # Errors
/// [`SetError::Template`] and whatever keeps it from being read.
pub fn check_template(model: &Path) -> Result<(), SetError> {
    let Some(Template { path, text, special_tokens, .. }) = chat_template(model)? else { return Ok(()) };
    let compiled = ChatTemplate::new(&text, special_tokens, Clock::default());
    compiled.map(drop).map_err(|error| SetError::Template { path, reason: error.to_string() })
}

/// The template in its own file, else the one in `tokenizer_config.json`: a string, or a list of named ones, of which
/// `default` counts.
fn chat_template(model: &Path) -> Result<Option<Template>, SetError> {
    let path = model.join(TOKENIZER_CONFIG_FILE);
    let config: Value = match optional(&path)? {
        None => Value::Null,
        Some(text) => serde_json::from_str(&text).map_err(|error| SetError::ModelFile {
            path: path.clone(),
            what: "JSON",
            reason: error.to_string(),
        })?,
    };
    let named = |list: &Vec<Value>| list.iter().find(|entry| entry["name"] == "default").map(|entry| entry["template"].clone());
    let inside = match &config["chat_template"] {
        Value::Array(list) => named(list).unwrap_or(Value::Null),
        other => other.clone(),
    };
    let own = model.join(CHAT_TEMPLATE_FILE);
    let (path, text) = match (optional(&own)?, inside) {
        (Some(template), _) => (own, template),
        (None, Value::String(template)) => (path, template),
        (None, _) => return Ok(None),
    };
    let special_tokens = SpecialTokens::by_name(model)?;
    Ok(Some(Template { path, text, special_tokens, compiled: OnceLock::new() }))
}

fn optional(path: &Path) -> Result<Option<String>, SetError> {
    match read::text(path, read::SETTINGS) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SetError::Unreadable { file: path.display().to_string(), source }),
    }
}
