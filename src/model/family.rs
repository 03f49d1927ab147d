//! What a family of decoders says of itself; [`families`](super::families) has a file for each.

use std::fmt;
use std::sync::Arc;

use super::attention::{KvPair, Place};
use super::config::DecoderConfig;
use super::module::Module;
use super::parts::ResidualStream;
use super::transforms::{LayerRotations, Scaling};

/// The layers of a model, as its family writes them.
#[derive(Clone)]
pub struct Family(Arc<dyn Layers>);

/// What one family differs in from the others; what is not said is that of a layer whose norms stand before its parts.
pub(super) trait Layers: Send + Sync {
    /// The architecture as config.json names it, `LlamaForCausalLM`.
    fn architecture(&self) -> &'static str;

    /// The same in short, `llama`.
    fn model_type(&self) -> &'static str;

    /// One layer; `m` is its place in the model.
    fn layer(&self, m: &Module, cfg: &DecoderConfig, stream: ResidualStream, at: Place<'_>) -> (ResidualStream, KvPair);

    /// Where a scale can move between two parts of a layer (AWQ), in the order in which a layer computes.
    fn scalings(&self, cfg: &DecoderConfig) -> Vec<Scaling> {
        Scaling::of_pre_norm_layer(cfg)
    }

    /// What rotations a layer can have.
    ///
    /// # Errors
    /// Why it can have none, as half a sentence.
    fn rotations(&self) -> Result<LayerRotations, &'static str> {
        Ok(LayerRotations::PRE_NORM)
    }

    /// Positions that a token of a layer sees, itself included; `None`: all before it.
    fn window(&self, _layer: usize) -> Option<usize> {
        None
    }

    /// Linears of whose outputs only products with each other count: clipping one by its own outputs helps nobody.
    fn scores(&self) -> &'static [&'static str] {
        &["self_attn.q_proj", "self_attn.k_proj"]
    }
}

impl Family {
    pub(super) fn new(layers: impl Layers + 'static) -> Family {
        Family(Arc::new(layers))
    }

    /// The architecture as config.json names it, `LlamaForCausalLM`.
    pub fn architecture(&self) -> &'static str {
        self.0.architecture()
    }

    /// The family's name in `config.json`, `llama`.
    pub fn model_type(&self) -> &'static str {
        self.0.model_type()
    }

    /// Whether of this linear's outputs only products with another's count; `path` is its place in a layer,
    /// `self_attn.q_proj`.
    pub fn is_of_scores(&self, path: &str) -> bool {
        self.0.scores().contains(&path)
    }

    pub(super) fn layers(&self) -> &dyn Layers {
        self.0.as_ref()
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.architecture())
    }
}
