//! Models and data sets by name: a local folder as it is, a repository of the Hugging Face hub through its cache.
//!
//! hf-hub knows the cache's layout and the hub's addresses; requests and downloads are made here.

mod answers;
mod cache;
mod client;
mod config;
mod contents;
mod dataset;
mod download;
mod error;
mod local;
mod numbered;
mod pace;
mod progress;
mod remote;
mod source;
mod upload;

use std::path::PathBuf;

use hf_hub::RepoType;

use super::shards::{INDEX_FILE, Numbered, SINGLE_FILE, WeightMap};
use super::{CheckpointError, Index, left_out};
use crate::contract::{CARRIED, COMPANIONS};
use crate::host::shown;
pub use answers::{DataFiles, ModelHeaders, Selection};
use cache::RepoCache;
use client::{Client, Listing};
pub use config::HubConfig;
use dataset::files_below;
pub use error::{HubError, TokenState};
pub use local::{LocalFile, Pushed};
pub use progress::{Bars, Progress};
pub use source::{ModelName, RepoName};
use upload::Upload;

/// Files beside the weights that the program cannot do without.
fn needed() -> impl Iterator<Item = &'static str> {
    COMPANIONS.into_iter().filter(|companion| companion.is_needed).map(|companion| companion.file)
}

/// Files beside the weights that a repository may lack.
fn optional() -> impl Iterator<Item = &'static str> {
    COMPANIONS.into_iter().filter(|companion| !companion.is_needed).map(|companion| companion.file)
}

/// The hub, or what of it is cached.
pub struct Hub {
    config: HubConfig,
    progress: Box<dyn Progress>,
}

impl Hub {
    /// A hub that tells `progress` about each file it downloads.
    pub fn new(config: HubConfig, progress: Box<dyn Progress>) -> Hub {
        Hub { config, progress }
    }

    /// Folder with all files of `model`, a folder or `org/name[@revision]`; downloads what the cache lacks.
    ///
    /// A commit that is cached in full is used without a request; a branch costs one, which may fail if its last known
    /// commit is cached.
    pub fn model(&mut self, model: &str) -> Result<PathBuf, HubError> {
        let name = match ModelName::parse(model)? {
            ModelName::Folder(dir) => return Ok(dir),
            ModelName::Repo(name) => name,
        };
        self.visit(&name, RepoType::Model).model()
    }

    /// Sends files to a repository, which is made, private unless it is said otherwise, where there is none: all of them in one commit.
    /// Large ones that the hub has already are not sent again.
    ///
    /// # Errors
    /// There is no token, or none that may write there; the network's; a file cannot be read.
    pub fn push(&mut self, to: &RepoName, files: &[LocalFile], message: &str, private: bool) -> Result<Pushed, HubError> {
        if self.config.offline {
            return Err(HubError::OfflinePush { id: to.id.clone() });
        }
        let upload = Upload::new(&self.config, to)?;
        upload.create(private)?;
        upload.push(files, message, self.progress.as_mut())
    }

    /// The weights' headers and `config.json` of `model`. Where weights are not in the cache, only their headers are moved,
    /// by range requests: kilobytes for a model of any size.
    pub fn model_headers(&mut self, model: &str) -> Result<ModelHeaders, HubError> {
        match ModelName::parse(model)? {
            ModelName::Folder(dir) => Ok(ModelHeaders { index: Index::open(&dir)?, dir }),
            ModelName::Repo(name) => self.visit(&name, RepoType::Model).headers(),
        }
    }

    /// Paths of the data files (`.json`, `.jsonl`, `.parquet`) of data set `id[@revision]`, in name order; with `split`, of
    /// those alone whose path names the split (`validation` also finds `valid`, `val` and `dev`).
    pub fn dataset(&mut self, id: &str, split: Option<&str>) -> Result<Vec<PathBuf>, HubError> {
        Ok(self.data_files(id, split.map_or(Selection::All, Selection::Split))?.paths)
    }

    /// The wanted files of data set `id[@revision]` and the commit that the revision stands for; a single file that the
    /// cache has at the commit asked for costs no request.
    pub fn data_files(&mut self, id: &str, wanted: Selection<'_>) -> Result<DataFiles, HubError> {
        let name = RepoName::parse(id)?;
        self.visit(&name, RepoType::Dataset).data(wanted)
    }

    fn visit<'a>(&'a mut self, name: &'a RepoName, kind: RepoType) -> Visit<'a> {
        Visit {
            client: Client::new(&self.config, name, kind),
            cache: RepoCache::new(&self.config, name, kind),
            config: &self.config,
            name,
            progress: self.progress.as_mut(),
        }
    }
}

/// One repository during one call.
struct Visit<'a> {
    client: Client<'a>,
    cache: RepoCache,
    config: &'a HubConfig,
    name: &'a RepoName,
    progress: &'a mut dyn Progress,
}

/// What is known about the revision before any file is fetched.
enum Known {
    /// The hub answered.
    Listed(Listing),
    /// It was not asked, or did not answer (why); the cache has this commit.
    Cached { commit: String, unanswered: Option<HubError> },
}

impl Visit<'_> {
    fn model(&mut self) -> Result<PathBuf, HubError> {
        let listing = match self.known()? {
            Known::Listed(listing) => listing,
            Known::Cached { commit, .. } => return Ok(self.cache.snapshot(&commit)),
        };
        let weights = self.listed_weights(&listing)?; // before megabytes of tokenizer are moved
        self.name_leftovers(&listing, &weights);
        self.fetch_small(&listing)?;
        for file in weights {
            self.fetch(&listing.commit, &file)?;
        }
        self.cache.set_ref(self.name, &listing.commit);
        Ok(self.cache.snapshot(&listing.commit))
    }

    /// The hub's listing of a model, or a commit whose cached files are one.
    fn known(&self) -> Result<Known, HubError> {
        if self.name.is_commit()
            && let Some(commit) = self.cache.commit_of(self.name)
            && self.is_whole(&commit)
        {
            return Ok(Known::Cached { commit, unanswered: None });
        }
        match self.look_up()? {
            Known::Listed(listing) => Ok(Known::Listed(listing)),
            Known::Cached { commit, unanswered } => {
                self.usable(&commit, unanswered)?;
                Ok(Known::Cached { commit, unanswered: None })
            }
        }
    }

    /// Asks the hub what the revision is, and the cache where the hub must not or cannot be asked.
    fn look_up(&self) -> Result<Known, HubError> {
        let cached = self.cache.commit_of(self.name);
        if self.config.offline {
            return match cached {
                Some(commit) => Ok(Known::Cached { commit, unanswered: None }),
                None => Err(self.offline("it")),
            };
        }
        match (self.client.listing(), cached) {
            (Ok(listing), _) => Ok(Known::Listed(listing)),
            (Err(error @ (HubError::Unreachable { .. } | HubError::Server { .. } | HubError::Busy { .. })), Some(commit)) => {
                tracing::warn!(repository = %self.name, commit, "{error}; using what is cached");
                Ok(Known::Cached { commit, unanswered: Some(error) })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Names of the files that hold the weights; fetches the shard index to know them.
    fn listed_weights(&mut self, listing: &Listing) -> Result<Vec<String>, HubError> {
        if listing.files.iter().any(|file| file == SINGLE_FILE) {
            return Ok(vec![SINGLE_FILE.to_owned()]);
        }
        if !listing.files.iter().any(|file| file == INDEX_FILE) {
            if let Numbered::Whole(shards) = Numbered::among(listing.files.iter().map(String::as_str)) {
                return Ok(shards);
            }
            let models = listing
                .files
                .iter()
                .filter(|file| [".bin", ".pth", ".pt", ".gguf", ".safetensors"].iter().any(|e| file.ends_with(e)));
            let found: Vec<String> = models.take(3).map(|file| shown(file).to_string()).collect();
            let found = if found.is_empty() { "no weights of any kind".to_owned() } else { found.join(", ") };
            return Err(HubError::NoWeights { repo: self.name.to_string(), found });
        }
        let index = self.fetch(&listing.commit, INDEX_FILE)?;
        let map = WeightMap::read(&index)?;
        for shard in map.shards() {
            if !listing.files.iter().any(|file| file == shard) {
                let [shard, tensor] = [shard, map.tensor_of(shard)].map(|name| shown(name).to_string());
                return Err(CheckpointError::ShardMissing { file: index, shard, tensor }.into());
            }
        }
        Ok(map.shards().into_iter().map(str::to_owned).collect())
    }

    /// Fetches configuration and tokenizer, and notes which optional files there are not.
    fn fetch_small(&mut self, listing: &Listing) -> Result<(), HubError> {
        for file in needed() {
            if !listing.files.iter().any(|f| f == file) {
                let advice = "take a repository in transformers' form, with its fast tokenizer";
                return Err(HubError::NoFile { repo: self.name.to_string(), file: file.into(), advice });
            }
            self.fetch(&listing.commit, file)?;
        }
        for file in optional() {
            if listing.files.iter().any(|f| f == file) {
                self.fetch(&listing.commit, file)?;
            } else {
                self.cache.set_absent(&listing.commit, file);
            }
        }
        for file in CARRIED.into_iter().filter(|file| listing.files.iter().any(|listed| listed == file)) {
            self.fetch(&listing.commit, file)?;
        }
        Ok(())
    }

    fn fetch(&mut self, commit: &str, file: &str) -> Result<PathBuf, HubError> {
        download::fetch(&self.client, &self.cache, self.config, commit, file, self.progress)
    }

    /// Says what the repository has beside the weights and is not fetched; of what is in the cache whoever reads it says so.
    fn name_leftovers(&self, listing: &Listing, weights: &[String]) {
        let snapshot = self.cache.snapshot(&listing.commit);
        let unfetched = listing.files.iter().map(String::as_str).filter(|file| !snapshot.join(file).exists());
        let read: Vec<&str> = weights.iter().map(String::as_str).collect();
        for sentence in left_out(unfetched, &read) {
            tracing::warn!(repository = %self.name, "{sentence}");
        }
    }

    /// Whether nothing of a model is left to ask the hub for, and what is there is as far as can be seen what it was.
    fn is_whole(&self, commit: &str) -> bool {
        let snapshot = self.cache.snapshot(commit);
        let is_sound = |file: &str| contents::damage(&snapshot.join(file)).is_none();
        let weights = || self.require_model(commit).ok();
        self.unasked(commit).is_empty()
            && optional().chain(needed()).all(is_sound)
            && weights().is_some_and(|weights| weights.iter().all(|file| is_sound(file)))
    }

    /// Refuses a cached commit, where the hub is not there, that lacks a file or has one of which it can be seen that it is not what
    /// it was.
    fn usable(&self, commit: &str, unanswered: Option<HubError>) -> Result<(), HubError> {
        let sound = |file: &str| self.require_sound(commit, file);
        needed().chain(optional()).chain([INDEX_FILE]).try_for_each(sound)?;
        let weights = self.require_model(commit).map_err(|incomplete| unanswered.unwrap_or(incomplete))?;
        weights.iter().try_for_each(|file| sound(file))?;
        self.name_unasked(commit);
        Ok(())
    }

    /// Optional files that are neither cached nor noted absent: the hub was never asked for them.
    fn unasked(&self, commit: &str) -> Vec<&'static str> {
        let snapshot = self.cache.snapshot(commit);
        optional().filter(|file| !snapshot.join(file).exists() && !self.cache.is_absent(commit, file)).collect()
    }

    /// Says which files are taken for absent though the repository may have them.
    fn name_unasked(&self, commit: &str) {
        let files = self.unasked(commit);
        if !files.is_empty() {
            tracing::warn!(
                repository = %self.name,
                "{}: not in the cache, and the hub was never asked whether the model has them; without them prompts may be other \
                 ones and answers end elsewhere; run once with network and without HF_HUB_OFFLINE",
                files.join(", ")
            );
        }
    }

    fn require_sound(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.cache.snapshot(commit).join(file);
        contents::damage(&path).map_or(Ok(()), |what| Err(HubError::Damaged { path, what }))
    }

    /// Refuses a cached commit that lacks a file which every model needs; the names of its weights.
    fn require_model(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let snapshot = self.cache.snapshot(commit);
        let require = |file: &str| if snapshot.join(file).exists() { Ok(()) } else { Err(self.offline(file)) };
        needed().try_for_each(require)?;
        if snapshot.join(SINGLE_FILE).exists() {
            return Ok(vec![SINGLE_FILE.to_owned()]);
        }
        if !snapshot.join(INDEX_FILE).exists() {
            let files = files_below(&snapshot);
            return match Numbered::among(files.iter().map(String::as_str)) {
                Numbered::Whole(shards) => Ok(shards),
                Numbered::None | Numbered::Lacking { .. } => Err(self.offline(SINGLE_FILE)),
            };
        }
        let shards: Vec<String> = WeightMap::read(&snapshot.join(INDEX_FILE))?.shards().into_iter().map(str::to_owned).collect();
        shards.iter().try_for_each(|shard| require(shard))?;
        Ok(shards)
    }

    fn offline(&self, what: &str) -> HubError {
        HubError::Offline { repo: self.name.to_string(), what: shown(what).to_string(), cache: self.config.cache.clone() }
    }
}
