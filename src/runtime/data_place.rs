//! Where the weights of an artifact really lie.
//!
//! Every file of an artifact in a hub's cache is a link to a blob, and a large data file may lie on another disk behind a link.
//! ONNX Runtime refuses external data outside the graph's folder; the files that the artifact's own lead to are named to it as what they
//! are, and no others.

use std::path::PathBuf;

use super::RuntimeError;
use super::folder::ArtifactFolder;
use crate::onnx::Model;

/// The data files of an artifact, all links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataPlace {
    /// What ONNX Runtime may read external data from.
    pub folder: PathBuf,
    /// The name that the graph has for each file, and its own; none where no file is a link.
    renamed: Vec<[String; 2]>,
}

impl DataPlace {
    /// Follows the links of an artifact.
    pub fn of(artifact: &ArtifactFolder) -> Result<DataPlace, RuntimeError> {
        let foreign = |what: String| RuntimeError::Layout { path: artifact.graph(), what };
        let folder = artifact.file.folder(&artifact.dir);
        if folder.to_str().is_none() {
            return Err(foreign("the path of its folder is not UTF-8, and ONNX Runtime opens no other".to_owned()));
        }
        let names = artifact.data_names();
        // One that is missing is named by whoever reads it.
        if !names.iter().any(|name| folder.join(name).is_symlink()) {
            return Ok(DataPlace { folder, renamed: Vec::new() });
        }
        let mut place: Option<DataPlace> = None;
        for name in names {
            let path = folder.join(&name);
            let real = path.canonicalize().map_err(|source| RuntimeError::Read { path: path.clone(), source })?;
            let folder = real.parent().filter(|folder| folder.to_str().is_some());
            let (Some(folder), Some(own)) = (folder, real.file_name().and_then(|name| name.to_str())) else {
                return Err(foreign(format!("{name} leads to {}, which is not UTF-8", real.display())));
            };
            let place = place.get_or_insert_with(|| DataPlace { folder: folder.to_owned(), renamed: Vec::new() });
            if place.folder != folder {
                let [first, other] = [&place.folder, folder].map(|folder| folder.display());
                return Err(foreign(format!("its weights lie in {first} and in {other}, and ONNX Runtime reads one folder")));
            }
            place.renamed.push([name, own.to_owned()]);
        }
        Ok(place.expect("there is a name"))
    }

    /// Whether the data files are links.
    pub fn is_elsewhere(&self) -> bool {
        !self.renamed.is_empty()
    }

    /// Gives the graph's external data the files' own names. Where they are links, the graph must keep all of it there: in
    /// the folder behind the links lies what is not the artifact's.
    pub fn point(&self, model: &mut Model) -> Result<(), String> {
        if self.renamed.is_empty() {
            return Ok(());
        }
        let moved = model.move_external_data(&self.renamed);
        moved.map_err(|foreign| {
            let names: Vec<&str> = self.renamed.iter().map(|[name, _]| name.as_str()).collect();
            format!("it keeps weights in {foreign}, expected {} alone", names.join(", "))
        })
    }
}
