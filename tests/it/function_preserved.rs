//! Weights that are rotated, or scaled where a scale can move, make a model that computes what it did.

use ndarray::Array2;
use plain_llama::{Llama, Weights, config, weights};
use qonnx::model::{Architecture, ModelRotation, RotationOptions, Smooth};
use qonnx::quant::RotationKind;

use crate::support::plain_llama;

fn rotated(cfg: &Architecture, rotation: &ModelRotation, weights: &Weights) -> Weights {
    let tensors = cfg.expected_tensors().expect("sizes that fit");
    let turn = |(name, weight): (&String, &Array2<f32>)| {
        if tensors.iter().any(|tensor| tensor.name == *name && tensor.shape.len() == 2) {
            let norm = rotation.folded_norm(name).map(|norm| weights[&norm].row(0).to_vec());
            return (name.clone(), rotation.matrix(name, weight.view(), norm.as_deref()));
        }
        let vector = rotation.vector(name, &weight.row(0).to_vec());
        (name.clone(), Array2::from_shape_vec((1, vector.len()), vector).expect("one row"))
    };
    weights.iter().map(turn).collect()
}

fn difference(cfg: &Architecture, kind: RotationKind, residual: bool, heads: bool) -> f64 {
    let weights = weights(cfg);
    let rotation = ModelRotation::new(cfg, &RotationOptions { kind, seed: 11, residual, heads }).expect("sizes of 48 and 16");
    let turned = rotated(cfg, &rotation, &weights);
    let changed = |name: &str| weights[name] != turned[name];
    assert_eq!((changed("model.embed_tokens.weight"), changed("model.layers.1.self_attn.q_proj.weight")), (residual, residual));
    assert_eq!(changed("model.layers.1.self_attn.v_proj.bias"), heads);
    let head_matrix = rotation.head_matrix(&weights["model.norm.weight"].row(0).to_vec());
    assert_eq!((head_matrix.is_some(), rotation.has_head_matrix()), (cfg.tie_word_embeddings && residual, head_matrix.is_some()));
    let before = Llama { cfg, weights: &weights, head_matrix: None };
    plain_llama::difference(&before, &Llama { cfg, weights: &turned, head_matrix })
}

/// Weights are rounded to f32 after each turn, activations are f64: what is left is the weights' rounding.
#[test]
fn a_rotated_model_computes_what_it_did() {
    for tied in [false, true] {
        for kind in [RotationKind::Hadamard, RotationKind::Random] {
            for (residual, heads) in [(true, false), (false, true), (true, true)] {
                let difference = difference(&config(tied), kind, residual, heads);
                println!("tied {tied} {kind:?} R1 {residual} R2 {heads}: {difference:.1e}");
                assert!(difference < 1e-6, "tied {tied} {kind:?} R1 {residual} R2 {heads}: {difference:.1e}");
            }
        }
    }
}

#[test]
fn a_size_without_a_hadamard_matrix_is_refused() {
    let mut cfg = config(true);
    cfg.config.hidden_size = 92;
    let options = |kind, residual| RotationOptions { kind, seed: 1, residual, heads: true };
    let error = ModelRotation::new(&cfg, &options(RotationKind::Hadamard, true)).expect_err("92 is none");
    assert!(error.to_string().contains("size 92"), "{error}");
    ModelRotation::new(&cfg, &options(RotationKind::Random, true)).expect("any size");
    ModelRotation::new(&cfg, &options(RotationKind::Hadamard, false)).expect("head_dim is 16");
}

/// Grouped queries and biases included; scales from 2^-3 to 2^3, so that nothing is rounded.
#[test]
fn scales_that_move_leave_the_function() {
    let cfg = config(false);
    let before = weights(&cfg);
    let survey = cfg.survey().expect("sizes that fit");
    assert_eq!(survey.scalings(0).count(), 4);
    for place in 0..4 {
        let mut after = before.clone();
        let scale = |source: usize| ((source * 5 % 7) as f32 - 3.0).exp2();
        for layer in 0..cfg.num_hidden_layers {
            let (scaling, input) = survey.scalings(layer).nth(place).expect("every input has one");
            let smooth = match scaling.smooth {
                Smooth::Norm(norm) => vec![format!("model.layers.{layer}.{norm}.weight")],
                Smooth::Linear(linear) => {
                    ["weight", "bias"].map(|field| format!("model.layers.{layer}.{linear}.{field}")).to_vec()
                }
            };
            for name in smooth {
                let weight = after.get_mut(&name).expect("a weight of the layer");
                match weight.nrows() {
                    1 => weight.iter_mut().enumerate().for_each(|(feature, w)| *w /= scale(feature)),
                    _ => weight.rows_mut().into_iter().enumerate().for_each(|(feature, mut row)| row /= scale(feature)),
                }
            }
            for name in input.weights() {
                let weight = after.get_mut(&name).expect("a weight of the layer");
                let columns = weight.columns_mut().into_iter().enumerate();
                columns.for_each(|(feature, mut column)| column *= scale(scaling.sharing.source(feature)));
            }
        }
        assert_ne!(before, after);
        let (before, after) = (&before, &after);
        let llama = |weights| Llama { cfg: &cfg, weights, head_matrix: None };
        let difference = plain_llama::difference(&llama(before), &llama(after));
        assert!(difference < 1e-13, "scaling {place}: {difference:e}");
    }
}
