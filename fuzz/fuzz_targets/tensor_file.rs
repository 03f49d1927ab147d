#![no_main]

#[path = "../readers.rs"]
mod readers;

// A panic of a library that the program catches itself is no crash.
libfuzzer_sys::fuzz_target!(init: qonnx::host::guard::quiet(), |bytes: &[u8]| readers::run("tensor_file", bytes));
