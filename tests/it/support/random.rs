//! A random model of Llama's shape with a byte tokenizer, written as an artifact.

use std::path::Path;

use qonnx::contract::MODEL_FILE;
use qonnx::model::{Architecture, GraphOptions, StoredCodes, StoredForm, StoredScales, StoredWeight, WeightForm, decoder};
use qonnx::onnx::{DataFile, Layout};
use qonnx::quant::{Format, Granularity, ScaleRule, ScaleStorage, Scheme};
use qonnx::tensor::DType;
use serde_json::json;

/// Every ASCII character is a token (`Ġ` for a space and so on), so that any output is text; then the special tokens.
const CHARACTERS: usize = 128;
pub const BOS: u32 = 128;
pub const EOS: u32 = 129;

/// int4 in groups of 32, symmetric.
pub fn int4(name: &str) -> WeightForm {
    let quantized = name.ends_with("_proj.weight");
    let scheme = Scheme {
        format: Format::Int { bits: 4, symmetric: true },
        granularity: Granularity::PerGroup(32),
        scale_rule: ScaleRule::AbsMax,
        scale_storage: ScaleStorage::F16,
    };
    if quantized { WeightForm::Quantized(scheme) } else { WeightForm::Dense(DType::F32) }
}

pub fn dense(_: &str) -> WeightForm {
    WeightForm::Dense(DType::F32)
}

/// Writes an artifact of random weights into `dir`.
pub fn write_artifact(dir: &Path, activation: DType, form: &dyn Fn(&str) -> WeightForm) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": CHARACTERS + 2, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1536,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "bos_token_id": BOS, "eos_token_id": EOS, "torch_dtype": "float32",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let cfg = Architecture::from_json(&config.to_string()).unwrap();
    let graph = decoder(&cfg, &GraphOptions::of(&cfg, activation), form).unwrap();
    let layout = Layout::of(&graph.model);
    let file = DataFile::create(dir, &layout).unwrap();
    let mut random = Random(1);
    for weight in &graph.weights {
        fill(&file, weight, &mut random);
    }
    std::fs::write(dir.join(MODEL_FILE), file.finish().unwrap()).unwrap();
}

fn fill(file: &DataFile<'_>, weight: &StoredWeight, random: &mut Random) {
    let elements: usize = weight.shape.iter().product();
    match &weight.form {
        StoredForm::Dense { initializer, dtype, .. } => {
            let norm = weight.shape.len() == 1;
            let value = |x: f32| if norm { 1.0 + 0.2 * x } else { 0.3 * x };
            file.write(initializer, &floats(elements, *dtype, random, value)).unwrap();
        }
        StoredForm::Quantized {
            scheme,
            codes: StoredCodes::DequantizeLinear(codes),
            scales: StoredScales::Plain { name: scales, .. },
            ..
        } => {
            let [out_features, in_features] = weight.shape[..] else { panic!("{weight:?}") };
            let packed: Vec<u8> = (0..elements / 2).map(|_| (random.next() * 128.0 + 128.0) as u8).collect();
            file.write(codes, &packed).unwrap();
            let groups = out_features * scheme.granularity.groups(in_features);
            file.write(scales, &floats(groups, DType::F16, random, |x| 0.05 + 0.02 * x)).unwrap();
        }
        other => panic!("{other:?}"),
    }
}

fn floats(count: usize, dtype: DType, random: &mut Random, value: impl Fn(f32) -> f32) -> Vec<u8> {
    let values = (0..count).map(|_| value(random.next()));
    match dtype {
        DType::F16 => values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        other => panic!("{other}"),
    }
}

/// xorshift64*, uniform in −1 … 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// GPT-2's byte-level tokenizer without merges.
pub fn tokenizer() -> serde_json::Value {
    let mut shifted = 256..;
    let code = |id: u32| if (33..=126).contains(&id) { id } else { shifted.next().unwrap() };
    let names = (0..CHARACTERS as u32).map(code).map(|code| char::from_u32(code).unwrap().to_string());
    let vocab: serde_json::Map<_, _> = names.zip((0..).map(|id: u32| json!(id))).collect();
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let bos = json!({"id": "<s>", "ids": [BOS], "tokens": ["<s>"]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(BOS, "<s>"), special(EOS, "</s>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {
            "type": "TemplateProcessing", "special_tokens": {"<s>": bos},
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
        },
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
}
