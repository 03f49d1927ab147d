//! Data sets of the hub: their data files, by split.

use std::fs;
use std::path::Path;

use super::cache::RepoCache;
use super::client::is_inside;
use super::{DataFiles, HubError, Known, Selection, Visit, numbered};

const DATA_FILES: [&str; 3] = [".json", ".jsonl", ".parquet"];
/// Files of these names describe the data set.
const NOT_DATA: [&str; 2] = ["dataset_infos.json", "dataset_info.json"];

impl Visit<'_> {
    /// Downloads what is wanted; the cache's where the hub cannot be asked.
    pub(super) fn data(&mut self, wanted: Selection<'_>) -> Result<DataFiles, HubError> {
        match wanted {
            Selection::All => self.data_files(None),
            Selection::Split(split) => self.data_files(Some(split)),
            Selection::File(file) => self.data_file(file),
        }
    }

    /// One file. A commit that has it in the cache is not asked for.
    fn data_file(&mut self, file: &str) -> Result<DataFiles, HubError> {
        let held = |commit: &str, cache: &RepoCache| Some(cache.snapshot(commit).join(file)).filter(|path| path.is_file());
        if self.name.is_commit()
            && is_inside(file)
            && let Some(commit) = self.cache.commit_of(self.name)
            && let Some(path) = held(&commit, &self.cache)
            && self.require_sound(&commit, file).is_ok()
        {
            return Ok(DataFiles { commit, paths: vec![path] });
        }
        let (commit, path) = match self.look_up()? {
            Known::Listed(listing) => {
                if !listing.files.iter().any(|known| known == file) {
                    let advice = "name a file as the data set's page on the hub lists it";
                    return Err(HubError::NoFile { repo: self.name.to_string(), file: file.into(), advice });
                }
                let path = self.fetch(&listing.commit, file)?;
                self.cache.set_ref(self.name, &listing.commit);
                (listing.commit, path)
            }
            Known::Cached { commit, unanswered } => {
                let path = Some(file).filter(|file| is_inside(file)).and_then(|_| held(&commit, &self.cache));
                let path = path.ok_or_else(|| unanswered.unwrap_or_else(|| self.offline(file)))?;
                self.require_sound(&commit, file)?;
                (commit, path)
            }
        };
        Ok(DataFiles { commit, paths: vec![path] })
    }

    fn data_files(&mut self, split: Option<&str>) -> Result<DataFiles, HubError> {
        let (commit, files, unlisted) = match self.look_up()? {
            Known::Listed(listing) => (listing.commit, listing.files, None),
            Known::Cached { commit, unanswered } => {
                let files = files_below(&self.cache.snapshot(&commit));
                (commit, files, Some(unanswered.unwrap_or_else(|| self.offline("its list of files"))))
            }
        };
        let mut wanted: Vec<&String> =
            files.iter().filter(|file| is_data(file) && split.is_none_or(|s| is_of(file, s))).collect();
        wanted.sort();
        if wanted.is_empty() {
            let wanted = split.map_or("data files".to_owned(), |split| format!("data files of split {split}"));
            let absent = HubError::NoData { repo: self.name.to_string(), wanted, count: files.len() };
            return Err(unlisted.unwrap_or(absent));
        }
        if let Some(unlisted) = unlisted {
            self.require_all_parts(&wanted, unlisted)?;
            self.name_doubt(&wanted, split);
        }
        let paths = wanted.into_iter().map(|file| self.fetch(&commit, file)).collect::<Result<_, _>>()?;
        self.cache.set_ref(self.name, &commit);
        Ok(DataFiles { commit, paths })
    }

    /// Refuses cached files that say of themselves that there are more: once only one was asked for, or a download broke off.
    fn require_all_parts(&self, files: &[&String], unlisted: HubError) -> Result<(), HubError> {
        let Some(missing) = numbered::missing(files.iter().map(|file| file.as_str())) else { return Ok(()) };
        let (repo, cache) = (self.name.to_string(), self.config.cache.clone());
        Err(HubError::PartsMissing { repo, missing, cache, source: Box::new(unlisted) })
    }

    /// Says that there may be more files than the cache has, where their names do not tell that these are all.
    fn name_doubt(&self, files: &[&String], split: Option<&str>) {
        if split.is_none() || !files.iter().all(|file| numbered::is_numbered(file)) {
            tracing::warn!(
                repository = %self.name,
                "the hub was not asked which files there are; those in the cache, {} of them, are taken for all",
                files.len()
            );
        }
    }
}

fn is_data(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    DATA_FILES.iter().any(|ending| name.ends_with(ending)) && !NOT_DATA.contains(&name)
}

/// Whether words of the path name the split, as the hub's own convention has it: `data/validation-00000-of-00001.parquet`,
/// `data/test_sft-00000-of-00001.parquet`.
fn is_of(file: &str, split: &str) -> bool {
    let aliases: &[&str] = match split {
        "train" | "training" => &["train", "training"],
        "validation" | "valid" | "val" | "dev" => &["validation", "valid", "val", "dev"],
        "test" | "testing" => &["test", "testing"],
        other => &[other],
    };
    let words = |text: &str| text.split(['/', '-', '_', '.', ' ']).map(str::to_owned).collect::<Vec<_>>();
    let path = words(file);
    aliases.iter().map(|alias| words(alias)).any(|alias| path.windows(alias.len()).any(|run| run == alias))
}

/// Files below a snapshot, as paths with `/`; unreadable folders count as empty.
pub(super) fn files_below(snapshot: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(snapshot.join(&folder)).into_iter().flatten().flatten() {
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                folders.push(format!("{name}/"));
            } else {
                files.push(name);
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_found_as_whole_words() {
        let files = [
            "data/train-00000-of-00001.parquet",
            "data/validation-00000-of-00001.parquet",
            "coqa-dev-v1.0.json",
            "training_notes.json",
            "dataset_infos.json",
            "README.md",
            "data/check_sft-00000-of-00001.parquet",
        ];
        let of = |split: &str| files.into_iter().filter(|f| is_data(f) && is_of(f, split)).collect::<Vec<_>>();
        assert_eq!(of("validation"), ["data/validation-00000-of-00001.parquet", "coqa-dev-v1.0.json"]);
        assert_eq!(of("train"), ["data/train-00000-of-00001.parquet", "training_notes.json"]);
        assert_eq!(of("check_sft"), ["data/check_sft-00000-of-00001.parquet"]);
        assert_eq!(of("sft_check"), Vec::<&str>::new());
        assert_eq!(of("test"), Vec::<&str>::new());
    }
}
