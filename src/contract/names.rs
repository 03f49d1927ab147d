//! Names by which users of an artifact find its inputs, outputs and the values that a runtime specialises.

/// int64 `[batch_size, sequence_length]`
pub const INPUT_IDS: &str = "input_ids";
/// int64 `[batch_size, total_sequence_length]`: 1 for a token, 0 for a pad on the left or on the right of a row.
pub const ATTENTION_MASK: &str = "attention_mask";
/// `[batch_size, sequence_length, vocab_size]`
pub const LOGITS: &str = "logits";

/// Computed from the mask, int32 `[batch_size]`: positions of each row, past and new, minus one.
pub const SEQLENS_K: &str = "seqlens_k";
/// Computed from the mask, int32 scalar: positions of the longest row, past and new.
pub const TOTAL_SEQUENCE_LENGTH: &str = "total_sequence_length";
/// Cosines of the rotary angles, `[max_context, head_dim / 2]`: a row for each position that there is.
pub const ROTARY_COS: &str = "model.rotary_emb.cos";
/// Sines, as [`ROTARY_COS`].
pub const ROTARY_SIN: &str = "model.rotary_emb.sin";

/// The output of the final norm, `[batch_size, sequence_length, hidden_size]`.
pub const FINAL_HIDDEN: &str = "model.norm.output";

/// [`INPUT_IDS`] with each row's pads behind its tokens: what the embedding reads.
pub const RIGHT_PADDED_IDS: &str = "input_ids.right_padded";
/// [`FINAL_HIDDEN`] with each row's pads where the caller has them: what the LM head reads.
pub const HIDDEN_AS_GIVEN: &str = "model.norm.output.as_given";

/// Axes whose sizes a caller chooses. Runtimes look them up by these names: transformers.js makes the first cache of them.
pub mod axes {
    pub const BATCH_SIZE: &str = "batch_size";
    /// New tokens.
    pub const SEQUENCE_LENGTH: &str = "sequence_length";
    /// Tokens before them.
    pub const PAST_SEQUENCE_LENGTH: &str = "past_sequence_length";
    /// Both.
    pub const TOTAL_SEQUENCE_LENGTH: &str = "total_sequence_length";
}

/// `[batch_size, num_key_value_heads, past_sequence_length, head_dim]`
pub fn past_key(layer: usize) -> String {
    format!("past_key_values.{layer}.key")
}

/// As [`past_key`].
pub fn past_value(layer: usize) -> String {
    format!("past_key_values.{layer}.value")
}

/// `[batch_size, num_key_value_heads, total_sequence_length, head_dim]`
pub fn present_key(layer: usize) -> String {
    format!("present.{layer}.key")
}

/// As [`present_key`].
pub fn present_value(layer: usize) -> String {
    format!("present.{layer}.value")
}
