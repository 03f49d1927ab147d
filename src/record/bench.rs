//! What a benchmark of an artifact measured: raw samples beside their summary, for every point of the grid.

use serde::{Deserialize, Serialize};

/// Speed, memory and energy of an artifact on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchRecord {
    /// `cpu` or `cuda`: the execution provider that ran, which is the one that was asked for.
    pub ep: String,
    /// CPU threads of a product.
    pub threads: usize,
    /// `model.onnx` and its external data, bytes on the disk.
    pub model_bytes: u64,
    /// What making the session took: resident memory on the CPU, device memory on CUDA.
    pub weights_memory_bytes: Option<u64>,
    /// What making a session of next to nothing takes of the device's memory; CUDA only, absent in records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_session_bytes: Option<u64>,
    /// From opening the folder to a session that can run, seconds.
    pub load_seconds: f64,
    /// Highest resident memory of the process, bytes (`VmHWM`).
    pub peak_rss_bytes: u64,
    /// Highest device memory of the process that NVML reported, bytes; CUDA only.
    pub peak_device_bytes: Option<u64>,
    /// Copy bandwidth of the device that the artifact ran on, measured in the same process, bytes read and written a second.
    pub copy_bytes_per_second: Option<f64>,
    pub settings: BenchSettings,
    pub points: Vec<BenchPoint>,
    /// What a reader of the numbers has to know: throttling, few samples, outliers.
    pub warnings: Vec<String>,
}

impl BenchRecord {
    /// What the weights take once the session is made, bytes.
    pub fn weights_memory(&self) -> Option<u64> {
        Some(self.weights_memory_bytes?.saturating_sub(self.idle_session_bytes.unwrap_or(0)))
    }
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchSettings {
    pub batches: Vec<usize>,
    pub prompts: Vec<usize>,
    pub new_tokens: usize,
    /// Runs before the first that counts.
    pub warmup: usize,
    pub min_repeats: usize,
    pub max_repeats: usize,
    /// How often is fixed by the first repeats, so that the 95 % interval of the median is about this fraction of it on each side.
    pub confidence: f64,
    /// Whether decoding steps were replayed from a CUDA graph.
    pub cuda_graph: bool,
}

/// One batch size and prompt length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchPoint {
    pub batch: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    pub outcome: Outcome,
}

/// A point that was measured, or why it was not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    Measured(Box<Measured>),
    OutOfMemory { message: String },
    Failed { message: String },
}

/// Times of a point that ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Reading all prompts of the batch up to the first tokens, ms.
    pub prefill_ms: Samples,
    /// Tokens of all prompts over the median prefill time.
    pub prefill_tokens_per_second: f64,
    /// Text to first token of one prompt: tokenizer and prefill, ms; batch 1 only.
    pub ttft_ms: Option<Samples>,
    /// One step, which produces one token for each row, ms.
    pub decode_ms_per_token: Samples,
    /// Tokens of all rows over the median step.
    pub decode_tokens_per_second: f64,
    /// Highest so far in the process: resident memory on the CPU, device memory on CUDA, bytes.
    pub memory_peak_bytes: u64,
    /// What one step must read at least, weights and the cache's filled part, bytes.
    pub bytes_per_step: u64,
    /// `bytes_per_step` over the median step, as a fraction of the copy bandwidth.
    pub bandwidth_fraction: Option<f64>,
    /// CUDA only.
    pub power: Option<PowerRecord>,
}

/// Raw samples in the order they were taken, and their summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    pub values: Vec<f64>,
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
    /// 95 % interval of the median, by order statistics; of decoding steps, over the medians of whole loops, since steps of
    /// one loop are not independent.
    pub ci95: [f64; 2],
    /// Places of values whose modified z-score exceeds 3.5 (Iglewicz and Hoaglin 1993); none is dropped.
    pub outliers: Vec<usize>,
}

/// What NVML said while a point decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PowerRecord {
    /// Energy of the whole device over the tokens of all rows, joules.
    pub joules_per_token: f64,
    pub mean_watts: f64,
    pub sm_clock_mhz: u32,
    pub memory_clock_mhz: u32,
    pub temperature_celsius: u32,
    /// Reasons for throttling that were active, by NVML's names; empty where none was.
    pub throttle: Vec<String>,
}
