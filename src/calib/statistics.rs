//! Sums over tokens of one linear input, computed where the activations lie.
//!
//! `G = Σ xᵀx` takes most of a calibration's time. Being symmetric, only its upper part is computed on the CPU, one block of
//! columns at a time: with eight blocks 36 of 64 products. Rows of `x` are transposed once and not by each product, whose left
//! operand is then as tall as can be. Measured for 4096 tokens of 1536 channels: 146 ms of a core's time instead of 249 ms.
//!
//! Sums are kept in f32. A sum of n terms rounded each time is off by at most `n·2⁻²⁴` of the sum of magnitudes; products
//! add blocks of some hundred terms at once, so 262144 tokens make some thousand roundings, at most 2⁻¹⁴ of `√(Gᵢᵢ·Gⱼⱼ)`;
//! 65536 tokens of one sign, the worst case, are off by 2·10⁻⁶ (`tests/it/calibration_stream.rs`): far below any damping of the
//! Gram matrix. On CUDA f16 activations are widened to f32 and multiplied in TF32, whose 11 bits hold an f16 exactly; a product
//! of two has 22 bits and is exact in the f32 accumulator.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::*;

use super::CalibError;
use super::activations::{SequenceBatch, Store};
use crate::onnx::{Graph, GraphError, Model, Shape, Type, Value};
use crate::quant::InputStats;
use crate::runtime::{ExecutionProvider, Operand, Resident, StageSession, Stages, Target};
use crate::tensor::DType;

/// What the graph reads: `[batch, sequence, width]`, of the model as it is quantized so far, and of the unquantized one.
const QUANTIZED: &str = "quantized";
const REFERENCE: &str = "reference";

/// Blocks of columns of a Gram matrix on the CPU, see above.
const CPU_BLOCKS: usize = 8;

/// Rows and columns of a tile of the matrix while it is made symmetric: 4 KiB.
const TILE: usize = 32;

/// Sums of one input of `width` channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sums {
    pub width: usize,
    pub blocks: usize,
    pub activation: DType,
    /// Whether a reference stream runs beside.
    pub cross: bool,
}

impl Sums {
    pub fn new(width: usize, provider: ExecutionProvider, activation: DType, cross: bool) -> Sums {
        let blocks = match provider {
            ExecutionProvider::Cpu => CPU_BLOCKS,
            ExecutionProvider::Cuda => 1,
        };
        Sums { width, blocks, activation, cross }
    }

    /// Columns of a block; its rows are all from the first to its last column's.
    fn block(&self, index: usize) -> Range<usize> {
        index * self.width / self.blocks..(index + 1) * self.width / self.blocks
    }

    /// Shapes of all sums: the blocks, Σ|x|, max|x|, and the cross Gram matrix.
    fn shapes(&self) -> Vec<Vec<usize>> {
        let blocks = (0..self.blocks).map(|index| self.block(index)).map(|columns| vec![columns.end, columns.len()]);
        let cross = self.cross.then(|| vec![self.width, self.width]);
        blocks.chain([vec![self.width], vec![self.width]]).chain(cross).collect()
    }

    /// `sum.{i}`, a batch of activations → `sum.{i}.next`.
    fn graph(&self) -> Result<Model, GraphError> {
        let graph = Graph::new("statistics");
        let op = graph.at("statistics");
        let rows = |name: &str| {
            let x = graph.input(name, Type::new(self.activation, ["batch".into(), "sequence".into(), self.width.into()]));
            op.cast(op.flatten(x, "tokens"), DType::F32)
        };
        let x = rows(QUANTIZED);
        let before: Vec<Value> = (self.shapes().iter().enumerate())
            .map(|(index, shape)| graph.input(&name(index), Type::new(DType::F32, Shape::known(shape))))
            .collect();
        let upright = op.transposed(x);
        let block = |(index, &sum)| {
            let columns = self.block(index);
            op.add_product(op.first_rows(upright, columns.end), op.columns(x, columns), sum)
        };
        let mut after: Vec<Value> = before[..self.blocks].iter().enumerate().map(block).collect();
        let magnitudes = op.abs(x);
        after.push(op.add(op.reduce_sum(magnitudes, 0), before[after.len()]));
        after.push(op.max(op.reduce_max(magnitudes, 0), before[after.len()]));
        if self.cross {
            after.push(op.add_product(op.transposed(rows(REFERENCE)), x, before[after.len()]));
        }
        let named = after.iter().enumerate().map(|(index, &sum)| graph.rename(sum, &next_name(index)));
        let outputs: Vec<Value> = named.collect();
        graph.finish(&outputs)
    }

    /// Means of `tokens` tokens; `Err` is a channel that is not finite.
    fn means(&self, sums: &[Cow<'_, [f32]>], tokens: usize) -> Result<InputStats, usize> {
        let (blocks, rest) = sums.split_at(self.blocks);
        let mean = |sum: &f32| (f64::from(*sum) / tokens as f64) as f32;
        let gram = self.whole(blocks, &mean);
        let means = |index: usize| rest[index].iter().map(mean).collect::<Vec<f32>>();
        let (mean_abs, max_abs) = (means(0), rest[1].to_vec());
        let square = (self.width, self.width);
        let cross = self.cross.then(|| Array2::from_shape_vec(square, means(2)).expect("the sum has the graph's shape"));
        // A NaN or an infinity anywhere in a channel is one in its sum.
        let finite = |channel: &usize| mean_abs[*channel].is_finite() && gram[[*channel, *channel]].is_finite();
        match (0..self.width).find(|channel| !finite(channel)) {
            Some(channel) => Err(channel),
            None => Ok(InputStats { tokens: tokens as u64, gram, mean_abs, max_abs, cross }),
        }
    }

    /// The whole matrix from its blocks of columns. Of a block on the diagonal the upper half is taken for both.
    fn whole(&self, blocks: &[Cow<'_, [f32]>], mean: &(impl Fn(&f32) -> f32 + Sync)) -> Array2<f32> {
        let width = self.width;
        let mut gram = Array2::zeros((width, width));
        let values = gram.as_slice_mut().expect("a fresh array is contiguous");
        values.par_chunks_exact_mut(width).enumerate().for_each(|(row, values)| {
            for (index, sums) in blocks.iter().enumerate() {
                let columns = self.block(index);
                if row < columns.end {
                    let sums = &sums[row * columns.len()..][..columns.len()];
                    values[columns].iter_mut().zip(sums).for_each(|(value, sum)| *value = mean(sum));
                }
            }
        });
        // In tiles, so that of both triangles only a few lines are in use at a time.
        for (top, left) in (0..width).step_by(TILE).flat_map(|top| (0..=top).step_by(TILE).map(move |left| (top, left))) {
            for row in top..width.min(top + TILE) {
                for column in left..row.min(left + TILE) {
                    values[row * width + column] = values[column * width + row];
                }
            }
        }
        gram
    }
}

fn name(index: usize) -> String {
    format!("sum.{index}")
}

fn next_name(index: usize) -> String {
    format!("sum.{index}.next")
}

/// Sessions that sum, one for each width of input.
#[derive(Default)]
pub(super) struct Statistics {
    stages: HashMap<Sums, StageSession>,
}

impl Statistics {
    /// Statistics of the activations in `stores`: the quantized model's, and the reference's where one runs beside.
    ///
    /// `observe` is called after each batch. `Ok(Err(channel))`: the channel is not finite.
    pub fn collect(
        &mut self,
        stages: &Stages,
        sums: Sums,
        batches: &[SequenceBatch],
        stores: &[&Store],
        observe: &mut dyn FnMut(usize) -> Result<(), CalibError>,
    ) -> Result<Result<InputStats, usize>, CalibError> {
        let stage = match self.stages.entry(sums) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(stages.open(&sums.graph()?, "the graph of statistics").map_err(CalibError::Runtime)?)
            }
        };
        let shapes = sums.shapes();
        let names: Vec<String> = (0..shapes.len()).map(name).collect();
        let largest = shapes.iter().map(|shape| shape.iter().product()).max().unwrap_or(0);
        let zeros = vec![0f32; largest];
        let mut bound = stage.bind(&[]).map_err(CalibError::Runtime)?;
        let mut totals: Vec<Resident> = Vec::new();
        for (index, batch) in batches.iter().enumerate() {
            let shape = batch.shape(sums.width);
            let activations =
                [QUANTIZED, REFERENCE].into_iter().zip(stores).map(|(name, store)| (name, store.get(index, batch, &shape)));
            let mut operands: Vec<(&str, Operand<'_>)> = activations.collect();
            for (place, (name, shape)) in names.iter().zip(&shapes).enumerate() {
                let zero = Operand::F32 { shape, values: &zeros[..shape.iter().product()] };
                operands.push((name, totals.get(place).map_or(zero, Operand::Resident)));
            }
            let target = if index + 1 == batches.len() { Target::Host } else { Target::Device };
            totals = bound.run(&operands, target).map_err(CalibError::ran(batch.tokens()))?;
            observe(index + 1)?;
        }
        let read = totals.iter().map(Resident::floats).collect::<Result<Vec<_>, _>>().map_err(CalibError::Runtime)?;
        Ok(sums.means(&read, batches.iter().map(SequenceBatch::tokens).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// Some reproducible numbers from −1 to 1.
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            Some((*state >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
        };
        std::iter::from_fn({
            let mut state = seed;
            move || next(&mut state)
        })
        .take(count)
        .collect()
    }

    #[test]
    fn blocks_make_one_symmetric_matrix_of_means() {
        // Eleven channels fall into eight blocks of one or two; sum [i, j] is 100·max + min, so that each place is its own.
        for blocks in [1, 3, 8] {
            let sums = Sums { width: 11, blocks, activation: DType::F32, cross: true };
            let at = |i: usize, j: usize| (100 * i.max(j) + i.min(j)) as f32;
            let block = |index: usize| {
                let columns = sums.block(index);
                (0..columns.end).flat_map(|row| columns.clone().map(move |column| at(row, column))).collect::<Vec<f32>>()
            };
            let (magnitudes, cross) = (numbers(11, 1), numbers(121, 2));
            let parts = (0..blocks).map(block).chain([magnitudes.clone(), magnitudes.clone(), cross.clone()]);
            let parts: Vec<Cow<'_, [f32]>> = parts.map(Cow::from).collect();
            let lengths: Vec<usize> = sums.shapes().iter().map(|shape| shape.iter().product()).collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), lengths);
            let means = sums.means(&parts, 4).expect("everything is finite");
            assert_eq!(means.gram, Array2::from_shape_fn((11, 11), |(i, j)| at(i, j) / 4.0));
            assert_eq!(means.mean_abs, magnitudes.iter().map(|sum| sum / 4.0).collect::<Vec<_>>());
            assert_eq!((means.max_abs, means.tokens), (magnitudes, 4));
            let halved: Vec<f32> = cross.iter().map(|sum| sum / 4.0).collect();
            assert_eq!(means.cross.expect("it was asked for").into_raw_vec_and_offset().0, halved);
        }
    }

    #[test]
    fn a_channel_that_is_not_finite_is_found() {
        let sums = Sums { width: 3, blocks: 1, activation: DType::F32, cross: false };
        let (gram, finite) = (Cow::from(vec![1.0; 9]), Cow::from(vec![1.0; 3]));
        for broken in [f32::NAN, f32::INFINITY] {
            let magnitudes = Cow::from(vec![1.0, 2.0, broken]);
            assert_eq!(sums.means(&[gram.clone(), magnitudes, finite.clone()], 5), Err(2));
            let squares = Cow::from(vec![1.0, 1.0, 1.0, 1.0, broken, 1.0, 1.0, 1.0, 1.0]);
            assert_eq!(sums.means(&[squares, finite.clone(), finite.clone()], 5), Err(1));
        }
    }

    /// What the module says of TF32: f16 fits its 11 bits (8 of exponent, 10 stored of the significand), and products of two
    /// have a place in f32.
    #[test]
    fn tf32_holds_every_f16_and_f32_every_product_of_two() {
        let all = (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite());
        assert!(all.clone().all(|half| half.to_f32().to_bits().trailing_zeros() >= 13 || half == f16::ZERO));
        let some: Vec<f32> = all.step_by(61).map(f32::from).collect();
        let exact = |a: f32, b: f32| f64::from(a * b) == f64::from(a) * f64::from(b);
        assert!(some.iter().all(|&a| some.iter().all(|&b| exact(a, b))));
    }
}
