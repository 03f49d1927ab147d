//! Statistics of a layer's inputs: from the files of an earlier export, or from the model, run only as far as it must be.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context;
use indicatif::ProgressBar;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::weights::Weights;
use crate::calib::{Both, CalibError, Linear, Matrix, Qkv, Stream, StreamOptions, Vector};
use crate::checkpoint::{Numbers, TensorFile};
use crate::model::LinearInput;
use crate::pipeline::interrupt;
use crate::quant::InputStats;

/// Inputs of a decoder layer.
const INPUTS: usize = LinearInput::ALL.len();

/// The linears of one input as a stage multiplies by them.
pub struct Fed {
    pub quantized: Vec<Array2<f32>>,
    /// Of the unquantized model, where it runs beside; empty otherwise.
    pub reference: Vec<Array2<f32>>,
    pub biases: Vec<Option<Vec<f32>>>,
}

/// The model's activations on the calibration set, one input after the other.
pub struct Activations<'a> {
    weights: &'a Weights<'a>,
    sequences: &'a [Vec<u32>],
    options: StreamOptions,
    bar: ProgressBar,
    stream: Option<Stream<'a>>,
    /// Inputs that the stream has come to.
    reached: usize,
    /// Where statistics are kept.
    kept: Option<PathBuf>,
    /// Of everything that determines the next input's statistics.
    chain: blake3::Hasher,
}

/// The note in a file of statistics.
#[derive(Serialize, Deserialize)]
struct Note {
    tokens: u64,
}

impl<'a> Activations<'a> {
    /// `chain` has taken in what determines the activations of the model before any weight is rounded.
    pub fn new(
        weights: &'a Weights<'a>,
        sequences: &'a [Vec<u32>],
        options: StreamOptions,
        kept: Option<PathBuf>,
        chain: blake3::Hasher,
        bar: ProgressBar,
    ) -> Activations<'a> {
        Activations { weights, sequences, options, bar, stream: None, reached: 0, kept, chain }
    }

    /// Tells what the linears of the input before the next one became.
    pub fn follow(&mut self, rounded: impl FnOnce(&mut blake3::Hasher)) {
        rounded(&mut self.chain);
    }

    /// Statistics of input `n`, counted over all layers. `fed` gives the rounded linears of an input before it.
    pub fn statistics(&mut self, n: usize, fed: &dyn Fn(usize) -> anyhow::Result<Fed>) -> anyhow::Result<InputStats> {
        let file = self.kept.as_ref().map(|folder| {
            let key = self.chain.clone().update(&(n as u64).to_le_bytes()).finalize();
            folder.join(format!("{}.safetensors", &key.to_hex()[..32]))
        });
        if let Some(file) = file.as_ref().filter(|file| file.is_file()) {
            tracing::info!("statistics of input {n} read from {}", file.display());
            return read(file);
        }
        if self.stream.is_none() {
            self.stream = Some(self.start()?);
        }
        while self.reached <= n {
            interrupt::check()?;
            self.advance(fed)?;
        }
        let stream = self.stream.as_mut().expect("it was started above");
        let stats = stream.statistics().map_err(interrupted)?;
        if let Some(file) = file {
            write(&stats, &file)?;
        }
        Ok(stats)
    }

    fn start(&self) -> anyhow::Result<Stream<'a>> {
        let bar = self.bar.clone();
        let layers = self.weights.config.num_hidden_layers;
        let observe = Box::new(move |progress: crate::calib::Progress| {
            let (layer, step) = ((progress.layer + 1).min(layers), progress.step);
            bar.set_message(format!("layer {layer}/{layers}: {step} {}/{}", progress.done, progress.all));
            if interrupt::check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut failed = None;
        let mut embedding = |id: u32, row: &mut [f32]| {
            if let Err(error) = self.weights.embedding(id as usize, row) {
                failed.get_or_insert(error);
            }
        };
        let started = Stream::start(self.weights.config, &self.options, self.sequences, &mut embedding, observe);
        self.weights.checkpoint.release("model.embed_tokens.weight")?;
        match failed {
            Some(error) => Err(error),
            None => started.map_err(interrupted),
        }
    }

    /// Through one stage: the linears of the input that was reached last.
    fn advance(&mut self, fed: &dyn Fn(usize) -> anyhow::Result<Fed>) -> anyhow::Result<()> {
        let (layer, input) = (self.reached / INPUTS, LinearInput::ALL[self.reached % INPUTS]);
        let norm = |name: &str| self.weights.vector(&format!("model.layers.{layer}.{name}.weight"));
        let stream = self.stream.as_mut().expect("statistics starts it");
        let before = if self.reached == 0 { None } else { Some(fed(self.reached - 1)?) };
        let linears = before.as_ref().map(Fed::linears).unwrap_or_default();
        let done = match (input, linears.as_slice()) {
            (LinearInput::QueryKeyValue, []) => stream.advance_enter(&Vector::same(&norm("input_layernorm")?)),
            (LinearInput::QueryKeyValue, [down]) => stream.advance_add_mlp(down, &Vector::same(&norm("input_layernorm")?)),
            (LinearInput::AttentionOutput, &[q, k, v]) => stream.advance_attend(&Qkv { q, k, v }),
            (LinearInput::GateUp, [o]) => stream.advance_add_attention(o, &Vector::same(&norm("post_attention_layernorm")?)),
            (LinearInput::Down, [gate, up]) => stream.advance_activate(gate, up),
            (_, other) => unreachable!("{input:?} does not come behind {} linears", other.len()),
        };
        done.map_err(interrupted)?;
        self.reached += 1;
        Ok(())
    }
}

impl Fed {
    fn linears(&self) -> Vec<Linear<'_>> {
        let linear = |index: usize| {
            let quantized = &self.quantized[index];
            let weight: Matrix<'_> = Both { quantized: quantized.view(), reference: self.reference.get(index).map(|w| w.view()) };
            Linear { weight, bias: self.biases[index].as_deref().map(Vector::same) }
        };
        (0..self.quantized.len()).map(linear).collect()
    }
}

/// The user's wish to stop is the same wherever it is noticed.
fn interrupted(error: CalibError) -> anyhow::Error {
    match error {
        CalibError::Interrupted { .. } => interrupt::Interrupted.into(),
        other => other.into(),
    }
}

fn write(stats: &InputStats, path: &std::path::Path) -> anyhow::Result<()> {
    let mut file = TensorFile::default();
    file.note = serde_json::to_string(&Note { tokens: stats.tokens })?;
    for (name, matrix) in [("gram", Some(&stats.gram)), ("cross", stats.cross.as_ref())] {
        if let Some(matrix) = matrix {
            file.put(name, matrix.shape(), Numbers::F32(matrix.iter().copied().collect()));
        }
    }
    for (name, vector) in [("mean_abs", &stats.mean_abs), ("max_abs", &stats.max_abs)] {
        file.put(name, &[vector.len()], Numbers::F32(vector.clone()));
    }
    Ok(file.write(path)?)
}

fn read(path: &std::path::Path) -> anyhow::Result<InputStats> {
    let damaged = || format!("{}: these are no statistics; remove the file, it is made again", path.display());
    let mut file = TensorFile::read(path)?;
    let note: Note = serde_json::from_str(&file.note).with_context(damaged)?;
    let mut square = |name: &str| -> Option<Array2<f32>> {
        let (shape, values) = file.take_f32(name)?;
        Array2::from_shape_vec((*shape.first()?, *shape.get(1)?), values).ok()
    };
    let gram = square("gram").with_context(damaged)?;
    let cross = square("cross");
    let (_, mean_abs) = file.take_f32("mean_abs").with_context(damaged)?;
    let (_, max_abs) = file.take_f32("max_abs").with_context(damaged)?;
    let stats = InputStats { tokens: note.tokens, gram, mean_abs, max_abs, cross };
    is_sound(&stats).then_some(stats).with_context(damaged)
}

/// Whether shapes agree and no number is one that statistics cannot have.
fn is_sound(stats: &InputStats) -> bool {
    let width = stats.mean_abs.len();
    let squares = [Some(&stats.gram), stats.cross.as_ref()];
    let agree = stats.max_abs.len() == width && squares.iter().flatten().all(|square| square.dim() == (width, width));
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    let squares_finite = squares.iter().flatten().all(|square| square.iter().all(|value| value.is_finite()));
    agree
        && stats.tokens > 0
        && squares_finite
        && finite(&stats.mean_abs)
        && finite(&stats.max_abs)
        && stats.gram.diag().iter().all(|&power| power >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_read_back_as_themselves() {
        let square = |factor: f32| Array2::from_shape_fn((5, 5), |(i, j)| factor * (i + j) as f32 / 7.0);
        let stats = InputStats {
            tokens: 12345,
            gram: square(1.0),
            mean_abs: vec![0.1; 5],
            max_abs: vec![3.5; 5],
            cross: Some(square(-0.3)),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        write(&stats, &path).unwrap();
        assert_eq!(read(&path).unwrap(), stats);
        let without = InputStats { cross: None, ..stats };
        write(&without, &path).unwrap();
        assert_eq!(read(&path).unwrap(), without);
    }

    #[test]
    fn damaged_statistics_are_refused_by_their_file() {
        let sound = InputStats {
            tokens: 7,
            gram: Array2::from_elem((3, 3), 0.5),
            mean_abs: vec![0.1; 3],
            max_abs: vec![1.0; 3],
            cross: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        let damages: [fn(&mut InputStats); 6] = [
            |stats| stats.max_abs.truncate(2),
            |stats| stats.mean_abs.push(0.0),
            |stats| stats.gram = Array2::zeros((2, 2)),
            |stats| stats.gram[[0, 1]] = f32::NAN,
            |stats| stats.gram[[1, 1]] = -1.0,
            |stats| stats.tokens = 0,
        ];
        for damage in damages {
            let mut stats = sound.clone();
            damage(&mut stats);
            write(&stats, &path).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("stats: these are no statistics; remove the file"), "{error}");
        }
    }
}
