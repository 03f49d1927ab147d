//! A decoder layer cut where a linear reads its input: five graphs that, run in turn, are the layer.
//!
//! ```text
//! enter      x, input_layernorm                        → h          what q, k and v read
//! attend     h; q, k, v                                → y          what o reads
//! add        x, y; o, post_attention_layernorm         → x, h       what gate and up read
//! activate   h; gate, up                               → a          what down reads
//! add        x, a; down, the next layer's norm         → x, h       what the next q, k and v (or the LM head) read
//! ```
//!
//! They are made of the decoder's own parts ([`llama`](super::llama)), so what calibration sees is what the artifact computes.
//! Weights are inputs: f32, `[out_features, in_features]`, named as in a layer (`self_attn.q_proj.weight`). Sequences begin at
//! position 0 and are equally long in a batch; there is no cache.

use std::cell::RefCell;

use super::attention::{Positions, rotary_tables};
use super::config::DecoderConfig;
use super::llama::{Stream, gated, heads, norm};
use super::module::{Build, Module, Source};
use super::names;
use crate::onnx::{Graph, GraphError, Model, Shape, Type, Value};
use crate::tensor::DType;

/// The residual stream, `[batch, sequence, hidden_size]`: input and output of the stages that add to it.
pub const RESIDUAL: &str = "x";
/// What a stage reads beside the residual stream, `[batch, sequence, width]`.
pub const INPUT: &str = "input";
/// What the next linear reads, `[batch, sequence, width]`.
pub const OUTPUT: &str = "output";
/// The residual stream after an addition.
pub const NEXT_RESIDUAL: &str = "x.next";
/// int64 `[rows]`: tokens whose logits are wanted, counted over the whole batch.
pub const ROWS: &str = "rows";
/// f32 `[hidden_size, hidden_size]`: what the LM head's input is multiplied by first, where a head has it.
pub const HEAD_MATRIX: &str = "head.matrix";

/// Which part of a layer ends in an addition to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branch {
    /// `self_attn.o_proj` and the norm before the MLP.
    Attention,
    /// `mlp.down_proj` and the norm before the next layer's attention.
    Mlp,
}

impl Branch {
    /// Names of the linear and of the norm in this stage.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Branch::Attention => ("o_proj", "post_attention_layernorm"),
            Branch::Mlp => ("down_proj", "input_layernorm"),
        }
    }
}

/// Embedded tokens in f32, [`INPUT`], as the activation type: [`RESIDUAL`]. Nothing to do where that is f32.
pub fn embed(cfg: &DecoderConfig, activation: DType) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let x = activations(m, INPUT, DType::F32, cfg.hidden_size);
        vec![m.op().graph().rename(m.op().cast(x, activation), RESIDUAL)]
    })
}

/// `input_layernorm.weight`, [`RESIDUAL`] → [`OUTPUT`].
pub fn enter(cfg: &DecoderConfig, activation: DType) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let x = activations(m, RESIDUAL, activation, cfg.hidden_size);
        let (h, _) = norm(m, "input_layernorm", cfg, Stream { x, delta: None });
        vec![m.op().graph().rename(h, OUTPUT)]
    })
}

/// `{q,k,v}_proj.{weight,bias}`, [`INPUT`] → [`OUTPUT`], `[batch, sequence, heads · head_dim]`.
///
/// Beside them the places of the tokens: [`names::POSITION_IDS`], [`names::SEQLENS_K`], [`names::TOTAL_SEQUENCE_LENGTH`].
/// `positions`: the longest sequence.
pub fn attend(cfg: &DecoderConfig, activation: DType, positions: usize) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let graph = m.op().graph();
        let h = activations(m, INPUT, activation, cfg.hidden_size);
        let (cos, sin) = rotary_tables(graph, cfg, activation, positions);
        let pos = Positions {
            seqlens_k: graph.input(names::SEQLENS_K, Type::new(DType::I32, ["batch".into()])),
            total_sequence_length: graph.input(names::TOTAL_SEQUENCE_LENGTH, Type::new(DType::I32, Shape::default())),
            position_ids: graph.input(names::POSITION_IDS, Type::new(DType::I64, ["batch".into(), "sequence".into()])),
            cos,
            sin,
        };
        let (y, _) = heads(m, cfg, h, &pos, None);
        vec![graph.rename(y, OUTPUT)]
    })
}

/// `{o,down}_proj.{weight,bias}`, a norm's weight, [`RESIDUAL`], [`INPUT`] → [`NEXT_RESIDUAL`], [`OUTPUT`].
pub fn add(cfg: &DecoderConfig, activation: DType, branch: Branch) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let graph = m.op().graph();
        let (linear, normalized) = branch.parts();
        let (width, bias) = match branch {
            Branch::Attention => (cfg.q_width(), cfg.attention_bias),
            Branch::Mlp => (cfg.intermediate_size, cfg.mlp_bias),
        };
        let x = activations(m, RESIDUAL, activation, cfg.hidden_size);
        let y = activations(m, INPUT, activation, width);
        let delta = m.linear(linear, y, cfg.hidden_size, bias);
        let (h, x) = norm(m, normalized, cfg, Stream { x, delta: Some(delta) });
        vec![graph.rename(x, NEXT_RESIDUAL), graph.rename(h, OUTPUT)]
    })
}

/// `{gate,up}_proj.{weight,bias}`, [`INPUT`] → [`OUTPUT`], `[batch, sequence, intermediate_size]`.
pub fn activate(cfg: &DecoderConfig, activation: DType) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let h = activations(m, INPUT, activation, cfg.hidden_size);
        vec![m.op().graph().rename(gated(m, cfg, h), OUTPUT)]
    })
}

/// How the LM head reads the final norm's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadForm {
    /// `logits = h · tableᵀ`
    Plain,
    /// `logits = (h · matrix) · tableᵀ`: a rotated model's tied head.
    WithMatrix,
}

/// `lm_head.weight`, [`INPUT`], [`ROWS`] → [`names::LOGITS`], f32 `[rows, vocab_size]`.
pub fn head(cfg: &DecoderConfig, activation: DType, form: HeadForm) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let (op, graph) = (m.op(), m.op().graph());
        let h = activations(m, INPUT, activation, cfg.hidden_size);
        let rows = graph.input(ROWS, Type::new(DType::I64, ["rows".into()]));
        let h = op.gather(op.flatten(h, "tokens"), rows);
        let h = match form {
            HeadForm::Plain => h,
            HeadForm::WithMatrix => {
                let square = Type::new(DType::F32, Shape::known(&[cfg.hidden_size, cfg.hidden_size]));
                op.matmul(h, op.cast(graph.input(HEAD_MATRIX, square), activation))
            }
        };
        let logits = m.linear("lm_head", h, cfg.vocab_size, false);
        vec![graph.rename(op.cast(logits, DType::F32), names::LOGITS)]
    })
}

fn stage(activation: DType, write: impl FnOnce(&Module) -> Vec<Value>) -> Result<Model, GraphError> {
    let graph = Graph::new("stage");
    let build = Build { graph: &graph, activation, source: Source::Inputs, stored: RefCell::default() };
    let outputs = write(&Module::root(&build));
    drop(build);
    graph.finish(&outputs)
}

fn activations(m: &Module, name: &str, dtype: DType, width: usize) -> Value {
    m.op().graph().input(name, Type::new(dtype, ["batch".into(), "sequence".into(), width.into()]))
}
