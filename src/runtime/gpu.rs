//! What NVML says about the GPU that ONNX Runtime's CUDA device 0 is: this process's memory, energy, clocks, throttling.

use std::time::Instant;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::doctor::{self, Gpu};
use crate::record::PowerRecord;

/// Meters of one GPU.
pub struct GpuMeter {
    nvml: Nvml,
    index: u32,
    /// What all processes used before this one did.
    used_before: u64,
    peak: u64,
    sees_own: bool,
    metered: Option<Metered>,
}

/// Energy since a beginning, and what was seen on the way.
struct Metered {
    started: Instant,
    millijoules: u64,
    sm_clock_mhz: u32,
    memory_clock_mhz: u32,
    celsius: u32,
    throttle: ThrottleReasons,
}

/// Why a GPU cannot be metered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeterError {
    #[error("NVML does not answer")]
    Nvml(#[from] NvmlError),
    #[error("CUDA_VISIBLE_DEVICES begins with {entry:?}, which NVML does not know")]
    UnknownDevice { entry: String },
}

/// The first device that CUDA shows to this process.
#[derive(Debug, PartialEq, Eq)]
enum Visible<'a> {
    Index(u32),
    /// Beginning of a UUID, `GPU-8932f937`.
    Uuid(&'a str),
    Unknown(&'a str),
}

fn first_visible(variable: Option<&str>) -> Visible<'_> {
    let Some(first) = variable.map(|list| list.split(',').next().unwrap_or_default().trim()) else {
        return Visible::Index(0);
    };
    match first.parse() {
        Ok(index) => Visible::Index(index),
        Err(_) if first.starts_with("GPU-") => Visible::Uuid(first),
        Err(_) => Visible::Unknown(first),
    }
}

impl GpuMeter {
    /// Finds the GPU. To be called before this process uses it: what is used then is others'.
    ///
    /// # Errors
    /// NVML is missing, or `CUDA_VISIBLE_DEVICES` names something it does not list.
    pub fn open() -> Result<GpuMeter, MeterError> {
        Self::open_first_of(visible_devices().as_deref())
    }

    /// As [`Self::open`], of the first GPU in `visible`, which is spelt like `CUDA_VISIBLE_DEVICES`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_first_of(visible: Option<&str>) -> Result<GpuMeter, MeterError> {
        let nvml = Nvml::init()?;
        let index = first_index(&nvml, visible)?;
        let used_before = nvml.device_by_index(index)?.memory_info()?.used;
        Ok(GpuMeter { nvml, index, used_before, peak: 0, sees_own: false, metered: None })
    }

    /// Its name, memory, driver and compute capability.
    ///
    /// # Errors
    /// NVML does not answer.
    pub fn gpu(&self) -> Result<Gpu, MeterError> {
        Ok(doctor::gpu(&self.nvml, self.index)?)
    }

    /// Highest memory of this process that was seen in the calls so far, bytes. ONNX Runtime's arena gives nothing back,
    /// so calls between the runs miss nothing but scratch memory of libraries.
    pub fn memory_peak(&mut self) -> u64 {
        self.memory_now();
        self.peak
    }

    /// Memory of this process, bytes; `None` where NVML does not answer.
    pub fn memory_now(&mut self) -> Option<u64> {
        let (used, is_own) = self.memory().ok()?;
        self.peak = self.peak.max(used);
        self.sees_own |= is_own;
        Some(used)
    }

    /// This process's memory; where NVML does not list this process, as in containers that hide process ids, what is used
    /// more than before.
    fn memory(&self) -> Result<(u64, bool), NvmlError> {
        let device = self.device()?;
        let me = std::process::id();
        let mut own = None;
        for process in device.running_compute_processes()? {
            if let (true, UsedGpuMemory::Used(bytes)) = (process.pid == me, process.used_gpu_memory) {
                own = Some(own.unwrap_or(0) + bytes);
            }
        }
        match own {
            Some(own) => Ok((own, true)),
            None => Ok((device.memory_info()?.used.saturating_sub(self.used_before), false)),
        }
    }

    /// What a reader of the numbers has to know.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.sees_own {
            warnings.push(
                "device memory is what all processes used less what they used before: NVML does not list this process".to_owned(),
            );
        }
        let ordered = std::env::var("CUDA_DEVICE_ORDER").is_ok_and(|order| order == "PCI_BUS_ID");
        if !ordered && self.devices_differ().unwrap_or(false) {
            warnings.push(
                "NVML may have metered another GPU than CUDA's first, their order differs; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
                    .to_owned(),
            );
        }
        warnings
    }

    /// CUDA sorts by speed, NVML by bus: the same where all are of one kind.
    fn devices_differ(&self) -> Result<bool, NvmlError> {
        let names = (0..self.nvml.device_count()?).map(|index| self.nvml.device_by_index(index)?.name());
        let names = names.collect::<Result<Vec<_>, _>>()?;
        Ok(names.iter().any(|name| *name != names[0]))
    }

    /// Begins to meter energy; false where the GPU has no counter.
    pub fn start_energy(&mut self) -> bool {
        let begun = self.device().and_then(|device| device.total_energy_consumption());
        self.metered = begun.ok().map(|millijoules| Metered {
            started: Instant::now(),
            millijoules,
            sm_clock_mhz: 0,
            memory_clock_mhz: 0,
            celsius: 0,
            throttle: ThrottleReasons::empty(),
        });
        self.metered.is_some()
    }

    /// Looks at clocks, temperature and throttling; to be called while the GPU is busy.
    pub fn observe(&mut self) {
        let Some(mut metered) = self.metered.take() else { return };
        if let Ok(device) = self.device() {
            let clock = |kind| device.clock_info(kind).unwrap_or(0);
            metered.sm_clock_mhz = clock(Clock::SM);
            metered.memory_clock_mhz = clock(Clock::Memory);
            metered.celsius = device.temperature(TemperatureSensor::Gpu).unwrap_or(metered.celsius);
            metered.throttle |= device.current_throttle_reasons().unwrap_or(ThrottleReasons::empty());
        }
        self.metered = Some(metered);
    }

    /// Energy since [`Self::start_energy`] over `tokens` tokens.
    pub fn stop_energy(&mut self, tokens: u64) -> Option<PowerRecord> {
        let metered = self.metered.take()?;
        let now = self.device().and_then(|device| device.total_energy_consumption()).ok()?;
        let joules = now.saturating_sub(metered.millijoules) as f64 / 1e3;
        Some(PowerRecord {
            joules_per_token: joules / tokens.max(1) as f64,
            mean_watts: joules / metered.started.elapsed().as_secs_f64(),
            sm_clock_mhz: metered.sm_clock_mhz,
            memory_clock_mhz: metered.memory_clock_mhz,
            temperature_celsius: metered.celsius,
            throttle: reasons(metered.throttle),
        })
    }

    fn device(&self) -> Result<Device<'_>, NvmlError> {
        self.nvml.device_by_index(self.index)
    }
}

/// What NVML says of the GPU that CUDA shows first to this process.
///
/// # Errors
/// As [`GpuMeter::open`].
pub fn visible_gpu() -> Result<Gpu, MeterError> {
    GpuMeter::open()?.gpu()
}

/// GPUs of this machine.
///
/// # Errors
/// NVML is missing.
pub fn gpu_count() -> Result<u32, MeterError> {
    Ok(Nvml::init()?.device_count()?)
}

fn visible_devices() -> Option<String> {
    std::env::var("CUDA_VISIBLE_DEVICES").ok()
}

/// NVML's number of the GPU that CUDA shows first: CUDA counts those that are visible, NVML all of the machine.
fn first_index(nvml: &Nvml, visible: Option<&str>) -> Result<u32, MeterError> {
    let unknown = |entry: &str| MeterError::UnknownDevice { entry: entry.to_owned() };
    match first_visible(visible) {
        Visible::Index(index) if index < nvml.device_count()? => Ok(index),
        Visible::Index(index) => Err(unknown(&index.to_string())),
        Visible::Uuid(start) => with_uuid(nvml, start)?.ok_or_else(|| unknown(start)),
        Visible::Unknown(entry) => Err(unknown(entry)),
    }
}

fn with_uuid(nvml: &Nvml, start: &str) -> Result<Option<u32>, NvmlError> {
    for index in 0..nvml.device_count()? {
        if nvml.device_by_index(index)?.uuid()?.starts_with(start) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// NVML's names, `sw-power-cap`. That the GPU had a moment's rest between two runs slows nothing.
fn reasons(reasons: ThrottleReasons) -> Vec<String> {
    let active = reasons.difference(ThrottleReasons::GPU_IDLE);
    active.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_visible_device_is_the_one_that_is_metered() {
        assert_eq!(first_visible(None), Visible::Index(0));
        assert_eq!(first_visible(Some("3,0")), Visible::Index(3));
        assert_eq!(first_visible(Some(" GPU-8932f937,1")), Visible::Uuid("GPU-8932f937"));
        assert_eq!(first_visible(Some("MIG-1")), Visible::Unknown("MIG-1"));
        assert_eq!(first_visible(Some("")), Visible::Unknown(""));
        assert_eq!(first_visible(Some("-1")), Visible::Unknown("-1"));
    }

    #[test]
    fn reasons_have_nvml_s_names() {
        let active = ThrottleReasons::GPU_IDLE | ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_SLOWDOWN;
        assert_eq!(reasons(active), ["sw-power-cap", "hw-slowdown"]);
        assert_eq!(reasons(ThrottleReasons::empty()), [""; 0]);
    }
}
