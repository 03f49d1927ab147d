//! The face of `hub` in a build without its client: names are understood, and a folder is a folder; there are no settings of a
//! hub, so there is none, and what would ask it says that first.

mod answers;
mod error;
mod local;
mod progress;
mod source;

use std::convert::Infallible;
use std::path::PathBuf;

use crate::features::NotBuilt;
pub use answers::{DataFiles, ModelHeaders, Selection};
pub use error::{HubError, TokenState};
pub use local::{LocalFile, Pushed};
pub use progress::{Bars, Progress};
pub use source::{ModelName, RepoName};

/// Settings that there are none of.
#[derive(Debug, Clone)]
pub struct HubConfig(Infallible);

impl HubConfig {
    /// # Errors
    /// Always: this program was built without the hub's client.
    pub fn from_env() -> Result<HubConfig, HubError> {
        Err(HubError::NotBuilt(NotBuilt::HUB))
    }
}

/// A hub that there is none of.
pub struct Hub(Infallible);

impl Hub {
    pub fn new(config: HubConfig, _progress: Box<dyn Progress>) -> Hub {
        match config.0 {}
    }

    pub fn model(&mut self, _model: &str) -> Result<PathBuf, HubError> {
        match self.0 {}
    }

    pub fn model_headers(&mut self, _model: &str) -> Result<ModelHeaders, HubError> {
        match self.0 {}
    }

    pub fn push(&mut self, _to: &RepoName, _files: &[LocalFile], _message: &str, _private: bool) -> Result<Pushed, HubError> {
        match self.0 {}
    }

    pub fn dataset(&mut self, _id: &str, _split: Option<&str>) -> Result<Vec<PathBuf>, HubError> {
        match self.0 {}
    }

    pub fn data_files(&mut self, _id: &str, _wanted: Selection<'_>) -> Result<DataFiles, HubError> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_the_hub_is_told_that_there_is_none() {
        let refused = HubConfig::from_env().expect_err("there is no client");
        let said = "this qonnx was built without the hub's client; build it with --features hub, or give a folder or a file that is here";
        assert_eq!((refused.to_string().as_str(), refused.fault().exit_code()), (said, 1));
        assert!(matches!(ModelName::parse("."), Ok(ModelName::Folder(_))));
        assert!(matches!(ModelName::parse("org/name"), Ok(ModelName::Repo(_))));
    }
}
