//! The file that llama.cpp reads, as a place for weights.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::dense;
use super::packing;
use super::shards::digest;
use super::sink::{Bands, Sink};
use super::targets::{self, CheckpointForm, GGUF_FILE, Gguf, Matrix};
use crate::artifact::ArtifactError;
use crate::checkpoint::TensorView;
use crate::host::FileError;
use crate::model::StoredWeight;
use crate::quant::QuantizedTensor;
use crate::tensor::DType;

/// Writes weights where the file's head says that they lie.
pub struct GgufSink<'g> {
    gguf: &'g Gguf,
    form: &'static dyn CheckpointForm,
    activation: DType,
    path: PathBuf,
    file: File,
}

impl<'g> GgufSink<'g> {
    /// Makes the file in `folder`, with its head and without a weight.
    ///
    /// # Errors
    /// The disk's own.
    pub fn new(
        folder: &Path,
        gguf: &'g Gguf,
        form: &'static dyn CheckpointForm,
        activation: DType,
    ) -> Result<GgufSink<'g>, FileError> {
        let path = folder.join(GGUF_FILE);
        let file = File::create(&path).and_then(|file| file.set_len(gguf.bytes()).map(|()| file));
        let file = file.map_err(FileError::at(&path, "cannot be written"))?;
        let sink = GgufSink { gguf, form, activation, path, file };
        sink.write(gguf.head(), 0)?;
        if let Some((start, factors)) = &gguf.rope_factors {
            sink.write(&packing::f32_bytes(factors), *start)?;
        }
        Ok(sink)
    }

    /// Puts the file on the disk.
    ///
    /// # Errors
    /// The disk's own.
    pub fn finish(self) -> Result<(), FileError> {
        self.file.sync_data().map_err(self.failed())
    }

    fn write(&self, bytes: &[u8], start: u64) -> Result<(), FileError> {
        self.file.write_all_at(bytes, start).map_err(self.failed())
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> FileError {
        FileError::at(&self.path, "cannot be written")
    }

    /// Writes a weight's rows in the file's order; the digest of its own.
    fn put(&self, weight: &StoredWeight, bytes: &[u8]) -> Result<String, ArtifactError> {
        let place = self.gguf.place(&weight.weight);
        self.write(&place.to_file(bytes, weight.shape[0]), place.start)?;
        Ok(digest([bytes].into_iter()))
    }
}

impl<'c> Sink<'c> for GgufSink<'_> {
    fn quantized(&self, weight: &StoredWeight, tensor: &QuantizedTensor) -> Result<String, ArtifactError> {
        let matrix = Matrix::of(weight).expect("it is planned as quantized");
        for (_, bytes) in targets::packed(self.form, &matrix, tensor, self.activation)? {
            self.put(weight, &bytes)?;
        }
        Ok(packing::digest(tensor))
    }

    fn dense(&self, weight: &StoredWeight, view: TensorView<'c>) -> Result<String, ArtifactError> {
        self.put(weight, &dense::of_view(weight, view)?)
    }

    fn changed(&self, weight: &StoredWeight, values: &[f32]) -> Result<String, ArtifactError> {
        self.put(weight, &dense::encoded(weight, values)?)
    }

    /// The whole table is held, in the type that it is stored in.
    fn changed_in_bands(&self, weight: &StoredWeight, bands: &mut Bands<'_>) -> Result<String, ArtifactError> {
        self.put(weight, &dense::all_bands(weight, bands)?)
    }

    fn passed(&self, _: usize) -> Result<(), ArtifactError> {
        Ok(())
    }
}
