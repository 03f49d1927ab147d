//! A model cut into pieces that, run in turn, are the model.

use std::collections::HashMap;
use std::ops::Range;

use super::ir::{Initializer, Model, Node, Typed, Value};

/// Nodes of a model that follow each other, as a model of its own.
///
/// Names are `input.0`, `output.0`, … and say nothing of the whole: pieces that compute the same are equal.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub model: Model,
    /// What the piece reads, as values of the whole, in the order of its inputs.
    pub inputs: Vec<Value>,
    /// What later nodes of the whole read of it, as values of the whole, in the order of its outputs.
    pub outputs: Vec<Value>,
}

/// Cuts pieces out of one model, each in time that depends on the piece.
pub struct Cutter<'m> {
    model: &'m Model,
    /// Places in the model's list.
    initializers: HashMap<Value, usize>,
    /// The last node that reads a value.
    last_readers: HashMap<Value, usize>,
}

impl<'m> Cutter<'m> {
    pub fn of(model: &'m Model) -> Cutter<'m> {
        let mut last_readers = HashMap::new();
        for (index, node) in model.nodes.iter().enumerate() {
            last_readers.extend(node.inputs.iter().flatten().map(|&value| (value, index)));
        }
        let places = model.initializers.iter().enumerate();
        Cutter { model, initializers: places.map(|(place, initializer)| (initializer.value, place)).collect(), last_readers }
    }

    /// Nodes `range` of the model.
    pub fn piece(&self, range: Range<usize>) -> Piece {
        let nodes = &self.model.nodes[range.clone()];
        let mut draft = Draft { whole: self.model, values: Vec::new(), moved: HashMap::new() };
        let (inputs, initializers) = self.read(nodes, &mut draft);
        let computed = nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied());
        let is_read_later = |value: &Value| self.last_readers.get(value).is_some_and(|&reader| reader >= range.end);
        let outputs: Vec<Value> = computed.clone().filter(is_read_later).collect();
        for (index, &output) in outputs.iter().enumerate() {
            draft.add(output, format!("output.{index}"));
        }
        for value in computed {
            if !draft.moved.contains_key(&value) {
                let name = format!("value.{}", draft.values.len());
                draft.add(value, name);
            }
        }
        let in_piece = |values: &[Value]| values.iter().map(|value| draft.moved[value]).collect();
        let model = Model {
            opset: self.model.opset,
            ir_version: self.model.ir_version,
            name: "piece".to_owned(),
            inputs: in_piece(&inputs),
            outputs: in_piece(&outputs),
            nodes: nodes.iter().enumerate().map(|(index, node)| draft.node(index, node)).collect(),
            initializers,
            values: draft.values,
            metadata: Vec::new(),
        };
        Piece { model, inputs, outputs }
    }

    /// Adds what nodes read and do not compute: what comes from outside, and the constants among it.
    fn read(&self, nodes: &[Node], draft: &mut Draft<'_>) -> (Vec<Value>, Vec<Initializer>) {
        let (mut inputs, mut initializers) = (Vec::new(), Vec::new());
        for (index, node) in nodes.iter().enumerate() {
            for &value in node.inputs.iter().flatten() {
                if draft.has(value, &nodes[..index]) {
                    continue;
                }
                match self.initializers.get(&value) {
                    None => {
                        draft.add(value, format!("input.{}", inputs.len()));
                        inputs.push(value);
                    }
                    Some(&place) => {
                        let content = self.model.initializers[place].content.clone();
                        let value = draft.add(value, format!("constant.{}", initializers.len()));
                        initializers.push(Initializer { value, content });
                    }
                }
            }
        }
        (inputs, initializers)
    }
}

/// The values of a piece while it is cut out.
struct Draft<'m> {
    whole: &'m Model,
    values: Vec<Typed>,
    moved: HashMap<Value, Value>,
}

impl Draft<'_> {
    /// Whether the piece has the value already, from outside or from a node `before`.
    fn has(&self, value: Value, before: &[Node]) -> bool {
        self.moved.contains_key(&value) || before.iter().any(|node| node.outputs.contains(&Some(value)))
    }

    fn add(&mut self, value: Value, name: String) -> Value {
        let own = Value(self.values.len() as u32);
        self.values.push(Typed { name, ty: self.whole.type_of(value).clone() });
        self.moved.insert(value, own);
        own
    }

    fn node(&self, index: usize, node: &Node) -> Node {
        let own = |values: &[Option<Value>]| values.iter().map(|value| value.map(|value| self.moved[&value])).collect();
        Node { name: format!("node.{index}"), inputs: own(&node.inputs), outputs: own(&node.outputs), ..node.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Graph, Type};
    use crate::tensor::DType;

    /// `y = (x + a)² + x`, twice in a row: five nodes each but the last addition, which reads a value of before.
    #[test]
    fn pieces_read_what_came_before_and_give_what_comes_later() {
        let graph = Graph::new("whole");
        let op = graph.at("m");
        let mut x = graph.input("x", Type::new(DType::F32, ["batch".into(), 4.into()]));
        for layer in 0..2 {
            let a = graph.input(&format!("a.{layer}"), Type::new(DType::F32, [4.into()]));
            let square = op.pow(op.add(x, a), graph.shared_f32(2.0));
            x = op.add(square, x);
        }
        let model = graph.finish(&[x]).unwrap();
        let cutter = Cutter::of(&model);
        let names = |values: &[Value]| values.iter().map(|&value| model.name_of(value).to_owned()).collect::<Vec<_>>();
        let pieces: Vec<Piece> = [0..2, 2..3, 3..5, 5..6].into_iter().map(|nodes| cutter.piece(nodes)).collect();
        let ends: Vec<_> = pieces.iter().map(|piece| (names(&piece.inputs), names(&piece.outputs))).collect();
        let of = |inputs: &[&str], outputs: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            (owned(inputs), owned(outputs))
        };
        // What the last piece computes is the model's output, which nobody reads later.
        assert_eq!(
            ends,
            [
                of(&["x", "a.0"], &["m/Pow"]),
                of(&["m/Pow", "x"], &["m/Add_2"]),
                of(&["m/Add_2", "a.1"], &["m/Pow_2"]),
                of(&["m/Pow_2", "m/Add_2"], &[]),
            ]
        );
        // The two layers compute the same, and so are the same.
        assert_eq!(pieces[0].model, pieces[2].model);
        assert_eq!(pieces[0].model.initializers().len(), 1);
        assert_ne!(pieces[0].model, pieces[1].model);
    }
}
