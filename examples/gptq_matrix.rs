//! Rounds one matrix to INT4 by round to nearest and by GPTQ, and prints what each costs at the layer's output.
//!
//!     cargo run --release --example gptq_matrix

use ndarray::Array2;
use qonnx::quant::{Format, Gptq, Granularity, InputStats, QuantError, Rounding, ScaleRule, ScaleStorage, Scheme};

const OUT_FEATURES: usize = 64;
const IN_FEATURES: usize = 256;
const TOKENS: usize = 1024;

fn main() -> Result<(), QuantError> {
    let mut noise = noise();
    let weights = Array2::from_shape_simple_fn((OUT_FEATURES, IN_FEATURES), || noise() / 8.0);
    // Features that hang together, which is what GPTQ lives on: each token is the one before, a little further.
    let mut token = vec![0.0; IN_FEATURES];
    let inputs = Array2::from_shape_fn((TOKENS, IN_FEATURES), |(_, feature)| {
        let before = if feature > 0 { token[feature - 1] } else { 0.0 };
        token[feature] = 0.5 * token[feature] + 0.4 * before + noise();
        token[feature]
    });
    let stats = InputStats {
        tokens: TOKENS as u64,
        gram: inputs.t().dot(&inputs) / TOKENS as f32,
        mean_abs: inputs.columns().into_iter().map(|x| x.mapv(f32::abs).sum() / TOKENS as f32).collect(),
        max_abs: inputs.columns().into_iter().map(|x| x.fold(0.0, |most: f32, x| most.max(x.abs()))).collect(),
        cross: None,
    };
    let scheme = Scheme {
        format: Format::Int { bits: 4, symmetric: true },
        granularity: Granularity::PerGroup(32),
        scale_rule: ScaleRule::LeastSquares,
        scale_storage: ScaleStorage::F16,
    };
    let gptq = Gptq { act_order: true, sweeps: 2, ..Gptq::PAPER };
    let rounded = gptq.quantize(weights.view(), &scheme, Some(&stats))?;
    let (nearest, best) = (rounded.report.rtn_output_error, rounded.report.output_error);
    println!("error of the output  nearest {:.6}  GPTQ {:.6}", nearest.unwrap_or_default(), best.unwrap_or_default());
    println!("first codes          {:?}", &rounded.tensor.codes[..8]);
    Ok(())
}

/// Numbers from −1 to 1, the same every time.
fn noise() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
