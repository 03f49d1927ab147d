//! One part of the model while its graph is written: a path, the graph, and what the planner wants of each weight.
//!
//! This file and [`super::quantized`] are the only ones that know how a weight lies in the artifact.

use std::cell::{Cell, RefCell};

use super::options::GraphForm;
use super::stored::{Order, StoredForm, StoredWeight, WeightForm};
use crate::onnx::{Graph, GraphCause, NBits, Ops, QuantizedOperand, Shape, Type, Value};
use crate::tensor::DType;

/// What all modules of one graph share.
pub(super) struct Build<'a> {
    pub graph: &'a Graph,
    /// Element type of activations.
    pub activation: DType,
    pub form: GraphForm,
    pub source: WeightSource<'a>,
    /// What each weight became, in the order of the graph.
    pub stored: RefCell<Vec<StoredWeight>>,
}

/// Where the weights of a graph come from.
#[derive(Clone, Copy)]
pub(super) enum WeightSource<'a> {
    /// Initializers of an artifact, each in the form that the planner wants of it.
    Initializers(&'a dyn Fn(&str) -> WeightForm),
    /// Inputs of the graph, f32, shaped as in the checkpoint; what the model asks for is noted.
    Survey(&'a Notes),
}

/// What a model asks for while its graph is written.
#[derive(Default)]
pub(super) struct Notes {
    /// Name and shape of each weight, in the order of the graph.
    pub weights: RefCell<Vec<(String, Vec<usize>)>>,
    pub linears: RefCell<Vec<NotedLinear>>,
    /// What the embedding gives.
    pub embedded: Cell<Option<Value>>,
}

/// `y = x Wᵀ (+ b)`, noted before any of its nodes is written.
#[derive(Debug, Clone)]
pub(super) struct NotedLinear {
    /// Its path in the model, `model.layers.0.self_attn.q_proj`.
    pub path: String,
    pub input: Value,
    pub in_features: usize,
    pub out_features: usize,
    pub bias: bool,
    /// How many nodes the graph had.
    pub nodes_before: usize,
}

/// A part of the model, named by its Hugging Face path.
pub(super) struct Module<'a> {
    build: &'a Build<'a>,
    path: String,
}

/// The embedding table, and the LM head where it is tied.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    /// `[vocab_size, hidden_size]` of the activation type.
    Dense(Value),
    /// Scales are `[vocab_size, groups, 1]` of the activation type.
    Packed { codes: Value, scales: Value, shape: NBits },
}

impl<'a> Module<'a> {
    pub fn root(build: &'a Build<'a>) -> Module<'a> {
        Module { build, path: String::new() }
    }

    pub fn child(&self, name: &str) -> Module<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Module { build: self.build, path }
    }

    pub fn op(&self) -> Ops<'_> {
        self.build.graph.at(&self.path)
    }

    /// `y = x Wᵀ (+ b)`: `[batch, sequence, in_features]` → `[batch, sequence, out_features]`.
    #[track_caller]
    pub fn linear(&self, name: &str, x: Value, out_features: usize, bias: bool) -> Value {
        let (m, op) = (self.child(name), self.op());
        let shape = [out_features, op.last_dim(x)];
        if let WeightSource::Survey(notes) = self.build.source {
            let (path, nodes_before, [out_features, in_features]) = (m.path.clone(), self.build.graph.nodes(), shape);
            notes.linears.borrow_mut().push(NotedLinear { path, input: x, in_features, out_features, bias, nodes_before });
            let y = m.op().matmul_transposed(x, m.given("weight", &shape));
            return if bias { m.op().add(y, m.vector("bias", out_features)) } else { y };
        }
        let y = match m.form("weight") {
            WeightForm::Dense(dtype) => m.op().matmul(x, m.dense("weight", &shape, dtype, Order::InOut)),
            WeightForm::Quantized(scheme) => m.quantized(x, shape, scheme, 0),
            WeightForm::Outliers { scheme, outliers } => m.quantized(x, shape, scheme, outliers),
        };
        if bias { m.op().add(y, m.vector("bias", out_features)) } else { y }
    }

    /// As [`Self::linear`], of several at once, whose outputs follow each other: one product, named `name`. `None` where the graph's form
    /// has none, or the weights are not stored alike.
    #[track_caller]
    pub fn fused_linears(&self, name: &str, parts: &[(&str, usize)], x: Value) -> Option<Value> {
        if self.build.form != GraphForm::MatMulNBits {
            return None;
        }
        let forms: Vec<WeightForm> = parts.iter().map(|(part, _)| self.child(part).form("weight")).collect();
        match forms[0] {
            WeightForm::Quantized(scheme) if forms.iter().all(|form| *form == forms[0]) => self.fused(name, parts, x, scheme),
            _ => None,
        }
    }

    /// `x / rms(x) ⊙ weight`, in f32 inside. Written in ONNX's own operators, which ONNX Runtime fuses to
    /// SimplifiedLayerNormalization: that operator sits in ONNX's domain without being part of it, so `onnx.checker`
    /// refuses it.
    #[track_caller]
    pub fn rms_norm(&self, name: &str, x: Value, epsilon: f64) -> Value {
        let m = self.child(name);
        let (op, graph) = (m.op(), self.build.graph);
        let weight = m.vector("weight", op.last_dim(x));
        if self.build.form == GraphForm::Portable {
            return op.rms_normalization(x, weight, epsilon as f32);
        }
        let x = op.cast(x, DType::F32);
        let mean_square = op.mean_of_last(op.pow(x, graph.shared_f32(2.0)));
        let rms = op.sqrt(op.add(mean_square, graph.shared_f32(epsilon as f32)));
        op.mul(op.cast(op.div(x, rms), self.build.activation), weight)
    }

    /// `(rms_norm(x + delta), x + delta)`, in one operator where there is one.
    #[track_caller]
    pub fn add_rms_norm(&self, name: &str, x: Value, delta: Value, epsilon: f64) -> (Value, Value) {
        if self.build.form == GraphForm::Portable {
            let sum = self.op().add(x, delta);
            return (self.rms_norm(name, sum, epsilon), sum);
        }
        let m = self.child(name);
        let weight = m.vector("weight", m.op().last_dim(x));
        m.op().skip_simplified_layer_normalization(x, delta, weight, epsilon as f32)
    }

    /// [`Self::rms_norm`] of each head, with one weight `[head_dim]` for all: `[batch, sequence, heads · head_dim]`, shape kept.
    #[track_caller]
    pub fn head_norm(&self, name: &str, x: Value, head_dim: usize, epsilon: f64) -> Value {
        let (m, width) = (self.child(name), self.op().last_dim(x));
        let heads = m.op().reshape(x, &[0, 0, width / head_dim, head_dim]);
        m.op().reshape(self.rms_norm(name, heads, epsilon), &[0, 0, width])
    }

    /// The embedding table `[vocab_size, hidden_size]`, stored so that rows can be looked up and the LM head can share it.
    #[track_caller]
    pub fn table(&self, name: &str, vocab_size: usize, hidden_size: usize) -> Table {
        let (m, shape) = (self.child(name), [vocab_size, hidden_size]);
        match m.form("weight") {
            WeightForm::Dense(dtype) => Table::Dense(m.dense("weight", &shape, dtype, Order::OutIn)),
            WeightForm::Quantized(_) if self.build.form == GraphForm::Portable => Table::Dense(m.refuse(
                "table",
                "embedding",
                "f16 in the portable form: ONNX looks no packed rows up",
                "a quantized table",
            )),
            WeightForm::Quantized(scheme) => m.packed_table(shape, scheme),
            WeightForm::Outliers { .. } => {
                Table::Dense(m.refuse("table", "outliers", "none in the embedding table, which is no product", "some"))
            }
        }
    }

    /// Rows of the table: `ids [batch, sequence]` → `[batch, sequence, hidden_size]`.
    #[track_caller]
    pub fn rows(&self, table: Table, ids: Value) -> Value {
        let op = self.op();
        let rows = match table {
            Table::Dense(table) => op.gather(table, ids),
            Table::Packed { codes, scales, shape } if self.build.form == GraphForm::MatMulNBits && shape.bits == 8 => {
                self.dequantized_rows(codes, scales, shape, ids)
            }
            Table::Packed { codes, scales, shape } => {
                let rows = op.gather_block_quantized(QuantizedOperand { codes, scales, zero_points: None }, ids, shape);
                op.reshape(rows, &[0, 0, shape.in_features]) // [batch, sequence, groups, group_size] before
            }
        };
        if let WeightSource::Survey(notes) = self.build.source {
            notes.embedded.set(Some(rows));
        }
        rows
    }

    /// Rows of a table of bytes by operators that every runtime has: browsers' ONNX Runtime has no GatherBlockQuantized.
    #[track_caller]
    fn dequantized_rows(&self, codes: Value, scales: Value, shape: NBits, ids: Value) -> Value {
        let (op, activation) = (self.op(), self.build.activation);
        // Codes are stored with 128 added.
        let zero = op.cast(self.build.graph.shared_f32(128.0), activation);
        let codes = op.sub(op.cast(op.gather(codes, ids), activation), zero); // [batch, sequence, groups, group_size]
        op.reshape(op.mul(codes, op.gather(scales, ids)), &[0, 0, shape.in_features])
    }

    /// The tied LM head: `x [batch, sequence, hidden_size]` → `[batch, sequence, vocab_size]`.
    #[track_caller]
    pub fn project(&self, table: Table, x: Value) -> Value {
        let op = self.op();
        match table {
            Table::Dense(table) if self.build.form == GraphForm::Portable => op.gemm_transposed(x, table),
            Table::Dense(table) => op.matmul_transposed(x, table),
            Table::Packed { codes, scales, shape } => {
                let scales = op.reshape(scales, &[shape.out_features, shape.blocks()]);
                op.matmul_n_bits(x, QuantizedOperand { codes, scales, zero_points: None }, shape)
            }
        }
    }

    /// A weight that is an input of the graph, as activation type.
    #[track_caller]
    fn given(&self, name: &str, shape: &[usize]) -> Value {
        let weight = format!("{}.{name}", self.path);
        let w = self.build.graph.input(&weight, Type::new(DType::F32, Shape::known(shape)));
        if let WeightSource::Survey(notes) = self.build.source {
            notes.weights.borrow_mut().push((weight, shape.to_vec()));
        }
        self.op().cast(w, self.build.activation)
    }

    /// A dense vector of the checkpoint (norm weight, bias), as activation type.
    #[track_caller]
    fn vector(&self, name: &str, size: usize) -> Value {
        match self.form(name) {
            WeightForm::Dense(dtype) => self.dense(name, &[size], dtype, Order::OutIn),
            _ => self.refuse("vector", "weight form", "dense for norms and biases", "quantized"),
        }
    }

    fn form(&self, name: &str) -> WeightForm {
        match self.build.source {
            WeightSource::Initializers(form) => form(&format!("{}.{name}", self.path)),
            WeightSource::Survey(_) => WeightForm::Dense(DType::F32),
        }
    }

    /// A weight stored as it is; `shape` is the checkpoint's, `order` the artifact's.
    #[track_caller]
    fn dense(&self, name: &str, shape: &[usize], dtype: DType, order: Order) -> Value {
        if let WeightSource::Survey(_) = self.build.source {
            return self.given(name, shape);
        }
        let initializer = format!("{}.{name}", self.path);
        let stored_shape: Vec<usize> = match order {
            Order::OutIn => shape.to_vec(),
            Order::InOut => shape.iter().rev().copied().collect(),
        };
        let w = self.build.graph.declare(&initializer, dtype, &stored_shape);
        self.store(initializer.clone(), shape, StoredForm::Dense { initializer, dtype, order });
        self.op().cast(w, self.build.activation) // folded when a session is created
    }

    /// Full name of one of this module's initializers.
    pub(super) fn initializer(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// An initializer whose bytes arrive later.
    #[track_caller]
    pub(super) fn declare(&self, name: &str, dtype: DType, shape: &[usize]) -> Value {
        self.build.graph.declare(name, dtype, shape)
    }

    pub(super) fn graph_form(&self) -> GraphForm {
        self.build.form
    }

    pub(super) fn activation(&self) -> DType {
        self.build.activation
    }

    pub(super) fn store(&self, weight: String, shape: &[usize], form: StoredForm) {
        self.build.stored.borrow_mut().push(StoredWeight { weight, shape: shape.to_vec(), form });
    }

    #[track_caller]
    pub(super) fn refuse(&self, op: &'static str, name: &'static str, expected: &str, got: &str) -> Value {
        let cause = GraphCause::Attribute { name, expected: expected.to_owned(), got: got.to_owned() };
        self.build.graph.refuse(&self.path, op, cause)
    }
}
