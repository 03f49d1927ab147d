//! Ctrl-C ends a stage at its next safe point, so that temporary folders are removed and files are whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// The user asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; nothing was left behind")]
pub struct Interrupted;

/// For a program, which owns its signals; a library's caller asks with [`ask`] or a [`CancelToken`] instead. From here on SIGINT,
/// SIGTERM and SIGHUP set a flag that [`check`] reads; a second one ends the process at once.
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

/// A wish to stop that a caller keeps one end of: work that has the other looks at its safe points. It stops for [`ask`] as well.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Option<Arc<Wish>>);

#[derive(Debug, Default)]
struct Wish {
    is_cancelled: AtomicBool,
    /// Whose cancellation is this one's too.
    parent: CancelToken,
}

impl CancelToken {
    /// One that nobody can cancel.
    pub const NEVER: CancelToken = CancelToken(None);

    /// A token whose copies are all cancelled together.
    pub fn new() -> CancelToken {
        CancelToken::NEVER.child()
    }

    /// A token that is cancelled with this one, and can be alone.
    pub fn child(&self) -> CancelToken {
        CancelToken(Some(Arc::new(Wish { is_cancelled: AtomicBool::new(false), parent: self.clone() })))
    }

    /// Asks whoever has a copy to stop.
    pub fn cancel(&self) {
        if let Some(wish) = &self.0 {
            wish.is_cancelled.store(true, Ordering::SeqCst);
        }
    }

    /// An error once it is cancelled.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<(), Interrupted> {
        match &self.0 {
            Some(wish) if wish.is_cancelled.load(Ordering::SeqCst) => Err(Interrupted),
            Some(wish) => wish.parent.check(),
            None => check(),
        }
    }
}

/// Tokens are equal where one wish cancels both.
impl PartialEq for CancelToken {
    fn eq(&self, other: &CancelToken) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for CancelToken {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_cancelled_with_its_copies_and_no_other() {
        let (token, other) = (CancelToken::new(), CancelToken::new());
        let copy = token.clone();
        assert!(copy.check().is_ok() && token == copy && token != other);
        token.cancel();
        assert!(copy.check().is_err());
        CancelToken::NEVER.cancel();
        assert!(other.child().check().is_ok() && token.child().check().is_err());
        let child = other.child();
        child.cancel();
        assert!(child.check().is_err());
        assert!(other.check().is_ok() && CancelToken::NEVER.check().is_ok() && CancelToken::default() == CancelToken::NEVER);
    }
}
