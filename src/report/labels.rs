//! Places labels beside the points of a scatter so that none covers another label, a mark or the frame.

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
    for at in densest_first(points) {
        let point = points[at].point;
        let taken: Vec<Rect> = placed.iter().flatten().copied().collect();
        let leaders: Vec<Leader> =
            points.iter().zip(&placed).filter_map(|(from, label)| label.map(|label| leader(from.point, &label))).collect();
        let free = |label: &Rect| label.inside(&frame) && !taken.iter().chain(obstacles.marks).any(|other| label.overlaps(other));
        let open = |label: &Rect| !obstacles.lines.iter().any(|line| label.overlaps(line));
        let apart = |label: &Rect| {
            !taken.iter().any(|other| crosses(leader(point, label), other)) && !leaders.iter().any(|&other| crosses(other, label))
        };
        let clear = |label: &Rect| {
            let others = points.iter().enumerate().filter(|(other, _)| *other != at);
            !others.map(|(_, other)| Rect::around(other.point, MARK, MARK)).any(|mark| crosses(leader(point, label), &mark))
        };
        let around = || candidates(points[at]).filter(free);
        let mut found = around().find(|label| open(label) && apart(label) && clear(label));
        found = found.or_else(|| around().find(|label| open(label) && apart(label)));
        if care == Care::Crowded {
            found = found.or_else(|| around().find(|label| apart(label))).or_else(|| around().next());
        }
        placed[at] = Some(found?);
    }
    placed.into_iter().collect()
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
    order.sort_by(|&a, &b| crowd(b).total_cmp(&crowd(a)));
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
