//! `qonnx eval`: the flags of its three tasks, and which of them go together.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};
use qonnx::commands::evaluate;
use qonnx::usage::UsageError;

use super::values::{ProtocolArg, ScoringArg};
use super::{RuntimeArgs, at_least, emit, positive};

pub fn parse_window(text: &str) -> Result<usize, String> {
    at_least(2, text)
}

#[derive(Clone, Copy, ValueEnum)]
pub enum TaskArg {
    Coqa,
    Perplexity,
    Kl,
}

#[derive(Args)]
#[command(after_help = "Examples:
  qonnx eval llama-int4 --task coqa --ep cuda --batch 16
  qonnx eval llama-int4 --task coqa --protocol official --data coqa-dev-v1.0.json --predictions answers.jsonl
  qonnx eval llama-int4 --task perplexity --text wiki.txt
  qonnx eval llama-int4 --task kl --reference llama-f16 --text wiki.txt --json")]
pub struct EvalArgs {
    /// The artifact's folder.
    artifact: PathBuf,
    #[arg(long, value_enum)]
    pub task: TaskArg,
    /// How quantized weights take part in products.
    #[arg(long, value_enum, default_value = "fused")]
    weights: ScoringArg,
    /// coqa: which turns are asked and how they are scored.
    #[arg(long, value_enum, default_value = "lm-eval")]
    protocol: ProtocolArg,
    /// coqa: the official CoQA JSON file, a JSONL of prompts with golds, or a hub data set's id.
    #[arg(long, default_value = "EleutherAI/coqa")]
    data: String,
    /// coqa: at most this many questions.
    #[arg(long, value_parser = positive)]
    limit: Option<usize>,
    /// coqa: prompts decoded together.
    #[arg(long, default_value_t = 16, value_parser = positive)]
    batch: usize,
    /// coqa: write one line a question here; an interrupted run goes on from it.
    #[arg(long)]
    predictions: Option<PathBuf>,
    /// coqa, official protocol: also write the answers in the official scorer's form, [{"id", "turn_id", "answer"}].
    #[arg(long)]
    official_predictions: Option<PathBuf>,
    /// coqa: recompute the scores from --predictions without running the model.
    #[arg(long, requires = "predictions")]
    rescore: bool,
    /// perplexity, kl: plain text, JSONL with a `text` field, or a JSON file of token id windows.
    #[arg(long)]
    text: Option<PathBuf>,
    /// perplexity, kl: tokens in a window, BOS included [default: 1024, or the model's context where that is less].
    #[arg(long, value_parser = parse_window)]
    window: Option<usize>,
    /// perplexity, kl: at most this many windows.
    #[arg(long, value_parser = positive)]
    windows: Option<usize>,
    /// kl: the artifact to diverge from.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// kl: keep the reference's top-k logits and log-sum-exp in this file, and read them from it next time.
    #[arg(long)]
    reference_cache: Option<PathBuf>,
    /// kl: logits kept per position in --reference-cache.
    #[arg(long, default_value_t = 256, value_parser = positive)]
    top_k: usize,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// One JSON object on stdout and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Refuses flags of another task, which would otherwise be passed over: `--limit` would leave a perplexity as it is.
pub fn refuse_foreign_flags(task: TaskArg, given: &ArgMatches) -> Result<(), UsageError> {
    const COQA: &[&str] = &["protocol", "data", "limit", "batch", "predictions", "official_predictions", "rescore"];
    const PERPLEXITY: &[&str] = &["text", "window", "windows"];
    const KL: &[&str] = &["text", "window", "windows", "reference", "reference_cache", "top_k"];
    let (task, takes) = match task {
        TaskArg::Coqa => ("coqa", COQA),
        TaskArg::Perplexity => ("perplexity", PERPLEXITY),
        TaskArg::Kl => ("kl", KL),
    };
    let flag = |id: &str| format!("--{}", id.replace('_', "-"));
    let foreign = [COQA, KL].concat().into_iter().filter(|id| !takes.contains(id));
    match foreign.into_iter().find(|id| given.value_source(id) == Some(ValueSource::CommandLine)) {
        Some(id) => {
            let takes = takes.iter().map(|id| flag(id)).collect::<Vec<_>>().join(", ");
            Err(UsageError::ForeignFlag { flag: flag(id), task, takes })
        }
        None => Ok(()),
    }
}

pub fn run_eval(args: EvalArgs) -> anyhow::Result<ExitCode> {
    let runtime = args.runtime.options(args.weights.weights().weights())?;
    let windows = || -> anyhow::Result<evaluate::TextWindows> {
        let text = args.text.clone().ok_or(UsageError::TextMissing)?;
        Ok(evaluate::TextWindows { text, window: args.window, limit: args.windows })
    };
    match args.task {
        TaskArg::Coqa => {
            let request = evaluate::CoqaRequest {
                artifact: args.artifact,
                data: args.data,
                protocol: args.protocol.name().protocol(),
                limit: args.limit,
                batch: args.batch,
                predictions: args.predictions,
                official_predictions: args.official_predictions,
                rescore: args.rescore,
                runtime,
            };
            let scores = evaluate::coqa(&request)?;
            // Whichever of the two cannot be written, the other is.
            let shown = emit(&scores, args.json);
            request.official_predictions.iter().try_for_each(|path| scores.write_official(path))?;
            shown
        }
        TaskArg::Perplexity => emit(&evaluate::perplexity(&args.artifact, &windows()?, &runtime)?, args.json),
        TaskArg::Kl => {
            let request = evaluate::KlRequest {
                reference: args.reference.clone().ok_or(UsageError::ReferenceMissing)?,
                cache: args.reference_cache.clone().map(|file| (file, args.top_k)),
                windows: windows()?,
                artifact: args.artifact,
                runtime,
            };
            emit(&evaluate::kl(&request)?, args.json)
        }
    }
}
