//! F1 against bits per weight, with paired intervals and the Pareto front.

use super::axis::{Axis, Scale};
use super::{Extra, Figure, LABEL, TICK, WIDTH, legend, shown_name, titled};
use crate::record::{COQA, QUESTIONS};
use crate::report::labels::{self, Care, Labelled, Obstacles};
use crate::report::scene::{Anchor, Color, GRID, INK, MUTED, Point, Rect, Scene, Spot};
use crate::report::study::Study;
use crate::report::{font, marks, numbers};

const RADIUS: f64 = 6.0;
/// Distance of points of equal bits that are drawn side by side, pixels.
const DODGE: f64 = 7.0;
/// Bits that are drawn closer than this count as equal, pixels.
const EQUAL: f64 = 3.0;
/// Below this part of the baseline's F1 a score leaves the scale, which would be flat otherwise.
const COLLAPSED: f64 = 0.6;
/// Height of the strip for scores that left the scale.
const STRIP: f64 = 58.0;
const BAR: Color = Color(0x8C, 0x95, 0x9F);
const LINE_HEIGHT: f64 = 15.0;
const TICKS: &[f64] = &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0];
const TITLE: &str = "Accuracy against compression";

/// An experiment with both coordinates.
struct Dot {
    row: usize,
    bits: f64,
    f1: f64,
    /// Ends of the paired interval, as F1.
    interval: Option<[f64; 2]>,
    /// So far below the baseline that it is drawn under the scale.
    collapsed: bool,
}

/// Grows until every label has a place, and where it may not grow on lets labels cover lines.
pub fn figure(study: &Study, shown: &[usize]) -> Figure {
    let dots = dots(study, shown);
    let least = 560.0 + 10.0 * dots.len().saturating_sub(20) as f64;
    let heights = |care| [0.0, 80.0, 200.0].into_iter().map(move |more| (least + more, care));
    let mut attempts = heights(Care::Full).chain(heights(Care::Crowded));
    let scene = attempts.find_map(|(height, care)| drawn(study, shown, &dots, height, care));
    let missing = shown.len() - dots.len();
    let absent = match missing {
        0 => String::new(),
        1 => " One experiment without a size or a score is not drawn; the tables name it.".to_owned(),
        _ => format!(" {missing} experiments without a size or a score are not drawn; the tables name them."),
    };
    let below = match dots.iter().filter(|dot| dot.collapsed).count() {
        0 => "",
        _ => " Scores under 60 % of the baseline's stand below the scale, in brackets.",
    };
    let caption = format!(
        "CoQA F1 against bits per weight of the decoder's linears (scales and outliers counted, logarithmic). Bars: paired 95 % \
         interval of the difference from the baseline on the same questions, drawn around the baseline's F1; a bar that reaches the \
         dashed line is not distinguishable from the baseline. Stepped line: Pareto front. Points of equal bits are drawn side by side.{below}{absent}"
    );
    let scene = scene.unwrap_or_else(|| unlabelled(study, shown, &dots));
    Figure { name: "accuracy_vs_compression", title: TITLE.to_owned(), caption, scene }
}

fn dots(study: &Study, shown: &[usize]) -> Vec<Dot> {
    let base = study.baseline().f1();
    let dot = |&row: &usize| {
        let of = &study.rows[row];
        let interval = of.paired().zip(base).map(|(paired, base)| paired.ci95.map(|end| base + end));
        let (bits, f1) = (of.bits()?, of.f1()?);
        Some(Dot { row, bits, f1, interval, collapsed: base.is_some_and(|base| f1 < COLLAPSED * base) })
    };
    let mut dots: Vec<Dot> = shown.iter().filter_map(dot).collect();
    // Where nearly all collapsed, they are the picture.
    if dots.iter().filter(|dot| !dot.collapsed).count() < 3 {
        dots.iter_mut().for_each(|dot| dot.collapsed = false);
    }
    dots
}

/// The name; with the score where the scale does not show it.
fn label(study: &Study, dot: &Dot) -> String {
    let name = shown_name(&study.rows[dot.row]);
    if dot.collapsed { format!("{name} ({})", numbers::score(dot.f1)) } else { name }
}

/// The frame and both axes.
struct Plot {
    frame: Rect,
    /// Where the horizontal axis stands: below the frame, where scores left the scale.
    floor: f64,
    x: Axis,
    y: Axis,
}

fn drawn(study: &Study, shown: &[usize], dots: &[Dot], height: f64, care: Care) -> Option<Scene> {
    let (mut scene, plot) = prepared(study, shown, dots, height);
    let places = dodged(dots, &plot);
    let mut lines = front(&mut scene, study, dots, &places);
    lines.extend(baseline_line(&mut scene, study, &plot));
    lines.extend(bars(&mut scene, dots, &places, &plot));
    lines.push(Rect { top: plot.frame.bottom - 1.0, bottom: plot.frame.bottom + 1.0, ..plot.frame });
    let marks: Vec<Rect> = places.iter().map(|&place| Rect::around(place, RADIUS + 2.0, RADIUS + 2.0)).collect();
    let wanted: Vec<Labelled> = dots.iter().zip(&places).map(|(dot, &point)| label_size(study, dot, point)).collect();
    let room = Rect { bottom: plot.floor, ..plot.frame };
    let boxes = labels::place(&wanted, Obstacles { marks: &marks, lines: &lines }, room, care)?;
    marks_and_spots(&mut scene, study, dots, &places);
    for ((dot, &point), area) in dots.iter().zip(&places).zip(&boxes) {
        let anchor = labels::nearest(area, point);
        if (anchor[0] - point[0]).hypot(anchor[1] - point[1]) > RADIUS + 6.0 {
            scene.line(&[edge_towards(point, anchor), anchor], BAR, 0.8);
        }
        let middle = (area.top + area.bottom) / 2.0;
        scene.text_centred([area.left + 2.0, middle], label(study, dot), LABEL);
    }
    Some(scene)
}

/// Without names: for more points than labels can be placed for.
fn unlabelled(study: &Study, shown: &[usize], dots: &[Dot]) -> Scene {
    let (mut scene, plot) = prepared(study, shown, dots, 900.0);
    let places = dodged(dots, &plot);
    front(&mut scene, study, dots, &places);
    baseline_line(&mut scene, study, &plot);
    bars(&mut scene, dots, &places, &plot);
    marks_and_spots(&mut scene, study, dots, &places);
    scene
}

fn label_size(study: &Study, dot: &Dot, point: Point) -> Labelled {
    let width = font::width(&label(study, dot), LABEL.size, LABEL.weight) * 1.04 + 4.0;
    Labelled { point, width, height: LINE_HEIGHT }
}

fn edge_towards(from: Point, to: Point) -> Point {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let share = (RADIUS + 1.0) / dx.hypot(dy);
    [from[0] + dx * share, from[1] + dy * share]
}

fn prepared(study: &Study, shown: &[usize], dots: &[Dot], height: f64) -> (Scene, Plot) {
    let questions = study.baseline().task(COQA).map_or(String::new(), |coqa| {
        let count = numbers::count(coqa.count(QUESTIONS));
        format!("{count} questions, protocol {}", numbers::clipped(&coqa.version, 30))
    });
    let (mut scene, top) = titled(height, TITLE, &format!("CoQA F1, paired 95 % intervals of the difference; {questions}"));
    let extra = [
        Extra { name: "Pareto front", draw: |scene, x, y| scene.line(&[[x - 2.0, y], [x + 14.0, y]], INK, 1.6) },
        Extra { name: "baseline's F1", draw: |scene, x, y| scene.dashed([x - 2.0, y], [x + 15.0, y], 3.5, INK, 1.2) },
        Extra { name: "paired 95 % interval", draw: |scene, x, y| whisker(scene, x + 6.0, [y - 7.0, y + 7.0]) },
    ];
    let lower = legend(&mut scene, study, shown, top, &extra);
    let floor = height - 54.0;
    let strip = if dots.iter().any(|dot| dot.collapsed) { STRIP } else { 0.0 };
    let frame = Rect { left: 66.0, top: lower + 24.0, right: WIDTH - 24.0, bottom: floor - strip };
    let plot = axes(dots, study.baseline().f1(), frame, floor);
    grid(&mut scene, &plot);
    (scene, plot)
}

fn axes(dots: &[Dot], base: Option<f64>, frame: Rect, floor: f64) -> Plot {
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)])
    };
    let [low, high] = span(&mut dots.iter().map(|dot| dot.bits));
    let bits = if low.is_finite() { [low / 1.12, high * 1.12] } else { [2.0, 16.0] };
    let scores = dots.iter().filter(|dot| !dot.collapsed).flat_map(|dot| dot.interval.into_iter().flatten().chain([dot.f1]));
    let [low, high] = span(&mut scores.chain(base));
    let [low, high] = if low.is_finite() { [low, high] } else { [0.0, 1.0] };
    let room = 0.07 * (high - low).max(0.01);
    let x = Axis::new(Scale::Log, bits, [frame.left, frame.right]);
    let y = Axis::new(Scale::Linear, [(low - room).max(-0.01), (high + room).min(1.01)], [frame.bottom, frame.top]);
    Plot { frame, floor, x, y }
}

fn grid(scene: &mut Scene, plot: &Plot) {
    let frame = plot.frame;
    let (ticks, decimals) = plot.y.ticks(6);
    for value in ticks {
        let y = plot.y.at(value);
        scene.line(&[[frame.left, y], [frame.right, y]], GRID, 1.0);
        scene.text_centred(
            [frame.left - 8.0, y],
            format!("{value:.decimals$}", decimals = decimals.max(2)),
            TICK.at(Anchor::End),
        );
    }
    let inside = |value: &&f64| (frame.left..=frame.right).contains(&plot.x.at(**value));
    for value in TICKS.iter().filter(inside) {
        let x = plot.x.at(*value);
        scene.line(&[[x, plot.floor], [x, plot.floor + 5.0]], MUTED, 1.0);
        scene.text([x, plot.floor + 19.0], format!("{value}"), TICK.at(Anchor::Middle));
    }
    scene.line(&[[frame.left, plot.floor], [frame.right, plot.floor]], MUTED, 1.0);
    if plot.floor > frame.bottom {
        scene.dashed([frame.left, frame.bottom], [frame.right, frame.bottom], 1.5, MUTED, 1.0);
        scene.text_centred([frame.left - 8.0, (frame.bottom + plot.floor) / 2.0], "below", TICK.at(Anchor::End));
    }
    scene.text([frame.left - 42.0, frame.top - 10.0], "F1 (0 to 1)", TICK);
    scene.text([frame.right, plot.floor + 40.0], "bits per weight of the linears (log scale)", TICK.at(Anchor::End));
}

/// Where each dot is drawn: those that would cover each other's bars move apart sideways.
fn dodged(dots: &[Dot], plot: &Plot) -> Vec<Point> {
    let mut order: Vec<usize> = (0..dots.len()).collect();
    order.sort_by(|&a, &b| dots[a].bits.total_cmp(&dots[b].bits).then(dots[a].f1.total_cmp(&dots[b].f1)));
    let mut x: Vec<f64> = dots.iter().map(|dot| plot.x.at(dot.bits)).collect();
    for group in order.chunk_by(|&a, &b| (plot.x.at(dots[b].bits) - plot.x.at(dots[a].bits)).abs() < EQUAL) {
        let middle = group.iter().map(|&at| plot.x.at(dots[at].bits)).sum::<f64>() / group.len() as f64;
        // Under the scale marks stand at one height, so there they need their whole width.
        let step = if group.iter().any(|&at| dots[at].collapsed) { 2.5 * RADIUS } else { DODGE };
        let first = middle - step * (group.len() - 1) as f64 / 2.0;
        if group.len() > 1 {
            group.iter().enumerate().for_each(|(place, &at)| x[at] = first + step * place as f64);
        }
    }
    let inside = |x: f64| x.clamp(plot.frame.left + RADIUS, plot.frame.right - RADIUS);
    let strip = (plot.frame.bottom + plot.floor) / 2.0;
    dots.iter().zip(x).map(|(dot, x)| [inside(x), if dot.collapsed { strip } else { plot.y.at(dot.f1) }]).collect()
}

fn front(scene: &mut Scene, study: &Study, dots: &[Dot], places: &[Point]) -> Vec<Rect> {
    let place = |row: usize| dots.iter().position(|dot| dot.row == row && !dot.collapsed).map(|at| places[at]);
    let corners: Vec<Point> = study.pareto().into_iter().filter_map(place).collect();
    let mut steps: Vec<Point> = Vec::new();
    for &[x, y] in &corners {
        // What fewer bits reach holds until more bits reach a higher score.
        if let Some(&[_, before]) = steps.last() {
            steps.push([x, before]);
        }
        steps.push([x, y]);
    }
    if steps.len() > 1 {
        scene.line(&steps, INK, 1.6);
    }
    steps
        .windows(2)
        .map(|pair| Rect {
            left: pair[0][0].min(pair[1][0]) - 1.5,
            right: pair[0][0].max(pair[1][0]) + 1.5,
            top: pair[0][1].min(pair[1][1]) - 1.5,
            bottom: pair[0][1].max(pair[1][1]) + 1.5,
        })
        .collect()
}

fn baseline_line(scene: &mut Scene, study: &Study, plot: &Plot) -> Option<Rect> {
    let y = plot.y.at(study.baseline().f1()?);
    scene.dashed([plot.frame.left, y], [plot.frame.right, y], 4.0, INK, 1.2);
    Some(Rect { left: plot.frame.left, right: plot.frame.right, top: y - 1.5, bottom: y + 1.5 })
}

fn bars(scene: &mut Scene, dots: &[Dot], places: &[Point], plot: &Plot) -> Vec<Rect> {
    let mut taken = Vec::new();
    for (dot, &[x, _]) in dots.iter().zip(places) {
        let Some([low, high]) = dot.interval.filter(|_| !dot.collapsed) else { continue };
        let (top, bottom) = (plot.y.at(high), plot.y.at(low));
        whisker(scene, x, [top, bottom]);
        taken.push(Rect { left: x - 4.0, right: x + 4.0, top, bottom });
    }
    taken
}

fn whisker(scene: &mut Scene, x: f64, [top, bottom]: [f64; 2]) {
    scene.line(&[[x, top], [x, bottom]], BAR, 1.4);
    for y in [top, bottom] {
        scene.line(&[[x - 3.0, y], [x + 3.0, y]], BAR, 1.4);
    }
}

fn marks_and_spots(scene: &mut Scene, study: &Study, dots: &[Dot], places: &[Point]) {
    for (dot, &place) in dots.iter().zip(places) {
        marks::draw(scene, marks::mark(&study.rows[dot.row].record.method), place, RADIUS);
        scene.spots.push(Spot { area: Rect::around(place, RADIUS + 3.0, RADIUS + 3.0), row: dot.row });
    }
}
