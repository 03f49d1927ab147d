//! The embedded model with something odd about it, in a folder of its own.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

/// The embedded model, which nobody changes.
pub const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa");

/// A copy of it and room beside it.
pub struct Edited(TempDir);

impl Edited {
    pub fn new() -> Edited {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model = folder.path().join("model");
        fs::create_dir(&model).expect("the place is ours");
        for file in fs::read_dir(FIXTURE).expect("the fixture is there") {
            let file = file.expect("readable");
            fs::copy(file.path(), model.join(file.file_name())).expect("the place is ours");
        }
        Edited(folder)
    }

    /// A place beside the model.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The checkpoint's folder.
    pub fn model(&self) -> PathBuf {
        self.at("model")
    }

    /// Changes a bf16 tensor in place: its values, row by row.
    pub fn tensor(&self, name: &str, change: impl FnOnce(&mut [f32])) {
        super::tensors::edit(&self.model().join("model.safetensors"), name, change);
    }
}
