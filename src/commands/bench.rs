//! Speed, memory and energy of an artifact over a grid of batch sizes and prompt lengths.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::bench::{Bench, Gauge, Progress, WallClock, warnings, with_bandwidth};
use crate::commands::CommandError;
use crate::commands::RuntimeChoice;
use crate::commands::outputs::{self, Kind, Output};
use crate::host::{FileError, in_full, memory, publish};
use crate::record::{BenchPoint, BenchRecord, BenchSettings, Manifest, Outcome, PowerRecord, WeightRecord};
use crate::runtime::{self, ExecutionProvider, GpuMeter, Launch, LoadStage, WeightKernels};
use crate::usage::UsageError;

mod show;

/// What `qonnx bench` was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub artifact: PathBuf,
    pub runtime: RuntimeChoice,
    pub settings: BenchSettings,
}

/// What was measured, and of what.
#[derive(Debug, Serialize)]
pub struct BenchReport {
    pub artifact: PathBuf,
    /// Name of the GPU that it ran on.
    pub gpu: Option<String>,
    #[serde(flatten)]
    pub record: BenchRecord,
}

/// A bar on stderr for `progress` of [`run`], and with `-v` a line when a point begins:
/// `results/lab/honest_timing.py` waits for it.
pub fn bar() -> impl FnMut(Progress) {
    const STEPS: f64 = 1000.0;
    let bar = crate::host::progress::share(STEPS as u64, "bench");
    let mut begun = 0;
    move |now| {
        bar.set_position((now.done * STEPS) as u64);
        let Progress { points, of, batch, prompt_tokens, .. } = now;
        let point = format!("point {} of {of}: batch {batch}, prompt {prompt_tokens}", points + 1);
        if begun == points {
            bar.suspend(|| tracing::info!("{point}"));
            begun += 1;
        }
        bar.set_message(point);
    }
}

/// `qonnx bench`.
///
/// # Errors
/// The artifact or the execution provider is missing, or the settings ask for more than the artifact covers. A point that
/// fails is a row of the report.
pub fn run(request: &Request, progress: &mut dyn FnMut(Progress)) -> Result<BenchReport, CommandError> {
    let Request { artifact, runtime, settings } = request;
    let launch = if settings.cuda_graph { Launch::Replayed } else { Launch::Eager };
    let choice = &RuntimeChoice { launch, ..runtime.clone() };
    let manifest = Manifest::load(artifact)?;
    check(settings, manifest.max_context)?;
    let mut gauge = Meters::open(choice.provider);
    let provider = choice.options().provider;
    let begun = Instant::now();
    runtime::start(provider)?;
    let mut weights_memory = (None, None);
    let mut engine = choice.load_observed(artifact, &manifest, &mut |stage| match stage {
        LoadStage::Read => weights_memory.0 = gauge.memory_now(),
        LoadStage::Ready => weights_memory.1 = gauge.memory_now(),
    })?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let mut points = Bench {
        model: &mut engine.steps(),
        clock: &WallClock::start(),
        gauge: &mut gauge,
        settings,
        weight_bytes: bytes_a_step(&manifest.weights),
    }
    .grid(progress);
    let (peak_rss_bytes, peak_device_bytes) = (memory::peak_resident(), gauge.device_peak());
    drop(engine);
    let threads = choice.threads.unwrap_or_else(num_cpus::get_physical);
    let mut said = about_weights(choice, &manifest);
    // What follows is a yardstick: without it the measurements stand.
    let idle = idle_memory(provider, &mut gauge);
    let idle_session_bytes = idle.unwrap_or_else(|error| {
        said.push(format!("the weights' memory counts what any session takes: {error}"));
        None
    });
    let bandwidth = runtime::copy_bandwidth(provider, threads).map_err(|error| said.push(error.to_string())).ok();
    if let Some(bandwidth) = bandwidth {
        with_bandwidth(&mut points, bandwidth);
    }
    said.extend(gauge.warnings());
    said.extend(warnings(&points, settings));
    Ok(BenchReport {
        artifact: artifact.clone(),
        gpu: gauge.gpu(),
        record: BenchRecord {
            ep: provider.to_string(),
            threads,
            model_bytes: model_bytes(artifact, &manifest)?,
            weights_memory_bytes: taken(weights_memory.0, weights_memory.1).filter(|&bytes| bytes > 0),
            idle_session_bytes,
            load_seconds,
            peak_rss_bytes,
            peak_device_bytes,
            copy_bytes_per_second: bandwidth,
            settings: settings.clone(),
            points,
            warnings: said,
        },
    })
}

/// What a session takes of the GPU's memory whatever its model is: handles and workspaces of CUDA's libraries. On the CPU that
/// is little, and does not come back.
fn idle_memory(provider: ExecutionProvider, gauge: &mut Meters) -> Result<Option<u64>, runtime::RuntimeError> {
    if provider == ExecutionProvider::Cpu {
        return Ok(None);
    }
    let before = gauge.memory_now();
    let session = runtime::idle(provider)?;
    let after = gauge.memory_now();
    drop(session);
    Ok(taken(before, after))
}

fn taken(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

/// Refuses files to write that are there and are not an earlier run's, or are the artifact's.
pub fn check_outputs(artifact: &Path, csv: Option<&Path>, graph: Option<&Path>) -> Result<(), UsageError> {
    let csv = csv.map(|path| Output { flag: "--csv", path, kind: Kind::Csv(&show::CSV_HEADER) });
    let graph = graph.map(|path| Output { flag: "--save-graph", path, kind: Kind::Graph });
    outputs::check(&csv.into_iter().chain(graph).collect::<Vec<_>>(), &[artifact])
}

/// Writes the graph that is measured to `file`, so that other programs can run the same: the artifact's own with lengths
/// as inputs and the greedy choice inside. Its weights stay in the artifact's data file.
pub fn save_graph(artifact: &Path, file: &Path) -> Result<(), CommandError> {
    Ok(publish::file(file, &runtime::decode_graph(artifact)?).map_err(FileError::at(file, "cannot be written"))?)
}

impl BenchReport {
    /// Writes one line a point.
    pub fn save_csv(&self, path: &Path) -> Result<(), CommandError> {
        Ok(publish::file(path, self.csv().as_bytes()).map_err(FileError::at(path, "cannot be written"))?)
    }

    /// Whether some point failed for another reason than memory.
    pub fn failed(&self) -> bool {
        self.record.points.iter().any(|BenchPoint { outcome, .. }| matches!(outcome, Outcome::Failed { .. }))
    }
}

/// Refuses what the artifact cannot do before anything is loaded.
pub fn check(settings: &BenchSettings, most: usize) -> Result<(), UsageError> {
    let (least, repeats) = (settings.min_repeats, settings.max_repeats);
    if least > repeats {
        return Err(UsageError::Repeats { least, most: repeats });
    }
    let (prompt, new_tokens) = (settings.prompts.iter().copied().max().unwrap_or(0), settings.new_tokens);
    match prompt.saturating_add(new_tokens) {
        got if got > most => Err(UsageError::BenchBeyondContext { prompt, new_tokens, got, most }),
        _ => Ok(()),
    }
}

/// Which kernels ran: on the CPU not those that `qonnx eval` scores with.
fn about_weights(choice: &RuntimeChoice, manifest: &Manifest) -> Vec<String> {
    let is_dense = |weight: &WeightRecord| matches!(weight.format.as_str(), "f16" | "bf16" | "f32");
    if choice.provider.is_gpu() || choice.weights != WeightKernels::FusedFast || manifest.weights.iter().all(is_dense) {
        return Vec::new();
    }
    let said = "the CPU's kernels may round activations to 8 bits, as for any program that sets no options; `qonnx eval` scores \
                without that";
    vec![said.to_owned()]
}

/// Weights that a step reads, as they lie in memory: all but the embedding, of which it reads a row for each sequence,
/// unless the embedding is the LM head too.
fn bytes_a_step(weights: &[WeightRecord]) -> u64 {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    let is_tied = !weights.iter().any(|weight| weight.name == "lm_head.weight");
    let read = weights.iter().filter(|weight| is_tied || weight.name != EMBEDDING);
    let bits = |weight: &WeightRecord| weight.shape.iter().product::<usize>() as f64 * weight.memory_bits_per_weight;
    (read.map(bits).sum::<f64>() / 8.0).round() as u64
}

fn model_bytes(artifact: &Path, manifest: &Manifest) -> Result<u64, runtime::RuntimeError> {
    let graph = manifest.graph_file().unwrap_or_default();
    let data = manifest.data_files(&graph).into_iter().map(|file| file.file.as_str());
    let bytes = |file: &str| {
        let path = artifact.join(file);
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(source) => Err(runtime::RuntimeError::Read { path, source }),
        }
    };
    std::iter::once(graph.path()).chain(data).map(bytes).sum()
}

/// This process's memory, and the GPU's meters where it runs on one.
enum Meters {
    Cpu,
    Gpu(Box<GpuMeter>),
    /// Why there are none.
    Blind(String),
}

impl Meters {
    fn open(provider: ExecutionProvider) -> Meters {
        match provider.is_gpu().then(GpuMeter::open) {
            None => Meters::Cpu,
            Some(Ok(meter)) => Meters::Gpu(Box::new(meter)),
            Some(Err(error)) => Meters::Blind(format!("device memory and energy are not measured: {}", in_full(&error))),
        }
    }

    /// Of the process on the device that the model runs on, where something tells.
    fn memory_now(&mut self) -> Option<u64> {
        match self {
            Meters::Cpu => Some(memory::resident()),
            Meters::Gpu(meter) => meter.memory_now(),
            Meters::Blind(_) => None,
        }
    }

    fn gpu(&self) -> Option<String> {
        match self {
            Meters::Gpu(meter) => meter.gpu().ok().map(|gpu| gpu.name),
            Meters::Cpu | Meters::Blind(_) => None,
        }
    }

    fn device_peak(&mut self) -> Option<u64> {
        match self {
            Meters::Gpu(meter) => Some(meter.memory_peak()),
            Meters::Cpu | Meters::Blind(_) => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        match self {
            Meters::Cpu => Vec::new(),
            Meters::Gpu(meter) => meter.warnings(),
            Meters::Blind(why) => vec![why.clone()],
        }
    }
}

impl Gauge for Meters {
    fn memory_peak(&mut self) -> u64 {
        match self {
            Meters::Cpu => memory::peak_resident(),
            Meters::Gpu(meter) => meter.memory_peak(),
            Meters::Blind(_) => 0,
        }
    }

    fn start_energy(&mut self) -> bool {
        match self {
            Meters::Gpu(meter) => meter.start_energy(),
            Meters::Cpu | Meters::Blind(_) => false,
        }
    }

    fn observe(&mut self) {
        if let Meters::Gpu(meter) = self {
            meter.observe();
        }
    }

    fn stop_energy(&mut self, tokens: u64) -> Option<PowerRecord> {
        match self {
            Meters::Gpu(meter) => meter.stop_energy(tokens),
            Meters::Cpu | Meters::Blind(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(name: &str, shape: &[usize], memory_bits: f64) -> WeightRecord {
        WeightRecord {
            name: name.to_owned(),
            shape: shape.to_vec(),
            format: "int4".to_owned(),
            group_size: None,
            double_quantization: false,
            outliers: 0,
            bits_per_weight: 3.5,
            memory_bits_per_weight: memory_bits,
            bytes: 1,
            relative_error: 0.0,
            calibrated: None,
            digest: String::new(),
        }
    }

    #[test]
    fn a_step_reads_the_embedding_only_where_it_is_the_head() {
        let embedding = weight("model.embed_tokens.weight", &[100, 8], 16.0);
        let linear = weight("model.layers.0.mlp.up_proj.weight", &[16, 8], 4.5);
        assert_eq!(bytes_a_step(&[embedding.clone(), linear.clone()]), 1600 + 72);
        assert_eq!(bytes_a_step(&[embedding, linear, weight("lm_head.weight", &[100, 8], 8.0)]), 800 + 72);
    }
}
