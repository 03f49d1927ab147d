//! Small safetensors files that the program writes for itself: a layer's finished weights, statistics.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::writer::StoredNumber;
use crate::fault::Fault;
use crate::host::publish;
use crate::tensor::DType;

/// Where the file's own words lie in its metadata: the checksum of note and tensors, a space, the note.
const NOTE: &str = "qonnx";

/// Tensors by name, and a note; every number is little-endian.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorFile {
    tensors: BTreeMap<String, (Vec<usize>, Numbers)>,
    /// What the file says about itself.
    pub note: String,
}

/// A tensor's elements in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    U8(Vec<u8>),
    U32(Vec<u32>),
    F32(Vec<f32>),
}

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFileError {
    #[error("{}: cannot be read", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{}: cannot be written", file.display())]
    Write { file: PathBuf, source: std::io::Error },
    #[error("{}: {reason}; remove it, it is made again", file.display())]
    Damaged { file: PathBuf, reason: String },
}

impl TensorFileError {
    /// The program wrote the file, so what is wrong with it is not the input's fault.
    pub fn fault(&self) -> Fault {
        Fault::Failed
    }
}

impl TensorFile {
    /// Adds a tensor; `numbers` are as many as `shape` says.
    pub fn put(&mut self, name: impl Into<String>, shape: &[usize], numbers: Numbers) {
        debug_assert_eq!(shape.iter().product::<usize>(), numbers.len(), "elements of {shape:?}");
        self.tensors.insert(name.into(), (shape.to_vec(), numbers));
    }

    /// Takes a tensor out.
    pub fn take(&mut self, name: &str) -> Option<(Vec<usize>, Numbers)> {
        self.tensors.remove(name)
    }

    /// Takes a tensor of f32 out.
    pub fn take_f32(&mut self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        match self.take(name)? {
            (shape, Numbers::F32(numbers)) => Some((shape, numbers)),
            _ => None,
        }
    }

    /// Names that are still in it, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Writes the file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), TensorFileError> {
        let failed = |source| TensorFileError::Write { file: path.to_owned(), source };
        let bytes = self.bytes().map_err(|reason| failed(std::io::Error::other(reason)))?;
        publish::file(path, &bytes).map_err(failed)
    }

    /// BLAKE3 of everything that the file says.
    fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        part(self.note.as_bytes());
        for (name, (shape, numbers)) in &self.tensors {
            part(name.as_bytes());
            part(format!("{} {shape:?}", numbers.dtype()).as_bytes());
            part(&numbers.bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        let raw: Vec<(&String, &[usize], Dtype, Vec<u8>)> =
            self.tensors.iter().map(|(name, (shape, numbers))| (name, &shape[..], numbers.dtype(), numbers.bytes())).collect();
        let views = raw.iter().map(|(name, shape, dtype, bytes)| {
            let view = TensorView::new(*dtype, shape.to_vec(), bytes).map_err(|error| error.to_string())?;
            Ok((name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>, String>>()?;
        let note = HashMap::from([(NOTE.to_owned(), format!("{} {}", self.checksum(), self.note))]);
        safetensors::serialize(views, Some(note)).map_err(|error| error.to_string())
    }

    /// Reads a file that [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`TensorFileError::Damaged`] where a bit of what it says is another than was written.
    pub fn read(path: &Path) -> Result<TensorFile, TensorFileError> {
        let bytes = fs::read(path).map_err(|source| TensorFileError::Read { file: path.to_owned(), source })?;
        let damaged = |reason: String| TensorFileError::Damaged { file: path.to_owned(), reason };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
        let words = metadata.metadata().as_ref().and_then(|metadata| metadata.get(NOTE));
        let (checksum, note) =
            words.and_then(|words| words.split_once(' ')).ok_or_else(|| damaged("it has no note of this program".to_owned()))?;
        let (checksum, note) = (checksum.to_owned(), note.to_owned());
        let parsed = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        let tensors = parsed.iter().map(|(name, view)| {
            let numbers = Numbers::of(&view).ok_or_else(|| damaged(format!("tensor {name} has another element type")))?;
            Ok((name.to_owned(), (view.shape().to_vec(), numbers)))
        });
        let file = TensorFile { tensors: tensors.collect::<Result<_, TensorFileError>>()?, note };
        if file.checksum() == checksum { Ok(file) } else { Err(damaged("it has changed since it was written".to_owned())) }
    }
}

impl Numbers {
    /// As they lie in a file.
    pub fn into_stored(self) -> (StoredNumber, Vec<u8>) {
        let number = match self {
            Numbers::U8(numbers) => return (StoredNumber::U8, numbers),
            Numbers::U32(_) => StoredNumber::U32,
            Numbers::F32(_) => StoredNumber::Weight(DType::F32),
        };
        (number, self.bytes())
    }

    fn len(&self) -> usize {
        match self {
            Numbers::U8(numbers) => numbers.len(),
            Numbers::U32(numbers) => numbers.len(),
            Numbers::F32(numbers) => numbers.len(),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Numbers::U8(_) => Dtype::U8,
            Numbers::U32(_) => Dtype::U32,
            Numbers::F32(_) => Dtype::F32,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Numbers::U8(numbers) => numbers.clone(),
            Numbers::U32(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            Numbers::F32(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        }
    }

    fn of(view: &TensorView<'_>) -> Option<Numbers> {
        Numbers::read(view.dtype(), view.data())
    }

    /// The numbers that `bytes` are; `None` for a type that is not one of these.
    pub(super) fn read(dtype: Dtype, bytes: &[u8]) -> Option<Numbers> {
        let words = bytes.as_chunks::<4>().0;
        match dtype {
            Dtype::U8 => Some(Numbers::U8(bytes.to_vec())),
            Dtype::U32 => Some(Numbers::U32(words.iter().map(|&word| u32::from_le_bytes(word)).collect())),
            Dtype::F32 => Some(Numbers::F32(words.iter().map(|&word| f32::from_le_bytes(word)).collect())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TensorFile {
        let mut file = TensorFile { note: "{\"a\": 1}".to_owned(), ..TensorFile::default() };
        file.put("codes", &[2, 3], Numbers::U8(vec![1, 2, 3, 250, 251, 252]));
        file.put("features", &[2], Numbers::U32(vec![7, 70_000]));
        file.put("scales", &[3, 1], Numbers::F32(vec![0.5, -0.0, f32::MIN_POSITIVE]));
        file
    }

    #[test]
    fn what_is_written_reads_back_and_writes_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        example().write(&first).unwrap();
        let mut read = TensorFile::read(&first).unwrap();
        assert_eq!(read, example());
        read.write(&second).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
        assert_eq!(read.take("codes"), Some((vec![2, 3], Numbers::U8(vec![1, 2, 3, 250, 251, 252]))));
        assert_eq!(read.take_f32("scales").unwrap().0, [3, 1]);
        assert_eq!(read.take_f32("features"), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    /// Each bit of what a resumed run goes on with counts; a changed header that says the same, such as another padding, is
    /// no damage.
    #[test]
    fn no_flipped_bit_is_taken_for_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flipped");
        example().write(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut accepted = 0;
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            if let Ok(read) = TensorFile::read(&path) {
                assert_eq!(read, example(), "bit {bit}");
                accepted += 1;
            }
        }
        assert!(accepted < 200, "{accepted} flips of the padding were taken");
    }

    #[test]
    fn a_cut_or_foreign_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut");
        example().write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        for broken in [&bytes[..bytes.len() - 1], &bytes[..20], b"{}", b""] {
            fs::write(&path, broken).unwrap();
            let error = TensorFile::read(&path).unwrap_err().to_string();
            assert!(error.contains("cut: ") && error.contains("remove it"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(TensorFile::read(&path), Err(TensorFileError::Read { .. })));
    }
}
