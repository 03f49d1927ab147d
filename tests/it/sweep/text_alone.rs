//! A sweep that measures perplexity and KL alone.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{MODEL, Place, report, succeed, text};

#[test]
fn a_text_alone_is_measured_compared_and_reported() {
    const TEXT: &str =
        "experiments = [\"int4_rtn_g32\"]\n[measure]\ntext = { file = \"MODEL/perplexity.txt\", window = 128, windows = 2 }";
    let place = Place::new(TEXT);
    // Where the baseline's artifact is not here there is no KL from it, which the sweep mends.
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        let text = ["--no-bench", "--no-coqa", "--window", "128", "--windows", "2", "--json", "--text"];
        command.args(["run", "int4_rtn_g32", "--model", MODEL]).args(text).arg(format!("{MODEL}/perplexity.txt")).args(more);
        command.arg("--results").arg(place.at("results")).output().expect("qonnx starts")
    };
    let first = run(&[]);
    succeed(&first);
    let tasks = |record: &Value| -> Vec<String> {
        record["evaluation"].as_array().expect("a list").iter().map(|task| task["task"].to_string()).collect()
    };
    assert_eq!(tasks(&report(&first)), ["\"perplexity\""]);
    let states = || -> Vec<String> {
        let plan = report(&place.run(&["--dry-run", "--json"]));
        plan["experiments"].as_array().expect("a list").iter().map(|row| row["state"].to_string()).collect()
    };
    assert_eq!(states(), ["\"to do\"", "\"not compared, again\""]);
    let output = place.run(&["--report"]);
    succeed(&output);
    let [baseline, other] = ["fp16_baseline", "int4_rtn_g32"].map(|name| place.record(name));
    assert_eq!(
        (tasks(&baseline), tasks(&other)),
        (vec!["\"perplexity\"".into()], vec!["\"perplexity\"".into(), "\"kl\"".into()])
    );
    assert_eq!((&other["schema"], &other["evaluation"][1]["baseline"]["id"]), (&2.into(), &baseline["id"]));
    let [perplexity, kl] = [0, 1].map(|task| other["evaluation"][task]["scores"][0]["value"].as_f64().expect("a number"));
    assert!(perplexity > 1.0 && kl > 0.0, "{other}");
    assert_eq!(other["evaluation"][1]["counts"], serde_json::json!({ "tokens": 254, "windows": 2 }));
    let table = text(&output.stdout);
    let shown = [format!("{perplexity:.3}"), format!("{kl:.5}"), "perplexity".to_owned(), "CoQA was not asked".to_owned()];
    assert!(shown.iter().all(|part| table.contains(part)) && !table.contains("F1 − baseline"), "{table}");
    let written = fs::read_to_string(place.at("results/REPORT.md")).expect("it was written");
    assert!(written.contains("Accuracy against compression is not drawn: CoQA was not asked"), "{written}");
    assert!(
        !place.at("results/figures/accuracy_vs_compression.svg").exists() && !place.at("results/int4_rtn_g32.jsonl").exists()
    );
    assert_eq!(states(), ["\"done\"", "\"done\""]);
    let again = report(&place.run(&["--json"]))["experiments"][1].clone();
    assert_eq!(
        (&again["state"], again["perplexity"].as_f64(), again["kl_mean"].as_f64()),
        (&"done before".into(), Some(perplexity), Some(kl))
    );
}
