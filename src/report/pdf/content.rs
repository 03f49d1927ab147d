//! What stands on the four pages: question and method; accuracy; hardware; recommendation and limits.

use super::page::{LEFT, Page, RIGHT, TableColumn, TableLine};
use crate::record::{KL_MEAN, TEXT_PERPLEXITY};
use crate::report::figure::{self, Figure};
use crate::report::findings::{self, Finding};
use crate::report::limits::limits;
use crate::report::method;
use crate::report::numbers::{self, NONE};
use crate::report::recommend::Recommendation;
use crate::report::scene::{Anchor, Scene};
use crate::report::selection::{chosen, selection};
use crate::report::study::{Accuracy, Row, Study};

/// Sizes of running text that are tried, from the wanted one down.
const SIZES: [f64; 6] = [9.6, 9.2, 8.8, 8.2, 7.6, 7.0];
/// Most experiments that the accuracy figure names on paper.
const MOST_POINTS: usize = 24;
/// Smaller than this part of its natural size a figure is not legible.
const SMALLEST_SCALE: f64 = 0.56;
/// Most experiments that the page on hardware shows as bars, and as curves.
const MOST_BARS: usize = 20;
const MOST_CURVES: usize = 8;
/// Lines of one finding or limit.
const MOST_LINES: usize = 6;

/// The four pages.
pub fn pages(study: &Study, recommendation: &Recommendation) -> [Page; 4] {
    [
        fitting(&|size| question(study, recommendation, size)),
        fitting(&|size| accuracy(study, recommendation, size)),
        fitting(&|size| hardware(study, recommendation, size)),
        fitting(&|size| conclusion(study, recommendation, size)),
    ]
}

/// The page at the largest text size at which it is no longer than a page.
fn fitting(make: &dyn Fn(f64) -> Page) -> Page {
    let [first, rest @ ..] = SIZES;
    rest.iter().fold(make(first), |page, &size| if page.fits() { page } else { make(size) })
}

fn new_page(study: &Study, number: usize, size: f64) -> Page {
    Page::new(number, &format!("How few bits: {}", study.baseline().record.model.source), size)
}

fn question(study: &Study, recommendation: &Recommendation, size: f64) -> Page {
    let mut page = new_page(study, 1, size);
    page.title(&format!("How few bits: {}", numbers::clipped(&study.baseline().record.model.source, 40)));
    page.paragraph(&method::question(study), 4);
    page.heading("Answer in short");
    let found = findings::findings(study, recommendation);
    found.iter().take(2).for_each(|finding| page.titled(&finding.title, &finding.text, MOST_LINES));
    page.note("Evidence, the other findings and the limits: page 4.", 1);
    page.heading("Method");
    method::paragraphs(study).iter().for_each(|text| page.paragraph(text, 9));
    page.heading("What is compared");
    method::methods(study).iter().take(12).for_each(|(name, meaning)| page.term(name, meaning, 62.0, 3));
    page.heading("Measured with");
    method::facts(study).iter().for_each(|(name, value)| page.term(name, value, 104.0, 2));
    page
}

fn column(header: &'static str, width: f64, anchor: Anchor) -> TableColumn {
    TableColumn { header, width, anchor }
}

fn accuracy(study: &Study, recommendation: &Recommendation, size: f64) -> Page {
    let mut page = new_page(study, 2, size);
    page.title("Accuracy");
    let shown = chosen(study, recommendation, MOST_POINTS);
    if let Some(Figure { scene, caption, .. }) = figure::accuracy(study, &shown) {
        page.figure(&scene, 0.52 * page.room());
        page.space(4.0);
        page.note(&format!("{caption}{}", selection(study, shown.len())), 6);
    }
    if let Some(undrawn) = figure::undrawn(study) {
        page.paragraph(undrawn, 3);
    }
    let columns = accuracy_columns(study);
    // One line for what is left out, one for the explanation.
    let room = page.room() - 3.2 * page.size;
    let lines = (1..=study.rows.len()).rev().find(|&lines| page.table_height(lines) <= room).unwrap_or(1);
    let rows = chosen(study, recommendation, lines);
    let lines: Vec<TableLine> = rows.iter().map(|&at| accuracy_line(study, &study.rows[at])).collect();
    page.table(&columns, &lines);
    let more = study.rows.len() - rows.len();
    let more = if more > 0 { format!("… and {more} more in REPORT.md. ") } else { String::new() };
    let explained = match study.accuracy() {
        Accuracy::Text => "KL: mean divergence from the baseline, nats a token.",
        _ => "Detectable: the smallest true ΔF1 that the questions would show with 80 % chance.",
    };
    page.note(&format!("{more}{explained}"), 2);
    page
}

/// Columns of the table on accuracy; the last takes what the others leave.
fn accuracy_columns(study: &Study) -> Vec<TableColumn> {
    let scores: &[(&str, f64)] = match study.accuracy() {
        Accuracy::Text => &[("Perplexity", 60.0), ("KL", 60.0), ("", 106.0)],
        _ => &[("F1", 38.0), ("ΔF1", 46.0), ("95 % interval", 92.0), ("Detectable", 50.0)],
    };
    let mut columns = vec![
        column("#", 20.0, Anchor::End),
        column("Record: NAME_results.json", 134.0, Anchor::Start),
        column("Bits", 36.0, Anchor::End),
    ];
    columns.extend(scores.iter().map(|&(header, width)| column(header, width, Anchor::End)));
    columns.push(column("Id", RIGHT - LEFT - 416.0, Anchor::End));
    columns
}

fn accuracy_line(study: &Study, row: &Row) -> TableLine {
    let paired = row.paired();
    let write = |value: Option<f64>, write: fn(f64) -> String| value.map_or(NONE.to_owned(), write);
    let failed = row.record.failure.as_ref().map(|failure| format!("failed: {}", failure.stage));
    let mut cells = vec![row.number.to_string(), row.name().to_owned(), write(row.bits(), numbers::bits)];
    cells.extend(match study.accuracy() {
        Accuracy::Text => vec![
            write(row.score(TEXT_PERPLEXITY), numbers::three_digits),
            write(row.score(KL_MEAN), numbers::nats),
            failed.unwrap_or_default(),
        ],
        _ => vec![
            write(row.f1(), numbers::score),
            write(paired.map(|paired| paired.difference), numbers::difference),
            paired.map(|paired| numbers::interval(paired.ci95)).or(failed).unwrap_or_else(|| NONE.to_owned()),
            write(paired.and_then(|paired| paired.smallest_detectable).filter(|smallest| *smallest > 0.0), numbers::score),
        ],
    });
    cells.push(numbers::clipped(&row.record.id, 14));
    TableLine { cells, link: Some((1, row.href())) }
}

fn hardware(study: &Study, recommendation: &Recommendation, size: f64) -> Page {
    let mut page = new_page(study, 3, size);
    page.title("Hardware");
    if study.devices.is_empty() {
        page.paragraph("No record holds a benchmark: nothing is known of memory, latency and throughput.", 3);
        return page;
    }
    let room = page.room() - 9.0 * page.size;
    let natural = |scenes: &[Scene]| scenes.iter().map(|scene| scene.height).sum::<f64>();
    let scale = |scenes: &[Scene]| ((RIGHT - LEFT) / figure::WIDTH).min(room / natural(scenes));
    let most = MOST_BARS.min(study.rows.len());
    let sets = (1..=most).rev().map(|count| {
        let shown = chosen(study, recommendation, count);
        (count, figure::compact(study, &shown, &chosen(study, recommendation, count.min(MOST_CURVES))))
    });
    let mut last = None;
    for (count, scenes) in sets {
        let legible = scale(&scenes) >= SMALLEST_SCALE;
        last = Some((count, scenes));
        if legible {
            break;
        }
    }
    let Some((count, scenes)) = last else { return page };
    let scale = scale(&scenes);
    for scene in &scenes {
        page.figure(scene, scene.height * scale);
    }
    page.space(4.0);
    page.note(&format!("{}{}", hardware_note(study, count.min(MOST_CURVES)), selection(study, count)), 7);
    page
}

fn hardware_note(study: &Study, curves: usize) -> String {
    let copied = study.rows.iter().find_map(|row| row.bench().and_then(|bench| bench.copy_bytes_per_second));
    let copied =
        copied.map(|rate| format!(" Measured copy bandwidth: {} GB/s.", numbers::three_digits(rate / 1e9))).unwrap_or_default();
    format!(
        "Size: model.onnx with its data file, and what the weights take once the session is made. Throughput: tokens a second over all rows of the \
         batch, for {curves} experiments.{copied} Each bar and point is read from the record NAME_results.json; every \
         measured point with its percentiles stands in REPORT.md."
    )
}

fn conclusion(study: &Study, recommendation: &Recommendation, size: f64) -> Page {
    let mut page = new_page(study, 4, size);
    page.title("Recommendation and limits");
    for Finding { title, text, rows } in findings::findings(study, recommendation) {
        page.titled(&title, &text, MOST_LINES);
        for &at in rows.iter().take(4) {
            let row = &study.rows[at];
            page.linked(&format!("#{} {} · {} · id {}", row.number, row.name(), row.file_name(), row.record.id), &row.href());
        }
        if rows.len() > 4 {
            page.linked(
                &format!("… and {} more: their records by number on page 2 and in REPORT.md", rows.len() - 4),
                "REPORT.md",
            );
        }
        page.space(page.size * 0.7);
    }
    page.heading("Limits");
    limits(study).iter().for_each(|limit| page.bullet(limit, MOST_LINES));
    let failed: Vec<&Row> = study.failed().collect();
    if !failed.is_empty() {
        page.heading("What failed");
        for row in failed.iter().take(5) {
            let failure =
                row.record.failure.as_ref().map(|failure| format!("{}: {}", failure.stage, failure.message)).unwrap_or_default();
            page.bullet(&format!("#{} {} at {failure}", row.number, numbers::clipped(row.name(), 60)), 2);
        }
        if failed.len() > 5 {
            page.note(&format!("… and {} more in REPORT.md.", failed.len() - 5), 1);
        }
    }
    page
}
