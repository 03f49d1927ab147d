//! The folder beside an output in which finished layers wait, so that a stopped export goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::layer::LayerResult;
use crate::recipe::WeightRecipe;

/// Hexadecimal digits of the key in the folder's name.
const DIGITS: usize = 16;

/// Finished layers of one export.
pub struct WorkFolder {
    folder: PathBuf,
}

impl WorkFolder {
    /// The folder of `output` for `key`, which says everything that its layers depend on; made if it is not there.
    pub fn open(output: &Path, key: &blake3::Hash) -> anyhow::Result<WorkFolder> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let folder = output.with_file_name(format!(".{name}.calibrated-{}", &key.to_hex()[..DIGITS]));
        fs::create_dir_all(&folder).with_context(|| format!("work folder {}: cannot be made", folder.display()))?;
        Ok(WorkFolder { folder })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether the layer is finished.
    pub fn has(&self, layer: usize) -> bool {
        self.file(layer).is_file()
    }

    /// Keeps a finished layer.
    pub fn put(&self, layer: usize, result: &LayerResult) -> anyhow::Result<()> {
        result.write(&self.file(layer))
    }

    /// A finished layer.
    ///
    /// # Errors
    /// The file is not this layer's, or lacks one of its weights.
    pub fn get(&self, layer: usize, recipes: &BTreeMap<String, WeightRecipe>) -> anyhow::Result<LayerResult> {
        let path = self.file(layer);
        let result = LayerResult::read(&path, recipes)?;
        match result.disagreement(layer, recipes) {
            None => Ok(result),
            Some(name) => {
                bail!("{}: weight {name} is missing or not this layer's; remove the file, it is made again", path.display())
            }
        }
    }

    /// Takes the folder away again where no layer is kept in it.
    pub fn leave(&self) {
        // Not empty is what makes it stay; any other failure leaves a hidden, empty folder.
        let _ = fs::remove_dir(&self.folder);
    }

    /// Takes everything away once the artifact is in place.
    pub fn remove(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| format!("work folder {}: cannot be removed", self.folder.display()))
    }

    fn file(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("layer-{layer:03}.safetensors"))
    }
}
