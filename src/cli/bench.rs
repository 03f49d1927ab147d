//! `qonnx bench`: its flags, and which form its report takes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use qonnx::commands::bench;
use qonnx::record::BenchSettings;
use qonnx::runtime::{Launch, WeightKernels};
use qonnx::usage::UsageError;

use super::{RuntimeArgs, at_least, emit, positive, print, verdict};

#[derive(Clone, Copy, ValueEnum)]
enum WeightsArg {
    /// As any program runs the artifact that sets no options; on the CPU activations may be rounded to 8 bits.
    Stock,
    /// Unpacked inside the kernels, activations as they are: what `qonnx eval` scores with. On CUDA ONNX Runtime's kernels for
    /// batches (ep.cuda.fpa_intb_gemm), which serve INT4 and INT8 in groups of 32.
    Fused,
    /// Unpacked once at load, in the memory of a dense model.
    Dequantized,
}

#[derive(Args)]
#[command(
    after_help = "Every point of --batch × --prompt is warmed up and repeated as often as the spread of its first --min-repeats
asks for, so that the 95 % interval of the median time is about --confidence on each side; --max-repeats at most. A point that does not fit the memory is a row that says so. Exit code 1 where a point failed
for another reason.

Examples:
  qonnx bench llama-int4
  qonnx bench llama-int4 --ep cuda --prompt 128,512 --gen 128 --batch 1,4,16
  qonnx bench llama-int4 --threads 8 --confidence 0.01 --max-repeats 100 --csv speed.csv
  qonnx bench llama-int4 --json > speed.json                     raw samples included
  qonnx bench llama-int4 --csv - | column -ts,"
)]
pub struct BenchArgs {
    /// The artifact's folder.
    artifact: PathBuf,
    /// Sequences decoded together; several, separated by commas.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,16", value_parser = positive)]
    batch: Vec<usize>,
    /// Tokens of each prompt; several, separated by commas.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "128,512", value_parser = positive)]
    prompt: Vec<usize>,
    /// New tokens of each sequence.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_two)]
    r#gen: usize,
    /// Runs before the first that counts; without any, the first step of each point on CUDA is also the one that records its graph.
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: usize,
    /// Repeats of each point at least; fewer than six give no 95 % interval.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = positive)]
    min_repeats: usize,
    /// Repeats of each point at most.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = positive)]
    max_repeats: usize,
    /// How near to the median both ends of its 95 % interval must be, as a fraction of it.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.02, value_parser = fraction)]
    confidence: f64,
    /// How quantized weights take part in products.
    #[arg(long, value_enum, default_value = "stock")]
    weights: WeightsArg,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Also write one line a point to this file; `-` writes them to stdout instead of the table.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write the graph that is measured to this file, for other programs to run: `results/lab/honest_timing.py` does.
    #[arg(long, value_name = "FILE")]
    save_graph: Option<PathBuf>,
    /// The table in Markdown.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

pub fn at_least_two(text: &str) -> Result<usize, String> {
    at_least(2, text)
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|&fraction: &f64| fraction > 0.0 && fraction < 1.0);
    fraction.ok_or_else(|| "expected a fraction between 0 and 1, such as 0.02".to_owned())
}

pub fn run_bench(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let to_stdout = args.csv.as_deref().is_some_and(|path| path.as_os_str() == "-");
    let beside = [("--json", args.json), ("--markdown", args.markdown)].into_iter().find(|(_, given)| to_stdout && *given);
    if let Some((flag, _)) = beside {
        return Err(UsageError::CsvBesides { flag }.into());
    }
    let file = args.csv.filter(|_| !to_stdout);
    bench::check_outputs(&args.artifact, file.as_deref(), args.save_graph.as_deref())?;
    let weights = match args.weights {
        WeightsArg::Stock => WeightKernels::FusedFast,
        WeightsArg::Fused => WeightKernels::Fused,
        WeightsArg::Dequantized => WeightKernels::Dequantized,
    };
    let runtime = args.runtime.options(weights)?;
    let cuda_graph = runtime.provider.is_gpu() && runtime.launch == Launch::Replayed;
    let request = bench::Request {
        artifact: args.artifact,
        runtime,
        settings: BenchSettings {
            batches: args.batch,
            prompts: args.prompt,
            new_tokens: args.r#gen,
            warmup: args.warmup,
            min_repeats: args.min_repeats,
            max_repeats: args.max_repeats,
            confidence: args.confidence,
            cuda_graph,
        },
    };
    if let Some(path) = &args.save_graph {
        bench::save_graph(&request.artifact, path)?;
    }
    let report = bench::run(&request, &mut bench::bar())?;
    // Whichever of the two cannot be written, the other is.
    let shown = match (to_stdout, args.markdown) {
        (true, _) => print(report.csv().as_bytes()),
        (_, true) => print(format!("{}\n", report.markdown()).as_bytes()),
        _ => emit(&report, args.json),
    };
    file.iter().try_for_each(|path| report.save_csv(path))?;
    shown?;
    Ok(verdict(!report.failed()))
}
