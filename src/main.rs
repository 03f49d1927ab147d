//! Parses the command line, calls one command, prints the error chain once.

mod cli;

use std::process::ExitCode;

use qonnx::host::{printable, signals, terminal};

fn main() -> ExitCode {
    // First of all: no other thread may run yet.
    qonnx::runtime::disable_telemetry();
    qonnx::host::guard::quiet();
    signals::install();
    terminal::own();
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            terminal::say(format_args!("error: {}", printable(&format!("{error:#}"))));
            ExitCode::from(cli::exit::fault_of(&error).exit_code())
        }
    }
}
