//! Rows of horizontal bars: what memory and latency share.

use super::axis::Axis;
use super::{LABEL, TICK, WIDTH, shown_name};
use crate::report::scene::{Anchor, GRID, MUTED, Rect, Scene, Spot};
use crate::report::study::Study;
use crate::report::{font, marks};

/// The left edge of bars: right of the longest name.
pub fn bars_from(study: &Study, shown: &[usize]) -> f64 {
    let widths = shown.iter().map(|&at| font::width(&shown_name(&study.rows[at]), LABEL.size, LABEL.weight));
    52.0 + widths.fold(0.0, f64::max) * 1.04 + 12.0
}

/// Mark and name of a row at height `y`, and its spot over the whole line.
pub fn name(scene: &mut Scene, study: &Study, at: usize, y: f64, row_height: f64) {
    let row = &study.rows[at];
    marks::draw(scene, marks::mark(&row.record.method), [34.0, y], 5.5);
    scene.text_centred([48.0, y], shown_name(row), LABEL);
    let area = Rect { left: 24.0, right: WIDTH - 24.0, top: y - row_height / 2.0, bottom: y + row_height / 2.0 };
    scene.spots.push(Spot { area, row: at });
}

/// Vertical grid lines with their values below.
pub fn scale(scene: &mut Scene, axis: &Axis, ticks: usize, [top, bottom]: [f64; 2]) {
    let (values, decimals) = axis.ticks(ticks);
    for value in values {
        let x = axis.at(value);
        scene.line(&[[x, top], [x, bottom]], GRID, 1.0);
        scene.text([x, bottom + 16.0], format!("{value:.decimals$}"), TICK.at(Anchor::Middle));
    }
    scene.line(&[[axis.at(0.0), top], [axis.at(0.0), bottom]], MUTED, 1.0);
}

/// Why a row has no bars.
pub fn reason(study: &Study, at: usize) -> String {
    match &study.rows[at].record.failure {
        Some(failure) => format!("failed: {}", crate::report::numbers::clipped(&failure.stage, 30)),
        None => "not measured".to_owned(),
    }
}
