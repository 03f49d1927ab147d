//! Parses the command line, calls one pipeline function, prints the error chain once.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: no other thread may run yet.
    qonnx::runtime::disable_telemetry();
    qonnx::host::guard::quiet();
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(qonnx::pipeline::fault_of(&error).exit_code())
        }
    }
}
