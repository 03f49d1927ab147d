//! Faults that an attack on reliability and security once found stay away: `tests/attack/attack.py`, an attack a test.

use crate::support::{python, tools};

fn withstood(name: &str) {
    if !tools::has("QONNX_PYTHON") || !tools::finds("strace") || !tools::finds("bindfs") {
        return;
    }
    let root = env!("CARGO_MANIFEST_DIR");
    let mut attack = python::python();
    attack.arg(format!("{root}/tests/attack/attack.py")).arg(name);
    attack.env("QONNX", env!("CARGO_BIN_EXE_qonnx")).env("FIXTURE", format!("{root}/fixtures/tiny-coqa"));
    let output = attack.output().expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

macro_rules! attacks {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            withstood(stringify!($name));
        })+

        /// One that the script has and this list has not would never be tried.
        #[test]
        fn every_attack_is_here() {
            let script = include_str!("../attack/attack.py");
            let there = script.split("@attack\ndef ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name);
            assert_eq!(there.collect::<Vec<_>>(), [$(stringify!($name)),+]);
        }
    };
}

attacks! {
    truncation padding predictions predictions_shared tokenizer_panics tokenizer_unread config_twice layers jinja glob_panic
    verify_panic verify_nothing verify_outside manifest_edit overwrite fsync killed_leaves sigbus kept_layer nfs telemetry
    stderr_full home_unset escape gz_bomb hub baseline_crash plan_default
}
