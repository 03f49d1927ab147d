//! How a method is drawn: a colour of Okabe and Ito's set (jfly.uni-koeln.de/color, 2008) and a shape, so that it is told
//! apart in grey and by colour-blind eyes.

use std::f64::consts::PI;

use super::scene::{Color, INK, PAPER, Point, Scene};

/// Form of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Star,
    Circle,
    Square,
    Triangle,
    TriangleDown,
    Diamond,
    Plus,
    Cross,
    Hexagon,
    Ring,
}

/// A method's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub color: Color,
    pub form: Form,
}

/// Methods in the order of legends, their marks and what they are.
const METHODS: &[(&str, Color, Form, &str)] = &[
    ("baseline", INK, Form::Star, "not quantized"),
    ("rtn", Color(0xE6, 0x9F, 0x00), Form::Circle, "round to nearest: each weight takes the nearest code, no data needed"),
    (
        "gptq",
        Color(0x00, 0x72, 0xB2),
        Form::Square,
        "GPTQ: columns are rounded one after another, each error passed on to those not yet rounded (Frantar et al. 2023)",
    ),
    (
        "awq",
        Color(0x00, 0x9E, 0x73),
        Form::Triangle,
        "AWQ: input features that matter are scaled up before rounding (Lin et al. 2024)",
    ),
    ("awq+gptq", Color(0xD5, 0x5E, 0x00), Form::TriangleDown, "AWQ scaling, then GPTQ"),
    (
        "nf4",
        Color(0xCC, 0x79, 0xA7),
        Form::Diamond,
        "NF4: sixteen codes at the quantiles of a normal distribution (Dettmers et al. 2023)",
    ),
    ("fp4", Color(0x56, 0xB4, 0xE9), Form::Plus, "FP4: sixteen codes of a 4-bit float"),
    (
        "llm-int8",
        Color(0xF0, 0xE4, 0x42),
        Form::Hexagon,
        "LLM.int8: INT8, input features with outliers stay f16 (Dettmers et al. 2022)",
    ),
    ("mixed", Color(0x99, 0x99, 0x99), Form::Cross, "widths chosen for each weight under a budget"),
];

/// The mark of `method`; a method that is not known is a ring.
pub fn mark(method: &str) -> Mark {
    match METHODS.iter().find(|(name, ..)| *name == method) {
        Some((_, color, form, _)) => Mark { color: *color, form: *form },
        None => Mark { color: PAPER, form: Form::Ring },
    }
}

/// One line on what `method` does, where it is known.
pub fn meaning(method: &str) -> Option<&'static str> {
    METHODS.iter().find(|(name, ..)| *name == method).map(|(.., meaning)| *meaning)
}

/// Place of `method` in legends: those not known come last.
pub fn order(method: &str) -> usize {
    METHODS.iter().position(|(name, ..)| *name == method).unwrap_or(METHODS.len())
}

/// Draws a mark with an outline.
pub fn draw(scene: &mut Scene, mark: Mark, center: Point, radius: f64) {
    scene.outlined(outline(mark.form, center, radius), mark.color, INK, radius * 0.18);
    if mark.form == Form::Ring {
        scene.outlined(outline(Form::Circle, center, radius * 0.45), INK, INK, radius * 0.1);
    }
}

/// Corners of a form of about equal weight at equal `radius`.
fn outline(form: Form, center: Point, radius: f64) -> Vec<Point> {
    let regular = |corners: usize, turn: f64, size: f64| -> Vec<Point> {
        let angle = |corner: usize| turn + 2.0 * PI * corner as f64 / corners as f64;
        (0..corners).map(|corner| [size * angle(corner).cos(), size * angle(corner).sin()]).collect()
    };
    let points = match form {
        Form::Circle | Form::Ring => regular(36, 0.0, 0.95),
        Form::Square => regular(4, PI / 4.0, 1.2),
        Form::Diamond => regular(4, 0.0, 1.25),
        Form::Triangle => regular(3, -PI / 2.0, 1.3),
        Form::TriangleDown => regular(3, PI / 2.0, 1.3),
        Form::Hexagon => regular(6, PI / 6.0, 1.1),
        Form::Star => star(),
        Form::Plus => plus(0.0),
        Form::Cross => plus(PI / 4.0),
    };
    points.into_iter().map(|[x, y]| [center[0] + radius * x, center[1] + radius * y]).collect()
}

fn star() -> Vec<Point> {
    let corner = |at: usize| {
        let (angle, size) = (-PI / 2.0 + PI * at as f64 / 5.0, if at.is_multiple_of(2) { 1.45 } else { 0.62 });
        [size * angle.cos(), size * angle.sin()]
    };
    (0..10).map(corner).collect()
}

fn plus(turn: f64) -> Vec<Point> {
    let (long, short) = (1.25, 0.42);
    let quarter = [[short, short], [short, long], [-short, long]];
    let turned = |[x, y]: Point, angle: f64| [x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()];
    (0..4).flat_map(|arm| quarter.map(|point| turned(point, turn + PI / 2.0 * f64::from(arm)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_methods_share_a_colour_or_a_form() {
        for (at, (name, color, form, _)) in METHODS.iter().enumerate() {
            for (other, other_color, other_form, _) in &METHODS[..at] {
                assert!(color != other_color && form != other_form, "{name} and {other}");
            }
        }
    }

    #[test]
    fn an_unknown_method_is_a_ring_and_comes_last() {
        assert_eq!(mark("novel").form, Form::Ring);
        assert!(order("novel") > order("mixed"));
        assert_eq!(mark("gptq").form, Form::Square);
    }

    #[test]
    fn a_plus_has_twelve_corners_around_its_center() {
        let corners = outline(Form::Plus, [10.0, 20.0], 2.0);
        assert_eq!(corners.len(), 12);
        let sum = corners.iter().fold([0.0, 0.0], |sum, point| [sum[0] + point[0], sum[1] + point[1]]);
        assert!((sum[0] / 12.0 - 10.0).abs() < 1e-9 && (sum[1] / 12.0 - 20.0).abs() < 1e-9);
    }
}
