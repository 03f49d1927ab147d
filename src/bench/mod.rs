//! How fast a model reads and writes: warm-up, sampling as often as a pilot asks for, summary, the grid of batch sizes and
//! prompt lengths.
//!
//! ```text
//! grid ─▶ point: allocate ─ warm-up ─▶ repeat: encode · prefill · step, step, … ─▶ Samples
//!           │                            └──── as often as the first repeats ask for ◂─┘
//!           └─ out of memory: a row that says so, and the next point
//! ```
//!
//! Sees [`Steps`](crate::generate::Steps) and a [`Clock`], so that all of it is tested on a scripted fake.

mod clock;
#[cfg(test)]
mod fake;
mod grid;
mod point;
mod prompt;
mod summary;

pub use clock::{Clock, WallClock};
pub use grid::{Progress, uncertainty, warnings, with_bandwidth};
pub use point::{Bench, Gauge};
pub use summary::{FEWEST, median, median_interval, quantile, summarize, values_for};

/// `part / whole`; none where that is no number.
pub fn fraction(part: f64, whole: f64) -> Option<f64> {
    Some(part / whole).filter(|fraction| fraction.is_finite())
}
