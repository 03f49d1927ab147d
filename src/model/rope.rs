//! Rotary position tables.

use super::config::{DecoderConfig, RopeScaling};

/// Cosines and sines of every rotary angle, row by row: `[positions, head_dim / 2]` each.
pub struct RopeTables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// Bytes of one table in f32 that is still made.
const MOST_BYTES: usize = 1 << 30;

/// Most positions that tables are made for: four million at a head_dim of 128. Configurations claim any number.
pub fn most_positions(cfg: &DecoderConfig) -> usize {
    MOST_BYTES / (cfg.head_dim / 2 * size_of::<f32>())
}

/// Tables for positions `0 .. positions`, computed in f64 and rounded once.
///
/// Hugging Face's `LlamaRotaryEmbedding` computes angles in f32; the two differ by less than one part in 2²³ of the
/// position (`tests/goldens/rope.json`).
pub fn rope_tables(cfg: &DecoderConfig, positions: usize) -> RopeTables {
    let frequencies = inverse_frequencies(cfg);
    let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |frequency| position as f64 * frequency));
    let (sin, cos) = angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
    RopeTables { cos, sin }
}

/// Radians per position of each rotated pair, fastest first: `[head_dim / 2]`.
///
/// `theta^(−2i/head_dim)`, stretched as Hugging Face's `_compute_linear_scaling_rope_parameters` and
/// `_compute_llama3_parameters` do.
pub(super) fn inverse_frequencies(cfg: &DecoderConfig) -> Vec<f64> {
    let plain = |pair: usize| cfg.rope_theta.powf(-((2 * pair) as f64) / cfg.head_dim as f64);
    (0..cfg.head_dim / 2).map(|pair| stretched(plain(pair), cfg.rope_scaling)).collect()
}

/// What each pair's plain frequency is divided by, fastest first: `[head_dim / 2]`.
pub fn rope_factors(cfg: &DecoderConfig) -> Vec<f64> {
    let plain = inverse_frequencies(&DecoderConfig { rope_scaling: RopeScaling::Default, ..cfg.clone() });
    plain.iter().zip(inverse_frequencies(cfg)).map(|(plain, stretched)| plain / stretched).collect()
}

fn stretched(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            // Turns that this pair makes over the original context decide how much it is stretched.
            let turns = original_max_position_embeddings * frequency / std::f64::consts::TAU;
            if turns < low_freq_factor {
                return frequency / factor;
            }
            if turns > high_freq_factor {
                return frequency;
            }
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::model::Architecture;

    fn row(json: &Json) -> Vec<f64> {
        json.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
    }

    #[test]
    fn tables_equal_transformers_for_every_rope_type() {
        let golden: Json = serde_json::from_str(include_str!("../../tests/goldens/rope.json")).expect("the golden is JSON");
        let cases = golden.as_array().expect("a list of cases");
        assert_eq!(cases.len(), 4);
        for case in cases {
            let cfg = Architecture::from_value(&case["config"]).expect("the golden's configurations are supported");
            let (half, tables) = (cfg.head_dim / 2, rope_tables(&cfg, 8192));
            for (index, position) in row(&case["positions"]).into_iter().enumerate() {
                let start = position as usize * half;
                let tolerance = 1e-7 + position * 2f64.powi(-23); // angles of transformers are f32
                for (ours, theirs) in [(&tables.cos, &case["cos"]), (&tables.sin, &case["sin"])] {
                    for (pair, theirs) in row(&theirs[index]).into_iter().enumerate() {
                        let ours = f64::from(ours[start + pair]);
                        assert!((ours - theirs).abs() <= tolerance, "{} {position} {pair}: {ours} {theirs}", case["name"]);
                    }
                }
            }
        }
    }

    #[test]
    fn llama3_keeps_fast_pairs_divides_slow_ones_and_ramps_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let turning = |turns: f64| turns * std::f64::consts::TAU / 8192.0; // radians per position
        assert_eq!(stretched(turning(5.0), scaling), turning(5.0));
        assert_eq!(stretched(turning(0.5), scaling), turning(0.5) / 8.0);
        let middle = stretched(turning(2.5), scaling); // half kept, half divided by 8
        assert!((middle / turning(2.5) - (0.5 + 0.5 / 8.0)).abs() < 1e-12);
    }
}
