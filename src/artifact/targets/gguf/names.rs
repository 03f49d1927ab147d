//! What llama.cpp calls the families, their settings and their tensors.
//!
//! Source: `LLM_ARCH_NAMES` and `LLM_TENSOR_NAMES` of `llama-arch.cpp`; `LlamaModel` of `convert_hf_to_gguf.py`.

/// How a family is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// `general.architecture`, which the keys of all settings begin with.
    pub architecture: &'static str,
    /// Whether it rotates neighbours, where Hugging Face rotates halves: rows of queries and keys are then in another order.
    pub rotates_neighbours: bool,
    /// Whether the projection behind attention may have a bias.
    pub has_output_bias: bool,
}

/// Of a family by its `model_type`; `None` where it is not written.
pub fn dialect(model_type: &str) -> Option<Dialect> {
    match model_type {
        "llama" | "mistral" => Some(Dialect { architecture: "llama", rotates_neighbours: true, has_output_bias: true }),
        "qwen3" => Some(Dialect { architecture: "qwen3", rotates_neighbours: false, has_output_bias: false }),
        _ => None,
    }
}

/// The factors that rotary frequencies are divided by.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

const OUTSIDE: [(&str, &str); 3] = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

const IN_A_LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// `blk.7.attn_q.weight` of `model.layers.7.self_attn.q_proj.weight`; `None` of a tensor that has no name there.
pub fn tensor(weight: &str) -> Option<String> {
    let (module, kind) = weight.rsplit_once('.')?;
    let named = |names: &[(&'static str, &'static str)], module: &str| {
        names.iter().find(|(ours, _)| *ours == module).map(|(_, theirs)| *theirs)
    };
    match module.strip_prefix("model.layers.") {
        Some(in_layer) => {
            let (layer, module) = in_layer.split_once('.')?;
            Some(format!("blk.{layer}.{}.{kind}", named(&IN_A_LAYER, module)?))
        }
        None => Some(format!("{}.{kind}", named(&OUTSIDE, module)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_llama_cpps_names() {
        for (ours, theirs) in [
            ("model.layers.11.self_attn.q_proj.weight", "blk.11.attn_q.weight"),
            ("model.layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
        ] {
            assert_eq!(tensor(ours).as_deref(), Some(theirs));
        }
        assert_eq!(tensor("model.layers.0.mlp.experts.0.up_proj.weight"), None);
        assert_eq!(tensor("model.norm.rotation.weight"), None);
    }
}
