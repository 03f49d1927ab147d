//! `report.pdf`: four pages of A4. Pages are scenes in points (`page` sets text, `content` says what), written by krilla.
//!
//! krilla is the writer under typst; typst itself would set pages finer and costs 300 more crates to build.

mod content;
mod page;

use krilla::Document;
use krilla::action::{Action, LinkAction};
use krilla::annotation::{Annotation, LinkAnnotation, Target};
use krilla::color::rgb;
use krilla::geom::{PathBuilder, Point as KrillaPoint, Rect as KrillaRect};
use krilla::metadata::Metadata;
use krilla::num::NormalizedF32;
use krilla::page::PageSettings;
use krilla::paint::{Fill, FillRule, LineCap, LineJoin, Stroke};
use krilla::surface::Surface;
use krilla::text::{Font, TextDirection};

use super::recommend::Recommendation;
use super::scene::{Anchor, Color, Point, Rect, Shape, TextStyle, Weight};
use super::study::Study;
use super::{ReportError, font};
use page::{HEIGHT, Page, WIDTH};

/// The cuts of the font, embedded as far as they are used.
struct Fonts {
    regular: Font,
    bold: Font,
    figures: Font,
}

/// The file's bytes; the same study gives the same ones.
pub fn pdf(study: &Study, recommendation: &Recommendation) -> Result<Vec<u8>, ReportError> {
    let failed = |message: &str| ReportError::Pdf { message: message.to_owned() };
    let font = |bytes: &'static [u8]| Font::new(bytes.to_vec().into(), 0).ok_or_else(|| failed("the font cannot be read"));
    let fonts = Fonts { regular: font(font::REGULAR)?, bold: font(font::BOLD)?, figures: font(font::FIGURES)? };
    let mut document = Document::new();
    let title = format!("How few bits: {}", study.baseline().record.model.source);
    document.set_metadata(Metadata::new().title(title).language("en".to_owned()).creator("qonnx".to_owned()));
    let settings = PageSettings::from_wh(WIDTH as f32, HEIGHT as f32).ok_or_else(|| failed("A4 has no area"))?;
    for page in content::pages(study, recommendation) {
        let mut target = document.start_page_with(settings.clone());
        let mut surface = target.surface();
        page.scene.shapes.iter().for_each(|shape| draw(&mut surface, shape, &fonts));
        surface.finish();
        links(&page).for_each(|link| target.add_annotation(link));
        target.finish();
    }
    document.finish().map_err(|error| failed(&format!("{error:?}")))
}

fn links(page: &Page) -> impl Iterator<Item = Annotation> {
    page.links.iter().filter_map(|(area, address)| {
        let Rect { left, top, right, bottom } = *area;
        let area = KrillaRect::from_ltrb(left as f32, top as f32, right as f32, bottom as f32)?;
        let target = Target::Action(Action::Link(LinkAction::new(address.clone())));
        Some(Annotation::new_link(LinkAnnotation::new(area, target), Some(address.clone())))
    })
}

fn draw(surface: &mut Surface<'_>, shape: &Shape, fonts: &Fonts) {
    match shape {
        Shape::Line { points, color, width } => {
            surface.set_fill(None);
            surface.set_stroke(Some(stroke(*color, *width)));
            path(surface, points, false);
        }
        Shape::Area { points, color } => {
            surface.set_stroke(None);
            surface.set_fill(Some(fill(*color)));
            path(surface, points, true);
        }
        Shape::Text { at, text, style } => {
            surface.set_stroke(None);
            surface.set_fill(Some(fill(style.color)));
            let font = match style.weight {
                Weight::Regular => &fonts.regular,
                Weight::Bold => &fonts.bold,
                Weight::Figures => &fonts.figures,
            };
            let [x, y] = start(*at, text, style);
            let place = KrillaPoint::from_xy(x as f32, y as f32);
            surface.draw_text(place, font.clone(), style.size as f32, text, false, TextDirection::LeftToRight);
        }
    }
}

/// Left end of the baseline.
fn start([x, y]: Point, text: &str, style: &TextStyle) -> Point {
    let width = font::width(text, style.size, style.weight);
    match style.anchor {
        Anchor::Start => [x, y],
        Anchor::Middle => [x - width / 2.0, y],
        Anchor::End => [x - width, y],
    }
}

fn path(surface: &mut Surface<'_>, points: &[Point], closed: bool) {
    let mut builder = PathBuilder::new();
    for (at, [x, y]) in points.iter().enumerate() {
        match at {
            0 => builder.move_to(*x as f32, *y as f32),
            _ => builder.line_to(*x as f32, *y as f32),
        }
    }
    if closed || points.len() > 2 && points.first() == points.last() {
        builder.close();
    }
    // A path of no extent draws nothing.
    if let Some(path) = builder.finish() {
        surface.draw_path(&path);
    }
}

fn fill(color: Color) -> Fill {
    Fill { paint: krilla_color(color).into(), opacity: NormalizedF32::ONE, rule: FillRule::NonZero }
}

fn stroke(color: Color, width: f64) -> Stroke {
    Stroke {
        paint: krilla_color(color).into(),
        width: width as f32,
        line_cap: LineCap::Butt,
        line_join: LineJoin::Round,
        ..Default::default()
    }
}

fn krilla_color(Color(red, green, blue): Color) -> rgb::Color {
    rgb::Color::new(red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::made_up;
    use crate::report::recommend::recommend;

    fn studies() -> Vec<(&'static str, Study)> {
        vec![
            ("fixture", made_up::whole()),
            ("3", made_up::of_size(3)),
            ("40", made_up::of_size(40)),
            ("CUDA", made_up::on_cuda()),
            ("hostile", made_up::hostile()),
            ("text alone", made_up::text_alone()),
            ("baseline alone", made_up::study(vec![made_up::baseline()])),
        ]
    }

    #[test]
    fn there_are_four_pages_of_a4_whatever_the_study() {
        for (name, study) in studies() {
            let bytes = pdf(&study, &recommend(&study)).unwrap();
            let document = lopdf::Document::load_mem(&bytes).unwrap();
            assert_eq!(document.get_pages().len(), 4, "{name}");
        }
    }

    #[test]
    fn nothing_leaves_its_page_or_covers_another_text() {
        for (name, study) in studies() {
            for (number, page) in (1..).zip(content::pages(&study, &recommend(&study))) {
                assert!(page.fits(), "{name}, page {number}: {} points too long", -page.room());
                let whole = Rect { left: page::LEFT - 1.0, top: 0.0, right: page::RIGHT + 1.0, bottom: HEIGHT };
                let boxes = page.scene.text_boxes();
                for (at, (area, text)) in boxes.iter().enumerate() {
                    assert!(area.inside(&whole), "{name}, page {number}: {text:?} at {area:?}");
                    let covered = boxes[..at].iter().find(|(other, _)| area.overlaps(other));
                    assert!(covered.is_none(), "{name}, page {number}: {text:?} covers {covered:?}");
                }
            }
        }
    }

    #[test]
    fn a_line_of_the_accuracy_table_has_its_records_numbers() {
        use crate::report::numbers;
        let study = made_up::whole();
        let pages = content::pages(&study, &recommend(&study));
        let boxes = pages[1].scene.text_boxes();
        let mut found = 0;
        for row in &study.rows {
            let named = boxes.iter().filter(|(area, text)| *text == row.name() && area.left < 200.0);
            // The table stands below the figure, which names them too.
            let Some((place, _)) = named.max_by(|(a, _), (b, _)| a.top.total_cmp(&b.top)) else { continue };
            let line: Vec<&str> =
                boxes.iter().filter(|(area, _)| (area.top - place.top).abs() < 2.0).map(|(_, text)| *text).collect();
            let mut wanted = vec![row.number.to_string()];
            wanted.extend(row.bits().map(numbers::bits));
            wanted.extend(row.f1().map(numbers::score));
            wanted.extend(row.paired().map(|paired| numbers::difference(paired.difference)));
            wanted.extend(row.paired().map(|paired| numbers::interval(paired.ci95)));
            for number in wanted {
                assert!(line.contains(&number.as_str()), "{}: {number} of {line:?}", row.name());
            }
            found += 1;
        }
        assert!(found >= 12, "{found} lines");
    }

    #[test]
    fn a_study_is_the_same_bytes_again_and_what_is_left_out_is_counted() {
        let study = made_up::of_size(40);
        assert_eq!(pdf(&study, &recommend(&study)).unwrap(), pdf(&study, &recommend(&study)).unwrap());
        let pages = content::pages(&study, &recommend(&study));
        let texts: Vec<&str> = pages[1].scene.text_boxes().into_iter().map(|(_, text)| text).collect();
        let numbers = texts.iter().filter(|text| text.parse::<usize>().is_ok_and(|number| number <= 40)).count();
        let more = texts.iter().find_map(|text| text.strip_prefix("… and ")?.split(' ').next()?.parse::<usize>().ok()).unwrap();
        // Ticks of the figure are whole numbers too.
        assert!(more >= 10 && numbers + more >= 40, "{numbers} shown, {more} more");
    }
}
