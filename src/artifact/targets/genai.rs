//! `genai_config.json`, without which onnxruntime-genai (0.18) opens no model.

use serde_json::{Map, Value, json};

use crate::contract::{GENAI_CONFIG_FILE, GraphFile};
use crate::model::{Architecture, GraphForm};
use crate::record::Target;
use crate::tensor::DType;

use super::super::named_file::NamedFile;
use super::graph_form;

/// What the model's own files say, as JSON objects; empty where there is no such file.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pub config: &'a Map<String, Value>,
    pub generation: &'a Map<String, Value>,
}

/// The file for an artifact with `max_context` positions.
///
/// genai lets a model go on up to `context_length`: beyond the rotary tables the operator ends in an error, so that is their length and
/// not what config.json says. Activations of f16 are for CUDA, which is named first and which genai leaves out where there is none.
pub fn genai_config(
    architecture: &Architecture,
    said: Said<'_>,
    activation: DType,
    max_context: usize,
    (target, graph): (Target, &GraphFile),
) -> NamedFile {
    let mut model = json!({
        "context_length": max_context,
        "decoder": decoder(architecture, providers(activation, target), graph),
        "type": architecture.family.model_type(),
        "vocab_size": architecture.vocab_size,
    });
    let eos = said.either("eos_token_id");
    let first_eos = eos.map(|eos| eos.as_array().and_then(|list| list.first()).unwrap_or(eos));
    let tokens = [
        ("bos_token_id", said.either("bos_token_id")),
        ("eos_token_id", eos),
        // genai refuses a model without; nothing is read at a pad.
        ("pad_token_id", Some(said.either("pad_token_id").or(first_eos).unwrap_or(&Value::Null))),
    ];
    for (key, token) in tokens {
        let token = token.filter(|token| !token.is_null()).cloned();
        if let Some(token) = token.or((key == "pad_token_id").then(|| json!(0))) {
            model[key] = token;
        }
    }
    let mut search = search(said.generation, max_context);
    // Attention of ONNX's own grows the cache; a buffer as long as the context would be masked to its end.
    search["past_present_share_buffer"] = json!(graph_form(target) != GraphForm::Portable);
    let config = json!({ "model": model, "search": search });
    let text = serde_json::to_string_pretty(&config).expect("keys are strings");
    NamedFile::made(GENAI_CONFIG_FILE, (text + "\n").into_bytes())
}

/// Activations of f16 are for CUDA, but in a browser, where they are for its GPU.
fn providers(activation: DType, target: Target) -> Value {
    let is_for_cuda = activation == DType::F16 && target != Target::TransformersJs;
    if is_for_cuda { json!([{ "cuda": {} }]) } else { json!([]) }
}

fn decoder(architecture: &Architecture, providers: Value, graph: &GraphFile) -> Value {
    json!({
        "session_options": { "log_id": "onnxruntime-genai", "provider_options": providers },
        "filename": graph.path(),
        "head_size": architecture.head_dim,
        "hidden_size": architecture.hidden_size,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": architecture.num_attention_heads,
        "num_hidden_layers": architecture.num_hidden_layers,
        "num_key_value_heads": architecture.num_key_value_heads,
    })
}

/// What genai's builder writes, with the model's own settings of sampling.
fn search(generation: &Map<String, Value>, max_context: usize) -> Value {
    let mut search = json!({
        "diversity_penalty": 0.0, "do_sample": false, "early_stopping": true, "length_penalty": 1.0, "max_length": max_context,
        "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1, "num_return_sequences": 1, "past_present_share_buffer": true,
        "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0,
    });
    for key in ["do_sample", "repetition_penalty", "temperature", "top_k", "top_p"] {
        if let Some(value) = generation.get(key).filter(|value| value.is_number() || value.is_boolean()) {
            search[key] = value.clone();
        }
    }
    search
}

impl<'a> Said<'a> {
    /// `generation_config.json` wins over `config.json`.
    fn either(self, key: &str) -> Option<&'a Value> {
        [self.generation, self.config].into_iter().find_map(|file| file.get(key).filter(|value| !value.is_null()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(config: Value, generation: Value, activation: DType) -> Value {
        let mut whole = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 10000.0,
            "max_position_embeddings": 4096,
        });
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let architecture = Architecture::from_value(&whole).unwrap();
        let said = Said { config: whole.as_object().unwrap(), generation: generation.as_object().unwrap() };
        let file = genai_config(&architecture, said, activation, 512, (Target::Ort, &GraphFile::default()));
        let crate::artifact::named_file::Content::Made(bytes) = file.content else { panic!("it is made") };
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn sizes_are_the_models_and_the_context_is_the_tables() {
        let made = made(json!({"bos_token_id": 1, "eos_token_id": 2}), json!({}), DType::F32);
        let model = &made["model"];
        assert_eq!((&model["context_length"], &made["search"]["max_length"]), (&json!(512), &json!(512)));
        assert_eq!((&model["type"], &model["decoder"]["head_size"]), (&json!("llama"), &json!(16)));
        assert_eq!(model["decoder"]["session_options"]["provider_options"], json!([]));
        assert_eq!((&model["bos_token_id"], &model["eos_token_id"], &model["pad_token_id"]), (&json!(1), &json!(2), &json!(2)));
        assert_eq!(model["decoder"]["inputs"].as_object().unwrap().len(), 4, "positions are no input");
    }

    #[test]
    fn the_generation_config_wins_and_a_list_of_ends_stays_one() {
        let generation = json!({"eos_token_id": [5, 6], "do_sample": true, "temperature": 0.6, "top_k": null});
        let made = made(json!({"eos_token_id": 2, "pad_token_id": 7}), generation, DType::F16);
        let (model, search) = (&made["model"], &made["search"]);
        assert_eq!((&model["eos_token_id"], &model["pad_token_id"]), (&json!([5, 6]), &json!(7)));
        assert_eq!(model.get("bos_token_id"), None);
        assert_eq!(model["decoder"]["session_options"]["provider_options"], json!([{"cuda": {}}]));
        assert_eq!((&search["do_sample"], &search["temperature"], &search["top_k"]), (&json!(true), &json!(0.6), &json!(50)));
    }

    #[test]
    fn a_model_without_an_end_has_a_pad_all_the_same() {
        let made = made(json!({}), json!({"eos_token_id": [5, 6]}), DType::F32);
        assert_eq!(made["model"]["pad_token_id"], json!(5));
        let made = self::made(json!({}), json!({}), DType::F32);
        assert_eq!((made["model"].get("eos_token_id"), &made["model"]["pad_token_id"]), (None, &json!(0)));
    }
}
