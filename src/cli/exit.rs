//! From an error to an exit code: whose fault it is.

use qonnx::commands::CommandError;
use qonnx::fault::Fault;
use qonnx::study::StudyError;
use qonnx::usage::UsageError;

/// Asks what a command, a study or the command line itself has refused; anything else failed through no fault of the input.
pub fn fault_of(error: &anyhow::Error) -> Fault {
    if let Some(error) = error.downcast_ref::<StudyError>() {
        return error.fault();
    }
    if let Some(error) = error.downcast_ref::<CommandError>() {
        return error.fault();
    }
    if error.is::<UsageError>() { Fault::BadInput } else { Fault::Failed }
}
