//! An artifact's folder, and what its graph is called there.

use std::path::{Path, PathBuf};

use crate::contract::GraphFile;
use crate::record::Manifest;

/// An artifact, not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactFolder {
    pub(super) dir: PathBuf,
    pub(super) file: GraphFile,
    /// Data files; at least one.
    chunks: usize,
}

impl ArtifactFolder {
    /// The artifact in `dir`, with the graph that its manifest records; `model.onnx` of one that has no manifest.
    pub fn of(dir: &Path) -> ArtifactFolder {
        // What is wrong with a manifest, whoever needs more of it says.
        let manifest = Manifest::load(dir).ok();
        let file = manifest.as_ref().and_then(Manifest::graph_file).unwrap_or_default();
        let chunks = manifest.map_or(1, |manifest| manifest.data_files(&file).len().max(1));
        ArtifactFolder { dir: dir.to_owned(), file, chunks }
    }

    /// Where the graph is.
    pub(super) fn graph(&self) -> PathBuf {
        self.dir.join(self.file.path())
    }

    /// The names of the data files beside the graph.
    pub(super) fn data_names(&self) -> Vec<String> {
        (0..self.chunks).map(|chunk| self.file.data_name(chunk)).collect()
    }

    /// Graph and data, below the artifact's folder.
    pub(super) fn paths(&self) -> Vec<String> {
        std::iter::once(self.file.path().to_owned()).chain((0..self.chunks).map(|chunk| self.file.data_path(chunk))).collect()
    }
}
