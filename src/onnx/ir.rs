//! A model in memory: values by id, never by name. Names exist for files and for messages.

use std::fmt;

use crate::tensor::DType;

/// One edge of a graph: the index of its [`Typed`] in [`Model::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(super) u32);

impl Value {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One axis of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    Known(usize),
    /// Known when the model runs; equal names mean equal sizes.
    Named(String),
}

impl From<usize> for Dim {
    fn from(size: usize) -> Dim {
        Dim::Known(size)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Dim {
        Dim::Named(name.to_owned())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(size) => write!(f, "{size}"),
            Dim::Named(name) => f.write_str(name),
        }
    }
}

/// Axes from outermost to innermost; a scalar has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    pub fn known(dims: &[usize]) -> Shape {
        Shape(dims.iter().map(|&size| Dim::Known(size)).collect())
    }

    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Sizes of all axes, if none of them is symbolic.
    pub fn sizes(&self) -> Option<Vec<usize>> {
        self.0
            .iter()
            .map(|dim| match dim {
                Dim::Known(size) => Some(*size),
                Dim::Named(_) => None,
            })
            .collect()
    }
}

impl<const N: usize> From<[Dim; N]> for Shape {
    fn from(dims: [Dim; N]) -> Shape {
        Shape(dims.into())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if axis > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

/// Element type and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    pub dtype: DType,
    pub shape: Shape,
}

impl Type {
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Type {
        Type { dtype, shape: shape.into() }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// A value's name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    pub name: String,
    pub ty: Type,
}

/// Operator set that an operator belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// ONNX's own operators.
    Onnx,
    /// `com.microsoft`, ONNX Runtime's contrib operators, version 1.
    Microsoft,
}

impl Domain {
    pub const fn name(self) -> &'static str {
        match self {
            Domain::Onnx => "",
            Domain::Microsoft => "com.microsoft",
        }
    }
}

/// A node's compile-time argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    String(String),
    Ints(Vec<i64>),
}

/// One operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: String,
    pub domain: Domain,
    pub op_type: String,
    /// An absent optional input is `None`.
    pub inputs: Vec<Option<Value>>,
    /// An output that nobody asked for is `None`.
    pub outputs: Vec<Option<Value>>,
    pub attributes: Vec<(String, Attribute)>,
}

impl Node {
    /// The attribute of that name, if present.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// Where an initializer's bytes are: little-endian, row-major, sub-byte elements packed low bits first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here.
    Inline(Vec<u8>),
    /// Nowhere yet: they arrive by name through [`DataFile::write`](super::DataFile::write).
    Declared,
    /// In a file beside the model.
    External(FileRange),
}

/// A stretch of the external data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRange {
    /// File name relative to the model's folder.
    pub location: String,
    pub offset: u64,
    pub length: u64,
}

/// A constant of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initializer {
    pub value: Value,
    pub content: Content,
}

/// An ONNX model: what `model.onnx` says. Nodes are in an order in which they can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub(super) opset: i64,
    pub(super) ir_version: i64,
    pub(super) name: String,
    pub(super) values: Vec<Typed>,
    pub(super) initializers: Vec<Initializer>,
    pub(super) inputs: Vec<Value>,
    pub(super) nodes: Vec<Node>,
    pub(super) outputs: Vec<Value>,
    pub(super) metadata: Vec<(String, String)>,
}

impl Model {
    /// Version of ONNX's own operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    pub fn ir_version(&self) -> i64 {
        self.ir_version
    }

    /// What the model says of itself beside its graph, in order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Replaces [`Self::metadata`]; each key is given once.
    pub fn set_metadata(&mut self, metadata: Vec<(String, String)>) {
        self.metadata = metadata;
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    pub fn initializers(&self) -> &[Initializer] {
        &self.initializers
    }

    pub fn name_of(&self, value: Value) -> &str {
        &self.values[value.index()].name
    }

    pub fn type_of(&self, value: Value) -> &Type {
        &self.values[value.index()].ty
    }

    /// The value of that name.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.values.iter().position(|value| value.name == name).map(|index| Value(index as u32))
    }

    /// Packed bytes of an initializer, from its type alone.
    pub fn initializer_bytes(&self, initializer: &Initializer) -> usize {
        let ty = self.type_of(initializer.value);
        let sizes = ty.shape.sizes().expect("an initializer's shape is known: it is declared from sizes and decoded from sizes");
        ty.dtype.bytes_of(sizes.iter().product())
    }
}
