//! Where activations wait between two stages, batch by batch.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::CalibError;
use crate::runtime::{Operand, Resident};

/// Sequences of one length that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SequenceBatch {
    /// Indices into the calibration set.
    pub sequences: Vec<usize>,
    pub length: usize,
    /// Tokens of all batches before.
    pub first_token: usize,
}

impl SequenceBatch {
    pub fn tokens(&self) -> usize {
        self.sequences.len() * self.length
    }

    /// Shape of activations of `width` channels.
    pub fn shape(&self, width: usize) -> [usize; 3] {
        [self.sequences.len(), self.length, width]
    }
}

/// Cuts sequences of these lengths into batches of one length each, as many sequences in one as `fitting` says of a length;
/// short ones first.
pub(super) fn batches(lengths: &[usize], fitting: impl Fn(usize) -> usize) -> Vec<SequenceBatch> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&sequence| lengths[sequence]);
    let mut first_token = 0;
    let mut batches = Vec::new();
    for alike in order.chunk_by(|&a, &b| lengths[a] == lengths[b]) {
        let length = lengths[alike[0]];
        for sequences in alike.chunks(fitting(length).max(1)) {
            let batch = SequenceBatch { sequences: sequences.to_vec(), length, first_token };
            first_token += batch.tokens();
            batches.push(batch);
        }
    }
    batches
}

/// Activations of all batches, one tensor each.
pub(super) enum Store {
    /// In a file that is read through a map: the system drops and rereads pages as memory allows.
    Mapped(Scratch),
    /// Where CUDA computes; `None` until a batch is put. A value is never written to, so copies of a store share it.
    Resident(Vec<Option<Arc<Resident>>>),
}

/// A file without a name, gone with the process.
pub(super) struct Scratch {
    file: File,
    map: Mmap,
    folder: PathBuf,
    /// Room of each token, in values: a batch of fewer channels leaves the rest of its room unused.
    width: usize,
}

impl Scratch {
    /// Room for `tokens` of up to `width` channels.
    pub fn new(folder: &Path, tokens: usize, width: usize) -> Result<Scratch, CalibError> {
        let bytes = (tokens * width * size_of::<f32>()) as u64;
        let open = || {
            let file = tempfile::tempfile_in(folder)?;
            file.set_len(bytes)?;
            // SAFETY: nobody else has the nameless file. It is written only through `put`, which borrows the scratch mutably,
            // so that no slice of the map is alive then; on Linux a map shows what was written to its file.
            let map = unsafe { Mmap::map(&file) }?;
            Ok((file, map))
        };
        let folder = folder.to_owned();
        let (file, map) = open().map_err(|source| CalibError::Scratch { folder: folder.clone(), bytes, source })?;
        Ok(Scratch { file, map, folder, width })
    }

    fn values(&self, batch: &SequenceBatch, width: usize) -> &[f32] {
        let start = batch.first_token * self.width * size_of::<f32>();
        let bytes = &self.map[start..start + batch.tokens() * width * size_of::<f32>()];
        // SAFETY: every bit pattern is an f32; a map begins at a page and `start` is a multiple of four bytes.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<f32>()) }
    }

    /// Another file with the same activations.
    fn copied(&self) -> Result<Scratch, CalibError> {
        let values = self.map.len() / size_of::<f32>();
        let mut copy = Scratch::new(&self.folder, values / self.width, self.width)?;
        copy.overwrite(self)?;
        Ok(copy)
    }

    /// All activations of `other`, which is of the same size.
    fn overwrite(&mut self, other: &Scratch) -> Result<(), CalibError> {
        self.write(&other.map, 0)
    }

    /// Written, not stored through the map: a full disk is then an error and not the end of the process.
    pub fn put(&mut self, batch: &SequenceBatch, values: &[f32]) -> Result<(), CalibError> {
        // SAFETY: f32 values are plain bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        self.write(bytes, (batch.first_token * self.width * size_of::<f32>()) as u64)
    }

    fn write(&mut self, bytes: &[u8], start: u64) -> Result<(), CalibError> {
        self.file.write_all_at(bytes, start).map_err(|source| CalibError::Scratch {
            folder: self.folder.clone(),
            bytes: self.map.len() as u64,
            source,
        })
    }
}

impl Store {
    /// The activations of batch `index`, of `shape`.
    pub fn get<'a>(&'a self, index: usize, batch: &SequenceBatch, shape: &'a [usize; 3]) -> Operand<'a> {
        match self {
            Store::Mapped(scratch) => Operand::F32 { shape, values: scratch.values(batch, shape[2]) },
            Store::Resident(values) => {
                Operand::Resident(values[index].as_ref().expect("a stage writes every batch before the next stage reads it"))
            }
        }
    }

    /// A store of its own with the same activations.
    pub fn copied(&self) -> Result<Store, CalibError> {
        match self {
            Store::Mapped(scratch) => scratch.copied().map(Store::Mapped),
            Store::Resident(values) => Ok(Store::Resident(values.clone())),
        }
    }

    /// Takes over the activations of `other`, a copy of this store.
    pub fn overwrite(&mut self, other: &Store) -> Result<(), CalibError> {
        match (self, other) {
            (Store::Mapped(scratch), Store::Mapped(other)) => scratch.overwrite(other),
            (store, Store::Resident(values)) => {
                *store = Store::Resident(values.clone());
                Ok(())
            }
            (Store::Resident(_), Store::Mapped(_)) => unreachable!("a copy lies where its original does"),
        }
    }

    /// Replaces the activations of batch `index`.
    ///
    /// Returns the largest magnitude of values that came to the host, 0 of others.
    pub fn put(&mut self, index: usize, batch: &SequenceBatch, value: Resident) -> Result<f32, CalibError> {
        match self {
            Store::Mapped(scratch) => {
                let values = value.floats().map_err(CalibError::Runtime)?;
                scratch.put(batch, &values)?;
                Ok(values.iter().fold(0.0, |largest, value| largest.max(value.abs())))
            }
            Store::Resident(values) => {
                values[index] = Some(Arc::new(value));
                Ok(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_one_length_and_every_sequence_once() {
        let batches = batches(&[3, 5, 3, 3, 5, 1], |length| 6 / length);
        let expected = [(vec![5], 1, 0), (vec![0, 2], 3, 1), (vec![3], 3, 7), (vec![1], 5, 10), (vec![4], 5, 15)];
        let got: Vec<_> = batches.into_iter().map(|batch| (batch.sequences, batch.length, batch.first_token)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_scratch_file_gives_back_what_was_put_at_any_width() {
        let mut scratch = Scratch::new(&std::env::temp_dir(), 7, 4).expect("a temporary file can be made");
        let batches = batches(&[2, 2, 3], |_| 2);
        let values = |batch: usize, width: usize| (0..batches[batch].tokens() * width).map(|i| (i + batch) as f32).collect();
        for width in [4, 1, 3] {
            for (index, batch) in batches.iter().enumerate() {
                let values: Vec<f32> = values(index, width);
                scratch.put(batch, &values).expect("the file can be written");
            }
            for (index, batch) in batches.iter().enumerate() {
                let values: Vec<f32> = values(index, width);
                assert_eq!(scratch.values(batch, width), values);
            }
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Scratch::new(Path::new("/no/such/folder"), 10, 4).map(drop).expect_err("there is no such folder");
        let expected = "the scratch file for activations in /no/such/folder cannot be used; give a folder with 160 bytes free";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.fault(), crate::fault::Fault::Failed);
    }
}
