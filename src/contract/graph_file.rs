//! Where an artifact has its graph, and what the files of its weights are called: the one place that its writers and readers ask.

use std::path::{Path, PathBuf};

/// File name of the graph in an artifact's folder.
pub const MODEL_FILE: &str = "model.onnx";
/// File name of the external data, beside the graph.
pub const DATA_FILE: &str = "model.onnx.data";
/// The folder below an artifact's in which transformers.js looks for graphs.
pub const ONNX_FOLDER: &str = "onnx";

/// An artifact's graph by its name: `model.onnx` with its weights in `model.onnx.data`, or, as transformers.js wants it,
/// `onnx/model_q4.onnx` with `onnx/model_q4.onnx_data`, `onnx/model_q4.onnx_data_1`, ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFile {
    /// Below the artifact's folder.
    path: String,
}

impl Default for GraphFile {
    fn default() -> GraphFile {
        GraphFile { path: MODEL_FILE.to_owned() }
    }
}

impl GraphFile {
    /// `onnx/model<suffix>.onnx`.
    pub fn in_onnx_folder(suffix: &str) -> GraphFile {
        GraphFile { path: format!("{ONNX_FOLDER}/model{suffix}.onnx") }
    }

    /// The graph that has this path below an artifact's folder; `None` where none is called so.
    pub fn at(path: &str) -> Option<GraphFile> {
        let is_suffix = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let is_graph = match path.strip_prefix(ONNX_FOLDER).and_then(|name| name.strip_prefix('/')) {
            None => path == MODEL_FILE,
            Some(name) => name.strip_prefix("model").and_then(|name| name.strip_suffix(".onnx")).is_some_and(is_suffix),
        };
        is_graph.then(|| GraphFile { path: path.to_owned() })
    }

    /// The graph that has its weights, or a part of them, in the file at this path; `None` where none has.
    pub fn with_data_at(path: &str) -> Option<GraphFile> {
        if path == DATA_FILE {
            return Some(GraphFile::default());
        }
        let (graph, chunk) = path.rsplit_once("_data")?;
        let is_chunk = chunk.is_empty() || chunk.strip_prefix('_').is_some_and(|number| number.parse::<usize>().is_ok());
        GraphFile::at(graph).filter(|graph| is_chunk && graph.path != MODEL_FILE)
    }

    /// Below the artifact's folder.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The folder of graph and weights, of an artifact in `artifact`.
    pub fn folder(&self, artifact: &Path) -> PathBuf {
        match self.split() {
            (Some(folder), _) => artifact.join(folder),
            (None, _) => artifact.to_owned(),
        }
    }

    /// The name without its folder.
    pub fn name(&self) -> &str {
        self.split().1
    }

    /// Where the graph says that weights of that file lie: beside it, under this name.
    pub fn data_name(&self, chunk: usize) -> String {
        match (self.split(), chunk) {
            ((None, _), 0) => DATA_FILE.to_owned(),
            ((None, _), _) => format!("{DATA_FILE}.{chunk}"),
            ((Some(_), name), 0) => format!("{name}_data"),
            ((Some(_), name), _) => format!("{name}_data_{chunk}"),
        }
    }

    /// As [`Self::data_name`], below the artifact's folder.
    pub fn data_path(&self, chunk: usize) -> String {
        let name = self.data_name(chunk);
        self.split().0.map_or(name.clone(), |folder| format!("{folder}/{name}"))
    }

    fn split(&self) -> (Option<&str>, &str) {
        match self.path.split_once('/') {
            Some((folder, name)) => (Some(folder), name),
            None => (None, &self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graph_and_data_are_called_as_their_readers_look_for_them() {
        let root = GraphFile::default();
        assert_eq!((root.path(), root.data_path(0).as_str()), ("model.onnx", "model.onnx.data"));
        let web = GraphFile::in_onnx_folder("_q4");
        assert_eq!((web.path(), web.name()), ("onnx/model_q4.onnx", "model_q4.onnx"));
        assert_eq!([0, 1].map(|chunk| web.data_name(chunk)), ["model_q4.onnx_data", "model_q4.onnx_data_1"]);
        assert_eq!(web.data_path(1), "onnx/model_q4.onnx_data_1");
        assert_eq!(web.folder(Path::new("a")), Path::new("a/onnx"));
        assert_eq!(root.folder(Path::new("a")), Path::new("a"));
    }

    #[test]
    fn data_says_whose_it_is() {
        for path in ["onnx/model_q4.onnx_data", "onnx/model_q4.onnx_data_12"] {
            assert_eq!(GraphFile::with_data_at(path), Some(GraphFile::in_onnx_folder("_q4")), "{path}");
        }
        assert_eq!(GraphFile::with_data_at("model.onnx.data"), Some(GraphFile::default()));
        for path in
            ["onnx/model_q4.onnx", "onnx/model_q4.onnx_data_b", "model.onnx_data", "onnx/other.onnx_data", "onnx/model.onnx.data"]
        {
            assert_eq!(GraphFile::with_data_at(path), None, "{path}");
        }
    }

    #[test]
    fn only_what_is_called_so_is_a_graph() {
        for path in ["model.onnx", "onnx/model.onnx", "onnx/model_q4f16.onnx"] {
            assert_eq!(GraphFile::at(path).unwrap().path(), path);
        }
        for path in
            ["model_q4.onnx", "onnx/../model.onnx", "onnx/model/a.onnx", "/onnx/model.onnx", "onnx/model.onnx_data", "onnx"]
        {
            assert_eq!(GraphFile::at(path), None, "{path}");
        }
    }
}
