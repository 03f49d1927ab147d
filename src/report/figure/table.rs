//! The summary: one line an experiment, as a figure and as the cells that every other format shows.

use super::{Figure, LABEL, WIDTH, shown_name, titled};
use crate::record::{KL_MEAN, TEXT_PERPLEXITY};
use crate::report::marks;
use crate::report::numbers::{self, NONE};
use crate::report::point::Point;
use crate::report::scene::{Anchor, GRID, INK, MUTED, Rect, Scene, Spot, TextStyle};
use crate::report::study::{Accuracy, Row, Study};

const TITLE: &str = "Summary";
const ROW: f64 = 23.0;

/// A number as it is written, and as it sorts.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub text: String,
    /// None sorts last.
    pub value: Option<f64>,
}

impl Cell {
    fn new(value: Option<f64>, write: impl Fn(f64) -> String) -> Self {
        Cell { text: value.map_or(NONE.to_owned(), write), value }
    }
}

/// A column of the summary: its header, what it means, its cell of a row.
pub struct Column {
    pub header: &'static str,
    /// The header where there is little room.
    pub narrow: &'static str,
    pub unit: &'static str,
    pub meaning: &'static str,
    /// Share of a figure's width.
    width: f64,
    cell: fn(&Study, usize) -> Cell,
}

impl Column {
    pub fn cell(&self, study: &Study, row: usize) -> Cell {
        (self.cell)(study, row)
    }
}

/// The point that a row's times are quoted at: its device's smallest batch.
fn first_point(study: &Study, row: usize) -> Point<'_> {
    let Some(device) = study.device_of(row) else { return Point::Absent };
    device.batches.first().map_or(Point::Absent, |&batch| study.rows[row].point(batch, device.prompt))
}

fn timed(study: &Study, row: usize, value: fn(Point<'_>) -> Option<f64>) -> Cell {
    let point = first_point(study, row);
    match value(point) {
        Some(value) => Cell { text: numbers::three_digits(value), value: Some(value) },
        None => Cell { text: point.absence().to_owned(), value: None },
    }
}

fn interval(row: &Row) -> Cell {
    let paired = row.paired();
    Cell {
        text: paired.map_or(NONE.to_owned(), |paired| numbers::interval(paired.ci95)),
        value: paired.map(|paired| paired.ci95[0]),
    }
}

/// Columns of the summary, from left to right, after number and name.
pub fn columns(study: &Study) -> Vec<&'static Column> {
    let scores = if study.accuracy() == Accuracy::Text { TEXT } else { ANSWERS };
    SIZES.iter().chain(scores).chain(TIMES).collect()
}

const SIZES: &[Column] = &[
    Column {
        header: "Bits per weight",
        narrow: "Bits",
        unit: "bits",
        meaning: "over the decoder's linears on disk, scales counted",
        width: 44.0,
        cell: |study, row| Cell::new(study.rows[row].bits(), numbers::bits),
    },
    Column {
        header: "Size on disk",
        narrow: "Size",
        unit: "bytes",
        meaning: "model.onnx and its data file",
        width: 66.0,
        cell: |study, row| {
            Cell::new(study.rows[row].model_bytes().map(|bytes| bytes as f64), |bytes| numbers::bytes(bytes as u64))
        },
    },
];

const ANSWERS: &[Column] = &[
    Column {
        header: "F1",
        narrow: "F1",
        unit: "0 to 1",
        meaning: "CoQA",
        width: 48.0,
        cell: |study, row| Cell::new(study.rows[row].f1(), numbers::score),
    },
    Column {
        header: "ΔF1",
        narrow: "ΔF1",
        unit: "",
        meaning: "this less the baseline, same questions",
        width: 58.0,
        cell: |study, row| Cell::new(study.rows[row].paired().map(|paired| paired.difference), numbers::difference),
    },
    Column {
        header: "95 % interval of ΔF1",
        narrow: "95 % interval",
        unit: "",
        meaning: "paired bootstrap; one that reaches 0 is not distinguishable from the baseline",
        width: 108.0,
        cell: |study, row| interval(&study.rows[row]),
    },
];

/// In place of [`ANSWERS`] where a text is all that was scored.
const TEXT: &[Column] = &[
    Column {
        header: "Perplexity",
        narrow: "Perplexity",
        unit: "",
        meaning: "exp of the mean negative log-likelihood of a token",
        width: 78.0,
        cell: |study, row| Cell::new(study.rows[row].score(TEXT_PERPLEXITY), numbers::three_digits),
    },
    Column {
        header: "KL, nats",
        narrow: "KL, nats",
        unit: "",
        meaning: "mean divergence from the baseline, a token",
        width: 70.0,
        cell: |study, row| Cell::new(study.rows[row].score(KL_MEAN), numbers::nats),
    },
];

const TIMES: &[Column] = &[
    Column {
        header: "Prefill",
        narrow: "Prefill ms",
        unit: "ms",
        meaning: "median time to read the prompt",
        width: 70.0,
        cell: |study, row| timed(study, row, |point| point.prefill().map(|samples| samples.p50)),
    },
    Column {
        header: "Decode",
        narrow: "Decode ms",
        unit: "ms per token",
        meaning: "median step",
        width: 76.0,
        cell: |study, row| timed(study, row, |point| point.decode().map(|samples| samples.p50)),
    },
    Column {
        header: "Speed",
        narrow: "Speed",
        unit: "× baseline",
        meaning: "decoded tokens a second over the baseline's at the same point",
        width: 66.0,
        cell: |study, row| {
            let batch = study.device_of(row).and_then(|device| device.batches.first().copied());
            Cell::new(batch.and_then(|batch| study.speed_ratio(row, batch)), numbers::ratio)
        },
    },
];

pub fn figure(study: &Study, shown: &[usize]) -> Figure {
    let height = 72.0 + 30.0 + ROW * shown.len() as f64 + 26.0;
    let (mut scene, top) = titled(height, TITLE, &quoted_at(study));
    let columns = columns(study);
    let left = WIDTH - 24.0 - columns.iter().map(|column| column.width).sum::<f64>();
    header(&mut scene, &columns, left, top + 14.0);
    for (place, &at) in shown.iter().enumerate() {
        let y = top + 30.0 + ROW * (place as f64 + 0.5);
        line(&mut scene, study, &columns, at, left, y);
        let rule = y + ROW / 2.0;
        scene.line(&[[24.0, rule], [WIDTH - 24.0, rule]], GRID, 1.0);
    }
    let caption =
        format!("Experiments from many bits to few. Speed: decoded tokens a second over the baseline's. {}.", quoted_at(study));
    Figure { name: "summary_table", title: TITLE.to_owned(), caption, scene }
}

/// At which points the times are.
pub fn quoted_at(study: &Study) -> String {
    let points = study.devices.iter().filter_map(|device| {
        let batch = device.batches.first()?;
        Some(format!(
            "batch {batch}, prompts of {} tokens on {}",
            numbers::count(device.prompt as u64),
            numbers::clipped(&device.name, 60)
        ))
    });
    let points: Vec<String> = points.collect();
    if points.is_empty() { "No benchmark was run".to_owned() } else { format!("Times at {}", points.join("; ")) }
}

const HEAD: TextStyle = TextStyle::new(11.0).bold().colored(MUTED);

fn header(scene: &mut Scene, columns: &[&Column], left: f64, y: f64) {
    scene.text([34.0, y], "#", HEAD.at(Anchor::Middle));
    scene.text([72.0, y], "Experiment", HEAD);
    let mut right = left;
    for column in columns {
        right += column.width;
        scene.text([right, y], column.narrow, HEAD.at(Anchor::End));
    }
    scene.line(&[[24.0, y + 10.0], [WIDTH - 24.0, y + 10.0]], INK, 1.2);
}

fn line(scene: &mut Scene, study: &Study, columns: &[&Column], at: usize, left: f64, y: f64) {
    let row = &study.rows[at];
    let style = if row.is_baseline() { LABEL.bold() } else { LABEL };
    scene.text_centred([34.0, y], row.number.to_string(), LABEL.colored(MUTED).at(Anchor::Middle));
    marks::draw(scene, marks::mark(&row.record.method), [57.0, y], 5.0);
    let name = fitting(&shown_name(row), style, left - 72.0);
    scene.text_centred([72.0, y], name, style);
    if let Some(failure) = row.record.failure.as_ref().filter(|_| row.record.evaluation.tasks.is_empty()) {
        let reason = format!("failed ({}): {}", failure.stage, failure.message);
        scene.text_centred([left + 24.0, y], fitting(&reason, LABEL, WIDTH - 24.0 - left - 24.0), LABEL.colored(MUTED));
    } else {
        let mut right = left;
        for column in columns {
            right += column.width;
            scene.text_centred([right, y], column.cell(study, at).text, TextStyle { size: 11.5, ..style }.at(Anchor::End));
        }
    }
    let area = Rect { left: 24.0, right: WIDTH - 24.0, top: y - ROW / 2.0, bottom: y + ROW / 2.0 };
    scene.spots.push(Spot { area, row: at });
}

/// As much of `text` as `width` holds.
fn fitting(text: &str, style: TextStyle, width: f64) -> String {
    let fits = |text: &str| crate::report::font::width(text, style.size, style.weight) <= width;
    let all = text.chars().count();
    (1..=all).rev().map(|most| numbers::clipped(text, most)).find(|clipped| fits(clipped)).unwrap_or_default()
}
