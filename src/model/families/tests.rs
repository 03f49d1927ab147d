//! What config.json says, and what is refused.

use serde_json::json;

use super::*;
use crate::fault::Fault;
use crate::model::attention::{AttentionOptions, KvPair, Place, attention};
use crate::model::family::{Family, Layers};
use crate::model::module::Module;
use crate::model::parts::{ResidualStream, output, pre_norm_layer, query_key_value};
use crate::model::transforms::{LayerRotations, Scaling};
use crate::model::{ConfigError, DecoderConfig, GraphOptions, ModelRotation, RopeScaling, RotationOptions, WeightForm, decoder};
use crate::onnx::{Attribute, Node, Value};
use crate::quant::RotationKind;
use crate::tensor::DType;

/// Llama-3.2-1B's configuration with `changes` on top; null removes a key.
fn read(changes: Json) -> Result<Architecture, ConfigError> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "mlp_bias": false,
        "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256,
    });
    for (key, value) in changes.as_object().expect("changes are an object") {
        config[key] = value.clone();
    }
    Architecture::from_json(&config.to_string())
}

fn accepted(changes: Json) -> Architecture {
    read(changes).expect("this configuration is supported")
}

#[track_caller]
fn refused(changes: Json, message: &str) {
    let error = read(changes).expect_err("this configuration is not supported");
    assert_eq!(error.to_string(), message);
    assert_eq!(error.fault(), Fault::BadInput);
}

#[test]
fn reads_llama_3_2_1b() {
    let expected = DecoderConfig {
        vocab_size: 128256,
        hidden_size: 2048,
        intermediate_size: 8192,
        num_hidden_layers: 16,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 64,
        max_position_embeddings: 131072,
        rms_norm_eps: 1e-5,
        rope_theta: 500000.0,
        rope_scaling: RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        },
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: Some(128000),
        eos_token_ids: vec![128001],
        dtype: Some(DType::BF16),
    };
    assert_eq!(accepted(json!({})).config, expected);
}

#[test]
fn reads_llama_2_with_what_it_leaves_out() {
    let absent = ["head_dim", "num_key_value_heads", "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "torch_dtype"];
    let mut changes = json!({"tie_word_embeddings": false, "pretraining_tp": 2});
    for key in absent {
        changes[key] = Json::Null;
    }
    let cfg = accepted(changes);
    assert_eq!((cfg.head_dim, cfg.num_key_value_heads, cfg.rope_theta), (64, 32, 10_000.0));
    assert_eq!((cfg.rope_scaling, cfg.attention_bias, cfg.dtype), (RopeScaling::Default, false, None));
}

#[test]
fn reads_old_and_new_ways_to_write_rope() {
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(accepted(json!({"rope_scaling": {"type": "linear", "factor": 4}})).rope_scaling, linear);
    assert_eq!(accepted(json!({"rope_scaling": {"rope_type": "default"}})).rope_scaling, RopeScaling::Default);
    let parameters = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 7.0});
    let cfg = accepted(json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": parameters}));
    assert_eq!((cfg.rope_scaling, cfg.rope_theta), (linear, 7.0));
    let parameters = json!({"rope_theta": 7.0});
    let cfg = accepted(json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": parameters}));
    assert_eq!((cfg.rope_scaling, cfg.rope_theta), (RopeScaling::Default, 7.0));
}

#[test]
fn reads_several_end_tokens_and_the_new_name_of_the_element_type() {
    let cfg = accepted(json!({"eos_token_id": [128001, 128008], "torch_dtype": null, "dtype": "float16"}));
    assert_eq!((cfg.config.eos_token_ids, cfg.config.dtype), (vec![128001, 128008], Some(DType::F16)));
}

#[test]
fn reads_a_head_dim_that_is_not_derived() {
    let cfg = accepted(json!({"head_dim": 128}));
    assert_eq!((cfg.q_width(), cfg.kv_width()), (4096, 1024));
}

#[test]
fn refuses_other_architectures_by_name() {
    let known = architectures().join(", ");
    for name in ["GemmaForCausalLM", "Qwen2ForCausalLM", "LlamaForSequenceClassification"] {
        let message = format!("config.json: architecture {name} is not supported; qonnx runs {known}");
        refused(json!({"architectures": [name]}), &message);
    }
    let message = format!("config.json: architecture gemma is not supported; qonnx runs {known}");
    refused(json!({"architectures": null, "model_type": "gemma"}), &message);
    let message = format!("config.json: neither architectures nor model_type says what it is of; qonnx runs {known}");
    refused(json!({"architectures": null, "model_type": null}), &message);
    refused(json!({"architectures": 3}), "config.json: architectures must be a list of names, got 3");
}

#[test]
fn refuses_other_rope_types_by_name() {
    for name in ["yarn", "dynamic", "longrope"] {
        let message = format!("config.json: rope type {name:?} is not supported; qonnx runs default, linear and llama3");
        refused(json!({"rope_scaling": {"type": name, "factor": 2.0}}), &message);
    }
    refused(json!({"rope_scaling": "linear"}), "config.json: rope_scaling must be an object or null, got \"linear\"");
    let message = "config.json: rope_scaling.factor is missing; a LlamaForCausalLM needs it";
    refused(json!({"rope_scaling": {"rope_type": "linear"}}), message);
    let message = "config.json: rope_scaling.factor must be a number above zero, got -2.0";
    refused(json!({"rope_scaling": {"rope_type": "linear", "factor": -2.0}}), message);
    let swapped = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192});
    let message = "config.json: rope_scaling.high_freq_factor must be above low_freq_factor (4), got 1.0";
    refused(json!({"rope_scaling": swapped}), message);
}

#[test]
fn refuses_what_changes_the_mathematics() {
    let message = "config.json: hidden_act = \"gelu\" is not supported; qonnx runs silu";
    refused(json!({"hidden_act": "gelu"}), message);
    let message = "config.json: sliding_window = 4096 is not supported; LlamaForCausalLM attends to every earlier position";
    refused(json!({"sliding_window": 4096}), message);
    let message = "config.json: quantization_config = {\"quant_method\":\"gptq\"} is not supported; \
                   give the unquantized checkpoint, qonnx quantizes it";
    refused(json!({"quantization_config": {"quant_method": "gptq"}}), message);
    let message = "config.json: partial_rotary_factor = 0.5 is not supported; LlamaForCausalLM rotates whole heads";
    refused(json!({"partial_rotary_factor": 0.5}), message);
    let parameters = json!({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5});
    refused(json!({"rope_scaling": null, "rope_parameters": parameters}), message);
    let message = "config.json: rope_parameters.full_attention must be a number or a name, for all layers have one set of rotary \
                   parameters, got {\"rope_type\":\"yarn\"}";
    refused(json!({"rope_scaling": null, "rope_parameters": {"full_attention": {"rope_type": "yarn"}}}), message);
    let message = "config.json: dtype = \"float8_e4m3fn\" is not supported; qonnx reads float32, float16 and bfloat16 weights";
    refused(json!({"torch_dtype": "float8_e4m3fn"}), message);
}

#[test]
fn refuses_sizes_that_cannot_be() {
    refused(json!({"hidden_size": null}), "config.json: hidden_size is missing; a LlamaForCausalLM needs it");
    let message = "config.json: num_hidden_layers must be a whole number from 1 to 2147483648, got 0";
    refused(json!({"num_hidden_layers": 0}), message);
    let message = "config.json: vocab_size must be a whole number from 1 to 2147483648, got -5";
    refused(json!({"vocab_size": -5}), message);
    let message = "config.json: intermediate_size must be a whole number from 1 to 2147483648, got \"8192\"";
    refused(json!({"intermediate_size": "8192"}), message);
    let message = "config.json: num_key_value_heads must be a divisor of num_attention_heads (32), got 5";
    refused(json!({"num_key_value_heads": 5}), message);
    let message = "config.json: hidden_size must be a multiple of num_attention_heads (32), got 2050";
    refused(json!({"hidden_size": 2050, "head_dim": null}), message);
    refused(
        json!({"head_dim": 63}),
        "config.json: head_dim must be a multiple of 16, for ONNX Runtime's GroupQueryAttention, got 63",
    );
    refused(json!({"head_dim": 1u64 << 31}), "config.json: head_dim must be at most 65536, got 2147483648");
    refused(json!({"rms_norm_eps": 0}), "config.json: rms_norm_eps must be a number above zero, got 0");
    refused(json!({"mlp_bias": "no"}), "config.json: mlp_bias must be true or false, got \"no\"");
    let message = "config.json: eos_token_id must be a token id or a list of token ids, got [1,\"x\"]";
    refused(json!({"eos_token_id": [1, "x"]}), message);
}

#[test]
fn refuses_what_is_no_configuration() {
    let error = Architecture::from_json("[1, 2]").expect_err("a list is no configuration");
    assert_eq!(error.to_string(), "config.json must hold an object, got a list");
    let error = Architecture::from_json("{\"hidden_size\": ").expect_err("the text is cut off");
    assert_eq!(error.to_string(), "config.json is not valid JSON: EOF while parsing a value at line 1 column 16");
}

#[test]
fn expects_each_weight_once_with_its_shape() {
    let cfg = accepted(json!({"num_hidden_layers": 2, "attention_bias": true, "tie_word_embeddings": false}));
    let tensors = cfg.expected_tensors().expect("sizes that fit");
    let shape = |name: &str| tensors.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape.clone());
    assert_eq!(tensors.len(), 3 + 2 * (9 + 4));
    assert_eq!(shape("lm_head.weight"), Some(vec![128256, 2048]));
    assert_eq!(shape("model.layers.1.self_attn.k_proj.weight"), Some(vec![512, 2048]));
    assert_eq!(shape("model.layers.1.self_attn.k_proj.bias"), Some(vec![512]));
    assert_eq!(shape("model.layers.1.mlp.down_proj.weight"), Some(vec![2048, 8192]));
    assert_eq!(shape("model.layers.1.mlp.down_proj.bias"), None);
    assert!(cfg.ignores("model.layers.0.self_attn.rotary_emb.inv_freq") && !cfg.ignores("lm_head.weight"));
    assert!(accepted(json!({})).ignores("lm_head.weight"));
}

/// The window of each layer, as the graph has it.
fn windows(config: &Json) -> Vec<Option<i64>> {
    let architecture = Architecture::from_value(config).unwrap_or_else(|error| panic!("{error}"));
    let options = GraphOptions { max_context: 8, ..GraphOptions::of(&architecture, DType::F32) };
    let graph = decoder(&architecture, &options, &|_| WeightForm::Dense(DType::F16)).expect("sizes that fit");
    let attention = graph.model.nodes().iter().filter(|node| node.op_type == "GroupQueryAttention");
    let window = |node: &Node| match node.attribute("local_window_size") {
        Some(Attribute::Int(window)) => Some(*window),
        _ => None,
    };
    attention.map(window).collect()
}

/// A small model of an architecture, with `changes` on top.
fn small(architecture: &str, changes: Json) -> Json {
    let mut config = json!({
        "architectures": [architecture], "vocab_size": 8, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64,
    });
    for (key, value) in changes.as_object().expect("changes are an object") {
        config[key] = value.clone();
    }
    config
}

#[test]
fn a_mistral_without_the_key_has_the_window_of_its_class_and_null_is_none() {
    let windows = |changes| windows(&small("MistralForCausalLM", changes));
    assert_eq!(windows(json!({})), [Some(4096); 3]);
    assert_eq!(windows(json!({"sliding_window": null})), [None; 3]);
    assert_eq!(windows(json!({"sliding_window": 24})), [Some(24); 3]);
}

#[test]
fn a_qwen3_has_windows_where_it_uses_them() {
    let windows = |changes| windows(&small("Qwen3ForCausalLM", changes));
    assert_eq!(windows(json!({"sliding_window": 24})), [None; 3]);
    let used = json!({"use_sliding_window": true, "sliding_window": 24, "max_window_layers": 1});
    assert_eq!(windows(used), [None, Some(24), Some(24)]);
    assert_eq!(windows(json!({"use_sliding_window": true, "max_window_layers": 0})), [Some(4096); 3]);
    assert_eq!(windows(json!({"use_sliding_window": true})), [None; 3], "28 layers come before the first");
    let kinds = json!(["full_attention", "sliding_attention", "full_attention"]);
    assert_eq!(windows(json!({"use_sliding_window": true, "layer_types": kinds})), [None, Some(4096), None]);
    for kinds in
        [json!(["full_attention"]), json!(["full_attention", "linear_attention", "full_attention"]), json!("full_attention")]
    {
        let error =
            Architecture::from_value(&small("Qwen3ForCausalLM", json!({"layer_types": kinds}))).expect_err("it is refused");
        let expected = "layer_types must be a list of full_attention or sliding_attention for each of 3 layers";
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_mistral_with_kinds_of_layers_has_windows_where_they_say_so() {
    let kinds = json!(["full_attention", "sliding_attention", "full_attention"]);
    let read = |changes| windows(&small("MistralForCausalLM", changes));
    assert_eq!(read(json!({"layer_types": kinds, "sliding_window": 24})), [None, Some(24), None]);
    assert_eq!(read(json!({"layer_types": kinds})), [None, Some(4096), None]);
    assert_eq!(read(json!({"layer_types": null, "sliding_window": 24})), [Some(24); 3]);
}

#[test]
fn windows_that_are_wanted_and_not_there_are_refused() {
    let kinds = json!(["full_attention", "sliding_attention", "full_attention"]);
    let wanted = "layer_types must be full_attention for each layer where sliding_window is null or not used";
    for (architecture, changes, expected) in [
        ("MistralForCausalLM", json!({"layer_types": kinds, "sliding_window": null}), wanted),
        ("Qwen3ForCausalLM", json!({"layer_types": kinds, "use_sliding_window": true, "sliding_window": null}), wanted),
        ("Qwen3ForCausalLM", json!({"layer_types": kinds, "use_sliding_window": false, "sliding_window": 24}), wanted),
        ("Qwen3ForCausalLM", json!({"use_sliding_window": "yes"}), "use_sliding_window must be true or false"),
        (
            "Qwen3ForCausalLM",
            json!({"use_sliding_window": true, "sliding_window": 0}),
            "sliding_window must be a whole number from 1",
        ),
        ("MistralForCausalLM", json!({"sliding_window": 0}), "sliding_window must be a whole number from 1"),
    ] {
        let error = Architecture::from_value(&small(architecture, changes)).expect_err("it is refused");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn what_a_config_leaves_out_is_as_its_class_has_it() {
    let without = |architecture: &str, keys: &[&str], changes| {
        let mut config = small(architecture, changes);
        keys.iter().for_each(|key| drop(config.as_object_mut().expect("an object").remove(*key)));
        Architecture::from_value(&config)
    };
    let heads =
        |architecture, keys: &[&str], changes| without(architecture, keys, changes).expect("it is supported").num_key_value_heads;
    let many = json!({"num_attention_heads": 64});
    for (architecture, left_out) in [("LlamaForCausalLM", 64), ("MistralForCausalLM", 8), ("Qwen3ForCausalLM", 32)] {
        assert_eq!(heads(architecture, &["num_key_value_heads"], many.clone()), left_out, "{architecture}");
        assert_eq!(heads(architecture, &[], json!({"num_attention_heads": 64, "num_key_value_heads": null})), 64);
    }
    let error = without("MistralForCausalLM", &["num_key_value_heads"], json!({})).expect_err("it is refused").to_string();
    assert_eq!(error, "config.json: num_key_value_heads must be a divisor of num_attention_heads (4), got 8");
    // An artifact's readers know no other default than a Llama's.
    let positions = ["max_position_embeddings"];
    assert_eq!(without("LlamaForCausalLM", &positions, json!({})).expect("it is supported").max_position_embeddings, 2048);
    for architecture in ["MistralForCausalLM", "Qwen3ForCausalLM"] {
        let error = without(architecture, &positions, json!({})).expect_err("it is refused").to_string();
        assert_eq!(error, format!("config.json: max_position_embeddings is missing; a {architecture} needs it"));
    }
}

#[test]
fn names_of_two_families_are_refused() {
    let contradiction =
        |changes| Architecture::from_value(&small("LlamaForCausalLM", changes)).expect_err("it is refused").to_string();
    let message = "config.json: LlamaForCausalLM and qwen3 are of two families; take it from the model's own folder";
    assert_eq!(contradiction(json!({"model_type": "qwen3"})), message);
    let message = "config.json: LlamaForCausalLM and MistralForCausalLM are of two families; take it from the model's own folder";
    assert_eq!(contradiction(json!({"architectures": ["LlamaForCausalLM", "MistralForCausalLM"]})), message);
    let other = small("LlamaForCausalLM", json!({"model_type": "my-own"}));
    assert_eq!(Architecture::from_value(&other).expect("a name of nobody's").family.architecture(), "LlamaForCausalLM");
}

/// Norms behind the parts, so that nothing of them can move.
struct PostNorm;

impl Layers for PostNorm {
    fn architecture(&self) -> &'static str {
        "PostNormForCausalLM"
    }

    fn model_type(&self) -> &'static str {
        "post_norm"
    }

    fn layer(&self, m: &Module, cfg: &DecoderConfig, stream: ResidualStream, at: Place<'_>) -> (ResidualStream, KvPair) {
        pre_norm_layer(m, cfg, stream, |m, x| attention_alone(m, cfg, x, at))
    }

    fn scalings(&self, _: &DecoderConfig) -> Vec<Scaling> {
        Vec::new()
    }

    fn rotations(&self) -> Result<LayerRotations, &'static str> {
        Err("its norms stand behind its linears, into which their weights cannot be folded")
    }

    fn scores(&self) -> &'static [&'static str] {
        &[]
    }
}

fn attention_alone(m: &Module, cfg: &DecoderConfig, x: Value, at: Place<'_>) -> (Value, KvPair) {
    let (y, present) = attention(m, cfg, query_key_value(m, cfg, x), at, AttentionOptions { window: None });
    (output(m, cfg, y), present)
}

#[test]
fn a_rotation_that_a_family_cannot_have_is_refused_by_name_and_its_inputs_take_no_scales() {
    let config = Architecture::from_value(&small("LlamaForCausalLM", json!({}))).expect("it is supported").config;
    let architecture = Architecture { config, family: Family::new(PostNorm) };
    let options = RotationOptions { kind: RotationKind::Random, seed: 1, residual: true, heads: true };
    let error = ModelRotation::new(&architecture, &options).expect_err("it is refused");
    let expected = "a PostNormForCausalLM cannot be rotated: its norms stand behind its linears, into which their weights cannot be \
                    folded; leave --rotate out";
    assert_eq!((error.to_string().as_str(), error.fault()), (expected, Fault::BadInput));
    let survey = architecture.survey().expect("sizes that fit");
    assert!(survey.inputs.len() == 12 && survey.scalings(0).count() == 0);
}

/// Configurations of the hub: their keys that matter, the weights that the hub counts, and the window of the first layer.
#[test]
fn models_of_the_hub_have_as_many_weights_as_it_says() {
    let of = |shared: Json, own: Json| {
        let mut config = shared.as_object().expect("an object").clone();
        config.extend(own.as_object().expect("an object").clone());
        Json::from(config)
    };
    let qwen3 = json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 8,
        "max_position_embeddings": 40960, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
        "use_sliding_window": false, "vocab_size": 151936, "bos_token_id": 151643, "eos_token_id": 151645});
    let mistral = json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2});
    let small = json!({"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "tie_word_embeddings": true, "max_window_layers": 28});
    let middle = json!({"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": true, "max_window_layers": 36});
    let nemo =
        json!({"vocab_size": 131072, "head_dim": 128, "hidden_size": 5120, "num_hidden_layers": 40, "sliding_window": null});
    let models = [
        ("Qwen3-0.6B", of(qwen3.clone(), small), 596_049_920, None),
        ("Qwen3-4B", of(qwen3, middle), 4_022_468_096, None),
        ("Mistral-7B-v0.1", of(mistral.clone(), json!({"vocab_size": 32000, "sliding_window": 4096})), 7_241_732_096, Some(4096)),
        ("Mistral-7B-v0.3", of(mistral.clone(), json!({"vocab_size": 32768, "sliding_window": null})), 7_248_023_552, None),
        ("Mistral-Nemo", of(mistral, nemo), 12_247_782_400, None),
    ];
    for (name, config, parameters, window) in models {
        let architecture = Architecture::from_value(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let tensors = architecture.expected_tensors().expect("sizes that fit");
        let counted: usize = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!((counted, windows(&config)[0]), (parameters, window), "{name}");
    }
}
