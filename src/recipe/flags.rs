//! The flags of `qonnx plan` and `qonnx export` that are short forms of a recipe.

use crate::recipe::{
    AwqRecipe, BudgetRecipe, CalibrationRecipe, DEFAULT_CALIBRATION, FormatName, GptqRecipe, GranularityName, Recipe,
    RotationKind, RotationRecipe, RoundingRecipe, ScaleFitName, ScaleName, TransformRecipe, WeightRecipe,
};
use crate::usage::UsageError;

/// LLM.int8's threshold (arXiv 2208.07339, section 3.2).
const OUTLIER_THRESHOLD: f32 = 6.0;

/// Under a budget bits are better spent on codes than on scales (`results/quantization/prototype/FINDINGS.md`, "Mixed widths").
const BUDGET_GRANULARITY: GranularityName = GranularityName::Group(128);

/// `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Round to nearest.
    #[default]
    Rtn,
    Gptq,
    /// AWQ's scales and clipping, then round to nearest.
    Awq,
    AwqGptq,
    Nf4,
    Fp4,
    LlmInt8,
}

impl Method {
    /// As it is spelled on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::Rtn => "rtn",
            Method::Gptq => "gptq",
            Method::Awq => "awq",
            Method::AwqGptq => "awq+gptq",
            Method::Nf4 => "nf4",
            Method::Fp4 => "fp4",
            Method::LlmInt8 => "llm-int8",
        }
    }

    /// The format that the method is, where it is one.
    fn format(self) -> Option<FormatName> {
        match self {
            Method::Nf4 => Some(FormatName::Nf4),
            Method::Fp4 => Some(FormatName::Fp4),
            Method::LlmInt8 => Some(FormatName::Int8),
            _ => None,
        }
    }

    fn uses_gptq(self) -> bool {
        matches!(self, Method::Gptq | Method::AwqGptq)
    }

    fn uses_awq(self) -> bool {
        matches!(self, Method::Awq | Method::AwqGptq)
    }
}

/// The flags that are short forms of a recipe; what is not given is the method's default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecipeFlags {
    pub method: Method,
    /// `--bits`.
    pub format: Option<FormatName>,
    pub granularity: Option<GranularityName>,
    pub asymmetric: bool,
    pub scale: Option<ScaleName>,
    pub embedding: Option<FormatName>,
    pub gptq: GptqFlags,
    pub double_quantization: bool,
    pub outlier_threshold: Option<f32>,
    pub rotation: Option<RotationKind>,
    /// Seed of a rotation.
    pub seed: Option<u64>,
    pub budget: Option<BudgetRecipe>,
}

/// GPTQ's settings, as far as they were given.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GptqFlags {
    pub damping: Option<f64>,
    pub act_order: Option<bool>,
    pub sweeps: Option<usize>,
    pub target: Option<f32>,
}

impl RecipeFlags {
    /// The recipe that the flags mean; `calibration` is a set other than the default.
    pub fn recipe(&self, calibration: Option<&str>) -> Result<Recipe, UsageError> {
        self.refuse_foreign(calibration)?;
        let format = self.method.format().or(self.format).unwrap_or(FormatName::Int4);
        let default = WeightRecipe::of(format);
        let mut recipe = Recipe::of(WeightRecipe {
            symmetric: !self.asymmetric,
            granularity: self.granularity.unwrap_or(if self.budget.is_some() { BUDGET_GRANULARITY } else { default.granularity }),
            scale: self.scale.unwrap_or(default.scale),
            rounding: if self.method.uses_gptq() {
                RoundingRecipe::Gptq(self.gptq.recipe(self.scale))
            } else {
                RoundingRecipe::Rtn
            },
            double_quantization: self.double_quantization,
            outlier_threshold: (self.method == Method::LlmInt8).then(|| self.outlier_threshold.unwrap_or(OUTLIER_THRESHOLD)),
            ..default
        });
        let embedding = WeightRecipe::of(self.embedding.unwrap_or(FormatName::F16));
        recipe.embedding = WeightRecipe { granularity: GranularityName::default(), ..embedding };
        // GPTQ would aim at clipped weights.
        let awq = self.method.uses_awq().then(|| AwqRecipe { clip: !self.method.uses_gptq(), ..AwqRecipe::default() });
        let rotation = self.rotation.map(|kind| RotationRecipe { kind, seed: self.seed.unwrap_or(0) });
        recipe.transform = (awq.is_some() || rotation.is_some()).then_some(TransformRecipe { awq, rotation });
        recipe.budget = self.budget;
        let set = calibration.unwrap_or(DEFAULT_CALIBRATION).to_owned();
        recipe.calibration = self.is_calibrated().then_some(CalibrationRecipe { set });
        Ok(recipe)
    }

    /// Whether anything that is asked for uses statistics.
    fn is_calibrated(&self) -> bool {
        let method = self.method.uses_gptq() || self.method.uses_awq() || self.method == Method::LlmInt8;
        method || self.budget.is_some()
    }

    /// Refuses flags that would otherwise be passed over.
    fn refuse_foreign(&self, calibration: Option<&str>) -> Result<(), UsageError> {
        let method = self.method.name();
        let codes = self.of_codes();
        if self.format == Some(FormatName::F16) {
            let rotation = self.rotation.map(|_| "--rotate");
            let method = (self.method != Method::Rtn).then_some("--method");
            if let Some(flag) = method.or(codes).or(rotation) {
                return Err(UsageError::FlagOfNothing { flag });
            }
        }
        let foreign = |flag, given: bool, takes: &'static str| given.then_some((flag, takes));
        let is_codebook = matches!(self.method, Method::Nf4 | Method::Fp4);
        let gptq = "gptq or awq+gptq";
        let found = foreign("--bits", self.format.is_some() && self.method.format().is_some(), "rtn, gptq, awq or awq+gptq")
            .or(codes.filter(|&flag| is_codebook && flag != "--group-size").map(|flag| (flag, "an integer method")))
            .or(foreign("--damping", self.gptq.damping.is_some() && !self.method.uses_gptq(), gptq))
            .or(foreign("--act-order", self.gptq.act_order == Some(true) && !self.method.uses_gptq(), gptq))
            .or(foreign("--no-act-order", self.gptq.act_order == Some(false) && !self.method.uses_gptq(), gptq))
            .or(foreign("--sweeps", self.gptq.sweeps.is_some() && !self.method.uses_gptq(), gptq))
            .or(foreign("--target-correction", self.gptq.target.is_some() && !self.method.uses_gptq(), gptq))
            .or(foreign("--double-quantization", self.double_quantization && !is_codebook, "nf4 or fp4"))
            .or(foreign("--outlier-threshold", self.outlier_threshold.is_some() && self.method != Method::LlmInt8, "llm-int8"))
            .or(foreign("--target-bpw or --target-size", self.budget.is_some() && self.method.format().is_some(), gptq))
            .or(foreign("--calibration", calibration.is_some() && !self.is_calibrated(), "gptq, awq, awq+gptq or llm-int8"));
        match found {
            Some((flag, takes)) => Err(UsageError::MethodFlag { flag, method, takes }),
            None if self.seed.is_some() && self.rotation.is_none() => Err(UsageError::SeedOfNothing),
            None => Ok(()),
        }
    }

    /// A flag that says how codes are made, if there is one.
    fn of_codes(&self) -> Option<&'static str> {
        let given = [
            ("--group-size", matches!(self.granularity, Some(GranularityName::Group(_)))),
            ("--per-channel", self.granularity == Some(GranularityName::Channel)),
            ("--asymmetric", self.asymmetric),
            ("--scale", self.scale.is_some()),
        ];
        // The size of a codebook's groups may be chosen, so it is looked at last.
        given.into_iter().rev().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

impl GptqFlags {
    /// `scale` is the rule that was asked for: without one, scales are fitted to the Gram matrix.
    fn recipe(self, scale: Option<ScaleName>) -> GptqRecipe {
        let default = GptqRecipe::default();
        GptqRecipe {
            scale_fit: if scale.is_some() { ScaleFitName::Rule } else { default.scale_fit },
            damping: self.damping.unwrap_or(default.damping),
            act_order: self.act_order.unwrap_or(default.act_order),
            sweeps: self.sweeps.unwrap_or(default.sweeps),
            target: self.target.unwrap_or(default.target),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(flags: &RecipeFlags) -> String {
        flags.recipe(None).unwrap_err().to_string()
    }

    #[test]
    fn each_method_is_a_whole_recipe() {
        let recipe = |method| RecipeFlags { method, ..RecipeFlags::default() }.recipe(None).unwrap();
        assert_eq!(recipe(Method::Rtn), Recipe::of(WeightRecipe::of(FormatName::Int4)));
        let gptq = recipe(Method::Gptq);
        assert_eq!(gptq.weights.rounding, RoundingRecipe::Gptq(GptqRecipe::default()));
        assert_eq!(gptq.calibration.unwrap().set, DEFAULT_CALIBRATION);
        let ruled = RecipeFlags { method: Method::Gptq, scale: Some(ScaleName::Absmax), ..RecipeFlags::default() };
        let ruled = ruled.recipe(None).unwrap().weights;
        let RoundingRecipe::Gptq(rounding) = ruled.rounding else { panic!("{ruled:?}") };
        assert_eq!((ruled.scale, rounding.scale_fit), (ScaleName::Absmax, ScaleFitName::Rule));
        let awq = recipe(Method::AwqGptq);
        assert_eq!(awq.transform.unwrap().awq, Some(AwqRecipe { clip: false, ..AwqRecipe::default() }));
        assert_eq!(awq.weights, gptq.weights);
        let nf4 = recipe(Method::Nf4);
        assert_eq!((nf4.weights.format, nf4.weights.granularity), (FormatName::Nf4, GranularityName::Group(64)));
        assert_eq!(nf4.calibration, None);
        let int8 = recipe(Method::LlmInt8);
        assert_eq!((int8.weights.format, int8.weights.outlier_threshold), (FormatName::Int8, Some(6.0)));
    }

    #[test]
    fn flags_of_another_method_are_refused_by_name() {
        let with = |method| RecipeFlags { method, ..RecipeFlags::default() };
        let cases = [
            (RecipeFlags { format: Some(FormatName::Int4), ..with(Method::Nf4) }, "--bits means nothing to --method nf4"),
            (RecipeFlags { asymmetric: true, ..with(Method::Fp4) }, "--asymmetric means nothing to --method fp4"),
            (
                RecipeFlags { double_quantization: true, ..with(Method::Gptq) },
                "--double-quantization means nothing to --method gptq",
            ),
            (
                RecipeFlags { outlier_threshold: Some(3.0), ..with(Method::Rtn) },
                "--outlier-threshold means nothing to --method rtn",
            ),
            (RecipeFlags { seed: Some(3), ..with(Method::Rtn) }, "--seed"),
            (RecipeFlags { format: Some(FormatName::F16), ..with(Method::Awq) }, "--bits 16 is not quantized, so --method"),
            (
                RecipeFlags { gptq: GptqFlags { act_order: Some(false), ..GptqFlags::default() }, ..with(Method::Awq) },
                "--no-act-order means nothing to --method awq",
            ),
        ];
        for (flags, expected) in cases {
            let error = refusal(&flags);
            assert!(error.contains(expected), "{error}");
        }
        let error = with(Method::Rtn).recipe(Some("mine.toml")).unwrap_err().to_string();
        assert!(error.contains("--calibration means nothing to --method rtn"), "{error}");
    }
}
