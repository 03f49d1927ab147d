//! Weights a second: `cargo bench --bench quantize`; `RAYON_NUM_THREADS=1` for one core.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use qonnx::onnx::pack::{Blocks, pack_dequantize_linear, pack_matmul_nbits};
use qonnx::quant::{Format, Granularity, ScaleRule, ScaleStorage, Scheme, rtn};
use qonnx::tensor::{DType, transpose};

const OUT_FEATURES: usize = 2048;
const IN_FEATURES: usize = 8192;

/// Bell-shaped weights; what they are does not matter to speed.
fn weights() -> Vec<bf16> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..OUT_FEATURES * IN_FEATURES).map(|_| bf16::from_f32((uniform() + uniform() + uniform()) * 0.05)).collect()
}

fn quantize(criterion: &mut Criterion) {
    let weights = weights();
    let mut group = criterion.benchmark_group("rtn");
    group.throughput(Throughput::Elements(weights.len() as u64)).sample_size(20);
    for (bits, symmetric, granularity) in [
        (4, true, Granularity::PerGroup(32)),
        (4, true, Granularity::PerGroup(128)),
        (4, false, Granularity::PerGroup(32)),
        (2, true, Granularity::PerGroup(32)),
        (8, true, Granularity::PerChannel),
    ] {
        for scale_rule in [ScaleRule::SignedMax, ScaleRule::LeastSquares] {
            let scheme =
                Scheme { format: Format::Int { bits, symmetric }, granularity, scale_rule, scale_storage: ScaleStorage::F16 };
            let name = format!("{} {granularity:?} {scale_rule:?}", scheme.format.code_dtype());
            group.bench_function(name, |b| b.iter(|| rtn(black_box(&weights), IN_FEATURES, &scheme)));
        }
    }
}

fn pack(criterion: &mut Criterion) {
    let weights = weights();
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Elements(weights.len() as u64)).sample_size(20);
    for dtype in [DType::I8, DType::I4, DType::I2] {
        let codes: Vec<u8> = weights.iter().map(|w| w.to_bits() as u8 & (u8::MAX >> (8 - dtype.bits()))).collect();
        let name = format!("DequantizeLinear {dtype}");
        group.bench_function(name, |b| b.iter(|| pack_dequantize_linear(black_box(&codes), OUT_FEATURES, IN_FEATURES, dtype)));
        let blocks = Blocks { out_features: OUT_FEATURES, in_features: IN_FEATURES, block_size: 32, bits: dtype.bits() };
        let name = format!("MatMulNBits {} bits", dtype.bits());
        group.bench_function(name, |b| b.iter(|| pack_matmul_nbits(black_box(&codes), None, blocks)));
    }
    group.bench_function("transpose bf16", |b| b.iter(|| transpose(black_box(&weights), OUT_FEATURES, IN_FEATURES)));
}

criterion_group!(benches, quantize, pack);
criterion_main!(benches);
