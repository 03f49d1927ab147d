//! What config.json says, and what is refused.

use serde_json::json;

use super::*;
use crate::fault::Fault;
use crate::model::{ConfigError, DecoderConfig, RopeScaling};
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
    let message = "config.json: neither architectures nor model_type says what it is of; take it from the model's own folder";
    refused(json!({"architectures": null, "model_type": null}), message);
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
