//! Two runs on the same questions.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::commands::CommandError;
use crate::eval::compare::{NamedLines, compare};
use crate::eval::{ComparisonReport, coqa};
use crate::host::table::table;

/// How two runs differ.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub a: PathBuf,
    pub b: PathBuf,
    #[serde(flatten)]
    pub report: ComparisonReport,
}

/// `qonnx compare`.
pub fn run(a: &Path, b: &Path) -> Result<Comparison, CommandError> {
    let (lines_a, lines_b) = (coqa::lines::read_lines(a)?, coqa::lines::read_lines(b)?);
    let (name_a, name_b) = (a.display().to_string(), b.display().to_string());
    let named = |name, lines| NamedLines { name, lines };
    let report = compare(named(&name_a, &lines_a), named(&name_b, &lines_b))?;
    Ok(Comparison { a: a.to_owned(), b: b.to_owned(), report })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        writeln!(f, "a  {}\nb  {}", self.a.display(), self.b.display())?;
        writeln!(f, "{} questions, protocol {}; intervals over {}\n", report.questions, report.protocol, report.resampled)?;
        let rows = [("F1", &report.f1), ("EM", &report.em)].map(|(name, difference)| {
            let [low, high] = difference.ci95;
            vec![
                name.to_owned(),
                format!("{:.4}", difference.a),
                format!("{:.4}", difference.b),
                format!("{:+.4}", difference.difference),
                format!("[{low:+.4}, {high:+.4}]"),
                match difference.smallest_detectable {
                    0.0 => "unknown".to_owned(), // no question scored differently, so the spread is not known
                    smallest => format!("{smallest:.4}"),
                },
            ]
        });
        let header = ["score", "a", "b", "b − a", "95 % interval", "smallest detectable"];
        writeln!(f, "{}\n", table(&header, &[1, 2, 3, 4, 5], rows))?;
        let test = &report.mcnemar;
        write!(
            f,
            "McNemar on exact matches: only a right {}, only b right {}, p = {:.4} (mid-p {:.4})",
            test.only_a_right, test.only_b_right, test.p_exact, test.p_mid
        )
    }
}
