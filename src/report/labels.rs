//! Places labels beside the points of a scatter so that none covers another label, a mark or the frame.

use std::collections::HashMap;
use std::f64::consts::PI;

use super::scene::{Point, Rect};

/// A point and the size of the label that belongs to it.
#[derive(Debug, Clone, Copy)]
pub struct Labelled {
    pub point: Point,
    pub width: f64,
    pub height: f64,
}

/// Distances from the point to the label's nearest edge that are tried, pixels.
const NEAR: f64 = 7.0;
const STEP: f64 = 7.0;
const RINGS: usize = 60;
/// Half the width of a point's mark, which leaders of others go around.
const MARK: f64 = 5.0;
/// Directions of a ring.
const DIRECTIONS: usize = 24;

/// What a label may cover, if it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Nothing, and no leader line crosses a label.
    Full,
    /// Lines, where there is no other room; never a mark or another label.
    Crowded,
}

/// What labels keep off.
#[derive(Debug, Clone, Copy)]
pub struct Obstacles<'a> {
    pub marks: &'a [Rect],
    /// Bars, fronts, grid lines that mean something.
    pub lines: &'a [Rect],
}

/// The box of each label inside `frame`, or none where there is no room for all of them.
///
/// Greedy: points in the densest surroundings choose first, each the nearest free place; leader lines go around other points where they
/// can.
pub fn place(points: &[Labelled], obstacles: Obstacles<'_>, frame: Rect, care: Care) -> Option<Vec<Rect>> {
    let mut placed: Vec<Option<Rect>> = vec![None; points.len()];
    let lines = Nearby::of(obstacles.lines.iter().map(|&line| (line, line)));
    let marks = Nearby::of(points.iter().enumerate().map(|(at, other)| {
        let mark = Rect::around(other.point, MARK, MARK);
        (mark, (at, mark))
    }));
    let mut taken = Nearby::of(obstacles.marks.iter().map(|&mark| (mark, mark)));
    let (mut labels, mut leaders) = (Nearby::of([]), Nearby::of([]));
    for at in densest_first(points) {
        let point = points[at].point;
        let free = |label: &Rect| label.inside(&frame) && !taken.any(label, |other| label.overlaps(other));
        let open = |label: &Rect| !lines.any(label, |line| label.overlaps(line));
        let apart = |label: &Rect| {
            let line = leader(point, label);
            !labels.any(&around(line), |other| crosses(line, other)) && !leaders.any(label, |&other| crosses(other, label))
        };
        let clear = |label: &Rect| {
            let line = leader(point, label);
            !marks.any(&around(line), |(other, mark)| *other != at && crosses(line, mark))
        };
        let candidates = || candidates(points[at]).filter(free);
        let mut found = candidates().find(|label| open(label) && apart(label) && clear(label));
        found = found.or_else(|| candidates().find(|label| open(label) && apart(label)));
        if care == Care::Crowded {
            found = found.or_else(|| candidates().find(|label| apart(label))).or_else(|| candidates().next());
        }
        let label = found?;
        let line = leader(point, &label);
        taken.insert(&label, label);
        labels.insert(&label, label);
        leaders.insert(&around(line), line);
        placed[at] = Some(label);
    }
    placed.into_iter().collect()
}

/// Side of the squares that the plane is divided into, pixels: about a label's width.
const SQUARE: f64 = 100.0;

/// Things by the squares that they lie in, so that a question about a place looks at those near it only.
struct Nearby<T> {
    things: Vec<T>,
    squares: HashMap<(i64, i64), Vec<usize>>,
}

impl<T> Nearby<T> {
    fn of(things: impl IntoIterator<Item = (Rect, T)>) -> Nearby<T> {
        let mut nearby = Nearby { things: Vec::new(), squares: HashMap::new() };
        things.into_iter().for_each(|(area, thing)| nearby.insert(&area, thing));
        nearby
    }

    /// Adds a thing that lies inside `area`.
    fn insert(&mut self, area: &Rect, thing: T) {
        squares(area).for_each(|square| self.squares.entry(square).or_default().push(self.things.len()));
        self.things.push(thing);
    }

    /// Whether `wanted` holds for anything of which the area shares a square with this one.
    fn any(&self, area: &Rect, wanted: impl Fn(&T) -> bool) -> bool {
        squares(area).filter_map(|square| self.squares.get(&square)).flatten().any(|&at| wanted(&self.things[at]))
    }
}

/// The squares that an area touches.
fn squares(area: &Rect) -> impl Iterator<Item = (i64, i64)> + use<> {
    let [left, right, top, bottom] = [area.left, area.right, area.top, area.bottom].map(|edge| (edge / SQUARE).floor() as i64);
    (left..=right).flat_map(move |column| (top..=bottom).map(move |line| (column, line)))
}

/// The area that a line lies in.
fn around((a, b): Leader) -> Rect {
    Rect { left: a[0].min(b[0]), top: a[1].min(b[1]), right: a[0].max(b[0]), bottom: a[1].max(b[1]) }
}

/// Ends of the line that joins a label to its point.
type Leader = (Point, Point);

fn leader(point: Point, label: &Rect) -> Leader {
    (point, nearest(label, point))
}

/// The place of a label from which its leader line starts.
pub fn nearest(label: &Rect, [x, y]: Point) -> Point {
    [x.clamp(label.left, label.right), y.clamp(label.top, label.bottom)]
}

fn densest_first(points: &[Labelled]) -> Vec<usize> {
    let crowd = |at: usize| {
        let [x, y] = points[at].point;
        points.iter().map(|other| 1.0 / (20.0 + (other.point[0] - x).hypot(other.point[1] - y))).sum::<f64>()
    };
    let mut order: Vec<usize> = (0..points.len()).collect();
    let crowds: Vec<f64> = order.iter().map(|&at| crowd(at)).collect();
    order.sort_by(|&a, &b| crowds[b].total_cmp(&crowds[a]));
    order
}

/// Boxes around a point: nearest ring first; in a ring to the right first, then left, above, below and what is between.
fn candidates(labelled: Labelled) -> impl Iterator<Item = Rect> {
    let Labelled { point: [x, y], width, height } = labelled;
    (0..RINGS).flat_map(move |ring| {
        let distance = NEAR + STEP * ring as f64;
        let turn = |at: usize| {
            let step = at.div_ceil(4) as f64 * PI / DIRECTIONS as f64;
            let sign = if at.is_multiple_of(2) { 1.0 } else { -1.0 };
            let base = if at % 4 < 2 { 0.0 } else { PI };
            base + sign * step
        };
        (0..2 * DIRECTIONS).map(move |at| {
            let (cos, sin) = (turn(at).cos(), turn(at).sin());
            let center = [x + cos * (distance + width / 2.0), y + sin * (distance + height / 2.0)];
            Rect::around(center, width / 2.0, height / 2.0)
        })
    })
}

/// Whether the straight line from a to b goes through the box (Liang and Barsky's clipping).
pub fn crosses((a, b): Leader, area: &Rect) -> bool {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let edges = [(-dx, a[0] - area.left), (dx, area.right - a[0]), (-dy, a[1] - area.top), (dy, area.bottom - a[1])];
    let (mut from, mut to) = (0.0_f64, 1.0_f64);
    for (toward, room) in edges {
        if toward == 0.0 {
            if room <= 0.0 {
                return false;
            }
        } else if toward < 0.0 {
            from = from.max(room / toward);
        } else {
            to = to.min(room / toward);
        }
    }
    from < to
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAME: Rect = Rect { left: 0.0, top: 0.0, right: 900.0, bottom: 600.0 };

    const NOTHING: Obstacles<'_> = Obstacles { marks: &[], lines: &[] };

    fn labelled(point: Point) -> Labelled {
        Labelled { point, width: 90.0, height: 14.0 }
    }

    #[test]
    fn a_lone_label_stands_to_the_right_of_its_point() {
        let places = place(&[labelled([100.0, 100.0])], NOTHING, FRAME, Care::Full).unwrap();
        assert_eq!(places, [Rect { left: 107.0, top: 93.0, right: 197.0, bottom: 107.0 }]);
    }

    #[test]
    fn at_the_right_edge_it_stands_to_the_left() {
        let places = place(&[labelled([890.0, 100.0])], NOTHING, FRAME, Care::Full).unwrap();
        assert!(places[0].right < 890.0, "{places:?}");
    }

    #[test]
    fn what_does_not_fit_is_not_placed() {
        let points = vec![labelled([50.0, 50.0]); 9];
        assert!(place(&points, NOTHING, Rect { left: 0.0, top: 0.0, right: 100.0, bottom: 100.0 }, Care::Crowded).is_none());
    }

    #[test]
    fn a_line_crosses_a_box_it_goes_through_and_none_it_touches() {
        let area = Rect { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 };
        assert!(crosses(([-5.0, 5.0], [15.0, 6.0]), &area));
        assert!(!crosses(([-5.0, -5.0], [15.0, -1.0]), &area));
        assert!(!crosses(([-5.0, 0.0], [15.0, 0.0]), &area));
    }

    #[test]
    fn a_question_looks_at_what_is_near_only() {
        let place = |at: usize| Rect::around([70.0 * at as f64, 50.0], 20.0, 5.0);
        let nearby = Nearby::of((0..10_000).map(|at| (place(at), at)));
        let looks = std::cell::Cell::new(0);
        assert!(!nearby.any(&place(5_000), |_| {
            looks.set(looks.get() + 1);
            false
        }));
        assert!(looks.get() < 10, "{}", looks.get());
        assert!(nearby.any(&place(5_000), |&at| at == 5_000));
    }

    proptest! {
        #[test]
        fn labels_never_cover_labels_or_marks(points in prop::collection::vec((20.0..880.0, 20.0..580.0), 1..40)) {
            let points: Vec<Labelled> = points.into_iter().map(|(x, y)| labelled([x, y])).collect();
            let marks: Vec<Rect> = points.iter().map(|point| Rect::around(point.point, 5.0, 5.0)).collect();
            let places = place(&points, Obstacles { marks: &marks, lines: &[] }, FRAME, Care::Crowded).expect("40 labels fit 900 × 600");
            for (at, label) in places.iter().enumerate() {
                prop_assert!(label.inside(&FRAME));
                prop_assert!(!places[..at].iter().chain(&marks).any(|other| label.overlaps(other)));
            }
        }
    }
}
