//! Ctrl-C ends a stage at its next safe point, so that temporary folders are removed and files are whole.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// The user asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; nothing was left behind")]
pub struct Interrupted;

/// For a program, which owns its signals; a library's caller asks with [`ask`] instead. From here on SIGINT, SIGTERM and SIGHUP set a flag that [`check`] reads; a second one ends the process at once.
pub fn install() {
    INSTALL.call_once(|| {
        let handler = || {
            if ASKED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will end the process at once and may leave a temporary folder: {error}");
        }
    });
}

/// As if the user had asked to stop.
pub fn ask() {
    ASKED.store(true, Ordering::SeqCst);
}

/// An error once the user has asked to stop.
pub fn check() -> Result<(), Interrupted> {
    if ASKED.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
}
