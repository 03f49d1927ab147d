//! What this machine offers, and what to do about what is missing.

use std::fmt;

use serde::Serialize;

use crate::runtime::{self, Doctor, ExecutionProvider};

/// One thing that was looked for.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub what: &'static str,
    pub found: bool,
    /// What was found, or what to do.
    pub detail: String,
    /// Whether nothing runs without it; CUDA's parts are needed for CUDA only.
    pub needed: bool,
}

/// `qonnx doctor`'s answer.
#[derive(Debug, Serialize)]
pub struct DoctorReport {
    pub findings: Vec<Finding>,
}

/// `qonnx doctor`.
pub fn run() -> DoctorReport {
    let doctor = runtime::doctor(ExecutionProvider::Cpu);
    let mut findings = vec![library(&doctor)];
    findings.push(cuda_build(&doctor));
    findings.extend(doctor.cuda.iter().map(|library| Finding {
        what: library.name,
        found: library.missing.is_none(),
        detail: match &library.missing {
            None => "loads".to_owned(),
            Some(_) => "not found; install NVIDIA's driver and CUDA 13, or put pip's nvidia libraries on LD_LIBRARY_PATH".into(),
        },
        needed: false,
    }));
    findings.extend(gpus(&doctor));
    DoctorReport { findings }
}

fn library(doctor: &Doctor) -> Finding {
    let (found, detail) = match &doctor.library {
        Ok(library) => (true, format!("{}\n{}", library.path.display(), library.build)),
        Err(error) => (false, error.to_string()),
    };
    Finding { what: "ONNX Runtime", found, detail, needed: true }
}

fn cuda_build(doctor: &Doctor) -> Finding {
    let opened = doctor.library.as_ref().is_ok_and(|library| library.providers.contains(&ExecutionProvider::Cuda));
    let (found, detail) = match &doctor.cuda_library {
        _ if opened => (true, "the library above has the CUDA execution provider".to_owned()),
        Ok(path) => (true, path.display().to_string()),
        Err(_) => (false, "no CUDA build was found; run scripts/get-onnxruntime.sh --cuda".to_owned()),
    };
    Finding { what: "CUDA provider", found, detail, needed: false }
}

fn gpus(doctor: &Doctor) -> Vec<Finding> {
    let finding = |found, detail| Finding { what: "GPU", found, detail, needed: false };
    match &doctor.gpus {
        Err(reason) => vec![finding(false, format!("NVML does not answer ({reason}); install NVIDIA's driver"))],
        Ok(gpus) if gpus.is_empty() => vec![finding(false, "NVML lists none".to_owned())],
        Ok(gpus) => gpus
            .iter()
            .map(|gpu| {
                let (major, minor) = gpu.compute_capability;
                let memory = gpu.memory_bytes as f64 / f64::from(1 << 30);
                finding(true, format!("{}, {memory:.0} GiB, sm_{major}{minor}, driver {}", gpu.name, gpu.driver))
            })
            .collect(),
    }
}

impl DoctorReport {
    /// Whether everything that the CPU needs is there.
    pub fn healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.found || !finding.needed)
    }
}

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.findings.iter().flat_map(|finding| {
            let mark = if finding.found { "yes" } else { "no " };
            let mut details = finding.detail.lines();
            let first = format!("{mark}  {:<20}{}", finding.what, details.next().unwrap_or_default());
            let rest = details.map(|line| format!("{:25}{line}", "")).collect::<Vec<_>>();
            std::iter::once(first).chain(rest)
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}
