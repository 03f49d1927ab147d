//! `qonnx report` on a folder of records: what it writes, and what it refuses.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use qonnx::record::{COQA_EM, COQA_F1, KL_MEAN, RunRecord, TEXT_PERPLEXITY};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/records")
}

/// A copy of the fixture's records, in `results/` of a folder of its own.
fn copied() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    fs::create_dir(&results).unwrap();
    for entry in fs::read_dir(fixture()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, results.join(path.file_name().unwrap())).unwrap();
    }
    (folder, results)
}

fn report(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::cargo_bin("qonnx").unwrap().arg("report").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn records() -> HashMap<String, RunRecord> {
    let paths = fs::read_dir(fixture()).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| RunRecord::load(&path).unwrap()).map(|record| (record.experiment_name.clone(), record)).collect()
}

/// Cells of the lines of the Markdown table under `heading`, by the header's names.
fn table(markdown: &str, heading: &str) -> Vec<HashMap<String, String>> {
    let section = markdown.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = section.lines().filter(|line| line.starts_with('|'));
    let head = cells(lines.next().unwrap());
    lines.skip(1).map(|line| head.iter().cloned().zip(cells(line)).collect()).collect()
}

/// A number as a table shows it, `48.6 MB` in bytes, is `value` to three digits.
#[track_caller]
fn close(shown: &str, value: f64) {
    let mut parts = shown.split(' ');
    let number: f64 = parts.next().unwrap().replace(',', "").parse().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let unit = match parts.next() {
        Some("GB") => 1e9,
        Some("MB") => 1e6,
        Some("kB") => 1e3,
        _ => 1.0,
    };
    assert!((number * unit / value - 1.0).abs() < 0.006, "{shown}, expected {value}");
}

#[test]
fn everything_is_written_beside_the_records() {
    let (_folder, results) = copied();
    let (code, out, error) = report(&[results.to_str().unwrap(), "--json"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((summary["experiments"].as_u64(), summary["failed"].as_u64()), (Some(17), Some(1)));
    assert_eq!(summary["findings"][0]["records"], json!(["awq_gptq_4bit_g128_results.json", "fp16_baseline_results.json"]));
    let figures = ["accuracy_vs_compression", "memory_comparison", "latency_comparison", "throughput_vs_batch", "summary_table"];
    let drawn = figures.iter().flat_map(|name| ["svg", "png"].map(|ending| format!("figures/{name}.{ending}")));
    let expected: Vec<String> = drawn.chain(["REPORT.md", "report.html", "report.pdf"].map(str::to_owned)).collect();
    assert_eq!(summary["files"], json!(expected));
    for name in expected {
        assert!(fs::metadata(results.join(&name)).unwrap().len() > 1000, "{name}");
    }
    let again = report(&[results.to_str().unwrap(), "--json"]).1;
    assert_eq!(again, out, "a report is not read as a record");
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let written = ["a", "b"].map(|name| {
        let out = folder.path().join(name);
        assert_eq!(report(&[fixture().to_str().unwrap(), "-o", out.to_str().unwrap()]).0, Some(0));
        ["report.pdf", "report.html", "REPORT.md", "figures/summary_table.png"].map(|file| fs::read(out.join(file)).unwrap())
    });
    assert!(written[0] == written[1]);
}

#[test]
fn numbers_in_the_tables_are_the_records() {
    let (_folder, results) = copied();
    assert_eq!(report(&[results.to_str().unwrap()]).0, Some(0));
    let markdown = fs::read_to_string(results.join("REPORT.md")).unwrap();
    let records = records();
    let plain = |text: &str| text.replace('−', "-").replace(['×', ','], "");
    let name =
        |line: &HashMap<String, String>| line["Record"].split('`').nth(1).unwrap().trim_end_matches("_results.json").to_owned();
    let summary = table(&markdown, "Summary");
    assert_eq!(summary.len(), records.len());
    for line in &summary {
        let record = &records[&name(line)];
        let evaluation = &record.evaluation;
        let Some(f1) = evaluation.score(COQA_F1) else {
            assert!(line["Experiment"].contains("**failed: export**"), "{line:?}");
            assert_eq!((line["F1"].as_str(), line["Size on disk"].as_str()), ("–", "–"));
            continue;
        };
        assert_eq!(line["F1"], format!("{:.3}", f1.value));
        assert_eq!(line["EM"], format!("{:.3}", evaluation.value(COQA_EM).unwrap()));
        assert_eq!(line["Bits per weight"], format!("{:.2}", record.sizes.unwrap().bits_per_weight_linears));
        let sizes = record.sizes.unwrap();
        close(&line["Size on disk"], sizes.model_bytes as f64);
        if let Some(paired) = &f1.paired {
            assert_eq!(plain(&line["ΔF1"]), format!("{:+.3}", paired.difference));
            let [low, high] = paired.ci95;
            assert_eq!(line["95 % interval of ΔF1"].replace('−', "-"), format!("[{low:+.3}, {high:+.3}]"));
        }
        for (column, name) in [("Perplexity", TEXT_PERPLEXITY), ("KL, nats", KL_MEAN)] {
            match evaluation.value(name) {
                Some(value) if value.abs() < 5e-4 => assert_eq!(line[column], "0.0000"),
                Some(value) => close(&line[column], value),
                None => assert_eq!(line[column], "–"),
            }
        }
    }
    for line in table(&markdown, "Memory and loading") {
        let record = &records[&name(&line)];
        let (Some(bench), Some(export)) = (&record.benchmarks, &record.export) else { continue };
        close(&line["On disk"], record.sizes.unwrap().model_bytes as f64);
        close(&line["Weights in memory"], bench.weights_memory_bytes.unwrap() as f64);
        close(&line["Peak resident"], bench.peak_rss_bytes as f64);
        close(&line["Load, s"], bench.load_seconds);
        close(&line["Export, s"], export.seconds);
    }
    let points = table(&markdown, "Every measured point");
    assert_eq!(points.len(), 15 * 6);
    for line in points.iter().filter(|line| line["Prefill"] != "out of memory") {
        let bench = records[&name(line)].benchmarks.as_ref().unwrap();
        let at = (line["Batch"].parse().unwrap(), line["Prompt"].parse().unwrap());
        let point = bench.points.iter().find(|point| (point.batch, point.prompt_tokens) == at).unwrap();
        let qonnx::record::Outcome::Measured(measured) = &point.outcome else { panic!("{line:?}") };
        let shown: f64 = plain(&line["Decode, tokens/s"]).parse().unwrap();
        assert!((shown / measured.decode_tokens_per_second - 1.0).abs() < 0.005, "{line:?}");
        let shown: f64 = plain(line["Prefill"].split(' ').next().unwrap()).parse().unwrap();
        assert!((shown / measured.prefill_ms.p50 - 1.0).abs() < 0.005, "{line:?}");
        close(&line["Decode, per token"], measured.decode_ms_per_token.p50);
        if let Some(fraction) = measured.bandwidth_fraction {
            assert_eq!(line["Bandwidth"], format!("{:.0} %", 100.0 * fraction));
        }
    }
    assert_eq!(points.iter().filter(|line| line["Prefill"] == "out of memory").count(), 1);
}

/// What the HTML table sorts by is the record's number as it stands there.
#[test]
fn numbers_in_the_html_table_are_the_records() {
    let (_folder, results) = copied();
    assert_eq!(report(&[results.to_str().unwrap()]).0, Some(0));
    let html = fs::read_to_string(results.join("report.html")).unwrap();
    let records = records();
    let lines: Vec<&str> = html.split("<tr data-row=\"").skip(1).map(|line| line.split("</tr>").next().unwrap()).collect();
    assert_eq!(lines.len(), records.len());
    for line in lines {
        let file = line.split("href=\"").nth(1).unwrap().split('"').next().unwrap();
        let record = &records[file.trim_end_matches("_results.json")];
        let values: Vec<f64> =
            line.split("data-value=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        let Some(f1) = record.evaluation.score(COQA_F1) else { continue };
        let sizes = record.sizes.unwrap();
        assert_eq!(values[1..4], [sizes.bits_per_weight_linears, sizes.model_bytes as f64, f1.value], "{file}");
        if let Some(paired) = &f1.paired {
            assert_eq!(values[4..6], [paired.difference, paired.ci95[0]], "{file}");
        }
    }
}

/// The study of the embedded model is committed as version 1 wrote it; written again it is of version 2.
#[test]
fn records_of_version_1_make_the_report_that_the_same_of_version_2_make() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    [&first, &second].into_iter().for_each(|results| fs::create_dir(results).unwrap());
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("results/tiny-coqa")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with("_results.json") {
            fs::copy(&path, first.join(path.file_name().unwrap())).unwrap();
            let written = RunRecord::load(&path).unwrap().write(&second).unwrap();
            let schema = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap()["schema"].clone();
            assert_eq!([schema(&path), schema(&written)], [1, 2]);
        }
    }
    let [first, second] = [first, second].map(|results| {
        assert_eq!(report(&[results.to_str().unwrap()]).0, Some(0));
        ["REPORT.md", "report.html", "report.pdf", "figures/accuracy_vs_compression.svg"]
            .map(|file| fs::read(results.join(file)).unwrap())
    });
    assert!(first == second);
}

#[test]
fn without_coqa_the_report_says_what_it_cannot_draw() {
    let (_folder, results) = copied();
    for path in fs::read_dir(&results).unwrap().map(|entry| entry.unwrap().path()) {
        edit(&path, |record| record["evaluation"].as_array_mut().unwrap().retain(|task| task["task"] != "coqa"));
    }
    let (code, out, error) = report(&[results.to_str().unwrap(), "--json"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let summary: Value = serde_json::from_str(&out).unwrap();
    let files = summary["files"].as_array().unwrap();
    assert!(files.len() == 11 && !files.iter().any(|file| file.as_str().unwrap().contains("accuracy")), "{files:?}");
    assert!(!results.join("figures/accuracy_vs_compression.svg").exists());
    let undrawn = "Accuracy against compression is not drawn: CoQA was not asked, so no experiment has an F1.";
    let markdown = fs::read_to_string(results.join("REPORT.md")).unwrap();
    assert!(markdown.contains(&format!("## Figures\n\n{undrawn}")) && !markdown.contains("accuracy_vs_compression"));
    assert!(markdown.contains("Accuracy is how well a text is predicted") && markdown.contains("15,330 tokens in 30 windows"));
    let html = fs::read_to_string(results.join("report.html")).unwrap();
    assert!(html.contains(&format!("<p>{undrawn}")) && html.contains("<dt>Perplexity</dt><dd>21.5</dd>"));
    let records = records();
    let lines = table(&markdown, "Summary");
    assert_eq!(lines.len(), records.len());
    for line in lines.iter().filter(|line| !line["Experiment"].contains("failed")) {
        let record = &records[line["Record"].split('`').nth(1).unwrap().trim_end_matches("_results.json")];
        close(&line["Perplexity"], record.evaluation.value(TEXT_PERPLEXITY).unwrap());
        match record.evaluation.value(KL_MEAN) {
            Some(kl) => assert_eq!(line["KL, nats"], format!("{kl:.4}")),
            None => assert_eq!(line["KL, nats"], "–"),
        }
        assert!(!line.contains_key("F1") && !line.contains_key("EM"), "{line:?}");
    }
}

#[test]
fn links_lead_to_files_from_wherever_the_report_is() {
    let (folder, results) = copied();
    let out = folder.path().join("elsewhere/report of today");
    assert_eq!(report(&[results.to_str().unwrap(), "-o", out.to_str().unwrap()]).0, Some(0));
    let markdown = fs::read_to_string(out.join("REPORT.md")).unwrap();
    let links: Vec<&str> = markdown.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.iter().filter(|link| link.ends_with("int8_rtn_results.json")).count() > 5);
    for link in links {
        assert!(out.join(link.replace("%20", " ")).is_file(), "{link}");
    }
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    // The template writes a slash of a value as an entity.
    assert!(html.replace("&#x2f;", "/").contains("<a href=\"../../results/int8_rtn_results.json\">"));
}

/// One change to the fixture's folder, and the sentence that `qonnx report` ends with; nothing may be written.
#[track_caller]
fn refused(change: impl FnOnce(&Path), sentence: &str) {
    let (folder, results) = copied();
    change(&results);
    let out = folder.path().join("out");
    let (code, stdout, error) = report(&[results.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{error}");
    let shown = error.replace(results.to_str().unwrap(), "R");
    assert_eq!(shown, format!("error: {sentence}\n"));
    assert!(!out.exists(), "a refusal leaves nothing");
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut record: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut record);
    fs::write(path, record.to_string()).unwrap();
}

#[test]
fn records_that_cannot_be_read_are_named() {
    refused(
        |results| edit(&results.join("int8_rtn_results.json"), |record| record["schema"] = json!(7)),
        "record R/int8_rtn_results.json: has schema 7, expected 1 to 2; run the experiment again with this version",
    );
    refused(
        |results| fs::write(results.join("int8_rtn_results.json"), "{\"schema\": 2, \"exper").unwrap(),
        "record R/int8_rtn_results.json: damaged (EOF while parsing a string at line 1 column 20); remove it and run the experiment again",
    );
    refused(
        |results| edit(&results.join("int8_rtn_results.json"), |record| record["sizes"]["model_bytes"] = json!("many")),
        "record R/int8_rtn_results.json: damaged (invalid type: string \"many\", expected u64); remove it and run the experiment again",
    );
}

#[test]
fn records_that_do_not_belong_together_are_named() {
    refused(
        |results| {
            fs::copy(results.join("int8_rtn_results.json"), results.join("int8_rtn_again_results.json")).unwrap();
        },
        "record ../results/int8_rtn_results.json: is of experiment int8_rtn, and so is ../results/int8_rtn_again_results.json; remove one of \
         them",
    );
    refused(
        |results| fs::remove_file(results.join("fp16_baseline_results.json")).unwrap(),
        "results: none of the 16 records is the baseline's (fp16_baseline); run it into the same folder first (`qonnx run fp16_baseline`)",
    );
    refused(
        |results| {
            edit(&results.join("int8_rtn_results.json"), |record| record["evaluation"][0]["version"] = json!("lm-eval 3.0"))
        },
        "record ../results/int8_rtn_results.json: protocol of coqa is lm-eval 3.0, expected official 1.0 as in ../results/fp16_baseline_results.json; \
         scores of two protocols are not compared, keep them in two folders",
    );
}

#[test]
fn a_text_that_is_another_and_a_baseline_that_was_another_are_named() {
    refused(
        |results| edit(&results.join("int8_rtn_results.json"), |record| record["evaluation"][1]["data"] = json!("wiki.txt")),
        "record ../results/int8_rtn_results.json: data of perplexity is wiki.txt, expected perplexity.txt as in \
         ../results/fp16_baseline_results.json; scores of two protocols are not compared, keep them in two folders",
    );
    refused(
        |results| edit(&results.join("int8_rtn_results.json"), |record| record["evaluation"][2]["baseline"]["id"] = json!("old")),
        "record ../results/int8_rtn_results.json: kl was compared with a baseline of id old, expected b0c1d2e3f4a5 as \
         ../results/fp16_baseline_results.json has; run the experiment again",
    );
}

#[test]
fn a_folder_without_records_and_one_that_is_not_there_are_refused() {
    refused(
        |results| {
            fs::remove_dir_all(results).unwrap();
            fs::create_dir(results).unwrap();
            fs::write(results.join("notes.json"), "{}").unwrap();
        },
        "results R: no file ends in _results.json; run an experiment first (`qonnx run`, `qonnx sweep`) or give another folder",
    );
    refused(
        |results| fs::remove_dir_all(results).unwrap(),
        "results R: is no folder that can be listed (No such file or directory (os error 2)); give the one that `qonnx run` and `qonnx sweep` \
         write to",
    );
}

#[test]
fn an_output_that_cannot_be_written_is_no_fault_of_the_records() {
    let (folder, results) = copied();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, out, error) = report(&[results.to_str().unwrap(), "-o", file.join("report").to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains("cannot be written; free the disk or give another folder with -o"), "{error}");
}
