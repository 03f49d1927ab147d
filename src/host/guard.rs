//! Panics of libraries that were given foreign data, taken for the refusals that they should have been.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What `call` returns, or what its panic says. For calls into libraries only: nothing of ours may be left half done by
/// them.
///
/// # Errors
/// The message of the panic.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let before = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(before);
    result.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        said.unwrap_or("it contradicts itself").to_owned()
    })
}

/// Keeps the panics that [`guarded`] catches off stderr, where they would stand beside the sentence made of them. For
/// programs; a library leaves the process's hook alone.
pub fn quiet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !INSIDE.get() {
            usual(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(guarded(|| 3), Ok(3));
        assert_eq!(guarded(|| panic!("as {}", "said")), Err::<(), _>("as said".to_owned()));
        assert_eq!(guarded(|| std::panic::panic_any(7)), Err::<(), _>("it contradicts itself".to_owned()));
        assert!(!INSIDE.get());
    }
}
