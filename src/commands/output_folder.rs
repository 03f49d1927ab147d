//! Where an artifact or a quantized checkpoint goes: what may lie there already, the hidden folder it is made in, and how it gets
//! its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::targets::GGUF_FILE;
use crate::checkpoint::INDEX_FILE;
use crate::commands::CommandError;
use crate::contract::{CARRIED, COMPANIONS, DATA_FILE, GENAI_CONFIG_FILE, GraphFile, MODEL_FILE, ONNX_FOLDER};
use crate::host::FileError;
use crate::host::hidden::{Hidden, parent};
use crate::host::publish::{self, Target};
use crate::record::{FileRecord, MANIFEST_FILE, Manifest, QUANTIZED_FILE, QuantizedManifest};
use crate::usage::UsageError;

/// What such a folder is called in errors.
const ROLE: &str = "output";

/// A folder that a command makes.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputFolder {
    /// Links resolved.
    pub path: PathBuf,
    /// Replace one of its kind that is there already.
    pub overwrite: bool,
    pub kind: Kind,
}

/// What such a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Artifact,
    QuantizedCheckpoint,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Artifact => "an artifact",
            Kind::QuantizedCheckpoint => "a quantized checkpoint",
        }
    }

    fn manifest(self) -> &'static str {
        match self {
            Kind::Artifact => MANIFEST_FILE,
            Kind::QuantizedCheckpoint => QUANTIZED_FILE,
        }
    }

    /// The files that the folder's manifest lists; `None` where it is damaged.
    fn recorded(self, folder: &Path) -> Option<Vec<String>> {
        let names = |files: Vec<FileRecord>| files.into_iter().map(|file| file.file);
        match self {
            Kind::Artifact => Manifest::load(folder).ok().map(|manifest| names(manifest.outputs).collect()),
            Kind::QuantizedCheckpoint => QuantizedManifest::load(folder)
                .ok()
                .map(|manifest| manifest.files.into_iter().chain(names(manifest.companions)).collect()),
        }
    }

    /// Whether any folder of the kind may have a file of this name.
    fn may_have(self, name: &str) -> bool {
        let is_weights = match self {
            Kind::Artifact => {
                [GENAI_CONFIG_FILE, INDEX_FILE, GGUF_FILE].contains(&name)
                    || GraphFile::at(name).or_else(|| GraphFile::with_data_at(name)).is_some()
                    || is_shard(name)
            }
            Kind::QuantizedCheckpoint => is_shard(name),
        };
        is_weights || CARRIED.contains(&name) || COMPANIONS.iter().any(|companion| companion.file == name)
    }
}

fn is_shard(name: &str) -> bool {
    name.starts_with("model-") && name.ends_with(".safetensors")
}

impl OutputFolder {
    /// The output at `path`, links resolved, once what a process that died has left of it is cleared.
    ///
    /// # Errors
    /// Something is in the way, which is refused before any work.
    pub fn resolve(path: &Path, overwrite: bool, kind: Kind) -> Result<OutputFolder, CommandError> {
        let shown = || path.display().to_string();
        if path.to_str().is_none() {
            return Err(UsageError::OutputNotUtf8 { path: shown() }.into());
        }
        if let Err(error) = publish::fits(path) {
            return Err(UsageError::OutputUnwritable { flag: "output", path: shown(), reason: error.to_string() }.into());
        }
        if path.file_name().is_none() && !path.exists() {
            return Err(UsageError::OutputForeign { path: shown(), kind: kind.name() }.into());
        }
        if !parent(path).is_dir() {
            return Err(UsageError::ParentMissing { path: shown() }.into());
        }
        if path.is_symlink() && !path.exists() {
            return Err(UsageError::OutputLink { path: shown() }.into());
        }
        // What a link leads to is replaced, on its own disk, and the link stays.
        let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let put_back = FileError::of(ROLE, path, "what a killed process has set aside cannot be put back");
        if publish::recover(&resolved).map_err(put_back)? {
            tracing::warn!("output {}: a process was killed while it replaced it; what was there is back", shown());
        }
        match (resolved.exists(), overwrite) {
            (false, _) => {}
            (true, false) => return Err(UsageError::OutputExists { path: shown() }.into()),
            (true, true) => check_replaced(&resolved, &shown(), kind)?,
        }
        Ok(OutputFolder { path: resolved, overwrite, kind })
    }
}

/// Only a folder of the same kind is replaced, and only one without files of somebody else's, which would go with it.
pub fn check_replaced(output: &Path, shown: &str, kind: Kind) -> Result<(), CommandError> {
    if !output.join(kind.manifest()).is_file() {
        return Err(UsageError::OutputForeign { path: shown.to_owned(), kind: kind.name() }.into());
    }
    // Of one whose manifest is damaged: what any of its kind has.
    let recorded = kind.recorded(output);
    let entries = entries(output, kind).map_err(FileError::of(ROLE, Path::new(shown), "cannot be listed"))?;
    for (name, is_file) in entries {
        let is_weights = kind == Kind::Artifact && [MODEL_FILE, DATA_FILE].contains(&name.as_str());
        let is_ours = name == kind.manifest()
            || is_weights
            || recorded.as_ref().map_or_else(|| kind.may_have(&name), |files| files.contains(&name));
        if !is_ours || !is_file {
            return Err(UsageError::OutputHolds { path: shown.to_owned(), kind: kind.name(), name }.into());
        }
    }
    Ok(())
}

/// What lies in the output, each with whether it is a file, or a link to one. Of folders only that of graphs is looked into.
fn entries(output: &Path, kind: Kind) -> io::Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(output)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind == Kind::Artifact && name == ONNX_FOLDER && entry.file_type()?.is_dir() {
            for graph in fs::read_dir(entry.path())? {
                let graph = graph?;
                found.push((format!("{name}/{}", graph.file_name().to_string_lossy()), !graph.path().is_dir()));
            }
        } else {
            found.push((name, !entry.path().is_dir()));
        }
    }
    Ok(found)
}

/// A hidden folder beside the output, removed unless it is published.
pub fn begin(output: &Path) -> Result<Hidden, CommandError> {
    let failed = FileError::of(ROLE, output, format!("cannot be created in {}", parent(output).display()));
    Ok(publish::begin_folder(output).map_err(failed)?)
}

/// Gives the finished folder its name; what was there before goes away only after that. Hours may have passed since the start:
/// what lies there is looked at again.
pub fn publish(folder: Hidden, options: &OutputFolder) -> Result<(), CommandError> {
    let output = &options.path;
    let shown = output.display().to_string();
    let may_go = |taken: &Path| check_replaced(taken, &shown, options.kind).is_ok();
    let target = match (output.exists(), options.overwrite) {
        (true, false) => return Err(UsageError::OutputExists { path: shown }.into()),
        (_, false) => Target::Free,
        (true, true) => {
            check_replaced(output, &shown, options.kind)?;
            Target::Replaced(&may_go)
        }
        (false, true) => Target::Replaced(&may_go),
    };
    Ok(publish::folder(folder, output, target).map_err(FileError::of(ROLE, output, "cannot be put in place"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An artifact whose manifest is damaged, with all that any artifact has.
    fn damaged(at: &Path) {
        fs::create_dir(at).unwrap();
        let companions = COMPANIONS.iter().map(|companion| companion.file);
        for name in [MANIFEST_FILE, MODEL_FILE, DATA_FILE].into_iter().chain(companions) {
            fs::write(at.join(name), "{").unwrap();
        }
    }

    #[test]
    fn beside_a_damaged_manifest_only_what_any_artifact_has_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        damaged(&out);
        check_replaced(&out, "out", Kind::Artifact).unwrap();
        for theirs in ["notes.json", "letter.jinja", "model.onnx.bak"] {
            fs::write(out.join(theirs), "the only copy").unwrap();
            let error = check_replaced(&out, "out", Kind::Artifact).unwrap_err().to_string();
            assert!(error.contains(theirs), "{error}");
            fs::remove_file(out.join(theirs)).unwrap();
        }
    }

    #[test]
    fn what_was_put_into_the_output_meanwhile_stays() {
        let place = tempfile::tempdir().unwrap();
        let options = OutputFolder { path: place.path().join("out"), overwrite: true, kind: Kind::Artifact };
        let finished = || {
            let folder = begin(&options.path).unwrap();
            fs::write(folder.path().join(MANIFEST_FILE), "new").unwrap();
            folder
        };
        damaged(&options.path);
        fs::write(options.path.join("notes"), "the only copy").unwrap();
        let error = publish(finished(), &options).unwrap_err().to_string();
        assert!(error.contains("notes"), "{error}");
        assert_eq!(fs::read_to_string(options.path.join("notes")).unwrap(), "the only copy");
        fs::remove_file(options.path.join("notes")).unwrap();
        publish(finished(), &options).unwrap();
        assert_eq!(fs::read_to_string(options.path.join(MANIFEST_FILE)).unwrap(), "new");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
