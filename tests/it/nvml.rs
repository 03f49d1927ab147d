//! GPUs as NVML tells of them, by a library of two that is compiled here: which is metered, and what its meters read.

use std::path::PathBuf;
use std::process::Command;

use qonnx::runtime::{GpuMeter, gpu_count};
use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml/two_gpus.c");
const NAME: &str = "libnvidia-ml.so.1";
const GIB: u64 = 1 << 30;

/// A folder with the library.
fn library() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(NAME);
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", &format!("-Wl,-soname,{NAME}"), "-o"]).arg(&path).arg(SOURCE);
    let output = compiler.output().expect("cc is what Rust links with");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (folder, path)
}

/// What is loaded already is found by its soname.
fn load() {
    let (_folder, path) = library();
    ort::util::preload_dylib(path).expect("it was just compiled");
}

#[test]
fn the_first_visible_gpu_is_metered() {
    load();
    let name = |visible: Option<&str>| GpuMeter::open_first_of(visible).and_then(|meter| meter.gpu()).map(|gpu| gpu.name);
    assert_eq!(name(None).unwrap(), "Idle GPU");
    assert_eq!(name(Some("1,0")).unwrap(), "Busy GPU");
    assert_eq!(name(Some("GPU-2222")).unwrap(), "Busy GPU");
    for missing in ["2", "GPU-3333", "MIG-1"] {
        let error = name(Some(missing)).unwrap_err().to_string();
        assert_eq!(error, format!("CUDA_VISIBLE_DEVICES begins with {missing:?}, which NVML does not know"));
    }
    assert_eq!(gpu_count().unwrap(), 2);
}

#[test]
fn memory_is_this_process_s_own_and_energy_is_per_token() {
    load();
    let mut busy = GpuMeter::open_first_of(Some("1")).unwrap();
    assert_eq!((busy.memory_now(), busy.memory_peak()), (Some(3 * GIB), 3 * GIB), "another process has 1 GiB beside it");
    assert!(busy.start_energy());
    busy.observe();
    let power = busy.stop_energy(5).expect("it was started");
    assert_eq!(power.joules_per_token, 2.0, "10 J over 5 tokens");
    assert!(power.mean_watts > 0.0);
    assert_eq!((power.sm_clock_mhz, power.memory_clock_mhz, power.temperature_celsius), (1980, 3201, 41));
    assert_eq!(power.throttle, ["sw-power-cap"]);
    assert!(busy.stop_energy(5).is_none(), "nothing is metered any more");
    let said = busy.warnings().join("\n");
    assert!(said.contains("set CUDA_DEVICE_ORDER=PCI_BUS_ID") && !said.contains("does not list this process"), "{said}");
}

#[test]
fn a_process_that_is_not_listed_counts_what_came_since() {
    load();
    let mut idle = GpuMeter::open_first_of(Some("0")).unwrap();
    assert_eq!(idle.memory_peak(), 0, "others had 2 GiB before");
    assert!(idle.warnings()[0].contains("NVML does not list this process"), "{:?}", idle.warnings());
}

#[test]
fn doctor_lists_them_and_a_sweep_refuses_a_third() {
    let (folder, _) = library();
    let qonnx = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).env("LD_LIBRARY_PATH", folder.path());
        command.env_remove("CUDA_VISIBLE_DEVICES").output().expect("qonnx starts")
    };
    let shown = String::from_utf8(qonnx(&["doctor"]).stdout).expect("UTF-8");
    assert!(shown.contains("Idle GPU, 140 GiB, sm_90, driver 600.1") && shown.contains("Busy GPU"), "{shown}");
    let sweep = ["sweep", "benches/sweeps/two-gpus.toml", "--ep", "cuda", "--model", "fixtures/tiny-coqa", "--dry-run"];
    let asked = |devices: &str| qonnx(&[&sweep[..], &["--results", "/nonexistent/results", "--devices", devices]].concat());
    let refused = asked("0,2");
    let stderr = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--devices: there is no GPU 2, NVML lists 2, counted from 0"), "{stderr}");
    assert!(asked("0,1").status.success());
}
