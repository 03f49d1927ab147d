//! What the headers of a checkpoint's files say: every tensor's name, element type, shape and place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::header::{Header, LENGTH_BYTES, StoredDtype, header_bytes, parse_header};
use super::shards::{INDEX_FILE, Numbered, SINGLE_FILE, WeightMap};
use super::{CheckpointError, beside, prefix};
use crate::host::shown;
use crate::tensor::DType;

/// One weight, as the headers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// F32, F16 or BF16; U8 for one that is stored in parts.
    pub dtype: DType,
    /// As stored: `[out_features, in_features]` for linears.
    pub shape: Vec<usize>,
    /// Which of [`Index::files`] holds it.
    pub file: usize,
    /// Where its bytes lie, counted from the start of that file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A tensor of an element type that weights are not read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherTensor {
    pub dtype: safetensors::Dtype,
    pub shape: Vec<usize>,
    pub file: usize,
    pub range: Range<u64>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// Name inside the checkpoint's folder.
    pub name: String,
    pub bytes: u64,
}

/// Names, element types, shapes and places of all tensors, from headers alone and checked: ranges lie inside their
/// files, do not overlap, and have the size of their shapes; no name comes twice. Names are those that transformers loads
/// the tensors under.
#[derive(Debug, Clone)]
pub struct Index {
    dir: PathBuf,
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Tensors of an element type that weights are not read from.
    others: BTreeMap<String, OtherTensor>,
    /// The first tensor that is stored under another name, that name, and how many are.
    renamed: Option<Renamed>,
    /// Tensors that a shard index names and no shard has, with the shard where they should be.
    unheld: BTreeMap<String, String>,
}

/// Tensors that are stored under other names than transformers loads them under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The first one's name in its file.
    pub stored: String,
    /// The name it is loaded under.
    pub name: String,
    pub count: usize,
}

impl Index {
    /// Reads the headers of the checkpoint in `dir`: `model.safetensors`, else the shards that
    /// `model.safetensors.index.json` names.
    pub fn open(dir: &Path) -> Result<Index, CheckpointError> {
        check_folder(dir)?;
        let single = dir.join(SINGLE_FILE);
        if is_there(&single) {
            let (bytes, header) = read_header(&single)?;
            return Index::from_headers(dir, vec![(SINGLE_FILE.to_owned(), bytes, header)], None);
        }
        let index = dir.join(INDEX_FILE);
        if !is_there(&index) {
            return Index::from_headers(dir, read_headers(dir, &shards_by_number(dir)?)?, None);
        }
        let map = WeightMap::read(&index)?;
        let shards: Vec<String> = map.shards().into_iter().map(str::to_owned).collect();
        if let Some(shard) = shards.iter().find(|shard| !dir.join(shard).exists()) {
            let [shard, tensor] = [shard, map.tensor_of(shard)].map(|name| shown(name).to_string());
            return Err(CheckpointError::ShardMissing { file: index, shard, tensor });
        }
        Index::from_headers(dir, read_headers(dir, &shards)?, Some(&map))
    }

    /// Joins the headers of all files, `(name, bytes of the file, header)`. `dir` names the checkpoint in errors.
    pub(super) fn from_headers(
        dir: &Path,
        headers: Vec<(String, u64, Header)>,
        map: Option<&WeightMap>,
    ) -> Result<Index, CheckpointError> {
        let (tensors, others, unheld) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut index = Index { dir: dir.into(), files: Vec::new(), tensors, others, renamed: None, unheld };
        for (name, bytes, header) in headers {
            let file = index.files.len();
            index.files.push(WeightFile { name, bytes });
            for (stored, entry) in header {
                let tensor = index.name_of(stored);
                if let Some(first) = index.file_of(&tensor) {
                    let [first, second] = [first, file].map(|file| shown(&index.files[file].name).to_string());
                    let tensor = shown(&tensor).to_string();
                    return Err(CheckpointError::TwoShards { place: dir.into(), tensor, first, second });
                }
                match entry.dtype {
                    StoredDtype::Weight(dtype) => {
                        index.tensors.insert(tensor, TensorInfo { dtype, shape: entry.shape, file, range: entry.range });
                    }
                    StoredDtype::Other(dtype) => {
                        index.others.insert(tensor, OtherTensor { dtype, shape: entry.shape, file, range: entry.range });
                    }
                }
            }
        }
        for (tensor, shard) in map.into_iter().flat_map(WeightMap::entries) {
            let tensor = prefix::loaded_as(tensor).unwrap_or_else(|| tensor.to_owned());
            if index.file_of(&tensor).is_none() {
                index.unheld.insert(tensor, shard.to_owned());
            }
        }
        Ok(index)
    }

    /// The name of a tensor that is stored as `stored`; keeps count of those that have another.
    fn name_of(&mut self, stored: String) -> String {
        let Some(name) = prefix::loaded_as(&stored) else { return stored };
        let first = || Renamed { stored, name: name.clone(), count: 0 };
        self.renamed.get_or_insert_with(first).count += 1;
        name
    }

    /// Folder of the checkpoint; for one that is on the hub only, its repository.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files that hold the weights.
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// Weights in name order; tensors of other element types are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The weight `name`, if the checkpoint has it and its element type is F32, F16 or BF16.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The weight `name`, or the reason why there is none.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        if let Some(info) = self.tensors.get(name) {
            return Ok(info);
        }
        let tensor = shown(name).to_string();
        Err(match (self.others.get(name), self.unheld.get(name)) {
            (Some(OtherTensor { file, dtype, .. }), _) => {
                CheckpointError::Dtype { file: self.dir.join(&self.files[*file].name), tensor, got: format!("{dtype:?}") }
            }
            (None, Some(shard)) => {
                CheckpointError::NotInShard { file: self.dir.join(INDEX_FILE), shard: shown(shard).to_string(), tensor }
            }
            (None, None) => CheckpointError::NoTensor { dir: self.dir.clone(), tensor, count: self.tensors.len() },
        })
    }

    /// Names of all tensors, of whatever element type, in name order.
    pub fn names(&self) -> BTreeSet<&str> {
        self.tensors.keys().chain(self.others.keys()).map(String::as_str).collect()
    }

    /// How many decoder layers the names speak of.
    pub fn layers(&self) -> usize {
        self.names().into_iter().filter_map(prefix::layer_of).collect::<BTreeSet<u64>>().len()
    }

    /// What is stored under another name, if anything.
    pub fn renamed(&self) -> Option<&Renamed> {
        self.renamed.as_ref()
    }

    /// Tensors that a shard index names and no shard has, in name order.
    pub fn unheld(&self) -> impl Iterator<Item = &str> {
        self.unheld.keys().map(String::as_str)
    }

    /// Names of tensors whose element type weights are not read from (`F8_E4M3`, `I8`, …), with that type, in name order.
    pub fn unsupported(&self) -> impl Iterator<Item = (&str, String)> {
        self.others.iter().map(|(name, other)| (name.as_str(), format!("{:?}", other.dtype)))
    }

    /// A tensor of an element type that weights are not read from.
    pub(super) fn other(&self, name: &str) -> Option<&OtherTensor> {
        self.others.get(name)
    }

    /// Lists the weight `W` where there is a tensor `W{part}` of bytes, with that one's shape: weights that are stored in parts
    /// are then known by their own names.
    pub fn with_parts(mut self, part: &str) -> Index {
        for (stored, other) in &self.others {
            let Some(weight) = stored.strip_suffix(part).filter(|_| other.dtype == safetensors::Dtype::U8) else { continue };
            let OtherTensor { shape, file, range, .. } = other.clone();
            self.tensors.insert(weight.to_owned(), TensorInfo { dtype: DType::U8, shape, file, range });
        }
        self
    }

    fn file_of(&self, tensor: &str) -> Option<usize> {
        self.tensors.get(tensor).map(|info| info.file).or_else(|| self.others.get(tensor).map(|other| other.file))
    }
}

fn check_folder(dir: &Path) -> Result<(), CheckpointError> {
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(CheckpointError::NotAFolder { dir: dir.into() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(CheckpointError::NoFolder { dir: dir.into() }),
        Err(source) => Err(CheckpointError::Read { file: dir.into(), source }),
    }
}

/// Whether the folder lists it: a link whose target is gone is there, and its error names it.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Shards that no index lists, by the numbers in their names.
fn shards_by_number(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    match Numbered::among(file_names(dir).iter().map(String::as_str)) {
        Numbered::Whole(shards) => Ok(shards),
        Numbered::None => Err(no_weights(dir)),
        Numbered::Lacking { found, missing, count } => {
            Err(CheckpointError::ShardsIncomplete { dir: dir.into(), found, missing, count })
        }
    }
}

fn read_headers(dir: &Path, shards: &[String]) -> Result<Vec<(String, u64, Header)>, CheckpointError> {
    let read = |shard: &String| read_header(&dir.join(shard)).map(|(bytes, header)| (shard.clone(), bytes, header));
    shards.iter().map(read).collect()
}

/// Size and checked header of one file; reads no more of it than the header.
pub(super) fn read_header(path: &Path) -> Result<(u64, Header), CheckpointError> {
    let read = |source| CheckpointError::Read { file: path.into(), source };
    let broken = |problem| CheckpointError::Header { file: path.into(), problem };
    let meta = fs::metadata(path).map_err(read)?;
    if !meta.is_file() {
        return Err(CheckpointError::NotAFile { file: path.into() });
    }
    let mut file = File::open(path).map_err(read)?;
    let mut first = Vec::new();
    file.by_ref().take(LENGTH_BYTES as u64).read_to_end(&mut first).map_err(read)?;
    let header = header_bytes(&first, meta.len()).map_err(broken)?;
    file.take(header).read_to_end(&mut first).map_err(read)?;
    Ok((meta.len(), parse_header(&first, meta.len()).map_err(broken)?))
}

/// Says what is in the folder instead, and what to do with it.
fn no_weights(dir: &Path) -> CheckpointError {
    let names = file_names(dir);
    let weights = |endings: &[&str]| names.iter().find(|name| endings.iter().any(|ending| name.ends_with(ending)));
    let (found, advice) = if let Some(name) = names.iter().find(|name| beside::is_adapter(name)) {
        (name.clone(), "that is an adapter; merge it into its base model (peft's merge_and_unload) and give that one")
    } else if let Some(name) = weights(&[".safetensors"]) {
        (name.clone(), "if that file is the whole model, rename it to model.safetensors")
    } else if let Some(name) = weights(&[".bin", ".pth", ".pt"]) {
        (
            name.clone(),
            "convert it to safetensors, with transformers' save_pretrained or huggingface.co/spaces/safetensors/convert",
        )
    } else if let Some(name) = weights(&[".gguf", ".onnx"]) {
        (name.clone(), "that is a converted model already; take the safetensors checkpoint it was made from")
    } else if names.is_empty() {
        ("an empty folder".to_owned(), "download the checkpoint's safetensors files")
    } else {
        ("other files".to_owned(), "download the checkpoint's safetensors files")
    };
    CheckpointError::NoWeights { dir: dir.into(), found: shown(&found).to_string(), advice }
}

/// Names of what is in a folder, in order; none of one that cannot be listed.
fn file_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
