//! Scores of an artifact: CoQA, perplexity, KL divergence.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::artifact::dataset;
use crate::calib::{Vocabulary, refuse_recorded_leak, refuse_recorded_text};
use crate::commands::CommandError;
use crate::commands::RuntimeChoice;
use crate::commands::claims::{self, Asked};
use crate::commands::outputs::{self, Kind, Output};
use crate::eval::coqa::{self, AnswerLog, CoqaReport, EvaluateOptions, Protocol};
use crate::eval::windows::{DEFAULT_LENGTH, load_texts};
use crate::eval::{CacheReader, EvalError, KlReport, PerplexityReport, TokenWindows, kl_against_cache, kl_exact, write_cache};
use crate::generate::Generate;
use crate::host::table::table;
use crate::host::{FileError, progress, publish};
use crate::record::{MANIFEST_FILE, Manifest, WeightRecord};
use crate::runtime::{Engine, WeightKernels};
use crate::usage::UsageError;

/// What `qonnx eval --task coqa` was asked.
#[derive(Debug, Clone)]
pub struct CoqaRequest {
    pub artifact: PathBuf,
    /// A file, or the id of a hub data set.
    pub data: String,
    pub protocol: Protocol,
    /// At most so many questions.
    pub limit: Option<usize>,
    /// Prompts decoded together.
    pub batch: usize,
    /// Lines to write, and to go on from.
    pub predictions: Option<PathBuf>,
    /// Where answers in the official scorer's form will be written, by [`CoqaScores::write_official`].
    pub official_predictions: Option<PathBuf>,
    /// Recompute scores from `predictions` instead of running the model.
    pub rescore: bool,
    pub runtime: RuntimeChoice,
}

/// CoQA scores of an artifact.
#[derive(Debug, Serialize)]
pub struct CoqaScores {
    pub task: &'static str,
    pub artifact: PathBuf,
    #[serde(flatten)]
    pub report: CoqaReport,
    /// What else changed the answers: settings of generation_config.json.
    pub notes: Vec<String>,
    #[serde(skip)]
    lines: Vec<coqa::QuestionLine>,
}

/// `qonnx eval --task coqa`.
pub fn coqa(request: &CoqaRequest) -> Result<CoqaScores, CommandError> {
    coqa_watched(request, &mut |_| ())
}

/// As [`coqa`]; `watch` is told after each call to the model how far it is.
pub fn coqa_watched(request: &CoqaRequest, watch: &mut dyn FnMut(&coqa::Progress)) -> Result<CoqaScores, CommandError> {
    if request.official_predictions.is_some() && request.protocol != Protocol::OFFICIAL {
        return Err(UsageError::OfficialWithoutProtocol.into());
    }
    check_outputs(request)?;
    let model = fingerprint(&request.artifact)?;
    let (report, lines, notes) = if request.rescore { rescore(request)? } else { ask(request, model, watch)? };
    Ok(CoqaScores { task: "coqa", artifact: request.artifact.clone(), report, notes, lines })
}

impl CoqaScores {
    /// Writes the answers in the official scorer's form.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write_official(&self, path: &Path) -> Result<(), CommandError> {
        let answers = serde_json::to_string(&coqa::official_predictions(&self.lines)).expect("answers are plain data");
        Ok(publish::file(path, answers.as_bytes()).map_err(FileError::at(path, "cannot be written"))?)
    }
}

/// Predictions that are only read are an input.
fn check_outputs(request: &CoqaRequest) -> Result<(), UsageError> {
    let predictions = request.predictions.as_deref();
    let (written, read) = if request.rescore { (None, predictions) } else { (predictions, None) };
    let written = written.map(|path| Output { flag: "--predictions", path, kind: Kind::Checked });
    let official = request.official_predictions.as_deref();
    let official = official.map(|path| Output { flag: "--official-predictions", path, kind: Kind::OfficialPredictions });
    let outputs: Vec<Output<'_>> = written.into_iter().chain(official).collect();
    let inputs: Vec<&Path> = [Path::new(&request.data), &request.artifact].into_iter().chain(read).collect();
    outputs::check(&outputs, &inputs)
}

/// Scores, the answers that they are of, and what changed the answers.
type Scored = (CoqaReport, Vec<coqa::QuestionLine>, Vec<String>);

fn rescore(request: &CoqaRequest) -> Result<Scored, CommandError> {
    let path = request.predictions.as_ref().ok_or(UsageError::PredictionsMissing)?;
    let lines = coqa::lines::read_lines(path)?;
    let (report, lines) = coqa::rescore(&lines, &path.display().to_string())?;
    Ok((report, lines, Vec::new()))
}

fn ask(request: &CoqaRequest, model: String, watch: &mut dyn FnMut(&coqa::Progress)) -> Result<Scored, CommandError> {
    let dataset = dataset::load(&request.data)?;
    if let Some(calibration) = &trusted(&request.artifact)?.calibration {
        refuse_recorded_leak(calibration, &dataset, &request.data)?;
    }
    let mut log = match &request.predictions {
        Some(path) => AnswerLog::open(path)?,
        None => AnswerLog::in_memory(),
    };
    let mut engine = scorer(&request.artifact, &request.runtime)?;
    let asked = Asked { dataset: &dataset, protocol: &request.protocol, limit: request.limit };
    let notes = claims::notes(&request.artifact, engine.companions(), &asked)?;
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    let options = EvaluateOptions {
        limit: request.limit,
        batch: request.batch,
        eos: engine.end_of_sequence_text(),
        max_new_tokens: engine.companions().generation.max_new_tokens,
        context: claims::harness_context(engine.companions(), &request.protocol)
            .map(|context| context.min(engine.context_length())),
        model,
    };
    let bar = progress::count(0, "questions");
    let report = coqa::evaluate(&mut engine, &dataset, &request.protocol, &options, &mut log, &mut |now| {
        bar.set_length(now.total as u64);
        bar.set_position(now.done as u64);
        bar.set_message(format!("F1 {:.3}  EM {:.3}", now.f1, now.em));
        watch(&now);
    })?;
    bar.finish_and_clear();
    Ok((report, log.lines().to_vec(), notes))
}

/// Where the token windows of perplexity and KL come from.
#[derive(Debug, Clone)]
pub struct TextWindows {
    pub text: PathBuf,
    /// Tokens in a window, BOS included; where it is not said [`DEFAULT_LENGTH`], or the model's context where that is less.
    pub window: Option<usize>,
    pub limit: Option<usize>,
}

impl TextWindows {
    /// A `.json` file holds token ids; anything else is text for `engine`'s tokenizer.
    ///
    /// Refuses a text of which the artifact was calibrated on a passage.
    fn read(&self, artifact: &Path, manifest: &Manifest) -> Result<Text, CommandError> {
        let text = self.open(manifest)?;
        let Some(calibration) = &manifest.calibration else { return Ok(text) };
        let shown = self.text.display().to_string();
        match &text {
            Text::Documents(texts) => refuse_recorded_text(calibration, texts, &shown)?,
            Text::Ids(windows) => {
                let vocabulary = Vocabulary::open(artifact, usize::MAX)?;
                let numbered = windows.as_slice().iter().zip(1..);
                let texts = numbered.map(|(ids, number)| vocabulary.decode(ids, number)).collect::<Result<Vec<_>, _>>()?;
                refuse_recorded_text(calibration, &texts, &shown)?;
            }
        }
        Ok(text)
    }

    fn open(&self, manifest: &Manifest) -> Result<Text, CommandError> {
        if self.text.extension().is_none_or(|extension| extension != "json") {
            return Ok(Text::Documents(load_texts(&self.text)?));
        }
        let file = || self.text.display().to_string();
        let windows = TokenWindows::load(&self.text).map_err(|error| match error {
            // These name the file themselves.
            EvalError::Read { .. } | EvalError::Text { .. } => error.into(),
            other => CommandError::at(file)(other),
        })?;
        let table = manifest.weights.iter().find(|weight| weight.name == "model.embed_tokens.weight");
        if let Some(&vocab_size) = table.and_then(|table| table.shape.first()) {
            windows.check_ids(vocab_size).map_err(CommandError::at(file))?;
        }
        Ok(Text::Ids(windows))
    }

    fn tokens(&self, text: Text, engine: &Engine) -> Result<TokenWindows, CommandError> {
        let file = || self.text.display().to_string();
        let context = engine.context_length();
        match text {
            Text::Ids(windows) => {
                let windows = match self.limit {
                    Some(limit) => windows.first(limit),
                    None => windows,
                };
                match windows.as_slice().iter().map(Vec::len).find(|&window| window > context) {
                    Some(window) => Err(CommandError::at(file)(UsageError::WindowBeyondContext { window, context })),
                    None => Ok(windows),
                }
            }
            Text::Documents(texts) => {
                TokenWindows::of_texts(engine, &texts, self.length(context)?, self.limit).map_err(CommandError::at(file))
            }
        }
    }

    fn length(&self, context: usize) -> Result<usize, UsageError> {
        match self.window {
            Some(window) if window > context => Err(UsageError::WindowBeyondContext { window, context }),
            Some(window) => Ok(window),
            None if DEFAULT_LENGTH > context => {
                tracing::warn!("windows of {context} tokens, all that the model takes, and not of {DEFAULT_LENGTH}");
                Ok(context)
            }
            None => Ok(DEFAULT_LENGTH),
        }
    }
}

enum Text {
    Ids(TokenWindows),
    Documents(Vec<String>),
}

/// Perplexity of an artifact.
#[derive(Debug, Serialize)]
pub struct PerplexityScores {
    pub task: &'static str,
    pub artifact: PathBuf,
    #[serde(flatten)]
    pub report: PerplexityReport,
}

/// `qonnx eval --task perplexity`.
pub fn perplexity(artifact: &Path, windows: &TextWindows, runtime: &RuntimeChoice) -> Result<PerplexityScores, CommandError> {
    let text = windows.read(artifact, &trusted(artifact)?)?;
    let mut engine = scorer(artifact, runtime)?;
    let tokens = windows.tokens(text, &engine)?;
    let bar = progress::count(tokens.as_slice().len() as u64, "windows");
    let report = crate::eval::perplexity(&mut engine, &tokens, &mut |done, perplexity| {
        bar.set_position(done as u64);
        bar.set_message(format!("perplexity {perplexity:.3}"));
    })?;
    bar.finish_and_clear();
    Ok(PerplexityScores { task: "perplexity", artifact: artifact.to_owned(), report })
}

/// What `qonnx eval --task kl` was asked.
#[derive(Debug, Clone)]
pub struct KlRequest {
    pub artifact: PathBuf,
    pub reference: PathBuf,
    /// File of the reference's top-k logits, and k.
    pub cache: Option<(PathBuf, usize)>,
    pub windows: TextWindows,
    pub runtime: RuntimeChoice,
}

/// Divergence of an artifact from another.
#[derive(Debug, Serialize)]
pub struct KlScores {
    pub task: &'static str,
    pub artifact: PathBuf,
    pub reference: PathBuf,
    #[serde(flatten)]
    pub report: KlReport,
}

/// `qonnx eval --task kl`.
pub fn kl(request: &KlRequest) -> Result<KlScores, CommandError> {
    let manifest = trusted(&request.artifact)?;
    let reference_model = fingerprint(&request.reference)?;
    // One that is there is read, and refused if it is not ours.
    for (path, _) in request.cache.iter().filter(|(path, _)| !path.exists()) {
        let cache = Output { flag: "--reference-cache", path, kind: Kind::Checked };
        outputs::check(&[cache], &[])?;
    }
    let text = request.windows.read(&request.artifact, &manifest)?;
    let mut engine = scorer(&request.artifact, &request.runtime)?;
    let tokens = request.windows.tokens(text, &engine)?;
    let bar = progress::count(tokens.as_slice().len() as u64, "windows");
    let mut shown = |done: usize, mean: f64| {
        bar.set_position(done as u64);
        bar.set_message(format!("KL {mean:.5}"));
    };
    let report = match &request.cache {
        None => {
            let mut reference = scorer(&request.reference, &request.runtime)?;
            kl_exact(&mut reference, &mut engine, &tokens, &mut shown)?
        }
        Some((path, k)) => {
            if !path.exists() {
                cache_reference(request, &reference_model, &tokens, *k, path)?;
            }
            let mut cache = CacheReader::open(path, &reference_model)?;
            if cache.header().k != *k {
                let (path, stored, wanted) = (path.display().to_string(), cache.header().k, *k);
                return Err(UsageError::OtherTopK { path, stored, wanted }.into());
            }
            kl_against_cache(&mut cache, &mut engine, &tokens, &mut shown)?
        }
    };
    bar.finish_and_clear();
    let (artifact, reference) = (request.artifact.clone(), request.reference.clone());
    Ok(KlScores { task: "kl", artifact, reference, report })
}

fn cache_reference(request: &KlRequest, model: &str, tokens: &TokenWindows, k: usize, path: &Path) -> Result<(), CommandError> {
    let mut reference = scorer(&request.reference, &request.runtime)?;
    let bar = progress::count(tokens.as_slice().len() as u64, "reference");
    write_cache(&mut reference, model, tokens, k, path, &mut |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    Ok(())
}

/// The manifest, whose word on calibration is taken: one that has changed since it was written has none.
fn trusted(artifact: &Path) -> Result<Manifest, CommandError> {
    let manifest = Manifest::load(artifact)?;
    match manifest.is_as_written() {
        Some(true) => {}
        Some(false) => {
            return Err(UsageError::ManifestChanged { path: artifact.join(MANIFEST_FILE).display().to_string() }.into());
        }
        None => tracing::warn!(
            "{}: has no hash of itself, an earlier version wrote it; that it was not calibrated on this text is taken on trust",
            artifact.join(MANIFEST_FILE).display()
        ),
    }
    Ok(manifest)
}

/// Formats without an exact kernel of packed weights on the CPU; 5 and 6 bits are two products of planes there.
const SLOW: [&str; 4] = ["int8", "int6", "int5", "int2"];

fn is_slow(format: &str) -> bool {
    SLOW.contains(&format.trim_start_matches('u'))
}

/// Loads an artifact to score it. ONNX Runtime's CPU has exact kernels for packed 4-bit weights only and unpacks others on
/// every run: where that is about to happen, it is said.
fn scorer(artifact: &Path, runtime: &RuntimeChoice) -> Result<Engine, CommandError> {
    let manifest = Manifest::load(artifact)?;
    let slow = |weight: &&WeightRecord| is_slow(&weight.format);
    if let (Some(weight), false, WeightKernels::Fused) =
        (manifest.weights.iter().find(slow), runtime.provider.is_gpu(), runtime.weights)
    {
        let format = &weight.format;
        tracing::warn!("{format} weights are unpacked on every step on the CPU; --weights dequantized scores the same sooner");
    }
    runtime.load(artifact, &manifest)
}

/// What an artifact is called in records: the hash of its manifest, which holds the hashes of its files.
fn fingerprint(artifact: &Path) -> Result<String, CommandError> {
    let manifest = Manifest::load(artifact)?;
    let digest = Sha256::digest(manifest.to_json().as_bytes());
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

impl fmt::Display for CoqaScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        let pace = report.questions_per_second.map_or_else(|| "resumed".to_owned(), |pace| format!("{pace:.1} questions/s"));
        writeln!(f, "CoQA, protocol {} {}, {pace}\n", report.protocol, report.protocol_version)?;
        let error = |stderr: Option<f64>| stderr.map_or_else(String::new, |stderr| format!("± {stderr:.4}"));
        let cells = |name: &str, f1: (f64, String), em: (f64, String), questions: usize| {
            vec![name.to_owned(), format!("{:.4}", f1.0), f1.1, format!("{:.4}", em.0), em.1, questions.to_string()]
        };
        let all = cells("all", (report.f1, error(report.f1_stderr)), (report.em, error(report.em_stderr)), report.questions);
        let domains = report
            .by_domain
            .iter()
            .map(|(name, score)| cells(name, (score.f1, String::new()), (score.em, String::new()), score.questions));
        let rows = std::iter::once(all).chain(domains);
        f.write_str(&table(&["domain", "F1", "", "EM", "", "questions"], &[1, 3, 5], rows))?;
        if report.truncated > 0 {
            write!(f, "\n\n{} prompts were longer than the context and lost their beginning", report.truncated)?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n\n{note}"))
    }
}

impl fmt::Display for PerplexityScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        write!(f, "perplexity {:.4}  ({:.5} nats a token, {} tokens)", report.perplexity, report.nll, report.tokens)
    }
}

impl fmt::Display for KlScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        let rows = [
            ("KL, mean", format!("{:.6}", report.kl_mean)),
            ("KL, median", format!("{:.6}", report.kl_p50)),
            ("KL, 99th percentile", format!("{:.6}", report.kl_p99)),
            ("same top-1", format!("{:.4}", report.same_top1)),
            ("positions", report.positions.to_string()),
        ];
        let lines = rows.map(|(what, value)| format!("{what:<22}{value:>10}"));
        write!(f, "{}", lines.join("\n"))?;
        if !report.exact {
            write!(f, "\nlower bounds: {:.4} of the reference's probability lies outside its top k", report.tail_mass)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_that_is_unpacked_on_each_step_is_slow() {
        let formats = ["int8", "uint8", "int6", "uint6", "int5", "uint5", "int4", "uint4", "int3", "int2", "uint2", "nf4", "f16"];
        let slow: Vec<&str> = formats.into_iter().filter(|format| is_slow(format)).collect();
        assert_eq!(slow, ["int8", "uint8", "int6", "uint6", "int5", "uint5", "int2", "uint2"]);
    }
}
