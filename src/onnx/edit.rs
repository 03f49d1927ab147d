//! Surgery on a finished model: what a runtime needs to make its own copy of an artifact's graph.
//!
//! Every edit leaves a model that loads; what it makes superfluous stays until [`Model::prune`].

use std::collections::HashSet;

use super::ir::{Attribute, Content, Dim, Domain, Initializer, Model, Node, Shape, Type, Typed, Value};
use crate::fault::Fault;
use crate::host::shown;
use crate::tensor::DType;

/// Why an edit does not fit the model.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    #[error("the model has no value {0}; export the artifact again with this version of qonnx")]
    NoValue(String),
    #[error("value {0} is not computed by any node, so it cannot become an input")]
    NotComputed(String),
    #[error("value {0} is not an output of the model")]
    NotAnOutput(String),
    #[error("no DequantizeLinear and no MatMulBnb4 reads {0}; export the artifact again with this version of qonnx")]
    NoWeight(String),
    #[error("no {op_type} node has an input {index}")]
    NoNodeInput { op_type: String, index: usize },
    #[error("the name {0} is taken; give every value its own")]
    DuplicateName(String),
    #[error("value {name}: expected {expected}, got {got}")]
    Type { name: String, expected: &'static str, got: Type },
}

impl EditError {
    /// The model is what does not fit: it was read from a file.
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}

impl Model {
    /// Makes a computed value an input of the model, fed by the caller from now on.
    pub fn promote_to_input(&mut self, name: &str) -> Result<Value, EditError> {
        let value = self.named(name)?;
        let producer = self.producer(value).ok_or_else(|| EditError::NotComputed(name.to_owned()))?;
        let outputs = &mut self.nodes[producer].outputs;
        for output in outputs.iter_mut().filter(|output| **output == Some(value)) {
            *output = None;
        }
        if outputs.iter().all(Option::is_none) {
            self.nodes.remove(producer);
        }
        self.inputs.push(value);
        Ok(value)
    }

    /// Renames the files that external data is in, each from one name to another.
    ///
    /// # Errors
    /// Some of it is in another file, whose name is returned.
    pub fn move_external_data(&mut self, renamed: &[[String; 2]]) -> Result<(), String> {
        for initializer in &mut self.initializers {
            let Content::External(range) = &mut initializer.content else { continue };
            match renamed.iter().find(|[from, _]| *from == range.location) {
                Some([_, to]) => range.location = to.clone(),
                None => return Err(shown(&range.location).to_string()),
            }
        }
        Ok(())
    }

    /// Leaves out an optional input of every node of that type.
    pub fn drop_node_input(&mut self, op_type: &str, index: usize) -> Result<(), EditError> {
        let mut found = false;
        for node in self.nodes.iter_mut().filter(|node| node.op_type == op_type) {
            if let Some(input) = node.inputs.get_mut(index) {
                found |= input.take().is_some();
            }
            while node.inputs.last() == Some(&None) {
                node.inputs.pop();
            }
        }
        if found { Ok(()) } else { Err(EditError::NoNodeInput { op_type: op_type.to_owned(), index }) }
    }

    /// Lets every reader of `old` read `new` instead, a value of the same type that is there before them.
    pub fn substitute(&mut self, old: &str, new: &str) -> Result<(), EditError> {
        let [old, new] = [self.named(old)?, self.named(new)?];
        for input in self.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
            if *input == Some(old) {
                *input = Some(new);
            }
        }
        Ok(())
    }

    /// Gives every node of that type the attribute `name`.
    pub fn set_attribute(&mut self, op_type: &str, name: &str, value: i64) {
        for node in self.nodes.iter_mut().filter(|node| node.op_type == op_type) {
            node.attributes.retain(|(key, _)| key != name);
            node.attributes.push((name.to_owned(), Attribute::Int(value)));
        }
    }

    /// Lets every reader of `value [batch, sequence, width]` see chosen positions only, `[batch, positions, width]`.
    ///
    /// The new input `positions` is int64 `[batch, positions, 1]` and holds, for each row, indices into the sequence
    /// axis (GatherND-13 with one batch axis). Values computed from it change their sequence axis accordingly.
    pub fn gather_positions(&mut self, value: &str, positions: &str) -> Result<Value, EditError> {
        let data = self.named(value)?;
        let ty = self.type_of(data).clone();
        let [batch, Dim::Named(sequence), width] = ty.shape.0.as_slice() else {
            return Err(EditError::Type { name: value.to_owned(), expected: "[batch, symbolic sequence, width]", got: ty });
        };
        let chosen = Dim::from("positions");
        let index_type = Type::new(DType::I64, [batch.clone(), chosen.clone(), Dim::Known(1)]);
        let gathered_type = Type::new(ty.dtype, [batch.clone(), chosen.clone(), width.clone()]);
        let indices = self.new_value(positions, index_type)?;
        let gathered = self.new_value(&format!("{value}.gathered"), gathered_type)?;
        let first = self.producer(data).map_or(0, |index| index + 1);
        for input in self.nodes[first..].iter_mut().flat_map(|node| &mut node.inputs) {
            if *input == Some(data) {
                *input = Some(gathered);
            }
        }
        self.replace_dim_downstream(gathered, sequence, &chosen);
        let node = onnx_node("GatherND", format!("{value}/GatherND"), vec![data, indices], gathered, &[("batch_dims", 1)]);
        self.nodes.insert(first, node);
        self.inputs.push(indices);
        Ok(gathered)
    }

    /// Adds the output `output [batch, positions, 1]`: the int64 index of the largest of `logits [batch, positions, vocab]`, the
    /// first of equals (ArgMax-13), or −1 where that logit, or anything in the row's `hidden [batch, sequence, width]`, is not a
    /// number: NaN or infinite. ArgMax itself gives an index for NaN too, and attention may hide what an earlier position was.
    pub fn append_greedy(&mut self, logits: &str, hidden: &str, output: &str) -> Result<Value, EditError> {
        let [logits, hidden] = [self.named(logits)?, self.named(hidden)?];
        let ty = self.type_of(logits).clone();
        let [batch, positions, _] = ty.shape.0.as_slice() else {
            return Err(EditError::Type {
                name: self.name_of(logits).to_owned(),
                expected: "[batch, positions, vocab]",
                got: ty,
            });
        };
        let one = Dim::Known(1);
        let [chosen, mean] =
            [[batch.clone(), positions.clone(), one.clone()], [batch.clone(), one.clone(), one]].map(|dims| Shape(dims.to_vec()));
        let mut value =
            |part: &str, dtype, shape: &Shape| self.new_value(&format!("{output}{part}"), Type::new(dtype, shape.clone()));
        let (largest, next) = (value(".largest", DType::I64, &chosen)?, value("", DType::I64, &chosen)?);
        let (logit, mean) = (value(".logit", ty.dtype, &chosen)?, value(".mean", ty.dtype, &mean)?);
        let (sum, zero) = (value(".sum", ty.dtype, &chosen)?, value(".zero", ty.dtype, &chosen)?);
        let is_none = value(".is_none", DType::Bool, &chosen)?;
        let none = value(".none", DType::I64, &Shape(Vec::new()))?;
        let axes = value(".axes", DType::I64, &Shape(vec![Dim::Known(2)]))?;
        for (value, numbers) in [(none, &[-1i64][..]), (axes, &[1, 2])] {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            self.initializers.push(Initializer { value, content: Content::Inline(bytes) });
        }
        let mut node = |op_type: &str, inputs, computed, attributes: &[(&str, i64)]| {
            self.nodes.push(onnx_node(op_type, format!("{output}/{op_type}"), inputs, computed, attributes));
        };
        node("ArgMax", vec![logits], largest, &[("axis", -1), ("keepdims", 1)]);
        node("GatherElements", vec![logits, largest], logit, &[("axis", -1)]);
        node("ReduceMean", vec![hidden, axes], mean, &[("keepdims", 1)]);
        node("Add", vec![logit, mean], sum, &[]);
        // Zero for every number, NaN for NaN and for the infinite.
        node("Sub", vec![sum, sum], zero, &[]);
        node("IsNaN", vec![zero], is_none, &[]);
        node("Where", vec![is_none, none, largest], next, &[]);
        self.outputs.push(next);
        Ok(next)
    }

    /// No longer gives that output.
    pub fn drop_output(&mut self, name: &str) -> Result<(), EditError> {
        let value = self.named(name)?;
        let before = self.outputs.len();
        self.outputs.retain(|&output| output != value);
        if self.outputs.len() < before { Ok(()) } else { Err(EditError::NotAnOutput(name.to_owned())) }
    }

    /// Gives a value another name.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), EditError> {
        let value = self.named(old)?;
        if self.find(new).is_some_and(|other| other != value) {
            return Err(EditError::DuplicateName(new.to_owned()));
        }
        self.values[value.index()].name = new.to_owned();
        Ok(())
    }

    /// Removes nodes that no output needs, then inputs, initializers and values that nothing uses.
    pub fn prune(&mut self) {
        let mut needed: HashSet<Value> = self.outputs.iter().copied().collect();
        let mut kept = Vec::with_capacity(self.nodes.len());
        for node in std::mem::take(&mut self.nodes).into_iter().rev() {
            if node.outputs.iter().flatten().any(|output| needed.contains(output)) {
                needed.extend(node.inputs.iter().flatten().chain(node.outputs.iter().flatten()));
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
        self.inputs.retain(|input| needed.contains(input));
        self.initializers.retain(|initializer| needed.contains(&initializer.value));
        self.keep_values(&needed);
    }

    /// Renumbers values so that only `needed` ones remain.
    fn keep_values(&mut self, needed: &HashSet<Value>) {
        let mut moved = vec![Value(u32::MAX); self.values.len()];
        let mut values = Vec::with_capacity(needed.len());
        for (index, value) in std::mem::take(&mut self.values).into_iter().enumerate() {
            if needed.contains(&Value(index as u32)) {
                moved[index] = Value(values.len() as u32);
                values.push(value);
            }
        }
        self.values = values;
        let edges = self.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().chain(&mut node.outputs)).flatten();
        let constants = self.initializers.iter_mut().map(|Initializer { value, .. }| value);
        for value in edges.chain(constants).chain(&mut self.inputs).chain(&mut self.outputs) {
            *value = moved[value.index()];
        }
    }

    /// Puts `new` where values computed from `start` have the axis `old`.
    fn replace_dim_downstream(&mut self, start: Value, old: &str, new: &Dim) {
        let mut reached = HashSet::from([start]);
        for node in &self.nodes {
            if node.inputs.iter().flatten().any(|input| reached.contains(input)) {
                for &output in node.outputs.iter().flatten() {
                    reached.insert(output);
                    for dim in &mut self.values[output.index()].ty.shape.0 {
                        if matches!(dim, Dim::Named(name) if name == old) {
                            *dim = new.clone();
                        }
                    }
                }
            }
        }
    }

    fn named(&self, name: &str) -> Result<Value, EditError> {
        self.find(name).ok_or_else(|| EditError::NoValue(name.to_owned()))
    }

    fn new_value(&mut self, name: &str, ty: Type) -> Result<Value, EditError> {
        if self.find(name).is_some() {
            return Err(EditError::DuplicateName(name.to_owned()));
        }
        self.values.push(Typed { name: name.to_owned(), ty });
        Ok(Value((self.values.len() - 1) as u32))
    }

    fn producer(&self, value: Value) -> Option<usize> {
        self.nodes.iter().position(|node| node.outputs.contains(&Some(value)))
    }
}

fn onnx_node(op_type: &str, name: String, inputs: Vec<Value>, output: Value, attributes: &[(&str, i64)]) -> Node {
    Node {
        name,
        domain: Domain::Onnx,
        op_type: op_type.to_owned(),
        inputs: inputs.into_iter().map(Some).collect(),
        outputs: vec![Some(output)],
        attributes: attributes.iter().map(|&(key, value)| (key.to_owned(), Attribute::Int(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Graph, decode, encode};

    /// mask → Sub(1) → Cast → seqlens; x ⊙ w → hidden → Sigmoid → logits; cast of positions → places.
    fn tiny() -> Model {
        let graph = Graph::new("tiny");
        let mask = graph.input("mask", Type::new(DType::I64, ["batch".into()]));
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), "sequence".into(), 4.into()]));
        let op = graph.at("m");
        let seqlens = graph.rename(op.cast(op.sub(mask, graph.shared_i64(&[1], &[1])), DType::I32), "seqlens");
        let w = graph.constant("w", DType::F32, &[4], vec![0; 16]);
        let hidden = graph.rename(op.mul(x, w), "hidden");
        let logits = graph.rename(op.sigmoid(hidden), "logits");
        let places = graph.rename(op.cast(seqlens, DType::F32), "places");
        graph.finish(&[logits, places]).expect("the shapes fit")
    }

    #[test]
    fn a_substituted_value_has_no_reader_and_readers_keep_their_other_inputs() {
        let mut model = tiny();
        model.substitute("hidden", "x").expect("both exist");
        model.prune();
        assert_eq!(op_types(&model), ["Sub", "Cast", "Sigmoid", "Cast"]);
        assert_eq!(names(&model, model.inputs()), ["mask", "x"]);
        assert_eq!(model.substitute("hidden", "x"), Err(EditError::NoValue("hidden".to_owned())));
    }

    #[test]
    fn an_attribute_is_set_once_on_every_node_of_the_type() {
        let mut model = tiny();
        model.set_attribute("Sigmoid", "level", 4);
        model.set_attribute("Sigmoid", "level", 0);
        let attributes = |op_type: &str| {
            let node = model.nodes().iter().find(|node| node.op_type == op_type).expect("there is one");
            node.attributes.clone()
        };
        assert_eq!(attributes("Sigmoid"), [("level".to_owned(), Attribute::Int(0))]);
        assert_eq!(attributes("Mul"), []);
    }

    fn names(model: &Model, values: &[Value]) -> Vec<String> {
        values.iter().map(|&value| model.name_of(value).to_owned()).collect()
    }

    fn op_types(model: &Model) -> Vec<&str> {
        model.nodes().iter().map(|node| node.op_type.as_str()).collect()
    }

    #[test]
    fn a_promoted_value_is_an_input_and_pruning_takes_what_computed_it() {
        let mut model = tiny();
        model.promote_to_input("seqlens").expect("it is computed");
        assert_eq!(op_types(&model), ["Sub", "Mul", "Sigmoid", "Cast"]);
        model.prune();
        assert_eq!(op_types(&model), ["Mul", "Sigmoid", "Cast"]);
        assert_eq!(names(&model, model.inputs()), ["x", "seqlens"]);
        let constants: Vec<Value> = model.initializers().iter().map(|initializer| initializer.value).collect();
        assert_eq!(names(&model, &constants), ["w"]);
        assert_eq!(model.find("mask"), None);
        let bytes = encode(&model).expect("all bytes are there");
        assert_eq!(encode(&decode(&bytes).expect("it was just written")).expect("all bytes are there"), bytes);
    }

    #[test]
    fn gathered_positions_reach_every_reader_and_their_shapes_follow() {
        let mut model = tiny();
        model.gather_positions("hidden", "positions").expect("hidden is [batch, sequence, 4]");
        model.append_greedy("logits", "hidden", "next_token").expect("both exist");
        model.drop_output("places").expect("it is an output");
        model.prune();
        let greedy = ["ArgMax", "GatherElements", "ReduceMean", "Add", "Sub", "IsNaN", "Where"];
        assert_eq!(op_types(&model), [&["Mul", "GatherND", "Sigmoid"][..], &greedy].concat());
        assert_eq!(names(&model, model.inputs()), ["x", "positions"]);
        assert_eq!(names(&model, model.outputs()), ["logits", "next_token"]);
        let shape = |name: &str| model.type_of(model.find(name).expect("it exists")).to_string();
        assert_eq!(shape("hidden"), "f32[batch, sequence, 4]");
        assert_eq!(shape("hidden.gathered"), "f32[batch, positions, 4]");
        assert_eq!(shape("positions"), "int64[batch, positions, 1]");
        assert_eq!(shape("logits"), "f32[batch, positions, 4]");
        assert_eq!(shape("next_token"), "int64[batch, positions, 1]");
        assert_eq!(names(&model, &[model.nodes()[2].inputs[0].expect("Sigmoid reads one value")]), ["hidden.gathered"]);
    }

    #[test]
    fn a_dropped_last_input_shortens_the_list_and_a_middle_one_leaves_a_gap() {
        let mut model = tiny();
        model.drop_node_input("Mul", 1).expect("Mul has two inputs");
        assert_eq!(model.nodes()[2].inputs.len(), 1);
        model.drop_node_input("Sub", 0).expect("Sub has two inputs");
        assert_eq!(model.nodes()[0].inputs[0], None);
        let missing = EditError::NoNodeInput { op_type: "Sub".to_owned(), index: 9 };
        assert_eq!(model.drop_node_input("Sub", 9), Err(missing));
    }

    #[test]
    fn edits_that_do_not_fit_name_what_is_wrong() {
        let mut model = tiny();
        assert_eq!(model.promote_to_input("absent"), Err(EditError::NoValue("absent".to_owned())));
        assert_eq!(model.promote_to_input("x"), Err(EditError::NotComputed("x".to_owned())));
        assert_eq!(model.drop_output("hidden"), Err(EditError::NotAnOutput("hidden".to_owned())));
        assert_eq!(model.rename("hidden", "x"), Err(EditError::DuplicateName("x".to_owned())));
        assert_eq!(model.append_greedy("logits", "hidden", "x"), Err(EditError::DuplicateName("x".to_owned())));
        assert!(matches!(model.gather_positions("seqlens", "positions"), Err(EditError::Type { .. })));
        model.rename("hidden", "h").expect("h is free");
        assert_eq!((model.find("hidden"), model.find("h").is_some()), (None, true));
    }
}
