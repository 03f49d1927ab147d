//! Prefill and decode times: medians, with the 95th percentile. Beside sizes, for the page on hardware.

use super::axis::{Axis, Scale};
use super::bars::{self, bars_from};
use super::{Figure, LABEL, TICK, WIDTH, titled};
use crate::record::Samples;
use crate::report::point::Point;
use crate::report::scene::{INK, MUTED, PAPER, Rect, Scene, TextStyle};
use crate::report::study::{Device, Row, Study};
use crate::report::{font, marks, numbers};

const ROW: f64 = 22.0;
/// Above the rows of a device: its name, then the panels' titles.
const HEADER: f64 = 50.0;
const FOOTER: f64 = 44.0;
const TITLE: &str = "Latency";
/// Room right of the longest bar for its number.
const NUMBER_ROOM: f64 = 44.0;
const GAP: f64 = 26.0;

/// What a row of a panel shows.
struct Bar {
    length: f64,
    /// Where the whisker ends.
    whisker: f64,
}

/// A column of bars.
struct Panel {
    title: &'static str,
    bar: fn(&Row, Point<'_>) -> Option<Bar>,
}

const PREFILL: Panel = Panel { title: "prefill, ms", bar: |_, point| point.prefill().map(times) };
const DECODE: Panel = Panel { title: "decode, ms per token", bar: |_, point| point.decode().map(times) };
const SIZE: Panel = Panel {
    title: "on disk, MB; line: in memory",
    bar: |row, _| {
        let length = row.model_bytes()? as f64 / 1e6;
        let memory = row.weights_memory();
        Some(Bar { length, whisker: memory.map_or(length, |bytes| bytes as f64 / 1e6) })
    },
};

fn times(samples: &Samples) -> Bar {
    Bar { length: samples.p50, whisker: samples.p95 }
}

/// Times at the smallest batch.
pub fn figure(study: &Study, shown: &[usize]) -> Figure {
    let subtitle = "medians; whisker: 95th percentile; dashed: the baseline's median";
    let scene = drawn(study, shown, TITLE, subtitle, &[PREFILL, DECODE]);
    let caption = "Prefill: reading the whole prompt up to the first token. Decode: one step, which makes one token for each row of the batch. \
                   Shorter is faster."
        .to_owned();
    Figure { name: "latency_comparison", title: TITLE.to_owned(), caption, scene }
}

/// Sizes and times side by side, for a page.
pub fn overview(study: &Study, shown: &[usize]) -> Scene {
    let subtitle = "times: medians, whisker to the 95th percentile; dashed: the baseline";
    drawn(study, shown, "Size and latency", subtitle, &[SIZE, PREFILL, DECODE])
}

fn drawn(study: &Study, shown: &[usize], title: &str, subtitle: &str, panels: &[Panel]) -> Scene {
    let groups: Vec<(&Device, Vec<usize>)> = study
        .devices
        .iter()
        .map(|device| (device, shown.iter().copied().filter(|at| device.rows.contains(at)).collect::<Vec<_>>()))
        .filter(|(_, members)| !members.is_empty())
        .collect();
    let unmeasured: Vec<usize> = shown.iter().copied().filter(|&at| study.device_of(at).is_none()).collect();
    let height = 72.0 + ROW * shown.len() as f64 + (HEADER + FOOTER) * groups.len() as f64;
    let (mut scene, mut top) = titled(height, title, subtitle);
    let from = bars_from(study, shown);
    for (device, members) in &groups {
        top = section(&mut scene, study, device, members, top, panels, from);
    }
    for at in unmeasured {
        bars::name(&mut scene, study, at, top + ROW / 2.0, ROW);
        let size = study.rows[at].model_bytes().map(|bytes| format!("{} on disk, ", numbers::bytes(bytes))).unwrap_or_default();
        scene.text_centred([from, top + ROW / 2.0], format!("{size}{}", bars::reason(study, at)), LABEL.colored(MUTED));
        top += ROW;
    }
    scene.height = top + 8.0;
    scene
}

fn section(scene: &mut Scene, study: &Study, device: &Device, members: &[usize], top: f64, panels: &[Panel], from: f64) -> f64 {
    let Some(&batch) = device.batches.first() else { return top };
    let what = format!(
        "{}: batch {batch}, prompts of {} tokens",
        numbers::clipped(&device.name, 60),
        numbers::count(device.prompt as u64)
    );
    scene.text([24.0, top + 14.0], what, LABEL.bold());
    let (rows_top, bottom) = (top + HEADER, top + HEADER + ROW * members.len() as f64);
    for (place, &at) in members.iter().enumerate() {
        bars::name(scene, study, at, rows_top + ROW * (place as f64 + 0.5), ROW);
    }
    let points: Vec<(&Row, Point<'_>)> =
        members.iter().map(|&at| (&study.rows[at], study.rows[at].point(batch, device.prompt))).collect();
    let width = (WIDTH - 24.0 - from - GAP * (panels.len() - 1) as f64) / panels.len() as f64;
    for (place, panel) in panels.iter().enumerate() {
        let left = from + (width + GAP) * place as f64;
        scene.text([left, rows_top - 10.0], panel.title, TextStyle { color: INK, ..TICK });
        draw_panel(scene, panel, &points, [left, left + width], [rows_top, bottom]);
    }
    bottom + FOOTER
}

fn draw_panel(scene: &mut Scene, panel: &Panel, points: &[(&Row, Point<'_>)], [left, right]: [f64; 2], [top, bottom]: [f64; 2]) {
    let bars: Vec<Option<Bar>> = points.iter().map(|&(row, point)| (panel.bar)(row, point)).collect();
    let longest = bars.iter().flatten().map(|bar| bar.whisker.max(bar.length)).fold(0.0, f64::max);
    let longest = if longest > 0.0 { longest } else { 1.0 };
    let axis = Axis::new(Scale::Linear, [0.0, longest], [left, right - NUMBER_ROOM]);
    bars::scale(scene, &axis, ((right - left) / 75.0) as usize, [top, bottom]);
    let baseline = points.iter().zip(&bars).find(|((row, _), _)| row.is_baseline()).and_then(|(_, bar)| bar.as_ref());
    if let Some(bar) = baseline {
        scene.dashed([axis.at(bar.length), top], [axis.at(bar.length), bottom], 3.0, INK, 1.0);
    }
    for (place, ((row, point), bar)) in points.iter().zip(&bars).enumerate() {
        let y = top + ROW * (place as f64 + 0.5);
        match bar {
            Some(bar) => draw_bar(scene, row, bar, &axis, y),
            None => scene.text_centred([axis.at(0.0) + 8.0, y], point.absence(), LABEL.colored(MUTED)),
        }
    }
}

fn draw_bar(scene: &mut Scene, row: &Row, bar: &Bar, axis: &Axis, y: f64) {
    let (start, middle, end) = (axis.at(0.0), axis.at(bar.length), axis.at(bar.whisker));
    let body = Rect { left: start, right: middle, top: y - 6.0, bottom: y + 6.0 };
    scene.outlined(body.corners(), marks::mark(&row.record.method).color, INK, 0.8);
    scene.line(&[[middle, y], [end, y]], INK, 1.2);
    scene.line(&[[end, y - 4.0], [end, y + 4.0]], INK, 1.2);
    let (text, style) = (numbers::three_digits(bar.length), TICK.colored(INK));
    let from = end.max(middle) + 6.0;
    // The number stands on paper, not on the baseline's line.
    let width = font::width(&text, style.size, style.weight);
    scene.area(Rect { left: from - 2.0, right: from + width + 2.0, top: y - 6.0, bottom: y + 6.0 }.corners(), PAPER);
    scene.text_centred([from, y], text, style);
}
