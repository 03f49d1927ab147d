//! A record before anything has been measured: what is asked, by which program, where.

use super::{Device, Job};
use crate::record::{EnvironmentRecord, EvaluationRecord, ProgramRecord, RUN_SCHEMA, RunModel, RunRecord};
use crate::runtime::{self};

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
        evaluation: EvaluationRecord::default(),
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
    EnvironmentRecord {
        ep: device.provider.name().to_owned(),
        onnxruntime: None,
        cpu: processor(&text).unwrap_or(std::env::consts::ARCH).to_owned(),
        cores: num_cpus::get_physical(),
        threads: device.threads,
        gpu: None,
        driver: None,
        activation: device.activation().name().to_owned(),
    }
}

/// The first processor's name, from `/proc/cpuinfo`.
fn processor(text: &str) -> Option<&str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == "model name").map(|(_, value)| value.trim())
}

/// Adds what ONNX Runtime and NVML say.
pub fn ask_runtime(environment: &mut EnvironmentRecord, device: &Device) {
    let doctor = runtime::doctor(device.provider);
    environment.onnxruntime = doctor.library.ok().map(|library| library.version);
    if let Some(gpu) = device.provider.is_gpu().then(runtime::visible_gpu).and_then(Result::ok) {
        (environment.gpu, environment.driver) = (Some(gpu.name), Some(gpu.driver));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_called_by_its_model_name() {
        assert_eq!(processor("processor\t: 0\nvendor_id\t: X\nmodel name\t: A: B\n\nmodel name\t: C\n"), Some("A: B"));
        assert_eq!(processor("Hardware : something\n"), None);
    }
}
