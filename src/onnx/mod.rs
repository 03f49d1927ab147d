//! ONNX models: built, laid out, written, read back and edited. Knows no family of models and no quantization method.

pub mod bnb4;
mod contrib;
mod cut;
mod edit;
mod external_data;
mod extract;
mod graph;
mod indexing;
mod ir;
mod oldest;
mod ops;
pub mod pack;
mod peek;
mod planes;
mod products;
mod proto;
mod standard;
pub mod tensorrt;
mod text;

pub use bnb4::{Bnb4, Bnb4Levels, NestedOperand};
pub use contrib::{GroupQueryAttention, NBits};
pub use cut::{Cutter, Piece};
pub use edit::EditError;
pub use external_data::{DataError, DataFile, DataOffset, Layout};
pub use extract::{IDENTITY, Reading, WeightFinder, WeightModel};
pub use graph::{Graph, GraphCause, GraphError};
pub use ir::{Attribute, Content, Dim, Domain, FileRange, Initializer, Model, Node, Shape, Type, Typed, Value};
pub use oldest::oldest_onnxruntime;
pub use ops::{Ops, QuantizedOperand};
pub use peek::has_output;
pub use planes::Planes;
pub use proto::{ProtoError, decode, encode};
pub use standard::Attention;
