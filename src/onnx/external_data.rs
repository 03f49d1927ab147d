//! Where the bytes of a model lie, known from shapes alone, and the files that receive them in any order.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ir::{Content, FileRange, Initializer, Model, Value};
use super::proto::{self, ProtoError};
use crate::contract::GraphFile;
use crate::fault::Fault;

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
    file: GraphFile,
    slots: Vec<Slot>,
    /// Index into `slots` by the initializer's name.
    places: HashMap<&'m str, usize>,
    /// Size of each data file; there is at least one.
    chunks: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// In a data file; `None` inside the model.
    place: Option<DataOffset>,
    bytes: usize,
}

/// Where an initializer lies in the data files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataOffset {
    /// Which file.
    pub chunk: usize,
    pub offset: u64,
}

impl<'m> Layout<'m> {
    /// Lays out the initializers in the order of the model, all in one file.
    pub fn of(model: &'m Model) -> Layout<'m> {
        Layout::in_chunks(model, GraphFile::default(), u64::MAX)
    }

    /// As [`Self::of`], for the graph `file`, in data files of at most `most` bytes. None lies in two; one that is larger than that has a
    /// file of its own.
    pub fn in_chunks(model: &'m Model, file: GraphFile, most: u64) -> Layout<'m> {
        let mut chunks = vec![0];
        let mut slots = Vec::with_capacity(model.initializers.len());
        for initializer in &model.initializers {
            let bytes = model.initializer_bytes(initializer);
            let place = (bytes >= EXTERNAL_FROM).then(|| append(&mut chunks, bytes as u64, most));
            slots.push(Slot { place, bytes });
        }
        let names = model.initializers.iter().map(|initializer| model.name_of(initializer.value));
        Layout { model, file, slots, places: names.zip(0..).collect(), chunks }
    }

    /// Where an initializer lies in the data files; `None` for one that lies in the model.
    pub fn place_of(&self, name: &str) -> Option<DataOffset> {
        self.slots[*self.places.get(name)?].place
    }

    /// Size of each data file.
    pub fn chunks(&self) -> &[u64] {
        &self.chunks
    }

    /// Size of the data files together.
    pub fn data_bytes(&self) -> u64 {
        self.chunks.iter().sum()
    }

    /// Names of graph and data.
    pub fn file(&self) -> &GraphFile {
        &self.file
    }

    /// Size of the graph's own file, without knowing any weight.
    pub fn model_bytes(&self) -> u64 {
        let blank = self.placed(|_, slot| vec![0; slot.bytes]);
        proto::encoded_len(&blank).expect("every initializer was given a place or bytes") as u64
    }

    /// Size of the graph and its data together.
    pub fn total_bytes(&self) -> u64 {
        self.model_bytes() + self.data_bytes()
    }

    /// The model with external initializers pointing into the data file and `inline` giving the declared small ones.
    fn placed(&self, mut inline: impl FnMut(Value, Slot) -> Vec<u8>) -> Model {
        let place = |(initializer, &slot): (&Initializer, &Slot)| {
            let content = match (slot.place, &initializer.content) {
                (Some(DataOffset { chunk, offset }), _) => {
                    Content::External(FileRange { location: self.file.data_name(chunk), offset, length: slot.bytes as u64 })
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

/// The place behind what the last of `chunks` holds, or in a new one.
fn append(chunks: &mut Vec<u64>, bytes: u64, most: u64) -> DataOffset {
    let last = *chunks.last().expect("there is at least one");
    let offset = last.next_multiple_of(ALIGNMENT);
    let offset = match offset.checked_add(bytes) {
        Some(end) if last == 0 || end <= most => offset,
        _ => {
            chunks.push(0);
            0
        }
    };
    let chunk = chunks.len() - 1;
    chunks[chunk] = offset + bytes;
    DataOffset { chunk, offset }
}

/// The external data files while they are filled: threads write tensors by name, in any order, each exactly once.
#[derive(Debug)]
pub struct DataFile<'m> {
    layout: Layout<'m>,
    files: Vec<(PathBuf, File)>,
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
    /// Creates the files of an artifact in `folder` at their full size and writes the constants that the model already knows.
    pub fn create(folder: &Path, layout: &Layout<'m>) -> Result<DataFile<'m>, DataError> {
        let create = |(chunk, &bytes): (usize, &u64)| {
            let path = folder.join(layout.file.data_path(chunk));
            match File::create(&path).and_then(|file| file.set_len(bytes).map(|()| file)) {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(DataError::Io { path, source }),
            }
        };
        let files = layout.chunks.iter().enumerate().map(create).collect::<Result<Vec<_>, _>>()?;
        let model = layout.model;
        let mut awaited = HashMap::new();
        for (index, initializer) in model.initializers.iter().enumerate() {
            match (&initializer.content, layout.slots[index].place) {
                (Content::Inline(bytes), Some(place)) => write_at(&files, place, bytes)?,
                (Content::Inline(_), None) => {}
                _ => {
                    awaited.insert(model.name_of(initializer.value), index);
                }
            }
        }
        let received = Received { written: vec![0; layout.slots.len()], inline: HashMap::new() };
        Ok(DataFile { layout: layout.clone(), files, awaited, received: Mutex::new(received) })
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
        match slot.place {
            None => {
                let value = self.layout.model.initializers[index].value;
                let whole = received.inline.entry(value).or_insert_with(|| vec![0; slot.bytes]);
                whole[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Some(DataOffset { chunk, offset }) => {
                drop(received); // other threads write meanwhile
                write_at(&self.files, DataOffset { chunk, offset: offset + at as u64 }, bytes)?;
            }
        }
        Ok(())
    }

    fn index_of(&self, name: &str) -> Result<usize, DataError> {
        self.awaited.get(name).copied().ok_or_else(|| DataError::Unknown(name.to_owned()))
    }

    /// The bytes of the graph's own file, once every initializer was written.
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

fn write_at(files: &[(PathBuf, File)], place: DataOffset, bytes: &[u8]) -> Result<(), DataError> {
    let (path, file) = &files[place.chunk];
    file.write_all_at(bytes, place.offset).map_err(|source| DataError::Io { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_lies_in_one_file_and_begins_a_new_one_where_it_does_not_fit() {
        let mut chunks = vec![0];
        let places = [5000, 3000, 20000, 100, 12000].map(|bytes| append(&mut chunks, bytes, 16384));
        let place = |chunk, offset| DataOffset { chunk, offset };
        assert_eq!(places, [place(0, 0), place(0, 8192), place(1, 0), place(2, 0), place(2, 4096)]);
        assert_eq!(chunks, [11192, 20000, 16096]);
        let mut all = vec![0];
        assert_eq!([9000, 9000].map(|bytes| append(&mut all, bytes, u64::MAX)), [place(0, 0), place(0, 12288)]);
    }
}
