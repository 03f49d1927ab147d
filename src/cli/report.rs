//! `qonnx report`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qonnx::commands::report;

#[derive(Args)]
#[command(
    after_help = "Writes figures/*.svg and *.png, REPORT.md, report.html (one file, no network) and report.pdf (four pages).

Examples:
  qonnx report results/                        beside the records
  qonnx report results/coqa-45m -o report/ --json"
)]
pub struct ReportArgs {
    /// The folder of *_results.json, as `qonnx run` and `qonnx sweep` write them.
    results: PathBuf,
    /// Where the report goes [default: the results folder].
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

pub fn run_report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let output = args.output.as_ref().unwrap_or(&args.results);
    super::emit(&report::run(&args.results, output)?, args.json)
}
