//! Tensors under the names that transformers gives them.
//!
//! A decoder inside a causal LM is called `model`. A checkpoint of the decoder alone lacks that prefix, one that was saved
//! from a wrapper has it twice; transformers (5.17, `rename_source_key`) loads both, and so does [`Index`](super::Index).

const PREFIX: &str = "model.";
/// What the names of a decoder by itself begin with.
const DECODER: [&str; 3] = ["embed_tokens.", "layers.", "norm."];
/// Part of a causal LM that lies beside the decoder.
const HEAD: &str = "lm_head.";

/// The name that transformers loads `stored` under, where it is another one.
pub(super) fn loaded_as(stored: &str) -> Option<String> {
    if let Some(inner) = stored.strip_prefix(PREFIX) {
        let is_doubled = inner.starts_with(HEAD) || inner.strip_prefix(PREFIX).is_some_and(is_of_decoder);
        return is_doubled.then(|| inner.to_owned());
    }
    is_of_decoder(stored).then(|| format!("{PREFIX}{stored}"))
}

fn is_of_decoder(name: &str) -> bool {
    DECODER.iter().any(|part| name.starts_with(part))
}

/// Number of the layer that a tensor of a causal LM belongs to.
pub(super) fn layer_of(name: &str) -> Option<u64> {
    name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prefix_is_added_or_taken_away() {
        for (stored, name) in [
            ("model.model.layers.0.mlp.up_proj.weight", Some("model.layers.0.mlp.up_proj.weight")),
            ("model.model.embed_tokens.weight", Some("model.embed_tokens.weight")),
            ("model.lm_head.weight", Some("lm_head.weight")),
            ("layers.11.input_layernorm.weight", Some("model.layers.11.input_layernorm.weight")),
            ("norm.weight", Some("model.norm.weight")),
            ("model.layers.0.mlp.up_proj.weight", None),
            ("lm_head.weight", None),
            ("base_model.model.model.norm.weight", None),
            ("model.model.model.norm.weight", None),
            ("", None),
        ] {
            assert_eq!(loaded_as(stored).as_deref(), name, "{stored}");
        }
    }

    #[test]
    fn a_layer_has_a_number() {
        assert_eq!(layer_of("model.layers.7.mlp.up_proj.weight"), Some(7));
        assert_eq!((layer_of("model.layers.x.w"), layer_of("model.norm.weight"), layer_of("model.layers.7")), (None, None, None));
    }
}
