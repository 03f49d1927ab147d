//! `qonnx sweep`: many experiments by one file, and the flags that take the place of what it says.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qonnx::commands::report;
use qonnx::study::sweep::{self, Overrides, Request, SweepReport};
use serde::Serialize;

use super::values::{DtypeArg, ProtocolArg};
use super::{EpArg, emit, positive, verdict};

#[derive(Args)]
#[command(
    after_help = "Shows its plan first, then runs what has no record yet, each experiment in a process of its own, the baseline first.
Stopped by Ctrl-C, a crash or a full disk, the same command goes on where it was. Exit code 1 where an experiment failed; the
others have run. Ready sweeps lie in benches/sweeps/.

Examples:
  qonnx sweep benches/sweeps/tiny.toml --dry-run
  qonnx sweep benches/sweeps/tiny.toml --report
  qonnx sweep benches/sweeps/coqa-45m.toml --model ./coqa-45m --coqa coqa-dev-v1.0.json --calibration my-set.toml
  qonnx sweep benches/sweeps/tiny.toml --no-coqa --no-bench    perplexity and KL alone
  qonnx sweep my-sweep.toml --ep cuda --devices 0,1 --results results/mine"
)]
pub struct SweepArgs {
    /// The sweep, a TOML file.
    file: PathBuf,
    /// Folder of the records, of one model.
    #[arg(long, default_value = "results")]
    results: PathBuf,
    /// Show the plan and end; of a hub model only headers are read.
    #[arg(long)]
    dry_run: bool,
    /// GPUs, like 0,1: one experiment on each at once.
    #[arg(long, value_delimiter = ',')]
    devices: Vec<String>,
    /// Experiments at once on one device, which is for sweeps without a benchmark.
    #[arg(long, default_value_t = 1, value_parser = positive, conflicts_with = "devices")]
    jobs: usize,
    /// Run experiments again that have failed before.
    #[arg(long)]
    retry_failed: bool,
    /// Then write the report of all records in the results, as `qonnx report` does.
    #[arg(long)]
    report: bool,
    /// Keep the artifacts, in artifacts/ of the results.
    #[arg(long)]
    keep: bool,
    /// In place of the file's model: a local folder, or a Hugging Face repo id.
    #[arg(long)]
    model: Option<String>,
    /// In place of the calibration set of the file and of every recipe that has one.
    #[arg(long, value_name = "SET|FILE")]
    calibration: Option<String>,
    /// In place of the file's CoQA data: a file, or a hub data set's id.
    #[arg(long, value_name = "FILE")]
    coqa: Option<String>,
    /// In place of the file's protocol.
    #[arg(long, value_enum)]
    protocol: Option<ProtocolArg>,
    /// In place of the file's: at most this many questions.
    #[arg(long, value_parser = positive)]
    limit: Option<usize>,
    /// In place of the file's text for perplexity and KL.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Leave CoQA out; perplexity and KL stay where the file or --text has a text.
    #[arg(long, conflicts_with_all = ["coqa", "protocol", "limit"])]
    no_coqa: bool,
    /// Leave the benchmark out.
    #[arg(long)]
    no_bench: bool,
    /// In place of the file's execution provider; an absent one is an error, never replaced.
    #[arg(long, value_enum)]
    ep: Option<EpArg>,
    /// In place of the file's element type of activations [default: f32 on the CPU, f16 on CUDA].
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// CPU threads [default: one per physical core].
    #[arg(long, value_parser = super::values::threads)]
    threads: Option<usize>,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

/// `qonnx sweep`.
pub fn run(args: SweepArgs) -> anyhow::Result<ExitCode> {
    let results = args.results;
    let reported = args.report && !args.dry_run;
    if reported {
        report::check(&results)?;
    }
    let request = Request {
        results: results.clone(),
        file: args.file,
        overrides: Overrides {
            model: args.model,
            calibration: args.calibration,
            coqa: args.coqa,
            protocol: args.protocol.map(ProtocolArg::name),
            limit: args.limit,
            text: args.text,
            ep: args.ep.map(EpArg::provider),
            f32: args.dtype.map(DtypeArg::is_f32),
            threads: args.threads,
            no_coqa: args.no_coqa,
            no_bench: args.no_bench,
            keep: args.keep,
        },
        dry_run: args.dry_run,
        devices: args.devices,
        jobs: args.jobs,
        retry_failed: args.retry_failed,
    };
    let sweep = sweep::run(&request)?;
    let succeeded = sweep.succeeded();
    // What the sweep came to is said even where no report can be drawn of it.
    let (report, failure) = match reported.then(|| report::run(&results, &results)).transpose() {
        Ok(report) => (report, None),
        Err(failure) => (None, Some(failure)),
    };
    emit(&Answer { sweep, report }, args.json)?;
    failure.map_or(Ok(verdict(succeeded)), |failure| Err(failure.into()))
}

/// The sweep's, with the report's beside it where one was asked for.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    sweep: SweepReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<report::Summary>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sweep)?;
        self.report.as_ref().map_or(Ok(()), |report| write!(f, "\n\n{report}"))
    }
}
