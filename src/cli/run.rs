//! `qonnx run`: one experiment, and the flags of what is measured.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use clap::Args;
use qonnx::record::BenchSettings;
use qonnx::runtime::Launch;
use qonnx::study::experiment::{self, Ask, CoqaMeasure, Device, Embedded, Measure, ProtocolName, ScoringWeights, TextMeasure};

use super::values::{DtypeArg, ProtocolArg, ScoringArg};
use super::{RuntimeArgs, emit, positive};

#[derive(Args)]
#[command(
    after_help = "Writes results/<name>_results.json, and the answers beside it. Built-in experiments lie in benches/experiments/; a file of
your own has a title, a method and a recipe. Stopped, it goes on where it was. Exit code 1 where a stage failed; the record
says why, and holds what came before.

Examples:
  qonnx run fp16_baseline
  qonnx run gptq_4bit_g128 --model meta-llama/Llama-3.2-1B --ep cuda --calibration c4-128x2048
  qonnx run int4_rtn_g32 --no-coqa --text wiki.txt    perplexity and KL alone
  qonnx run my-experiment.toml --model ./my-llama --coqa coqa-dev-v1.0.json --protocol official --no-bench"
)]
pub struct RunArgs {
    /// A built-in experiment, or a TOML file of one.
    #[arg(value_name = "NAME|FILE")]
    experiment: String,
    #[command(flatten)]
    ask: AskArgs,
    /// The experiment that differences are against.
    #[arg(long, default_value = "fp16_baseline")]
    baseline: String,
    /// Keep the artifact, in artifacts/ of the results.
    #[arg(long)]
    keep: bool,
    /// One JSON object on stdout and nothing else there: the record.
    #[arg(long)]
    json: bool,
}

/// The model, and what is measured of it where.
#[derive(Args)]
pub struct AskArgs {
    /// A local folder with safetensors, or a Hugging Face repo id [default: the embedded model, with its own questions].
    #[arg(long)]
    model: Option<String>,
    /// Folder of the records, of one model.
    #[arg(long, default_value = "results")]
    results: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Element type of activations [default: f32 on the CPU, f16 on CUDA].
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// Calibration data in place of the recipe's: a built-in set, a set's TOML, or a JSON file of token id windows.
    #[arg(long, value_name = "SET|FILE")]
    calibration: Option<String>,
    /// The official CoQA JSON file, a JSONL of prompts with golds, or a hub data set's id [default: EleutherAI/coqa].
    #[arg(long, value_name = "FILE")]
    coqa: Option<String>,
    /// Which turns are asked and how they are scored [default: lm-eval; official for the embedded model].
    #[arg(long, value_enum)]
    protocol: Option<ProtocolArg>,
    /// At most this many questions.
    #[arg(long, value_parser = positive)]
    limit: Option<usize>,
    /// Leave CoQA out; with --text perplexity and KL are measured alone.
    #[arg(long, conflicts_with_all = ["coqa", "protocol", "limit"])]
    no_coqa: bool,
    /// Text for perplexity, and for KL where the baseline's artifact is kept.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens in a window of the text, BOS included [default: 1024, or the model's context where that is less].
    #[arg(long, value_parser = super::eval::parse_window)]
    window: Option<usize>,
    /// At most this many windows of the text.
    #[arg(long, value_parser = positive)]
    windows: Option<usize>,
    /// How quantized weights take part in products while it is scored [default: dequantized on the CPU, fused on CUDA].
    #[arg(long, value_enum)]
    weights: Option<ScoringArg>,
    /// Leave the benchmark out.
    #[arg(long)]
    no_bench: bool,
    /// Batch sizes of the benchmark.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = positive)]
    bench_batch: Vec<usize>,
    /// Prompt lengths of the benchmark, tokens.
    #[arg(long, value_delimiter = ',', default_value = "128", value_parser = positive)]
    bench_prompt: Vec<usize>,
    /// Tokens that the benchmark decodes.
    #[arg(long, default_value_t = 32, value_parser = super::bench::at_least_two)]
    bench_gen: usize,
}

impl AskArgs {
    fn ask(self, baseline: String, keep: bool) -> anyhow::Result<Ask> {
        let embedded = self.model.is_none().then(Embedded::find).transpose()?;
        let is_embedded = embedded.is_some();
        let questions = || embedded.as_ref().map_or_else(|| "EleutherAI/coqa".to_owned(), Embedded::questions);
        let (provider, eager) = (self.runtime.provider(), self.runtime.launch()? == Launch::Eager);
        let coqa = CoqaMeasure {
            data: self.coqa.unwrap_or_else(questions),
            protocol: match self.protocol {
                Some(protocol) => protocol.name(),
                None if is_embedded => ProtocolName::Official,
                None => ProtocolName::LmEval,
            },
            limit: self.limit,
            batch: 16,
        };
        let text = self.text.or_else(|| embedded.as_ref().filter(|_| !self.no_coqa).map(Embedded::text));
        let measure = Measure {
            coqa: (!self.no_coqa).then_some(coqa),
            text: text.map(|file| TextMeasure { file, window: self.window, windows: self.windows }),
            bench: (!self.no_bench).then(|| BenchSettings {
                batches: self.bench_batch,
                prompts: self.bench_prompt,
                new_tokens: self.bench_gen,
                ..experiment::bench_settings(provider.is_gpu() && !eager)
            }),
            weights: self.weights.map_or(ScoringWeights::of(provider), ScoringArg::weights),
        };
        let f32 = self.dtype.map_or(!provider.is_gpu(), DtypeArg::is_f32);
        Ok(Ask {
            model: self.model.or(embedded.as_ref().map(Embedded::model)).unwrap_or_default(),
            results: self.results,
            device: Device { provider, threads: self.runtime.threads, f32, eager },
            measure,
            calibration: self.calibration,
            baseline,
            keep,
        })
    }
}

/// `qonnx run`.
pub fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let ask = args.ask.ask(args.baseline, args.keep)?;
    let report = experiment::run(&args.experiment, ask, Stdio::inherit())?;
    let succeeded = report.succeeded();
    emit(&report, args.json)?;
    Ok(super::verdict(succeeded))
}
