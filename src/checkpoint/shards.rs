//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::CheckpointError;
use crate::host::{read, shown};

/// No index comes near it: one of 100,000 tensors has 10 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Name of a checkpoint that is one file.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// Name of the list of shards otherwise.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The `weight_map` of a shard index: (tensor, shard), in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WeightMap(Vec<(String, String)>);

impl WeightMap {
    /// Reads the index `file`.
    pub(super) fn read(file: &Path) -> Result<WeightMap, CheckpointError> {
        let json = read::text(file, MAX_INDEX_BYTES).map_err(|source| CheckpointError::unread(file, source))?;
        WeightMap::parse(file, &json)
    }

    /// Reads the index `json`; `file` is only its name for errors. Shards are plain names of files beside the index.
    fn parse(file: &Path, json: &str) -> Result<WeightMap, CheckpointError> {
        let broken =
            |e: serde_json::Error| CheckpointError::IndexJson { file: file.into(), reason: shown(&e.to_string()).to_string() };
        let WeightMap(mut entries) = serde_json::from_str::<IndexJson>(json).map_err(broken)?.weight_map;
        if entries.is_empty() {
            return Err(CheckpointError::IndexEmpty { file: file.into() });
        }
        for (tensor, shard) in &entries {
            if !is_plain_name(shard) {
                let (shard, tensor) = (shown(shard).to_string(), shown(tensor).to_string());
                return Err(CheckpointError::ShardPath { file: file.into(), shard, tensor });
            }
        }
        entries.sort();
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let ((tensor, first), (_, second)) = (&pair[0], &pair[1]);
            let [tensor, first, second] = [tensor, first, second].map(|name| shown(name).to_string());
            return Err(CheckpointError::TwoShards { place: file.into(), tensor, first, second });
        }
        Ok(WeightMap(entries))
    }

    /// (tensor, shard) in the tensors' order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(tensor, shard)| (tensor.as_str(), shard.as_str()))
    }

    /// Shards, each once, in name order.
    pub(super) fn shards(&self) -> BTreeSet<&str> {
        self.0.iter().map(|(_, shard)| shard.as_str()).collect()
    }

    /// A tensor that `shard` should hold, for errors about the shard.
    pub(super) fn tensor_of(&self, shard: &str) -> &str {
        self.entries().find(|(_, s)| *s == shard).map_or("", |(tensor, _)| tensor)
    }
}

/// Shards by their own names, `model-00001-of-00002.safetensors`, where no index lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Numbered {
    /// No file has such a name.
    None,
    /// All that the names speak of, in order.
    Whole(Vec<String>),
    /// Some of them are not there: the first one there, the first one that is not, and how many there should be.
    Lacking { found: String, missing: String, count: usize },
}

impl Numbered {
    /// Looks for shards among the names of files.
    pub(super) fn among<'a>(files: impl Iterator<Item = &'a str>) -> Numbered {
        let found: BTreeSet<(usize, usize)> = files.filter_map(number_of).collect();
        let Some(&(count, first)) = found.first() else { return Numbered::None };
        match (1..=count).find(|&number| !found.contains(&(count, number))) {
            None => Numbered::Whole((1..=count).map(|number| shard_name(number, count)).collect()),
            Some(number) => Numbered::Lacking { found: shard_name(first, count), missing: shard_name(number, count), count },
        }
    }
}

/// `(2, 1)` of `model-00001-of-00002.safetensors`.
fn number_of(file: &str) -> Option<(usize, usize)> {
    let (number, count) = file.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    // A name that is spelled otherwise is none of save_pretrained's.
    (1..=count).contains(&number).then_some((count, number)).filter(|_| shard_name(number, count) == file)
}

fn shard_name(number: usize, count: usize) -> String {
    format!("model-{number:05}-of-{count:05}.safetensors")
}

/// An index comes from strangers: `../../.ssh/id_ed25519` is not a shard.
fn is_plain_name(shard: &str) -> bool {
    let mut components = Path::new(shard).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == shard)
}

#[derive(Deserialize)]
struct IndexJson {
    weight_map: WeightMap,
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensors to shards")
    }

    /// A list and not a map, since a map would swallow a tensor that is named twice.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(WeightMap(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_without_an_index_are_known_by_their_numbers() {
        let among = |files: &[&str]| Numbered::among(files.iter().copied());
        let both = ["model-00002-of-00002.safetensors", "config.json", "model-00001-of-00002.safetensors"];
        let whole = vec![both[2].to_owned(), both[0].to_owned()];
        assert_eq!(among(&both), Numbered::Whole(whole));
        let (found, missing) = (both[0].to_owned(), both[2].to_owned());
        assert_eq!(among(&both[..2]), Numbered::Lacking { found, missing, count: 2 });
        for other in [
            "model-1-of-2.safetensors",
            "model-00003-of-00002.safetensors",
            "model-00000-of-00002.safetensors",
            "model.safetensors",
        ] {
            assert_eq!(among(&[other]), Numbered::None, "{other}");
        }
        let far = ["model-00001-of-18446744073709551615.safetensors"];
        assert!(matches!(among(&far), Numbered::Lacking { missing, .. } if missing.starts_with("model-00002-of-")));
    }
}
