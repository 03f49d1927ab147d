//! A recipe says how every weight is stored: plain data read from TOML, nothing computed.
//!
//! Recipes lie in `graphs/recipes/`, named `<format>-<granularity>[-<transform>]-<rounding>.toml`, and are compiled in;
//! the flags of `qonnx export` are short forms of one. The resolved recipe is stored in every artifact's `qonnx.json`.

use std::path::Path;

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use crate::host::read;

mod builtin;
mod check;
mod error;
pub mod flags;
mod overrides;
mod transform;
mod weight;

pub use builtin::builtin_names;
pub use error::RecipeError;
pub use overrides::Override;
pub use transform::{
    AwqRecipe, BudgetRecipe, CalibrationRecipe, DEFAULT_CALIBRATION, RotationKind, RotationRecipe, TransformRecipe,
};
pub use weight::{
    FormatName, GptqRecipe, GranularityName, GroupScalesName, RoundingRecipe, ScaleFitName, ScaleName, WeightRecipe,
};

/// How every weight of a model is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The decoder's linears: q, k, v, o, gate, up and down projections.
    pub weights: WeightRecipe,
    /// Token embedding and LM head (one table where they are tied).
    #[serde(default = "WeightRecipe::f16", deserialize_with = "weight::table")]
    pub embedding: WeightRecipe,
    /// What is done to the model before rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<TransformRecipe>,
    /// What statistics are measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationRecipe>,
    /// How large the weights may get; an artifact's own recipe holds the widths that were chosen instead, as overrides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetRecipe>,
    /// Exceptions, in order; the last one that matches a weight wins.
    #[serde(default, rename = "override", skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

/// What a module is to the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// One of a decoder layer's seven linears.
    DecoderLinear,
    /// The token embedding or the LM head.
    Embedding,
}

/// One module's name and kind; a tied LM head goes by both of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedModule {
    pub names: Vec<String>,
    pub kind: ModuleKind,
}

impl Recipe {
    /// The decoder's linears as `weights`, the embedding in f16.
    pub fn of(weights: WeightRecipe) -> Self {
        Recipe {
            weights,
            embedding: WeightRecipe::f16(),
            transform: None,
            calibration: None,
            budget: None,
            overrides: Vec::new(),
        }
    }

    /// Reads a recipe file, or a built-in recipe by its name.
    pub fn load(name: &str) -> Result<Self, RecipeError> {
        if let Some(text) = builtin::text(name) {
            return Self::parse(name, text);
        }
        let text = read::text(Path::new(name), read::SETTINGS)
            .map_err(|source| RecipeError::Unreadable { path: name.to_owned(), source })?;
        Self::parse(name, &text)
    }

    /// Parses TOML; `path` is for messages.
    pub fn parse(path: &str, text: &str) -> Result<Self, RecipeError> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let message = error.message().lines().next().unwrap_or_default();
            RecipeError::Syntax { path: path.to_owned(), message: format!("{place}{message}") }
        })
    }

    /// The recipe of each of `modules`, overrides applied; every pattern must match at least one of them.
    pub fn resolve(&self, modules: &[NamedModule]) -> Result<Vec<WeightRecipe>, RecipeError> {
        let matchers = self.overrides.iter().map(Override::matcher).collect::<Result<Vec<_>, _>>()?;
        self.refuse_unmatched(&matchers, modules)?;
        let resolve = |module: &NamedModule| {
            let base = match module.kind {
                ModuleKind::DecoderLinear => self.weights,
                ModuleKind::Embedding => self.embedding,
            };
            let matching = self.overrides.iter().zip(&matchers).filter(|(_, matcher)| module.matches(matcher));
            let resolved = matching.fold(base, |_, (over, _)| over.apply(base));
            check::weight(module, resolved, self.rotation().is_some())?;
            Ok(resolved)
        };
        let resolved = modules.iter().map(resolve).collect::<Result<Vec<_>, RecipeError>>()?;
        check::recipe(self, &resolved)?;
        Ok(resolved)
    }

    /// What uses statistics of activations, if anything does; `resolved` are the weights' own recipes.
    pub fn calibrated_part(&self, resolved: &[WeightRecipe]) -> Option<&'static str> {
        let weights = resolved.iter().find_map(WeightRecipe::calibrated_part);
        let awq = self.transform.and_then(|transform| transform.awq).map(|_| "[transform] awq");
        weights.or(awq).or(self.budget.map(|_| "[budget]"))
    }

    /// Which rotation the model is turned by, if any.
    pub fn rotation(&self) -> Option<RotationRecipe> {
        self.transform.and_then(|transform| transform.rotation)
    }

    fn refuse_unmatched(&self, matchers: &[Regex], modules: &[NamedModule]) -> Result<(), RecipeError> {
        match self.overrides.iter().zip(matchers).find(|(_, matcher)| !modules.iter().any(|module| module.matches(matcher))) {
            None => Ok(()),
            Some((over, _)) => Err(RecipeError::Unmatched {
                pattern: over.pattern.clone(),
                example: modules.first().map(|module| module.names[0].clone()).unwrap_or_default(),
            }),
        }
    }
}

impl NamedModule {
    fn matches(&self, matcher: &Regex) -> bool {
        self.names.iter().any(|name| matcher.is_match(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Vec<NamedModule> {
        let linear = |name: &str| NamedModule { names: vec![name.into()], kind: ModuleKind::DecoderLinear };
        vec![
            linear("model.layers.0.self_attn.q_proj"),
            linear("model.layers.0.mlp.down_proj"),
            NamedModule { names: vec!["model.embed_tokens".into(), "lm_head".into()], kind: ModuleKind::Embedding },
        ]
    }

    /// `qonnx export --bits 8` and a file that says no more mean the same, and a table has groups.
    #[test]
    fn a_format_alone_means_in_a_file_what_it_means_as_a_flag() {
        for format in ["int8", "int6", "int4", "int2", "nf4"] {
            let recipe = Recipe::parse("t", &format!("weights = {{ format = \"{format}\" }}")).unwrap();
            assert_eq!(recipe.weights, WeightRecipe::of(recipe.weights.format), "{format}");
        }
        let recipe = Recipe::parse("t", "weights = { format = \"int8\" }\nembedding = { format = \"int8\" }").unwrap();
        let channel = (GranularityName::Channel, ScaleName::Absmax);
        assert_eq!((recipe.weights.granularity, recipe.weights.scale), channel);
        assert_eq!((recipe.embedding.granularity, recipe.embedding.scale), (GranularityName::Group(32), ScaleName::Absmax));
    }

    #[test]
    fn the_last_override_wins_and_inherits_the_rest() {
        let recipe = Recipe::parse(
            "t",
            r#"
            weights = { format = "int4", granularity = { group = 64 }, scale = "absmax" }
            [[override]]
            match = "model.layers.*"
            format = "int2"
            [[override]]
            match = "*.down_proj"
            format = "int8"
            granularity = "channel"
            "#,
        )
        .unwrap();
        let resolved = recipe.resolve(&modules()).unwrap();
        assert_eq!(resolved[0].format, FormatName::Int2);
        assert_eq!((resolved[0].granularity, resolved[0].scale), (GranularityName::Group(64), ScaleName::Absmax));
        assert_eq!((resolved[1].format, resolved[1].granularity), (FormatName::Int8, GranularityName::Channel));
        assert_eq!(resolved[2].format, FormatName::F16);
    }

    #[test]
    fn a_tied_head_answers_to_both_of_its_names() {
        let mut recipe = Recipe::of(WeightRecipe::of(FormatName::Int4));
        recipe.overrides.push(Override::from_flag("lm_head=int8").unwrap());
        let resolved = recipe.resolve(&modules()).unwrap();
        assert_eq!((resolved[2].format, resolved[2].granularity), (FormatName::Int8, GranularityName::Group(32)));
    }

    #[test]
    fn a_pattern_without_a_match_is_refused_by_name() {
        let mut recipe = Recipe::of(WeightRecipe::of(FormatName::Int4));
        recipe.overrides.push(Override::from_flag("model.layers.9.*=int8").unwrap());
        let error = recipe.resolve(&modules()).unwrap_err().to_string();
        assert!(error.contains("`model.layers.9.*` matches no weight"), "{error}");
    }

    #[test]
    fn every_refusal_names_its_cause() {
        let refuse =
            |text: &str| Recipe::parse("r.toml", text).and_then(|recipe| recipe.resolve(&modules())).unwrap_err().to_string();
        let cases = [
            ("weights = { format = \"int7\" }", "line 1: unknown variant `int7`"),
            ("[weights]\nformat = \"int4\"\nbits = 4", "line 3: unknown field `bits`"),
            ("weights = { format = \"int4\", granularity = { group = 48 } }", "group size 48"),
            ("weights = { format = \"int4\", granularity = { group = 8 } }", "group size 8"),
            ("weights = { format = \"int4\", granularity = { group = 512 } }", "group size 512"),
            ("weights = { format = \"int4\" }\nembedding = { format = \"int2\" }", "cannot be stored as int2"),
            ("weights = { format = \"int4\" }\nembedding = { format = \"int8\", granularity = \"channel\" }", "block by block"),
            ("weights = { format = \"int4\" }\n[[override]]\nmatch = \"a[\"\nformat = \"f16\"", "`a[` is not a glob"),
            ("weights = { format = \"int4\", rounding = \"best\" }", "unknown variant `best`"),
            ("weights = { format = \"int4\", rounding = { method = \"best\" } }", "unknown variant `best`"),
            ("weights = { format = \"int4\", rounding = { method = \"gptq\", dampen = 1 } }", "unknown field `dampen`"),
            ("weights = { format = \"int4\", rounding = \"gptq\" }", "rounding gptq needs calibration data"),
            ("weights = { format = \"int4\" }\ncalibration = { set = \"x\" }", "nothing in it uses statistics"),
            ("weights = { format = \"int4\" }\ntransform = { awq = {} }", "[transform] awq needs calibration data"),
            ("weights = { format = \"f16\" }\ntransform = { rotation = { kind = \"random\" } }", "rotation with unquantized"),
            ("weights = { format = \"int4\", double_quantization = true }", "only nf4 and fp4 have nested scales"),
            ("weights = { format = \"int4\", outlier_threshold = 6.0 }", "only int8 keeps outliers"),
            ("weights = { format = \"int8\", outlier_threshold = -6.0 }", "outlier_threshold -6"),
            ("weights = { format = \"nf4\", symmetric = false }", "codebooks have no zero point"),
            ("weights = { format = \"nf4\", granularity = \"channel\" }", "codebooks are stored in groups"),
            ("weights = { format = \"fp4\", scale = \"least-squares\" }", "other than absmax"),
            ("weights = { format = \"int4\" }\nembedding = { format = \"nf4\" }", "cannot be stored as nf4"),
            ("weights = { format = \"int4\" }\nembedding = { format = \"int4\", rounding = \"gptq\" }", "rounded to nearest"),
            ("weights = { format = \"int4\" }\nbudget = { bpw = 17.0 }\ncalibration = { set = \"x\" }", "[budget] bpw is 17"),
            (
                "weights = { format = \"int4\" }\nembedding = { format = \"int8\" }\ntransform = { rotation = { kind = \"random\" } }",
                "embedding and LM head stay f16",
            ),
            ("weights = 4", "line 1"),
            ("", "missing field `weights`"),
        ];
        for (text, expected) in cases {
            let error = refuse(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_resolved_recipe_reads_back_as_itself() {
        let mut recipe = Recipe::of(WeightRecipe::of(FormatName::Int2));
        recipe.overrides.push(Override::from_flag("model.layers.0.*=int8").unwrap());
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(Recipe::parse("t", &text).unwrap(), recipe, "{text}");
    }

    #[test]
    fn every_part_of_a_recipe_reads_back_as_itself() {
        for name in builtin_names() {
            let recipe = Recipe::load(name).unwrap();
            let text = toml::to_string(&recipe).unwrap();
            assert_eq!(Recipe::parse(name, &text).unwrap(), recipe, "{text}");
            let json = serde_json::to_string(&recipe).unwrap();
            assert_eq!(serde_json::from_str::<Recipe>(&json).unwrap(), recipe, "{json}");
        }
    }

    #[test]
    fn a_word_stands_for_a_rounding_with_its_defaults() {
        let text =
            |rounding: &str| format!("weights = {{ format = \"int4\", rounding = {rounding} }}\ncalibration = {{ set = \"x\" }}");
        let [word, table, damped] = ["\"gptq\"", "{ method = \"gptq\" }", "{ method = \"gptq\", damping = 0.05 }"]
            .map(|r| Recipe::parse("t", &text(r)).unwrap());
        assert_eq!(word, table);
        assert_eq!(word.weights.rounding, RoundingRecipe::Gptq(GptqRecipe::default()));
        assert_eq!(damped.weights.rounding, RoundingRecipe::Gptq(GptqRecipe { damping: 0.05, ..GptqRecipe::default() }));
    }

    #[test]
    fn an_override_to_another_format_leaves_behind_what_only_the_first_can_have() {
        let nested = WeightRecipe { double_quantization: true, ..WeightRecipe::of(FormatName::Nf4) };
        let mut recipe = Recipe::of(nested);
        recipe.overrides.push(Override::from_flag("*.down_proj=int8").unwrap());
        let resolved = recipe.resolve(&modules()).unwrap();
        assert!(resolved[0].double_quantization && !resolved[1].double_quantization, "{resolved:?}");
        let exact = WeightRecipe { outlier_threshold: Some(5.0), ..WeightRecipe::of(FormatName::Int8) };
        let mut recipe = Recipe::of(nested);
        recipe.overrides.push(Override::exact("model.layers.0.mlp.down_proj", exact));
        recipe.calibration = Some(CalibrationRecipe { set: "x".into() });
        assert_eq!(recipe.resolve(&modules()).unwrap(), [nested, exact, WeightRecipe::f16()]);
    }

    #[test]
    fn built_in_recipes_resolve() {
        for name in builtin_names() {
            Recipe::load(name).and_then(|recipe| recipe.resolve(&modules())).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn override_flags_are_checked() {
        for text in ["lm_head", "=int8", "lm_head=int7", "lm_head="] {
            assert!(Override::from_flag(text).unwrap_err().to_string().contains(text));
        }
    }
}
