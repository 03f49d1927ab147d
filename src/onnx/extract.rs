//! The part of a model that turns one weight's codes into numbers, as a model of its own: so that a weight can be looked at
//! through the very nodes that an artifact has for it.

use std::collections::{BTreeSet, HashMap};

use super::edit::EditError;
use super::ir::{Attribute, Dim, Initializer, Model, Node, Type, Typed, Value};

/// A model whose only output is one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightModel {
    pub model: Model,
    pub reading: Reading,
}

/// How the output is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// `[in_features, out_features]`; the model has no inputs.
    Transposed { in_features: usize, out_features: usize },
    /// `[1, block_size, blocks]` where the input is the identity `[1, block_size, block_size]`: what an operator that only
    /// multiplies makes of the flattened weight, taken as `[blocks, block_size]`. Each sum has one term that is not zero, so
    /// the products are the weights, exactly.
    OfIdentity { blocks: usize, block_size: usize },
}

/// Name of the input of [`Reading::OfIdentity`].
pub const IDENTITY: &str = "identity";

/// Finds the parts of a model that make its weights, each in time that depends on the part and not on the model.
#[derive(Debug)]
pub struct WeightFinder<'m> {
    model: &'m Model,
    named: HashMap<&'m str, Value>,
    /// The first node that reads a value.
    readers: HashMap<Value, usize>,
    producers: HashMap<Value, usize>,
    /// Places in the model's list.
    initializers: HashMap<Value, usize>,
}

impl<'m> WeightFinder<'m> {
    /// Looks through `model` once.
    pub fn new(model: &'m Model) -> WeightFinder<'m> {
        let named = model.values.iter().enumerate().map(|(index, value)| (value.name.as_str(), Value(index as u32))).collect();
        let (mut readers, mut producers) = (HashMap::new(), HashMap::new());
        for (position, node) in model.nodes.iter().enumerate() {
            for (edges, places) in [(&node.inputs, &mut readers), (&node.outputs, &mut producers)] {
                for &value in edges.iter().flatten() {
                    places.entry(value).or_insert(position);
                }
            }
        }
        let place = |(position, initializer): (usize, &Initializer)| (initializer.value, position);
        let initializers = model.initializers.iter().enumerate().map(place).collect();
        WeightFinder { model, named, readers, producers, initializers }
    }

    /// The weight whose codes, or whose low plane of codes, the initializer `codes` holds.
    ///
    /// # Errors
    /// No DequantizeLinear and no MatMulBnb4 reads it.
    pub fn weight_of(&self, codes: &str) -> Result<WeightModel, EditError> {
        let absent = || EditError::NoWeight(codes.to_owned());
        let mut value = *self.named.get(codes).ok_or_else(absent)?;
        // A way that does not end is as long as the model.
        for _ in 0..self.model.nodes.len() {
            let position = *self.readers.get(&value).ok_or_else(absent)?;
            let node = &self.model.nodes[position];
            let output = node.outputs.first().copied().flatten().ok_or_else(absent)?;
            match node.op_type.as_str() {
                "DequantizeLinear" => return self.dequantized(output).ok_or_else(absent),
                "MatMulBnb4" => return self.multiplied(position, output).ok_or_else(absent),
                "BitShift" | "BitwiseAnd" | "BitwiseOr" | "Mul" | "Sub" | "Reshape" | "Cast" => value = output,
                _ => return Err(absent()),
            }
        }
        Err(absent())
    }

    fn dequantized(&self, output: Value) -> Option<WeightModel> {
        let &[in_features, out_features] = self.model.type_of(output).shape.sizes()?.as_slice() else { return None };
        Some(WeightModel { model: self.part(output, None), reading: Reading::Transposed { in_features, out_features } })
    }

    /// As if the flattened weight had rows of one block: blocks run on over the ends of rows anyway.
    fn multiplied(&self, position: usize, output: Value) -> Option<WeightModel> {
        let attribute = |name| match self.model.nodes[position].attribute(name)? {
            Attribute::Int(value) => usize::try_from(*value).ok().filter(|&value| value > 0),
            _ => None,
        };
        let (k, n, block_size) = (attribute("K")?, attribute("N")?, attribute("block_size")?);
        let blocks = k.checked_mul(n)?.div_ceil(block_size);
        let input = self.model.nodes[position].inputs.first().copied().flatten()?;
        let dtype = self.model.type_of(output).dtype;
        let axes = |last| [Dim::Known(1), Dim::Known(block_size), Dim::Known(last)];
        let mut model = self.part(output, Some(input));
        let identity = *model.inputs.first()?;
        model.values[identity.index()] = Typed { name: IDENTITY.to_owned(), ty: Type::new(dtype, axes(block_size)) };
        let output = model.outputs[0];
        model.values[output.index()].ty = Type::new(dtype, axes(blocks));
        let node = model.nodes.iter_mut().find(|node| node.outputs.contains(&Some(output)))?;
        set(node, "K", block_size);
        set(node, "N", blocks);
        Some(WeightModel { model, reading: Reading::OfIdentity { blocks, block_size } })
    }

    /// The part that makes `output`, with `input` as its only input where one is given.
    fn part(&self, output: Value, input: Option<Value>) -> Model {
        let mut part = Part { finder: self, places: HashMap::new(), values: Vec::new(), nodes: BTreeSet::new() };
        if let Some(input) = input {
            part.place(input);
        }
        let mut wanted = vec![output];
        while let Some(value) = wanted.pop() {
            part.place(value);
            let producer = self.producers.get(&value).filter(|_| Some(value) != input);
            if let Some(&position) = producer.filter(|&&position| part.nodes.insert(position)) {
                wanted.extend(self.model.nodes[position].inputs.iter().flatten().filter(|&&read| Some(read) != input));
            }
        }
        part.model(output, input)
    }
}

/// Values and nodes of a part while they are gathered.
struct Part<'f, 'm> {
    finder: &'f WeightFinder<'m>,
    places: HashMap<Value, Value>,
    values: Vec<Value>,
    nodes: BTreeSet<usize>,
}

impl Part<'_, '_> {
    /// Where a value lies in the part.
    fn place(&mut self, value: Value) -> Value {
        let next = Value(self.values.len() as u32);
        let place = *self.places.entry(value).or_insert(next);
        if place == next {
            self.values.push(value);
        }
        place
    }

    fn model(mut self, output: Value, input: Option<Value>) -> Model {
        let whole = self.finder.model;
        let nodes: Vec<Node> = std::mem::take(&mut self.nodes)
            .into_iter()
            .map(|position| {
                let mut node = whole.nodes[position].clone();
                for value in node.inputs.iter_mut().chain(&mut node.outputs).flatten() {
                    *value = self.place(*value);
                }
                node
            })
            .collect();
        let mut constants: Vec<usize> =
            self.values.iter().filter_map(|value| self.finder.initializers.get(value).copied()).collect();
        constants.sort_unstable();
        let initializer = |position: usize| {
            let Initializer { value, content } = &whole.initializers[position];
            Initializer { value: self.places[value], content: content.clone() }
        };
        Model {
            opset: whole.opset,
            ir_version: whole.ir_version,
            name: whole.name.clone(),
            values: self.values.iter().map(|value| whole.values[value.index()].clone()).collect(),
            initializers: constants.into_iter().map(initializer).collect(),
            inputs: input.iter().map(|value| self.places[value]).collect(),
            outputs: vec![self.places[&output]],
            nodes,
            metadata: Vec::new(),
        }
    }
}

fn set(node: &mut Node, name: &str, value: usize) {
    for (_, attribute) in node.attributes.iter_mut().filter(|(key, _)| key == name) {
        *attribute = Attribute::Int(value as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Bnb4, Bnb4Levels, Graph, Planes, QuantizedOperand};
    use crate::tensor::DType;

    /// `x` through a 3-bit weight and an NF4 one, then through a dense one.
    fn model() -> Model {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F16, ["batch".into(), 1.into(), 64.into()]));
        let planes = Planes { bits: 3, in_features: 64, out_features: 128, signed: true };
        let [low, high] = planes.shapes();
        let low = graph.declare("up.low", DType::U8, &low);
        let high = graph.declare("up.high", DType::U8, &high);
        let scales = graph.declare("up.scales", DType::F16, &[128]);
        let op = graph.at("up");
        let codes = op.from_planes(low, high, planes);
        let h = op.matmul(x, op.dequantize_linear(QuantizedOperand { codes, scales, zero_points: None }, None));
        let w = Bnb4 { in_features: 128, out_features: 6, block_size: 32, levels: Bnb4Levels::Fp4 };
        let codes = graph.declare("down", DType::U8, &[384]);
        let absmax = graph.declare("down.scales", DType::F16, &[24]);
        let h = graph.at("down").matmul_bnb4(h, codes, absmax, w);
        let dense = graph.declare("dense", DType::F16, &[6, 4]);
        let y = graph.at("dense").matmul(h, dense);
        graph.finish(&[y]).expect("the shapes fit")
    }

    #[test]
    fn planes_end_at_their_dequantize_linear() {
        let WeightModel { model, reading } = WeightFinder::new(&model()).weight_of("up.low").expect("it is quantized");
        assert_eq!(reading, Reading::Transposed { in_features: 64, out_features: 128 });
        assert!(model.inputs().is_empty());
        let last = model.nodes().last().expect("nodes are left");
        assert_eq!(
            (last.op_type.as_str(), model.type_of(model.outputs()[0]).to_string().as_str()),
            ("DequantizeLinear", "f16[64, 128]")
        );
        assert!(model.nodes().iter().all(|node| node.op_type != "MatMul"));
    }

    #[test]
    fn a_product_keeps_its_numbers_and_gets_another_shape() {
        let WeightModel { model, reading } = WeightFinder::new(&model()).weight_of("down").expect("it is quantized");
        assert_eq!(reading, Reading::OfIdentity { blocks: 24, block_size: 32 });
        let [node] = model.nodes() else { panic!("one node is left: {}", model.to_text()) };
        assert_eq!((node.attribute("K"), node.attribute("N")), (Some(&Attribute::Int(32)), Some(&Attribute::Int(24))));
        assert_eq!(node.attribute("block_size"), Some(&Attribute::Int(32)));
        assert_eq!(model.type_of(model.inputs()[0]).to_string(), "f16[1, 32, 32]");
        assert_eq!(model.type_of(model.outputs()[0]).to_string(), "f16[1, 32, 24]");
    }

    #[test]
    fn what_is_not_quantized_is_no_weight_of_codes() {
        for name in ["dense", "x", "absent"] {
            assert_eq!(WeightFinder::new(&model()).weight_of(name), Err(EditError::NoWeight(name.to_owned())));
        }
    }
}
