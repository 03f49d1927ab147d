//! `report.html`: one file that asks for nothing else. Tables sort, points of figures show their record.

use base64::Engine;
use minijinja::{AutoEscape, Environment, Value, context};

use super::figure::{self, Figure};
use super::findings::{self, Finding};
use super::limits::limits;
use super::numbers::{self, NONE};
use super::recommend::Recommendation;
use super::study::{Row, Study};
use super::{ReportError, font, method, plot};
use crate::record::{KL_MEAN, Measured, Outcome, TEXT_PERPLEXITY};

const TEMPLATE: &str = include_str!("html/report.html");
const STYLE: &str = include_str!("html/report.css");
const SCRIPT: &str = include_str!("html/report.js");

/// The page.
pub fn html(study: &Study, recommendation: &Recommendation, figures: &[Figure]) -> Result<String, ReportError> {
    let failed = |error: minijinja::Error| ReportError::Html { message: format!("{error:#}") };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("report.html", TEMPLATE).map_err(failed)?;
    let template = environment.get_template("report.html").map_err(failed)?;
    let drawn = figures.iter().map(|figure| figure_value(study, figure)).collect::<Result<Vec<Value>, ReportError>>()?;
    let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let found = findings::findings(study, recommendation);
    let page = template.render(context! {
        style => STYLE,
        script => SCRIPT,
        regular => Value::from_safe_string(encoded(font::REGULAR)),
        bold => Value::from_safe_string(encoded(font::BOLD)),
        source => study.baseline().record.model.source.clone(),
        question => method::question(study),
        findings => found.iter().map(|finding| finding_value(study, finding)).collect::<Vec<_>>(),
        limits => limits(study),
        figures => drawn,
        quoted_at => figure::quoted_at(study),
        undrawn => figure::undrawn(study),
        columns => figure::columns(study).iter().map(|column| context! { header => column.header, unit => column.unit, meaning => column.meaning }).collect::<Vec<_>>(),
        summary => summary(study),
        points => points(study),
        paragraphs => method::paragraphs(study),
        methods => pairs(method::methods(study)),
        facts => pairs(method::facts(study)),
        cards => cards(study),
    });
    page.map_err(failed)
}

fn finding_value(study: &Study, finding: &Finding) -> Value {
    let records = finding.rows.iter().map(|&at| {
        let row = &study.rows[at];
        context! { number => row.number, name => row.name(), row => at }
    });
    context! { title => finding.title.clone(), text => finding.text.clone(), records => records.collect::<Vec<_>>() }
}

/// The SVG as it stands in the page: without the declarations of a file, with a spot over each experiment.
fn figure_value(study: &Study, figure: &Figure) -> Result<Value, ReportError> {
    let svg = plot::svg(&figure.scene)?;
    let units = plot::svg_units();
    let spots: String = figure
        .scene
        .spots
        .iter()
        .map(|spot| {
            let label = escaped(&spoken(study, spot.row));
            let (x, y) = (spot.area.left * units, spot.area.top * units);
            let (width, height) = ((spot.area.right - spot.area.left) * units, (spot.area.bottom - spot.area.top) * units);
            format!(
                "<rect class=\"spot\" data-row=\"{}\" role=\"img\" aria-label=\"{label}\" tabindex=\"-1\" x=\"{x:.0}\" y=\"{y:.0}\" \
                 width=\"{width:.0}\" height=\"{height:.0}\" rx=\"40\"/>",
                spot.row
            )
        })
        .collect();
    let inline = svg
        .replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
        .replacen("<svg", &format!("<svg role=\"group\" aria-label=\"{}\"", escaped(&figure.title)), 1)
        .replace("</svg>", &format!("<g>{spots}</g></svg>"));
    Ok(
        context! { name => figure.name, title => figure.title.clone(), caption => figure.caption.clone(), svg => Value::from_safe_string(inline) },
    )
}

/// One line on an experiment, for those who hear the page.
fn spoken(study: &Study, at: usize) -> String {
    let row = &study.rows[at];
    let facts: Vec<String> = card_facts(study, at).into_iter().take(3).map(|(name, value)| format!("{name} {value}")).collect();
    format!("{}: {}", row.name(), facts.join(", "))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Pairs as the template takes them apart.
fn pairs(pairs: Vec<(impl Into<Value>, String)>) -> Vec<Value> {
    pairs.into_iter().map(|(name, value)| Value::from(vec![name.into(), Value::from(value)])).collect()
}

/// A cell of a table: what is read, and what is sorted by.
fn cell(text: String, value: Option<f64>) -> Value {
    context! { text, value }
}

/// One line of a table: the experiment, then cells.
fn line(row: &Row, cells: Vec<Value>) -> Value {
    let failed = row.record.failure.is_some();
    context! { number => row.number, name => row.name(), href => row.href(), failed, cells }
}

fn summary(study: &Study) -> Vec<Value> {
    let columns = figure::columns(study);
    let cells = |at: usize| {
        let written = columns.iter().map(|column| column.cell(study, at));
        written.map(|written| cell(written.text, written.value)).collect()
    };
    study.rows.iter().enumerate().map(|(at, row)| line(row, cells(at))).collect()
}

fn points(study: &Study) -> Vec<Value> {
    let of = |row: &Row| {
        let points = row.bench().map(|bench| bench.points.clone()).unwrap_or_default();
        points
            .into_iter()
            .map(|point| {
                let whole = |value: usize| cell(numbers::count(value as u64), Some(value as f64));
                let mut cells = vec![whole(point.batch), whole(point.prompt_tokens)];
                cells.extend(match &point.outcome {
                    Outcome::Measured(measured) => measured_cells(measured),
                    Outcome::OutOfMemory { .. } => absent("out of memory"),
                    Outcome::Failed { message } => absent(&format!("failed: {message}")),
                });
                cells
            })
            .collect::<Vec<_>>()
    };
    study.rows.iter().flat_map(|row| of(row).into_iter().map(move |cells| line(row, cells))).collect()
}

fn measured_cells(measured: &Measured) -> Vec<Value> {
    let (prefill, decode) = (&measured.prefill_ms, &measured.decode_ms_per_token);
    let values = [
        Some(prefill.p50),
        Some(prefill.p95),
        measured.ttft_ms.as_ref().map(|samples| samples.p50),
        Some(decode.p50),
        Some(decode.p95),
        Some(decode.p99),
        Some(measured.decode_tokens_per_second),
    ];
    let written = values.map(|value| cell(value.map_or(NONE.to_owned(), numbers::three_digits), value));
    let bandwidth = measured.bandwidth_fraction;
    let energy = measured.power.as_ref().map(|power| power.joules_per_token);
    let rest = [
        cell(bandwidth.map_or(NONE.to_owned(), |fraction| format!("{:.0} %", 100.0 * fraction)), bandwidth),
        cell(energy.map_or(NONE.to_owned(), numbers::three_digits), energy),
    ];
    written.into_iter().chain(rest).collect()
}

fn absent(why: &str) -> Vec<Value> {
    let text = |at: usize| if at == 0 { why.to_owned() } else { NONE.to_owned() };
    (0..9).map(|at| cell(text(at), None)).collect()
}

/// What is shown of each experiment where the pointer is on its point.
fn cards(study: &Study) -> Vec<Value> {
    study.rows.iter().enumerate().map(|(at, row)| card(study, at, row)).collect()
}

fn card(study: &Study, at: usize, row: &Row) -> Value {
    let bench = row.bench().map(|bench| bench.warnings.as_slice()).unwrap_or_default();
    let failure = row.record.failure.as_ref();
    context! {
        row => at,
        number => row.number,
        name => row.name(),
        title => row.record.title.clone(),
        href => row.href(),
        file => row.file_name(),
        id => row.record.id.clone(),
        facts => pairs(card_facts(study, at)),
        failure => failure.map(|failure| format!("failed at {}: {}", failure.stage, failure.message)),
        warnings => row.record.warnings.iter().chain(bench).cloned().collect::<Vec<_>>(),
    }
}

fn card_facts(study: &Study, at: usize) -> Vec<(String, String)> {
    let row = &study.rows[at];
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut fact = |name: &str, value: Option<String>| facts.extend(value.map(|value| (name.to_owned(), value)));
    fact("F1", row.f1().map(numbers::score));
    fact(
        "ΔF1",
        row.paired().map(|paired| format!("{} {}", numbers::difference(paired.difference), numbers::interval(paired.ci95))),
    );
    if row.f1().is_none() {
        fact("Perplexity", row.score(TEXT_PERPLEXITY).map(numbers::three_digits));
        fact("KL, nats", row.score(KL_MEAN).map(numbers::nats));
    }
    fact("Bits per weight", row.bits().map(numbers::bits));
    fact("Size on disk", row.model_bytes().map(numbers::bytes));
    fact("Weights in memory", row.weights_memory().map(numbers::bytes));
    if let Some(device) = study.device_of(at) {
        for &batch in &device.batches {
            let speed = row.point(batch, device.prompt).tokens_per_second();
            fact(&format!("Tokens/s, batch {batch}"), speed.map(numbers::three_digits));
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::made_up;
    use crate::report::recommend::recommend;

    fn page(study: &Study) -> String {
        let shown: Vec<usize> = (0..study.rows.len()).collect();
        html(study, &recommend(study), &figure::figures(study, &shown)).unwrap()
    }

    #[test]
    fn nothing_outside_is_asked_for() {
        let page = page(&made_up::whole());
        for outside in ["http:", "https:", "//cdn", "@import", "src=\"", "<link rel=\"stylesheet"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn what_records_say_is_text_and_no_markup() {
        let page = page(&made_up::hostile());
        for markup in ["<script>alert", "<img src=x", "<b>|", "</style><script>\"", "</title><b>"] {
            assert!(!page.contains(markup), "{markup}");
        }
        assert_eq!(page.matches("<script>").count(), 1);
    }

    #[test]
    fn every_record_has_a_card_and_a_link() {
        let study = made_up::whole();
        let page = page(&study);
        for (at, row) in study.rows.iter().enumerate() {
            assert!(page.contains(&format!("id=\"record-{at}\"")), "{}", row.name());
            assert!(page.contains(&format!("<a href=\"{}\">", row.file)), "{}", row.name());
            assert!(page.contains(&row.record.id), "{}", row.name());
        }
    }
}
