//! Which ONNX Runtime a model asks for.

use super::ir::{Attribute, Model, Node};
use crate::tensor::DType;

/// The oldest release of ONNX Runtime whose CPU provider loads and runs `model`, of the releases that were tried (1.18, 1.19, 1.20, 1.22 to 1.24, 1.32):
/// `tests/it/runtimes` opens an artifact of each kind in the release named here and in the one before.
pub fn oldest_onnxruntime(model: &Model) -> &'static str {
    if model.opset() >= 23 {
        // 2-bit element types (25); Attention (23), which 1.23.0 has too and computes wrongly where heads share keys.
        return "1.24";
    }
    let bits = |node: &Node| match &node.attributes.iter().find(|(name, _)| name == "bits")?.1 {
        Attribute::Int(bits) => Some(*bits),
        _ => None,
    };
    let has = |op_type: &str, width: i64| model.nodes().iter().any(|node| node.op_type == op_type && bits(node) == Some(width));
    if has("MatMulNBits", 2) {
        return "1.24";
    }
    let asks_for_1_23 = |node: &Node| is_cast_to_4_bits(model, node) || is_packed_lookup(node);
    match model.nodes().iter().any(asks_for_1_23) {
        true => "1.23",
        false if has("MatMulNBits", 8) => "1.22",
        false => "1.19", // rotary positions inside GroupQueryAttention, 4-bit DequantizeLinear in blocks
    }
}

/// uint8 planes that become 4-bit codes.
fn is_cast_to_4_bits(model: &Model, node: &Node) -> bool {
    let output = node.outputs.first().copied().flatten();
    node.op_type == "Cast" && output.is_some_and(|output| matches!(model.type_of(output).dtype, DType::I4 | DType::U4))
}

/// GatherBlockQuantized with its attribute `bits`.
fn is_packed_lookup(node: &Node) -> bool {
    let has_bits = node.attributes.iter().any(|(name, value)| name == "bits" && matches!(value, Attribute::Int(_)));
    node.op_type == "GatherBlockQuantized" && has_bits
}
