//! The face of `parquet` in a build that reads none.

use serde_json::Value;

use super::data_error::DataError;
use crate::features::NotBuilt;

/// # Errors
/// Always: this program was built without a reader of parquet files.
pub fn rows(_bytes: &[u8], file: &str) -> Result<Vec<Value>, DataError> {
    Err(DataError::NotBuilt { file: file.to_string(), part: NotBuilt::PARQUET })
}

#[cfg(test)]
mod tests {
    use super::super::data::parse;

    #[test]
    fn a_parquet_file_is_known_and_refused() {
        let refused = parse(b"PAR1", "coqa.parquet").expect_err("there is no reader");
        let said = "coqa.parquet: this qonnx was built without a reader of parquet files; build it with --features parquet, or give JSON";
        assert_eq!((refused.to_string().as_str(), refused.fault().exit_code()), (said, 1));
    }
}
