//! The file format of GGUF: a head that says what there is and where, and tensors behind it.
//!
//! ```text
//! "GGUF"  version 3  tensors: u64  entries: u64
//! entries of metadata: key, type, value
//! of each tensor: name, dimensions (innermost first), type, offset from the end of the head
//! padding to 32 bytes; tensors, each at a multiple of 32 bytes
//! ```
//!
//! Source: `docs/gguf.md` of ggml, version 3. Numbers are little-endian.

use std::collections::HashMap;

const MAGIC: &[u8] = b"GGUF";
const VERSION: u32 = 3;
/// Numbers of types that others contain, in `enum gguf_metadata_value_type`.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;
/// `general.alignment`, where it is not given.
const ALIGNMENT: u64 = 32;

/// Weights of a block, which share a scale, in all quantized types here.
pub const BLOCK: usize = 32;

/// What an entry of the metadata says.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
}

/// A key with what is said under it.
pub type Said = (String, Entry);

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    /// `Q4_0`, an f16 scale and 32 codes of 4 bits: `scale · (code − 8)`.
    Q4,
    /// `Q5_0`, an f16 scale, the fifth bits of 32 codes, and their low ones: `scale · (code − 16)`.
    Q5,
    /// `Q8_0`, an f16 scale and 32 signed bytes: `scale · code`.
    Q8,
}

impl TensorType {
    /// Its number in `enum ggml_type`.
    fn id(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4 => 2,
            TensorType::Q5 => 6,
            TensorType::Q8 => 8,
            TensorType::BF16 => 30,
        }
    }

    /// Its number in `enum llama_ftype`, which says what most tensors of a file are.
    pub fn file_type(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4 => 2,
            TensorType::Q8 => 7,
            TensorType::Q5 => 8,
            TensorType::BF16 => 32,
        }
    }

    /// Bytes that a row of so many numbers takes.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            TensorType::F32 => columns * 4,
            TensorType::F16 | TensorType::BF16 => columns * 2,
            TensorType::Q4 => columns / BLOCK * 18,
            TensorType::Q5 => columns / BLOCK * 22,
            TensorType::Q8 => columns / BLOCK * 34,
        }
    }
}

/// A tensor, before its numbers are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub kind: TensorType,
    /// Row-major, outermost first, as everywhere here.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let (columns, rows) = self.shape.split_last().expect("no tensor is a scalar");
        rows.iter().product::<usize>() * self.kind.row_bytes(*columns)
    }
}

/// The head of a file, and where its tensors lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    head: Vec<u8>,
    /// First byte of a tensor, by its name.
    starts: HashMap<String, u64>,
    bytes: u64,
}

impl Layout {
    /// Lays out the tensors in their order.
    pub fn of(entries: &[Said], tensors: &[Tensor]) -> Layout {
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((entries.len() as u64).to_le_bytes());
        for (key, entry) in entries {
            put_text(&mut head, key);
            put_entry(&mut head, entry);
        }
        let mut end = 0u64;
        let mut offsets = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let offset = end.next_multiple_of(ALIGNMENT);
            put_text(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&size| head.extend((size as u64).to_le_bytes()));
            head.extend(tensor.kind.id().to_le_bytes());
            head.extend(offset.to_le_bytes());
            end = offset + tensor.bytes() as u64;
            offsets.push(offset);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        let first = head.len() as u64;
        let starts = tensors.iter().zip(offsets).map(|(tensor, offset)| (tensor.name.clone(), first + offset)).collect();
        // Readers want the last tensor's padding, too.
        Layout { head, starts, bytes: (first + end).next_multiple_of(ALIGNMENT) }
    }

    /// Everything before the tensors.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Where a tensor begins.
    pub fn start(&self, tensor: &str) -> Option<u64> {
        self.starts.get(tensor).copied()
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn put_text(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

/// The number of the value's type in `enum gguf_metadata_value_type`, and the value.
fn put_entry(head: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::U32(value) => put_typed(head, 4, &value.to_le_bytes()),
        Entry::F32(value) => put_typed(head, 6, &value.to_le_bytes()),
        Entry::Bool(value) => put_typed(head, 7, &[u8::from(*value)]),
        Entry::Text(text) => {
            put_typed(head, TEXT, &[]);
            put_text(head, text);
        }
        Entry::I32s(values) => put_array(head, 5, values, |head, value| head.extend(value.to_le_bytes())),
        Entry::F32s(values) => put_array(head, 6, values, |head, value| head.extend(value.to_le_bytes())),
        Entry::Texts(values) => put_array(head, TEXT, values, |head, text| put_text(head, text)),
    }
}

fn put_typed(head: &mut Vec<u8>, kind: u32, value: &[u8]) {
    head.extend(kind.to_le_bytes());
    head.extend(value);
}

fn put_array<T>(head: &mut Vec<u8>, of: u32, values: &[T], put: fn(&mut Vec<u8>, &T)) {
    put_typed(head, ARRAY, &of.to_le_bytes());
    head.extend((values.len() as u64).to_le_bytes());
    values.iter().for_each(|value| put(head, value));
}
