//! The folder beside an output in which finished layers wait, so that a stopped export goes on where it was. One process at a
//! time works in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::layer::LayerResult;
use super::statistics_cache::is_unreadable;
use crate::compress::CompressError;
use crate::host::hidden::Hidden;
use crate::host::{FileError, in_full};
use crate::recipe::WeightRecipe;

/// What the folder is called among the hidden ones of its output.
const KIND: &str = "calibrated";

/// Finished layers of one export.
pub struct WorkFolder {
    hidden: Hidden,
    output: PathBuf,
}

impl WorkFolder {
    /// The folder of `output` for `key`, which says everything that its layers depend on; made if it is not there.
    ///
    /// # Errors
    /// Another process works in it.
    pub fn open(output: &Path, key: &blake3::Hash) -> Result<WorkFolder, CompressError> {
        let held = Hidden::open(output, KIND, key);
        match held.map_err(FileError::of("output", output, "the hidden folder of its layers cannot be made"))? {
            Some(hidden) => Ok(WorkFolder { hidden, output: output.to_owned() }),
            None => Err(CompressError::Busy { output: output.to_owned() }),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.hidden.path()
    }

    /// Whether the layer is finished.
    pub fn has(&self, layer: usize) -> bool {
        self.file(layer).is_file()
    }

    /// Keeps a finished layer.
    pub fn put(&self, layer: usize, result: &LayerResult) -> Result<(), CompressError> {
        result.write(&self.file(layer))
    }

    /// A finished layer, if it is there as it was written.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn sound(&self, layer: usize, recipes: &BTreeMap<String, WeightRecipe>) -> Result<Option<LayerResult>, CompressError> {
        if !self.has(layer) {
            return Ok(None);
        }
        match self.get(layer, recipes) {
            Err(error) if !is_unreadable(&error) => {
                tracing::warn!("layer {layer} is made again: {}", in_full(&error));
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// A finished layer.
    ///
    /// # Errors
    /// The file is not this layer's, or lacks one of its weights.
    pub fn get(&self, layer: usize, recipes: &BTreeMap<String, WeightRecipe>) -> Result<LayerResult, CompressError> {
        let path = self.file(layer);
        let result = LayerResult::read(&path, recipes)?;
        match result.disagreement(layer, recipes) {
            None => Ok(result),
            Some(name) => {
                let problem = format!("weight {name} is missing or not this layer's; remove the file");
                Err(CompressError::Damaged { file: path, problem, source: None })
            }
        }
    }

    /// Takes the folder away again where no layer is kept in it.
    pub fn leave(&self) {
        // Only an empty one can be removed so; what stays is hidden and is used again.
        let _ = fs::remove_dir(self.path());
    }

    /// Takes everything away once the artifact is in place, with what exports by other recipes have left behind for this output.
    pub fn remove(self) {
        self.hidden.clear();
        Hidden::abandoned(&self.output, KIND).into_iter().for_each(Hidden::clear);
    }

    fn file(&self, layer: usize) -> PathBuf {
        self.path().join(format!("layer-{layer:03}.safetensors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_export_at_a_time_works_in_a_folder_and_a_finished_one_clears_what_nobody_holds() {
        let place = tempfile::tempdir().unwrap();
        let (output, other) = (place.path().join("out"), place.path().join("out2"));
        let open = |output: &Path, key: &str| WorkFolder::open(output, &blake3::hash(key.as_bytes()));
        let first = open(&output, "first").unwrap();
        let error = open(&output, "first").err().expect("it is taken").to_string();
        assert!(error.starts_with(&format!("output {}: another process is making it just now; ", output.display())), "{error}");
        let (held, foreign) = (open(&output, "held").unwrap(), open(&other, "foreign").unwrap());
        let stale = open(&output, "stale").unwrap().hidden.path().to_owned();
        fs::write(stale.join("layer-000.safetensors"), "left behind").unwrap();
        let named_alike = place.path().join(".out.calibrated-notes");
        fs::create_dir(&named_alike).unwrap();
        let folder = first.path().to_owned();
        first.remove();
        assert!(!folder.exists() && !stale.exists(), "both are of no more use");
        assert!(held.path().exists() && foreign.path().exists() && named_alike.exists(), "these are not ours");
        // One that was let go of can be taken again.
        let path = held.path().to_owned();
        drop(held);
        assert_eq!(open(&output, "held").unwrap().path(), path);
    }

    #[test]
    fn a_layer_that_has_changed_is_not_there() {
        let place = tempfile::tempdir().unwrap();
        let work = WorkFolder::open(&place.path().join("out"), &blake3::hash(b"key")).unwrap();
        let recipes = BTreeMap::new();
        assert_eq!(work.sound(0, &recipes).unwrap(), None);
        let mut layer = LayerResult::default();
        layer.scales.insert(1, vec![0.5; 8]);
        work.put(0, &layer).unwrap();
        assert_eq!(work.sound(0, &recipes).unwrap(), Some(layer));
        let mut bytes = fs::read(work.file(0)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(work.file(0), bytes).unwrap();
        assert_eq!(work.sound(0, &recipes).unwrap(), None);
    }

    #[test]
    fn a_folder_without_layers_is_not_left() {
        let place = tempfile::tempdir().unwrap();
        let work = WorkFolder::open(&place.path().join("out"), &blake3::hash(b"key")).unwrap();
        work.put(0, &LayerResult::default()).unwrap();
        work.leave();
        assert!(work.has(0), "a finished layer is kept");
        fs::remove_file(work.file(0)).unwrap();
        work.leave();
        drop(work);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
