//! Exceptions: which weights are stored in another way.

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::{FormatName, GranularityName, RecipeError, RoundingRecipe, ScaleName, WeightRecipe};

/// An exception for the weights whose module name matches `pattern`. What it leaves out is as in the section that it
/// overrides, as far as its format can have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Glob over module names: `lm_head`, `model.layers.*.mlp.down_proj`, `model.layers.{0,1}.*`.
    #[serde(rename = "match")]
    pub pattern: String,
    pub format: FormatName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granularity: Option<GranularityName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<RoundingRecipe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub double_quantization: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_threshold: Option<f32>,
}

impl Override {
    /// Another format for the weights that match `pattern`, the rest as it was.
    pub fn of(pattern: &str, format: FormatName) -> Self {
        Override {
            pattern: pattern.to_owned(),
            format,
            symmetric: None,
            granularity: None,
            scale: None,
            rounding: None,
            double_quantization: None,
            outlier_threshold: None,
        }
    }

    /// `recipe` for exactly the module `name`, whatever section it belongs to.
    pub fn exact(name: &str, recipe: WeightRecipe) -> Self {
        Override {
            pattern: name.to_owned(),
            format: recipe.format,
            symmetric: Some(recipe.symmetric),
            granularity: Some(recipe.granularity),
            scale: Some(recipe.scale),
            rounding: Some(recipe.rounding),
            double_quantization: Some(recipe.double_quantization),
            outlier_threshold: recipe.outlier_threshold,
        }
    }

    /// The short form on the command line, `PATTERN=FORMAT`.
    pub fn from_flag(text: &str) -> Result<Self, RecipeError> {
        let parsed = text.rsplit_once('=').and_then(|(pattern, format)| {
            let format =
                FormatName::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(format)).ok()?;
            (!pattern.is_empty()).then_some((pattern, format))
        });
        let (pattern, format) = parsed.ok_or_else(|| RecipeError::OverrideFlag { text: text.to_owned() })?;
        Ok(Override::of(pattern, format))
    }

    pub(super) fn matcher(&self) -> Result<GlobMatcher, RecipeError> {
        let glob = Glob::new(&self.pattern)
            .map_err(|error| RecipeError::Pattern { pattern: self.pattern.clone(), message: error.kind().to_string() })?;
        Ok(glob.compile_matcher())
    }

    /// `base` with this exception. Nested scales and outliers belong to a format, so they are not handed on to another one.
    pub fn apply(&self, base: WeightRecipe) -> WeightRecipe {
        let is_same = self.format == base.format;
        let to_codebook = self.format.codebook().is_some() && base.format.codebook().is_none();
        let scale = if to_codebook { ScaleName::Absmax } else { base.scale };
        WeightRecipe {
            format: self.format,
            symmetric: self.symmetric.unwrap_or(base.symmetric || to_codebook),
            granularity: self.granularity.unwrap_or(base.granularity),
            scale: self.scale.unwrap_or(scale),
            rounding: self.rounding.unwrap_or(base.rounding),
            double_quantization: self.double_quantization.unwrap_or(is_same && base.double_quantization),
            outlier_threshold: self.outlier_threshold.or(base.outlier_threshold.filter(|_| is_same)),
        }
    }
}
