use std::time::{Duration, Instant};

/// Tells time since some beginning.
pub trait Clock {
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
pub struct WallClock(Instant);

impl WallClock {
    /// Begins now.
    pub fn start() -> WallClock {
        WallClock(Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
