//! Progress bars on stderr; hidden where stderr is no terminal, or not this program's.

use indicatif::{ProgressBar, ProgressStyle};

use super::terminal;

/// How far a stage is, for who shows it elsewhere than on this terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// `calibrate`, `budget`.
    pub what: &'static str,
    pub done: u64,
    pub all: u64,
}

/// Who hears of steps.
pub type Observe<'a> = &'a dyn Fn(Step);

/// A bar over bytes with throughput and time left.
pub fn bytes(total: u64, what: &'static str) -> ProgressBar {
    styled(total, what, "{prefix:>10} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {wide_msg}")
}

/// A bar over things that are counted.
pub fn count(total: u64, what: &'static str) -> ProgressBar {
    styled(total, what, "{prefix:>10} [{bar:32}] {pos}/{len} eta {eta} {wide_msg}")
}

/// A bar over work that is counted in no unit worth naming.
pub fn share(total: u64, what: &'static str) -> ProgressBar {
    styled(total, what, "{prefix:>10} [{bar:32}] {percent:>3} % eta {eta} {wide_msg}")
}

fn styled(total: u64, what: &'static str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates above are well formed").progress_chars("=> ");
    let bar = if terminal::is_owned() { ProgressBar::new(total) } else { ProgressBar::hidden() };
    bar.with_style(style).with_prefix(what)
}
