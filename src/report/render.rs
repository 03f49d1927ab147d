//! All files of a report as bytes, before any is written.

use super::figure::{self, Figure};
use super::findings::{self, Finding};
use super::html::html;
use super::markdown::markdown;
use super::pdf::pdf;
use super::recommend::recommend;
use super::selection::{MOST_DRAWN, chosen, selection};
use super::study::Study;
use super::{ReportError, plot};

/// A finished report.
#[derive(Debug)]
pub struct Rendered {
    /// Path inside the report's folder, and what it holds.
    pub files: Vec<(String, Vec<u8>)>,
    pub findings: Vec<Finding>,
}

impl Rendered {
    /// Draws and writes up `study`; the same study gives the same bytes.
    ///
    /// # Errors
    /// [`ReportError::Drawing`], [`ReportError::Html`], [`ReportError::Pdf`].
    pub fn new(study: &Study) -> Result<Self, ReportError> {
        let recommendation = recommend(study);
        let drawn = chosen(study, &recommendation, MOST_DRAWN);
        let mut figures = figure::figures(study, &drawn);
        figures.iter_mut().for_each(|figure| figure.caption.push_str(&selection(study, drawn.len())));
        let mut files = Vec::new();
        for Figure { name, scene, .. } in &figures {
            files.push((format!("figures/{name}.svg"), plot::svg(scene)?.into_bytes()));
            files.push((format!("figures/{name}.png"), plot::png(scene)?));
        }
        files.push(("REPORT.md".to_owned(), markdown(study, &recommendation, &figures).into_bytes()));
        files.push(("report.html".to_owned(), html(study, &recommendation, &figures)?.into_bytes()));
        files.push(("report.pdf".to_owned(), pdf(study, &recommendation)?));
        Ok(Rendered { files, findings: findings::findings(study, &recommendation) })
    }
}
