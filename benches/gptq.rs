//! GPTQ and the linear algebra under it: `cargo bench --bench gptq`; `RAYON_NUM_THREADS=1` for one core.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use qonnx::quant::{
    Codebook, Format, Gptq, Granularity, InputStats, Rounding, ScaleFit, ScaleRule, ScaleStorage, Scheme, factorize, output_error,
};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// Bell-shaped numbers; what they are does not matter to speed.
fn random(rows: usize, columns: usize) -> Array2<f32> {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut uniform = || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
    Array2::from_shape_simple_fn((rows, columns), || uniform() + uniform() + uniform())
}

/// Of an input of `in_features` whose features hang together.
fn stats(in_features: usize) -> InputStats {
    let x = random(256, in_features);
    let gram = x.t().dot(&x) / 256.0;
    InputStats { tokens: 256, gram, mean_abs: vec![0.0; in_features], max_abs: vec![0.0; in_features], cross: None }
}

/// Operations a second, one a multiplication and addition.
fn linear_algebra(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear algebra");
    group.sample_size(10);
    for in_features in [512, 1536, 2048] {
        let (w, x) = (random(512, in_features), stats(in_features));
        group.throughput(Throughput::Elements((in_features as u64).pow(3) / 6));
        group.bench_function(format!("factorize {in_features}"), |b| {
            b.iter(|| factorize(black_box(x.gram.view()), (0..in_features).rev().collect(), 0.01))
        });
        group.throughput(Throughput::Elements(512 * (in_features as u64).pow(2) / 2));
        group.bench_function(format!("output error of 512 rows of {in_features}"), |b| {
            b.iter(|| output_error(black_box(w.view()), x.gram.view()))
        });
    }
}

/// Weights a second.
fn gptq(criterion: &mut Criterion) {
    let order = Gptq { act_order: true, ..Gptq::PAPER };
    let fitted = Gptq { scale_fit: ScaleFit::Gram, ..order };
    let int4 = (Format::Int { bits: 4, symmetric: true }, ScaleRule::LeastSquares);
    let int2 = (Format::Int { bits: 2, symmetric: false }, ScaleRule::LeastSquares);
    let nf4 = (Format::Codebook(Codebook::Nf4), ScaleRule::AbsMax);
    let mut group = criterion.benchmark_group("gptq");
    group.sample_size(10);
    for (out_features, in_features) in [(512, 512), (1536, 512), (512, 1536)] {
        let (w, x) = (random(out_features, in_features), stats(in_features));
        group.throughput(Throughput::Elements(w.len() as u64));
        for (name, (format, scale_rule), options) in [
            ("int4", int4, order),
            ("int4, scales fitted", int4, fitted),
            ("int4, scales fitted, 2 sweeps", int4, Gptq { sweeps: 2, ..fitted }),
            ("uint2, scales fitted, 2 sweeps", int2, Gptq { sweeps: 2, ..fitted }),
            ("nf4, scales fitted", nf4, fitted),
        ] {
            let scheme = Scheme { format, granularity: Granularity::PerGroup(128), scale_rule, scale_storage: ScaleStorage::F16 };
            group.bench_function(format!("{out_features}x{in_features} {name}"), |b| {
                b.iter(|| options.quantize(black_box(w.view()), &scheme, Some(&x)))
            });
        }
    }
}

criterion_group!(benches, linear_algebra, gptq);
criterion_main!(benches);
