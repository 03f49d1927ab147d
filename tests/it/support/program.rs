//! The program as it is started from a command line.

use std::process::{Command, Output};

use super::tiny;

/// What came of `qonnx ARGUMENTS`.
pub fn qonnx(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qonnx")).args(arguments).output().expect("qonnx starts")
}

/// What it says on stdout, once it has succeeded.
#[track_caller]
pub fn done(arguments: &[&str]) -> String {
    let output = qonnx(arguments);
    let [said, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    // `verify` says on stdout what is wrong.
    assert!(output.status.success(), "{arguments:?}: {said}{errors}");
    said
}

/// What it says on stderr, once it has refused with exit code 2.
#[track_caller]
pub fn refused(arguments: &[&str]) -> String {
    let output = qonnx(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The embedded model, as an argument.
pub fn model() -> String {
    tiny::model().display().to_string()
}
