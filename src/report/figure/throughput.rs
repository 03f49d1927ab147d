//! Tokens a second while decoding, against the batch size.

use super::axis::{Axis, Scale};
use super::{Figure, LABEL, TICK, WIDTH, legend, shown_name, titled};
use crate::report::point::Point;
use crate::report::scene::{Anchor, Color, GRID, INK, MUTED, Point as Place, Rect, Scene, Spot};
use crate::report::study::{Device, Study};
use crate::report::{font, marks, numbers};

const TITLE: &str = "Throughput against batch size";
const LABEL_STEP: f64 = 16.0;
const RADIUS: f64 = 5.0;
const LEADER: Color = Color(0x8C, 0x95, 0x9F);
/// From the last point to its label.
const LEADER_ROOM: f64 = 50.0;

/// One experiment's measured points, from small batches to large.
struct Curve {
    row: usize,
    /// Batch size and tokens a second.
    points: Vec<(usize, f64)>,
    label: String,
}

pub fn figure(study: &Study, shown: &[usize]) -> Figure {
    let panels: Vec<(&Device, Vec<Curve>)> = study
        .devices
        .iter()
        .map(|device| (device, curves(study, device, shown)))
        .filter(|(_, curves)| !curves.is_empty())
        .collect();
    let heights: Vec<f64> =
        panels.iter().map(|(_, curves)| (LABEL_STEP * curves.len() as f64 + 40.0).max(240.0) + 90.0).collect();
    let without: Vec<usize> = shown
        .iter()
        .copied()
        .filter(|at| !panels.iter().any(|(_, curves)| curves.iter().any(|curve| curve.row == *at)))
        .collect();
    let height =
        72.0 + 44.0 + heights.iter().sum::<f64>() + if without.is_empty() { 0.0 } else { 18.0 * without.len() as f64 + 24.0 };
    let (mut scene, top) =
        titled(height, TITLE, "tokens a second over all rows of the batch, decoding greedily; larger is faster");
    let mut top = legend(&mut scene, study, shown, top, &[]) + 8.0;
    for ((device, curves), height) in panels.iter().zip(heights) {
        panel(&mut scene, study, device, curves, [top, top + height]);
        top += height;
    }
    for at in without {
        top += 18.0;
        scene.text(
            [28.0, top],
            format!("{}: {}", shown_name(&study.rows[at]), super::bars::reason(study, at)),
            LABEL.colored(MUTED),
        );
    }
    scene.height = top + 24.0;
    let caption = "Median decoding speed at each batch size, both axes logarithmic. A curve that ends early ran out of memory or failed there, and says so.".to_owned();
    Figure { name: "throughput_vs_batch", title: TITLE.to_owned(), caption, scene }
}

fn curves(study: &Study, device: &Device, shown: &[usize]) -> Vec<Curve> {
    let curve = |&row: &usize| {
        let at = |batch: usize| study.rows[row].point(batch, device.prompt);
        let points: Vec<(usize, f64)> =
            device.batches.iter().filter_map(|&batch| Some((batch, at(batch).tokens_per_second()?))).collect();
        let stopped = device.batches.iter().find(|&&batch| matches!(at(batch), Point::OutOfMemory | Point::Failed));
        let ending = stopped.map(|&batch| format!(" ({} at {batch})", at(batch).absence())).unwrap_or_default();
        (!points.is_empty()).then(|| Curve { row, points, label: format!("{}{ending}", shown_name(&study.rows[row])) })
    };
    shown.iter().filter(|at| device.rows.contains(at)).filter_map(curve).collect()
}

fn panel(scene: &mut Scene, study: &Study, device: &Device, curves: &[Curve], [top, bottom]: [f64; 2]) {
    let what = format!("{}: prompts of {} tokens", numbers::clipped(&device.name, 60), numbers::count(device.prompt as u64));
    scene.text([24.0, top + 14.0], what, LABEL.bold());
    let widest = curves.iter().map(|curve| font::width(&curve.label, LABEL.size, LABEL.weight)).fold(0.0, f64::max) * 1.04;
    let frame = Rect { left: 70.0, top: top + 48.0, right: WIDTH - 24.0 - widest - LEADER_ROOM, bottom: bottom - 50.0 };
    let (x, y) = axes(device, curves, frame);
    grid(scene, device, frame, x, y);
    for curve in curves {
        let places: Vec<Place> = curve.points.iter().map(|&(batch, speed)| [x.at(batch as f64), y.at(speed)]).collect();
        let mark = marks::mark(&study.rows[curve.row].record.method);
        // A pale colour alone would be lost on paper.
        scene.line(&places, INK, 2.4);
        scene.line(&places, mark.color, 1.5);
        for place in places {
            marks::draw(scene, mark, place, RADIUS);
            scene.spots.push(Spot { area: Rect::around(place, RADIUS + 3.0, RADIUS + 3.0), row: curve.row });
        }
    }
    end_labels(scene, study, curves, [x, y], frame);
}

fn axes(device: &Device, curves: &[Curve], frame: Rect) -> (Axis, Axis) {
    let speeds = || curves.iter().flat_map(|curve| curve.points.iter().map(|&(_, speed)| speed));
    let (low, high) = (speeds().fold(f64::INFINITY, f64::min), speeds().fold(0.0, f64::max));
    let ends = [device.batches.first(), device.batches.last()].map(|batch| batch.copied().unwrap_or(1) as f64);
    let x = Axis::new(Scale::Log, ends, [frame.left + 16.0, frame.right - 10.0]);
    (x, Axis::new(Scale::Log, [low.max(1e-6) / 1.15, high.max(1e-6) * 1.15], [frame.bottom, frame.top]))
}

fn grid(scene: &mut Scene, device: &Device, frame: Rect, x: Axis, y: Axis) {
    for power in -6..9 {
        for digit in [1.0, 2.0, 5.0] {
            let value = digit * 10_f64.powi(power);
            let place = y.at(value);
            if (frame.top..=frame.bottom).contains(&place) {
                scene.line(&[[frame.left, place], [frame.right, place]], GRID, 1.0);
                scene.text_centred([frame.left - 8.0, place], plain(value), TICK.at(Anchor::End));
            }
        }
    }
    for &batch in &device.batches {
        let place = x.at(batch as f64);
        scene.line(&[[place, frame.bottom], [place, frame.bottom + 5.0]], MUTED, 1.0);
        scene.text([place, frame.bottom + 19.0], batch.to_string(), TICK.at(Anchor::Middle));
    }
    scene.line(&[[frame.left, frame.bottom], [frame.right, frame.bottom]], MUTED, 1.0);
    scene.text([24.0, frame.top - 12.0], "tokens/s (log scale)", TICK);
    scene.text([frame.right, frame.bottom + 38.0], "batch size, sequences (log scale)", TICK.at(Anchor::End));
}

fn plain(value: f64) -> String {
    if value >= 1.0 { numbers::count(value as u64) } else { format!("{value}") }
}

/// Names right of the frame, in the order of the curves' ends, none on another.
fn end_labels(scene: &mut Scene, study: &Study, curves: &[Curve], [x, y]: [Axis; 2], frame: Rect) {
    let end = |curve: &Curve| curve.points.last().map_or([0.0, 0.0], |&(batch, speed)| [x.at(batch as f64), y.at(speed)]);
    let mut order: Vec<&Curve> = curves.iter().collect();
    order.sort_by(|a, b| end(a)[1].total_cmp(&end(b)[1]));
    let wanted: Vec<f64> = order.iter().map(|curve| end(curve)[1]).collect();
    for (curve, place) in order.iter().zip(spread(&wanted, LABEL_STEP, [frame.top - 24.0, frame.bottom + 30.0])) {
        let [from, height] = end(curve);
        let to = frame.right + LEADER_ROOM - 26.0;
        scene.line(&[[from + RADIUS + 2.0, height], [(from + RADIUS + 2.0).max(frame.right), height], [to, place]], LEADER, 0.8);
        marks::draw(scene, marks::mark(&study.rows[curve.row].record.method), [to + 8.0, place], 4.0);
        scene.text_centred([to + 18.0, place], curve.label.clone(), LABEL);
    }
}

/// Places in rising order at least `step` apart, near the wanted ones and inside `span` where it has the room.
fn spread(wanted: &[f64], step: f64, [low, high]: [f64; 2]) -> Vec<f64> {
    let mut places: Vec<f64> = Vec::new();
    for &want in wanted {
        places.push(places.last().map_or(want.max(low), |last| want.max(last + step)));
    }
    let mut ceiling = high;
    for place in places.iter_mut().rev() {
        *place = place.min(ceiling);
        ceiling = *place - step;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_distance_and_stay_inside() {
        assert_eq!(spread(&[10.0, 11.0, 50.0], 5.0, [0.0, 100.0]), [10.0, 15.0, 50.0]);
        assert_eq!(spread(&[95.0, 98.0, 99.0], 5.0, [0.0, 100.0]), [90.0, 95.0, 100.0]);
        assert_eq!(spread(&[-20.0, 3.0], 5.0, [0.0, 100.0]), [0.0, 5.0]);
    }
}
