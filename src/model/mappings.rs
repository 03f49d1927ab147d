//! What the linears of a decoder layer read, and where a scale of their input can be folded: facts about Llama, as data.

use super::DecoderConfig;
use crate::quant::Sharing;

/// One of the four places of a decoder layer that linears read from. Linears of one input share its statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinearInput {
    /// The output of `input_layernorm`.
    QueryKeyValue,
    /// What attention gives, all query heads side by side.
    AttentionOutput,
    /// The output of `post_attention_layernorm`.
    GateUp,
    /// `silu(gate) ⊙ up`.
    Down,
}

impl LinearInput {
    /// In the order in which a layer computes them.
    pub const ALL: [LinearInput; 4] =
        [LinearInput::QueryKeyValue, LinearInput::AttentionOutput, LinearInput::GateUp, LinearInput::Down];

    /// The linears that read it, by their path in the layer.
    pub fn linears(self) -> &'static [&'static str] {
        match self {
            LinearInput::QueryKeyValue => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            LinearInput::AttentionOutput => &["self_attn.o_proj"],
            LinearInput::GateUp => &["mlp.gate_proj", "mlp.up_proj"],
            LinearInput::Down => &["mlp.down_proj"],
        }
    }

    /// Names of their weights in the checkpoint, in the order of [`Self::linears`].
    pub fn weights(self, layer: usize) -> Vec<String> {
        self.linears().iter().map(|linear| format!("model.layers.{layer}.{linear}.weight")).collect()
    }

    /// Its width: the in_features of each of the linears.
    pub fn in_features(self, cfg: &DecoderConfig) -> usize {
        match self {
            LinearInput::QueryKeyValue | LinearInput::GateUp => cfg.hidden_size,
            LinearInput::AttentionOutput => cfg.q_width(),
            LinearInput::Down => cfg.intermediate_size,
        }
    }

    /// Whether the linears that read it have biases.
    pub fn has_bias(self, cfg: &DecoderConfig) -> bool {
        match self {
            LinearInput::QueryKeyValue | LinearInput::AttentionOutput => cfg.attention_bias,
            LinearInput::GateUp | LinearInput::Down => cfg.mlp_bias,
        }
    }

    /// The input that a decoder linear reads, by the name of its weight; `None` for any other weight.
    pub fn of(weight: &str) -> Option<LinearInput> {
        let linear = weight.strip_prefix("model.layers.")?.split_once('.')?.1.strip_suffix(".weight")?;
        LinearInput::ALL.into_iter().find(|input| input.linears().contains(&linear))
    }
}

/// A scale that can move between two parts of a layer without changing what the layer computes: what `smooth` puts out is
/// divided by `s`, feature by feature, and the columns of the weights that read it are multiplied by `s` (AWQ, arXiv
/// 2306.00978, section 3.2; SmoothQuant, arXiv 2211.10438, equation 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub smooth: Smooth,
    /// Whose linears are multiplied.
    pub balance: LinearInput,
    /// Which features of the balance's input come from one feature of the smooth's output.
    pub sharing: Sharing,
}

/// Takes the division by `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smooth {
    /// The weight of a norm, `[features]`.
    Norm(&'static str),
    /// The rows of a linear's weight, and its bias where there is one.
    Linear(&'static str),
}

/// The mappings of every decoder layer, in the order in which a layer computes.
///
/// Attention sums rows of v with weights that do not depend on the feature, so a scale of a feature passes through it: v → o.
/// With grouped queries each value head answers `num_attention_heads / num_key_value_heads` query heads, and o's columns of
/// all of these must have one scale. llm-awq and llm-compressor leave the mapping out there; here the sharing says it.
/// `down` reads `silu(gate) ⊙ up`, which is linear in `up` alone.
pub fn mappings(cfg: &DecoderConfig) -> [Mapping; 4] {
    let heads = Sharing { run: cfg.head_dim, repeats: cfg.num_attention_heads / cfg.num_key_value_heads };
    [
        Mapping { smooth: Smooth::Norm("input_layernorm"), balance: LinearInput::QueryKeyValue, sharing: Sharing::NONE },
        Mapping { smooth: Smooth::Linear("self_attn.v_proj"), balance: LinearInput::AttentionOutput, sharing: heads },
        Mapping { smooth: Smooth::Norm("post_attention_layernorm"), balance: LinearInput::GateUp, sharing: Sharing::NONE },
        Mapping { smooth: Smooth::Linear("mlp.up_proj"), balance: LinearInput::Down, sharing: Sharing::NONE },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(kv_heads: usize) -> DecoderConfig {
        let json = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 16,
            "rope_theta": 10000.0, "tie_word_embeddings": false,
        });
        DecoderConfig::from_value(&json).expect("a config that is supported")
    }

    #[test]
    fn every_decoder_linear_has_one_input_of_its_width() {
        let cfg = config(2);
        let linears: Vec<_> = cfg.expected_tensors().into_iter().filter(|t| t.name.ends_with("_proj.weight")).collect();
        assert_eq!(linears.len(), 2 * 7);
        for linear in &linears {
            let input = LinearInput::of(&linear.name).expect("a decoder linear");
            assert_eq!(linear.shape[1], input.in_features(&cfg), "{}", linear.name);
        }
        let listed: usize = LinearInput::ALL.iter().map(|input| input.weights(1).len()).sum();
        assert_eq!(listed, 7);
        for other in ["lm_head.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias"] {
            assert_eq!(LinearInput::of(other), None);
        }
    }

    #[test]
    fn a_value_head_is_shared_by_its_query_heads() {
        let sharing = mappings(&config(2))[1].sharing;
        // Heads 0 and 1 read value head 0 (features 0 … 15), heads 2 and 3 read value head 1.
        let sources: Vec<usize> = [0, 15, 16, 31, 32, 47, 48, 63].map(|feature| sharing.source(feature)).to_vec();
        assert_eq!(sources, [0, 15, 0, 15, 16, 31, 16, 31]);
        let sharing = mappings(&config(4))[1].sharing;
        assert!((0..64).all(|feature| sharing.source(feature) == feature));
        let sharing = mappings(&config(2))[3].sharing;
        assert!((0..80).all(|feature| sharing.source(feature) == feature));
    }
}
