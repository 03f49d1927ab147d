//! `REPORT.md`: everything, for reading where the records lie.

use std::fmt::Write;

use super::figure::{self, Figure};
use super::findings::{self, Finding};
use super::limits::limits;
use super::method;
use super::numbers::{self, NONE};
use super::recommend::Recommendation;
use super::study::{Accuracy, Row, Study};
use crate::record::{COQA_EM, KL_MEAN, Measured, Outcome, ScoreName, TEXT_PERPLEXITY};

/// The whole report; figures are linked in `figures/`.
pub fn markdown(study: &Study, recommendation: &Recommendation, figures: &[Figure]) -> String {
    let mut out = String::new();
    heading(&mut out, study);
    recommendations(&mut out, study, &findings::findings(study, recommendation));
    if let Some(undrawn) = figure::undrawn(study) {
        let _ = write!(out, "\n{undrawn}\n");
    }
    for figure in figures {
        let _ = write!(out, "\n![{}](figures/{}.svg)\n\n{}\n", figure.title, figure.name, escaped(&figure.caption));
    }
    summary(&mut out, study);
    memory(&mut out, study);
    points(&mut out, study);
    notes(&mut out, study);
    methods(&mut out, study);
    out
}

fn heading(out: &mut String, study: &Study) {
    let source = escaped(&study.baseline().record.model.source);
    let _ = write!(out, "# How few bits: {source}\n\n{}\n\n", escaped(&method::question(study)));
    out.push_str(
        "The same in a browser, with tables that sort: [report.html](report.html); to print: [report.pdf](report.pdf).\n",
    );
}

fn recommendations(out: &mut String, study: &Study, found: &[Finding]) {
    out.push_str("\n## Recommendation\n\n");
    for finding in found {
        let records: Vec<String> = finding.rows.iter().map(|&at| link(&study.rows[at])).collect();
        let evidence = if records.is_empty() { String::new() } else { format!(" Evidence: {}.", records.join(", ")) };
        let _ = writeln!(out, "- **{}.** {}{evidence}", escaped(&finding.title), escaped(&finding.text));
    }
    out.push_str("\n### Limits\n\n");
    for limit in limits(study) {
        let _ = writeln!(out, "- {}", escaped(&limit));
    }
    out.push_str("\n## Figures\n");
}

/// A table's header; all columns but those in `left` are numbers.
fn table(out: &mut String, headers: &[String], left: &[usize]) {
    let _ = writeln!(out, "| {} |", headers.join(" | "));
    let rules: Vec<&str> = (0..headers.len()).map(|at| if left.contains(&at) { "---" } else { "---:" }).collect();
    let _ = writeln!(out, "| {} |", rules.join(" | "));
}

fn line(out: &mut String, cells: &[String]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn headers(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A column's header, the score in it, how it is written.
type ScoreColumn = (&'static str, ScoreName, fn(f64) -> String);

/// Scores beside those of the summary's own columns.
const MORE_SCORES: &[ScoreColumn] = &[
    ("EM", COQA_EM, numbers::score),
    ("Perplexity", TEXT_PERPLEXITY, numbers::three_digits),
    ("KL, nats", KL_MEAN, numbers::nats),
];

fn summary(out: &mut String, study: &Study) {
    let _ = write!(
        out,
        "\n## Summary\n\nSpeed: decoded tokens a second over the baseline's; {}.\n\n",
        escaped(&figure::quoted_at(study))
    );
    let mut head = headers(&["#", "Experiment", "Method"]);
    let columns = figure::columns(study);
    head.extend(columns.iter().map(|column| match column.unit {
        "" | "bytes" | "bits" | "0 to 1" | "× baseline" => column.header.to_owned(),
        unit => format!("{}, {unit}", column.header),
    }));
    // Where a text is all that was scored, the columns before have it.
    let more = if study.accuracy() == Accuracy::Text { &[][..] } else { MORE_SCORES };
    head.extend(more.iter().map(|(header, ..)| (*header).to_owned()));
    head.push("Record".to_owned());
    let last = head.len() - 1;
    table(out, &head, &[1, 2, last]);
    for (at, row) in study.rows.iter().enumerate() {
        let mut cells = vec![row.number.to_string(), shown(row), escaped(&row.record.method)];
        cells.extend(columns.iter().map(|column| column.cell(study, at).text));
        cells.extend(more.iter().map(|&(_, name, write)| optional(row.score(name), write)));
        cells.push(link(row));
        line(out, &cells);
    }
}

fn optional(value: Option<f64>, write: impl Fn(f64) -> String) -> String {
    value.map_or(NONE.to_owned(), write)
}

/// The name, and whether it failed.
fn shown(row: &Row) -> String {
    let failed =
        row.record.failure.as_ref().map(|failure| format!(" **failed: {}**", escaped(&failure.stage))).unwrap_or_default();
    format!("{} ({}){failed}", code(row.name()), escaped(&row.record.title))
}

fn memory(out: &mut String, study: &Study) {
    out.push_str("\n## Memory and loading\n\n");
    let names =
        ["#", "Experiment", "On disk", "Weights in memory", "Peak resident", "Peak device", "Load, s", "Export, s", "Record"];
    table(out, &headers(&names), &[1, 8]);
    for row in &study.rows {
        let (bench, export) = (row.bench(), row.record.export.as_ref());
        let bytes = |value: Option<u64>| value.map_or(NONE.to_owned(), numbers::bytes);
        line(
            out,
            &[
                row.number.to_string(),
                code(row.name()),
                bytes(row.model_bytes()),
                bytes(row.weights_memory()),
                bytes(bench.map(|bench| bench.peak_rss_bytes)),
                bytes(bench.and_then(|bench| bench.peak_device_bytes)),
                optional(bench.map(|bench| bench.load_seconds), numbers::three_digits),
                optional(export.map(|export| export.seconds), numbers::three_digits),
                link(row),
            ],
        );
    }
}

fn points(out: &mut String, study: &Study) {
    out.push_str(
        "\n## Every measured point\n\nTimes in ms: median, and in brackets the 95th percentile (decode: 95th, 99th).\n\n",
    );
    let names = [
        "#",
        "Experiment",
        "Batch",
        "Prompt",
        "Prefill",
        "Prefill, tokens/s",
        "First token",
        "Decode, per token",
        "Decode, tokens/s",
        "Bandwidth",
        "J per token",
        "Record",
    ];
    table(out, &headers(&names), &[1, 11]);
    for row in &study.rows {
        for point in row.bench().map(|bench| bench.points.as_slice()).unwrap_or_default() {
            let mut cells =
                vec![row.number.to_string(), code(row.name()), point.batch.to_string(), point.prompt_tokens.to_string()];
            cells.extend(match &point.outcome {
                Outcome::Measured(measured) => measured_cells(measured),
                Outcome::OutOfMemory { .. } => absent("out of memory"),
                Outcome::Failed { message } => absent(&format!("failed: {}", escaped(&numbers::clipped(message, 60)))),
            });
            cells.push(link(row));
            line(out, &cells);
        }
    }
}

fn measured_cells(measured: &Measured) -> Vec<String> {
    let ms = numbers::three_digits;
    let (prefill, decode) = (&measured.prefill_ms, &measured.decode_ms_per_token);
    vec![
        format!("{} ({})", ms(prefill.p50), ms(prefill.p95)),
        ms(measured.prefill_tokens_per_second),
        optional(measured.ttft_ms.as_ref().map(|samples| samples.p50), ms),
        format!("{} ({}, {})", ms(decode.p50), ms(decode.p95), ms(decode.p99)),
        ms(measured.decode_tokens_per_second),
        optional(measured.bandwidth_fraction, |fraction| format!("{:.0} %", 100.0 * fraction)),
        optional(measured.power.as_ref().map(|power| power.joules_per_token), ms),
    ]
}

fn absent(why: &str) -> Vec<String> {
    let mut cells = vec![NONE.to_owned(); 7];
    why.clone_into(&mut cells[0]);
    cells
}

fn notes(out: &mut String, study: &Study) {
    let failed: Vec<String> = study
        .rows
        .iter()
        .filter_map(|row| row.record.failure.as_ref().map(|failure| (row, failure)))
        .map(|(row, failure)| {
            format!(
                "- {} at stage {}: {} Record: {}.\n",
                code(row.name()),
                escaped(&failure.stage),
                escaped(&failure.message),
                link(row)
            )
        })
        .collect();
    if !failed.is_empty() {
        let _ = write!(out, "\n## What failed\n\n{}", failed.concat());
    }
    let warnings: Vec<String> = study
        .rows
        .iter()
        .flat_map(|row| {
            let bench = row.bench().map(|bench| bench.warnings.as_slice()).unwrap_or_default();
            row.record.warnings.iter().chain(bench).map(move |warning| format!("- {}: {}\n", link(row), escaped(warning)))
        })
        .collect();
    if !warnings.is_empty() {
        let _ = write!(out, "\n## Warnings\n\n{}", warnings.concat());
    }
}

fn methods(out: &mut String, study: &Study) {
    out.push_str("\n## Method\n");
    for paragraph in method::paragraphs(study) {
        let _ = write!(out, "\n{}\n", escaped(&paragraph));
    }
    out.push('\n');
    for (name, meaning) in method::methods(study) {
        let _ = writeln!(out, "- **{}**: {}", escaped(&name), escaped(&meaning));
    }
    out.push_str("\n| | |\n| --- | --- |\n");
    for (name, value) in method::facts(study) {
        line(out, &[name.to_owned(), escaped(&value)]);
    }
    out.push_str("\n## Records\n\n");
    table(out, &headers(&["#", "Record", "Id", "Program"]), &[0, 1, 2, 3]);
    for row in &study.rows {
        let program = format!("{}{}", row.record.program.version, if row.record.program.dirty { ", local changes" } else { "" });
        line(out, &[row.number.to_string(), link(row), code(&row.record.id), escaped(&program)]);
    }
}

/// The record's file, linked.
fn link(row: &Row) -> String {
    format!("[{}]({})", code(row.file_name()), row.href())
}

/// Text from outside between backquotes.
fn code(text: &str) -> String {
    format!("`{}`", numbers::clipped(text, usize::MAX).replace('`', "'").replace('|', "\\|"))
}

/// Text from outside that Markdown must not read as its own signs.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_markdown_from_records_stay_text() {
        assert_eq!(escaped("a|b <script>\nx_y [z]"), "a\\|b \\<script\\> x\\_y \\[z\\]");
        assert_eq!(code("a`b|c"), "`a'b\\|c`");
    }
}
