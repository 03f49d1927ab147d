//! config.json says to this program what it says to Hugging Face's `LlamaConfig`, where keys are missing, empty, doubled or
//! contradict each other.
//!
//! Goldens come from tests/goldens/make/golden_config.py.

use qonnx::model::{Architecture, RopeScaling};
use serde_json::Value;

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value} is a number"))
}

/// `rope_parameters` as transformers completed them.
fn scaling(rope: &Value) -> RopeScaling {
    match rope["rope_type"].as_str().expect("a rope type is text") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: number(rope, "factor") },
        "llama3" => RopeScaling::Llama3 {
            factor: number(rope, "factor"),
            low_freq_factor: number(rope, "low_freq_factor"),
            high_freq_factor: number(rope, "high_freq_factor"),
            original_max_position_embeddings: number(rope, "original_max_position_embeddings"),
        },
        other => panic!("no case is of {other}"),
    }
}

/// A token id, a list of them, or −1 for none.
fn tokens(value: &Value) -> Vec<u32> {
    let one = std::slice::from_ref(value);
    let ids = value.as_array().map_or(one, Vec::as_slice);
    ids.iter().filter_map(|id| u32::try_from(id.as_i64().expect("an id is a number")).ok()).collect()
}

#[test]
fn config_json_says_what_it_says_to_transformers() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/config.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(golden).expect("the golden is committed")).expect("JSON");
    assert_eq!(cases.iter().filter(|case| case["says"].is_null()).count(), 6, "those that transformers refuses");
    for case in &cases {
        let (name, says) = (case["name"].as_str().expect("a name"), &case["says"]);
        let read = Architecture::from_json(case["text"].as_str().expect("a text"));
        if says.is_null() {
            assert!(read.is_err(), "{name}: transformers refuses it");
            continue;
        }
        let cfg = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((cfg.rope_scaling, cfg.rope_theta), (scaling(&says["rope"]), number(&says["rope"], "rope_theta")), "{name}");
        let sizes = [cfg.hidden_size, cfg.num_key_value_heads, cfg.head_dim, cfg.max_position_embeddings].map(|size| size as f64);
        let keys = ["hidden_size", "num_key_value_heads", "head_dim", "max_position_embeddings"];
        assert_eq!(sizes, keys.map(|key| number(says, key)), "{name}");
        assert_eq!(cfg.rms_norm_eps, number(says, "rms_norm_eps"), "{name}");
        assert_eq!(cfg.bos_token_id.into_iter().collect::<Vec<_>>(), tokens(&says["bos_token_id"]), "{name}");
        assert_eq!(cfg.eos_token_ids, tokens(&says["eos_token_id"]), "{name}");
        let dtype = says["dtype"].as_str().map(|dtype| dtype.replace("float", "f"));
        assert_eq!(cfg.dtype.map(|dtype| dtype.name().to_owned()), dtype, "{name}");
    }
}
