//! Building a graph: every operator checks its operands and infers its result at insertion.
//!
//! A failed check is sticky: the first [`GraphError`] is kept with the module path and the caller's line, later
//! operators do nothing, and [`Graph::finish`] returns it. Model code therefore carries no `?` and reads as mathematics.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::panic::Location;

use super::ir::{Attribute, Content, Domain, Initializer, Model, Node, Shape, Type, Typed, Value};
use super::ops::Ops;
use crate::fault::Fault;
use crate::tensor::DType;

/// The first thing that did not fit, and where.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {op}: {cause}")]
pub struct GraphError {
    /// Path of the module that was being written, `model.layers.3.self_attn.q_proj`.
    pub path: String,
    /// Operator or step that refused.
    pub op: &'static str,
    pub location: &'static Location<'static>,
    pub cause: GraphCause,
}

impl GraphError {
    /// Sizes and schemes come from configuration and recipe, so they are what is wrong.
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}

/// Why an operator was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphCause {
    #[error("{operand} must be {expected}, got {got}")]
    DType { operand: &'static str, expected: String, got: DType },
    #[error("{operand} must have shape {expected}, got {got}")]
    Shape { operand: &'static str, expected: String, got: Shape },
    #[error("{name} must be {expected}, got {got}")]
    Attribute { name: &'static str, expected: String, got: String },
    #[error("shapes {left} and {right} do not broadcast")]
    Broadcast { left: Shape, right: Shape },
    #[error("the name {0} is taken; give every value its own")]
    DuplicateName(String),
    #[error("constant {name} of type {ty} holds {expected} bytes, got {got}")]
    ConstantBytes { name: String, ty: Type, expected: usize, got: usize },
}

/// A graph under construction.
pub struct Graph {
    state: RefCell<State>,
}

struct State {
    model: Model,
    names: HashSet<String>,
    /// How often each automatic name was used.
    counts: HashMap<String, usize>,
    constants: HashMap<(DType, Shape, Vec<u8>), Value>,
    error: Option<GraphError>,
}

/// Operators that came with version 23 of ONNX's set.
const SINCE_23: [&str; 3] = ["RMSNormalization", "RotaryEmbedding", "Attention"];

/// What every operator returns once the graph has failed; nobody looks at it.
const FAILED: Value = Value(u32::MAX);

impl Graph {
    pub fn new(name: &str) -> Graph {
        let model = Model {
            opset: 0,
            ir_version: 0,
            name: name.to_owned(),
            values: Vec::new(),
            initializers: Vec::new(),
            inputs: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            metadata: Vec::new(),
        };
        let (names, counts, constants) = (HashSet::new(), HashMap::new(), HashMap::new());
        Graph { state: RefCell::new(State { model, names, counts, constants, error: None }) }
    }

    /// Operators whose nodes are named after the module `path`.
    pub fn at<'g>(&'g self, path: &'g str) -> Ops<'g> {
        Ops::new(self, path)
    }

    /// A graph input.
    #[track_caller]
    pub fn input(&self, name: &str, ty: Type) -> Value {
        self.guarded(name, "input", Location::caller(), |state| {
            let value = state.value(name, ty)?;
            state.model.inputs.push(value);
            Ok(value)
        })
    }

    /// A constant whose bytes arrive later, by its name.
    #[track_caller]
    pub fn declare(&self, name: &str, dtype: DType, shape: &[usize]) -> Value {
        self.initializer(name, Type::new(dtype, Shape::known(shape)), Content::Declared, Location::caller())
    }

    /// A constant known now; little-endian, row-major.
    #[track_caller]
    pub fn constant(&self, name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Value {
        self.initializer(name, Type::new(dtype, Shape::known(shape)), Content::Inline(bytes), Location::caller())
    }

    /// A small integer constant named after its value and shared by all who ask for it.
    #[track_caller]
    pub fn shared_i64(&self, shape: &[usize], values: &[i64]) -> Value {
        let list: Vec<String> = values.iter().map(i64::to_string).collect();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.shared(&list.join("_"), DType::I64, shape, bytes, Location::caller())
    }

    /// A scalar constant named after its value and shared by all who ask for it.
    #[track_caller]
    pub fn shared_f32(&self, value: f32) -> Value {
        self.shared(&format!("{value:e}"), DType::F32, &[], value.to_le_bytes().to_vec(), Location::caller())
    }

    /// As [`Self::shared_i64`], of bytes.
    #[track_caller]
    pub fn shared_u8(&self, shape: &[usize], values: &[u8]) -> Value {
        let list: Vec<String> = values.iter().map(u8::to_string).collect();
        self.shared(&list.join("_"), DType::U8, shape, values.to_vec(), Location::caller())
    }

    /// A constant with a name of its own, shared by all who ask for it.
    #[track_caller]
    pub fn shared_table(&self, label: &str, values: &[f32]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.shared(label, DType::F32, &[values.len()], bytes, Location::caller())
    }

    /// Element type and shape of a value; `None` once the graph has failed.
    pub fn type_of(&self, value: Value) -> Option<Type> {
        let state = self.state.borrow();
        if state.error.is_some() { None } else { Some(state.model.type_of(value).clone()) }
    }

    /// How many nodes there are by now.
    pub fn nodes(&self) -> usize {
        self.state.borrow().model.nodes.len()
    }

    /// Gives a computed value a name by which users of the artifact find it.
    #[track_caller]
    pub fn rename(&self, value: Value, name: &str) -> Value {
        self.guarded(name, "name", Location::caller(), |state| {
            state.take_name(name)?;
            let old = std::mem::replace(&mut state.model.values[value.index()].name, name.to_owned());
            state.names.remove(&old);
            Ok(value)
        })
    }

    /// Refuses what a module was asked to do: `what` must be `expected`.
    #[track_caller]
    pub fn refuse(&self, path: &str, op: &'static str, cause: GraphCause) -> Value {
        self.guarded(path, op, Location::caller(), |_| Err(cause))
    }

    /// The model with these outputs, in order; or the first thing that did not fit.
    pub fn finish(self, outputs: &[Value]) -> Result<Model, GraphError> {
        let State { mut model, error, .. } = self.state.into_inner();
        if let Some(error) = error {
            return Err(error);
        }
        model.outputs = outputs.to_vec();
        let two_bit = model.values.iter().any(|value| matches!(value.ty.dtype, DType::I2 | DType::U2));
        let is_of_23 = |node: &Node| node.domain == Domain::Onnx && SINCE_23.contains(&node.op_type.as_str());
        // 2-bit element types exist from opset 25 on; everything else keeps the opset that most runtimes read.
        (model.opset, model.ir_version) = match model.nodes.iter().any(is_of_23) {
            _ if two_bit => (25, 13),
            true => (23, 11),
            false => (21, 10),
        };
        Ok(model)
    }

    /// Inserts one node; `infer` gets the types of the inputs that are present, in order, and gives those of the outputs.
    pub(super) fn insert<const N: usize>(
        &self,
        path: &str,
        op: NewNode,
        location: &'static Location<'static>,
        infer: impl FnOnce(&[Type]) -> Result<[Option<Type>; N], GraphCause>,
    ) -> [Value; N] {
        let mut state = self.state.borrow_mut();
        if state.error.is_some() {
            return [FAILED; N];
        }
        let op_type = op.op_type;
        match state.insert(path, op, infer) {
            Ok(values) => values,
            Err(cause) => {
                state.error = Some(GraphError { path: path.to_owned(), op: op_type, location, cause });
                [FAILED; N]
            }
        }
    }

    fn shared(&self, label: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>, location: &'static Location<'static>) -> Value {
        let key = (dtype, Shape::known(shape), bytes);
        if let Some(&value) = self.state.borrow().constants.get(&key) {
            return value;
        }
        let rank = if shape.is_empty() { "scalar" } else { "vector" };
        let name = format!("constant.{dtype}.{rank}.{label}");
        let ty = Type { dtype, shape: key.1.clone() };
        let value = self.initializer(&name, ty, Content::Inline(key.2.clone()), location);
        self.state.borrow_mut().constants.insert(key, value);
        value
    }

    fn initializer(&self, name: &str, ty: Type, content: Content, location: &'static Location<'static>) -> Value {
        self.guarded(name, "initializer", location, |state| {
            let value = state.value(name, ty.clone())?;
            let initializer = Initializer { value, content };
            let expected = state.model.initializer_bytes(&initializer);
            match &initializer.content {
                Content::Inline(bytes) if bytes.len() != expected => {
                    return Err(GraphCause::ConstantBytes { name: name.to_owned(), ty, expected, got: bytes.len() });
                }
                _ => state.model.initializers.push(initializer),
            }
            Ok(value)
        })
    }

    fn guarded(
        &self,
        path: &str,
        op: &'static str,
        location: &'static Location<'static>,
        step: impl FnOnce(&mut State) -> Result<Value, GraphCause>,
    ) -> Value {
        let mut state = self.state.borrow_mut();
        if state.error.is_some() {
            return FAILED;
        }
        step(&mut state).unwrap_or_else(|cause| {
            state.error = Some(GraphError { path: path.to_owned(), op, location, cause });
            FAILED
        })
    }
}

/// A node before it has outputs.
pub(super) struct NewNode {
    pub op_type: &'static str,
    pub domain: Domain,
    pub inputs: Vec<Option<Value>>,
    pub attributes: Vec<(&'static str, Attribute)>,
}

impl State {
    fn insert<const N: usize>(
        &mut self,
        path: &str,
        op: NewNode,
        infer: impl FnOnce(&[Type]) -> Result<[Option<Type>; N], GraphCause>,
    ) -> Result<[Value; N], GraphCause> {
        let operands: Vec<Type> = op.inputs.iter().flatten().map(|&value| self.model.type_of(value).clone()).collect();
        let types = infer(&operands)?;
        let name = self.automatic_name(path, op.op_type);
        let mut outputs = Vec::with_capacity(N);
        for (index, ty) in types.into_iter().enumerate() {
            let Some(ty) = ty else {
                outputs.push(None);
                continue;
            };
            let output = if index == 0 { name.clone() } else { format!("{name}.{index}") };
            outputs.push(Some(self.value(&output, ty)?));
        }
        let values = std::array::from_fn(|index| outputs[index].unwrap_or(FAILED));
        let attributes = op.attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let op_type = op.op_type.to_owned();
        self.model.nodes.push(Node { name, domain: op.domain, op_type, inputs: op.inputs, outputs, attributes });
        Ok(values)
    }

    fn value(&mut self, name: &str, ty: Type) -> Result<Value, GraphCause> {
        self.take_name(name)?;
        self.model.values.push(Typed { name: name.to_owned(), ty });
        Ok(Value((self.model.values.len() - 1) as u32))
    }

    fn take_name(&mut self, name: &str) -> Result<(), GraphCause> {
        if self.names.insert(name.to_owned()) { Ok(()) } else { Err(GraphCause::DuplicateName(name.to_owned())) }
    }

    /// `path/Op`, then `path/Op.2`, ….
    fn automatic_name(&mut self, path: &str, op_type: &str) -> String {
        let base = format!("{path}/{op_type}");
        let count = self.counts.entry(base.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count == 1 { base } else { format!("{base}_{count}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Dim, GroupQueryAttention, NBits, QuantizedOperand};

    /// What `write` makes of `x [batch, sequence, 32]` in f32, `w [32, 8]` in f32, `ids [batch, sequence]` in int64 and
    /// int4 `codes [32, 8]`: the type of the result, or the message without its place.
    fn outcome(write: impl FnOnce(&Graph, Ops<'_>, [Value; 4]) -> Value) -> String {
        let graph = Graph::new("test");
        let tokens = || ["batch".into(), "sequence".into()];
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), "sequence".into(), 32.into()]));
        let w = graph.declare("w", DType::F32, &[32, 8]);
        let ids = graph.input("ids", Type::new(DType::I64, tokens()));
        let codes = graph.declare("codes", DType::I4, &[32, 8]);
        let y = write(&graph, graph.at("part"), [x, w, ids, codes]);
        match graph.finish(&[y]) {
            Ok(model) => model.type_of(y).to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn operators_infer_types() {
        assert_eq!(outcome(|_, op, [x, w, ..]| op.matmul(x, w)), "f32[batch, sequence, 8]");
        assert_eq!(outcome(|_, op, [_, w, ids, _]| op.gather(w, ids)), "f32[batch, sequence, 8]");
        assert_eq!(outcome(|_, op, [x, ..]| op.silu(x)), "f32[batch, sequence, 32]");
        assert_eq!(outcome(|_, op, [x, ..]| op.mean_of_last(x)), "f32[batch, sequence, 1]");
        assert_eq!(outcome(|_, op, [x, ..]| op.add(x, op.mean_of_last(x))), "f32[batch, sequence, 32]");
        assert_eq!(outcome(|_, op, [_, _, ids, _]| op.reduce_sum(ids, 1)), "int64[batch]");
        assert_eq!(outcome(|_, op, [x, ..]| op.shape_of(x)), "int64[3]");
        assert_eq!(outcome(|_, op, [x, ..]| op.cast(x, DType::F16)), "f16[batch, sequence, 32]");
        assert_eq!(outcome(|_, op, [x, ..]| op.reshape(x, &[0, 0, 4, 8])), "f32[batch, sequence, 4, 8]");
        assert_eq!(
            outcome(|g, op, [x, ..]| op.matmul_transposed(x, g.declare("t", DType::F32, &[9, 32]))),
            "f32[batch, sequence, 9]"
        );
    }

    #[test]
    fn operators_refuse_operands_that_do_not_fit() {
        let wide = |g: &Graph| g.declare("wide", DType::F32, &[33, 8]);
        let expected = "part: MatMul: w must have shape [32, n], got [33, 8]";
        assert_eq!(outcome(|g, op, [x, ..]| op.matmul(x, wide(g))), expected);
        let expected = "part: FusedMatMul: w must have shape [n, 32], got [33, 8]";
        assert_eq!(outcome(|g, op, [x, ..]| op.matmul_transposed(x, wide(g))), expected);
        let half = |g: &Graph| g.declare("half", DType::F16, &[32]);
        assert_eq!(outcome(|g, op, [x, ..]| op.mul(x, half(g))), "part: Mul: b must be f32, got f16");
        let expected = "part: Add: shapes [batch, sequence, 32] and [33, 8] do not broadcast";
        assert_eq!(outcome(|g, op, [x, ..]| op.add(x, wide(g))), expected);
        assert_eq!(outcome(|_, op, [x, w, ..]| op.gather(w, x)), "part: Gather: indices must be int32 or int64, got f32");
        let expected = "part: Sigmoid: x must be f32, f16 or bf16, got int64";
        assert_eq!(outcome(|_, op, [_, _, ids, _]| op.sigmoid(ids)), expected);
        let expected = "part: Reshape: x must have shape as many elements as [batch, 64], got [batch, sequence, 32]";
        assert_eq!(outcome(|_, op, [x, ..]| op.reshape(x, &[0, 64])), expected);
        let expected = "part: last_dim: x must have shape […, a known size], got [batch, sequence]";
        let zero = |g: &Graph, op: Ops<'_>, ids| g.declare("sized", DType::F32, &[op.last_dim(ids)]);
        assert_eq!(outcome(|g, op, [_, _, ids, _]| zero(g, op, ids)), expected);
    }

    #[test]
    fn dequantization_checks_scales_and_zero_points() {
        let dequantize = |scales: (DType, Vec<usize>), zero_points: Option<(DType, Vec<usize>)>, block_size| {
            outcome(|g, op, [_, _, _, codes]| {
                let scales = g.declare("scales", scales.0, &scales.1);
                let zero_points = zero_points.map(|(dtype, shape)| g.declare("zero_points", dtype, &shape));
                op.dequantize_linear(QuantizedOperand { codes, scales, zero_points }, block_size)
            })
        };
        assert_eq!(dequantize((DType::F16, vec![2, 8]), None, Some(16)), "f16[32, 8]");
        assert_eq!(dequantize((DType::F32, vec![2, 8]), Some((DType::I4, vec![2, 8])), Some(24)), "f32[32, 8]");
        assert_eq!(dequantize((DType::F16, vec![8]), None, None), "f16[32, 8]");
        let expected = "part: DequantizeLinear: scales must have shape [2, 8], got [8, 2]";
        assert_eq!(dequantize((DType::F16, vec![8, 2]), None, Some(16)), expected);
        let expected = "part: DequantizeLinear: zero_points must be int4, got uint4";
        assert_eq!(dequantize((DType::F16, vec![2, 8]), Some((DType::U4, vec![2, 8])), Some(16)), expected);
        let expected = "part: DequantizeLinear: scales must be f32, f16 or bf16, got int8";
        assert_eq!(dequantize((DType::I8, vec![8]), None, None), expected);
    }

    #[test]
    fn packed_weights_check_their_blocks() {
        let multiply = |n: NBits, blocks: usize| {
            outcome(|g, op, [x, ..]| {
                let codes = g.declare("packed", DType::U8, &n.packed_shape());
                let scales = g.declare("scales", DType::F32, &[n.out_features, blocks]);
                op.matmul_n_bits(x, QuantizedOperand { codes, scales, zero_points: None }, n)
            })
        };
        let n = NBits { bits: 4, block_size: 16, in_features: 32, out_features: 10 };
        assert_eq!(n.packed_shape(), [10, 2, 8]);
        assert_eq!(multiply(n, 2), "f32[batch, sequence, 10]");
        assert_eq!(multiply(n, 3), "part: MatMulNBits: scales must have shape [10, 2], got [10, 3]");
        let wide = NBits { in_features: 64, ..n };
        assert_eq!(multiply(wide, 4), "part: MatMulNBits: x must have shape […, 64], got [batch, sequence, 32]");
        let expected = "part: MatMulNBits: block_size must be a power of two from 16 to 256, got 8";
        assert_eq!(multiply(NBits { block_size: 8, ..n }, 4), expected);
        assert_eq!(multiply(NBits { bits: 3, ..n }, 2), "part: MatMulNBits: bits must be 2, 4 or 8, got 3");
    }

    #[test]
    fn attention_checks_heads_and_cache() {
        let attend = |num_heads: usize, kv_num_heads: usize, past_heads: usize| {
            outcome(|g, op, [x, ..]| {
                let rows = |name: &str, dims: [Dim; 4]| g.input(name, Type::new(DType::F32, dims));
                let past = |name| rows(name, ["batch".into(), past_heads.into(), "past".into(), 16.into()]);
                let (past_key, past_value) = (past("past_key"), past("past_value"));
                let seqlens_k = g.input("seqlens_k", Type::new(DType::I32, ["batch".into()]));
                let total_sequence_length = g.input("total", Type::new(DType::I32, Shape::default()));
                let table = |name| g.declare(name, DType::F32, &[64, 8]);
                let (cos_cache, sin_cache) = (table("cos"), table("sin"));
                let operands = GroupQueryAttention {
                    query: x,
                    key_value: Some([x, x]),
                    past: Some([past_key, past_value]),
                    seqlens_k,
                    total_sequence_length,
                    cos_cache,
                    sin_cache,
                    num_heads,
                    kv_num_heads,
                    window: None,
                };
                op.group_query_attention(operands, "total".into())[1]
            })
        };
        assert_eq!(attend(2, 2, 2), "f32[batch, 2, total, 16]");
        let expected = "part: GroupQueryAttention: past_key must have shape [batch, 2, past, 16], got [batch, 3, past, 16]";
        assert_eq!(attend(2, 2, 3), expected);
        let expected = "part: GroupQueryAttention: key must have shape [batch, sequence, 16], got [batch, sequence, 32]";
        assert_eq!(attend(2, 1, 1), expected);
        let expected =
            "part: GroupQueryAttention: num_heads must be a multiple of kv_num_heads and a divisor of query's width, got 3";
        assert_eq!(attend(3, 1, 1), expected);
        let expected = "part: GroupQueryAttention: head_dim must be a multiple of 16, for in-operator rotary positions, got 8";
        assert_eq!(attend(4, 4, 4), expected);
    }

    #[test]
    fn the_first_failure_stays_with_its_path_and_line() {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), 4.into()]));
        let w = graph.declare("w", DType::F32, &[5, 2]);
        let (y, line) = (graph.at("first").matmul(x, w), line!());
        let y = graph.at("second").matmul(graph.at("second").silu(y), w);
        assert_eq!(graph.type_of(y), None);
        let error = graph.finish(&[y]).expect_err("4 is not 5");
        assert_eq!((error.path.as_str(), error.op, error.location.line()), ("first", "MatMul", line));
        assert!(error.location.file().ends_with("graph.rs") && error.fault() == Fault::BadInput);
    }

    #[test]
    fn names_are_given_once() {
        let expected = "w: initializer: the name w is taken; give every value its own";
        assert_eq!(outcome(|g, _, _| g.declare("w", DType::F32, &[1])), expected);
        let expected = "ids: name: the name ids is taken; give every value its own";
        assert_eq!(outcome(|g, op, [x, ..]| g.rename(op.silu(x), "ids")), expected);
        let expected = "c: initializer: constant c of type int4[3] holds 2 bytes, got 3";
        assert_eq!(outcome(|g, _, _| g.constant("c", DType::I4, &[3], vec![0; 3])), expected);
    }

    #[test]
    fn small_constants_are_shared_and_repeated_operators_are_numbered() {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F32, [4.into()]));
        assert_eq!(graph.shared_f32(2.0), graph.shared_f32(2.0));
        assert_ne!(graph.shared_i64(&[], &[1]), graph.shared_i64(&[1], &[1]));
        let y = graph.at("m").silu(graph.at("m").silu(x));
        let model = graph.finish(&[y]).expect("the shapes fit");
        let names: Vec<&str> = model.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["m/Sigmoid", "m/Mul", "m/Sigmoid_2", "m/Mul_2"]);
        assert_eq!((model.opset(), model.ir_version()), (21, 10));
    }
}
