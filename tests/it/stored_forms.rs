//! Every form in which a quantized weight can lie in an artifact, through ONNX Runtime: it computes what its numbers say.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array2;
use qonnx::artifact::plan::{Method, RecipeFlags};
use qonnx::artifact::{ArtifactError, packing, quantize};
use qonnx::commands::{RuntimeChoice, inspect, verify};
use qonnx::contract::{DATA_FILE, MODEL_FILE};
use qonnx::generate::Score;
use qonnx::host::in_full;
use qonnx::model::{Architecture, GraphOptions, StoredForm, StoredWeight, WeightForm, decoder};
use qonnx::onnx::{DataFile, Layout, Model, WeightFinder, decode};
use qonnx::quant::{Codebook, Format, Granularity, QuantizedTensor, Rtn, ScaleRule, ScaleStorage, Scheme, with_outliers};
use qonnx::recipe::{FormatName, GranularityName};
use qonnx::runtime::{ArtifactFolder, Engine, EngineOptions, Execution, ExecutionProvider, Launch, WeightKernels, dequantize};
use qonnx::tensor::DType;

use crate::support::tiny;

const CPU: RuntimeChoice = RuntimeChoice {
    provider: qonnx::runtime::ExecutionProvider::Cpu,
    threads: None,
    weights: WeightKernels::Fused,
    launch: Launch::Replayed,
    cancel: qonnx::host::interrupt::CancelToken::NEVER,
};

fn scheme(format: Format, granularity: Granularity) -> Scheme {
    Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage: ScaleStorage::F16 }
}

fn int(bits: u8, symmetric: bool, group_size: usize) -> Scheme {
    scheme(Format::Int { bits, symmetric }, Granularity::PerGroup(group_size))
}

fn codebook(codebook: Codebook, group_size: usize) -> Scheme {
    scheme(Format::Codebook(codebook), Granularity::PerGroup(group_size))
}

fn nested(of: Codebook, group_size: usize) -> Scheme {
    Scheme { scale_storage: ScaleStorage::Nested, ..codebook(of, group_size) }
}

/// The made-up model: sizes that are no multiples of 256 groups, and a k_proj smaller than one block of nested scales.
fn config(tied: bool) -> String {
    format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "vocab_size": 96, "hidden_size": 64,
            "intermediate_size": 192, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": {tied},
            "eos_token_id": 1}}"#
    )
}

/// Numbers of a weight: of its name and shape alone.
fn numbers(name: &str, shape: &[usize]) -> Vec<f32> {
    let mut state = name.bytes().fold(7u64, |state, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let value = |x: f32| if shape.len() == 1 { 1.0 + 0.2 * x } else { 0.3 * x };
    (0..shape.iter().product()).map(|_| value(next())).collect()
}

fn matrix(name: &str, shape: &[usize]) -> Array2<f32> {
    Array2::from_shape_vec((shape[0], shape[1]), numbers(name, shape)).expect("as many numbers as the shape says")
}

/// Writes a graph of `form` into `dir`, dense weights from `dense` or made up; returns what was quantized, and the weights.
fn write(
    dir: &Path,
    config: &str,
    options: &dyn Fn(GraphOptions) -> GraphOptions,
    form: &dyn Fn(&str) -> WeightForm,
    dense: &BTreeMap<String, Array2<f32>>,
) -> (BTreeMap<String, QuantizedTensor>, Vec<StoredWeight>) {
    let cfg = Architecture::from_json(config).expect("the configuration is supported");
    let graph = decoder(&cfg, &options(GraphOptions::of(&cfg, DType::F32)), form).unwrap_or_else(|error| panic!("{error}"));
    let layout = Layout::of(&graph.model);
    let data = DataFile::create(dir, &layout).expect("the folder is writable");
    let mut quantized = BTreeMap::new();
    for stored in &graph.weights {
        match &stored.form {
            StoredForm::Dense { .. } => {
                let values = dense.get(&stored.weight).map(|w| w.iter().copied().collect());
                let values = values.unwrap_or_else(|| numbers(&stored.weight, &stored.shape));
                quantize::write_f32(&values, stored, &data).unwrap_or_else(|error| panic!("{}", in_full(&error)));
            }
            StoredForm::Quantized { scheme, outliers, .. } => {
                // Far apart, the first and the last feature among them.
                let last = stored.shape[1] - 1;
                let features: Vec<usize> = [0, 17, last].into_iter().take(outliers.as_ref().map_or(0, |o| o.count)).collect();
                let w = matrix(&stored.weight, &stored.shape);
                let rounded = with_outliers(&Rtn, w.view(), scheme, None, &features).unwrap_or_else(|error| panic!("{error}"));
                let digest = packing::write(&rounded.tensor, stored, &data).unwrap_or_else(|error| panic!("{}", in_full(&error)));
                assert_eq!(digest, packing::digest(&rounded.tensor));
                quantized.insert(stored.weight.clone(), rounded.tensor);
            }
        }
    }
    let bytes = data.finish().unwrap_or_else(|error| panic!("{error}"));
    std::fs::write(dir.join(MODEL_FILE), bytes).expect("the folder is writable");
    std::fs::write(dir.join("config.json"), config).expect("the folder is writable");
    std::fs::copy(tiny::model().join("tokenizer.json"), dir.join("tokenizer.json")).expect("the folder is writable");
    (quantized, graph.weights)
}

fn read_model(dir: &Path) -> Model {
    decode(&std::fs::read(dir.join(MODEL_FILE)).expect("it was written")).expect("it is a model")
}

/// Logits of a prompt.
fn logits(dir: &Path) -> Vec<f32> {
    let options = EngineOptions {
        provider: ExecutionProvider::Cpu,
        threads: Some(1),
        weights: WeightKernels::Fused,
        launch: Launch::Replayed,
    };
    let mut engine = Engine::load(dir, &options).unwrap_or_else(|error| panic!("{error}"));
    let mut logits = Vec::new();
    let visit = &mut |_: usize, rows: ndarray::ArrayView2<'_, f32>| logits.extend(rows.iter().copied());
    engine.logits(&[3, 80, 41, 41, 7, 95, 12], visit).unwrap_or_else(|error| panic!("{error}"));
    logits
}

#[track_caller]
fn expect_equal(left: &[f32], right: &[f32], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    let largest = right.iter().fold(0f32, |max, x| max.max(x.abs()));
    let off = left.iter().zip(right).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(off <= 2e-5 * largest, "{what}: logits of up to {largest} differ by {off}");
}

/// Each form of the seven linears, by name.
fn forms() -> Vec<(&'static str, WeightForm)> {
    let quantized = WeightForm::Quantized;
    let outliers = |scheme, outliers| WeightForm::Outliers { scheme, outliers };
    let int8 = scheme(Format::Int { bits: 8, symmetric: true }, Granularity::PerChannel);
    let int3 = scheme(Format::Int { bits: 3, symmetric: true }, Granularity::PerChannel);
    vec![
        ("int3", quantized(int(3, true, 32))),
        ("int3-channel", quantized(int3)),
        ("uint3", quantized(int(3, false, 16))),
        ("int5", quantized(int(5, true, 64))),
        ("uint5", quantized(int(5, false, 32))),
        ("int6", quantized(int(6, true, 16))),
        ("uint6", quantized(int(6, false, 64))),
        ("nf4", quantized(codebook(Codebook::Nf4, 64))),
        ("fp4", quantized(codebook(Codebook::Fp4, 16))),
        ("nf4-nested-g16", quantized(nested(Codebook::Nf4, 16))),
        ("fp4-nested-g64", quantized(nested(Codebook::Fp4, 64))),
        ("int8-outliers", outliers(int8, 3)),
        ("int3-outlier", outliers(int(3, true, 32), 1)),
        ("nf4-nested-outliers", outliers(nested(Codebook::Nf4, 32), 2)),
    ]
}

#[test]
fn the_runtime_computes_what_the_numbers_say() {
    for (name, form) in forms() {
        let linears = |weight: &str| if weight.ends_with("_proj.weight") { form } else { WeightForm::Dense(DType::F32) };
        let [dir, reference] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
        let (quantized, weights) = write(dir.path(), &config(false), &|options| options, &linears, &BTreeMap::new());
        assert_eq!(quantized.len(), 7, "{name}");

        let dense: BTreeMap<_, _> = quantized.iter().map(|(name, tensor)| (name.clone(), tensor.dequantize())).collect();
        write(reference.path(), &config(false), &|options| options, &|_| WeightForm::Dense(DType::F32), &dense);
        expect_equal(&logits(dir.path()), &logits(reference.path()), name);

        let model = read_model(dir.path());
        for stored in weights.iter().filter(|stored| quantized.contains_key(&stored.weight)) {
            let bytes: usize = stored.initializers().map(|name| bytes_of(&model, name)).sum();
            assert_eq!(stored.stored_bits(), bytes * 8, "{name}: {} is counted as it lies", stored.weight);
        }
        let options = EngineOptions {
            provider: ExecutionProvider::Cpu,
            threads: Some(1),
            weights: WeightKernels::Fused,
            launch: Launch::Replayed,
        };
        let inspection = qonnx::runtime::inspect(dir.path(), &options).unwrap_or_else(|error| panic!("{error}"));
        let fused = |execution: &Execution| matches!(execution, Execution::Fused { .. });
        assert_eq!(inspection.matmuls.iter().filter(|matmul| fused(&matmul.execution)).count(), 7, "{name}: {inspection:?}");
        assert!(inspection.matmuls.iter().all(|matmul| matmul.as_meant()), "{name}: {inspection:?}");
    }
}

fn bytes_of(model: &Model, name: &str) -> usize {
    let of = |initializer: &&qonnx::onnx::Initializer| model.name_of(initializer.value) == name;
    model.initializer_bytes(model.initializers().iter().find(of).unwrap_or_else(|| panic!("{name} is not in the model")))
}

#[test]
fn the_artifacts_own_nodes_give_the_weights_bit_for_bit_and_reading_gives_the_codes() {
    for (name, form) in forms() {
        let linears = |weight: &str| if weight.ends_with("_proj.weight") { form } else { WeightForm::Dense(DType::F32) };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (quantized, weights) = write(dir.path(), &config(false), &|options| options, &linears, &BTreeMap::new());
        let (model, data) = (read_model(dir.path()), std::fs::read(dir.path().join(DATA_FILE)).expect("it was written"));
        let bytes = |name: &str| {
            let of = |initializer: &&qonnx::onnx::Initializer| model.name_of(initializer.value) == name;
            Ok::<_, ArtifactError>(match &model.initializers().iter().find(of).expect("it is in the model").content {
                qonnx::onnx::Content::Inline(bytes) => bytes.as_slice(),
                qonnx::onnx::Content::External(range) => &data[range.offset as usize..][..range.length as usize],
                qonnx::onnx::Content::Declared => unreachable!("a file says where its bytes are"),
            })
        };
        for stored in weights.iter().filter(|stored| quantized.contains_key(&stored.weight)) {
            let ours = &quantized[&stored.weight];
            assert_eq!(&packing::read(stored, &bytes).unwrap_or_else(|error| panic!("{}", in_full(&error))), ours, "{name}");
            let first = stored.initializers().next().expect("codes");
            let theirs = dequantize(&ArtifactFolder::of(dir.path()), &WeightFinder::new(&model), first)
                .unwrap_or_else(|error| panic!("{error}"));
            let ours = QuantizedTensor { outliers: None, ..ours.clone() }.dequantize();
            assert!(ours.iter().zip(&theirs).all(|(a, b)| a + 0.0 == b + 0.0), "{name}: {}", stored.weight);
        }
    }
}

#[test]
fn a_rotated_head_multiplies_before_the_tied_table() {
    let [dir, reference] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
    let dense = |_: &str| WeightForm::Dense(DType::F32);
    let rotated = |options| GraphOptions { rotated_head: true, ..options };
    let (_, weights) = write(dir.path(), &config(true), &rotated, &dense, &BTreeMap::new());
    let rotation = weights.iter().find(|stored| stored.weight == "model.norm.rotation.weight").expect("it is in the graph");
    assert_eq!(rotation.shape, [64, 64]);
    // h·Rᵀ·Eᵀ = h·(E·R)ᵀ
    let [table, rotation] = [("model.embed_tokens.weight", [96, 64]), (&rotation.weight, [64, 64])].map(|(n, s)| matrix(n, &s));
    let head = BTreeMap::from([("lm_head.weight".to_owned(), table.dot(&rotation))]);
    write(reference.path(), &config(false), &|options| options, &dense, &head);
    expect_equal(&logits(dir.path()), &logits(reference.path()), "rotated head");
}

#[test]
fn what_was_not_planned_is_not_written() {
    let (dir, cfg) = (tempfile::tempdir().expect("a temporary folder"), Architecture::from_json(&config(false)));
    let form = |weight: &str| match weight.strip_suffix("_proj.weight") {
        Some(_) => WeightForm::Outliers { scheme: int(4, true, 32), outliers: 1 },
        None => WeightForm::Dense(DType::F32),
    };
    let cfg = cfg.expect("the configuration is supported");
    let graph = decoder(&cfg, &GraphOptions::of(&cfg, DType::F32), &form).expect("the scheme fits");
    let layout = Layout::of(&graph.model);
    let data = DataFile::create(dir.path(), &layout).expect("the folder is writable");
    let name = "model.layers.0.self_attn.q_proj.weight";
    let stored = graph.weights.iter().find(|stored| stored.weight == name).expect("the model has it");
    let refusal = |scheme: Scheme, shape: [usize; 2], features: &[usize]| {
        let tensor = with_outliers(&Rtn, matrix(name, &shape).view(), &scheme, None, features).expect("it fits").tensor;
        packing::write(&tensor, stored, &data).expect_err("this was not planned").to_string()
    };
    let place = format!("weight {name}:");
    let text = refusal(int(4, true, 64), [64, 64], &[5]);
    assert!(text.starts_with(&format!("{place} the plan says")) && text.contains("PerGroup(64)"), "{text}");
    let expected = format!("{place} the plan has the shape [64, 64], the codes have [32, 64]");
    assert_eq!(refusal(int(4, true, 32), [32, 64], &[5]), expected);
    assert_eq!(refusal(int(4, true, 32), [64, 64], &[]), format!("{place} 1 outliers were planned, there are 0"));
}

#[test]
fn recipes_without_statistics_export_every_format() {
    let width = |format, asymmetric| RecipeFlags { asymmetric, ..tiny::bits(format) };
    let method = |method, double_quantization| RecipeFlags { method, double_quantization, ..RecipeFlags::default() };
    let int3_g64 = RecipeFlags { granularity: Some(GranularityName::Group(64)), ..width(FormatName::Int3, false) };
    let kinds = [
        (int3_g64, DType::F32, 3.25, 4.5),
        (width(FormatName::Int3, true), DType::F16, 3.0 + 20.0 / 32.0, 4.0 + 20.0 / 32.0),
        (width(FormatName::Int5, false), DType::F32, 5.5, 9.0),
        (width(FormatName::Int6, false), DType::F16, 6.5, 8.5),
        (method(Method::Nf4, false), DType::F16, 4.25, 4.25),
        (method(Method::Fp4, false), DType::F32, 4.25, 4.5),
        (method(Method::Nf4, true), DType::F32, f64::NAN, 4.5),
        (method(Method::Fp4, true), DType::F16, f64::NAN, 4.25),
    ];
    for (flags, activation, on_disk, in_memory) in kinds {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("artifact");
        let report = tiny::export(&tiny::request(&tiny::model(), flags.clone(), activation), &output);
        let text = std::fs::read_to_string(output.join("qonnx.json")).expect("an artifact has a manifest");
        let manifest: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let bits = report.bits_per_weight_linears;
        if flags.double_quantization {
            // 8 bits for each 64 weights, 32 for each 256 of these and once for each of the seven.
            assert!((4.126..4.13).contains(&bits), "{flags:?}: {bits}");
        } else {
            assert_eq!(bits, on_disk, "{flags:?}");
        }
        assert_eq!(manifest["sizes"]["memory_bits_per_weight_linears"].as_f64(), Some(in_memory), "{flags:?}");
        let verified = verify::run(&output, &CPU).unwrap_or_else(|error| panic!("{}", in_full(&error)));
        assert!(verified.passed(), "{flags:?}: {verified}");
        let compared = &verified.checks[3];
        assert_eq!((compared.what, compared.detail.as_str()), ("ONNX Runtime's dequantization", "42 weights bit for bit"));
        let inspected = inspect::run(&output, &CPU).unwrap_or_else(|error| panic!("{}", in_full(&error)));
        assert!(inspected.every_weight_fused(), "{flags:?}: {inspected}");
        let fused = |execution: &Execution| matches!(execution, Execution::Fused { .. });
        assert_eq!(inspected.inspection.matmuls.iter().filter(|matmul| fused(&matmul.execution)).count(), 42);
    }
}
