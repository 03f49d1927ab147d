//! The report's one font, compiled in, so that figures and pages look the same on a machine without any.
//!
//! Inter (rsms.me/inter, SIL Open Font License) in two cuts, subset to Latin and the signs that reports use, its digits
//! replaced by those of equal width; `scripts/make_report_fonts.py` makes the files.

use std::sync::OnceLock;

use plotters::style::{FontFamily, FontStyle, IntoFont, register_font};

use super::scene::Weight;

pub const REGULAR: &[u8] = include_bytes!("fonts/Inter-Regular.otf");
pub const BOLD: &[u8] = include_bytes!("fonts/Inter-SemiBold.otf");

/// As a file names it: whoever shows an SVG without the font takes the next.
pub const FAMILY: &str = "Inter, Helvetica, Arial, sans-serif";

/// Height of capitals, ems.
pub const CAP_HEIGHT: f64 = 0.727;
/// What a line of text takes above and below its baseline, ems.
pub const ASCENT: f64 = 0.80;
pub const DESCENT: f64 = 0.22;
/// Plotters sizes a font by its ascent less its descent: ems of that for Inter.
pub const PLOTTERS_BITMAP_EM: f64 = 0.96875 + 0.2412;

/// Pixels per em at which widths are measured.
const MEASURED_AT: f64 = 2000.0;

/// Makes the font known to plotters; later calls do nothing.
pub fn register() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        for (style, bytes) in [(FontStyle::Normal, REGULAR), (FontStyle::Bold, BOLD)] {
            let registered = register_font(FAMILY, style, bytes);
            assert!(registered.is_ok(), "the fonts that are compiled in can be read");
        }
    });
}

/// Width of `text` at `size` pixels per em.
pub fn width(text: &str, size: f64, weight: Weight) -> f64 {
    register();
    let font = (FontFamily::Name(FAMILY), MEASURED_AT * PLOTTERS_BITMAP_EM, style(weight)).into_font();
    let ((left, _), (right, _)) = font.layout_box(text).expect("a registered font has been read once");
    f64::from(right - left) / MEASURED_AT * size
}

/// The cut as plotters names it.
pub fn style(weight: Weight) -> FontStyle {
    match weight {
        Weight::Regular => FontStyle::Normal,
        Weight::Bold => FontStyle::Bold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_of_equal_width_and_letters_are_not() {
        let width = |text| super::width(text, 100.0, Weight::Regular);
        assert_eq!(width("1111"), width("8080"));
        assert!(width("iiii") < width("mmmm"));
        assert!((width("Δ+−±≤") - 5.0 * 60.0).abs() < 60.0, "{}", width("Δ+−±≤"));
    }
}
