//! What an export would write, from headers alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::artifact::ArtifactError;
use crate::artifact::card::{self, Licence};
use crate::artifact::named_file::NamedFile;
use crate::artifact::source::Source;
use crate::artifact::targets::{self, GGUF_FILE, Gguf};
use crate::calib;
use crate::checkpoint::{self, INDEX_FILE, Index, Renamed};
use crate::contract::{CARD_FILE, GraphFile};
use crate::host::shown;
use crate::model::{
    self, Architecture, DecoderConfig, DecoderGraph, ExpectedTensor, GraphForm, GraphOptions, ModelRotation, StoredForm,
    StoredWeight, Survey, WeightForm,
};
use crate::onnx::{GraphCause, GraphError, Layout, oldest_onnxruntime};
use crate::quant::{Codebook, Format, ScaleStorage};
use crate::recipe::{CalibrationRecipe, FormatName, ModuleKind, NamedModule, Override, Recipe, WeightRecipe};
use crate::record::{FileRecord, MANIFEST_SCHEMA, Manifest, ModelRecord, Sizes, Target, WeightRecord};
use crate::tensor::DType;

mod disagreements;

pub use crate::recipe::flags::{GptqFlags, Method, RecipeFlags};

/// What to export and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Local folder or hub repo id with optional `@revision`.
    pub model: String,
    pub recipe: RecipeChoice,
    /// Added behind the recipe's own.
    pub overrides: Vec<Override>,
    /// A calibration set instead of the recipe's.
    pub calibration: Option<String>,
    /// F16 or F32.
    pub activation: DType,
    pub max_context: Option<usize>,
    pub target: Target,
    /// Most bytes of a data file, where that is less than what the target's readers take.
    pub data_file_bytes: Option<u64>,
}

/// A recipe by name, its short form in flags, or the recipe itself.
#[derive(Debug, Clone, PartialEq)]
pub enum RecipeChoice {
    Named(String),
    Flags(RecipeFlags),
    Whole(Box<Recipe>),
}

impl Request {
    /// The recipe that the request means, overrides included; its calibration set is one that there is.
    pub fn recipe(&self) -> Result<Recipe, ArtifactError> {
        let mut recipe = match &self.recipe {
            RecipeChoice::Named(name) => Recipe::load(name)?,
            RecipeChoice::Flags(flags) => flags.recipe(self.calibration.as_deref())?,
            RecipeChoice::Whole(recipe) => recipe.as_ref().clone(),
        };
        if let Some(set) = &self.calibration {
            recipe.calibration = Some(CalibrationRecipe { set: set.clone() });
        }
        if let Some(calibration) = &recipe.calibration {
            calib::refuse_unknown(&calibration.set)?;
        }
        let is_by_format = match &self.recipe {
            RecipeChoice::Named(_) | RecipeChoice::Whole(_) => true,
            RecipeChoice::Flags(flags) => flags.granularity.is_none() && flags.budget.is_none(),
        };
        let base = recipe.weights;
        let overrides = self.overrides.iter().cloned();
        recipe.overrides.extend(overrides.map(|over| if is_by_format { over.with_own_granularity(&base) } else { over }));
        Ok(recipe)
    }
}

/// Everything about an artifact that is known before its weights are.
pub struct Plan {
    pub architecture: Architecture,
    /// What it asks of the checkpoint.
    pub survey: Survey,
    pub graph: DecoderGraph,
    /// What the graph is called.
    pub graph_file: GraphFile,
    /// Most bytes of a data file.
    most_data_bytes: u64,
    /// Size of the external data; of a checkpoint, of its tensors.
    pub data_bytes: u64,
    pub manifest: Manifest,
    pub activation: DType,
    /// Files that are copied beside the graph: config.json, the tokenizer, ….
    pub copied: Vec<FileRecord>,
    /// Files that are made for other runtimes, some in place of one that is copied.
    pub made: Vec<NamedFile>,
    /// What the model's own card says of its licence.
    pub licence: Licence,
    /// The file that llama.cpp reads, where that is the target and the model is here in whole.
    pub gguf: Option<Gguf>,
    /// How each matrix is stored, by its name in the checkpoint.
    pub recipes: BTreeMap<String, WeightRecipe>,
}

/// What only calibration can tell about an artifact.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Input features that stay f16, by weight.
    pub outliers: BTreeMap<String, usize>,
    /// Weights that are not quantized and not the checkpoint's either.
    pub dense: BTreeSet<String>,
}

/// Plans the export of the checkpoint whose headers `index` holds.
pub fn plan(request: &Request, source: &Source, index: &Index) -> Result<Plan, ArtifactError> {
    let plan = with_facts(request, request.recipe()?, &Facts::default(), source, index)?;
    source.check_companions()?;
    warn_of_leftovers(&plan, source, index);
    Ok(plan)
}

/// As [`plan`], by `recipe` instead of the request's own, with what calibration has found; without a word of what is left out.
pub fn with_facts(
    request: &Request,
    recipe: Recipe,
    facts: &Facts,
    source: &Source,
    index: &Index,
) -> Result<Plan, ArtifactError> {
    let architecture = source.architecture()?;
    let survey = disagreements::agreed(&architecture, index)?.map_err(ArtifactError::Refused)?;
    let rotation = ModelRotation::of(&architecture, &recipe)?;
    let form = targets::graph_form(request.target);
    let (activation, target) = (request.activation, request.target);
    let dense = Dense { index, activation, target, rotation: rotation.as_ref(), facts };
    let forms = Forms::resolve(&recipe, &survey.tensors, &dense)?;
    let max_context = max_context(request.max_context, &architecture)?;
    let copied = source.companions()?;
    let rotated_head = rotation.as_ref().is_some_and(ModelRotation::has_head_matrix);
    let options = GraphOptions { activation: request.activation, max_context, rotated_head, form };
    let mut graph =
        model::decoder(&architecture, &options, &|weight| forms.of(weight)).map_err(|error| forms.unstorable(error))?;
    refuse_unheld(request, &graph, &forms.recipes, rotated_head)?;
    let graph_file = targets::graph_file(request.target, &graph.weights, request.activation);
    let most_data_bytes = most_data_bytes(request);
    let made = match targets::checkpoint_form(request.target) {
        Some(form) => targets::files_of_checkpoint(source, form, &graph.weights, request.activation)?,
        None => {
            let (target, activation) = (request.target, request.activation);
            let layout = &Layout::in_chunks(&graph.model, graph_file.clone(), most_data_bytes);
            let written = targets::Written { target, activation, weights: &graph.weights, layout };
            targets::files(source, &architecture, &written, max_context)?
        }
    };
    let gguf = (request.target == Target::Gguf && source.is_whole())
        .then(|| Gguf::of(&source.name, &source.dir, &architecture, &graph.weights))
        .transpose()?;
    let oldest_onnxruntime = oldest_onnxruntime(&graph.model).to_owned();
    let bits = bits_per_weight(&graph.weights, &|weight| stored_bits(request.target, weight));
    graph.model.set_metadata(metadata(source, &recipe, bits, max_context, &oldest_onnxruntime));
    let layout = Layout::in_chunks(&graph.model, graph_file.clone(), most_data_bytes);
    let (model_bytes, data_bytes) = match request.target.is_onnx() {
        true => (layout.total_bytes(), layout.data_bytes()),
        false => {
            let bits: usize = graph.weights.iter().map(|weight| stored_bits(request.target, weight)).sum();
            ((bits / 8) as u64, (bits / 8) as u64)
        }
    };
    let weights: Vec<WeightRecord> =
        graph.weights.iter().map(|weight| draft_record(weight, request.activation, request.target)).collect();
    let manifest = Manifest {
        schema: MANIFEST_SCHEMA,
        qonnx_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: ModelRecord {
            source: source.name.clone(),
            revision: source.revision.clone(),
            architecture: architecture.family.architecture().to_owned(),
            parameters: survey.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum(),
        },
        activation: request.activation.name().to_owned(),
        target: request.target,
        max_context,
        onnx_opset: if request.target.is_onnx() { graph.model.opset() } else { 0 },
        oldest_onnxruntime: request.target.is_onnx().then_some(oldest_onnxruntime),
        recipe,
        calibration: None,
        budget: None,
        sizes: sizes(&graph.weights, request, model_bytes),
        manifest_blake3: None,
        inputs: index.files().iter().map(|file| draft_file(&file.name, file.bytes)).collect(),
        outputs: Vec::new(),
        weights,
    };
    Ok(Plan {
        architecture,
        survey,
        graph,
        graph_file,
        most_data_bytes,
        data_bytes,
        manifest,
        activation: request.activation,
        copied,
        made,
        licence: Licence::of(&source.text(CARD_FILE)?.unwrap_or_default()),
        gguf,
        recipes: forms.recipes,
    })
}

/// Positions that the artifact covers: those asked for, which the model must have been made for.
fn max_context(asked: Option<usize>, config: &DecoderConfig) -> Result<usize, ArtifactError> {
    let trained = config.max_position_embeddings;
    let most = trained.min(model::most_positions(config));
    match asked {
        None => Ok(GraphOptions::of(config, DType::F32).max_context),
        Some(positions) if (1..=most).contains(&positions) => Ok(positions),
        Some(positions) if positions > trained || positions == 0 => {
            let sentence = format!("--max-context {positions}: expected 1 to the model's max_position_embeddings, {trained}");
            Err(ArtifactError::Refused(vec![sentence]))
        }
        Some(positions) => {
            let sentence = format!(
                "--max-context {positions}: expected 1 to {most}, for the artifact has a row of rotary angles for each position and \
                 more would not fit in a gigabyte"
            );
            Err(ArtifactError::Refused(vec![sentence]))
        }
    }
}

/// What the recipe makes of each weight of the checkpoint.
struct Forms {
    forms: BTreeMap<String, WeightForm>,
    recipes: BTreeMap<String, WeightRecipe>,
}

impl Forms {
    fn resolve(recipe: &Recipe, expected: &[ExpectedTensor], dense: &Dense<'_>) -> Result<Forms, ArtifactError> {
        let recipes = recipes(recipe, expected)?;
        let form = |name: &str| match recipes.get(name).and_then(WeightRecipe::scheme) {
            Some(scheme) if !dense.facts.dense.contains(name) => match dense.facts.outliers.get(name) {
                Some(&outliers) => WeightForm::Outliers { scheme, outliers },
                None => WeightForm::Quantized(scheme),
            },
            _ => WeightForm::Dense(dense.dtype(name)),
        };
        Ok(Forms { forms: expected.iter().map(|tensor| (tensor.name.clone(), form(&tensor.name))).collect(), recipes })
    }

    /// A weight whose format cannot store its shape, and what can; any other error of the graph as it is.
    fn unstorable(&self, error: GraphError) -> ArtifactError {
        let weight = format!("{}.weight", error.path);
        let Some(format) = self.recipes.get(&weight).map(|recipe| recipe.format).filter(|&format| format != FormatName::F16)
        else {
            return error.into();
        };
        let any_layer = weight.starts_with("model.layers.").then(|| error.path.splitn(4, '.').nth(3)).flatten();
        let pattern = any_layer.map_or(error.path.clone(), |part| format!("*.{part}"));
        let other = if any_layer.is_some() && format != FormatName::Int4 { "int4" } else { "f16" };
        let is_of_groups = matches!(&error.cause, GraphCause::Attribute { name: "group_size", .. });
        let group_size = if is_of_groups { ", or choose another --group-size" } else { "" };
        let sentence = format!(
            "weight {weight} cannot be stored as {}: {}; give it another format, like --override '{pattern}={other}'{group_size}",
            format.name(),
            error.cause
        );
        ArtifactError::Refused(vec![sentence])
    }

    fn of(&self, weight: &str) -> WeightForm {
        // What a rotation puts before a tied head is no weight of the checkpoint.
        self.forms.get(weight).copied().unwrap_or(WeightForm::Dense(DType::F16))
    }
}

/// Weights that are not quantized.
struct Dense<'a> {
    index: &'a Index,
    activation: DType,
    target: Target,
    /// What is merged into the weights.
    rotation: Option<&'a ModelRotation>,
    facts: &'a Facts,
}

impl Dense<'_> {
    /// Weights keep the checkpoint's own type where activations are f32 (lossless, and bf16 stays 16 bits on disk); an f16
    /// artifact holds f16. Those that are not the checkpoint's any more have no type of their own: f16, whose eleven bits are
    /// enough for rotated matrices and exact for norms that took AWQ's scales; biases are small.
    fn dtype(&self, name: &str) -> DType {
        // llama.cpp multiplies and adds by f32 vectors alone.
        if self.target == Target::Gguf && self.index.get(name).is_some_and(|info| info.shape.len() == 1) {
            return DType::F32;
        }
        let is_rotated = self.rotation.is_some_and(|rotation| rotation.touches(name));
        match self.activation {
            DType::F32 if is_rotated || self.facts.dense.contains(name) => {
                if name.ends_with(".bias") {
                    DType::F32
                } else {
                    DType::F16
                }
            }
            DType::F32 => match self.index.get(name).map_or(DType::F32, |info| info.dtype) {
                // Browsers' ONNX Runtime, rten and tract read no bf16.
                DType::BF16 if targets::graph_form(self.target) != GraphForm::QuantizeDequantize => DType::F32,
                dtype => dtype,
            },
            other => other,
        }
    }
}

/// How a recipe stores each matrix of a model with these tensors, by name.
///
/// # Errors
/// A pattern of the recipe is of no matrix.
pub fn recipes(recipe: &Recipe, expected: &[ExpectedTensor]) -> Result<BTreeMap<String, WeightRecipe>, ArtifactError> {
    let modules = modules(expected);
    let resolved = recipe.resolve(&modules)?;
    Ok(modules.iter().map(|module| format!("{}.weight", module.names[0])).zip(resolved).collect())
}

/// The modules that a recipe speaks of: matrices, by module name; a tied LM head shares the embedding's entry.
fn modules(expected: &[ExpectedTensor]) -> Vec<NamedModule> {
    let untied = expected.iter().any(|tensor| tensor.name == "lm_head.weight");
    let matrices =
        expected.iter().filter(|tensor| tensor.shape.len() == 2).filter_map(|tensor| tensor.name.strip_suffix(".weight"));
    matrices
        .map(|name| {
            let kind = if name.starts_with("model.layers.") { ModuleKind::DecoderLinear } else { ModuleKind::Embedding };
            let tied_head = (name == "model.embed_tokens" && !untied).then(|| "lm_head".to_owned());
            NamedModule { names: std::iter::once(name.to_owned()).chain(tied_head).collect(), kind }
        })
        .collect()
}

/// Says what of the checkpoint the artifact will not hold, and what is read under another name; transformers does the same,
/// and says so too.
fn warn_of_leftovers(plan: &Plan, source: &Source, index: &Index) {
    let expected: BTreeSet<&str> = plan.survey.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let left_out = |name: &&str| !expected.contains(name) && !plan.architecture.ignores(name);
    let leftovers: Vec<&str> = index.iter().map(|(name, _)| name).filter(left_out).collect();
    if let Some(first) = leftovers.first() {
        let count = leftovers.len();
        tracing::warn!("{count} tensors of the checkpoint are no part of this model and are left out: {}, …", shown(first));
    }
    if let Some(Renamed { stored, name, count }) = index.renamed() {
        let [stored, name] = [stored, name].map(|name| shown(name));
        tracing::warn!(
            "{count} tensors are read under other names than they are stored by, as transformers does: {stored} as {name}, …"
        );
    }
    let unheld: Vec<&str> = index.unheld().collect();
    if let Some(first) = unheld.first() {
        let count = unheld.len();
        tracing::warn!("the index names {count} tensors that no shard has and this model does not need: {}, …", shown(first));
    }
    let read: Vec<&str> = index.files().iter().map(|file| file.name.as_str()).collect();
    for sentence in checkpoint::left_out(source.files().iter().map(String::as_str), &read) {
        tracing::warn!("{sentence}");
    }
}

fn draft_file(name: &str, bytes: u64) -> FileRecord {
    FileRecord { file: name.to_owned(), bytes, blake3: "0".repeat(64) }
}

fn most_data_bytes(request: &Request) -> u64 {
    targets::most_data_bytes(request.target).min(request.data_file_bytes.unwrap_or(u64::MAX))
}

/// Refuses what the target cannot hold.
fn refuse_unheld(
    request: &Request,
    DecoderGraph { model, weights }: &DecoderGraph,
    recipes: &BTreeMap<String, WeightRecipe>,
    rotated_head: bool,
) -> Result<(), ArtifactError> {
    let form = targets::checkpoint_form(request.target);
    if form.is_none() && request.target != Target::TensorRt {
        let sentences = targets::refusals_of_graph(request.target, model, weights, most_data_bytes(request));
        return if sentences.is_empty() { Ok(()) } else { Err(ArtifactError::Refused(sentences)) };
    }
    if request.recipe()?.budget.is_some() {
        // What its search finds may be any width, and what it begins with is f16.
        let target = request.target.name();
        return Err(ArtifactError::Refused(vec![format!(
            "--target {target}: a budget (--target-bpw, --target-size) may choose widths that it does not hold; choose them by `qonnx \
             quantize`, and export what that writes"
        )]));
    }
    let Some(form) = form else {
        let sentences = targets::tensorrt::refusals(weights, recipes, request.activation);
        return if sentences.is_empty() { Ok(()) } else { Err(ArtifactError::Refused(sentences)) };
    };
    let mut sentences = targets::refusals((request.target, form), weights, recipes, rotated_head);
    if request.max_context.is_some() {
        let target = request.target.name();
        sentences
            .push(format!("--max-context means nothing to --target {target}, which covers what config.json says; leave it out"));
    }
    if sentences.is_empty() { Ok(()) } else { Err(ArtifactError::Refused(sentences)) }
}

/// Bits that a weight takes in what the target writes.
fn stored_bits(target: Target, weight: &StoredWeight) -> usize {
    targets::checkpoint_form(target).map_or_else(|| weight.stored_bits(), |form| targets::stored_bits(form, weight))
}

/// Bits that a weight takes where a runtime holds it; whoever loads a checkpoint holds it as it is stored.
fn memory_bits(target: Target, weight: &StoredWeight, activation: DType) -> usize {
    if target.is_onnx() { weight.memory_bits(activation) } else { stored_bits(target, weight) }
}

pub fn draft_record(weight: &StoredWeight, activation: DType, target: Target) -> WeightRecord {
    let bits = stored_bits(target, weight);
    let (format, group_size, double_quantization, outliers) = match &weight.form {
        StoredForm::Dense { dtype, .. } => (dtype.name().to_owned(), None, false, 0),
        StoredForm::Quantized { scheme, outliers, .. } => (
            format_name(scheme.format),
            Some(scheme.granularity.group_size(*weight.shape.last().expect("a quantized weight is a matrix"))),
            scheme.scale_storage == ScaleStorage::Nested,
            outliers.as_ref().map_or(0, |outliers| outliers.count),
        ),
    };
    WeightRecord {
        name: weight.weight.clone(),
        shape: weight.shape.clone(),
        format,
        group_size,
        double_quantization,
        outliers,
        bits_per_weight: bits as f64 / weight.elements() as f64,
        memory_bits_per_weight: memory_bits(target, weight, activation) as f64 / weight.elements() as f64,
        bytes: (bits as u64).div_ceil(8),
        relative_error: 0.0,
        calibrated: None,
        digest: "0".repeat(32),
    }
}

/// `int4`, `uint3`, `nf4`: as the manifest spells a format.
fn format_name(format: Format) -> String {
    match format {
        Format::Int { bits, symmetric: true } => format!("int{bits}"),
        Format::Int { bits, symmetric: false } => format!("uint{bits}"),
        Format::Codebook(Codebook::Nf4) => "nf4".to_owned(),
        Format::Codebook(Codebook::Fp4) => "fp4".to_owned(),
    }
}

fn sizes(weights: &[StoredWeight], request: &Request, model_bytes: u64) -> Sizes {
    let stored = |weight: &StoredWeight| stored_bits(request.target, weight);
    let held = |weight: &StoredWeight| memory_bits(request.target, weight, request.activation);
    let linears = || weights.iter().filter(|weight| weight.is_decoder_linear());
    Sizes {
        bits_per_weight_linears: bits_per_weight(linears(), &stored),
        bits_per_weight_model: bits_per_weight(weights, &stored),
        memory_bits_per_weight_linears: bits_per_weight(linears(), &held),
        model_bytes,
    }
}

fn bits_per_weight<'a>(weights: impl IntoIterator<Item = &'a StoredWeight>, bits: &dyn Fn(&StoredWeight) -> usize) -> f64 {
    let (elements, bits) =
        weights.into_iter().fold((0, 0), |(elements, sum), weight| (elements + weight.elements(), sum + bits(weight)));
    bits as f64 / elements as f64
}

/// What the graph says of itself, to whoever opens it without the manifest.
fn metadata(source: &Source, recipe: &Recipe, bits: f64, max_context: usize, oldest: &str) -> Vec<(String, String)> {
    let hash = blake3::hash(&serde_json::to_vec(recipe).expect("a recipe has keys that are strings")).to_hex().to_string();
    let said = [
        ("base_model", Some(source.name.clone())),
        ("base_model_revision", source.revision.clone()),
        ("recipe_blake3", Some(hash)),
        ("bits_per_weight", Some(format!("{bits:.3}"))),
        ("max_context", Some(max_context.to_string())),
        ("oldest_onnxruntime", Some(oldest.to_owned())),
    ];
    said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

impl Plan {
    /// Where the graph's weights go.
    pub fn layout(&self) -> Layout<'_> {
        Layout::in_chunks(&self.graph.model, self.graph_file.clone(), self.most_data_bytes)
    }

    /// Bytes of every file of the artifact, its manifest included (to within the digits of the errors it records).
    pub fn artifact_bytes(&self) -> u64 {
        let mut manifest = self.manifest.clone();
        let data = self.data_bytes;
        let outputs: Vec<(String, u64)> = match manifest.target.is_onnx() {
            true => {
                let layout = self.layout();
                let chunks = layout.chunks().iter().enumerate().map(|(chunk, &bytes)| (self.graph_file.data_path(chunk), bytes));
                let graph = (self.graph_file.path().to_owned(), manifest.sizes.model_bytes - data);
                std::iter::once(graph).chain(chunks).collect()
            }
            false => match &self.gguf {
                Some(gguf) => vec![(GGUF_FILE.to_owned(), gguf.bytes())],
                None => vec![(INDEX_FILE.to_owned(), data)],
            },
        };
        let made = self.made.iter().map(|file| draft_file(&file.name, file.made_bytes()));
        let card = card::card(&self.manifest, &self.licence, None).len() as u64;
        let made = made.chain([draft_file(CARD_FILE, card)]);
        let is_made = |file: &&FileRecord| file.file == CARD_FILE || self.made.iter().any(|made| made.name == file.file);
        let copied = self.copied.iter().filter(|file| !is_made(file)).cloned();
        manifest.outputs = outputs.iter().map(|(name, bytes)| draft_file(name, *bytes)).chain(copied).chain(made).collect();
        let files: u64 = manifest.outputs.iter().map(|file| file.bytes).sum();
        files + manifest.to_json().len() as u64
    }
}
