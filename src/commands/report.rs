//! `qonnx report`: reads a folder of records, writes figures and reports into another.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::commands::CommandError;
use crate::host::hidden::parent;
use crate::host::publish::PartialFile;
use crate::host::{FileError, read};
use crate::record::{RUN_SUFFIX, RunRecord};
use crate::report::{RecordFile, Rendered, ReportError, Study};
use crate::usage::UsageError;

/// What was written, and what it says.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub results: PathBuf,
    pub output: PathBuf,
    pub experiments: usize,
    pub failed: usize,
    /// Relative to `output`.
    pub files: Vec<String>,
    /// Title and text of each recommendation, with the records that hold its numbers.
    pub findings: Vec<FindingSummary>,
}

/// One recommendation.
#[derive(Debug, Serialize)]
pub struct FindingSummary {
    pub title: String,
    pub text: String,
    pub records: Vec<String>,
}

/// Writes the report of the records in `results` into `out`, which is made where it is missing.
///
/// Everything is drawn, and lies on the disk under hidden names, before the first file gets its name: where the disk is full
/// nothing changes.
pub fn run(results: &Path, out: &Path) -> Result<Summary, CommandError> {
    let records = records(results, out)?;
    if records.is_empty() {
        let (folder, below) = (results.display().to_string(), with_records_below(results));
        return Err(ReportError::Empty { folder, below }.into());
    }
    let study = Study::new(records)?;
    let rendered = Rendered::new(&study)?;
    refuse_foreign(out, &rendered.files)?;
    write(out, &rendered.files)?;
    let record = |&at: &usize| study.rows[at].file.clone();
    let findings = rendered.findings.iter().map(|finding| FindingSummary {
        title: finding.title.clone(),
        text: finding.text.clone(),
        records: finding.rows.iter().map(record).collect(),
    });
    Ok(Summary {
        results: results.to_owned(),
        output: out.to_owned(),
        experiments: study.rows.len(),
        failed: study.failed().count(),
        files: rendered.files.iter().map(|(name, _)| name.clone()).collect(),
        findings: findings.collect(),
    })
}

/// Refuses a folder whose records no report could be of, before more are added. That the baseline's is missing, or another
/// than it was, the work itself will mend.
///
/// # Errors
/// Every variant of [`ReportError`] that names a record, but for these; a record that cannot be read.
pub fn check(results: &Path) -> Result<(), CommandError> {
    if !results.is_dir() {
        return Ok(());
    }
    match Study::new(records(results, results)?) {
        Err(ReportError::NoBaseline { .. } | ReportError::StaleBaseline { .. }) => Ok(()),
        checked => Ok(checked.map(drop)?),
    }
}

/// All records of the folder, by file name; each goes by its path from `out`, so that links work.
fn records(results: &Path, out: &Path) -> Result<Vec<RecordFile>, CommandError> {
    let unlisted = |reason| UsageError::ResultsUnlisted { folder: results.display().to_string(), reason };
    let entries = std::fs::read_dir(results).map_err(unlisted)?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(unlisted)?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(RUN_SUFFIX)));
    paths.sort();
    let base = way(results, out);
    let read = |path: PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(RecordFile { file: format!("{base}{name}"), record: RunRecord::load(&path)? })
    };
    paths.into_iter().map(read).collect()
}

/// Folders in `results` that have records themselves, sorted: a study in a folder of its own.
fn with_records_below(results: &Path) -> Vec<String> {
    let paths = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_record = |path: PathBuf| path.to_string_lossy().ends_with(RUN_SUFFIX);
    let has_records = |folder: &PathBuf| paths(folder).any(is_record);
    let mut found: Vec<String> = paths(results).filter(has_records).map(|folder| folder.display().to_string()).collect();
    found.sort();
    found
}

/// How one gets from the report to the records: empty, or a path that ends in a slash.
fn way(results: &Path, out: &Path) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let way = pathdiff::diff_paths(absolute(results), absolute(out)).unwrap_or_else(|| absolute(results));
    let parts: Vec<String> = way.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    parts.into_iter().filter(|part| part != ".").map(|part| part.trim_end_matches('/').to_owned() + "/").collect()
}

/// What a report begins with; where one lies, the files of a report are a report's.
const MARKDOWN: (&str, &str) = ("REPORT.md", "# How few bits");

/// Refuses to write over files that no earlier report has written.
fn refuse_foreign(out: &Path, files: &[(String, Vec<u8>)]) -> Result<(), UsageError> {
    let (name, begins) = MARKDOWN;
    if read::file(&out.join(name), u64::MAX).is_ok_and(|text| text.starts_with(begins.as_bytes())) {
        return Ok(());
    }
    let is_other = |path: &Path, bytes: &[u8]| path.exists() && !read::file(path, u64::MAX).is_ok_and(|there| there == bytes);
    let foreign = files.iter().map(|(name, bytes)| (out.join(name), bytes)).find(|(path, bytes)| is_other(path, bytes));
    match foreign {
        None => Ok(()),
        Some((path, _)) => Err(UsageError::ReportForeign { path: path.display().to_string() }),
    }
}

/// `REPORT.md` gets its name first: it says whose the other files are.
fn write(out: &Path, files: &[(String, Vec<u8>)]) -> Result<(), CommandError> {
    let problem = "cannot be written; free the disk or give another folder with -o";
    let mut order: Vec<&(String, Vec<u8>)> = files.iter().collect();
    order.sort_by_key(|(name, _)| name != MARKDOWN.0);
    let mut written = Vec::new();
    for (name, bytes) in order {
        let path = out.join(name);
        let write = || {
            std::fs::create_dir_all(parent(&path))?;
            let mut partial = PartialFile::create(&path)?;
            partial.write_all(bytes)?;
            partial.sync()?;
            Ok::<_, std::io::Error>(partial)
        };
        written.push((write().map_err(FileError::of("report", &path, problem))?, path));
    }
    for (partial, path) in written {
        partial.publish().map_err(FileError::of("report", &path, problem))?;
    }
    Ok(())
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = if self.failed == 0 { String::new() } else { format!(", {} failed", self.failed) };
        writeln!(f, "{}: {} experiments{failed}\n", self.results.display(), self.experiments)?;
        for finding in &self.findings {
            writeln!(f, "{}\n  {}\n  {}", finding.title, finding.text, finding.records.join(", "))?;
        }
        write!(f, "\n{}: {}", self.output.display(), self.files.join(", "))
    }
}
