//! What a model asks of a checkpoint, read off its graph: the weights, and which linears read the same activations.

use std::cell::RefCell;
use std::ops::Range;

use super::architecture::Architecture;
use super::decoder::{Cache, causal_lm};
use super::module::{Build, Module, NotedLinear, Notes, WeightSource};
use super::options::{GraphForm, GraphOptions};
use super::transforms::Scaling;
use crate::onnx::{Graph, GraphError, Model, Value};
use crate::tensor::DType;

/// Name and shape of a weight that the checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    pub name: String,
    pub shape: Vec<usize>,
}

/// Activations that linears of a decoder layer read. Linears of one input share its statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearInput {
    pub layer: usize,
    /// Its place among the layer's inputs, in the order in which a layer computes them.
    pub place: usize,
    /// Width: the in_features of each of the linears.
    pub in_features: usize,
    /// In the order of computation.
    pub linears: Vec<SurveyedLinear>,
}

/// A linear of a decoder layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedLinear {
    /// Its path in the layer, `self_attn.q_proj`.
    pub path: String,
    pub out_features: usize,
    pub bias: bool,
}

/// What a model asks of a checkpoint.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Every weight, in the order of computation. Linears are `[out_features, in_features]`.
    pub tensors: Vec<ExpectedTensor>,
    /// Every input of linears of decoder layers, in the order of computation.
    pub inputs: Vec<LinearInput>,
    /// Where a scale can move in each layer.
    scalings: Vec<Scaling>,
}

/// A surveyed model with its graph.
pub(super) struct Surveyed {
    pub survey: Survey,
    pub model: Model,
    /// What the embedding gives.
    pub embedded: Value,
    /// By input: the activations, and how many nodes come before the first linear that reads them.
    pub cuts: Vec<(Value, usize)>,
}

impl Architecture {
    /// Surveys the model.
    ///
    /// # Errors
    /// Sizes of the configuration that no graph can be written for.
    pub fn survey(&self) -> Result<Survey, GraphError> {
        // How many positions there are changes no weight.
        Ok(Surveyed::of(self, DType::F32, 1)?.survey)
    }

    /// Every weight the checkpoint must hold, in the order of computation; see [`Survey::tensors`].
    ///
    /// # Errors
    /// As [`Self::survey`].
    pub fn expected_tensors(&self) -> Result<Vec<ExpectedTensor>, GraphError> {
        Ok(self.survey()?.tensors)
    }
}

impl Survey {
    /// The inputs of one layer.
    pub fn layer(&self, layer: usize) -> &[LinearInput] {
        &self.inputs[self.range(layer)]
    }

    /// The input that a decoder linear reads, by the name of its weight; `None` for any other weight.
    pub fn input_of(&self, weight: &str) -> Option<&LinearInput> {
        let layer = weight.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()?;
        self.layer(layer).iter().find(|input| input.weights().any(|name| name == weight))
    }

    /// Place of an input among all.
    pub fn index_of(&self, input: &LinearInput) -> usize {
        self.range(input.layer).start + input.place
    }

    /// The scale that the linears of this input can take, if there is one.
    pub fn scaling(&self, input: &LinearInput) -> Option<&Scaling> {
        self.scalings
            .iter()
            .find(|scaling| input.linears.iter().map(|linear| linear.path.as_str()).eq(scaling.balance.iter().copied()))
    }

    /// All scalings of a layer, each with the input whose linears make up for it.
    pub fn scalings(&self, layer: usize) -> impl Iterator<Item = (&Scaling, &LinearInput)> {
        self.layer(layer).iter().filter_map(|input| Some((self.scaling(input)?, input)))
    }

    fn range(&self, layer: usize) -> Range<usize> {
        let start = self.inputs.partition_point(|input| input.layer < layer);
        start..self.inputs.partition_point(|input| input.layer <= layer)
    }
}

impl LinearInput {
    /// Names of its linears' weights in the checkpoint, in their order.
    pub fn weights(&self) -> impl Iterator<Item = String> {
        self.linears.iter().map(|linear| format!("model.layers.{}.{}.weight", self.layer, linear.path))
    }

    /// Whether a linear of this path in the layer reads it.
    pub fn has(&self, path: &str) -> bool {
        self.linears.iter().any(|linear| linear.path == path)
    }

    /// Its linears for a sentence: `self_attn.q_proj, k_proj and v_proj`.
    pub fn sentence(&self) -> String {
        let mut names: Vec<&str> = self.linears.iter().map(|linear| linear.path.as_str()).collect();
        let module = names[0].rsplit_once('.').map_or("", |(module, _)| module);
        for name in names.iter_mut().skip(1) {
            *name = name.strip_prefix(module).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        }
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }

    /// Its linears in short: `qkv`, `gate+up`.
    pub fn short(&self) -> String {
        let last = |linear: &SurveyedLinear| linear.path.rsplit('.').next().unwrap_or_default().replace("_proj", "");
        let names: Vec<String> = self.linears.iter().map(last).collect();
        names.join(if names.iter().all(|name| name.len() == 1) { "" } else { "+" })
    }
}

impl Surveyed {
    /// Writes the graph with weights as inputs, without a cache, for sequences of up to `positions` tokens.
    pub fn of(architecture: &Architecture, activation: DType, positions: usize) -> Result<Surveyed, GraphError> {
        let (graph, notes) = (Graph::new("survey"), Notes::default());
        let (form, source) = (GraphForm::default(), WeightSource::Survey(&notes));
        let build = Build { graph: &graph, activation, form, source, stored: RefCell::default() };
        let options = GraphOptions { activation, max_context: positions, rotated_head: false, form };
        let outputs = causal_lm(&Module::root(&build), architecture, &options, Cache::None);
        let model = graph.finish(&outputs)?;
        let tensors = notes.weights.into_inner().into_iter().map(|(name, shape)| ExpectedTensor { name, shape }).collect();
        let (mut inputs, mut cuts) = (Vec::new(), Vec::new());
        for linear in notes.linears.into_inner() {
            note_input(&linear, &mut inputs, &mut cuts);
        }
        let scalings = architecture.family.layers().scalings(architecture);
        let embedded = notes.embedded.get().expect("a decoder begins with its embedding");
        Ok(Surveyed { survey: Survey { tensors, inputs, scalings }, model, embedded, cuts })
    }
}

/// Adds a linear to the input that it reads, which may be new; one outside the layers is of no input.
fn note_input(linear: &NotedLinear, inputs: &mut Vec<LinearInput>, cuts: &mut Vec<(Value, usize)>) {
    let path = linear.path.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let Some((layer, path)) = path.and_then(|(layer, path)| Some((layer.parse().ok()?, path.to_owned()))) else { return };
    let surveyed = SurveyedLinear { path, out_features: linear.out_features, bias: linear.bias };
    let of_layer = inputs.iter().rev().take_while(|input: &&LinearInput| input.layer == layer).count();
    let first = inputs.len() - of_layer;
    match cuts[first..].iter().position(|(value, _)| *value == linear.input) {
        Some(place) => inputs[first + place].linears.push(surveyed),
        None => {
            let in_features = linear.in_features;
            inputs.push(LinearInput { layer, place: of_layer, in_features, linears: vec![surveyed] });
            cuts.push((linear.input, linear.nodes_before));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn survey(kv_heads: usize) -> Survey {
        let json = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 16,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "mlp_bias": true,
        });
        Architecture::from_value(&json).expect("a config that is supported").survey().expect("sizes that fit")
    }

    #[test]
    fn every_decoder_linear_has_one_input_of_its_width() {
        let survey = survey(2);
        let linears: Vec<_> = survey.tensors.iter().filter(|tensor| tensor.name.ends_with("_proj.weight")).collect();
        assert_eq!(linears.len(), 2 * 7);
        for linear in linears {
            let input = survey.input_of(&linear.name).expect("a decoder linear");
            assert_eq!(linear.shape[1], input.in_features, "{}", linear.name);
        }
        let words: Vec<_> = survey.layer(1).iter().map(|input| (input.short(), input.sentence())).collect();
        let expected = [
            ("qkv", "self_attn.q_proj, k_proj and v_proj"),
            ("o", "self_attn.o_proj"),
            ("gate+up", "mlp.gate_proj and up_proj"),
            ("down", "mlp.down_proj"),
        ];
        assert_eq!(words, expected.map(|(short, sentence)| (short.to_owned(), sentence.to_owned())));
        for other in ["lm_head.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias"] {
            assert_eq!(survey.input_of(other), None);
        }
    }

    #[test]
    fn the_checkpoint_must_hold_what_the_layers_read() {
        let names = |tensors: &[ExpectedTensor]| tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>();
        let survey = survey(2);
        let layer = |layer: usize| {
            let linear = |name: &str, bias: bool| {
                let fields = if bias { &["weight", "bias"][..] } else { &["weight"] };
                fields.iter().map(|field| format!("{name}.{field}")).collect::<Vec<_>>()
            };
            let parts = [
                linear("input_layernorm", false),
                linear("self_attn.q_proj", false),
                linear("self_attn.k_proj", false),
                linear("self_attn.v_proj", false),
                linear("self_attn.o_proj", false),
                linear("post_attention_layernorm", false),
                linear("mlp.gate_proj", true),
                linear("mlp.up_proj", true),
                linear("mlp.down_proj", true),
            ];
            parts.concat().into_iter().map(move |part| format!("model.layers.{layer}.{part}")).collect::<Vec<_>>()
        };
        let ends = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"].map(str::to_owned);
        let [table, norm, head] = ends;
        assert_eq!(names(&survey.tensors), [vec![table], layer(0), layer(1), vec![norm, head]].concat());
    }

    #[test]
    fn a_value_head_is_shared_by_its_query_heads() {
        let sharing = |kv_heads: usize, place: usize| {
            let survey = survey(kv_heads);
            survey.scaling(&survey.layer(1)[place]).expect("every input of a Llama can take scales").sharing
        };
        // Heads 0 and 1 read value head 0 (features 0 … 15), heads 2 and 3 read value head 1.
        let sources: Vec<usize> = [0, 15, 16, 31, 32, 47, 48, 63].map(|feature| sharing(2, 1).source(feature)).to_vec();
        assert_eq!(sources, [0, 15, 0, 15, 16, 31, 16, 31]);
        assert!((0..64).all(|feature| sharing(4, 1).source(feature) == feature));
        assert!((0..80).all(|feature| sharing(2, 3).source(feature) == feature));
    }
}
