//! Coordinate descent after GPTQ: with everything else fixed, the best scale and zero point of a group, then the best code of each
//! of its columns, each in closed form for the error `tr(ΔW·H·ΔWᵀ)`, `H = G + λI`. No step makes it greater.

use std::array::from_fn;

use faer::linalg::matmul::matmul;
use faer::{Accum, Par};
use multiversion::multiversion;

use super::tile::{Columns, Shared, Tile};
use crate::quant::lanes::{LANES, LaneParams, Lanes, nearest};
use crate::quant::scale::{f16_scale, qmax};
use crate::quant::{Format, ScaleStorage, Scheme};

/// Columns whose gradients are computed together, unless a group is longer.
const COLUMNS: usize = 128;
/// Groups longer than this keep the scale that they have: their gradient is not known at one time.
const LONGEST_GROUP: usize = 256;

pub(super) struct Descent<'a> {
    shared: &'a Shared<'a>,
    width: usize,
}

impl<'a> Descent<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        let longest = if shared.group_size <= LONGEST_GROUP { shared.group_size } else { 1 };
        Descent { shared, width: COLUMNS.max(longest) }
    }

    /// Passes over all columns of a tile in storage order.
    pub(super) fn run(&self, tile: &mut Tile, sweeps: usize) {
        let in_features = self.shared.power.len();
        let mut block = Block { scheme: self.shared.scheme, begin: 0, hessian: Vec::new(), groups: Vec::new() };
        for _ in 0..sweeps {
            for begin in (0..in_features).step_by(self.width) {
                let end = in_features.min(begin + self.width);
                block.load(self.shared, begin, end);
                let mut gradient = self.gradient(tile, begin, end);
                for strip in 0..tile.w.strips() {
                    descend_strip(&block, strip, self.shared.groups, &mut gradient, tile);
                }
            }
        }
    }

    /// `ΔW·H` of columns `begin…end`: half of what the error falls by for each step that a weight's code stands for more.
    fn gradient(&self, tile: &Tile, begin: usize, end: usize) -> Columns<f32> {
        let stride = tile.w.stride;
        let lambda = self.shared.factor.lambda;
        let entries = tile.delta.entries[begin * stride..end * stride].iter().map(|delta| lambda * delta).collect();
        let mut gradient = Columns { stride, entries };
        let gram = self.shared.gram.get(.., begin..end);
        matmul(gradient.matrix_mut(), Accum::Add, tile.delta.matrix(), gram, 1.0, Par::Seq);
        gradient
    }
}

/// What the strips of a block of columns share.
struct Block<'a> {
    scheme: &'a Scheme,
    begin: usize,
    /// `H` of the block's columns, `[width, width]`.
    hessian: Vec<f32>,
    /// Each group of the block and its columns, from the block's first; of a group too long for a block only the codes change.
    groups: Vec<BlockGroup>,
}

struct BlockGroup {
    group: usize,
    columns: std::ops::Range<usize>,
    /// Whether its scale may change: all of its columns are in the block.
    free: bool,
    /// `Σ_{j in group} H[j, k]` for each column `k` of the block.
    sums: Vec<f32>,
}

impl Block<'_> {
    fn load(&mut self, shared: &Shared<'_>, begin: usize, end: usize) {
        let width = end - begin;
        self.begin = begin;
        self.hessian.clear();
        for column in 0..width {
            self.hessian.extend(shared.gram.col(begin + column).get(begin..end).iter());
            self.hessian[column * width + column] += shared.factor.lambda;
        }
        self.groups.clear();
        let mut first = begin;
        while first < end {
            let group = first / shared.group_size;
            let last = end.min((group + 1) * shared.group_size);
            let columns = first - begin..last - begin;
            // Nested scales are quantized together, before any code.
            let alone = shared.scheme.scale_storage == ScaleStorage::F16;
            let free =
                alone && first == group * shared.group_size && last == shared.power.len().min((group + 1) * shared.group_size);
            let rows = self.hessian.chunks_exact(width).skip(columns.start).take(columns.len());
            let sums = rows.fold(vec![0.0; width], |sums: Vec<f32>, row| sums.iter().zip(row).map(|(a, b)| a + b).collect());
            self.groups.push(BlockGroup { group, columns, free, sums });
            first = last;
        }
    }
}

/// One pass over a block's columns of 16 rows.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn descend_strip(block: &Block, strip: usize, groups: usize, gradient: &mut Columns<f32>, tile: &mut Tile) {
    for group in &block.groups {
        let index = strip * groups + group.group;
        if group.free {
            tile.params[index] = refit(block, group, strip, tile.params[index], gradient, tile);
        }
        let params = tile.params[index];
        for column in group.columns.clone() {
            recode(block, column, strip, &params, gradient, tile);
        }
    }
}

/// The nearest code to the weight that the rest of the row asks of a column: `ŵ + (ΔW·H)[j] / H[j, j]`.
#[inline(always)]
fn recode(block: &Block<'_>, column: usize, strip: usize, params: &LaneParams, gradient: &mut Columns<f32>, tile: &mut Tile) {
    let position = block.begin + column;
    let width = gradient.entries.len() / gradient.stride;
    let hessian = &block.hessian[column * width..][..width];
    let (w, delta) = (tile.w.lanes(position, strip), tile.delta.lanes_mut(position, strip));
    let (slope, inverse) = (gradient.lanes(column, strip), hessian[column].recip());
    let wanted: Lanes = from_fn(|lane| (w[lane] - delta[lane]) + slope[lane] * inverse);
    let (code, q) = nearest(block.scheme, &wanted, params);
    let moved: Lanes = from_fn(|lane| (w[lane] - q[lane]) - delta[lane]);
    if moved.iter().all(|&moved| moved == 0.0) {
        return;
    }
    *tile.codes.lanes_mut(position, strip) = code;
    *delta = from_fn(|lane| w[lane] - q[lane]);
    // Columns to the left are not looked at again before their gradient is computed anew.
    for (right, &coupling) in hessian.iter().enumerate().skip(column) {
        let slope = gradient.lanes_mut(right, strip);
        *slope = from_fn(|lane| slope[lane] + moved[lane] * coupling);
    }
}

/// What a group's `ŵ = s·v` is in the block's quadratic form; `·` is `H`'s.
struct Quadratic {
    /// `(ΔW·H)·v` and `(ΔW·H)·1` over the group.
    slope: [Lanes; 2],
    /// `v·v`, `v·1` and `1·1`.
    square: [Lanes; 3],
}

/// The scale, and for asymmetric formats the zero point, of least error for the codes as they are; the zero point moves by at
/// most one step. Rows whose error would not fall keep theirs.
#[inline(always)]
fn refit(
    block: &Block<'_>,
    group: &BlockGroup,
    strip: usize,
    params: LaneParams,
    gradient: &mut Columns<f32>,
    tile: &mut Tile,
) -> LaneParams {
    let width = gradient.entries.len() / gradient.stride;
    let levels: Vec<Lanes> = (group.columns.clone())
        .map(|column| {
            let (code, zero_point) = (tile.codes.lanes(block.begin + column, strip), &params.zero_point);
            match block.scheme.format {
                Format::Int { .. } => from_fn(|lane| f32::from(code[lane]) - zero_point[lane]),
                Format::Codebook(codebook) => from_fn(|lane| codebook.levels()[usize::from(code[lane] & 0xF)]),
            }
        })
        .collect();
    // H·v, for all columns of the block.
    let mut products = vec![[0.0; LANES]; width];
    for (level, column) in levels.iter().zip(group.columns.clone()) {
        for (product, &coupling) in products.iter_mut().zip(&block.hessian[column * width..][..width]) {
            *product = from_fn(|lane| product[lane] + level[lane] * coupling);
        }
    }
    let form = quadratic(group, strip, &levels, &products, gradient);
    let (scale, shift) = best(block.scheme, params, &form);
    let unchanged = (0..LANES).all(|lane| scale[lane] == params.scale[lane] && shift[lane] == 0.0);
    if unchanged {
        return params;
    }
    // Ŵ moves by (s' − s)·v − s'·shift.
    let stretch: Lanes = from_fn(|lane| scale[lane] - params.scale[lane]);
    let offset: Lanes = from_fn(|lane| -scale[lane] * shift[lane]);
    for (column, (product, &sum)) in products.iter().zip(&group.sums).enumerate() {
        let slope = gradient.lanes_mut(column, strip);
        *slope = from_fn(|lane| slope[lane] - stretch[lane] * product[lane] - offset[lane] * sum);
    }
    for (level, column) in levels.iter().zip(group.columns.clone()) {
        let w = tile.w.lanes(block.begin + column, strip);
        let delta = tile.delta.lanes_mut(block.begin + column, strip);
        *delta = from_fn(|lane| w[lane] - scale[lane] * (level[lane] - shift[lane]));
    }
    LaneParams { scale, zero_point: from_fn(|lane| params.zero_point[lane] + shift[lane]) }
}

#[inline(always)]
fn quadratic(group: &BlockGroup, strip: usize, levels: &[Lanes], products: &[Lanes], gradient: &Columns<f32>) -> Quadratic {
    let (mut slope, mut square) = ([[0.0; LANES]; 2], [[0.0; LANES]; 3]);
    let mut ones = 0.0;
    for (level, column) in levels.iter().zip(group.columns.clone()) {
        let (gradient, product) = (gradient.lanes(column, strip), &products[column]);
        slope[0] = from_fn(|lane| slope[0][lane] + gradient[lane] * level[lane]);
        slope[1] = from_fn(|lane| slope[1][lane] + gradient[lane]);
        square[0] = from_fn(|lane| square[0][lane] + product[lane] * level[lane]);
        square[1] = from_fn(|lane| square[1][lane] + product[lane]);
        ones += group.sums[column];
    }
    square[2] = [ones; LANES];
    Quadratic { slope, square }
}

/// Scale, and by how much the zero point grows.
#[inline(always)]
fn best(scheme: &Scheme, params: LaneParams, form: &Quadratic) -> (Lanes, Lanes) {
    let shifts: &[f32] = if scheme.format.has_zero_points() { &[0.0, -1.0, 1.0] } else { &[0.0] };
    let qmax = qmax(scheme.format.bits());
    let (mut scale, mut shift, mut change) = (params.scale, [0.0; LANES], [0.0f32; LANES]);
    for &by in shifts {
        let tried: [(f32, f32); LANES] = from_fn(|lane| {
            let s = params.scale[lane];
            let [to_v, to_one] = form.slope.map(|slope| slope[lane]);
            let [vv, v1, one] = form.square.map(|square| square[lane]);
            // With v' = v − shift: the best s' is ((ΔW·H)·v' + s·v·v') / v'·v'.
            let (slope, vv_moved) = (to_v - by * to_one, vv - 2.0 * by * v1 + by * by * one);
            let scale = f16_scale((slope + s * (vv - by * v1)) / vv_moved);
            let (stretch, offset) = (scale - s, -scale * by);
            let linear = stretch * to_v + offset * to_one;
            let bend = stretch * stretch * vv + 2.0 * stretch * offset * v1 + offset * offset * one;
            (scale, bend - 2.0 * linear)
        });
        let allowed = |lane: usize| (0.0..=qmax).contains(&(params.zero_point[lane] + by));
        let better: [bool; LANES] = from_fn(|lane| allowed(lane) && tried[lane].1 < change[lane]);
        scale = from_fn(|lane| if better[lane] { tried[lane].0 } else { scale[lane] });
        shift = from_fn(|lane| if better[lane] { by } else { shift[lane] });
        change = from_fn(|lane| if better[lane] { tried[lane].1 } else { change[lane] });
    }
    (scale, shift)
}
