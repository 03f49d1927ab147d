//! A decoder's weights in a rotated basis: R1 rotates the residual stream, R2 each value head (SpinQuant, arXiv 2405.16406, figure 1;
//! QuaRot, arXiv 2404.00456, section 4). The model computes what it did; no operator is added, save one small matrix before a
//! tied head.
//!
//! RMSNorm without its weight does not see a rotation of its input, `norm(x·R) = norm(x)·R`. So norm weights move into the linears
//! that follow, and R1 with its inverse cancels between every two matrices:
//!
//! ```text
//! embed_tokens·R1 ─┬─ norm ─ (q, k, v)·diag(norm)·R1 ─ attention ─ R1ᵀ·o ─(+)─┬─ norm ─ (gate, up)·diag(norm)·R1 ─ R1ᵀ·down ─(+)─ …
//!                  └─────────────────────────────────────────────────────┘    └──────────────────────────────────────────┘
//! ```
//!
//! Rotated weights are no longer what a bf16 checkpoint held exactly. Those that stay dense should be f16: rounding a rotated table
//! and its head matrix costs a KL of 1e-7 in f16 and 8e-6 in bf16 (coqa-45m, random R1).
//!
//! R2 stands between v and o: attention sums rows of v and never mixes the features of a head.

use std::collections::HashMap;

use ndarray::{Array2, ArrayView1, ArrayView2, CowArray, Ix2};

use super::architecture::Architecture;
use super::transforms::LayerRotations;
use crate::fault::Fault;
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

/// How each weight of a checkpoint changes under R1 and R2.
#[derive(Debug, Clone)]
pub struct ModelRotation {
    residual: Option<Rotation>,
    /// By layer; empty without R2.
    heads: Vec<Rotation>,
    /// By module, `model.layers.0.self_attn.v_proj`; what is not among them stays as it is.
    modules: HashMap<String, ModuleRotation>,
    tied: bool,
}

/// Why a model cannot be rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelRotationError {
    #[error(transparent)]
    Size(#[from] RotationError),
    #[error("a {architecture} cannot be rotated: {reason}; leave --rotate out")]
    Family { architecture: &'static str, reason: &'static str },
}

impl ModelRotationError {
    /// The model is what does not fit.
    pub fn fault(&self) -> Fault {
        match self {
            ModelRotationError::Size(error) => error.fault(),
            ModelRotationError::Family { .. } => Fault::BadInput,
        }
    }
}

/// What a rotation does to one module.
#[derive(Debug, Clone, Default)]
struct ModuleRotation {
    /// It is a norm of the residual stream, whose weight moves into the linears that read it.
    is_norm: bool,
    /// The norm that it reads.
    norm: Option<String>,
    /// What rotates the features it reads, and those it gives.
    reads: Option<Basis>,
    gives: Option<Basis>,
}

/// Whose features are rotated.
#[derive(Debug, Clone, Copy)]
enum Basis {
    Residual,
    /// Of this layer's value heads.
    Heads(usize),
}

impl ModelRotation {
    /// The one that `recipe` asks for, if it asks for one: of the residual stream and of the heads.
    ///
    /// # Errors
    /// As [`ModelRotation::new`].
    pub fn of(model: &Architecture, recipe: &Recipe) -> Result<Option<ModelRotation>, ModelRotationError> {
        let draw = |RotationRecipe { kind, seed }| {
            ModelRotation::new(model, &RotationOptions { kind: kind.rotation(), seed, residual: true, heads: true })
        };
        recipe.rotation().map(draw).transpose()
    }

    /// Draws the rotations.
    ///
    /// # Errors
    /// A size has no Hadamard matrix, or the family's layers would not compute what they did.
    pub fn new(model: &Architecture, options: &RotationOptions) -> Result<ModelRotation, ModelRotationError> {
        let refused = |reason| ModelRotationError::Family { architecture: model.family.architecture(), reason };
        let of_layer = model.family.layers().rotations().map_err(refused)?;
        let draw = |size, index: usize| Rotation::new(options.kind, size, options.seed, index as u64);
        let residual = if options.residual { Some(draw(model.hidden_size, 0)?) } else { None };
        let layers = if options.heads { model.num_hidden_layers } else { 0 };
        let heads = (0..layers).map(|layer| draw(model.head_dim, layer + 1)).collect::<Result<_, _>>()?;
        let mut modules = outside();
        for layer in 0..model.num_hidden_layers {
            add_layer(layer, &of_layer, &mut modules);
        }
        Ok(ModelRotation { residual, heads, modules, tied: model.tie_word_embeddings })
    }

    /// Name of the norm whose weight [`Self::matrix`] folds into this matrix; `None` where there is none to fold.
    pub fn folded_norm(&self, name: &str) -> Option<String> {
        self.residual.as_ref()?;
        self.module(name.strip_suffix(".weight")?)?.norm.as_ref().map(|norm| format!("{norm}.weight"))
    }

    /// The matrix of this name, `[out_features, in_features]`, in the rotated basis; `norm` is the weight of
    /// [`Self::folded_norm`]. Rows depend on each other only where what a linear gives is rotated (v, o and down): the others may
    /// come in pieces.
    ///
    /// # Panics
    /// Where `norm` is given and not wanted, or wanted and not given, or shapes are not those of the config.
    pub fn matrix(&self, name: &str, w: ArrayView2<'_, f32>, norm: Option<&[f32]>) -> Array2<f32> {
        assert_eq!(norm.is_some(), self.folded_norm(name).is_some(), "{name}: the norm that is folded into it");
        let Some(module) = name.strip_suffix(".weight").and_then(|path| self.module(path)) else { return w.to_owned() };
        let w: CowArray<'_, f32, Ix2> = match norm {
            Some(norm) => (&w * &ArrayView1::from(norm)).into(),
            None => w.into(),
        };
        let w = match self.rotation(module.reads) {
            Some(rotation) => rotation.right(w.view()),
            None => w.into_owned(),
        };
        match self.rotation(module.gives) {
            Some(rotation) => rotation.left_transposed(w.view()),
            None => w,
        }
    }

    /// The norm weight or bias of this name in the rotated basis.
    pub fn vector(&self, name: &str, v: &[f32]) -> Vec<f32> {
        let (module, field) = name.rsplit_once('.').unwrap_or((name, ""));
        let Some(module) = self.module(module) else { return v.to_vec() };
        match (module.is_norm, field) {
            (true, "weight") if self.residual.is_some() => vec![1.0; v.len()],
            (false, "bias") => self.rotation(module.gives).map_or_else(|| v.to_vec(), |rotation| rotation.turn(v)),
            _ => v.to_vec(),
        }
    }

    /// Whether this weight's numbers may be others than the checkpoint's; norms of heads, say, are none of the residual stream.
    pub fn touches(&self, weight: &str) -> bool {
        weight.rsplit_once('.').is_some_and(|(path, _)| self.modules.contains_key(path))
    }

    fn module(&self, path: &str) -> Option<&ModuleRotation> {
        self.modules.get(path)
    }

    fn rotation(&self, basis: Option<Basis>) -> Option<&Rotation> {
        match basis? {
            Basis::Residual => self.residual.as_ref(),
            Basis::Heads(layer) => self.heads.get(layer),
        }
    }

    /// Whether the artifact needs [`Self::head_matrix`].
    pub fn has_head_matrix(&self) -> bool {
        self.tied && self.residual.is_some()
    }

    /// `M = R1ᵀ·diag(norm)·R1`, `[hidden_size, hidden_size]`, symmetric: what a tied head needs between the final norm, whose
    /// weight is folded into it, and the rotated table that it shares with the embedding: `logits = norm(x)·M·tableᵀ`. An
    /// untied head takes norm and rotation into its own weight instead.
    pub fn head_matrix(&self, final_norm: &[f32]) -> Option<Array2<f32>> {
        let residual = self.residual.as_ref().filter(|_| self.tied)?;
        let diagonal = Array2::from_diag(&ArrayView1::from(final_norm));
        Some(residual.left_transposed(residual.right(diagonal.view()).view()))
    }
}

/// What is rotated outside the layers. The embedding's rows are in the basis that a linear's columns are in; a tied head is
/// that table, an untied one reads the final norm.
fn outside() -> HashMap<String, ModuleRotation> {
    let residual = Some(Basis::Residual);
    let final_norm = || "model.norm".to_owned();
    HashMap::from([
        ("model.embed_tokens".to_owned(), ModuleRotation { reads: residual, ..ModuleRotation::default() }),
        (final_norm(), ModuleRotation { is_norm: true, ..ModuleRotation::default() }),
        ("lm_head".to_owned(), ModuleRotation { reads: residual, norm: Some(final_norm()), ..ModuleRotation::default() }),
    ])
}

/// Adds what is rotated in one layer.
fn add_layer(layer: usize, rotations: &LayerRotations, modules: &mut HashMap<String, ModuleRotation>) {
    let at = |path: &str| format!("model.layers.{layer}.{path}");
    let mut change = |path: &str, change: &dyn Fn(&mut ModuleRotation)| change(modules.entry(at(path)).or_default());
    for (norm, linears) in rotations.reads {
        change(norm, &|module| module.is_norm = true);
        for linear in *linears {
            change(linear, &|module| (module.norm, module.reads) = (Some(at(norm)), Some(Basis::Residual)));
        }
    }
    for linear in rotations.writes {
        change(linear, &|module| module.gives = Some(Basis::Residual));
    }
    let [makes, mixes] = rotations.heads;
    change(makes, &|module| module.gives = Some(Basis::Heads(layer)));
    change(mixes, &|module| module.reads = Some(Basis::Heads(layer)));
}
