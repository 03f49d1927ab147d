//! From a set's source to documents: local files, files compiled in, files of a hub data set.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::chat::Message;
use super::set_file::{Form, SetFile, SourceName};
use super::{SetError, builtin};
use crate::checkpoint::hub::{Hub, HubError, Selection};
use crate::eval::coqa::{self, Conversation, Dataset, parquet, prompt};
use crate::host::read;

/// A document before it is tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    Text(String),
    Chat(Vec<Message>),
    Ids(Vec<u32>),
}

/// What a set's local file names are relative to.
pub(super) enum Base {
    /// The folder of its TOML.
    Folder(PathBuf),
    /// It is compiled in.
    BuiltIn,
}

/// A file with rows or text.
enum DataFile {
    Disk(PathBuf),
    Embedded { name: String, text: &'static str },
}

/// Where in a file, counted from 1.
#[derive(Clone, Copy)]
struct Place(&'static str, usize);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

/// What is done with each row.
type Visit<'a> = dyn FnMut(Place, Value) -> Result<(), SetError> + 'a;

/// The files of a source, and what it is called in records.
pub(super) struct Located {
    files: Vec<DataFile>,
    pub described: String,
}

/// Finds a source's files; asks for the hub only where the source lies there.
pub(super) fn locate(source: &SourceName, base: &Base, hub: impl FnOnce() -> Result<Hub, HubError>) -> Result<Located, SetError> {
    let Some(id) = &source.hub else {
        let file = source.file.clone().unwrap_or_default();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = match base {
            Base::Folder(folder) => DataFile::Disk(folder.join(file)),
            Base::BuiltIn => match builtin::text(&name) {
                Some(text) => DataFile::Embedded { name: name.clone(), text },
                None => DataFile::Disk(file),
            },
        };
        return Ok(Located { files: vec![file], described: name });
    };
    let repo = source.revision.as_ref().map_or_else(|| id.clone(), |revision| format!("{id}@{revision}"));
    let file = source.file.as_ref().map(|file| file.to_string_lossy().into_owned());
    let wanted = match (&file, &source.split) {
        (Some(file), _) => Selection::File(file),
        (None, Some(split)) => Selection::Split(split),
        (None, None) => Selection::All,
    };
    let found = hub()?.data_files(&repo, wanted)?;
    let what = match wanted {
        Selection::File(file) => file.to_owned(),
        Selection::Split(split) => format!("split {split}"),
        Selection::All => "all files".to_owned(),
    };
    let described = format!("{id}@{}: {what}", found.commit);
    Ok(Located { files: found.paths.into_iter().map(DataFile::Disk).collect(), described })
}

/// Every document of a source that is not blank, in order.
pub(super) fn documents(located: &Located, set: &SetFile) -> Result<Vec<Document>, SetError> {
    let mut all = Vec::new();
    for file in &located.files {
        let before = all.len();
        file.read_into(set, &mut all)?;
        if all.len() == before {
            return Err(SetError::Empty { file: file.name() });
        }
    }
    if let Some(join) = &set.source.join {
        let lines: Vec<&str> =
            all.iter().filter_map(|document| if let Document::Text(text) = document { Some(&**text) } else { None }).collect();
        return Ok(vec![Document::Text(lines.join(join))]);
    }
    all.retain(|document| !matches!(document, Document::Text(text) if text.trim().is_empty()));
    Ok(all)
}

impl DataFile {
    fn name(&self) -> String {
        match self {
            DataFile::Disk(path) => path.display().to_string(),
            DataFile::Embedded { name, .. } => name.clone(),
        }
    }

    fn has_ending(&self, ending: &str) -> bool {
        self.name().trim_end_matches(".gz").ends_with(ending)
    }

    fn unreadable(&self, source: std::io::Error) -> SetError {
        SetError::Unreadable { file: self.name(), source }
    }

    fn content(&self, place: impl fmt::Display, expected: &str, got: String) -> SetError {
        SetError::Content { file: self.name(), place: place.to_string(), expected: expected.to_owned(), got }
    }

    /// Its contents, unpacked, without a byte order mark.
    fn open(&self) -> Result<Box<dyn BufRead>, SetError> {
        let open = || -> io::Result<Box<dyn BufRead>> {
            Ok(match self {
                DataFile::Embedded { text, .. } => Box::new(text.as_bytes()),
                DataFile::Disk(path) => {
                    let file = read::open(path)?;
                    if path.extension().is_some_and(|extension| extension == "gz") {
                        let packed = file.metadata()?.len();
                        Box::new(read::unmarked_lines(read::unpacked(MultiGzDecoder::new(BufReader::new(file)), packed))?)
                    } else {
                        Box::new(read::unmarked_lines(file)?)
                    }
                }
            })
        };
        open().map_err(|source| self.unreadable(source))
    }

    fn bytes(&self) -> Result<Vec<u8>, SetError> {
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes).map_err(|source| self.unreadable(source))?;
        Ok(bytes)
    }

    fn text(&self) -> Result<String, SetError> {
        read::decode(self.bytes()?).map_err(|source| self.unreadable(source))
    }

    fn read_into(&self, set: &SetFile, all: &mut Vec<Document>) -> Result<(), SetError> {
        let is_text = self.has_ending(".txt");
        match set.form {
            Form::Chat | Form::Ids if is_text => {
                Err(SetError::FileKind { file: self.name(), form: set.form.name(), expected: "a .jsonl, .json or .parquet file" })
            }
            _ if is_text => self.read_text(set, all),
            Form::Coqa if set.source.field.is_none() => self.read_conversations(all),
            Form::Ids if self.has_ending(".json") => self.read_ids(all),
            _ => self.read_rows(set, all),
        }
    }

    /// A `.txt` file: one document, or those between lines that are the separator.
    fn read_text(&self, set: &SetFile, all: &mut Vec<Document>) -> Result<(), SetError> {
        let text = self.text()?;
        let mut documents = vec![String::new()];
        for line in text.split_inclusive('\n') {
            if set.source.separator.as_deref().is_some_and(|separator| line.trim_end() == separator) {
                documents.push(String::new());
            } else if let Some(last) = documents.last_mut() {
                last.push_str(line);
            }
        }
        let trimmed = documents.iter().map(|document| document.trim()).filter(|document| !document.is_empty());
        for (index, document) in trimmed.enumerate() {
            all.push(Document::Text(self.checked(document.to_owned(), set.form, Place("document", index + 1))?));
        }
        Ok(())
    }

    /// CoQA data in any layout that the evaluation reads: each conversation to its last answer.
    fn read_conversations(&self, all: &mut Vec<Document>) -> Result<(), SetError> {
        match coqa::parse(&self.bytes()?, &self.name())? {
            Dataset::Conversations(conversations) => all.extend(conversations.iter().map(|c| Document::Text(whole(c)))),
            Dataset::Prompts(lines) => {
                all.extend(lines.iter().map(|line| Document::Text(format!("{} {}", line.prompt, line.golds[0]))));
            }
        }
        Ok(())
    }

    /// `{"sequences": [[id, …], …]}`, or the list alone.
    fn read_ids(&self, all: &mut Vec<Document>) -> Result<(), SetError> {
        let document: Value =
            serde_json::from_slice(&self.bytes()?).map_err(|error| self.content("the file", "JSON", error.to_string()))?;
        let list = document.get("sequences").unwrap_or(&document);
        let expected = "{\"sequences\": [[token id, …], …]}";
        let list = list.as_array().ok_or_else(|| self.content("the file", expected, excerpt(list)))?;
        for (index, sequence) in list.iter().enumerate() {
            all.push(Document::Ids(self.ids(sequence, Place("sequence", index + 1))?));
        }
        Ok(())
    }

    fn read_rows(&self, set: &SetFile, all: &mut Vec<Document>) -> Result<(), SetError> {
        let field = set.source.field.as_deref().unwrap_or(set.form.default_field());
        self.rows(&mut |place, row| {
            let value = &row[field];
            let expected = |kind: &str| format!("{kind} in field `{field}`");
            all.push(match set.form {
                Form::Text | Form::Coqa => {
                    let text = value.as_str().ok_or_else(|| self.content(place, &expected("a string"), excerpt(&row)))?;
                    Document::Text(self.checked(text.to_owned(), set.form, place)?)
                }
                Form::Chat => {
                    let messages = serde_json::from_value(value.clone());
                    let kind = "a list of {\"role\", \"content\"}";
                    Document::Chat(messages.map_err(|_| self.content(place, &expected(kind), excerpt(&row)))?)
                }
                Form::Ids => Document::Ids(self.ids(value, place)?),
            });
            Ok(())
        })
    }

    /// Visits each row of a parquet file, of JSON lines, or of a JSON list.
    fn rows(&self, visit: &mut Visit<'_>) -> Result<(), SetError> {
        let json = |place: &dyn fmt::Display, error: serde_json::Error| self.content(place, "JSON", error.to_string());
        if self.has_ending(".parquet") {
            let rows = parquet::rows(&self.bytes()?, &self.name())?;
            return rows.into_iter().enumerate().try_for_each(|(index, row)| visit(Place("row", index + 1), row));
        }
        if self.has_ending(".json") && self.is_list()? {
            let rows: Vec<Value> = serde_json::from_slice(&self.bytes()?).map_err(|error| json(&"the file", error))?;
            return rows.into_iter().enumerate().try_for_each(|(index, row)| visit(Place("entry", index + 1), row));
        }
        for (index, line) in self.open()?.lines().enumerate() {
            let line = line.map_err(|source| self.unreadable(source))?;
            if !line.trim().is_empty() {
                let place = Place("line", index + 1);
                let row = serde_json::from_str(&line).map_err(|error| json(&place, error))?;
                visit(place, row)?;
            }
        }
        Ok(())
    }

    /// Whether a `.json` file is a list; if not, it is lines, as on the hub.
    fn is_list(&self) -> Result<bool, SetError> {
        for byte in self.open()?.bytes() {
            let byte = byte.map_err(|source| self.unreadable(source))?;
            if !byte.is_ascii_whitespace() {
                return Ok(byte == b'[');
            }
        }
        Ok(false)
    }

    fn ids(&self, value: &Value, place: Place) -> Result<Vec<u32>, SetError> {
        let expected = "a list of token ids";
        let list = value.as_array().ok_or_else(|| self.content(place, expected, excerpt(value)))?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        list.iter().map(|value| id(value).ok_or_else(|| self.content(place, expected, excerpt(value)))).collect()
    }

    /// Refuses a text that should be a written-out CoQA prompt and is not.
    fn checked(&self, text: String, form: Form, place: Place) -> Result<String, SetError> {
        let is_prompt = || text.find("\n\nQ: ").is_some_and(|question| text[question..].contains("\n\nA: "));
        if form == Form::Coqa && !is_prompt() {
            let expected = "a story, then \"\\n\\nQ: question\\n\\nA: answer\" turns";
            return Err(self.content(place, expected, excerpt(&Value::String(text))));
        }
        Ok(text)
    }
}

/// The prompt of a conversation's last turn, with its answer.
fn whole(conversation: &Conversation) -> String {
    let last = conversation.turns.len() - 1;
    format!("{} {}", prompt::turn_prompt(conversation, last), conversation.turns[last].golds[0])
}

/// The beginning of a value, for messages.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// The folder that a set's file names are relative to.
pub(super) fn folder_of(path: &Path) -> Base {
    Base::Folder(path.parent().map(Path::to_owned).unwrap_or_default())
}
