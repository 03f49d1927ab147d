//! Where the weights of an artifact really lie.
//!
//! Every file of an artifact in a hub's cache is a link to a blob, and a large data file may lie on another disk behind a link.
//! ONNX Runtime refuses external data outside the graph's folder; the file that the artifact's own `model.onnx.data` leads to
//! is named to it as what it is, and no other.

use std::path::{Path, PathBuf};

use super::RuntimeError;
use crate::onnx::{DATA_FILE, MODEL_FILE, Model};

/// The data file of an artifact, all links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataPlace {
    /// What ONNX Runtime may read external data from.
    pub folder: PathBuf,
    /// The file's name there, where it is not the one that the graph has.
    renamed: Option<String>,
}

impl DataPlace {
    /// Follows the links of the artifact in `dir`.
    pub fn of(dir: &Path) -> Result<DataPlace, RuntimeError> {
        let foreign = |what: String| RuntimeError::Layout { path: dir.join(MODEL_FILE), what };
        if dir.to_str().is_none() {
            return Err(foreign("the path of its folder is not UTF-8, and ONNX Runtime opens no other".to_owned()));
        }
        let path = dir.join(DATA_FILE);
        // One that is missing is named by whoever reads it.
        if !path.is_symlink() {
            return Ok(DataPlace { folder: dir.to_owned(), renamed: None });
        }
        let real = path.canonicalize().map_err(|source| RuntimeError::Read { path: path.clone(), source })?;
        let folder = real.parent().filter(|folder| folder.to_str().is_some());
        let (Some(folder), Some(name)) = (folder, real.file_name().and_then(|name| name.to_str())) else {
            return Err(foreign(format!("{DATA_FILE} leads to {}, which is not UTF-8", real.display())));
        };
        Ok(DataPlace { folder: folder.to_owned(), renamed: Some(name.to_owned()) })
    }

    /// Whether the data file is a link.
    pub fn is_elsewhere(&self) -> bool {
        self.renamed.is_some()
    }

    /// Gives the graph's external data the file's own name. Where the file is a link, the graph must keep all of it there: in
    /// the folder behind the link lies what is not the artifact's.
    pub fn point(&self, model: &mut Model) -> Result<(), String> {
        let Some(name) = &self.renamed else { return Ok(()) };
        let moved = model.move_external_data(DATA_FILE, name);
        moved.map_err(|foreign| format!("it keeps weights in {foreign}, expected {DATA_FILE} alone"))
    }
}
