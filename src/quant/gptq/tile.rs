//! GPTQ on a few rows at a time. Within these, numbers are kept column by column, so that one column of 16 rows is a vector
//! register and the columns rounded so far are one matrix for the kernel that passes their errors on.

use std::array::from_fn;

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_unit_upper_triangular_in_place;
use faer::{Accum, MatMut, MatRef, Par};
use multiversion::multiversion;
use ndarray::ArrayView2;
use rayon::prelude::*;

use super::descent::Descent;
use super::{Gptq, GroupScales, ScaleFit, weighted};
use crate::quant::lanes::{LANES, LaneParams, Lanes, nearest};
use crate::quant::linalg::Factor;
use crate::quant::rtn::rtn;
use crate::quant::tensor::Codes;
use crate::quant::{Params, QuantizedTensor, Scheme};

/// Rows that a thread takes at a time: the same on every machine, so that the result is too.
const ROWS: usize = 64;

/// What all tiles share.
pub(super) struct Shared<'a> {
    pub scheme: &'a Scheme,
    pub options: &'a Gptq,
    pub factor: &'a Factor,
    /// In storage order, symmetric.
    pub gram: MatRef<'a, f32>,
    /// `D` of each feature, in storage order: what its rounding error costs once all later ones have made up for it.
    pub power: Vec<f32>,
    /// Features that share a scale.
    pub group_size: usize,
    pub groups: usize,
}

/// Where the results of some rows go: row by row, in storage order.
struct Slots<'a> {
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    zero_points: &'a mut [u8],
}

/// Codes of `w`, `[out_features, in_features]`, finite and in standard layout, by GPTQ and what `options` let follow it.
pub(super) fn round(
    w: ArrayView2<'_, f32>,
    gram: ArrayView2<'_, f32>,
    factor: &Factor,
    scheme: &Scheme,
    options: &Gptq,
) -> QuantizedTensor {
    let in_features = w.ncols();
    let shared = Shared {
        scheme,
        options,
        factor,
        gram: MatRef::from_column_major_slice(gram.to_slice().expect("standard layout"), in_features, in_features),
        power: factor.pivots_by_feature(),
        group_size: scheme.granularity.group_size(in_features),
        groups: scheme.granularity.groups(in_features),
    };
    let rows = w.to_slice().expect("standard layout");
    let mut tensor = match options.scale_fit {
        ScaleFit::Rule => rtn(rows, in_features, scheme),
        ScaleFit::Gram => shared.fit(rows),
    };
    let groups = shared.groups;
    let zero_points = tensor.zero_points.take();
    let mut zero_points = zero_points.unwrap_or_else(|| vec![scheme.format.symmetric_zero_point(); tensor.scales.len()]);
    let slots = (tensor.codes.par_chunks_mut(ROWS * in_features))
        .zip(tensor.scales.par_chunks_mut(ROWS * groups))
        .zip(zero_points.par_chunks_mut(ROWS * groups))
        .map(|((codes, scales), zero_points)| Slots { codes, scales, zero_points });
    rows.par_chunks(ROWS * in_features).zip(slots).for_each(|(rows, slots)| shared.round_rows(rows, slots));
    tensor.zero_points = scheme.format.has_zero_points().then_some(zero_points);
    tensor
}

/// A matrix of some rows, column by column, the rows padded with zeros to whole [`Lanes`].
#[derive(Debug, Clone)]
pub(super) struct Columns<T> {
    pub stride: usize,
    pub entries: Vec<T>,
}

impl<T: Copy + Default> Columns<T> {
    pub fn new(stride: usize, columns: usize) -> Self {
        Columns { stride, entries: vec![T::default(); stride * columns] }
    }

    /// Of rows laid out one after the other; `order` says which of their entries each column holds.
    fn gather(rows: &[T], order: impl ExactSizeIterator<Item = usize>) -> Self {
        let in_features = order.len();
        let mut columns = Columns::new((rows.len() / in_features).next_multiple_of(LANES), in_features);
        for (column, feature) in columns.entries.chunks_exact_mut(columns.stride).zip(order) {
            column.iter_mut().zip(rows[feature..].iter().step_by(in_features)).for_each(|(to, &from)| *to = from);
        }
        columns
    }

    /// Column `i` of these is column `order[i]` of the result.
    fn scattered(&self, order: &[usize]) -> Self {
        let mut columns = Columns::new(self.stride, order.len());
        for (column, &feature) in self.entries.chunks_exact(self.stride).zip(order) {
            columns.entries[feature * self.stride..][..self.stride].copy_from_slice(column);
        }
        columns
    }

    /// 16 rows of a column.
    #[inline(always)]
    pub fn lanes(&self, column: usize, strip: usize) -> &[T; LANES] {
        let lanes = self.entries[column * self.stride + strip * LANES..].first_chunk();
        lanes.expect("columns are padded to whole lanes")
    }

    #[inline(always)]
    pub fn lanes_mut(&mut self, column: usize, strip: usize) -> &mut [T; LANES] {
        let lanes = self.entries[column * self.stride + strip * LANES..].first_chunk_mut();
        lanes.expect("columns are padded to whole lanes")
    }

    pub fn strips(&self) -> usize {
        self.stride / LANES
    }
}

impl Columns<f32> {
    pub fn matrix(&self) -> MatRef<'_, f32> {
        MatRef::from_column_major_slice(&self.entries, self.stride, self.entries.len() / self.stride)
    }

    pub fn matrix_mut(&mut self) -> MatMut<'_, f32> {
        let columns = self.entries.len() / self.stride;
        MatMut::from_column_major_slice_mut(&mut self.entries, self.stride, columns)
    }
}

/// What is known of some rows while they are rounded.
pub(super) struct Tile {
    /// What is aimed at.
    pub w: Columns<f32>,
    /// `w` less what the codes stand for; zero where a column has no code yet.
    pub delta: Columns<f32>,
    pub codes: Columns<u8>,
    /// By strip of 16 rows and by group.
    pub params: Vec<LaneParams>,
}

impl Shared<'_> {
    /// Scales of all groups, fitted to the weights as they are and as they are stored; no codes yet.
    fn fit(&self, rows: &[f32]) -> QuantizedTensor {
        let in_features = self.power.len();
        let out_features = rows.len() / in_features;
        let mut scales = vec![0.0; out_features * self.groups];
        let mut zero_points = vec![0; scales.len()];
        let slots = scales.par_chunks_mut(ROWS * self.groups).zip(zero_points.par_chunks_mut(ROWS * self.groups));
        rows.par_chunks(ROWS * in_features).zip(slots).for_each(|(rows, (scales, zero_points))| {
            let w = Columns::gather(rows, 0..in_features);
            let of = |strip, group| self.fit_group(&w, strip, group * self.group_size, group);
            let params: Vec<_> = self.strips_and_groups(&w).map(|(strip, group)| of(strip, group)).collect();
            self.store_params(&params, scales, zero_points);
        });
        let zero_points = self.scheme.format.has_zero_points().then_some(zero_points);
        QuantizedTensor::new(*self.scheme, out_features, in_features, Codes { codes: vec![0; rows.len()], scales, zero_points })
    }

    fn strips_and_groups<T: Copy + Default>(&self, of: &Columns<T>) -> impl Iterator<Item = (usize, usize)> {
        let groups = self.groups;
        (0..of.strips()).flat_map(move |strip| (0..groups).map(move |group| (strip, group)))
    }

    fn round_rows(&self, rows: &[f32], slots: Slots<'_>) {
        let order = &self.factor.order;
        let w = Columns::gather(rows, order.iter().copied());
        let params = self.strips_and_groups(&w).map(|(strip, group)| self.stored_params(&slots, strip, group)).collect();
        let (delta, codes) = (Columns::new(w.stride, order.len()), Columns::new(w.stride, order.len()));
        let mut tile = Tile { w, delta, codes, params };
        self.gptq(&mut tile);
        // From the order of rounding back to the order of storage.
        let mut tile = Tile {
            w: tile.w.scattered(order),
            delta: tile.delta.scattered(order),
            codes: tile.codes.scattered(order),
            params: tile.params,
        };
        Descent::new(self).run(&mut tile, self.options.sweeps);
        let in_features = self.power.len();
        for (row, codes) in slots.codes.chunks_exact_mut(in_features).enumerate() {
            let column = tile.codes.entries[row..].iter().step_by(tile.codes.stride);
            codes.iter_mut().zip(column).for_each(|(to, &from)| *to = from);
        }
        self.store_params(&tile.params, slots.scales, slots.zero_points);
    }

    /// Of 16 rows; 1 where there are fewer.
    fn stored_params(&self, slots: &Slots<'_>, strip: usize, group: usize) -> LaneParams {
        let index = |lane| (strip * LANES + lane) * self.groups + group;
        LaneParams {
            scale: from_fn(|lane| slots.scales.get(index(lane)).copied().unwrap_or(1.0)),
            zero_point: from_fn(|lane| slots.zero_points.get(index(lane)).copied().map_or(1.0, f32::from)),
        }
    }

    fn store_params(&self, params: &[LaneParams], scales: &mut [f32], zero_points: &mut [u8]) {
        let rows = scales.chunks_exact_mut(self.groups).zip(zero_points.chunks_exact_mut(self.groups));
        for (row, (scales, zero_points)) in rows.enumerate() {
            let (strip, lane) = (row / LANES, row % LANES);
            let params = &params[strip * self.groups..][..self.groups];
            for (params, (scale, zero_point)) in params.iter().zip(scales.iter_mut().zip(zero_points)) {
                (*scale, *zero_point) = (params.scale[lane], params.zero_point[lane] as u8);
            }
        }
    }

    /// Fits one group of 16 rows to weights in storage order, of which column `first` is the group's first.
    fn fit_group(&self, w: &Columns<f32>, strip: usize, first: usize, group: usize) -> LaneParams {
        let features = group * self.group_size..self.power.len().min((group + 1) * self.group_size);
        let lanes: Vec<Lanes> = (first..first + features.len()).map(|column| *w.lanes(column, strip)).collect();
        match self.options.scale_fit {
            ScaleFit::Gram => weighted::fit_lanes(&lanes, &self.power[features], self.scheme),
            ScaleFit::Rule => {
                let of = |lane: usize| self.scheme.fit(&lanes.iter().map(|w| w[lane]).collect::<Vec<_>>());
                let params: [Params; LANES] = from_fn(of);
                let scale = params.map(|params| self.scheme.stored_scale(params.scale));
                LaneParams { scale, zero_point: params.map(|params| f32::from(params.zero_point)) }
            }
        }
    }

    /// Rounds all columns, from the last to the first, block by block.
    fn gptq(&self, tile: &mut Tile) {
        let in_features = self.power.len();
        let mut end = in_features;
        let mut lower = Vec::new();
        while end > 0 {
            let begin = end.saturating_sub(self.options.column_block);
            if self.options.group_scales == GroupScales::Dynamic {
                self.fit_groups_of_block(tile, begin, end);
            }
            let mut current = self.current(tile, begin, end);
            transpose_lower(self.factor.lower(), begin, end, &mut lower);
            let groups: Vec<usize> = self.factor.order[begin..end].iter().map(|feature| feature / self.group_size).collect();
            let block = Block { scheme: self.scheme, begin, lower: &lower, groups: &groups };
            for strip in 0..tile.w.strips() {
                let params = &tile.params[strip * self.groups..][..self.groups];
                round_strip(&block, params, strip, &mut current, &tile.w, &mut tile.delta, &mut tile.codes);
            }
            end = begin;
        }
    }

    /// `W[j] + Σ_{i≥end} ΔW[i]·L[i,j]` of columns `begin…end`, by position, where those from `end` on have codes.
    fn current(&self, tile: &Tile, begin: usize, end: usize) -> Columns<f32> {
        let stride = tile.w.stride;
        let mut current = Columns { stride, entries: tile.w.entries[begin * stride..end * stride].to_vec() };
        let feedback = self.factor.lower().get(end.., begin..end);
        matmul(current.matrix_mut(), Accum::Add, tile.delta.matrix().get(.., end..), feedback, 1.0, Par::Seq);
        current
    }

    /// Fits the groups whose first feature is in a block, all columns right of which have codes. Features are in storage order,
    /// reversed.
    fn fit_groups_of_block(&self, tile: &mut Tile, begin: usize, end: usize) {
        let in_features = self.power.len();
        let first = (in_features - end).div_ceil(self.group_size);
        let last = (in_features - begin).div_ceil(self.group_size);
        if first == last {
            return;
        }
        let leftmost = in_features.saturating_sub(last * self.group_size);
        let w = self.corrected(tile, leftmost, end);
        let order: Vec<usize> = (0..end - leftmost).rev().collect();
        let w = w.scattered(&order);
        for group in first..last {
            for strip in 0..w.strips() {
                let column = group * self.group_size - (in_features - end);
                tile.params[strip * self.groups + group] = self.fit_group(&w, strip, column, group);
            }
        }
    }

    /// The weights that make up best for the errors of all columns from `end` on, of columns `begin…end` by position: GPTQ's `W`
    /// at this moment. `ΔW·L = 0` there means `W − ΔW[end…]·L[end…, …]·L⁻¹` with the minus sign of `ΔW`'s.
    fn corrected(&self, tile: &Tile, begin: usize, end: usize) -> Columns<f32> {
        let stride = tile.w.stride;
        let mut correction = Columns::new(stride, end - begin);
        let (passed_on, lower) = (tile.delta.matrix().get(.., end..), self.factor.lower());
        matmul(correction.matrix_mut(), Accum::Replace, passed_on, lower.get(end.., begin..end), 1.0, Par::Seq);
        let square = lower.get(begin..end, begin..end);
        solve_unit_upper_triangular_in_place(square.transpose(), correction.matrix_mut().transpose_mut(), Par::Seq);
        let w = &tile.w.entries[begin * stride..end * stride];
        correction.entries.iter_mut().zip(w).for_each(|(correction, w)| *correction += w);
        correction
    }
}

/// The lower triangle of `L[begin…end, begin…end]`, row by row.
fn transpose_lower(l: MatRef<'_, f32>, begin: usize, end: usize, lower: &mut Vec<f32>) {
    let width = end - begin;
    lower.clear();
    lower.resize(width * width, 0.0);
    for column in 0..width {
        for row in column..width {
            lower[row * width + column] = l[(begin + row, begin + column)];
        }
    }
}

/// What the strips of a column block share.
struct Block<'a> {
    scheme: &'a Scheme,
    /// Its first column, by position.
    begin: usize,
    /// `L` of its columns, row by row.
    lower: &'a [f32],
    /// Group of each column.
    groups: &'a [usize],
}

/// Rounds a block's columns of 16 rows, from the last to the first, passing each one's error on to those left of it.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn round_strip(
    block: &Block,
    params: &[LaneParams],
    strip: usize,
    current: &mut Columns<f32>,
    w: &Columns<f32>,
    delta: &mut Columns<f32>,
    codes: &mut Columns<u8>,
) {
    let width = block.groups.len();
    for column in (0..width).rev() {
        let (code, q) = nearest(block.scheme, current.lanes(column, strip), &params[block.groups[column]]);
        let position = block.begin + column;
        let w = w.lanes(position, strip);
        let error: Lanes = from_fn(|lane| w[lane] - q[lane]);
        *codes.lanes_mut(position, strip) = code;
        *delta.lanes_mut(position, strip) = error;
        for (left, &feedback) in block.lower[column * width..][..column].iter().enumerate() {
            let current = current.lanes_mut(left, strip);
            *current = from_fn(|lane| current[lane] + error[lane] * feedback);
        }
    }
}
