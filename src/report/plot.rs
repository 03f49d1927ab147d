//! Draws scenes with plotters: as SVG, and as PNG.

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{PathElement, Polygon, Text};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontFamily, IntoFont, RGBColor, TextStyle as PlottersText};

use super::scene::{Anchor, Color, PAPER, Scene, Shape, TextStyle};
use super::{ReportError, font};

/// Plotters places at whole units: so many to a logical pixel keep small marks round.
const SVG_UNITS: u32 = 10;
/// PNG pixels to a logical pixel.
const PNG_SCALE: u32 = 2;
/// Plotters draws areas without smoothing: a PNG is drawn so many times larger and averaged.
const OVERSAMPLING: u32 = 2;

/// How a backend sizes and places texts: plotters' two differ.
#[derive(Clone, Copy)]
struct Units {
    /// Backend's units to a logical pixel.
    scale: f64,
    /// Plotters' font size of one em.
    em: f64,
    /// From the top, which texts are anchored at, to the baseline, in ems.
    baseline: f64,
}

/// The scene as an SVG file.
pub fn svg(scene: &Scene) -> Result<String, ReportError> {
    let units = Units { scale: f64::from(SVG_UNITS), em: 1.24, baseline: 0.76 };
    let (width, height) = (scene.width.ceil() as u32, scene.height.ceil() as u32);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width * SVG_UNITS, height * SVG_UNITS)).into_drawing_area();
        draw(scene, &area, units)?;
    }
    // The backend gives its units as pixels; the view box keeps them.
    let (inner_width, inner_height) = (width * SVG_UNITS, height * SVG_UNITS);
    Ok(text.replacen(
        &format!("width=\"{inner_width}\" height=\"{inner_height}\""),
        &format!("width=\"{width}\" height=\"{height}\""),
        1,
    ))
}

/// Units of the view box to a logical pixel, for what is laid over an SVG.
pub fn svg_units() -> f64 {
    f64::from(SVG_UNITS)
}

/// The scene as a PNG file, two pixels to a logical one.
pub fn png(scene: &Scene) -> Result<Vec<u8>, ReportError> {
    let (width, height) = (scene.width.ceil() as u32 * PNG_SCALE, scene.height.ceil() as u32 * PNG_SCALE);
    let (large_width, large_height) = (width * OVERSAMPLING, height * OVERSAMPLING);
    let mut large = vec![0; 3 * large_width as usize * large_height as usize];
    {
        let scale = f64::from(PNG_SCALE * OVERSAMPLING);
        let em = font::PLOTTERS_BITMAP_EM;
        let units = Units { scale, em, baseline: em / 2.0 };
        let area = BitMapBackend::with_buffer(&mut large, (large_width, large_height)).into_drawing_area();
        draw(scene, &area, units)?;
    }
    encode(&averaged(&large, width as usize), width, height)
}

/// Squares of pixels become their mean.
fn averaged(large: &[u8], width: usize) -> Vec<u8> {
    let over = OVERSAMPLING as usize;
    let row = 3 * width * over;
    let mean = |rows: &[u8], x: usize, channel: usize| {
        let values = (0..over).flat_map(|dy| (0..over).map(move |dx| (dy, dx)));
        let sum: u32 = values.map(|(dy, dx)| u32::from(rows[dy * row + 3 * (x * over + dx) + channel])).sum();
        (sum / (OVERSAMPLING * OVERSAMPLING)) as u8
    };
    let rows = large.chunks_exact(row * over);
    rows.flat_map(|rows| (0..3 * width).map(move |at| mean(rows, at / 3, at % 3))).collect()
}

fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, ReportError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(pixels));
    written.map_err(|error| ReportError::Drawing { message: error.to_string() })?;
    Ok(bytes)
}

fn draw<DB: DrawingBackend>(scene: &Scene, area: &DrawingArea<DB, Shift>, units: Units) -> Result<(), ReportError> {
    font::register();
    let failed = |error: &dyn std::fmt::Display| ReportError::Drawing { message: error.to_string() };
    area.fill(&rgb(PAPER)).map_err(|error| failed(&error))?;
    let unit = |value: f64| (value * units.scale).round() as i32;
    let places = |points: &[[f64; 2]]| points.iter().map(|&[x, y]| (unit(x), unit(y))).collect::<Vec<_>>();
    for shape in &scene.shapes {
        let drawn = match shape {
            Shape::Line { points, color, width } => {
                let style = rgb(*color).stroke_width((width * units.scale).round().max(1.0) as u32);
                area.draw(&PathElement::new(places(points), style))
            }
            Shape::Area { points, color } => area.draw(&Polygon::new(places(points), rgb(*color).filled())),
            Shape::Text { at: [x, y], text, style } => {
                let top = y - units.baseline * style.size;
                area.draw(&Text::new(text.clone(), (unit(*x), unit(top)), text_style(style, units)))
            }
        };
        drawn.map_err(|error| failed(&error))?;
    }
    area.present().map_err(|error| failed(&error))
}

fn text_style(style: &TextStyle, units: Units) -> PlottersText<'static> {
    let font = (FontFamily::Name(font::FAMILY), style.size * units.scale * units.em, font::style(style.weight)).into_font();
    let place = match style.anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    PlottersText { font, color: rgb(style.color).to_backend_color(), pos: Pos::new(place, VPos::Top) }
}

fn rgb(Color(red, green, blue): Color) -> RGBColor {
    RGBColor(red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::scene::INK;

    #[test]
    fn an_svg_has_logical_size_and_fine_coordinates() {
        let mut scene = Scene::new(20.0, 10.0);
        scene.line(&[[1.26, 2.0], [3.0, 4.0]], INK, 1.5);
        let svg = svg(&scene).unwrap();
        assert!(svg.contains("width=\"20\" height=\"10\" viewBox=\"0 0 200 100\""), "{svg}");
        assert!(svg.contains("13,20 30,40") && svg.contains("stroke-width=\"15\""), "{svg}");
    }

    #[test]
    fn a_png_is_twice_as_large_and_smooth() {
        let mut scene = Scene::new(4.0, 2.0);
        scene.area(vec![[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [0.0, 2.0]], Color(0, 0, 0));
        let bytes = png(&scene).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (8, 4));
        let row: Vec<u8> = pixels[..24].iter().copied().step_by(3).collect();
        assert_eq!((row[0], row[1], row[7]), (0, 0, 255));
        assert!(row[2] > 0 && row[2] < 255, "{row:?}");
    }
}
