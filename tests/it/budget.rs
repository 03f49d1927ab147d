//! Widths under a budget: within it on the disk, better than one width everywhere, and made again without a search.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use qonnx::artifact::ArtifactError;
use qonnx::artifact::plan::{RecipeChoice, RecipeFlags, Request};
use qonnx::calib::{self, Vocabulary};
use qonnx::commands::evaluate::{self, KlRequest};
use qonnx::commands::export::{self, ExportReport};
use qonnx::commands::plan::{self, Load};
use qonnx::commands::{CommandError, RuntimeChoice};
use qonnx::compress::CompressError;
use qonnx::host::in_full;
use qonnx::recipe::{BudgetRecipe, DEFAULT_CALIBRATION, FormatName, GranularityName, Override, Recipe};
use qonnx::record::{Manifest, WeightRecord};
use qonnx::runtime::{Launch, WeightKernels};
use qonnx::tensor::DType;
use tempfile::TempDir;

use crate::support::tiny;

/// What three bits in groups of 128 take everywhere.
const TARGET: f64 = 3.125;

/// A folder with a small calibration set, the artifact under the budget, and those that it is compared with.
struct Place {
    folder: TempDir,
    report: ExportReport,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let vocabulary = Vocabulary::open(&tiny::model(), 4096).expect("the fixture has a tokenizer");
    let own = calib::load(DEFAULT_CALIBRATION, &vocabulary, || unreachable!("the set is built in")).expect("it is built in");
    let sequences: Vec<&[u32]> = own.sequences.iter().step_by(3).take(10).map(|sequence| &sequence[..128]).collect();
    assert_eq!(sequences.len(), 10);
    let set = serde_json::json!({ "sequences": sequences });
    fs::write(folder.path().join("set.json"), set.to_string()).expect("the folder can be written to");
    let report = tiny::export(&under(&folder, BudgetRecipe::Bpw(TARGET)), &folder.path().join("mixed"));
    Place { folder, report }
});

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn under(folder: &TempDir, target: BudgetRecipe) -> Request {
    let flags = RecipeFlags { budget: Some(target), ..RecipeFlags::default() };
    let calibration = Some(folder.path().join("set.json").display().to_string());
    Request { calibration, ..tiny::request(&tiny::model(), flags, DType::F32) }
}

fn uniform(format: FormatName) -> Request {
    let granularity = (format != FormatName::F16).then_some(GranularityName::Group(128));
    let flags = RecipeFlags { granularity, ..tiny::bits(format) };
    tiny::request(&tiny::model(), flags, DType::F32)
}

fn linears(artifact: &Path) -> BTreeMap<String, WeightRecord> {
    let manifest = Manifest::load(artifact).unwrap_or_else(|error| panic!("{error}"));
    let linears = manifest.weights.into_iter().filter(|weight| weight.name.contains("_proj."));
    linears.map(|weight| (weight.name.clone(), weight)).collect()
}

/// Mean KL from the unquantized artifact, through ONNX Runtime, on text that the set does not hold.
fn kl(artifact: &Path, reference: &Path) -> f64 {
    let request = KlRequest {
        artifact: artifact.to_owned(),
        reference: reference.to_owned(),
        cache: None,
        windows: evaluate::TextWindows { text: tiny::model().join("perplexity.txt"), window: Some(256), limit: Some(6) },
        runtime: RuntimeChoice {
            provider: qonnx::runtime::ExecutionProvider::Cpu,
            threads: None,
            weights: WeightKernels::Fused,
            launch: Launch::Replayed,
            cancel: qonnx::host::interrupt::CancelToken::NEVER,
        },
    };
    evaluate::kl(&request).unwrap_or_else(|error| panic!("{}", in_full(&error))).report.kl_mean
}

fn refusal(request: &Request) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let options = export::Options::new(folder.path().join("out"));
    let error = export::run(request, &options).expect_err("it is refused");
    let is_refused = match &error {
        CommandError::Compress(error) => {
            matches!(error, CompressError::Refused(_) | CompressError::Artifact(ArtifactError::Usage(_)))
        }
        error => matches!(error, CommandError::Usage(_)),
    };
    assert!(is_refused, "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("it can be listed").count(), 0, "something was left behind");
    in_full(&error)
}

#[test]
fn the_disk_holds_as_many_bits_as_were_asked_for() {
    let place = &*PLACE;
    let linears = linears(&place.path("mixed"));
    let elements = |weight: &WeightRecord| weight.shape.iter().product::<usize>() as f64;
    let all: f64 = linears.values().map(elements).sum();
    let bits = linears.values().map(|weight| weight.bits_per_weight * elements(weight)).sum::<f64>() / all;
    // One bit more for the largest decision, gate and up of a layer.
    let step = elements(&linears["model.layers.0.mlp.gate_proj.weight"]) * 2.0 / all;
    assert!(bits <= TARGET && bits > TARGET - step, "{bits} bits a weight");
    let plan = place.report.budget.as_ref().expect("the report tells of the search");
    assert!((plan.bits_per_weight_linears - bits).abs() < 1e-9);
    let shares: f64 = plan.decisions.iter().map(|decision| decision.predicted_kl).sum();
    assert!((shares - plan.predicted_kl).abs() < 1e-9 && plan.gap >= 0.0);
}

#[test]
fn weights_that_read_one_input_have_one_width() {
    let linears = linears(&PLACE.path("mixed"));
    let format = |layer: usize, linear: &str| &linears[&format!("model.layers.{layer}.{linear}_proj.weight")].format;
    for layer in 0..6 {
        let [q, k, v] = ["self_attn.q", "self_attn.k", "self_attn.v"].map(|linear| format(layer, linear));
        assert!(q == k && k == v, "layer {layer}: {q} {k} {v}");
        assert_eq!(format(layer, "mlp.gate"), format(layer, "mlp.up"), "layer {layer}");
    }
    let distinct: std::collections::BTreeSet<&String> = linears.values().map(|weight| &weight.format).collect();
    assert!(distinct.len() > 1, "one width everywhere is no mix: {distinct:?}");
}

#[test]
fn mixed_widths_are_nearer_to_the_unquantized_model_than_one_width_of_as_many_bits() {
    let place = &*PLACE;
    let [reference, three] = [("f16", FormatName::F16), ("three", FormatName::Int3)].map(|(name, format)| {
        let output = place.path(name);
        tiny::export(&uniform(format), &output);
        output
    });
    let manifest = Manifest::load(&three).unwrap_or_else(|error| panic!("{error}"));
    assert!(manifest.sizes.bits_per_weight_linears >= place.report.bits_per_weight_linears);
    let (mixed, uniform) = (kl(&place.path("mixed"), &reference), kl(&three, &reference));
    assert!(mixed < 0.95 * uniform, "mixed {mixed}, three bits everywhere {uniform}");
    let plan = place.report.budget.as_ref().expect("the report tells of the search");
    let predicted = plan.uniform.iter().find(|uniform| uniform.width.format == FormatName::Int3).expect("it is on the menu");
    assert!(plan.predicted_kl < predicted.predicted_kl);
}

#[test]
fn the_stored_recipe_makes_the_same_bytes_without_a_search() {
    let place = &*PLACE;
    let manifest = Manifest::load(&place.path("mixed")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(manifest.recipe.budget, None);
    assert_eq!(manifest.budget.as_ref().map(|budget| budget.target), Some(BudgetRecipe::Bpw(TARGET)));
    assert!(manifest.calibration.is_some(), "the set that widths were chosen by is remembered");
    let text = toml::to_string(&manifest.recipe).expect("a recipe is TOML");
    assert_eq!(Recipe::parse("stored", &text).expect("it reads back"), manifest.recipe);
    let recipe = place.path("stored.toml");
    fs::write(&recipe, text).expect("the folder can be written to");
    let request =
        Request { recipe: RecipeChoice::Named(recipe.display().to_string()), calibration: None, ..uniform(FormatName::Int4) };
    let again = place.path("again");
    assert!(tiny::export(&request, &again).budget.is_none());
    for file in ["model.onnx", "model.onnx.data"] {
        let [first, second] = ["mixed", "again"].map(|name| fs::read(place.path(name).join(file)).expect("it was written"));
        assert!(first == second, "{file} differs");
    }
}

#[test]
fn a_size_holds_for_the_whole_model() {
    let place = &*PLACE;
    let bytes = 6_200_000;
    let mut request = under(&place.folder, BudgetRecipe::Size(bytes));
    // An exception of one's own stays as it is.
    request.overrides.push(Override::from_flag("model.layers.2.mlp.*=int8").expect("it is PATTERN=FORMAT"));
    let output = place.path("sized");
    tiny::export(&request, &output);
    let files = ["model.onnx", "model.onnx.data"].map(|file| fs::metadata(output.join(file)).expect("it was written").len());
    let written: u64 = files.iter().sum();
    assert!(written <= bytes && written > bytes * 97 / 100, "{written} bytes");
    let linears = linears(&output);
    for linear in ["gate", "up", "down"] {
        assert_eq!(linears[&format!("model.layers.2.mlp.{linear}_proj.weight")].format, "int8");
    }
}

#[test]
fn targets_that_cannot_be_met_are_refused_with_what_can() {
    let folder = &PLACE.folder;
    let cases = [
        (
            BudgetRecipe::Bpw(2.1),
            "target 2.1 bits a weight: the least that this model can have is 2.1250 bits a weight, with int2",
        ),
        (BudgetRecipe::Bpw(16.0), "the unquantized model has 16.0000 bits a weight, so there is nothing to choose"),
        (BudgetRecipe::Size(1_000_000), "target 1.00 MB: everything beside the decoder's linears (embedding, norms, graph)"),
        (BudgetRecipe::Size(5_000_000), "target 5.00 MB: the least that this model can have is"),
        (BudgetRecipe::Size(1_000_000_000), "nothing to choose"),
    ];
    for (target, expected) in cases {
        let error = refusal(&under(folder, target));
        assert!(error.contains(expected), "{error}");
        let planned = plan::run(&under(folder, target), Load { batch: 1, context: Some(64) })
            .unwrap_or_else(|error| panic!("{}", in_full(&error)));
        assert!(planned.refusals[0].contains(expected), "{:?}", planned.refusals);
    }
    let request = under(folder, BudgetRecipe::Bpw(TARGET));
    let planned = plan::run(&request, Load { batch: 1, context: Some(64) }).unwrap_or_else(|error| panic!("{}", in_full(&error)));
    let outlook = planned.budget.as_ref().expect("a budget is looked at");
    assert_eq!((outlook.widest, planned.bits_per_weight_linears), (FormatName::Int3, TARGET));
    assert!(planned.to_string().contains("chosen weight by weight when the model is exported"), "{planned}");
}
