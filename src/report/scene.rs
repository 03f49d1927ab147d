//! What a figure or a page is before anything draws it: lines, areas and texts at places, in logical pixels.
//!
//! Figures are made once and drawn by two backends of plotters (`plot.rs`) and by the PDF's pages (`pdf/`); tests ask the
//! scene itself where its texts lie.

use super::font;

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Color(pub u8, pub u8, pub u8);

/// Text and outlines. The HTML report's dark theme replaces this and the next three by their values.
pub const INK: Color = Color(0x1B, 0x1F, 0x24);
/// Second-rank text, axes.
pub const MUTED: Color = Color(0x57, 0x60, 0x6A);
/// Grid lines, rules.
pub const GRID: Color = Color(0xDF, 0xE3, 0xE8);
/// Background.
pub const PAPER: Color = Color(0xFF, 0xFF, 0xFF);

/// Which part of a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Cut of the font.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    Regular,
    Bold,
    /// Regular with digits of equal width, for columns of numbers; where plotters draws, it is Regular.
    Figures,
}

/// How a text looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextStyle {
    /// Pixels per em.
    pub size: f64,
    pub weight: Weight,
    pub anchor: Anchor,
    pub color: Color,
}

impl TextStyle {
    pub const fn new(size: f64) -> Self {
        TextStyle { size, weight: Weight::Regular, anchor: Anchor::Start, color: INK }
    }

    pub const fn bold(self) -> Self {
        TextStyle { weight: Weight::Bold, ..self }
    }

    pub const fn at(self, anchor: Anchor) -> Self {
        TextStyle { anchor, ..self }
    }

    pub const fn colored(self, color: Color) -> Self {
        TextStyle { color, ..self }
    }
}

/// x grows to the right, y downwards.
pub type Point = [f64; 2];

/// The three things that can be drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Line {
        points: Vec<Point>,
        color: Color,
        width: f64,
    },
    Area {
        points: Vec<Point>,
        color: Color,
    },
    /// `at` is on the baseline.
    Text {
        at: Point,
        text: String,
        style: TextStyle,
    },
}

/// A rectangle by its corners.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Rect {
    pub fn around(center: Point, half_width: f64, half_height: f64) -> Self {
        let [x, y] = center;
        Rect { left: x - half_width, top: y - half_height, right: x + half_width, bottom: y + half_height }
    }

    pub fn overlaps(&self, other: &Rect) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    pub fn inside(&self, other: &Rect) -> bool {
        self.left >= other.left && self.right <= other.right && self.top >= other.top && self.bottom <= other.bottom
    }

    pub fn corners(&self) -> Vec<Point> {
        vec![[self.left, self.top], [self.right, self.top], [self.right, self.bottom], [self.left, self.bottom]]
    }
}

/// A place of a figure that stands for one experiment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot {
    pub area: Rect,
    /// Place of the experiment in the study.
    pub row: usize,
}

/// A drawing of a given size.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub width: f64,
    pub height: f64,
    pub shapes: Vec<Shape>,
    pub spots: Vec<Spot>,
}

impl Scene {
    pub fn new(width: f64, height: f64) -> Self {
        Scene { width, height, shapes: Vec::new(), spots: Vec::new() }
    }

    pub fn line(&mut self, points: &[Point], color: Color, width: f64) {
        self.shapes.push(Shape::Line { points: points.to_vec(), color, width });
    }

    /// A straight line in strokes of `stroke` pixels with gaps of the same length.
    pub fn dashed(&mut self, from: Point, to: Point, stroke: f64, color: Color, width: f64) {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let length = dx.hypot(dy);
        let at = |d: f64| [from[0] + dx * d / length, from[1] + dy * d / length];
        let mut start = 0.0;
        while start < length {
            self.line(&[at(start), at((start + stroke).min(length))], color, width);
            start += 2.0 * stroke;
        }
    }

    pub fn area(&mut self, points: Vec<Point>, color: Color) {
        self.shapes.push(Shape::Area { points, color });
    }

    /// An area with an outline.
    pub fn outlined(&mut self, points: Vec<Point>, fill: Color, outline: Color, width: f64) {
        self.area(points.clone(), fill);
        let closed: Vec<Point> = points.iter().chain(points.first()).copied().collect();
        self.line(&closed, outline, width);
    }

    pub fn text(&mut self, at: Point, text: impl Into<String>, style: TextStyle) {
        self.shapes.push(Shape::Text { at, text: text.into(), style });
    }

    /// A text whose capitals are centred on `y`.
    pub fn text_centred(&mut self, [x, y]: Point, text: impl Into<String>, style: TextStyle) {
        self.text([x, y + font::CAP_HEIGHT * style.size / 2.0], text, style);
    }

    /// Draws another scene with its top left corner at `at`, scaled.
    pub fn place(&mut self, other: &Scene, at: Point, scale: f64) {
        let moved = |[x, y]: Point| [at[0] + x * scale, at[1] + y * scale];
        self.shapes.extend(other.shapes.iter().map(|shape| match shape {
            Shape::Line { points, color, width } => {
                Shape::Line { points: points.iter().copied().map(moved).collect(), color: *color, width: width * scale }
            }
            Shape::Area { points, color } => Shape::Area { points: points.iter().copied().map(moved).collect(), color: *color },
            Shape::Text { at, text, style } => {
                Shape::Text { at: moved(*at), text: text.clone(), style: TextStyle { size: style.size * scale, ..*style } }
            }
        }));
    }

    /// The boxes that the texts take, with each text.
    #[cfg(test)]
    pub fn text_boxes(&self) -> Vec<(Rect, &str)> {
        let boxes = self.shapes.iter().filter_map(|shape| match shape {
            Shape::Text { at, text, style } => Some((text_box(*at, text, *style), text.as_str())),
            _ => None,
        });
        boxes.collect()
    }
}

/// The box of a text whose baseline is at `at`.
#[cfg(test)]
pub fn text_box(at: Point, text: &str, style: TextStyle) -> Rect {
    let width = font::width(text, style.size, style.weight);
    let left = match style.anchor {
        Anchor::Start => at[0],
        Anchor::Middle => at[0] - width / 2.0,
        Anchor::End => at[0] - width,
    };
    let (up, down) = (font::ASCENT * style.size, font::DESCENT * style.size);
    Rect { left, top: at[1] - up, right: left + width, bottom: at[1] + down }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_end_where_the_line_ends() {
        let mut scene = Scene::new(10.0, 10.0);
        scene.dashed([0.0, 0.0], [0.0, 5.0], 2.0, INK, 1.0);
        let ends: Vec<Vec<Point>> = scene
            .shapes
            .iter()
            .map(|shape| match shape {
                Shape::Line { points, .. } => points.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ends, [vec![[0.0, 0.0], [0.0, 2.0]], vec![[0.0, 4.0], [0.0, 5.0]]]);
    }

    #[test]
    fn a_placed_scene_is_scaled_and_moved() {
        let mut inner = Scene::new(10.0, 10.0);
        inner.text([2.0, 4.0], "a", TextStyle::new(10.0));
        let mut outer = Scene::new(100.0, 100.0);
        outer.place(&inner, [50.0, 60.0], 0.5);
        assert_eq!(outer.shapes, [Shape::Text { at: [51.0, 62.0], text: "a".into(), style: TextStyle::new(5.0) }]);
    }

    #[test]
    fn boxes_touching_at_an_edge_do_not_overlap() {
        let a = Rect { left: 0.0, top: 0.0, right: 2.0, bottom: 2.0 };
        assert!(!a.overlaps(&Rect { left: 2.0, right: 3.0, ..a }));
        assert!(a.overlaps(&Rect { left: 1.9, right: 3.0, ..a }));
    }
}
