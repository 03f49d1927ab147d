//! Which layers see no farther back than a window.

use serde_json::Value as Json;

use super::config::ConfigError;
use crate::settings::{InvalidSetting, Settings};

/// `sliding_window` of the families that have one, where config.json leaves the key out; null is none.
const DEFAULT_WINDOW: usize = 4096;

/// The layers of a model that have a window.
pub(super) enum SlidingWindows {
    /// None does.
    Nowhere,
    /// Those from this one on.
    From { layer: usize, positions: usize },
    /// Those that `layer_types` says.
    In { is_sliding: Vec<bool>, positions: usize },
}

impl SlidingWindows {
    /// Windows of so many `positions`: in the layers that `layer_types` says, else from layer `first` on.
    ///
    /// # Errors
    /// `layer_types` is no list of kinds of attention, one for each of `layers`, or wants windows where there are none.
    pub fn read(
        keys: &Settings<'_>,
        layers: usize,
        positions: Option<usize>,
        first: usize,
    ) -> Result<SlidingWindows, ConfigError> {
        Ok(match (positions, layer_types(keys, layers)?) {
            (None, Some(is_sliding)) if is_sliding.contains(&true) => {
                let expected = "full_attention for each layer where sliding_window is null or not used".to_owned();
                return Err(keys.invalid("layer_types", expected).into());
            }
            (None, _) => SlidingWindows::Nowhere,
            (Some(positions), Some(is_sliding)) => SlidingWindows::In { is_sliding, positions },
            (Some(positions), None) => SlidingWindows::From { layer: first, positions },
        })
    }

    /// Positions that a token sees in this layer, itself included; `None`: all before it.
    pub fn of(&self, layer: usize) -> Option<usize> {
        match self {
            SlidingWindows::Nowhere => None,
            SlidingWindows::From { layer: first, positions } => (layer >= *first).then_some(*positions),
            SlidingWindows::In { is_sliding, positions } => is_sliding[layer].then_some(*positions),
        }
    }
}

/// Positions of a window as `sliding_window` says them.
///
/// # Errors
/// It is no size.
pub(super) fn sliding_window(keys: &Settings<'_>) -> Result<Option<usize>, InvalidSetting> {
    if keys.has("sliding_window") { keys.size("sliding_window") } else { Ok(Some(DEFAULT_WINDOW)) }
}

/// By layer, whether `layer_types` gives it a window; `None` where it says nothing.
fn layer_types(keys: &Settings<'_>, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    let expected = || format!("a list of full_attention or sliding_attention for each of {layers} layers");
    let is_sliding = |kind: &Json| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    match keys.get("layer_types") {
        None => Ok(None),
        Some(Json::Array(kinds)) if kinds.len() == layers => {
            let known = kinds.iter().map(is_sliding).collect::<Option<Vec<bool>>>();
            known.map(Some).ok_or_else(|| keys.invalid("layer_types", expected()).into())
        }
        Some(_) => Err(keys.invalid("layer_types", expected()).into()),
    }
}
