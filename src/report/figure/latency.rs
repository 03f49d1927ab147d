//! Prefill and decode times: medians, with the 95th percentile.

use super::axis::{Axis, Scale};
use super::bars::{self, bars_from};
use super::{Figure, LABEL, TICK, WIDTH, titled};
use crate::record::Samples;
use crate::report::font;
use crate::report::marks;
use crate::report::numbers;
use crate::report::scene::{Anchor, INK, MUTED, PAPER, Rect, Scene, TextStyle};
use crate::report::study::{Device, Point, Study};

const ROW: f64 = 22.0;
/// Above the rows of a device: its name, then the panels' titles.
const HEADER: f64 = 50.0;
const FOOTER: f64 = 44.0;
const TITLE: &str = "Latency";
/// Room right of the longest bar for its number.
const NUMBER_ROOM: f64 = 74.0;
const GAP: f64 = 26.0;

/// One of the two columns of bars.
struct Panel {
    title: &'static str,
    samples: fn(Point<'_>) -> Option<&Samples>,
    span: [f64; 2],
}

pub fn figure(study: &Study, shown: &[usize]) -> Figure {
    let groups: Vec<(&Device, Vec<usize>)> = study
        .devices
        .iter()
        .map(|device| (device, shown.iter().copied().filter(|at| device.rows.contains(at)).collect()))
        .collect();
    let unmeasured: Vec<usize> = shown.iter().copied().filter(|&at| study.device_of(at).is_none()).collect();
    let rows = shown.len() as f64;
    let height = 72.0 + ROW * rows + (HEADER + FOOTER) * groups.len() as f64 + 20.0;
    let (mut scene, mut top) =
        titled(height, TITLE, "medians of single measurements; whisker: 95th percentile; dashed: the baseline's median");
    for (device, members) in &groups {
        top = section(&mut scene, study, device, members, top, bars_from(study, shown));
    }
    for at in unmeasured {
        bars::name(&mut scene, study, at, top + ROW / 2.0, ROW);
        scene.text_centred([bars_from(study, shown), top + ROW / 2.0], bars::reason(study, at), LABEL.colored(MUTED));
        top += ROW;
    }
    let caption = "Prefill: reading the whole prompt up to the first token. Decode: one step, which makes one token for each row of the batch. \
                   Shorter is faster."
        .to_owned();
    Figure { name: "latency_comparison", title: TITLE.to_owned(), caption, scene }
}

fn section(scene: &mut Scene, study: &Study, device: &Device, members: &[usize], top: f64, from: f64) -> f64 {
    let Some(&batch) = device.batches.first() else { return top };
    let what = format!(
        "{}: batch {batch}, prompts of {} tokens",
        numbers::clipped(&device.name, 60),
        numbers::count(device.prompt as u64)
    );
    scene.text([24.0, top + 14.0], what, LABEL.bold());
    let rows_top = top + HEADER;
    let bottom = rows_top + ROW * members.len() as f64;
    let width = (WIDTH - 24.0 - from - GAP) / 2.0;
    let panels = [
        Panel { title: "prefill, ms", samples: |point| point.prefill(), span: [from, from + width] },
        Panel { title: "decode, ms per token", samples: |point| point.decode(), span: [from + width + GAP, WIDTH - 24.0] },
    ];
    for (place, &at) in members.iter().enumerate() {
        bars::name(scene, study, at, rows_top + ROW * (place as f64 + 0.5), ROW);
    }
    for panel in panels {
        let points: Vec<(usize, Point<'_>)> =
            members.iter().map(|&at| (at, study.rows[at].point(batch, device.prompt))).collect();
        draw_panel(scene, study, &panel, &points, [rows_top, bottom]);
        scene.text([panel.span[0], rows_top - 10.0], panel.title, TextStyle { color: INK, ..TICK });
    }
    bottom + FOOTER
}

fn draw_panel(scene: &mut Scene, study: &Study, panel: &Panel, points: &[(usize, Point<'_>)], [top, bottom]: [f64; 2]) {
    let ends = points.iter().filter_map(|&(_, point)| (panel.samples)(point)).map(|samples| samples.p95.max(samples.p50));
    let longest = ends.fold(0.0, f64::max);
    let longest = if longest > 0.0 { longest } else { 1.0 };
    let axis = Axis::new(Scale::Linear, [0.0, longest], [panel.span[0], panel.span[1] - NUMBER_ROOM]);
    bars::scale(scene, &axis, 4, [top, bottom]);
    if let Some((_, baseline)) = points.iter().find(|&&(at, _)| study.rows[at].is_baseline())
        && let Some(samples) = (panel.samples)(*baseline)
    {
        scene.dashed([axis.at(samples.p50), top], [axis.at(samples.p50), bottom], 3.0, INK, 1.0);
    }
    for (place, &(at, point)) in points.iter().enumerate() {
        let y = top + ROW * (place as f64 + 0.5);
        match (panel.samples)(point) {
            Some(samples) => bar(scene, study, at, samples, &axis, y),
            None => scene.text_centred([axis.at(0.0) + 8.0, y], point.absence(), LABEL.colored(MUTED)),
        }
    }
}

fn bar(scene: &mut Scene, study: &Study, at: usize, samples: &Samples, axis: &Axis, y: f64) {
    let mark = marks::mark(&study.rows[at].record.method);
    let (start, middle, end) = (axis.at(0.0), axis.at(samples.p50), axis.at(samples.p95));
    scene.outlined(Rect { left: start, right: middle, top: y - 6.0, bottom: y + 6.0 }.corners(), mark.color, INK, 0.8);
    scene.line(&[[middle, y], [end, y]], INK, 1.2);
    scene.line(&[[end, y - 4.0], [end, y + 4.0]], INK, 1.2);
    let (text, style) = (numbers::three_digits(samples.p50), TICK.colored(INK).at(Anchor::Start));
    let from = end.max(middle) + 6.0;
    // The number stands on paper, not on the baseline's line.
    let width = font::width(&text, style.size, style.weight);
    scene.area(Rect { left: from - 2.0, right: from + width + 2.0, top: y - 6.0, bottom: y + 6.0 }.corners(), PAPER);
    scene.text_centred([from, y], text, style);
}
