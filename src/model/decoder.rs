//! A whole decoder, reading like the model; what a layer is, its family says.

use std::cell::RefCell;

use super::architecture::Architecture;
use super::attention::{KvPair, Place, Positions, given_positions, past, positions};
use super::config::DecoderConfig;
use super::module::{Build, Module, WeightSource};
use super::options::{GraphForm, GraphOptions};
use super::padding::RightPadded;
use super::parts::{ResidualStream, norm};
use super::portable::WrittenPositions;
use super::rope::most_positions;
use super::stored::{StoredWeight, WeightForm};
use crate::contract::names::{self, axes};
use crate::onnx::{Graph, GraphError, Model, Type, Value};
use crate::tensor::DType;

/// Most layers that a graph is written for: a hundred times as many as the deepest models have. Configurations claim any number.
const MOST_LAYERS: usize = 16384;

/// The decoder's graph and what each weight of the checkpoint becomes in it, in the order of the layers.
#[derive(Debug, Clone)]
pub struct DecoderGraph {
    pub model: Model,
    pub weights: Vec<StoredWeight>,
}

/// The decoder with a KV cache: `input_ids`, `attention_mask`, past → `logits`, present. Rows may be padded on either side.
///
/// `weight_form` says what the planner wants of each weight, asked once for each by its name in the checkpoint.
pub fn decoder(
    cfg: &Architecture,
    options: &GraphOptions,
    weight_form: &dyn Fn(&str) -> WeightForm,
) -> Result<DecoderGraph, GraphError> {
    let graph = Graph::new(cfg.family.model_type());
    let source = WeightSource::Initializers(weight_form);
    let (activation, form) = (options.activation, options.form);
    let build = Build { graph: &graph, activation, form, source, stored: RefCell::default() };
    let outputs = causal_lm(&Module::root(&build), cfg, options, Cache::Grows);
    let weights = build.stored.into_inner();
    Ok(DecoderGraph { model: graph.finish(&outputs)?, weights })
}

/// Whether there are keys and values of tokens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// They come in, and go out with those of the new tokens.
    Grows,
    /// Every row begins at position 0 and is as long as the others.
    None,
}

/// Embedding, layers, final norm, LM head (HF `…ForCausalLM`).
pub(super) fn causal_lm(m: &Module, cfg: &Architecture, options: &GraphOptions, cache: Cache) -> Vec<Value> {
    let (op, model) = (m.op(), m.child("model"));
    let graph = op.graph();
    let options = &checked(&model, cfg, options);
    let tokens = |name, length: &str| graph.input(name, Type::new(DType::I64, [axes::BATCH_SIZE.into(), length.into()]));
    let ids = tokens(names::INPUT_IDS, axes::SEQUENCE_LENGTH);
    let mask = (cache == Cache::Grows).then(|| tokens(names::ATTENTION_MASK, axes::TOTAL_SEQUENCE_LENGTH));
    let (padded, pos) = match mask {
        None => (None, given_positions(&model, cfg, options)),
        Some(mask) if options.form == GraphForm::Portable => {
            (None, Positions::Written(WrittenPositions::of(&model, cfg, options.activation, [ids, mask])))
        }
        Some(mask) => (Some(RightPadded::of(&m.child("padding"), ids, mask)), positions(&model, cfg, options, mask)),
    };

    let table = model.table("embed_tokens", cfg.vocab_size, cfg.hidden_size);
    let ids = padded.as_ref().map_or(ids, |padded| padded.ids);
    let mut stream = ResidualStream { x: model.child("embed_tokens").rows(table, ids), delta: None };
    let mut presents = Vec::new();
    if cfg.num_hidden_layers > MOST_LAYERS {
        model.refuse("layers", "num_hidden_layers", &format!("at most {MOST_LAYERS}"), &cfg.num_hidden_layers.to_string());
    }
    for layer in 0..cfg.num_hidden_layers.min(MOST_LAYERS) {
        let past = (cache == Cache::Grows).then(|| past(graph, cfg, options.activation, layer));
        let place = Place { layer, positions: &pos, past };
        let present: KvPair;
        (stream, present) = cfg.family.layers().layer(&model.child(&format!("layers.{layer}")), cfg, stream, place);
        presents.push(graph.rename(present.key, &names::present_key(layer)));
        presents.push(graph.rename(present.value, &names::present_value(layer)));
    }
    let (h, _) = norm(&model, "norm", cfg, stream);
    let h = graph.rename(h, names::FINAL_HIDDEN);
    let h = padded.map_or(h, |padded| padded.as_given(&model.child("norm"), h));
    let h = if options.rotated_head { model.child("norm").linear("rotation", h, cfg.hidden_size, false) } else { h };
    let logits = match cfg.tie_word_embeddings {
        true => m.child("lm_head").project(table, h),
        false => m.linear("lm_head", h, cfg.vocab_size, false),
    };
    [graph.rename(logits, names::LOGITS)].into_iter().chain(presents).collect()
}

/// `options` with no more positions than there are; more are refused.
fn checked(model: &Module, cfg: &DecoderConfig, options: &GraphOptions) -> GraphOptions {
    let most = most_positions(cfg);
    if options.max_context > most {
        model.refuse("rotary_emb", "max_context", &format!("at most {most}"), &options.max_context.to_string());
    }
    GraphOptions { max_context: options.max_context.min(most), ..*options }
}
