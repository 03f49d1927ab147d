//! Where the bytes of a model lie, known from shapes alone, and the file that receives them in any order.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ir::{Content, FileRange, Initializer, Model, Value};
use super::proto::{self, ProtoError};
use crate::fault::Fault;

/// File name of the graph in an artifact's folder.
pub const MODEL_FILE: &str = "model.onnx";
/// File name of the external data, beside the graph.
pub const DATA_FILE: &str = "model.onnx.data";

/// Tensors of at least this many bytes go to the data file; smaller ones stay in the model, where readers expect shapes
/// and scalars.
const EXTERNAL_FROM: usize = 1024;
/// Offsets are multiples of the page size, so that runtimes can map tensors in place (the ONNX specification's advice).
const ALIGNMENT: u64 = 4096;

/// What can go wrong while an artifact's data is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    #[error("initializer {0} is not in the graph, or its value is already known")]
    Unknown(String),
    #[error("initializer {name}: expected {expected} bytes, got {got}")]
    Length { name: String, expected: usize, got: usize },
    #[error("initializer {0} was written twice")]
    Twice(String),
    #[error("{count} initializers were never written, the first is {first}")]
    Unwritten { count: usize, first: String },
    #[error("cannot write {path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Encode(#[from] ProtoError),
}

impl DataError {
    pub fn fault(&self) -> Fault {
        Fault::Failed
    }
}

/// The place of every initializer of a model.
#[derive(Debug, Clone)]
pub struct Layout<'m> {
    model: &'m Model,
    slots: Vec<Slot>,
    /// Index into `slots` by the initializer's name.
    places: HashMap<&'m str, usize>,
    data_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// In the data file; `None` inside the model.
    offset: Option<u64>,
    bytes: usize,
}

impl<'m> Layout<'m> {
    /// Lays out the initializers in the order of the model.
    pub fn of(model: &'m Model) -> Layout<'m> {
        let mut end: u64 = 0;
        let mut slots = Vec::with_capacity(model.initializers.len());
        for initializer in &model.initializers {
            let bytes = model.initializer_bytes(initializer);
            let offset = (bytes >= EXTERNAL_FROM).then(|| end.next_multiple_of(ALIGNMENT));
            if let Some(offset) = offset {
                end = offset + bytes as u64;
            }
            slots.push(Slot { offset, bytes });
        }
        let names = model.initializers.iter().map(|initializer| model.name_of(initializer.value));
        Layout { model, slots, places: names.zip(0..).collect(), data_bytes: end }
    }

    /// Where an initializer lies in the data file; `None` for one that lies in the model.
    pub fn offset_of(&self, name: &str) -> Option<u64> {
        self.slots[*self.places.get(name)?].offset
    }

    /// Size of the data file.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Size of `model.onnx`, without knowing any weight.
    pub fn model_bytes(&self) -> u64 {
        let blank = self.placed(|_, slot| vec![0; slot.bytes]);
        proto::encoded_len(&blank).expect("every initializer was given a place or bytes") as u64
    }

    /// Size of the graph and its data together.
    pub fn total_bytes(&self) -> u64 {
        self.model_bytes() + self.data_bytes
    }

    /// The model with external initializers pointing into the data file and `inline` giving the declared small ones.
    fn placed(&self, mut inline: impl FnMut(Value, Slot) -> Vec<u8>) -> Model {
        let place = |(initializer, &slot): (&Initializer, &Slot)| {
            let content = match (slot.offset, &initializer.content) {
                (Some(offset), _) => {
                    Content::External(FileRange { location: DATA_FILE.to_owned(), offset, length: slot.bytes as u64 })
                }
                (None, Content::Inline(bytes)) => Content::Inline(bytes.clone()),
                (None, _) => Content::Inline(inline(initializer.value, slot)),
            };
            Initializer { value: initializer.value, content }
        };
        let model = self.model;
        Model {
            opset: model.opset,
            ir_version: model.ir_version,
            name: model.name.clone(),
            values: model.values.clone(),
            initializers: model.initializers.iter().zip(&self.slots).map(place).collect(),
            inputs: model.inputs.clone(),
            nodes: model.nodes.clone(),
            outputs: model.outputs.clone(),
            metadata: model.metadata.clone(),
        }
    }
}

/// The external data file while it is filled: threads write tensors by name, in any order, each exactly once.
#[derive(Debug)]
pub struct DataFile<'m> {
    layout: Layout<'m>,
    path: PathBuf,
    file: File,
    /// Index into the layout of each initializer that is waited for.
    awaited: HashMap<&'m str, usize>,
    received: Mutex<Received>,
}

#[derive(Debug)]
struct Received {
    /// Bytes that have come of each initializer.
    written: Vec<usize>,
    /// Bytes of the small ones, until the model is encoded.
    inline: HashMap<Value, Vec<u8>>,
}

impl<'m> DataFile<'m> {
    /// Creates the file at its full size and writes the constants that the model already knows.
    pub fn create(path: &Path, layout: &Layout<'m>) -> Result<DataFile<'m>, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), source };
        let file = File::create(path).map_err(io)?;
        file.set_len(layout.data_bytes).map_err(io)?;
        let model = layout.model;
        let mut awaited = HashMap::new();
        for (index, initializer) in model.initializers.iter().enumerate() {
            match (&initializer.content, layout.slots[index].offset) {
                (Content::Inline(bytes), Some(offset)) => file.write_all_at(bytes, offset).map_err(io)?,
                (Content::Inline(_), None) => {}
                _ => {
                    awaited.insert(model.name_of(initializer.value), index);
                }
            }
        }
        let received = Received { written: vec![0; layout.slots.len()], inline: HashMap::new() };
        Ok(DataFile { layout: layout.clone(), path: path.to_owned(), file, awaited, received: Mutex::new(received) })
    }

    /// Stores the bytes of one initializer: little-endian, row-major, sub-byte elements packed low bits first.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DataError> {
        let expected = self.layout.slots[self.index_of(name)?].bytes;
        if bytes.len() != expected {
            return Err(DataError::Length { name: name.to_owned(), expected, got: bytes.len() });
        }
        self.write_part(name, 0, bytes)
    }

    /// As [`Self::write`], for a piece that begins at byte `at` of the initializer; pieces must not overlap.
    pub fn write_part(&self, name: &str, at: usize, bytes: &[u8]) -> Result<(), DataError> {
        let index = self.index_of(name)?;
        let slot = self.layout.slots[index];
        let mut received = self.received();
        received.written[index] += bytes.len();
        if received.written[index] > slot.bytes || at + bytes.len() > slot.bytes {
            return Err(DataError::Twice(name.to_owned()));
        }
        match slot.offset {
            None => {
                let value = self.layout.model.initializers[index].value;
                let whole = received.inline.entry(value).or_insert_with(|| vec![0; slot.bytes]);
                whole[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Some(offset) => {
                drop(received); // other threads write meanwhile
                let written = self.file.write_all_at(bytes, offset + at as u64);
                written.map_err(|source| DataError::Io { path: self.path.clone(), source })?;
            }
        }
        Ok(())
    }

    fn index_of(&self, name: &str) -> Result<usize, DataError> {
        self.awaited.get(name).copied().ok_or_else(|| DataError::Unknown(name.to_owned()))
    }

    /// The bytes of `model.onnx`, once every initializer was written.
    pub fn finish(self) -> Result<Vec<u8>, DataError> {
        let mut received = self.received.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut missing = self
            .awaited
            .iter()
            .filter(|&(_, &index)| received.written[index] < self.layout.slots[index].bytes)
            .map(|(_, &index)| index);
        if let Some(first) = missing.next() {
            let (first, count) = missing.fold((first, 1), |(first, count), index| (first.min(index), count + 1));
            let first = self.layout.model.name_of(self.layout.model.initializers[first].value).to_owned();
            return Err(DataError::Unwritten { count, first });
        }
        let model = self.layout.placed(|value, _| received.inline.remove(&value).unwrap_or_default());
        Ok(proto::encode(&model)?)
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
