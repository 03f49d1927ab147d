//! The report's one font, compiled in, so that figures and pages look the same on a machine without any.
//!
//! Inter (rsms.me/inter, SIL Open Font License), subset to Latin and the signs that reports use by
//! `tests/goldens/make/make_report_fonts.py`; of the regular cut there is one with digits of equal width.

use std::sync::OnceLock;

use plotters::style::{FontFamily, FontStyle, IntoFont, register_font};

use super::scene::Weight;

pub const REGULAR: &[u8] = include_bytes!("fonts/Inter-Regular.otf");
pub const BOLD: &[u8] = include_bytes!("fonts/Inter-SemiBold.otf");
pub const FIGURES: &[u8] = include_bytes!("fonts/Inter-Tabular.otf");

/// As a file names it: whoever shows an SVG without the font takes the next.
pub const FAMILY: &str = "Inter, Helvetica, Arial, sans-serif";

/// Only ever measured.
const FIGURES_FAMILY: &str = "Inter with digits of equal width";

/// Height of capitals, ems.
pub const CAP_HEIGHT: f64 = 0.727;
/// What a line of text takes above and below its baseline, ems.
#[cfg(test)]
pub const ASCENT: f64 = 0.76;
#[cfg(test)]
pub const DESCENT: f64 = 0.2;
/// Plotters sizes a font by its ascent less its descent: ems of that for Inter.
pub const PLOTTERS_BITMAP_EM: f64 = 0.96875 + 0.2412;

/// Pixels per em at which widths are measured.
const MEASURED_AT: f64 = 2000.0;

/// Makes the font known to plotters; later calls do nothing.
pub fn register() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let cuts =
            [(FAMILY, FontStyle::Normal, REGULAR), (FAMILY, FontStyle::Bold, BOLD), (FIGURES_FAMILY, FontStyle::Normal, FIGURES)];
        for (family, style, bytes) in cuts {
            let registered = register_font(family, style, bytes);
            assert!(registered.is_ok(), "the fonts that are compiled in can be read");
        }
    });
}

/// Width of `text` at `size` pixels per em.
pub fn width(text: &str, size: f64, weight: Weight) -> f64 {
    register();
    let family = if weight == Weight::Figures { FIGURES_FAMILY } else { FAMILY };
    let font = (FontFamily::Name(family), MEASURED_AT * PLOTTERS_BITMAP_EM, style(weight)).into_font();
    let ((left, _), (right, _)) = font.layout_box(text).expect("a registered font has been read once");
    f64::from(right - left) / MEASURED_AT * size
}

/// The cut as plotters names it.
pub fn style(weight: Weight) -> FontStyle {
    match weight {
        Weight::Regular | Weight::Figures => FontStyle::Normal,
        Weight::Bold => FontStyle::Bold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_columns_are_of_equal_width_and_letters_are_not() {
        let width = |text| super::width(text, 100.0, Weight::Figures);
        assert_eq!(width("1111"), width("8080"));
        assert!(super::width("1111", 100.0, Weight::Regular) < width("1111"));
        assert!(width("iiii") < width("mmmm"));
        assert!((width("Δ+−±≤") - 5.0 * 60.0).abs() < 60.0, "{}", width("Δ+−±≤"));
    }
}
