//! Bodies that arrive too slowly to be waited for.

use std::io::{Error, ErrorKind, Read, Result};
use std::time::{Duration, Instant};

/// Bytes a second below which a transfer is given up.
const LEAST_BYTES_PER_SECOND: f64 = 1000.0;

/// Bytes that a connection brings in `time` at least.
pub(super) fn least_bytes(time: Duration) -> u64 {
    (time.as_secs_f64() * LEAST_BYTES_PER_SECOND) as u64
}

/// A body that fails once it has brought less than a kilobyte a second for as long as a connection may be silent: one byte now
/// and then is as good as none.
pub(super) struct Paced<R> {
    inner: R,
    period: Duration,
    since: Instant,
    bytes: u64,
}

impl<R: Read> Paced<R> {
    pub(super) fn new(inner: R, period: Duration) -> Paced<R> {
        Paced { inner, period, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        let time = self.since.elapsed();
        if read == 0 || time < self.period {
            return Ok(read);
        }
        if self.bytes < least_bytes(time) {
            let what = format!("it brought {} bytes in {:.0} s", self.bytes, time.as_secs_f64());
            return Err(Error::new(ErrorKind::TimedOut, what));
        }
        (self.since, self.bytes) = (Instant::now(), 0);
        Ok(read)
    }
}
