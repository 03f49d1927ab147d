//! Weights as views of memory-mapped files.

use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use super::{CheckpointError, Index, Numbers, RawTensor, StoredNumber, TensorInfo};
use crate::tensor::DType;

/// A checkpoint whose files are mapped into memory; nothing of a weight is read before its bytes are looked at.
#[derive(Debug)]
pub struct Checkpoint {
    index: Index,
    /// In the order of [`Index::files`].
    maps: Vec<Mmap>,
}

/// One weight's bytes, little-endian and in row-major order, borrowed from the mapped file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// F32, F16 or BF16.
    pub dtype: DType,
    /// As stored: `[out_features, in_features]` for linears.
    pub shape: &'a [usize],
    /// May begin at any address: a header of odd length leaves its tensors unaligned.
    pub bytes: &'a [u8],
}

impl Checkpoint {
    /// Checks the headers of the checkpoint in `dir` and maps its files.
    ///
    /// A file that is cut short by someone else while it is mapped ends the process with a bus error, as with every
    /// memory map; one that changed between the check and the mapping is an error.
    pub fn open(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::of(Index::open(dir)?)
    }

    /// As [`Self::open`], of weights that are stored in parts, too: see [`Index::with_parts`].
    pub fn open_in_parts(dir: &Path, part: &str) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::of(Index::open(dir)?.with_parts(part))
    }

    fn of(index: Index) -> Result<Checkpoint, CheckpointError> {
        let mut maps = Vec::new();
        for file in index.files() {
            let path = index.dir().join(&file.name);
            let read = |source| CheckpointError::Read { file: path.clone(), source };
            let handle = File::open(&path).map_err(read)?;
            // SAFETY: the map is read-only and its length is compared below; that nobody writes to a checkpoint while it
            // is read is the contract of every reader of safetensors, stated above.
            let map = unsafe { Mmap::map(&handle) }.map_err(read)?;
            if map.len() as u64 != file.bytes {
                return Err(CheckpointError::Changed { file: path, expected: file.bytes, got: map.len() as u64 });
            }
            maps.push(map);
        }
        Ok(Checkpoint { index, maps })
    }

    /// What the headers say.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Folder of the checkpoint.
    pub fn dir(&self) -> &Path {
        self.index.dir()
    }

    /// The bytes of weight `name`.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let info = self.index.require(name)?;
        let (start, len) = extent(info);
        Ok(TensorView { dtype: info.dtype, shape: &info.shape, bytes: &self.maps[info.file][start..start + len] })
    }

    /// The numbers of a tensor that this program wrote, of bytes, 32-bit integers or f32; `None` where there is none.
    pub fn numbers(&self, name: &str) -> Option<(Vec<usize>, Numbers)> {
        let (dtype, shape) = match (self.index.other(name), self.index.get(name)) {
            (Some(other), _) => (other.dtype, &other.shape),
            (None, Some(info)) if info.dtype == DType::F32 => (safetensors::Dtype::F32, &info.shape),
            _ => return None,
        };
        Some((shape.clone(), Numbers::read(dtype, self.bytes(name)?)?))
    }

    /// The bytes of a tensor of whatever element type; `None` where there is none.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let info = self.index.get(name).map(|info| (info.file, &info.range));
        let (file, range) = info.or_else(|| self.index.other(name).map(|other| (other.file, &other.range)))?;
        Some(&self.maps[file][range.start as usize..range.end as usize])
    }

    /// A tensor of any element type that this program writes, as it lies there; `None` where there is none.
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        let (dtype, shape) = match (self.index.other(name), self.index.get(name)) {
            (Some(other), _) => (StoredNumber::of(other.dtype)?, &other.shape),
            (None, info) => info.map(|info| (StoredNumber::Weight(info.dtype), &info.shape))?,
        };
        Some(RawTensor { name: name.to_owned(), number: dtype, shape: shape.clone(), bytes: self.bytes(name)?.into() })
    }

    /// The bytes of one of [`Index::files`], header included.
    pub fn file(&self, file: usize) -> &[u8] {
        &self.maps[file]
    }

    /// Gives back the memory that weight `name` takes in this process. Its bytes stay valid and are read again when they
    /// are looked at again; a view may still be held.
    pub fn release(&self, name: &str) -> Result<(), CheckpointError> {
        let info = self.index.require(name)?;
        let (start, len) = extent(info);
        // SAFETY: the map is shared, read-only and backed by a file, so a dropped page comes back with the same bytes.
        let dropped = unsafe { self.maps[info.file].unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
        if let Err(error) = dropped {
            tracing::debug!(weight = name, %error, "madvise(DONTNEED) was refused; pages stay until the checkpoint closes");
        }
        Ok(())
    }
}

/// Start and length of a weight in its map; the header check has shown that both lie inside the file, which is mapped
/// whole, so they fit a usize.
fn extent(info: &TensorInfo) -> (usize, usize) {
    (info.range.start as usize, info.bytes() as usize)
}
