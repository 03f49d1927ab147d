//! How much of the machine's memory is free, as Linux says it.

use std::fs;

/// Bytes that this process may still take before something is swapped or ended: of the machine, and of the control group
/// it runs in. None where the system does not say.
pub(super) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemAvailable"));
    [machine, in_group()].into_iter().flatten().min()
}

/// A line `name:   123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What the limit of a control group (version 2) leaves, cached files counted as free: the kernel drops them.
fn in_group() -> Option<u64> {
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (most, now, stat) = (number("memory.max")?, number("memory.current")?, read("memory.stat")?);
    let cached = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(most.saturating_sub(now.saturating_sub(cached("inactive_file ") + cached("active_file "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_kibibytes() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(field(text, "MemAvailable"), Some(2 << 20));
        assert_eq!(field(text, "Mem"), None);
        assert!(available().is_none_or(|bytes| bytes > 0));
    }
}
