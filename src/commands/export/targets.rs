//! One model for several targets: its numbers are chosen once.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::{ExportReport, Options, refuse_statistics_in, run};
use crate::artifact::plan::{self, Facts, RecipeChoice, RecipeFlags, Request};
use crate::artifact::quantized::QuantizedCheckpoint;
use crate::artifact::{hashing, source};
use crate::checkpoint::Checkpoint;
use crate::commands::output_folder::{Kind, OutputFolder};
use crate::commands::{CommandError, quantize};
use crate::compress;
use crate::host::FileError;
use crate::host::hidden::{Hidden, parent};
use crate::host::interrupt::CancelToken;
use crate::record::Target;
use crate::usage::UsageError;

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
/// As [`run`]; what was written for the targets before stays, and the numbers where they are chosen.
pub fn run_each(request: &Request, targets: &[Target], options: &Options) -> Result<TargetsReport, CommandError> {
    refuse_outputs(targets, options)?;
    if QuantizedCheckpoint::is_in(Path::new(&request.model)) {
        return of_numbers(request, targets, options);
    }
    refuse_unfit(request, targets)?;
    let hidden = hold_numbers(request, options)?;
    let numbers = hidden.path().join("model");
    let chosen = match is_finished(&numbers, request, &options.calibration.cancel) {
        Ok(true) => Ok(()),
        Ok(false) => quantize::run(request, &Options { output: numbers.clone(), overwrite: true, ..options.clone() }).map(drop),
        Err(error) => Err(error),
    };
    // What says how numbers are chosen is said already.
    let calibration = compress::Options { cancel: options.calibration.cancel.clone(), ..compress::Options::default() };
    let options = &Options { calibration, ..options.clone() };
    let artifacts = chosen.and_then(|()| of_numbers(&request_of(request, &numbers), targets, options));
    match artifacts {
        Ok(artifacts) => {
            hidden.clear();
            Hidden::abandoned(&options.output, KIND).into_iter().for_each(Hidden::clear);
            Ok(artifacts)
        }
        Err(error) if error.is_interrupted() && QuantizedCheckpoint::is_in(&numbers) => {
            Err(CommandError::NumbersKept { folder: numbers })
        }
        Err(error) => {
            let _ = fs::remove_dir(hidden.path()); // finished layers stay, an empty folder goes
            Err(error)
        }
    }
}

/// What is in the way of any artifact is refused before any work.
fn refuse_outputs(targets: &[Target], options: &Options) -> Result<(), CommandError> {
    let folder = &options.output;
    let shown = || folder.display().to_string();
    if folder.exists() && !folder.is_dir() {
        return Err(UsageError::OutputForeign { path: shown(), kind: "a folder for several targets" }.into());
    }
    if !folder.exists() && !parent(folder).is_dir() {
        return Err(UsageError::ParentMissing { path: shown() }.into());
    }
    for target in targets {
        let output = folder.join(target.name());
        if folder.is_dir() {
            OutputFolder::resolve(&output, options.overwrite, Kind::Artifact)?;
        }
        refuse_statistics_in(&output, &options.calibration)?;
    }
    Ok(())
}

/// The place of the numbers that this request chooses: what a command that was stopped has finished lies there.
fn hold_numbers(request: &Request, options: &Options) -> Result<Hidden, CommandError> {
    let how = [request.activation.name(), options.calibration.provider.name(), env!("CARGO_PKG_VERSION")];
    let asked = serde_json::json!([request.model, request.recipe()?, how]);
    let key = blake3::hash(asked.to_string().as_bytes());
    let output = &options.output;
    let held = Hidden::open(output, KIND, &key).map_err(FileError::of("output", output, "no folder can be made beside it"))?;
    let busy = || io::Error::new(io::ErrorKind::ResourceBusy, "another process writes the same targets; wait for it");
    held.ok_or_else(|| FileError::of("output", output, "cannot be written")(busy()).into())
}

/// Whether a command that was stopped has chosen the numbers of this very model.
fn is_finished(numbers: &Path, request: &Request, cancel: &CancelToken) -> Result<bool, CommandError> {
    let Ok(kept) = QuantizedCheckpoint::open(numbers) else { return Ok(false) };
    let source = source::resolve(&request.model)?;
    let inputs = hashing::of_checkpoint(&Checkpoint::open(&source.dir)?, cancel)?;
    Ok(kept.manifest.inputs == inputs && kept.manifest.companions == source.companions()?)
}

/// The same request of the model whose numbers are chosen.
fn request_of(request: &Request, numbers: &Path) -> Request {
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
