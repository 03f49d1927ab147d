//! One model for several targets: its numbers are chosen once.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{ExportReport, Options, run};
use crate::artifact::plan::{self, Facts, RecipeChoice, RecipeFlags, Request};
use crate::artifact::quantized::QuantizedCheckpoint;
use crate::artifact::source;
use crate::commands::{CommandError, quantize};
use crate::compress;
use crate::host::FileError;
use crate::record::Target;

/// Chosen numbers while they are written for one target after the other, in the folder of the targets.
const NUMBERS: &str = ".quantized";

/// The artifacts that were written, in the order in which they were asked for.
#[derive(Debug, Serialize)]
pub struct TargetsReport {
    pub artifacts: Vec<ExportReport>,
}

/// `qonnx export --target A,B`: an artifact for each, in folders of their names below `options.output`. All hold the same integers.
///
/// # Errors
/// As [`run`]; what was written for the targets before stays.
pub fn run_each(request: &Request, targets: &[Target], options: &Options) -> Result<TargetsReport, CommandError> {
    let folder = &options.output;
    fs::create_dir_all(folder).map_err(FileError::at(folder, "cannot be made"))?;
    let numbers = folder.join(NUMBERS);
    let artifacts = all(request, targets, options, &numbers);
    if numbers.exists() {
        fs::remove_dir_all(&numbers).map_err(FileError::at(&numbers, "cannot be removed"))?;
    }
    if artifacts.is_err() {
        let _ = fs::remove_dir(folder); // of a refused request nothing is left; a folder that has something stays
    }
    Ok(TargetsReport { artifacts: artifacts? })
}

fn all(request: &Request, targets: &[Target], options: &Options, numbers: &Path) -> Result<Vec<ExportReport>, CommandError> {
    let of_numbers = match QuantizedCheckpoint::is_in(Path::new(&request.model)) {
        true => request.clone(),
        false => {
            refuse_unfit(request, targets)?;
            quantize::run(request, &Options { output: numbers.to_owned(), overwrite: true, ..options.clone() })?;
            let (model, recipe) = (numbers.display().to_string(), RecipeChoice::Flags(RecipeFlags::default()));
            Request { model, recipe, overrides: Vec::new(), calibration: None, ..request.clone() }
        }
    };
    let calibration = compress::Options { cancel: options.calibration.cancel.clone(), ..compress::Options::default() };
    let artifact = |&target: &Target| {
        let output = options.output.join(target.name());
        let options = Options { output, overwrite: options.overwrite, calibration: calibration.clone() };
        run(&Request { target, ..of_numbers.clone() }, &options)
    };
    targets.iter().map(artifact).collect()
}

/// What a target cannot hold is refused before anything is calibrated.
fn refuse_unfit(request: &Request, targets: &[Target]) -> Result<(), CommandError> {
    let (source, index) = source::resolve_headers(&request.model)?;
    for &target in targets {
        let request = Request { target, ..request.clone() };
        plan::with_facts(&request, request.recipe()?, &Facts::default(), &source, &index)?;
    }
    Ok(())
}

impl fmt::Display for TargetsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.artifacts.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join("\n\n"))
    }
}
