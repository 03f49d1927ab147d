//! ONNX Runtime's telemetry stays off.
//!
//! From version 1.29 on the library has opened its uploader, and written a device id and a database of events below the
//! user's home, before `DisableTelemetryEvents` can be called. What it does look at first is this variable.

const SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// Switches ONNX Runtime's telemetry off for this process and those that it starts.
///
/// A program calls it first, before it has a second thread; [`Engine`](super::Engine) and everything else that opens the
/// library call it again, so that nothing is sent where that was forgotten.
pub fn disable_telemetry() {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "1") {
        return;
    }
    // SAFETY: Rust's own readers of the environment take the lock that this writer takes. Unsafe is that C code of another
    // thread may read it without the lock, in the instant of the first call. First in main there is no other thread. From the
    // opening of the library it is called under that opening's lock and before any of its threads exist; a program that by
    // then runs C threads which read the environment calls it first in its own main, as the text above says.
    unsafe { std::env::set_var(SWITCH, "1") };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In processes of their own, which begin with another value or with none.
    #[test]
    fn the_switch_is_set_whatever_it_was() {
        const CHILD: &str = "QONNX_TELEMETRY_OF_A_CHILD";
        if std::env::var_os(CHILD).is_some() {
            disable_telemetry();
            println!("child: {:?}", std::env::var(SWITCH));
            return;
        }
        for before in [None, Some("0"), Some(""), Some("true"), Some("1")] {
            let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
            command.args(["--exact", "--nocapture", "runtime::telemetry::tests::the_switch_is_set_whatever_it_was"]);
            command.env(CHILD, "1").env_remove(SWITCH).envs(before.map(|value| (SWITCH, value)));
            let output = command.output().expect("it starts again");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("child: Ok(\"1\")"), "{before:?}: {said}");
        }
    }
}
