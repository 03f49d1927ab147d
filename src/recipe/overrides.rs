//! Exceptions: which weights are stored in another way.

use globset::Glob;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::{FormatName, GranularityName, RecipeError, RoundingRecipe, ScaleName, WeightRecipe};
use crate::host::shown;

/// Most bytes of a pattern: names of modules have some forty, and alternatives take a few times that.
const MOST_BYTES: usize = 1000;

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

    /// For a recipe whose weights have as much granularity as `base` by its format alone: another format has its own. Said here,
    /// so that a recorded recipe says it too.
    pub fn with_own_granularity(mut self, base: &WeightRecipe) -> Self {
        if self.format != base.format && self.format != FormatName::F16 {
            self.granularity = self.granularity.or(Some(WeightRecipe::in_groups(self.format)));
        }
        self
    }

    /// What the pattern means. globset writes it as a regular expression, which is compiled here: globset itself panics where
    /// one nests too deep.
    pub(super) fn matcher(&self) -> Result<Regex, RecipeError> {
        let refused = |message: String| RecipeError::Pattern { pattern: shown(&self.pattern).to_string(), message };
        if self.pattern.len() > MOST_BYTES {
            return Err(refused(format!("it has {} bytes, at most {MOST_BYTES} are taken", self.pattern.len())));
        }
        let glob = Glob::new(&self.pattern).map_err(|error| refused(error.kind().to_string()))?;
        let compiled = RegexBuilder::new(glob.regex()).dot_matches_new_line(true).build();
        compiled.map_err(|_| refused("its alternatives nest too deep".to_owned()))
    }

    /// `base` with this exception. Nested scales and outliers belong to a format, so they are not handed on to another one.
    pub(super) fn apply(&self, base: WeightRecipe) -> WeightRecipe {
        let is_same = self.format == base.format;
        let to_codebook = self.format.codebook().is_some() && base.format.codebook().is_none();
        let scale = if to_codebook { ScaleName::Absmax } else { base.scale };
        // Codebooks are stored in groups only.
        let lacks_groups = to_codebook && base.granularity == GranularityName::Channel;
        let granularity = if lacks_groups { WeightRecipe::in_groups(self.format) } else { base.granularity };
        WeightRecipe {
            format: self.format,
            symmetric: self.symmetric.unwrap_or(base.symmetric || to_codebook),
            granularity: self.granularity.unwrap_or(granularity),
            scale: self.scale.unwrap_or(scale),
            rounding: self.rounding.unwrap_or(base.rounding),
            double_quantization: self.double_quantization.unwrap_or(is_same && base.double_quantization),
            outlier_threshold: self.outlier_threshold.or(base.outlier_threshold.filter(|_| is_same)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_brings_its_own_granularity() {
        let int8 = WeightRecipe::of(FormatName::Int8);
        let own = |text: &str| Override::from_flag(text).unwrap().with_own_granularity(&int8).granularity;
        assert_eq!(own("*=int4"), Some(GranularityName::Group(32)));
        assert_eq!(own("*=nf4"), Some(GranularityName::Group(64)));
        assert_eq!((own("*=int8"), own("*=f16")), (None, None), "the base's own, and one without any");
        let said = Override { granularity: Some(GranularityName::Group(16)), ..Override::of("*", FormatName::Int4) };
        assert_eq!(said.clone().with_own_granularity(&int8), said);
    }

    #[test]
    fn a_codebook_over_channels_is_in_groups() {
        let nf4 = Override::of("*", FormatName::Nf4);
        assert_eq!(nf4.apply(WeightRecipe::of(FormatName::Int8)).granularity, GranularityName::Group(64));
        assert_eq!(nf4.apply(WeightRecipe::of(FormatName::Int4)).granularity, GranularityName::Group(32));
    }

    #[test]
    fn patterns_that_globset_cannot_take_are_refused() {
        let nested = |depth: usize| format!("{}b{}", "{a,".repeat(depth), "}".repeat(depth));
        for pattern in [nested(245), nested(300), nested(100_000), "*".repeat(1_000_000), "[".to_owned()] {
            let error = Override::of(&pattern, FormatName::Int8).matcher().expect_err("it is no pattern").to_string();
            assert!(error.contains("is not a glob") && error.len() < 500, "{error}");
        }
        assert!(Override::of(&nested(20), FormatName::Int8).matcher().expect("a pattern").is_match(b"b"));
    }
}
