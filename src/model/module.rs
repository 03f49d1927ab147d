//! One part of the model while its graph is written: a path, the graph, and what the planner wants of each weight.
//!
//! This is the only file that knows how a weight lies in the artifact.

use std::cell::RefCell;

use super::stored::{CodeLayout, Order, StoredForm, StoredWeight, WeightForm};
use crate::onnx::{Graph, GraphCause, NBits, Ops, QuantizedOperand, Shape, Type, Value};
use crate::quant::{Granularity, Scheme};
use crate::tensor::DType;

/// What all modules of one graph share.
pub(super) struct Build<'a> {
    pub graph: &'a Graph,
    /// Element type of activations.
    pub activation: DType,
    pub source: Source<'a>,
    /// What each weight became, in the order of the graph.
    pub stored: RefCell<Vec<StoredWeight>>,
}

/// Where the weights of a graph come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// Initializers of an artifact, each in the form that the planner wants of it.
    Initializers(&'a dyn Fn(&str) -> WeightForm),
    /// Inputs of the graph, f32, shaped as in the checkpoint: whoever runs it gives them anew for every layer.
    Inputs,
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
        if let Source::Inputs = self.build.source {
            let y = m.op().matmul_transposed(x, m.given("weight", &shape));
            return if bias { m.op().add(y, m.vector("bias", out_features)) } else { y };
        }
        let w = match m.form("weight") {
            WeightForm::Dense(dtype) => m.dense("weight", &shape, dtype, Order::InOut),
            WeightForm::Quantized(scheme) => m.dequantized("weight", shape, scheme),
        };
        let y = m.op().matmul(x, w);
        if bias { m.op().add(y, m.vector("bias", out_features)) } else { y }
    }

    /// `x / rms(x) ⊙ weight`, in f32 inside. Written in ONNX's own operators, which ONNX Runtime fuses to
    /// SimplifiedLayerNormalization: that operator sits in ONNX's domain without being part of it, so `onnx.checker`
    /// refuses it.
    #[track_caller]
    pub fn rms_norm(&self, name: &str, x: Value, epsilon: f64) -> Value {
        let m = self.child(name);
        let (op, graph) = (m.op(), self.build.graph);
        let weight = m.vector("weight", op.last_dim(x));
        let x = op.cast(x, DType::F32);
        let mean_square = op.mean_of_last(op.pow(x, graph.shared_f32(2.0)));
        let rms = op.sqrt(op.add(mean_square, graph.shared_f32(epsilon as f32)));
        op.mul(op.cast(op.div(x, rms), self.build.activation), weight)
    }

    /// `(rms_norm(x + delta), x + delta)` in one operator.
    #[track_caller]
    pub fn add_rms_norm(&self, name: &str, x: Value, delta: Value, epsilon: f64) -> (Value, Value) {
        let m = self.child(name);
        let weight = m.vector("weight", m.op().last_dim(x));
        m.op().skip_simplified_layer_normalization(x, delta, weight, epsilon as f32)
    }

    /// The embedding table `[vocab_size, hidden_size]`, stored so that rows can be looked up and the LM head can share it.
    #[track_caller]
    pub fn table(&self, name: &str, vocab_size: usize, hidden_size: usize) -> Table {
        let (m, shape) = (self.child(name), [vocab_size, hidden_size]);
        match m.form("weight") {
            WeightForm::Dense(dtype) => Table::Dense(m.dense("weight", &shape, dtype, Order::OutIn)),
            WeightForm::Quantized(scheme) => m.packed_table("weight", shape, scheme),
        }
    }

    /// Rows of the table: `ids [batch, sequence]` → `[batch, sequence, hidden_size]`.
    #[track_caller]
    pub fn rows(&self, table: Table, ids: Value) -> Value {
        let op = self.op();
        match table {
            Table::Dense(table) => op.gather(table, ids),
            Table::Packed { codes, scales, shape } => {
                let rows = op.gather_block_quantized(QuantizedOperand { codes, scales, zero_points: None }, ids, shape);
                op.reshape(rows, &[0, 0, shape.in_features]) // [batch, sequence, groups, group_size] before
            }
        }
    }

    /// The tied LM head: `x [batch, sequence, hidden_size]` → `[batch, sequence, vocab_size]`.
    #[track_caller]
    pub fn project(&self, table: Table, x: Value) -> Value {
        let op = self.op();
        match table {
            Table::Dense(table) => op.matmul_transposed(x, table),
            Table::Packed { codes, scales, shape } => {
                let scales = op.reshape(scales, &[shape.out_features, shape.blocks()]);
                op.matmul_n_bits(x, codes, scales, shape)
            }
        }
    }

    /// A weight that is an input of the graph, as activation type.
    #[track_caller]
    fn given(&self, name: &str, shape: &[usize]) -> Value {
        let w = self.build.graph.input(&format!("{}.{name}", self.path), Type::new(DType::F32, Shape::known(shape)));
        self.op().cast(w, self.build.activation)
    }

    /// A dense vector of the checkpoint (norm weight, bias), as activation type.
    #[track_caller]
    fn vector(&self, name: &str, size: usize) -> Value {
        match self.form(name) {
            WeightForm::Dense(dtype) => self.dense(name, &[size], dtype, Order::OutIn),
            WeightForm::Quantized(_) => self.refuse("vector", "weight form", "dense for norms and biases", "quantized"),
        }
    }

    fn form(&self, name: &str) -> WeightForm {
        match self.build.source {
            Source::Initializers(form) => form(&format!("{}.{name}", self.path)),
            Source::Inputs => WeightForm::Dense(DType::F32),
        }
    }

    /// A weight stored as it is; `shape` is the checkpoint's, `order` the artifact's.
    #[track_caller]
    fn dense(&self, name: &str, shape: &[usize], dtype: DType, order: Order) -> Value {
        if let Source::Inputs = self.build.source {
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

    /// A quantized linear's weight as standard DequantizeLinear: `[in_features, out_features]`.
    #[track_caller]
    fn dequantized(&self, name: &str, shape: [usize; 2], scheme: Scheme) -> Value {
        let [out_features, in_features] = shape;
        let bits = scheme.format.bits();
        if bits == 2 && !out_features.is_multiple_of(4) {
            // ONNX Runtime 1.31 and 1.32 fuse such weights to wrong numbers without a word.
            return self.refuse("linear", "out_features", "a multiple of 4 with 2-bit codes", &out_features.to_string());
        }
        let block_size = match scheme.granularity {
            Granularity::PerChannel => None,
            Granularity::PerGroup(size) if size.is_power_of_two() && (16..=256).contains(&size) => Some(size),
            Granularity::PerGroup(size) => {
                return self.refuse("linear", "group_size", "a power of two from 16 to 256", &size.to_string());
            }
        };
        let scales_shape = match block_size {
            Some(size) => vec![in_features.div_ceil(size), out_features],
            None => vec![out_features],
        };
        let codes_name = format!("{}.{name}", self.path);
        let (scales_name, zero_points_name) = (format!("{codes_name}.scales"), format!("{codes_name}.zero_points"));
        let graph = self.build.graph;
        let codes = graph.declare(&codes_name, scheme.format.code_dtype(), &[in_features, out_features]);
        let scales = graph.declare(&scales_name, SCALE_DTYPE, &scales_shape);
        let has_zero_points = scheme.format.has_zero_points();
        let zero_points = has_zero_points.then(|| graph.declare(&zero_points_name, scheme.format.code_dtype(), &scales_shape));
        let form = StoredForm::Quantized {
            scheme,
            codes: codes_name.clone(),
            scales: scales_name,
            scale_dtype: SCALE_DTYPE,
            zero_points: has_zero_points.then_some(zero_points_name),
            layout: CodeLayout::DequantizeLinear,
        };
        self.store(codes_name, &shape, form);
        let scales = self.op().cast(scales, self.build.activation);
        self.op().dequantize_linear(QuantizedOperand { codes, scales, zero_points }, block_size)
    }

    /// A quantized table as MatMulNBits and GatherBlockQuantized share it.
    #[track_caller]
    fn packed_table(&self, name: &str, shape: [usize; 2], scheme: Scheme) -> Table {
        let [out_features, in_features] = shape;
        let (bits, symmetric) = (scheme.format.bits(), !scheme.format.has_zero_points());
        let block_size = scheme.granularity.group_size(in_features);
        let n = NBits { bits: usize::from(bits), block_size, in_features, out_features };
        if !symmetric {
            return Table::Dense(self.refuse("table", "format", "symmetric for the embedding table", "asymmetric"));
        }
        if !in_features.is_multiple_of(block_size) {
            let expected = "a divisor of hidden_size for the embedding table";
            return Table::Dense(self.refuse("table", "group_size", expected, &block_size.to_string()));
        }
        let codes_name = format!("{}.{name}", self.path);
        let scales_name = format!("{codes_name}.scales");
        let codes = self.build.graph.declare(&codes_name, DType::U8, &n.packed_shape());
        let scales = self.build.graph.declare(&scales_name, SCALE_DTYPE, &[out_features, n.blocks(), 1]);
        let form = StoredForm::Quantized {
            scheme,
            codes: codes_name.clone(),
            scales: scales_name,
            scale_dtype: SCALE_DTYPE,
            zero_points: None,
            layout: CodeLayout::MatMulNBits,
        };
        self.store(codes_name, &shape, form);
        Table::Packed { codes, scales: self.op().cast(scales, self.build.activation), shape: n }
    }

    fn store(&self, weight: String, shape: &[usize], form: StoredForm) {
        self.build.stored.borrow_mut().push(StoredWeight { weight, shape: shape.to_vec(), form });
    }

    #[track_caller]
    fn refuse(&self, op: &'static str, name: &'static str, expected: &str, got: &str) -> Value {
        let cause = GraphCause::Attribute { name, expected: expected.to_owned(), got: got.to_owned() };
        self.build.graph.refuse(&self.path, op, cause)
    }
}

/// Scales are stored in 16 bits whatever the activations are; a Cast that is folded at load widens them.
const SCALE_DTYPE: DType = DType::F16;
