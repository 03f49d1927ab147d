//! Requests that cannot be meant, and files that are not what a request says: faults that no single part of the program owns.

use crate::host::shown;

/// Flags that clap cannot check by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    #[error("--text is missing; perplexity and kl need a text: plain text, JSONL with a `text` field, or token id windows")]
    TextMissing,
    #[error("windows of {window} tokens are longer than the model's context of {context}; give --window {context} or less")]
    WindowBeyondContext { window: usize, context: usize },
    #[error("--reference is missing; kl needs the artifact to diverge from, like the one of `qonnx export --bits 16`")]
    ReferenceMissing,
    #[error("{flag} means nothing to --task {task}, which takes {takes}; leave it out")]
    ForeignFlag { flag: String, task: &'static str, takes: String },
    #[error("--bits 16 is not quantized, so {flag} means nothing; leave it out, or choose fewer bits")]
    FlagOfNothing { flag: &'static str },
    #[error("{flag} means nothing to --method {method}; leave it out, or choose {takes}")]
    MethodFlag { flag: &'static str, method: &'static str, takes: &'static str },
    #[error(
        "quantized checkpoint {dir}: weight {weight} is missing, has changed since it was written or is not what the recipe says; \
         quantize the model again, or fetch the folder again"
    )]
    QuantizedDamaged { dir: String, weight: String },
    #[error(
        "quantized checkpoint {dir}: {file} was removed, added or changed since the model was quantized; put back what was there, or \
         quantize the model again"
    )]
    QuantizedCompanion { dir: String, file: String },
    #[error("quantized checkpoint {dir}: {} is {there}; fetch the folder again", shown(.file))]
    QuantizedFiles { dir: String, file: String, there: &'static str },
    #[error("{model} is quantized already, so {flag} means nothing; leave it out, or give the unquantized model")]
    QuantizedAlready { model: String, flag: &'static str },
    #[error(
        "{results}: no record is of {artifact}, as none of {records} names its data file; give the folder of the sweep or the run that made it"
    )]
    NoRecordOf { artifact: String, results: String, records: usize },
    #[error("artifact {artifact}: {problem}; export it again, its card stays as it is")]
    CardDamaged { artifact: String, problem: String },
    #[error(
        "artifact {artifact}: is made for {target}, which nothing here runs, so no record has scores of it; give one for ort"
    )]
    CardOfCheckpoint { artifact: String, target: &'static str },
    #[error("artifact {artifact}: {problem}; export it again, nothing was sent")]
    PushDamaged { artifact: String, problem: String },
    #[error("{model} was calibrated with activations in f32, as those of this model are beyond f16; export it with --dtype f32")]
    QuantizedForF32 { model: String },
    #[error("--seed is of a rotation; add --rotate, or leave it out")]
    SeedOfNothing,
    #[error("--save-stats {folder}: holds {file}, which is no statistics; give a new folder, or one that --save-stats made")]
    StatisticsForeign { folder: String, file: String },
    #[error("{flag} means nothing to this recipe, which uses no statistics; leave it out, or choose --method gptq")]
    StatisticsFlag { flag: &'static str },
    #[error(
        "generation_config.json: {settings} would change lm-evaluation-harness's answers and is not followed here, so protocol lm-eval \
         cannot claim its scores; remove it from the checkpoint's file and export again, or take --protocol official, which notes it"
    )]
    DecodingNotFollowed { settings: String },
    #[error(
        "tokenizer_class {class}: transformers builds the tokenizer anew under that class, which {how}; the file is followed here, so \
         protocol lm-eval cannot claim its scores; make it PreTrainedTokenizerFast in the checkpoint's tokenizer_config.json and export \
         again, or take --protocol official, which notes it"
    )]
    TokenizerNotFollowed { class: String, how: &'static str },
    #[error(
        "config.json: n_positions is {context}, which lm-evaluation-harness takes for the context; it leaves no room for a prompt beside \
         {new} new tokens; remove it, or take --protocol official, which leaves it aside"
    )]
    HarnessContext { context: usize, new: usize },
    #[error("--official-predictions is for every turn; add --protocol official")]
    OfficialWithoutProtocol,
    #[error("--context {got}: the artifact covers {most} positions; ask for fewer, or raise --max-context")]
    ContextBeyond { got: usize, most: usize },
    #[error(
        "--prompt {prompt} and --gen {new_tokens} take {got} positions, the artifact covers {most}; ask for fewer, or export it with a higher --max-context"
    )]
    BenchBeyondContext { prompt: usize, new_tokens: usize, got: usize, most: usize },
    #[error("--min-repeats {least} is more than --max-repeats {most}; lower the one or raise the other")]
    Repeats { least: usize, most: usize },
    #[error("{path} holds the reference's top {stored} logits, expected {wanted}; ask for --top-k {stored}, or remove the file")]
    OtherTopK { path: String, stored: usize, wanted: usize },
    #[error(
        "artifact {dir}: is a checkpoint for {target}, which ONNX Runtime cannot run; `qonnx verify` checks it, and an export of the same \
         quantized checkpoint without --target runs here"
    )]
    ArtifactOfOthers { dir: String, target: &'static str },
    #[error("{path}: {problem}; export the artifact again, or fetch it again")]
    DataFileUnfit { path: String, problem: String },
    #[error("{path} has {got} bytes, expected {expected}; `qonnx verify` checks the other files, export it again")]
    FileSize { path: String, got: u64, expected: u64 },
    #[error(
        "{path} has changed since it was written, so nothing in it says what the artifact was calibrated on; export it again"
    )]
    ManifestChanged { path: String },
    #[error("--rescore recomputes the scores of --predictions FILE; name the file")]
    PredictionsMissing,
    #[error("data set {id}: no validation file (.json, .jsonl or .parquet); give a file with --data")]
    DataSetEmpty { id: String },
    #[error("data set {id}: {file} is of another form than the files before it; give one of them with --data")]
    DataSetMixed { id: String, file: String },
    #[error("--target {targets}: a plan is of one artifact; name one")]
    PlanOfSeveral { targets: String },
    #[error("output {path}: exists already; give another folder, or --overwrite to replace an artifact")]
    OutputExists { path: String },
    #[error("output {path}: the path is not UTF-8, and ONNX Runtime would open nothing there; give another folder")]
    OutputNotUtf8 { path: String },
    #[error("output {path}: exists and is not {kind}, so --overwrite does not replace it; give another folder")]
    OutputForeign { path: String, kind: &'static str },
    #[error("{flag} {path}: exists and is not {kind}, so it is not written over; give another file, or remove this one")]
    OutputOfOthers { flag: &'static str, path: String, kind: &'static str },
    #[error("{flag} {path}: is a file that the command also names for something else; give another one")]
    OutputIsInput { flag: &'static str, path: String },
    #[error("{flag} {path}: cannot be made ({reason}); give another file")]
    OutputUnwritable { flag: &'static str, path: String, reason: String },
    #[error("--save-stats {folder}: lies in the artifact's own folder; give another one")]
    StatisticsOfOutput { folder: String },
    #[error("{flag} {path}: lies in an artifact's folder, where nothing but the artifact may be; give another one")]
    OutputOfArtifact { flag: &'static str, path: String },
    #[error("{flag} {path}: is no file, and answers are read back from it; name a file, or leave {flag} out")]
    OutputNotFile { flag: &'static str, path: String },
    #[error("{flag} {path}: is a folder; give a file")]
    OutputIsFolder { flag: &'static str, path: String },
    #[error("report {path}: exists and is no file of a report; give another folder with -o, or move it away")]
    ReportForeign { path: String },
    #[error("output {path}: is a link to nothing; remove it, or give another folder")]
    OutputLink { path: String },
    #[error(
        "output {path}: holds {}, which is no part of {kind} and would go with it; move it away, or give another folder",
        shown(name)
    )]
    OutputHolds { path: String, kind: &'static str, name: String },
    #[error("output {path}: its parent folder does not exist; create it first")]
    ParentMissing { path: String },
    #[error("model {folder}: {file} is missing; give a folder with config.json, tokenizer.json and safetensors")]
    ModelFileMissing { folder: String, file: &'static str },
    #[error("{path}: {problem}; copy it from the model's repository again")]
    ModelFileUnfit { path: String, problem: String },
    #[error(
        "results {folder}: is no folder that can be listed ({reason}); give the one that `qonnx run` and `qonnx sweep` write to"
    )]
    ResultsUnlisted { folder: String, reason: std::io::Error },
    #[error("--csv - writes to stdout, and so does {flag}; give --csv a file, or leave {flag} out")]
    CsvBesides { flag: &'static str },
    #[error("--no-cuda-graph works only on CUDA; add --ep cuda, or leave it out")]
    GraphOfCpu,
    #[error("the prompt on stdin is not UTF-8; convert it, for example with iconv")]
    PromptNotUtf8,
}
