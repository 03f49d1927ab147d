//! A Llama written plainly, in f64 on f32 weights, to ask whether a rewrite of its weights leaves what it computes.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayView1, Axis, concatenate, s};
use qonnx::model::Architecture;
use serde_json::json;

const IDS: [usize; 9] = [3, 17, 0, 8, 8, 21, 1, 40, 5];

/// Weights by name: vectors as one row.
pub type Weights = BTreeMap<String, Array2<f32>>;

/// Four query heads on two value heads, biases everywhere.
pub fn config(tied: bool) -> Architecture {
    let json = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 41, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": tied, "attention_bias": true, "mlp_bias": true,
    });
    Architecture::from_value(&json).expect("a config that is supported")
}

/// xorshift64: matrices of size 0.25, norms from 0.35 to 2.8, so that a norm that is not folded shows.
pub fn weights(cfg: &Architecture) -> Weights {
    let mut state = 7u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut tensors = cfg.expected_tensors().expect("sizes that fit");
    // A layer's norms are drawn behind its linears.
    let layer = |name: &str| name.strip_prefix("model.layers.").map(|rest| rest[..1].to_owned());
    for of_layer in tensors.chunk_by_mut(|a, b| layer(&a.name) == layer(&b.name)) {
        of_layer.sort_by_key(|tensor| layer(&tensor.name).is_some() && tensor.name.ends_with("norm.weight"));
    }
    tensors
        .into_iter()
        .map(|tensor| {
            let shape = if let [rows, columns] = tensor.shape[..] { (rows, columns) } else { (1, tensor.shape[0]) };
            let norm = tensor.name.ends_with("norm.weight");
            let weight = Array2::from_shape_simple_fn(shape, || if norm { (1.5 * next()).exp2() } else { 0.25 * next() });
            (tensor.name, weight)
        })
        .collect()
}

/// The model of a checkpoint, or of its rotation when a head matrix is given.
pub struct Llama<'a> {
    pub cfg: &'a Architecture,
    pub weights: &'a Weights,
    pub head_matrix: Option<Array2<f32>>,
}

impl Llama<'_> {
    fn matrix(&self, name: &str) -> Array2<f64> {
        self.weights[name].mapv(f64::from)
    }

    fn linear(&self, name: &str, x: &Array2<f64>) -> Array2<f64> {
        x.dot(&self.matrix(&format!("{name}.weight")).t()) + self.matrix(&format!("{name}.bias")).row(0)
    }

    fn norm(&self, name: &str, x: &Array2<f64>) -> Array2<f64> {
        let scale =
            x.mapv(|x| x * x).mean_axis(Axis(1)).expect("features").mapv(|square| (square + self.cfg.rms_norm_eps).sqrt());
        x / &scale.insert_axis(Axis(1)) * self.matrix(&format!("{name}.weight")).row(0)
    }

    fn rope(&self, x: ArrayView1<f64>, position: usize) -> Array1<f64> {
        let half = self.cfg.head_dim / 2;
        Array1::from_shape_fn(2 * half, |i| {
            let angle = position as f64 * self.cfg.rope_theta.powf(-((i % half) as f64) / half as f64);
            let other = if i < half { -x[i + half] } else { x[i - half] };
            x[i] * angle.cos() + other * angle.sin()
        })
    }

    fn attention(&self, layer: &str, x: &Array2<f64>) -> Array2<f64> {
        let (cfg, dim) = (self.cfg, self.cfg.head_dim);
        let [q, k, v] = ["q", "k", "v"].map(|part| self.linear(&format!("{layer}.self_attn.{part}_proj"), x));
        let heads: Vec<Array2<f64>> = (0..cfg.num_attention_heads)
            .map(|head| {
                let shared = head * cfg.num_key_value_heads / cfg.num_attention_heads;
                let (own, shared) = (s![.., head * dim..(head + 1) * dim], s![.., shared * dim..(shared + 1) * dim]);
                let turned = |x: ndarray::ArrayView2<f64>| -> Vec<Array1<f64>> {
                    x.rows().into_iter().enumerate().map(|(position, row)| self.rope(row, position)).collect()
                };
                let (q, k, v) = (turned(q.slice(own)), turned(k.slice(shared)), v.slice(shared));
                let mut out = Array2::zeros((x.nrows(), dim));
                for (at, mut out) in out.rows_mut().into_iter().enumerate() {
                    let powers: Array1<f64> = (0..=at).map(|past| (q[at].dot(&k[past]) / (dim as f64).sqrt()).exp()).collect();
                    out.assign(&powers.dot(&v.slice(s![..=at, ..])));
                    out /= powers.sum();
                }
                out
            })
            .collect();
        let heads: Vec<_> = heads.iter().map(|head| head.view()).collect();
        self.linear(&format!("{layer}.self_attn.o_proj"), &concatenate(Axis(1), &heads).expect("heads of one length"))
    }

    pub fn logits(&self) -> Array2<f64> {
        let mut x = self.matrix("model.embed_tokens.weight").select(Axis(0), &IDS);
        for layer in (0..self.cfg.num_hidden_layers).map(|layer| format!("model.layers.{layer}")) {
            x = &x + &self.attention(&layer, &self.norm(&format!("{layer}.input_layernorm"), &x));
            let h = self.norm(&format!("{layer}.post_attention_layernorm"), &x);
            let gate = self.linear(&format!("{layer}.mlp.gate_proj"), &h).mapv(|x| x / (1.0 + (-x).exp()));
            x = &x + &self.linear(&format!("{layer}.mlp.down_proj"), &(gate * self.linear(&format!("{layer}.mlp.up_proj"), &h)));
        }
        let mut h = self.norm("model.norm", &x);
        if let Some(matrix) = &self.head_matrix {
            h = h.dot(&matrix.mapv(f64::from));
        }
        let table = if self.cfg.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        h.dot(&self.matrix(table).t())
    }
}

/// The largest difference of a logit over the largest logit.
pub fn difference(before: &Llama, after: &Llama) -> f64 {
    let (before, after) = (before.logits(), after.logits());
    let largest = |x: &Array2<f64>| x.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    assert!(largest(&before) > 1.0, "logits that tell something");
    largest(&(after - &before)) / largest(&before)
}
