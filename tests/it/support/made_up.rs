//! Checkpoints of any shape with made-up weights, the same that tests/goldens/make/golden_architectures.py makes.

use std::fs;
use std::path::Path;

use qonnx::model::Architecture;
use qonnx::tensor::DType;
use serde_json::{Map, Value, json};

/// Writes `config` and weights for it, stored as `dtype` (BF16, F16 or F32: each holds these weights exactly).
pub fn write_checkpoint(folder: &Path, config: &Value, dtype: DType) {
    fs::create_dir_all(folder).expect("the place is ours");
    fs::write(folder.join("config.json"), config.to_string()).expect("the place is ours");
    let tokenizer = super::tiny::model().join("tokenizer.json");
    fs::copy(tokenizer, folder.join("tokenizer.json")).expect("the fixture is readable");
    let config = Architecture::from_value(config).unwrap_or_else(|error| panic!("{error}"));
    fs::write(folder.join("model.safetensors"), safetensors(&config, dtype)).expect("the place is ours");
}

/// One xorshift64 stream over the tensors in the order of their names: weights of size 1/8 to 1/2, norms of 1 to 1.5.
fn safetensors(config: &Architecture, dtype: DType) -> Vec<u8> {
    let mut tensors = config.expected_tensors().expect("sizes that fit");
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut header, mut data, mut state) = (Map::new(), Vec::new(), 1u64);
    for tensor in tensors {
        let start = data.len();
        for _ in 0..tensor.shape.iter().product() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let random = (state >> 40) as u16;
            let bits = if tensor.name.ends_with("norm.weight") { random & 0x3f | 0x3f80 } else { random & 0x80ff | 0x3e00 };
            match dtype {
                DType::BF16 => data.extend(bits.to_le_bytes()),
                DType::F16 => data.extend(half::f16::from_f32(half::bf16::from_bits(bits).to_f32()).to_le_bytes()),
                _ => data.extend(half::bf16::from_bits(bits).to_f32().to_le_bytes()),
            }
        }
        let stored = dtype.name().to_uppercase();
        header.insert(tensor.name, json!({"dtype": stored, "shape": tensor.shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}
