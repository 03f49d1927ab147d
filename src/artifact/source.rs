//! A model as the user names it: a local folder, or a repo of the Hugging Face hub.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::artifact::ArtifactError;
use crate::calib;
use crate::checkpoint::Index;
use crate::checkpoint::hub::{self, Bars, Hub, HubConfig, HubError, ModelHeaders};
use crate::companions::{CompanionError, Companions};
use crate::contract::{ADDITIONAL_TEMPLATES, CARRIED, COMPANIONS, CONFIG_FILE, Companion};
use crate::host::{FileError, read};
use crate::model::Architecture;
use crate::record::{FileRecord, ModelRecord};
use crate::usage::UsageError;

/// Where a model's files lie.
pub struct Source {
    /// Repo id, or the folder's own name.
    pub name: String,
    /// Commit of the repo.
    pub revision: Option<String>,
    pub dir: PathBuf,
    /// Whether everything is in the folder, or only what planning needs.
    is_whole: bool,
}

/// The model's files, downloaded where they are not cached.
pub fn resolve(model: &str) -> Result<Source, ArtifactError> {
    let dir = match hub::ModelName::parse(model)? {
        hub::ModelName::Folder(dir) => dir,
        hub::ModelName::Repo(_) => hub()?.model(model)?,
    };
    Source::named(model, dir, true)
}

/// The model's configuration and the headers of its weights; moves kilobytes for a model of any size.
pub fn resolve_headers(model: &str) -> Result<(Source, Index), ArtifactError> {
    // A folder needs neither a cache nor a home.
    if let hub::ModelName::Folder(dir) = hub::ModelName::parse(model)? {
        let index = Index::open(&dir)?;
        return Ok((Source::named(model, dir, true)?, index));
    }
    let ModelHeaders { dir, index } = hub()?.model_headers(model)?;
    Ok((Source::named(model, dir, false)?, index))
}

/// The hub as the environment describes it, with progress bars.
pub fn hub() -> Result<Hub, HubError> {
    Ok(Hub::new(HubConfig::from_env()?, Box::new(Bars::default())))
}

impl Source {
    fn named(model: &str, dir: PathBuf, is_whole: bool) -> Result<Source, ArtifactError> {
        let last = |dir: &Path| dir.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(match hub::ModelName::parse(model)? {
            // The cache keeps each commit in a folder of that name.
            hub::ModelName::Repo(repo) => Source { name: repo.id, revision: last(&dir), dir, is_whole },
            hub::ModelName::Folder(_) => {
                let whole = fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
                Source { name: last(&whole).unwrap_or_else(|| model.to_owned()), revision: None, dir, is_whole }
            }
        })
    }

    /// Whether everything is in the folder, or only what planning needs.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Names of the files that lie in the folder; of a repository, those that the cache has.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Reads and checks config.json.
    pub fn architecture(&self) -> Result<Architecture, ArtifactError> {
        let missing = || UsageError::ModelFileMissing { folder: self.dir.display().to_string(), file: CONFIG_FILE };
        let path = self.dir.join(CONFIG_FILE);
        let text = match read::text(&path, read::SETTINGS) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing().into()),
            read => read.map_err(|error| unread(&path, error))?,
        };
        Architecture::from_json(&text).map_err(ArtifactError::at(|| path.display().to_string()))
    }

    /// Reads what lies beside the weights as whoever runs the artifact will, so that nothing is made that nobody can use.
    ///
    /// # Errors
    /// A file is missing or says what nothing can be made of. Of a model that is not here in whole, nothing is read. A chat template
    /// that cannot be compiled is a warning: the artifact carries it along for others, and nothing here runs it but a set of chats.
    pub fn check_companions(&self) -> Result<(), CompanionError> {
        if !self.is_whole {
            return Ok(());
        }
        Companions::read(&self.dir)?;
        if let Err(error) = calib::check_template(&self.dir) {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::warn!("{error}{cause}; the artifact will have it as it is, and no chat can be held with it");
        }
        // transformers keeps a model's other templates there, one a file.
        let others = self.dir.join(ADDITIONAL_TEMPLATES);
        if others.is_dir() {
            tracing::warn!("{}: stays behind; an artifact has the other files alone", others.display());
        }
        Ok(())
    }

    /// The files that an artifact carries along; each is there if it is needed.
    pub fn companions(&self) -> Result<Vec<FileRecord>, ArtifactError> {
        let mut found = Vec::new();
        let carried = CARRIED.map(|file| Companion { file, is_needed: false });
        for Companion { file, is_needed } in COMPANIONS.into_iter().chain(carried) {
            match self.read(file)? {
                Some(bytes) => {
                    let blake3 = blake3::hash(&bytes).to_hex().to_string();
                    found.push(FileRecord { file: file.to_owned(), bytes: bytes.len() as u64, blake3 });
                }
                None if is_needed && self.is_whole => {
                    return Err(UsageError::ModelFileMissing { folder: self.dir.display().to_string(), file }.into());
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// The text of a file beside the weights without a byte order mark; `None` where there is none, or no text.
    pub fn text(&self, file: &str) -> Result<Option<String>, ArtifactError> {
        Ok(self.read(file)?.and_then(|bytes| read::decode(bytes).ok()))
    }

    /// The same files under the name of the model that they were made of.
    pub fn made_of(self, model: &ModelRecord) -> Source {
        Source { name: model.source.clone(), revision: model.revision.clone(), ..self }
    }

    /// A file of the model's folder; `None` if there is none.
    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, ArtifactError> {
        let path = self.dir.join(file);
        match read::file(&path, read::TOKENIZER) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => Ok(Some(read.map_err(|error| unread(&path, error))?)),
        }
    }
}

/// Why a file of the model cannot be read: what it is, or what the disk said.
fn unread(path: &Path, error: std::io::Error) -> ArtifactError {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::FileTooLarge => {
            UsageError::ModelFileUnfit { path: path.display().to_string(), problem: error.to_string() }.into()
        }
        _ => FileError::at(path, "cannot be read")(error).into(),
    }
}
