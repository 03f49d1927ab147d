//! The command line: every flag, its help and its example; each subcommand calls one function of `commands/` or `study/`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use qonnx::commands::{RuntimeChoice, card, compare, doctor, export, generate, inspect, plan, quantize, verify};
use qonnx::compress;
use qonnx::host::interrupt::CancelToken;
use qonnx::host::{interrupt, read, terminal};
use qonnx::runtime::{ExecutionProvider, Launch, WeightKernels};
use qonnx::usage::UsageError;
use serde::Serialize;

mod bench;
mod eval;
pub mod exit;
mod model;
mod report;
mod run;
mod setup;
mod sweep;
mod values;

use bench::BenchArgs;
use eval::EvalArgs;
use model::{ActivationArg, ArtifactForm, ModelArgs};
use report::ReportArgs;
use run::RunArgs;
use sweep::SweepArgs;

/// Find out how few bits a language model can live on.
///
/// Takes a Llama, Mistral or Qwen3 checkpoint (a Hugging Face repo id or a local folder of safetensors), quantizes it, writes
/// a QDQ ONNX artifact that other runtimes load unchanged, runs it through ONNX Runtime and scores it.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Examples:
  qonnx plan meta-llama/Llama-3.2-1B --bits 4 --batch 16 --context 2048
  qonnx export meta-llama/Llama-3.2-1B --bits 4 -o llama-int4
  qonnx generate llama-int4 \"The capital of France is\"
  qonnx eval llama-int4 --task coqa --limit 100
  qonnx bench llama-int4 --batch 1,16"
)]
struct Cli {
    /// More on stderr: -v what is done, -vv how.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what an export would write: bytes, bits per weight, VRAM, every refusal. Reads headers only.
    Plan(PlanArgs),
    /// Choose the numbers of a quantized model and keep them, for any number of artifacts.
    Quantize(QuantizeArgs),
    /// Quantize a checkpoint and write it as a QDQ ONNX artifact.
    Export(ExportArgs),
    /// Continue a prompt greedily, streaming.
    Generate(GenerateArgs),
    /// Score an artifact: CoQA F1 and EM, perplexity, or KL divergence from a reference artifact.
    Eval(EvalArgs),
    /// Compare two CoQA results on the same questions: paired bootstrap and McNemar.
    Compare(CompareArgs),
    /// Measure load, prefill, decoding, memory and energy over batch sizes and prompt lengths.
    Bench(BenchArgs),
    /// Run one experiment: export, sanity check, CoQA, benchmark, and write its record.
    Run(RunArgs),
    /// Run many experiments by one file: planned first, resumable, one process each.
    Sweep(SweepArgs),
    /// The process of one experiment; `run` and `sweep` start it.
    #[command(hide = true)]
    Worker,
    /// Draw and write up a folder of experiments: figures, REPORT.md, report.html, a four-page report.pdf.
    Report(ReportArgs),
    /// Show what ONNX Runtime really executes: every MatMul fused, dequantized on each step, or on the CPU.
    #[command(after_help = "Exit code 1 where a weight that was meant to be fused is not.

Examples:
  qonnx inspect llama-int4
  qonnx inspect llama-int4 --ep cuda --json")]
    Inspect(ArtifactArgs),
    /// Check an artifact: hashes, bit-exact dequantization, golden generation.
    #[command(after_help = "Exit code 1 where a check fails.

Examples:
  qonnx verify llama-int4
  qonnx verify llama-int4 --ep cuda --json")]
    Verify(ArtifactArgs),
    /// Write what records say of an artifact into its model card.
    Card(CardArgs),
    /// Show which ONNX Runtime, CUDA and GPU were found, and what to do about what is missing.
    Doctor(DoctorArgs),
    /// Print a shell completion script.
    #[command(after_help = "Examples:
  qonnx completions bash > ~/.local/share/bash-completion/completions/qonnx
  qonnx completions zsh > ~/.zfunc/_qonnx
  qonnx completions fish > ~/.config/fish/completions/qonnx.fish")]
    Completions {
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum EpArg {
    Cpu,
    Cuda,
}

impl EpArg {
    fn provider(self) -> ExecutionProvider {
        match self {
            EpArg::Cpu => ExecutionProvider::Cpu,
            EpArg::Cuda => ExecutionProvider::Cuda,
        }
    }
}

/// Most that any flag counts, so that no sum of counts is beyond a machine's words.
const MOST: usize = i32::MAX as usize;

fn at_least(least: usize, text: &str) -> Result<usize, String> {
    within(least, MOST, text)
}

fn within(least: usize, most: usize, text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("expected a whole number from {least} on, {most} at most"))
}

/// What is only multiplied in an estimate, which says of any number that it is too much.
fn estimated(text: &str) -> Result<usize, String> {
    within(1, usize::MAX, text)
}

fn positive(text: &str) -> Result<usize, String> {
    at_least(1, text)
}

#[derive(Args)]
#[command(after_help = "Examples:
  qonnx plan meta-llama/Llama-3.1-8B --bits 4
  qonnx plan ./my-llama --recipe int4-g32-embedding8-rtn --batch 16 --context 4096
  qonnx plan ./my-llama --bits 2 --override 'model.layers.*.mlp.down_proj=int4' --json")]
struct PlanArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    form: ArtifactForm,
    /// Sequences decoded together, for the VRAM estimate.
    #[arg(long, default_value_t = 1, value_parser = estimated)]
    batch: usize,
    /// Positions of each sequence, for the VRAM estimate [default: 2048, or all of a model that has fewer].
    #[arg(long, value_parser = estimated)]
    context: Option<usize>,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(
    after_help = "Calibrated methods run the model over calibration data, layer by layer. Ctrl-C is safe: the same command goes on at
the next layer.

Examples:
  qonnx export meta-llama/Llama-3.2-1B --bits 4 -o llama-int4
  qonnx export meta-llama/Llama-3.2-1B --method gptq --bits 4 --group-size 128 --ep cuda -o llama-gptq
  qonnx export ./my-llama --method awq+gptq --bits 3 --rotate --calibration my-set.toml -o my-llama-3bit
  qonnx export ./my-llama --method gptq --target-bpw 3.25 --evaluation coqa-dev-v1.0.json -o my-llama-mixed
  qonnx export ./my-llama --method nf4 --double-quantization -o my-llama-nf4
  qonnx export ./my-llama --method llm-int8 --dtype f32 -o my-llama-int8-cpu
  qonnx export ./my-llama --recipe my-recipe.toml -o out
  qonnx export ./my-llama --bits 16 -o my-llama-f16          the unquantized baseline
  qonnx export ./my-llama --bits 4 --dtype f32 --target ort,portable,matmulnbits -o my-llama-int4      a folder below it for each
  qonnx export my-llama-q --dtype f32 -o my-llama-cpu        of a folder that `qonnx quantize` wrote: nothing is calibrated again"
)]
struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    form: ArtifactForm,
    /// The artifact's folder; it must not exist. With several targets, the folder that has one for each.
    #[arg(short, long)]
    output: PathBuf,
    /// Replace the output folder if it is an artifact.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(
    after_help = "The folder holds codes, scales and what calibration found, as safetensors and one JSON file. `qonnx export` makes artifacts
of it, f16 for CUDA and f32 for the CPU, with the same codes and scales and without calibrating again.

Ctrl-C is safe: the same command goes on at the next layer.

Examples:
  qonnx quantize meta-llama/Llama-3.2-1B --method gptq --bits 4 --ep cuda -o llama-q
  qonnx export llama-q -o llama-cuda && qonnx export llama-q --dtype f32 -o llama-cpu
  qonnx quantize ./my-qwen3 --recipe int4-g128-awq-gptq -o my-qwen3-q"
)]
struct QuantizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The folder; it must not exist.
    #[arg(short, long)]
    output: PathBuf,
    /// Replace the output folder if it is a quantized checkpoint.
    #[arg(long)]
    overwrite: bool,
    /// The narrowest activations that artifacts will have: a model that goes beyond f16 on the calibration set is refused under f16.
    #[arg(long, value_enum, default_value = "f16")]
    dtype: ActivationArg,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

/// How a calibration runs.
#[derive(Args)]
struct CalibrationArgs {
    /// Keep the statistics of calibration here, and read those that are there already from it.
    #[arg(long, value_name = "DIR")]
    save_stats: Option<PathBuf>,
    /// Refuse a calibration set that shares a passage with this evaluation file. May be repeated.
    #[arg(long, value_name = "FILE")]
    evaluation: Vec<PathBuf>,
    /// Execution provider that calibration runs on; an absent one is an error, never replaced.
    #[arg(long, value_enum, default_value = "cpu")]
    ep: EpArg,
    /// CPU threads of calibration [default: one per physical core].
    #[arg(long, value_parser = values::threads)]
    threads: Option<usize>,
}

impl CalibrationArgs {
    fn options(self) -> compress::Options {
        let CalibrationArgs { save_stats, evaluation, ep, threads } = self;
        compress::Options { save_stats, evaluation, provider: ep.provider(), threads, ..compress::Options::default() }
    }
}

#[derive(Args)]
struct RuntimeArgs {
    /// Execution provider; an absent one is an error, never replaced.
    #[arg(long, value_enum, default_value = "cpu")]
    ep: EpArg,
    /// CPU threads [default: one per physical core].
    #[arg(long, value_parser = values::threads)]
    threads: Option<usize>,
    /// On CUDA: launch decoding steps one by one instead of replaying them from a CUDA graph.
    #[arg(long)]
    no_cuda_graph: bool,
}

impl RuntimeArgs {
    fn provider(&self) -> ExecutionProvider {
        self.ep.provider()
    }

    fn launch(&self) -> Result<Launch, UsageError> {
        match (self.no_cuda_graph, self.provider().is_gpu()) {
            (true, false) => Err(UsageError::GraphOfCpu),
            (true, true) => Ok(Launch::Eager),
            (false, _) => Ok(Launch::Replayed),
        }
    }

    fn options(&self, weights: WeightKernels) -> Result<RuntimeChoice, UsageError> {
        Ok(RuntimeChoice {
            provider: self.provider(),
            threads: self.threads,
            weights,
            launch: self.launch()?,
            cancel: CancelToken::NEVER,
        })
    }
}

#[derive(Args)]
#[command(after_help = "Examples:
  qonnx generate llama-int4 \"The capital of France is\"
  qonnx generate llama-int4 \"Q: What color was Cotton?\\n\\nA:\" --stop '\\nQ:' --max-new-tokens 32 --ep cuda
  qonnx generate llama-int4 - < prompt.txt")]
struct GenerateArgs {
    /// The artifact's folder.
    artifact: PathBuf,
    /// The prompt; `-` reads it from stdin.
    prompt: String,
    /// Most tokens to produce.
    #[arg(long, default_value_t = 128, value_parser = positive)]
    max_new_tokens: usize,
    /// Stop where this text appears; \n is a line feed. May be repeated.
    #[arg(long, value_parser = unescape)]
    stop: Vec<String>,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

fn unescape(text: &str) -> Result<String, String> {
    Ok(text.replace("\\n", "\n").replace("\\t", "\t"))
}

#[derive(Args)]
#[command(after_help = "Examples:
  qonnx compare f16.jsonl int4.jsonl           files written by `qonnx eval --task coqa --predictions`")]
struct CompareArgs {
    /// Per-question lines of the first run.
    a: PathBuf,
    /// Per-question lines of the second run.
    b: PathBuf,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(
    after_help = "The card is README.md, which every export writes; scores are those of the record whose artifact has the same data.

Examples:
  qonnx card llama-int4 --results results"
)]
struct CardArgs {
    /// The folder of an artifact.
    artifact: PathBuf,
    /// A folder of records, of `qonnx run` or `qonnx sweep`.
    #[arg(long)]
    results: PathBuf,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

/// What `inspect` and `verify` take.
#[derive(Args)]
struct ArtifactArgs {
    /// The artifact's folder.
    artifact: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "Exit code 1 where what every subcommand needs is missing.

Examples:
  qonnx doctor
  qonnx doctor --json")]
struct DoctorArgs {
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Whether it looks for an interruption between steps and clears up after one; any other is ended by the signal.
    fn has_safe_points(&self) -> bool {
        matches!(self, Command::Quantize(_) | Command::Export(_) | Command::Run(_) | Command::Sweep(_) | Command::Worker)
    }
}

/// Runs the program; the exit code of a report that says no (`inspect`, `verify`, `doctor`) is 1.
pub fn run() -> anyhow::Result<ExitCode> {
    let matches = match Cli::command().try_get_matches() {
        // --help and --version: what is asked for, which can fail to be written.
        Err(asked) if !asked.use_stderr() => return written(asked.print().and_then(|()| std::io::stdout().flush())),
        parsed => parsed.unwrap_or_else(|error| error.exit()),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    setup::logging(cli.verbose);
    setup::bound_threads();
    if cli.command.has_safe_points() {
        interrupt::install();
    }
    match cli.command {
        Command::Plan(args) => {
            let targets = args.form.targets();
            if targets.len() > 1 {
                let targets = targets.iter().map(|target| target.name()).collect::<Vec<_>>().join(",");
                return Err(UsageError::PlanOfSeveral { targets }.into());
            }
            let report = plan::run(&args.model.request(&args.form), plan::Load { batch: args.batch, context: args.context })?;
            let accepted = report.refusals.is_empty();
            emit(&report, args.json)?;
            Ok(if accepted { ExitCode::SUCCESS } else { ExitCode::from(2) })
        }
        Command::Export(args) => {
            let ExportArgs { model, form, output, overwrite, calibration, json } = args;
            let options = export::Options { output, overwrite, calibration: calibration.options() };
            let (targets, request) = (form.targets(), model.request(&form));
            match targets[..] {
                [_] => emit(&export::run(&request, &options)?, json),
                _ => emit(&export::run_each(&request, &targets, &options)?, json),
            }
        }
        Command::Quantize(args) => {
            let QuantizeArgs { model, output, overwrite, dtype, calibration, json } = args;
            let options = export::Options { output, overwrite, calibration: calibration.options() };
            emit(&quantize::run(&model.numbers(dtype), &options)?, json)
        }
        Command::Generate(args) => run_generate(args),
        Command::Eval(args) => {
            let (_, given) = matches.subcommand().context("a subcommand was parsed")?;
            eval::refuse_foreign_flags(args.task, given)?;
            eval::run_eval(args)
        }
        Command::Report(args) => report::run_report(&args),
        Command::Compare(args) => emit(&compare::run(&args.a, &args.b)?, args.json),
        Command::Bench(args) => bench::run_bench(args),
        Command::Run(args) => run::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Worker => Ok(qonnx::study::experiment::worker::run().map(|()| ExitCode::SUCCESS)?),
        Command::Inspect(args) => {
            let report = inspect::run(&args.artifact, &args.runtime.options(WeightKernels::Fused)?)?;
            let fused = report.every_weight_fused();
            emit(&report, args.json)?;
            Ok(verdict(fused))
        }
        Command::Verify(args) => {
            let report = verify::run(&args.artifact, &args.runtime.options(WeightKernels::Fused)?)?;
            let passed = report.passed();
            emit(&report, args.json)?;
            Ok(verdict(passed))
        }
        Command::Card(args) => emit(&card::run(&args.artifact, &args.results)?, args.json),
        Command::Doctor(args) => {
            let report = doctor::run();
            let healthy = report.healthy();
            emit(&report, args.json)?;
            Ok(verdict(healthy))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "qonnx", &mut script);
            print(&script)
        }
    }
}

fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn prompt_from_stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("the prompt cannot be read from stdin")?;
    read::decode(bytes).map_err(|_| UsageError::PromptNotUtf8.into())
}

fn run_generate(args: GenerateArgs) -> anyhow::Result<ExitCode> {
    let request = generate::Request {
        artifact: args.artifact,
        prompt: if args.prompt == "-" { prompt_from_stdin()? } else { args.prompt },
        max_new_tokens: args.max_new_tokens,
        stop: args.stop,
        runtime: args.runtime.options(WeightKernels::FusedFast)?,
    };
    if args.json {
        return emit(&generate::run(&request, &mut |_| ())?, true);
    }
    let mut out = std::io::stdout();
    let report = generate::run(&request, &mut |piece| {
        // A closed pipe (`| head`) ends the printing, not the report.
        let _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
    })?;
    let ended = print(b"\n")?;
    terminal::say(report);
    Ok(ended)
}

/// A report as a person reads it, or as one JSON object.
fn emit<R: std::fmt::Display + Serialize>(report: &R, json: bool) -> anyhow::Result<ExitCode> {
    let text = if json { serde_json::to_string(report)? } else { report.to_string() };
    print(format!("{text}\n").as_bytes())
}

/// Writes to stdout; that its reader has gone (`| head`) is no failure.
fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

fn written(outcome: std::io::Result<()>) -> anyhow::Result<ExitCode> {
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("stdout cannot be written"),
        _ => Ok(ExitCode::SUCCESS),
    }
}
