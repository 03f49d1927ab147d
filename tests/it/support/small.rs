//! A model of one small layer and what goes with it: exports and runs of it take a fraction of a second.

use std::fs;
use std::path::{Path, PathBuf};

use qonnx::tensor::DType;
use serde_json::{Value, json};

/// Writes the model `model` and what [`write_beside`] does into `place`.
pub fn write(place: &Path) {
    let mut config = fixture("config.json");
    let sizes = json!({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16});
    config.as_object_mut().expect("an object").extend(sizes.as_object().expect("an object").clone());
    super::made_up::write_checkpoint(&place.join("model"), &config, DType::BF16);
    write_beside(place);
}

/// Writes two stories with questions `questions.json`, a text `text.txt` and a calibration set `set.json` into `place`.
pub fn write_beside(place: &Path) {
    let mut questions = fixture("coqa-mini.json");
    let stories = questions["data"].as_array_mut().expect("a list");
    stories.truncate(2);
    fs::write(place.join("questions.json"), questions.to_string()).expect("the place is ours");
    let text = "The cat sat by the river and watched the boats go past until the evening came. ".repeat(4);
    fs::write(place.join("text.txt"), text).expect("the place is ours");
    let sequences: Vec<Vec<u64>> = (0..4).map(|row| (0..48).map(|at| 300 + (row * 977 + at * 131) % 3000).collect()).collect();
    fs::write(place.join("set.json"), json!(sequences).to_string()).expect("the place is ours");
}

fn fixture(name: &str) -> Value {
    let text = fs::read(super::tiny::model().join(name)).expect("the fixture is readable");
    serde_json::from_slice(&text).expect("the fixture is JSON")
}

/// Sequences of [`set_of_tokens`], and tokens of each.
pub const SEQUENCES: usize = 9;
/// As [`SEQUENCES`].
pub const LENGTH: usize = 128;

/// A calibration set `set.json` in `folder`, of made-up tokens: as few as suffice for the widest input of the embedded model. Where a test asks
/// whether two ways give the same, it need be no better.
pub fn set_of_tokens(folder: &Path) -> PathBuf {
    let mut state = 1u64;
    let mut id = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        300 + (state >> 33) % 3000
    };
    let sequences: Vec<Vec<u64>> = (0..SEQUENCES).map(|_| (0..LENGTH).map(|_| id()).collect()).collect();
    let path = folder.join("set.json");
    fs::write(&path, json!(sequences).to_string()).expect("the place is the test's");
    path
}
