//! The folder beside an output in which finished layers wait, so that a stopped export goes on where it was. One process at a
//! time works in it: it holds a lock on a file there, which the system lets go of however the process ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::layer::LayerResult;
use crate::pipeline::lock;
use crate::recipe::WeightRecipe;

/// Hexadecimal digits of the key in the folder's name.
const DIGITS: usize = 16;

/// Whose lock says that somebody works in the folder.
const LOCK: &str = "lock";

/// Finished layers of one export.
pub struct WorkFolder {
    folder: PathBuf,
    /// What the names of all work folders of this output begin with.
    prefix: String,
    /// Held until the folder is let go of.
    _lock: File,
}

impl WorkFolder {
    /// The folder of `output` for `key`, which says everything that its layers depend on; made if it is not there.
    ///
    /// # Errors
    /// Another process works in it.
    pub fn open(output: &Path, key: &blake3::Hash) -> anyhow::Result<WorkFolder> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{name}.calibrated-");
        let folder = output.with_file_name(format!("{prefix}{}", &key.to_hex()[..DIGITS]));
        fs::create_dir_all(&folder).with_context(|| format!("work folder {}: cannot be made", folder.display()))?;
        match lock(&folder).with_context(|| format!("work folder {}: cannot be locked", folder.display()))? {
            Some(lock) => Ok(WorkFolder { folder, prefix, _lock: lock }),
            None => bail!(
                "output {}: another export is making it just now, in {}; wait for that one, or give another folder",
                output.display(),
                folder.display()
            ),
        }
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
        let layers =
            fs::read_dir(&self.folder).map(|mut entries| entries.any(|entry| entry.is_ok_and(|file| file.file_name() != LOCK)));
        if matches!(layers, Ok(false)) {
            // A failure leaves a hidden folder with an empty file.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// Takes everything away once the artifact is in place, with what exports by other recipes have left behind for this output.
    pub fn remove(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| format!("work folder {}: cannot be removed", self.folder.display()))?;
        let beside = self.folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let key = name.to_str().and_then(|name| name.strip_prefix(&self.prefix));
            let is_key = key.is_some_and(|key| key.len() == DIGITS && key.bytes().all(|byte| byte.is_ascii_hexdigit()));
            // One that another export works in stays; of the others, what cannot be removed does no harm.
            if is_key && let Ok(Some(_lock)) = lock(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    fn file(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("layer-{layer:03}.safetensors"))
    }
}

/// The folder's lock, `None` where another process has it.
fn lock(folder: &Path) -> std::io::Result<Option<File>> {
    lock::hold(&folder.join(LOCK), Duration::ZERO)
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
        assert!(error.starts_with(&format!("output {}: another export is making it just now, in ", output.display())), "{error}");
        let (held, foreign) = (open(&output, "held").unwrap(), open(&other, "foreign").unwrap());
        let stale = open(&output, "stale").unwrap().path().to_owned();
        fs::write(stale.join("layer-000.safetensors"), "left behind").unwrap();
        let named_alike = place.path().join(".out.calibrated-notes");
        fs::create_dir(&named_alike).unwrap();
        let folder = first.path().to_owned();
        first.remove().unwrap();
        assert!(!folder.exists() && !stale.exists(), "both are of no more use");
        assert!(held.path().exists() && foreign.path().exists() && named_alike.exists(), "these are not ours");
        // One that was let go of can be taken again.
        let path = held.path().to_owned();
        drop(held);
        assert_eq!(open(&output, "held").unwrap().path(), path);
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
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
