//! The face of `report` in a build without figures and pages.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::commands::CommandError;
use crate::features::NotBuilt;

/// What nobody wrote.
#[derive(Debug, Serialize)]
pub struct Summary {
    never: Never,
}

#[derive(Debug, Serialize)]
enum Never {}

/// # Errors
/// Always: this program was built without reports.
pub fn run(_results: &Path, _out: &Path) -> Result<Summary, CommandError> {
    Err(NotBuilt::REPORT.into())
}

/// # Errors
/// Always, so that it is said before the work of which the report would have been.
pub fn check(_results: &Path) -> Result<(), CommandError> {
    Err(NotBuilt::REPORT.into())
}

impl fmt::Display for Summary {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}
