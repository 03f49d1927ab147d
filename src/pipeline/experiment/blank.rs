//! A record before anything has been measured: what is asked, by which program, where.

use std::collections::BTreeSet;

use super::{Device, Job};
use crate::record::{EnvironmentRecord, ProgramRecord, RUN_SCHEMA, RunModel, RunRecord};
use crate::runtime::{self, ExecutionProvider};

/// The record of `job` with nothing measured, the runtime not asked.
pub fn record(job: &Job) -> RunRecord {
    RunRecord {
        schema: RUN_SCHEMA,
        experiment_name: job.name.clone(),
        id: job.id.clone(),
        title: job.title.clone(),
        method: job.method.name().to_owned(),
        baseline: job.baseline.clone(),
        model: RunModel {
            source: job.model.clone(),
            revision: None,
            parameters: 0,
            blake3: job.model_blake3.clone(),
            calibration: None,
        },
        recipe: job.recipe.clone(),
        program: program(),
        environment: machine(&job.device),
        sizes: None,
        export: None,
        sanity: None,
        evaluation: None,
        benchmarks: None,
        stages: Vec::new(),
        warnings: Vec::new(),
        failure: None,
    }
}

fn program() -> ProgramRecord {
    ProgramRecord {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("QONNX_COMMIT").map(str::to_owned),
        dirty: option_env!("QONNX_DIRTY") == Some("true"),
    }
}

/// What the operating system says.
fn machine(device: &Device) -> EnvironmentRecord {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (cpu, cores) = processors(&text);
    let every_thread = || std::thread::available_parallelism().map_or(1, usize::from);
    EnvironmentRecord {
        ep: device.ep().to_owned(),
        onnxruntime: None,
        cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: cores.unwrap_or_else(every_thread),
        threads: device.threads,
        gpu: None,
        driver: None,
        activation: device.activation().name().to_owned(),
    }
}

/// The first processor's name and the number of physical cores, from `/proc/cpuinfo`.
fn processors(text: &str) -> (Option<String>, Option<usize>) {
    let field = |block: &str, name: &str| {
        let mut lines = block.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let blocks = || text.split("\n\n").filter(|block| !block.trim().is_empty());
    let name = blocks().find_map(|block| field(block, "model name"));
    let cores: BTreeSet<_> =
        blocks().filter_map(|block| Some((field(block, "physical id")?, field(block, "core id")?))).collect();
    (name, Some(cores.len()).filter(|&cores| cores > 0))
}

/// Adds what ONNX Runtime and NVML say.
pub fn ask_runtime(environment: &mut EnvironmentRecord, device: &Device) {
    let doctor = runtime::doctor(if device.cuda { ExecutionProvider::Cuda } else { ExecutionProvider::Cpu });
    environment.onnxruntime = doctor.library.ok().map(|library| library.version);
    if !device.cuda {
        return;
    }
    // NVML counts all devices of the machine, CUDA only those that it is shown.
    let shown = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let first = shown.and_then(|list| list.split(',').next()?.trim().parse().ok()).unwrap_or(0_usize);
    if let Some(gpu) = doctor.gpus.ok().and_then(|gpus| gpus.into_iter().nth(first)) {
        environment.gpu = Some(gpu.name);
        environment.driver = Some(gpu.driver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_core_are_counted_once() {
        let block =
            |id: usize, core: usize| format!("processor\t: {id}\nmodel name\t: A: B\nphysical id\t: 0\ncore id\t\t: {core}\n");
        let text = [block(0, 0), block(1, 0), block(2, 1), block(3, 1)].join("\n");
        assert_eq!(processors(&text), (Some("A: B".to_owned()), Some(2)));
        assert_eq!(processors("Hardware : something\n"), (None, None));
    }
}
