//! Llama's weights in a turned basis: R1 turns the residual stream, R2 each value head (SpinQuant, arXiv 2405.16406, figure 1;
//! QuaRot, arXiv 2404.00456, section 4). The model computes what it did; no operator is added, save one small matrix before a
//! tied head.
//!
//! RMSNorm without its weight does not see a turn of its input, `norm(x·R) = norm(x)·R`. So norm weights move into the linears
//! that follow, and R1 with its inverse cancels between every two matrices:
//!
//! ```text
//! embed_tokens·R1 ─┬─ norm ─ (q, k, v)·diag(norm)·R1 ─ attention ─ R1ᵀ·o ─(+)─┬─ norm ─ (gate, up)·diag(norm)·R1 ─ R1ᵀ·down ─(+)─ …
//!                  └─────────────────────────────────────────────────────┘    └──────────────────────────────────────────┘
//! ```
//!
//! Turned weights are no longer what a bf16 checkpoint held exactly. Those that stay dense should be f16: rounding a turned table
//! and its head matrix costs a KL of 1e-7 in f16 and 8e-6 in bf16 (coqa-45m, random R1).
//!
//! R2 stands between v and o: attention sums rows of v and never mixes the features of a head.

use ndarray::{Array2, ArrayView1, ArrayView2, CowArray, Ix2};

use super::DecoderConfig;
use crate::quant::{Rotation, RotationError, RotationKind};
use crate::recipe::{Recipe, RotationRecipe};

/// Which rotations a model gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationOptions {
    pub kind: RotationKind,
    pub seed: u64,
    /// R1, of hidden_size.
    pub residual: bool,
    /// R2, of head_dim, another in each layer.
    pub heads: bool,
}

/// How each weight of a Llama checkpoint changes under R1 and R2.
#[derive(Debug, Clone)]
pub struct ModelRotation {
    residual: Option<Rotation>,
    /// By layer; empty without R2.
    heads: Vec<Rotation>,
    tied: bool,
}

impl ModelRotation {
    /// The one that `recipe` asks for, if it asks for one: of the residual stream and of the heads.
    ///
    /// # Errors
    /// As [`ModelRotation::new`].
    pub fn of(config: &DecoderConfig, recipe: &Recipe) -> Result<Option<ModelRotation>, RotationError> {
        let draw = |RotationRecipe { kind, seed }| {
            ModelRotation::new(config, &RotationOptions { kind: kind.rotation(), seed, residual: true, heads: true })
        };
        recipe.rotation().map(draw).transpose()
    }

    /// Draws the rotations; an error where a size has no Hadamard matrix.
    pub fn new(cfg: &DecoderConfig, options: &RotationOptions) -> Result<ModelRotation, RotationError> {
        let draw = |size, index: usize| Rotation::new(options.kind, size, options.seed, index as u64);
        let residual = if options.residual { Some(draw(cfg.hidden_size, 0)?) } else { None };
        let layers = if options.heads { cfg.num_hidden_layers } else { 0 };
        let heads = (0..layers).map(|layer| draw(cfg.head_dim, layer + 1)).collect::<Result<_, _>>()?;
        Ok(ModelRotation { residual, heads, tied: cfg.tie_word_embeddings })
    }

    /// Name of the norm whose weight [`Self::matrix`] folds into this matrix; `None` where there is none to fold.
    pub fn folded_norm(&self, name: &str) -> Option<String> {
        self.residual.as_ref()?;
        match Part::of(name) {
            Part::Linear { layer, linear: "q_proj" | "k_proj" | "v_proj", field: "weight" } => {
                Some(format!("model.layers.{layer}.input_layernorm.weight"))
            }
            Part::Linear { layer, linear: "gate_proj" | "up_proj", field: "weight" } => {
                Some(format!("model.layers.{layer}.post_attention_layernorm.weight"))
            }
            Part::Head => Some("model.norm.weight".to_owned()),
            _ => None,
        }
    }

    /// The matrix of this name, `[out_features, in_features]`, in the turned basis; `norm` is the weight of
    /// [`Self::folded_norm`]. Rows depend on each other only in v, o and down: the others may come in pieces.
    ///
    /// # Panics
    /// Where `norm` is given and not wanted, or wanted and not given, or shapes are not those of the config.
    pub fn matrix(&self, name: &str, w: ArrayView2<'_, f32>, norm: Option<&[f32]>) -> Array2<f32> {
        assert_eq!(norm.is_some(), self.folded_norm(name).is_some(), "{name}: the norm that is folded into it");
        let w: CowArray<'_, f32, Ix2> = match norm {
            Some(norm) => (&w * &ArrayView1::from(norm)).into(),
            None => w.into(),
        };
        let w = w.view();
        let residual = self.residual.as_ref();
        match Part::of(name) {
            Part::Table | Part::Head => right(residual, w),
            Part::Linear { linear: "q_proj" | "k_proj" | "gate_proj" | "up_proj", .. } => right(residual, w),
            Part::Linear { layer, linear: "v_proj", .. } => left_transposed(self.heads.get(layer), right(residual, w).view()),
            Part::Linear { layer, linear: "o_proj", .. } => left_transposed(residual, right(self.heads.get(layer), w).view()),
            Part::Linear { linear: "down_proj", .. } => left_transposed(residual, w),
            Part::Linear { .. } | Part::Norm | Part::Other => w.to_owned(),
        }
    }

    /// The norm weight or bias of this name in the turned basis.
    pub fn vector(&self, name: &str, v: &[f32]) -> Vec<f32> {
        let rotation = match Part::of(name) {
            Part::Norm if self.residual.is_some() => return vec![1.0; v.len()],
            Part::Linear { linear: "o_proj" | "down_proj", .. } => self.residual.as_ref(),
            Part::Linear { layer, linear: "v_proj", .. } => self.heads.get(layer),
            _ => None,
        };
        rotation.map_or_else(|| v.to_vec(), |rotation| rotation.turn(v))
    }

    /// Whether the artifact needs [`Self::head_matrix`].
    pub fn has_head_matrix(&self) -> bool {
        self.tied && self.residual.is_some()
    }

    /// `M = R1ᵀ·diag(norm)·R1`, `[hidden_size, hidden_size]`, symmetric: what a tied head needs between the final norm, whose
    /// weight is folded into it, and the turned table that it shares with the embedding: `logits = norm(x)·M·tableᵀ`. An
    /// untied head takes norm and rotation into its own weight instead.
    pub fn head_matrix(&self, final_norm: &[f32]) -> Option<Array2<f32>> {
        let residual = self.residual.as_ref().filter(|_| self.tied)?;
        let diagonal = Array2::from_diag(&ArrayView1::from(final_norm));
        Some(residual.left_transposed(residual.right(diagonal.view()).view()))
    }
}

fn right(rotation: Option<&Rotation>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    rotation.map_or_else(|| w.to_owned(), |rotation| rotation.right(w))
}

fn left_transposed(rotation: Option<&Rotation>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    rotation.map_or_else(|| w.to_owned(), |rotation| rotation.left_transposed(w))
}

/// What a weight is, by its name in the checkpoint.
enum Part<'a> {
    Table,
    Norm,
    Head,
    Linear { layer: usize, linear: &'a str, field: &'a str },
    Other,
}

impl Part<'_> {
    fn of(name: &str) -> Part<'_> {
        match name {
            "model.embed_tokens.weight" => return Part::Table,
            "lm_head.weight" => return Part::Head,
            _ if name.ends_with("norm.weight") => return Part::Norm,
            _ => {}
        }
        let mut path = name.strip_prefix("model.layers.").unwrap_or_default().split('.');
        let layer = path.next().and_then(|layer| layer.parse().ok());
        match (layer, path.next(), path.next(), path.next(), path.next()) {
            (Some(layer), Some(_), Some(linear), Some(field), None) => Part::Linear { layer, linear, field },
            _ => Part::Other,
        }
    }
}
