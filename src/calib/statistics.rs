//! Sums over tokens of one linear input, computed where the activations lie.
//!
//! `G = Σ xᵀx` takes most of a calibration's time. Being symmetric, only its upper block columns are computed on the CPU:
//! with four blocks 10 of 16 products, in 60 % of the time, which is also smaller operands' better use of the cache (measured:
//! 83 ms instead of 139 ms for 4096 tokens of 1536 channels on two cores).
//!
//! Sums are kept in f32. A sum of n terms rounded each time is off by at most `n·2⁻²⁴` of the sum of magnitudes; products
//! add blocks of some hundred terms at once, so 262144 tokens make some thousand roundings, at most 2⁻¹⁴ of `√(Gᵢᵢ·Gⱼⱼ)` and
//! typically their square root, 2⁻¹⁹: far below any damping of the Gram matrix. On CUDA f16 activations are widened to f32 and
//! multiplied in TF32, whose 11 bits hold an f16 exactly; a product of two has 22 bits and is exact in the f32 accumulator.

use std::collections::HashMap;
use std::ops::Range;

use ndarray::Array2;

use super::CalibError;
use super::activations::{Batch, Store};
use crate::onnx::{Graph, GraphError, Model, Shape, Type, Value};
use crate::quant::InputStats;
use crate::runtime::{ExecutionProvider, Operand, Resident, Stage, Stages, Target};
use crate::tensor::DType;

/// What the graph reads: `[batch, sequence, width]`, of the model as it is quantized so far, and of the unquantized one.
const QUANTIZED: &str = "quantized";
const REFERENCE: &str = "reference";

/// Block columns of a Gram matrix on the CPU, see above.
const CPU_BLOCKS: usize = 4;

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

    fn block(&self, index: usize) -> Range<usize> {
        index * self.width / self.blocks..(index + 1) * self.width / self.blocks
    }

    /// Row and column of every block on or above the diagonal.
    fn upper(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.blocks).flat_map(move |row| (row..self.blocks).map(move |column| (self.block(row), self.block(column))))
    }

    /// Shapes of all sums: the blocks, Σ|x|, max|x|, and the cross Gram matrix.
    fn shapes(&self) -> Vec<Vec<usize>> {
        let blocks = self.upper().map(|(rows, columns)| vec![rows.len(), columns.len()]);
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
        let columns: Vec<Value> = match self.blocks {
            1 => vec![x],
            blocks => (0..blocks).map(|block| op.columns(x, self.block(block))).collect(),
        };
        let pairs = (0..self.blocks).flat_map(|row| (row..self.blocks).map(move |column| (row, column)));
        let mut after: Vec<Value> = (pairs.zip(&before))
            .map(|((row, column), &sum)| op.add_product_over_rows(columns[row], columns[column], sum))
            .collect();
        let magnitudes = op.abs(x);
        after.push(op.add(op.reduce_sum(magnitudes, 0), before[after.len()]));
        after.push(op.max(op.reduce_max(magnitudes, 0), before[after.len()]));
        if self.cross {
            after.push(op.add_product_over_rows(rows(REFERENCE), x, before[after.len()]));
        }
        let named = after.iter().enumerate().map(|(index, &sum)| graph.rename(sum, &next_name(index)));
        let outputs: Vec<Value> = named.collect();
        graph.finish(&outputs)
    }

    /// Means of `tokens` tokens; `Err` is a channel that is not finite.
    fn means(&self, sums: &[Vec<f32>], tokens: usize) -> Result<InputStats, usize> {
        let mean = |sum: &f32| (f64::from(*sum) / tokens as f64) as f32;
        let mut gram = Array2::zeros((self.width, self.width));
        let mut sums = sums.iter();
        for ((rows, columns), sum) in self.upper().zip(&mut sums) {
            for (row, values) in rows.zip(sum.chunks_exact(columns.len())) {
                for (column, value) in columns.clone().zip(values) {
                    gram[[row, column]] = mean(value);
                    gram[[column, row]] = mean(value);
                }
            }
        }
        let mut next = || sums.next().expect("a run returns all sums");
        let (mean_abs, max_abs): (Vec<f32>, Vec<f32>) = (next().iter().map(mean).collect(), next().clone());
        let cross = self.cross.then(|| {
            let means = next().iter().map(mean).collect();
            Array2::from_shape_vec((self.width, self.width), means).expect("the sum has the graph's shape")
        });
        // A NaN or an infinity anywhere in a channel is one in its sum.
        let finite = |channel: &usize| mean_abs[*channel].is_finite() && gram[[*channel, *channel]].is_finite();
        match (0..self.width).find(|channel| !finite(channel)) {
            Some(channel) => Err(channel),
            None => Ok(InputStats { tokens: tokens as u64, gram, mean_abs, max_abs, cross }),
        }
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
    stages: HashMap<Sums, Stage>,
}

impl Statistics {
    /// Statistics of the activations in `stores`: the quantized model's, and the reference's where one runs beside.
    ///
    /// `observe` is called after each batch. `Ok(Err(channel))`: the channel is not finite.
    pub fn collect(
        &mut self,
        stages: &Stages,
        sums: Sums,
        batches: &[Batch],
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
        let read = totals.iter().map(|total| total.floats().map(|sum| sum.into_owned()));
        let read = read.collect::<Result<Vec<_>, _>>().map_err(CalibError::Runtime)?;
        Ok(sums.means(&read, batches.iter().map(Batch::tokens).sum()))
    }
}
