//! What a process is before any command: who hears its log, how many threads it may start.

use std::io::IsTerminal;

/// Most threads that a command starts at once.
pub const MOST_THREADS: usize = 1024;

/// Keeps rayon's threads within what a machine has, whatever `RAYON_NUM_THREADS` says.
pub fn bound_threads() {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse::<usize>().ok());
    if let Some(asked) = asked.filter(|&asked| asked > MOST_THREADS) {
        tracing::warn!(
            "RAYON_NUM_THREADS={asked} is more than {MOST_THREADS}, the most that are started; set it to the machine's cores"
        );
        if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(MOST_THREADS).build_global() {
            tracing::warn!("threads cannot be started: {error}");
        }
    }
}

/// Sends logs to stderr: warnings, with `-v` what is done, with `-vv` how. `RUST_LOG` overrides it.
pub fn logging(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "qonnx=info,warn",
        _ => "qonnx=debug,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say on stderr that stderr cannot be written to, and panic over that.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
