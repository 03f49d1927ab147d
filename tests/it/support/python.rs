//! The Python that scripts and stock runtimes are tested with.

use std::process::Command;

/// The Python that has the packages of scripts/python-requirements.txt.
pub fn python() -> Command {
    let path = std::env::var_os("QONNX_PYTHON")
        .expect("QONNX_PYTHON is not set; run `export QONNX_PYTHON=$(scripts/python-env.sh)`, or all tests by scripts/test.sh");
    Command::new(path)
}
