//! Rows of a parquet file as JSON values: the hub stores CoQA so. Snappy or uncompressed, as the hub writes it.

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use super::data_error::DataError;
use crate::host::guard::guarded;

/// Each row as a JSON object.
///
/// The parquet crate (60.1) panics on some corrupt pages where it should return an error, so a panic inside it is taken
/// for what it is: a broken file.
pub fn rows(bytes: &[u8], file: &str) -> Result<Vec<Value>, DataError> {
    let broken = |detail: String| DataError::Parquet { file: file.to_string(), detail };
    guarded(|| read_rows(bytes)).map_err(broken)?.map_err(|error| broken(error.to_string()))
}

fn read_rows(bytes: &[u8]) -> Result<Vec<Value>, ParquetError> {
    let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes))?;
    reader.get_row_iter(None)?.map(|row| row.map(|row| row.to_json_value())).collect()
}
