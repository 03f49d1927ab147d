//! From an error to an exit code: which errors there are, and whose fault each is.

use qonnx::fault::Fault;
use qonnx::generate::GenerateError;
use qonnx::usage::UsageError;

/// Walks the error chain for the first library error and asks it; anything else failed through no fault of the input.
pub fn fault_of(error: &anyhow::Error) -> Fault {
    error.chain().find_map(fault_of_cause).unwrap_or(Fault::Failed)
}

fn fault_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    if cause.is::<UsageError>() {
        return Some(Fault::BadInput);
    }
    if let Some(GenerateError::Backend(_) | GenerateError::OutOfMemory(_)) = cause.downcast_ref() {
        return None; // what the backend says is next in the chain
    }
    macro_rules! ask {
        ($($error:ty),+ $(,)?) => {
            $(if let Some(error) = cause.downcast_ref::<$error>() {
                return Some(error.fault());
            })+
        };
    }
    #[cfg(feature = "report")]
    ask!(qonnx::report::ReportError);
    ask!(
        qonnx::features::NotBuilt,
        qonnx::checkpoint::CheckpointError,
        qonnx::checkpoint::TensorFileError,
        qonnx::checkpoint::hub::HubError,
        qonnx::eval::EvalError,
        qonnx::eval::coqa::DataError,
        GenerateError,
        qonnx::model::ConfigError,
        qonnx::model::ModelRotationError,
        qonnx::onnx::DataError,
        qonnx::onnx::GraphError,
        qonnx::quant::QuantError,
        qonnx::recipe::RecipeError,
        qonnx::record::QuantizedManifestError,
        qonnx::record::RecordError,
        qonnx::record::RunRecordError,
        qonnx::runtime::RuntimeError,
        qonnx::companions::CompanionError,
        qonnx::tensor::convert::ConvertError,
        qonnx::calib::CalibError,
        qonnx::calib::SetError,
        qonnx::quant::BudgetError,
        qonnx::compress::budget::BudgetRefusal,
        qonnx::study::experiment::ExperimentError,
        qonnx::study::sweep::SweepError,
        qonnx::artifact::plan::Refused,
    );
    None
}
