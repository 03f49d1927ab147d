//! Words for the person at the terminal.

use std::fmt::Display;
use std::io::Write;

/// A line on stderr. Where that cannot be written to (its disk is full, its reader is gone), nobody is there to be told, and
/// the work goes on.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
