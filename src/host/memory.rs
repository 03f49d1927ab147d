//! This process's memory, as Linux accounts for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Peaks in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peak {
    /// All resident pages, mapped files included (`VmHWM`).
    pub resident: u64,
    /// Resident pages that are not of a file (`RssAnon`), sampled.
    pub anonymous: u64,
}

/// Samples anonymous memory until it is stopped; the kernel keeps a peak of resident memory only.
pub struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    sampler: JoinHandle<()>,
}

impl Watch {
    /// Begins sampling every 10 ms.
    pub fn start() -> Watch {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sampler = thread::spawn({
            let (stop, peak) = (stop.clone(), peak.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(status("RssAnon"), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        Watch { stop, peak, sampler }
    }

    /// Ends sampling.
    pub fn stop(self) -> Peak {
        self.stop.store(true, Ordering::Relaxed);
        self.sampler.join().expect("the sampler does not panic");
        let anonymous = self.peak.load(Ordering::Relaxed).max(status("RssAnon"));
        Peak { resident: peak_resident(), anonymous }
    }
}

/// Resident memory now, bytes.
pub fn resident() -> u64 {
    status("VmRSS")
}

/// Highest resident memory so far, bytes (`VmHWM`).
pub fn peak_resident() -> u64 {
    status("VmHWM")
}

/// A field of `/proc/self/status` in bytes; 0 where the system has no such file.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_shows_in_the_peak_after_it_is_freed() {
        let watch = Watch::start();
        let before = status("RssAnon");
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        thread::sleep(Duration::from_millis(40));
        drop(block);
        let peak = watch.stop();
        assert!(peak.anonymous >= before + (60 << 20), "{peak:?} after {before}");
        assert!(peak.resident >= peak.anonymous);
    }
}
