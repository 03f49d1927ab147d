//! One model for several targets: its numbers are chosen once.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::{ExportReport, Options, run};
use crate::artifact::plan::{self, Facts, RecipeChoice, RecipeFlags, Request};
use crate::artifact::quantized::QuantizedCheckpoint;
use crate::artifact::source;
use crate::commands::{CommandError, quantize};
use crate::compress;
use crate::host::FileError;
use crate::host::hidden::Hidden;
use crate::record::Target;

/// Of the hidden folder beside the output that has the numbers while they are written for one target after the other.
const KIND: &str = "numbers";

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
    if QuantizedCheckpoint::is_in(Path::new(&request.model)) {
        return of_numbers(request, targets, options);
    }
    refuse_unfit(request, targets)?;
    let hidden = hold_numbers(request, options)?;
    let numbers = hidden.path().join("model");
    let quantized = quantize::run(request, &Options { output: numbers.clone(), overwrite: true, ..options.clone() });
    // What says how numbers are chosen is said already.
    let calibration = compress::Options { cancel: options.calibration.cancel.clone(), ..compress::Options::default() };
    let options = &Options { calibration, ..options.clone() };
    let artifacts = quantized.and_then(|_| of_numbers(&chosen(request, &numbers), targets, options));
    match &artifacts {
        // The same command goes on at the next layer.
        Err(error) if error.is_interrupted() => {}
        _ => hidden.clear(),
    }
    artifacts
}

/// The place of the numbers that this request chooses: what an interrupted command has finished lies there.
fn hold_numbers(request: &Request, options: &Options) -> Result<Hidden, CommandError> {
    let asked = serde_json::json!([request.model, request.recipe()?, request.activation.name()]);
    let key = blake3::hash(asked.to_string().as_bytes());
    let output = &options.output;
    let held = Hidden::open(output, KIND, &key).map_err(FileError::of("output", output, "no folder can be made beside it"))?;
    let busy = || io::Error::new(io::ErrorKind::ResourceBusy, "another process writes the same targets; wait for it");
    held.ok_or_else(|| FileError::of("output", output, "cannot be written")(busy()).into())
}

/// The same request of the model whose numbers are chosen.
fn chosen(request: &Request, numbers: &Path) -> Request {
    let (model, recipe) = (numbers.display().to_string(), RecipeChoice::Flags(RecipeFlags::default()));
    Request { model, recipe, overrides: Vec::new(), calibration: None, ..request.clone() }
}

fn of_numbers(request: &Request, targets: &[Target], options: &Options) -> Result<TargetsReport, CommandError> {
    let folder = &options.output;
    fs::create_dir_all(folder).map_err(FileError::of("output", folder, "cannot be made"))?;
    let artifact = |&target: &Target| {
        let options = Options { output: folder.join(target.name()), ..options.clone() };
        run(&Request { target, ..request.clone() }, &options)
    };
    let artifacts: Result<_, CommandError> = targets.iter().map(artifact).collect();
    if artifacts.is_err() {
        let _ = fs::remove_dir(folder); // of a refused request nothing is left; a folder that has something stays
    }
    Ok(TargetsReport { artifacts: artifacts? })
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
