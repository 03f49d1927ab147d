//! Artifacts of the embedded model, made through the library.
//!
//! Files are found from the environment at run time: a test binary is carried to machines that have no cargo.

use std::path::{Path, PathBuf};

use qonnx::artifact::plan::{RecipeChoice, RecipeFlags, Request};
use qonnx::commands::export;
use qonnx::host::in_full;
use qonnx::recipe::FormatName;
use qonnx::record::Target;
use qonnx::tensor::DType;

/// The folder that holds `fixtures/` and `tests/`: `QONNX_FIXTURES`, or the package's, or the current one.
pub fn root() -> PathBuf {
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    set("QONNX_FIXTURES").or_else(|| set("CARGO_MANIFEST_DIR")).unwrap_or_else(|| PathBuf::from("."))
}

/// The embedded checkpoint.
pub fn model() -> PathBuf {
    root().join("fixtures/tiny-coqa")
}

/// Flags of `--bits` with this program's defaults.
pub fn bits(format: FormatName) -> RecipeFlags {
    RecipeFlags { format: Some(format), ..RecipeFlags::default() }
}

/// A request to export `checkpoint`.
pub fn request(checkpoint: &Path, flags: RecipeFlags, activation: DType) -> Request {
    let model = checkpoint.display().to_string();
    Request {
        model,
        recipe: RecipeChoice::Flags(flags),
        overrides: Vec::new(),
        calibration: None,
        activation,
        max_context: None,
        target: Target::Ort,
        data_file_bytes: None,
    }
}

/// Exports to `output`, which must not exist.
#[track_caller]
pub fn export(request: &Request, output: &Path) -> export::ExportReport {
    let options = export::Options::new(output.to_owned());
    export::run(request, &options).unwrap_or_else(|error| panic!("{}", in_full(&error)))
}
