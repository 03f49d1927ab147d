//! Canonical text of the decoder under each scheme, compared with `graphs/snapshots/`.
//!
//! After a wanted change: `QONNX_UPDATE_SNAPSHOTS=1 cargo test --test it graph_snapshots::`, then read the diff.

use std::path::Path;

use qonnx::model::{Architecture, GraphForm, GraphOptions, WeightForm, decoder};
use qonnx::onnx::Layout;
use qonnx::quant::{Codebook, Format, Granularity, ScaleRule, ScaleStorage, Scheme};
use qonnx::tensor::DType;

/// fixtures/tiny-coqa with two of its six layers: the others repeat them.
const TINY: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 256, "intermediate_size": 768,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": true,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}
}"#;

fn int(bits: u8, symmetric: bool, granularity: Granularity) -> WeightForm {
    let scale_rule = ScaleRule::AbsMax;
    WeightForm::Quantized(Scheme {
        format: Format::Int { bits, symmetric },
        granularity,
        scale_rule,
        scale_storage: ScaleStorage::F16,
    })
}

fn codebook(codebook: Codebook, scale_storage: ScaleStorage) -> WeightForm {
    let (format, granularity) = (Format::Codebook(codebook), Granularity::PerGroup(64));
    WeightForm::Quantized(Scheme { format, granularity, scale_rule: ScaleRule::AbsMax, scale_storage })
}

fn as_it_is(options: GraphOptions) -> GraphOptions {
    options
}

#[track_caller]
fn check(name: &str, activation: DType, linears: WeightForm, table: WeightForm) {
    check_with(name, activation, linears, table, as_it_is);
}

#[track_caller]
fn check_with(name: &str, activation: DType, linears: WeightForm, table: WeightForm, options: fn(GraphOptions) -> GraphOptions) {
    let cfg = Architecture::from_json(TINY).expect("the tiny configuration is supported");
    let form = |weight: &str| match weight {
        "model.embed_tokens.weight" => table,
        weight if weight.ends_with("_proj.weight") => linears,
        _ => WeightForm::Dense(DType::F16),
    };
    let options = options(GraphOptions { activation, max_context: 128, rotated_head: false, form: GraphForm::default() });
    let graph = decoder(&cfg, &options, &form).expect("every scheme here fits the tiny model");
    let layout = Layout::of(&graph.model);
    let sizes = format!("model.onnx {} bytes, model.onnx.data {} bytes\n", layout.model_bytes(), layout.data_bytes());
    let text = sizes + &graph.model.to_text();

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("QONNX_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).expect("graphs/snapshots can be written");
    }
    let snapshot = std::fs::read_to_string(&path).unwrap_or_default();
    let same = text.lines().zip(snapshot.lines()).take_while(|(new, old)| new == old).count();
    let (new, old) = (text.lines().nth(same), snapshot.lines().nth(same));
    assert_eq!(new, old, "{} differs at line {}", path.display(), same + 1);
}

#[test]
fn f16() {
    check("f16", DType::F16, WeightForm::Dense(DType::F16), WeightForm::Dense(DType::F16));
}

#[test]
fn int8_per_channel() {
    check("int8-channel", DType::F16, int(8, true, Granularity::PerChannel), WeightForm::Dense(DType::F16));
}

#[test]
fn int4_group_32() {
    check("int4-g32", DType::F16, int(4, true, Granularity::PerGroup(32)), WeightForm::Dense(DType::F16));
}

#[test]
fn int4_group_32_computed_in_f32() {
    check("int4-g32-f32", DType::F32, int(4, true, Granularity::PerGroup(32)), WeightForm::Dense(DType::F16));
}

#[test]
fn int4_asymmetric() {
    check("int4-asym-g32", DType::F16, int(4, false, Granularity::PerGroup(32)), WeightForm::Dense(DType::F16));
}

#[test]
fn int2_group_64() {
    check("int2-g64", DType::F16, int(2, true, Granularity::PerGroup(64)), WeightForm::Dense(DType::F16));
}

#[test]
fn int4_with_a_tied_int4_table() {
    let int4 = int(4, true, Granularity::PerGroup(32));
    check("int4-g32-table-int4", DType::F16, int4, int4);
}

#[test]
fn int3_group_64() {
    check("int3-g64", DType::F16, int(3, true, Granularity::PerGroup(64)), WeightForm::Dense(DType::F16));
}

#[test]
fn int6_asymmetric() {
    check("int6-asym-g32-f32", DType::F32, int(6, false, Granularity::PerGroup(32)), WeightForm::Dense(DType::F16));
}

#[test]
fn nf4() {
    check("nf4-g64-f32", DType::F32, codebook(Codebook::Nf4, ScaleStorage::F16), WeightForm::Dense(DType::F16));
}

#[test]
fn nf4_with_scales_in_eight_bits() {
    check("nf4-g64-nested", DType::F16, codebook(Codebook::Nf4, ScaleStorage::Nested), WeightForm::Dense(DType::F16));
}

#[test]
fn int4_group_32_in_onnxs_own_operators() {
    let portable = |options| GraphOptions { form: GraphForm::Portable, ..options };
    let int4 = int(4, true, Granularity::PerGroup(32));
    check_with("portable-int4-g32-f32", DType::F32, int4, WeightForm::Dense(DType::F32), portable);
}

#[test]
fn int3_group_64_in_onnxs_own_operators() {
    let portable = |options| GraphOptions { form: GraphForm::Portable, ..options };
    let int3 = int(3, true, Granularity::PerGroup(64));
    check_with("portable-int3-g64", DType::F16, int3, WeightForm::Dense(DType::F16), portable);
}

#[test]
fn int4_as_matmulnbits_with_queries_keys_and_values_in_one() {
    let n_bits = |options| GraphOptions { form: GraphForm::MatMulNBits, ..options };
    let int4 = int(4, false, Granularity::PerGroup(32));
    check_with("matmulnbits-int4-asym-g32", DType::F16, int4, WeightForm::Dense(DType::F16), n_bits);
}

#[test]
fn int8_with_outliers() {
    let WeightForm::Quantized(scheme) = int(8, true, Granularity::PerChannel) else { unreachable!("it is quantized") };
    let int8 = WeightForm::Outliers { scheme, outliers: 5 };
    check("int8-channel-outliers", DType::F16, int8, WeightForm::Dense(DType::F16));
}

#[test]
fn a_rotated_head() {
    let int4 = int(4, true, Granularity::PerGroup(32));
    let rotated = |options| GraphOptions { rotated_head: true, ..options };
    check_with("int4-g32-rotated-head", DType::F16, int4, WeightForm::Dense(DType::F16), rotated);
}
