//! A decoder cut where linears read their inputs: graphs that, run in turn, are the model.
//!
//! ```text
//! embedded tokens ─▶ stage 0 ─▶ what the first linears read ─▶ stage 1 ─▶ what the next ones read ─▶ … ─▶ what the LM head reads
//! ```
//!
//! Stages are cut from the decoder's own graph ([`Cutter`]), so what calibration sees is what the artifact computes: nothing is
//! said twice of what a layer is. What is alive at a cut, like the residual stream, waits beside the input. Weights are inputs:
//! f32, `[out_features, in_features]`. Sequences begin at position 0 and are equally long in a batch; there is no cache.

use std::cell::RefCell;
use std::collections::HashMap;

use super::architecture::Architecture;
use super::config::DecoderConfig;
use super::module::{Build, Module, Notes, WeightSource};
use super::options::GraphForm;
use super::survey::{ExpectedTensor, Survey, Surveyed};
use crate::contract::names::{self, axes};
use crate::onnx::{Cutter, Dim, Graph, GraphError, Model, Piece, Shape, Type, Value};
use crate::tensor::DType;

/// Embedded tokens in f32, `[batch, sequence, hidden_size]`.
pub const EMBEDDED: &str = "embedded";
/// What the LM head reads, `[batch, sequence, hidden_size]`.
pub const FINAL_HIDDEN: &str = "hidden";
/// int64 `[rows]`: tokens whose logits are wanted, counted over the whole batch.
pub const ROWS: &str = "rows";
/// f32 `[vocab_size, hidden_size]`: the LM head.
pub const HEAD_WEIGHT: &str = "lm_head.weight";
/// f32 `[hidden_size, hidden_size]`: what the LM head's input is multiplied by first, where a head has it.
pub const HEAD_MATRIX: &str = "head.matrix";

/// Activations `[batch, sequence, width]` that wait between two stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waiting {
    value: Value,
    pub width: usize,
}

/// All stages of a model.
#[derive(Debug, Clone)]
pub struct DecoderStages {
    pub survey: Survey,
    /// What the first stage begins with.
    pub embedded: Waiting,
    /// In the order in which they run: one before each input of the survey, and one more to what the LM head reads.
    pub stages: Vec<DecoderStage>,
    /// The graphs that differ: layers repeat each other.
    pub graphs: Vec<Model>,
}

/// The part of a model from what linears read to what the next ones read.
#[derive(Debug, Clone)]
pub struct DecoderStage {
    /// Place among [`DecoderStages::graphs`].
    pub graph: usize,
    /// In the order of the graph's inputs.
    pub inputs: Vec<StageInput>,
    /// In the order of the graph's outputs.
    pub outputs: Vec<Waiting>,
    /// What it ends at: the next linears' input. One of its outputs, or what an earlier stage has computed already.
    pub end: Waiting,
}

/// An input of a stage's graph, by its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageInput {
    pub name: String,
    pub what: StageOperand,
}

/// What a stage reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageOperand {
    /// A weight of the checkpoint.
    Weight(ExpectedTensor),
    /// What an earlier stage has computed.
    Waiting(Waiting),
    /// Where the tokens stand: [`names::SEQLENS_K`] or [`names::TOTAL_SEQUENCE_LENGTH`].
    Places(&'static str),
}

impl DecoderStages {
    /// `positions`: the longest sequence.
    ///
    /// # Errors
    /// Sizes of the configuration that no graph can be written for.
    pub fn of(architecture: &Architecture, activation: DType, positions: usize) -> Result<DecoderStages, GraphError> {
        let Surveyed { survey, model, embedded, cuts } = Surveyed::of(architecture, activation, positions)?;
        let last = model.find(names::FINAL_HIDDEN).expect("every decoder names what its head reads");
        let cuts: Vec<(Value, usize)> = cuts.into_iter().chain([(last, after(&model, last))]).collect();
        let starts = [after(&model, embedded)].into_iter().chain(cuts.iter().map(|(_, nodes)| *nodes));
        let reader = Reader::of(&model, &survey);
        let (cutter, mut graphs) = (Cutter::of(&model), Vec::new());
        let stages = starts.zip(&cuts).map(|(start, &(end, stop))| {
            let Piece { model: graph, inputs, outputs } = cutter.piece(start..stop);
            let names = graph.inputs().iter().map(|&input| graph.name_of(input).to_owned());
            let inputs = names.zip(inputs).map(|(name, value)| StageInput { name, what: reader.operand(value) }).collect();
            let outputs = outputs.into_iter().map(|value| reader.waiting(value)).collect();
            let known = graphs.iter().position(|known| *known == graph);
            let graph = known.unwrap_or_else(|| {
                graphs.push(graph);
                graphs.len() - 1
            });
            DecoderStage { graph, inputs, outputs, end: reader.waiting(end) }
        });
        let stages = stages.collect();
        Ok(DecoderStages { embedded: reader.waiting(embedded), stages, graphs, survey })
    }
}

impl DecoderStage {
    /// The weights that it multiplies and adds by, in the order in which they are given.
    pub fn weights(&self) -> impl Iterator<Item = &ExpectedTensor> {
        self.inputs.iter().filter_map(|input| match &input.what {
            StageOperand::Weight(weight) => Some(weight),
            StageOperand::Waiting(_) | StageOperand::Places(_) => None,
        })
    }

    /// What it reads of earlier stages.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> {
        self.inputs.iter().filter_map(|input| match input.what {
            StageOperand::Waiting(waiting) => Some(waiting),
            StageOperand::Weight(_) | StageOperand::Places(_) => None,
        })
    }
}

/// How many nodes there are up to the one that computes `value`, itself included.
fn after(model: &Model, value: Value) -> usize {
    let place = model.nodes().iter().position(|node| node.outputs.contains(&Some(value)));
    place.map_or(0, |place| place + 1)
}

/// What the values of a surveyed model are.
struct Reader<'m> {
    model: &'m Model,
    weights: HashMap<&'m str, &'m ExpectedTensor>,
}

impl<'m> Reader<'m> {
    fn of(model: &'m Model, survey: &'m Survey) -> Reader<'m> {
        Reader { model, weights: survey.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect() }
    }

    fn operand(&self, value: Value) -> StageOperand {
        let name = self.model.name_of(value);
        if let Some(&weight) = self.weights.get(name) {
            return StageOperand::Weight(weight.clone());
        }
        let places = [names::SEQLENS_K, names::TOTAL_SEQUENCE_LENGTH];
        match places.into_iter().find(|place| *place == name) {
            Some(place) => StageOperand::Places(place),
            None => StageOperand::Waiting(self.waiting(value)),
        }
    }

    /// # Panics
    /// Where a family lets something else than activations be alive at a cut; the tests of families look at each.
    fn waiting(&self, value: Value) -> Waiting {
        match self.model.type_of(value).shape.0.as_slice() {
            [_, _, Dim::Known(width)] => Waiting { value, width: *width },
            _ => panic!("{} waits between two stages and is no activations", self.model.name_of(value)),
        }
    }
}

/// [`EMBEDDED`] as the activation type. Nothing to do where that is f32.
pub fn embed(cfg: &DecoderConfig, activation: DType) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let x = activations(m, EMBEDDED, DType::F32, cfg.hidden_size);
        vec![m.op().cast(x, activation)]
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

/// [`HEAD_WEIGHT`], [`FINAL_HIDDEN`], [`ROWS`] → [`names::LOGITS`], f32 `[rows, vocab_size]`.
pub fn head(cfg: &DecoderConfig, activation: DType, form: HeadForm) -> Result<Model, GraphError> {
    stage(activation, |m| {
        let (op, graph) = (m.op(), m.op().graph());
        let h = activations(m, FINAL_HIDDEN, activation, cfg.hidden_size);
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
    let (graph, notes) = (Graph::new("stage"), Notes::default());
    let (form, source) = (GraphForm::default(), WeightSource::Survey(&notes));
    let build = Build { graph: &graph, activation, form, source, stored: RefCell::default() };
    let outputs = write(&Module::root(&build));
    graph.finish(&outputs)
}

fn activations(m: &Module, name: &str, dtype: DType, width: usize) -> Value {
    m.op().graph().input(name, Type::new(dtype, [axes::BATCH_SIZE.into(), axes::SEQUENCE_LENGTH.into(), width.into()]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn layers_share_their_graphs_and_the_residual_stream_waits_beside() {
        let json = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "rope_theta": 10000.0, "tie_word_embeddings": true, "attention_bias": true,
        });
        let architecture = Architecture::from_value(&json).expect("a config that is supported");
        let stages = DecoderStages::of(&architecture, DType::F16, 32).expect("sizes that fit");
        assert_eq!(stages.stages.len(), 3 * 4 + 1);
        // The first norm, heads, o and a norm, gate and up, down and a norm; behind the last layer nobody reads the residual stream.
        assert_eq!(stages.stages.iter().map(|stage| stage.graph).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 5]);
        let names = |stage: usize| stages.stages[stage].weights().map(|weight| weight.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(0), ["model.layers.0.input_layernorm.weight"]);
        assert_eq!(names(8), ["model.layers.1.mlp.down_proj.weight", "model.layers.2.input_layernorm.weight"]);
        assert_eq!(names(12), ["model.layers.2.mlp.down_proj.weight", "model.norm.weight"]);
        assert_eq!(names(5).len(), 6, "q, k and v with their biases");
        let widths = |waiting: &mut dyn Iterator<Item = Waiting>| waiting.map(|waiting| waiting.width).collect::<Vec<_>>();
        for (stage, reads, writes) in [(0, vec![48], vec![48]), (1, vec![48], vec![64]), (4, vec![80, 48], vec![48, 48])] {
            let stage = &stages.stages[stage];
            assert_eq!((widths(&mut stage.waiting()), widths(&mut stage.outputs.iter().copied())), (reads, writes));
        }
        // What the residual stream adds to is what the stage before last has left.
        let residual = stages.stages[4].waiting().last().expect("two");
        assert!(stages.stages[2].outputs.contains(&residual) && residual != stages.stages[4].end);
    }
}
