//! An artifact's folder as the runtime needs it.

use std::path::Path;

use super::RuntimeError;
use super::folder::ArtifactFolder;
use crate::companions::Companions;
use crate::contract::COMPANIONS;

/// What the runtime needs to know about a model apart from its graph.
pub(super) struct Artifact {
    pub folder: ArtifactFolder,
    pub beside: Companions,
}

impl Artifact {
    /// Reads the folder; the graph itself is not opened.
    pub fn read(dir: &Path) -> Result<Artifact, RuntimeError> {
        let folder = ArtifactFolder::of(dir);
        let needed = COMPANIONS.into_iter().filter(|companion| companion.is_needed).map(|companion| companion.file.to_owned());
        for missing in folder.paths().into_iter().chain(needed) {
            if !dir.join(&missing).is_file() {
                return Err(RuntimeError::NotAnArtifact { dir: dir.to_owned(), missing });
            }
        }
        Ok(Artifact { beside: Companions::read(dir)?, folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{DATA_FILE, MODEL_FILE};

    #[test]
    fn a_folder_without_its_parts_says_which_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        for name in [MODEL_FILE, DATA_FILE] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let message = Artifact::read(dir.path()).err().unwrap().to_string();
        assert_eq!(
            message,
            format!(
                "{} is not a qonnx artifact: there is no config.json; make one with `qonnx export MODEL -o DIR`",
                dir.path().display()
            )
        );
    }
}
