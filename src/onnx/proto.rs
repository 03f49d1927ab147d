//! ONNX's protobuf messages, as far as qonnx writes them, and the way to and from [`Model`].
//!
//! The messages follow `onnx.proto` of ONNX 1.20; field numbers are theirs. The same model always gives the same bytes.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::ir::{Attribute, Content, Dim, Domain, FileRange, Initializer, Model, Node, Shape, Type, Typed, Value};
use crate::fault::Fault;
use crate::tensor::DType;

/// Why bytes are not a model that qonnx can read, or a model cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtoError {
    #[error("the file is not an ONNX model: {0}; export the artifact again")]
    NotProtobuf(#[from] prost::DecodeError),
    #[error("the model has no {0}; the file is cut off or damaged, export the artifact again")]
    Missing(&'static str),
    #[error("the model uses the operator domain {0:?}; qonnx reads ONNX's own and com.microsoft")]
    UnknownDomain(String),
    #[error("value {0} has no element type and shape; qonnx reads models with a type on every value, as it writes them")]
    Untyped(String),
    #[error("value {name} has element type {code}, which qonnx does not know")]
    UnknownDataType { name: String, code: i32 },
    #[error("two values are called {0}; every name must be given once")]
    DuplicateName(String),
    #[error("node {node} reads {value}, which nothing before it provides")]
    Dangling { node: String, value: String },
    #[error("attribute {attribute} of node {node} has type {code}; qonnx reads integers, floats, strings and integer lists")]
    UnknownAttribute { node: String, attribute: String, code: i32 },
    #[error("initializer {name}: expected {expected} bytes for {ty}, got {got}; the file is damaged, export the artifact again")]
    InitializerBytes { name: String, ty: Type, expected: usize, got: usize },
    #[error("initializer {name}: {problem} in its external data; the file is damaged, export the artifact again")]
    ExternalData { name: String, problem: String },
    #[error("initializer {0} has no bytes yet; write it to the data file first")]
    Unwritten(String),
}

impl ProtoError {
    pub fn fault(&self) -> Fault {
        match self {
            ProtoError::Unwritten(_) => Fault::Failed,
            _ => Fault::BadInput,
        }
    }
}

/// ONNX's number for an element type.
pub(super) fn data_type(dtype: DType) -> i64 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::BF16 => 16,
        DType::U4 => 21,
        DType::I4 => 22,
        DType::U2 => 25,
        DType::I2 => 26,
    }
}

fn dtype(code: i32) -> Option<DType> {
    use DType::{BF16, Bool, F16, F32, I2, I4, I8, I32, I64, U2, U4, U8};
    [F32, F16, BF16, I8, U8, I4, U4, I2, U2, I32, I64, Bool].into_iter().find(|&known| data_type(known) == i64::from(code))
}

/// The bytes of `model.onnx`.
pub fn encode(model: &Model) -> Result<Vec<u8>, ProtoError> {
    Ok(to_message(model)?.encode_to_vec())
}

/// How many bytes [`encode`] gives.
pub fn encoded_len(model: &Model) -> Result<usize, ProtoError> {
    Ok(to_message(model)?.encoded_len())
}

/// Reads the bytes of a `model.onnx` that qonnx wrote.
pub fn decode(bytes: &[u8]) -> Result<Model, ProtoError> {
    let message = ModelProto::decode(bytes)?;
    let opset = opset(&message)?;
    let imports_microsoft = message.opset_import.iter().any(|import| import.domain == Domain::Microsoft.name());
    let metadata = message.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let graph = message.graph.ok_or(ProtoError::Missing("graph"))?;
    let mut reader = Reader::new(Model {
        opset,
        ir_version: message.ir_version,
        name: graph.name,
        values: Vec::new(),
        initializers: Vec::new(),
        inputs: Vec::new(),
        nodes: Vec::new(),
        outputs: Vec::new(),
        metadata,
    });
    let outputs: Vec<String> = graph.output.iter().map(|info| info.name.clone()).collect();
    for tensor in graph.initializer {
        reader.initializer(tensor)?;
    }
    for info in &graph.input {
        let ty = type_of_info(info)?;
        let value = reader.define(&info.name, ty)?;
        reader.model.inputs.push(value);
    }
    let mut types = HashMap::new();
    for info in graph.value_info.iter().chain(&graph.output) {
        types.insert(info.name.clone(), type_of_info(info)?);
    }
    for node in graph.node {
        reader.node(node, &types)?;
    }
    if !imports_microsoft && reader.model.nodes.iter().any(|node| node.domain == Domain::Microsoft) {
        return Err(ProtoError::Missing("version of the operator set com.microsoft"));
    }
    for name in outputs {
        let value = reader.ids.get(&name).copied();
        let value = value.ok_or_else(|| ProtoError::Dangling { node: "(graph outputs)".to_owned(), value: name })?;
        reader.model.outputs.push(value);
    }
    Ok(reader.model)
}

fn opset(message: &ModelProto) -> Result<i64, ProtoError> {
    let mut opset = None;
    for import in &message.opset_import {
        match import.domain.as_str() {
            "" | "ai.onnx" => opset = Some(import.version),
            "com.microsoft" => {}
            other => return Err(ProtoError::UnknownDomain(other.to_owned())),
        }
    }
    opset.ok_or(ProtoError::Missing("operator set version"))
}

/// Turns names into ids, in file order.
struct Reader {
    model: Model,
    ids: HashMap<String, Value>,
}

impl Reader {
    fn new(model: Model) -> Reader {
        Reader { model, ids: HashMap::new() }
    }

    fn define(&mut self, name: &str, ty: Type) -> Result<Value, ProtoError> {
        let value = Value(self.model.values.len() as u32);
        if self.ids.insert(name.to_owned(), value).is_some() {
            return Err(ProtoError::DuplicateName(name.to_owned()));
        }
        self.model.values.push(Typed { name: name.to_owned(), ty });
        Ok(value)
    }

    fn initializer(&mut self, tensor: TensorProto) -> Result<(), ProtoError> {
        let ty = Type { dtype: known_dtype(&tensor.name, tensor.data_type)?, shape: tensor_shape(&tensor)? };
        let elements = ty.shape.sizes().and_then(|sizes| sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size)));
        let expected = elements.filter(|n| n.checked_mul(64).is_some()).map(|n| ty.dtype.bytes_of(n));
        let Some(expected) = expected else {
            let problem = format!("shape {} is too large", ty.shape);
            return Err(ProtoError::ExternalData { name: tensor.name, problem });
        };
        let (content, got) = if tensor.data_location == EXTERNAL {
            let range = file_range(&tensor)?;
            let length = range.length as usize;
            (Content::External(range), length)
        } else {
            let length = tensor.raw_data.len();
            (Content::Inline(tensor.raw_data), length)
        };
        if got != expected {
            return Err(ProtoError::InitializerBytes { name: tensor.name, ty, expected, got });
        }
        let value = self.define(&tensor.name, ty)?;
        self.model.initializers.push(Initializer { value, content });
        Ok(())
    }

    fn node(&mut self, node: NodeProto, types: &HashMap<String, Type>) -> Result<(), ProtoError> {
        let domain = match node.domain.as_str() {
            "" | "ai.onnx" => Domain::Onnx,
            "com.microsoft" => Domain::Microsoft,
            other => return Err(ProtoError::UnknownDomain(other.to_owned())),
        };
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(match (name.as_str(), self.ids.get(name)) {
                ("", _) => None,
                (_, Some(&value)) => Some(value),
                (_, None) => return Err(ProtoError::Dangling { node: node.name, value: name.clone() }),
            });
        }
        let mut outputs = Vec::with_capacity(node.output.len());
        for name in &node.output {
            outputs.push(if name.is_empty() {
                None
            } else {
                let ty = types.get(name).cloned().ok_or_else(|| ProtoError::Untyped(name.clone()))?;
                Some(self.define(name, ty)?)
            });
        }
        let mut attributes = Vec::with_capacity(node.attribute.len());
        for attribute in node.attribute {
            attributes.push(read_attribute(&node.name, attribute)?);
        }
        self.model.nodes.push(Node { name: node.name, domain, op_type: node.op_type, inputs, outputs, attributes });
        Ok(())
    }
}

fn read_attribute(node: &str, attribute: AttributeProto) -> Result<(String, Attribute), ProtoError> {
    let value = match (attribute.r#type, attribute.f, attribute.i) {
        (FLOAT, Some(f), _) => Attribute::Float(f),
        (INT, _, Some(i)) => Attribute::Int(i),
        (STRING, ..) => Attribute::String(String::from_utf8_lossy(&attribute.s).into_owned()),
        (INTS, ..) => Attribute::Ints(attribute.ints),
        (code, ..) => {
            return Err(ProtoError::UnknownAttribute { node: node.to_owned(), attribute: attribute.name, code });
        }
    };
    Ok((attribute.name, value))
}

fn known_dtype(name: &str, code: i32) -> Result<DType, ProtoError> {
    dtype(code).ok_or_else(|| ProtoError::UnknownDataType { name: name.to_owned(), code })
}

fn tensor_shape(tensor: &TensorProto) -> Result<Shape, ProtoError> {
    let sizes: Option<Vec<usize>> = tensor.dims.iter().map(|&size| usize::try_from(size).ok()).collect();
    let negative = || ProtoError::ExternalData { name: tensor.name.clone(), problem: "a negative size".to_owned() };
    Ok(Shape::known(&sizes.ok_or_else(negative)?))
}

fn file_range(tensor: &TensorProto) -> Result<FileRange, ProtoError> {
    let problem = |problem: &str| ProtoError::ExternalData { name: tensor.name.clone(), problem: problem.to_owned() };
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let number =
        |key: &str| entry(key).and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| problem(&format!("no valid {key}")));
    let location = entry("location").ok_or_else(|| problem("no location"))?.to_owned();
    Ok(FileRange { location, offset: number("offset")?, length: number("length")? })
}

fn type_of_info(info: &ValueInfoProto) -> Result<Type, ProtoError> {
    let untyped = || ProtoError::Untyped(info.name.clone());
    let tensor = info.r#type.as_ref().and_then(|ty| ty.tensor_type.as_ref()).ok_or_else(untyped)?;
    let shape = tensor.shape.as_ref().ok_or_else(untyped)?;
    let dims = shape.dim.iter().map(|dim| match (dim.dim_value, &dim.dim_param) {
        (Some(size), _) => usize::try_from(size).map(Dim::Known).map_err(|_| untyped()),
        (None, Some(name)) => Ok(Dim::Named(name.clone())),
        (None, None) => Err(untyped()),
    });
    Ok(Type { dtype: known_dtype(&info.name, tensor.elem_type)?, shape: Shape(dims.collect::<Result<_, _>>()?) })
}

fn to_message(model: &Model) -> Result<ModelProto, ProtoError> {
    let info = |value: Value| value_info(model.name_of(value), model.type_of(value));
    let computed = model.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied());
    let outputs: HashSet<Value> = model.outputs.iter().copied().collect();
    let intermediate = computed.filter(|value| !outputs.contains(value));
    let graph = GraphProto {
        node: model.nodes.iter().map(|node| node_message(model, node)).collect(),
        name: model.name.clone(),
        initializer: model.initializers.iter().map(|tensor| tensor_message(model, tensor)).collect::<Result<_, _>>()?,
        input: model.inputs.iter().map(|&value| info(value)).collect(),
        output: model.outputs.iter().map(|&value| info(value)).collect(),
        value_info: intermediate.map(info).collect(),
    };
    let import = |domain: Domain, version| OperatorSetIdProto { domain: domain.name().to_owned(), version };
    let asks_for_microsoft = model.nodes.iter().any(|node| node.domain == Domain::Microsoft);
    let microsoft = asks_for_microsoft.then(|| import(Domain::Microsoft, 1));
    Ok(ModelProto {
        ir_version: model.ir_version,
        producer_name: "qonnx".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: [import(Domain::Onnx, model.opset)].into_iter().chain(microsoft).collect(),
        metadata_props: model.metadata.iter().cloned().map(|(key, value)| StringStringEntryProto { key, value }).collect(),
    })
}

fn node_message(model: &Model, node: &Node) -> NodeProto {
    let names =
        |values: &[Option<Value>]| values.iter().map(|v| v.map_or(String::new(), |v| model.name_of(v).to_owned())).collect();
    NodeProto {
        input: names(&node.inputs),
        output: names(&node.outputs),
        name: node.name.clone(),
        op_type: node.op_type.clone(),
        attribute: node.attributes.iter().map(|(name, value)| attribute_message(name, value)).collect(),
        domain: node.domain.name().to_owned(),
    }
}

fn attribute_message(name: &str, value: &Attribute) -> AttributeProto {
    let empty = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Attribute::Float(f) => AttributeProto { f: Some(*f), r#type: FLOAT, ..empty },
        Attribute::Int(i) => AttributeProto { i: Some(*i), r#type: INT, ..empty },
        Attribute::String(s) => AttributeProto { s: s.clone().into_bytes(), r#type: STRING, ..empty },
        Attribute::Ints(ints) => AttributeProto { ints: ints.clone(), r#type: INTS, ..empty },
    }
}

fn tensor_message(model: &Model, initializer: &Initializer) -> Result<TensorProto, ProtoError> {
    let (name, ty) = (model.name_of(initializer.value), model.type_of(initializer.value));
    let sizes = ty.shape.sizes().expect("an initializer's shape is known: it is declared from sizes and decoded from sizes");
    let tensor = TensorProto {
        dims: sizes.iter().map(|&size| size as i64).collect(),
        data_type: data_type(ty.dtype) as i32,
        name: name.to_owned(),
        ..TensorProto::default()
    };
    match &initializer.content {
        Content::Inline(bytes) => Ok(TensorProto { raw_data: bytes.clone(), ..tensor }),
        Content::Declared => Err(ProtoError::Unwritten(name.to_owned())),
        Content::External(range) => {
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
            let external_data = vec![
                entry("location", range.location.clone()),
                entry("offset", range.offset.to_string()),
                entry("length", range.length.to_string()),
            ];
            Ok(TensorProto { external_data, data_location: EXTERNAL, ..tensor })
        }
    }
}

fn value_info(name: &str, ty: &Type) -> ValueInfoProto {
    let dims = ty.shape.0.iter().map(|dim| match dim {
        Dim::Known(size) => Dimension { dim_value: Some(*size as i64), dim_param: None },
        Dim::Named(name) => Dimension { dim_value: None, dim_param: Some(name.clone()) },
    });
    let shape = TensorShapeProto { dim: dims.collect() };
    let tensor_type = TensorTypeProto { elem_type: data_type(ty.dtype) as i32, shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

/// `AttributeProto.AttributeType`
const FLOAT: i32 = 1;
const INT: i32 = 2;
const STRING: i32 = 3;
const INTS: i32 = 7;
/// `TensorProto.DataLocation`
const EXTERNAL: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "13")]
    value_info: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, optional, tag = "2")]
    f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(bytes = "vec", tag = "4")]
    s: Vec<u8>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Graph, QuantizedOperand};

    /// One INT2 DequantizeLinear and a Cast.
    fn model() -> Model {
        let graph = Graph::new("tiny");
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), 16.into()]));
        let codes = graph.constant("codes", DType::I2, &[16, 4], vec![0x1b; 16]);
        let scales = graph.constant("scales", DType::F16, &[1, 4], vec![0; 8]);
        let op = graph.at("m");
        let scales = op.cast(scales, DType::F32);
        let w = op.dequantize_linear(QuantizedOperand { codes, scales, zero_points: None }, Some(16));
        let y = op.matmul(x, w);
        graph.finish(&[y]).expect("the shapes fit")
    }

    /// The message of decoding [`model`] after `damage`.
    #[track_caller]
    fn refused(damage: impl FnOnce(&mut GraphProto)) -> String {
        let mut message = to_message(&model()).expect("every byte is there");
        damage(message.graph.as_mut().expect("a model has a graph"));
        let error = decode(&message.encode_to_vec()).expect_err("this must be refused");
        assert_eq!(error.fault(), Fault::BadInput);
        error.to_string()
    }

    #[test]
    fn two_bit_codes_raise_the_opset_and_survive_a_round_trip() {
        let bytes = encode(&model()).expect("every byte is there");
        let back = decode(&bytes).expect("it was just written");
        assert_eq!((back.opset(), back.ir_version()), (25, 13));
        assert_eq!(encode(&back).expect("every byte is there"), bytes);
        assert_eq!(encoded_len(&back).expect("every byte is there"), bytes.len());
        assert_eq!(back.nodes()[1].attribute("block_size"), Some(&Attribute::Int(16)));
        assert_eq!(back.type_of(back.outputs()[0]).to_string(), "f32[batch, 4]");
    }

    #[test]
    fn every_attribute_kind_survives_a_round_trip() {
        let mut written = model();
        let attributes =
            [Attribute::Float(0.0), Attribute::Int(0), Attribute::String("text".to_owned()), Attribute::Ints(vec![1, -2, 3])];
        written.nodes[0].attributes = attributes.map(|value| ("name".to_owned(), value)).into();
        let back = decode(&encode(&written).expect("every byte is there")).expect("it was just written");
        assert_eq!(back.nodes()[0].attributes, written.nodes[0].attributes);
    }

    #[test]
    fn damaged_graphs_are_refused_with_a_sentence() {
        let dangling = "node m/MatMul reads nobody, which nothing before it provides";
        assert_eq!(refused(|graph| graph.node[2].input[0] = "nobody".to_owned()), dangling);
        let order = "node m/MatMul reads m/DequantizeLinear, which nothing before it provides";
        assert_eq!(refused(|graph| graph.node.swap(1, 2)), order);
        let missing = "node (graph outputs) reads nobody, which nothing before it provides";
        let output = |graph: &mut GraphProto| {
            let renamed = ValueInfoProto { name: "nobody".to_owned(), ..graph.output[0].clone() };
            graph.output.push(renamed);
        };
        assert_eq!(refused(output), missing);
        let twice = "two values are called codes; every name must be given once";
        assert_eq!(refused(|graph| graph.initializer[1].name = "codes".to_owned()), twice);
        let short =
            "initializer codes: expected 16 bytes for int2[16, 4], got 15; the file is damaged, export the artifact again";
        assert_eq!(refused(|graph| graph.initializer[0].raw_data.truncate(15)), short);
        let untyped =
            "value m/Cast has no element type and shape; qonnx reads models with a type on every value, as it writes them";
        assert_eq!(refused(|graph| graph.value_info.clear()), untyped);
        assert_eq!(
            refused(|graph| graph.initializer[0].data_type = 99),
            "value codes has element type 99, which qonnx does not know"
        );
        let domain = "the model uses the operator domain \"ai.other\"; qonnx reads ONNX's own and com.microsoft";
        assert_eq!(refused(|graph| graph.node[0].domain = "ai.other".to_owned()), domain);
    }

    #[test]
    fn lying_sizes_and_places_are_refused_with_a_sentence() {
        let again = "in its external data; the file is damaged, export the artifact again";
        let dims = |dims: Vec<i64>| refused(move |graph| graph.initializer[0].dims = dims);
        assert_eq!(dims(vec![-1, 4]), format!("initializer codes: a negative size {again}"));
        let huge = format!("initializer codes: shape [{0}, {0}] is too large {again}", i64::MAX);
        assert_eq!(dims(vec![i64::MAX, i64::MAX]), huge);
        let external = |offset: &str, length: &str| {
            let entries = [("location", "data"), ("offset", offset), ("length", length)];
            let entries = entries.map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() });
            refused(move |graph| {
                graph.initializer[0].data_location = EXTERNAL;
                graph.initializer[0].external_data = entries.into();
            })
        };
        assert_eq!(external("-4", "16"), format!("initializer codes: no valid offset {again}"));
        let short =
            "initializer codes: expected 16 bytes for int2[16, 4], got 17; the file is damaged, export the artifact again";
        assert_eq!(external("0", "17"), short);
    }

    #[test]
    fn what_is_no_model_is_refused() {
        assert!(matches!(decode(b"{\"json\": 1}"), Err(ProtoError::NotProtobuf(_))));
        let empty = decode(b"").expect_err("nothing is no model").to_string();
        assert_eq!(empty, "the model has no operator set version; the file is cut off or damaged, export the artifact again");
    }
}
