//! Words for the person at the terminal, where the program owns one.
//!
//! A library writes nowhere that it was not asked to: its caller hears of progress through observers and of everything else through
//! results, and the terminal is the caller's own. A program says with [`own`] that it is its terminal.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static OWNED: AtomicBool = AtomicBool::new(false);

/// For a program: from here on lines are said and bars are drawn on stderr.
pub fn own() {
    OWNED.store(true, Ordering::Relaxed);
}

/// Whether anybody has called [`own`].
pub fn is_owned() -> bool {
    OWNED.load(Ordering::Relaxed)
}

/// A line on stderr, if that is this program's. Where it cannot be written to (its disk is full, its reader is gone), nobody is
/// there to be told, and the work goes on.
pub fn say(line: impl Display) {
    if is_owned() {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}
