//! A model before its weights: sizes and options, and the family that writes its layers.

use std::ops::Deref;

use super::config::DecoderConfig;
use super::family::Family;

/// What a `config.json` says, whatever the family: everything that a graph needs but the weights.
#[derive(Debug, Clone)]
pub struct Architecture {
    pub config: DecoderConfig,
    pub family: Family,
}

impl Architecture {
    /// Positions that a token sees in the layer that sees least; `None` where all see all before them.
    pub fn shortest_window(&self) -> Option<usize> {
        (0..self.num_hidden_layers).filter_map(|layer| self.family.layers().window(layer)).min()
    }
}

impl Deref for Architecture {
    type Target = DecoderConfig;

    fn deref(&self) -> &DecoderConfig {
        &self.config
    }
}
