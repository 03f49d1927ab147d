//! `results/lab/honest_timing.py`: that it measures both sides and how it judges. Nothing here asserts how long anything takes.

use std::process::Output;

use python::python;
use qonnx::recipe::FormatName;
use qonnx::tensor::DType;
use serde_json::Value;

use crate::support::{python, tiny, tools};

fn script(arguments: &[&str]) -> Output {
    python().arg(tiny::root().join("results/lab/honest_timing.py")).args(arguments).output().expect("QONNX_PYTHON can be run")
}

fn both(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn processes_that_take_turns_measure_every_point() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("int4");
    tiny::export(&tiny::request(&tiny::model(), tiny::bits(FormatName::Int4), DType::F32), &artifact);
    let report = folder.path().join("report.json");
    let common = [
        env!("CARGO_BIN_EXE_qonnx"),
        artifact.to_str().unwrap(),
        "--gen",
        "8",
        "--repeats",
        "6",
        "--threads",
        "1",
        "--slice",
        "0.1",
    ];
    let grid = ["--batch", "2,1", "--prompt", "16", "--turns", "2", "--json", report.to_str().unwrap()];
    let output = script(&[&common[..], &grid].concat());
    let (said, errors) = both(&output);
    // Two turns decide nothing.
    assert_eq!(output.status.code(), Some(3), "{said}{errors}");
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let names = rows.iter().map(|row| (row["batch"].as_u64().unwrap(), row["what"].as_str().unwrap()));
    assert_eq!(names.collect::<Vec<_>>(), [(1, "prefill"), (1, "decode"), (2, "prefill"), (2, "decode")]);
    for row in rows {
        assert_eq!(row["ratio_of_each_turn"].as_array().unwrap().len(), 2, "{row}");
        assert_eq!(row["verdict"], "undecided");
        assert!(["qonnx_ms", "stock_ms", "naive_ms"].iter().all(|side| row[side].as_f64().unwrap() > 0.0), "{row}");
    }

    let output = script(&[&common[..], &["--batch", "1", "--prompt", "100000", "--turns", "1"]].concat());
    let (said, errors) = both(&output);
    assert_eq!(output.status.code(), Some(1), "{said}{errors}");
    assert!(errors.contains("exit code 2; what it said is above") && errors.contains("take 100008 positions"), "{errors}");
}

/// Runs a Python program in which `turns(first, second)` are two processes that take turns of 50 ms at one point, each writing
/// a text to stderr and then living for some seconds; ends with a line about children that are left.
fn take_turns(program: &str) -> Output {
    let before = "import os, sys\n\
                  sys.path.insert(0, sys.argv[1])\n\
                  from take_turns import take_turns\n\
                  def side(text, seconds, code=0):\n    \
                      program = f'import sys, time; sys.stderr.buffer.write({text!r}); sys.stderr.flush(); time.sleep({seconds}); print(7); sys.exit({code})'\n    \
                      return [sys.executable, '-c', program]\n\
                  POINT = b'point 1 of 1: batch 1\\n'\n\
                  turns = lambda first, second: take_turns([first, second], 0.05, 1)\n\
                  try:\n    ";
    let after = "\nfinally:\n    \
                 try:\n        os.waitpid(-1, os.WNOHANG), print('a child is left')\n    \
                 except ChildProcessError:\n        print('no child is left')";
    let program = format!("{before}{program}{after}");
    python().args(["-c", &program]).arg(tiny::root().join("results/lab")).output().expect("QONNX_PYTHON can be run")
}

#[test]
fn both_sides_are_heard_and_none_is_left() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let (said, errors) = both(&take_turns("print(turns(side(POINT, 0.3), side(b'\\xff at work\\n' + POINT, 0.3)))"));
    assert_eq!(said, "[b'7\\n', b'7\\n']\nno child is left\n", "{errors}");
    assert!(errors.contains("at work"), "{errors}");
}

#[test]
fn a_side_that_fails_or_names_no_point_ends_the_run() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let cases = [("b'', 0.1", "named 0 of 1 points on stderr"), ("POINT, 0.1, code=5", "returned non-zero exit status 5")];
    for (second, expected) in cases {
        let output = take_turns(&format!("turns(side(POINT, 600), side({second}))"));
        let (said, errors) = both(&output);
        assert_eq!((output.status.code(), said.as_str()), (Some(1), "no child is left\n"), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn turns_of_several_runs_are_judged_together() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let first = "A on cuda, 3 turns each, medians in ms; bar ±3%\n\
                 \x20   1    128  prefill     3.1     3.9   0.794   1.006      7.194  0.985 0.860 0.817\n\
                 \x20  16    128  prefill     3.1     3.9   0.990               within      1.006      7.194  1.010 0.990 1.020\n\
                 \x20  16    128  decode      3.1     3.9   0.990               undecided   1.006      7.194  1.042 1.036 1.040\n";
    let second = "A on cuda, 4 turns each, medians in ms; bar ±3%\n\
                  \x20   1    128  prefill     3.1     3.9   1.050   1.006      7.194  1.240 1.029 1.028 0.990\n\
                  \x20  16    128  prefill     3.1     3.9   0.990               undecided   1.006      7.194  1.000 0.970 1.005\n\
                  \x20  16    128  decode      3.1     3.9   0.990               undecided   1.006      7.194  1.041 1.038 1.050\n\
                  A on cpu, 6 turns each, medians in ms; bar ±0.5%\n\
                  \x20   1    128  prefill     3.1     3.9   1.010               undecided   1.006      7.194  1.004 1.003 1.002 1.004 1.001 1.006";
    let (first, second) = (file("first", first), file("second", second));
    let output = script(&["--over", &first, &second]);
    let (said, errors) = both(&output);
    assert_eq!(output.status.code(), Some(3), "{said}{errors}");
    let rows: Vec<String> = said.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    // Of six or seven turns 2 · (½)⁶ = 3.1 % or 1.6 % lie outside the whole range, and without its ends more than 5 %.
    assert_eq!(
        rows,
        [
            "A on cuda 1 128 prefill 7 0.990 0.817-1.240 undecided 0.922 to 1.028",
            "A on cuda 16 128 prefill 6 1.002 0.970-1.020 within 0.992 to 1.009",
            "A on cuda 16 128 decode 6 1.040 1.036-1.050 beyond 1.038 to 1.042",
            "A on cpu 1 128 prefill 6 1.003 1.001-1.006 undecided 1.002 to 1.004",
        ]
    );

    let output = script(&["--over", &file("empty", "turn 1 of 3 done\n")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(both(&output).1.contains("no output of honest_timing.py in"));
    let output = script(&["--over", &first, &first]);
    assert_eq!(output.status.code(), Some(1));
    assert!(both(&output).1.contains("a file is named twice"));
}

#[test]
fn the_committed_runs_can_be_judged() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    for file in ["honest-runs-1.txt", "honest-runs-2.txt"] {
        let path = tiny::root().join("results/gpu-bench").join(file);
        let output = script(&["--over", path.to_str().unwrap()]);
        let (said, errors) = both(&output);
        // Prefill and decoding at batch 1 and 16, with a CUDA graph and without.
        assert_eq!(said.lines().count(), 1 + 8, "{said}{errors}");
    }
}

/// onnxruntime reads nothing that lies outside the artifact's folder, and a large data file may: the stock loop hands it over.
#[test]
fn the_stock_loop_drives_an_artifact_whose_data_lies_elsewhere() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (artifact, graph) = (folder.path().join("int4"), folder.path().join("graph.onnx"));
    tiny::export(&tiny::request(&tiny::model(), tiny::bits(FormatName::Int4), DType::F32), &artifact);
    std::fs::create_dir(folder.path().join("disk")).unwrap();
    std::fs::rename(artifact.join("model.onnx.data"), folder.path().join("disk/weights.bin")).unwrap();
    std::os::unix::fs::symlink("../disk/weights.bin", artifact.join("model.onnx.data")).unwrap();
    std::fs::write(&graph, qonnx::runtime::decode_graph(&artifact).unwrap()).unwrap();
    for naive in [&["--naive"][..], &[]] {
        let mut loop_of = python();
        loop_of.arg(tiny::root().join("results/lab/stock_loop.py")).arg(&artifact).arg(&graph).args(naive);
        let output = loop_of.args(["--batch", "1", "--prompt", "8", "--gen", "2", "--repeats", "1"]).output().unwrap();
        let (said, errors) = both(&output);
        assert!(output.status.success() && said.contains("\"decode\""), "{errors}");
    }
}
