//! Programs that some tests need beside this one. `scripts/test.sh` gets them all and says by `QONNX_TESTS=all` that a missing
//! one is a failure; a plain `cargo test` says what it did not run.

use std::env;
use std::io::Write;

/// Whether the variable that names a tool is set.
///
/// # Panics
/// Where it is not and every test is to run.
pub fn has(variable: &str) -> bool {
    is_to_run(env::var_os(variable).is_some(), &format!("{variable} is not set; run all tests by scripts/test.sh"))
}

/// Whether a program is in the search path; as [`has`].
///
/// # Panics
/// As [`has`].
pub fn finds(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|folder| folder.join(program).is_file());
    is_to_run(found, &format!("{program} is not here; run all tests by scripts/test.sh"))
}

fn is_to_run(is_there: bool, why: &str) -> bool {
    let all = env::var("QONNX_TESTS").is_ok_and(|which| which == "all");
    assert!(is_there || !all, "{why}");
    if !is_there {
        not_run(why);
    }
    is_there
}

/// Says that a test did not run, and why; not by a macro, whose words are shown only where a test fails.
pub fn not_run(why: &str) {
    let said = format!("NOT RUN: {}: {why}\n", std::thread::current().name().unwrap_or("a test"));
    std::io::stderr().write_all(said.as_bytes()).expect("stderr is there");
}
