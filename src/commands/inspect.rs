//! What ONNX Runtime really executes of an artifact.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::plan::kind_of;
use super::runtime_choice::check_data;
use crate::commands::CommandError;
use crate::commands::RuntimeChoice;
use crate::host::table::table;
use crate::record::Manifest;
use crate::runtime::{self, Execution, Inspection};

/// Every product with a weight, and how it runs.
#[derive(Debug, Serialize)]
pub struct InspectReport {
    pub artifact: PathBuf,
    pub ep: String,
    /// Quantized weights that are not used as such.
    pub not_fused: Vec<String>,
    #[serde(flatten)]
    pub inspection: Inspection,
}

/// `qonnx inspect`.
pub fn run(artifact: &Path, runtime: &RuntimeChoice) -> Result<InspectReport, CommandError> {
    check_data(artifact, &Manifest::load(artifact)?)?;
    let options = runtime.options();
    let inspection = runtime::inspect(artifact, &options)?;
    let missed = inspection.matmuls.iter().filter(|matmul| !matmul.as_meant());
    let not_fused = missed.map(|matmul| matmul.weight.clone()).collect();
    Ok(InspectReport { artifact: artifact.to_owned(), ep: options.provider.onnxruntime_name().to_owned(), not_fused, inspection })
}

impl InspectReport {
    /// Whether every weight that is stored quantized is used without being unpacked.
    pub fn every_weight_fused(&self) -> bool {
        self.not_fused.is_empty()
    }
}

/// `CPU`, `CUDA`.
fn short(provider: &str) -> &str {
    provider.strip_suffix("ExecutionProvider").unwrap_or(provider)
}

fn words(execution: &Execution) -> String {
    match execution {
        Execution::Fused { operator } => format!("fused to {operator}"),
        Execution::DequantizedEachRun => "dequantized on each step".to_owned(),
        Execution::PutTogetherEachRun => "put together on each step".to_owned(),
        Execution::UnpackedAtLoad { operator } => format!("unpacked at load, {operator}"),
        Execution::Dense { operator } => format!("dense {operator}"),
        Execution::Merged => "merged into another node".to_owned(),
    }
}

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut alike: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        for matmul in &self.inspection.matmuls {
            let key = (kind_of(&matmul.weight), words(&matmul.execution), short(&matmul.provider).to_owned());
            *alike.entry(key).or_default() += 1;
        }
        let rows = alike.into_iter().map(|((kind, how, provider), count)| vec![kind, count.to_string(), how, provider]);
        writeln!(f, "{}\n", table(&["weight", "count", "runs as", "on"], &[1], rows))?;
        for (provider, operators) in &self.inspection.operators {
            let nodes: usize = operators.values().sum();
            writeln!(f, "{}: {nodes} nodes", short(provider))?;
        }
        writeln!(f, "memory copies between host and device: {}", self.inspection.memory_copies.len())?;
        match self.not_fused.as_slice() {
            [] => f.write_str("every quantized weight is fused"),
            missed => write!(f, "NOT FUSED: {} quantized weights, {} first", missed.len(), missed[0]),
        }
    }
}
