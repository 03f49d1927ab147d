//! Whether an error is that of a disk without room.

/// Whether the disk, the quota or a limit on the size of files is what stands in the way.
pub fn is_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let is_full = |kind| matches!(kind, StorageFull | QuotaExceeded | FileTooLarge);
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        io.or(cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind)).is_some_and(is_full)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen_through_what_reports_it() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let record = crate::record::RunRecordError::Unwritable { path: "r".into(), source: full() };
        assert!(is_full(&anyhow::Error::from(record).context("stage")));
        assert!(is_full(&anyhow::Error::from(full())));
        assert!(!is_full(&anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::NotFound))));
    }
}
