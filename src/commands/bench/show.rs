//! The report as an aligned table, as markdown and as CSV.

use std::fmt;

use super::BenchReport;
use crate::bench::uncertainty;
use crate::host::table::{size, table};
use crate::record::{BenchPoint, Measured, Outcome, Samples};

/// A column of the table: its header, and what it says of a point that was measured.
type Column = (&'static str, fn(&Measured) -> Option<String>);

const COLUMNS: [Column; 11] = [
    ("prefill ms", |m| Some(median(&m.prefill_ms))),
    ("tokens/s", |m| Some(rate(m.prefill_tokens_per_second))),
    ("first token ms", |m| m.ttft_ms.as_ref().map(median)),
    ("step ms", |m| Some(median(&m.decode_ms_per_token))),
    ("p95", |m| Some(digits(m.decode_ms_per_token.p95))),
    ("p99", |m| Some(digits(m.decode_ms_per_token.p99))),
    ("tokens/s", |m| Some(rate(m.decode_tokens_per_second))),
    ("of bandwidth", |m| m.bandwidth_fraction.map(|fraction| format!("{:.0} %", fraction * 100.0))),
    ("memory so far", |m| Some(size(m.memory_peak_bytes))),
    ("J/token", |m| m.power.as_ref().map(|power| digits(power.joules_per_token))),
    ("W", |m| m.power.as_ref().map(|power| format!("{:.0}", power.mean_watts))),
];

/// Three digits at least.
fn digits(value: f64) -> String {
    let decimals = match value {
        _ if value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// `12.3 ± 0.2`: the median and the longer side of its 95 % interval.
fn median(samples: &Samples) -> String {
    let off = uncertainty(samples) * samples.p50;
    let shown = digits(samples.p50);
    let decimals = shown.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    format!("{shown} ± {off:.decimals$}")
}

fn rate(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { digits(value) }
}

impl BenchReport {
    /// Header and rows; a column that no point has anything in is left out.
    fn cells(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let cell = |point: &BenchPoint, (_, says): &Column| match &point.outcome {
            Outcome::Measured(measured) => says(measured),
            _ => None,
        };
        let points = &self.record.points;
        let is_filled = |column: &&Column| points.iter().any(|point| cell(point, column).is_some());
        let columns: Vec<&Column> = COLUMNS.iter().filter(is_filled).collect();
        let header = ["batch", "prompt"].into_iter().chain(columns.iter().map(|(name, _)| *name)).collect();
        let row = |point: &BenchPoint| {
            let mut row = vec![point.batch.to_string(), point.prompt_tokens.to_string()];
            row.extend(columns.iter().map(|column| cell(point, column).unwrap_or_else(|| "–".to_owned())));
            match &point.outcome {
                Outcome::Measured(_) => {}
                Outcome::OutOfMemory { .. } => row.push("out of memory".to_owned()),
                Outcome::Failed { .. } => row.push("failed".to_owned()),
            }
            row
        };
        (header, points.iter().map(row).collect())
    }

    /// What is said once, above the table.
    fn headline(&self) -> String {
        let record = &self.record;
        let device = match (&self.gpu, record.ep.as_str()) {
            (Some(gpu), _) => gpu.clone(),
            (None, "cpu") => "the CPU".to_owned(),
            (None, ep) => ep.to_uppercase(),
        };
        let mut said = vec![format!("{} on {device}", self.artifact.display())];
        let threads = if record.threads == 1 { "thread" } else { "threads" };
        said.extend((record.ep == "cpu").then(|| format!("{} {threads}", record.threads)));
        said.push(format!("{} on the disk", size(record.model_bytes)));
        said.extend(record.weights_memory().map(|bytes| format!("{} in memory", size(bytes))));
        said.push(format!("loaded in {:.2} s", record.load_seconds));
        said.extend(record.copy_bytes_per_second.map(|rate| format!("copies {:.1} GB/s", rate / 1e9)));
        said.join(", ")
    }

    /// What the numbers are, and whatever a reader has to know of them.
    fn notes(&self) -> Vec<String> {
        let record = &self.record;
        let settings = &record.settings;
        let graph = if settings.cuda_graph { ", replayed from a CUDA graph" } else { "" };
        let mut notes = vec![format!(
            "medians ± the longer side of their 95 % interval; a step makes one token for each of the batch, {} tokens each{graph}",
            settings.new_tokens
        )];
        notes.extend(record.points.iter().filter_map(|point| match &point.outcome {
            Outcome::Measured(_) => None,
            Outcome::OutOfMemory { message } | Outcome::Failed { message } => {
                Some(format!("batch {}, prompt {}: {message}", point.batch, point.prompt_tokens))
            }
        }));
        notes.extend(record.warnings.iter().cloned());
        notes
    }

    /// The table in Markdown, notes as a list below it.
    pub fn markdown(&self) -> String {
        let (header, rows) = self.cells();
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let mut lines = vec![self.headline(), String::new()];
        lines.push(line(&header.iter().map(ToString::to_string).collect::<Vec<_>>()));
        lines.push(format!("|{}", "---:|".repeat(header.len())));
        lines.extend(rows.into_iter().map(|mut row| {
            // A row has as many cells as the header: what happened stands where the first number would.
            if row.len() > header.len() {
                row[2] = row.pop().unwrap_or_default();
            }
            line(&row)
        }));
        lines.push(String::new());
        lines.extend(self.notes().into_iter().map(|note| format!("- {note}")));
        lines.join("\n")
    }

    /// A line for each point under a line of names; empty where nothing was measured.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let wrote = writer
            .write_record(CSV_HEADER)
            .and_then(|()| self.record.points.iter().try_for_each(|point| writer.write_record(self.csv_row(point))));
        wrote.expect("every row has as many fields as the header, and memory takes them");
        let bytes = writer.into_inner().expect("memory takes what is written to it");
        String::from_utf8(bytes).expect("fields are strings")
    }

    fn csv_row(&self, point: &BenchPoint) -> Vec<String> {
        let record = &self.record;
        let (outcome, message) = match &point.outcome {
            Outcome::Measured(_) => ("measured", ""),
            Outcome::OutOfMemory { message } => ("out-of-memory", message.as_str()),
            Outcome::Failed { message } => ("failed", message.as_str()),
        };
        let mut row = vec![
            self.artifact.display().to_string(),
            record.ep.clone(),
            record.threads.to_string(),
            point.batch.to_string(),
            point.prompt_tokens.to_string(),
            record.settings.new_tokens.to_string(),
            outcome.to_owned(),
        ];
        let measured = match &point.outcome {
            Outcome::Measured(measured) => Some(measured.as_ref()),
            _ => None,
        };
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        row.extend(CSV_NUMBERS.map(|says| number(measured.and_then(says))));
        row.push(message.to_owned());
        row
    }
}

pub(super) const CSV_HEADER: [&str; 28] = [
    "artifact",
    "ep",
    "threads",
    "batch",
    "prompt_tokens",
    "new_tokens",
    "outcome",
    "prefill_ms_p50",
    "prefill_ms_ci95_low",
    "prefill_ms_ci95_high",
    "prefill_ms_p95",
    "prefill_ms_p99",
    "prefill_tokens_per_second",
    "ttft_ms_p50",
    "ttft_ms_p95",
    "decode_ms_per_token_p50",
    "decode_ms_per_token_ci95_low",
    "decode_ms_per_token_ci95_high",
    "decode_ms_per_token_p95",
    "decode_ms_per_token_p99",
    "decode_tokens_per_second",
    "memory_peak_bytes",
    "bytes_per_step",
    "bandwidth_fraction",
    "joules_per_token",
    "mean_watts",
    "sm_clock_mhz",
    "message",
];

/// What stands under the names from `prefill_ms_p50` to `sm_clock_mhz`.
const CSV_NUMBERS: [fn(&Measured) -> Option<f64>; 20] = [
    |m| Some(m.prefill_ms.p50),
    |m| Some(m.prefill_ms.ci95[0]),
    |m| Some(m.prefill_ms.ci95[1]),
    |m| Some(m.prefill_ms.p95),
    |m| Some(m.prefill_ms.p99),
    |m| Some(m.prefill_tokens_per_second),
    |m| m.ttft_ms.as_ref().map(|ttft| ttft.p50),
    |m| m.ttft_ms.as_ref().map(|ttft| ttft.p95),
    |m| Some(m.decode_ms_per_token.p50),
    |m| Some(m.decode_ms_per_token.ci95[0]),
    |m| Some(m.decode_ms_per_token.ci95[1]),
    |m| Some(m.decode_ms_per_token.p95),
    |m| Some(m.decode_ms_per_token.p99),
    |m| Some(m.decode_tokens_per_second),
    |m| Some(m.memory_peak_bytes as f64),
    |m| Some(m.bytes_per_step as f64),
    |m| m.bandwidth_fraction,
    |m| m.power.as_ref().map(|power| power.joules_per_token),
    |m| m.power.as_ref().map(|power| power.mean_watts),
    |m| m.power.as_ref().map(|power| f64::from(power.sm_clock_mhz)),
];

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (header, rows) = self.cells();
        let right: Vec<usize> = (0..header.len()).collect();
        writeln!(f, "{}\n", self.headline())?;
        writeln!(f, "{}\n", table(&header, &right, rows))?;
        f.write_str(&self.notes().join("\n"))
    }
}
