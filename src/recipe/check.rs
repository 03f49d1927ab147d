//! Combinations that make no sense, refused by name.

use super::{
    BudgetRecipe, FormatName, GptqRecipe, GranularityName, GroupScalesName, ModuleKind, NamedModule, Recipe, RecipeError,
    RoundingRecipe, ScaleName, WeightRecipe,
};

/// What the recipe as a whole cannot mean, given what each of its weights became.
pub(super) fn recipe(recipe: &Recipe, resolved: &[WeightRecipe]) -> Result<(), RecipeError> {
    let calibrated = recipe.calibrated_part(resolved);
    match (&recipe.calibration, calibrated) {
        (None, Some(what)) => return Err(RecipeError::CalibrationMissing { what }),
        (Some(_), None) => return Err(RecipeError::CalibrationIdle),
        _ => {}
    }
    let transform = recipe.transform.unwrap_or_default();
    let idle = recipe.budget.is_none() && resolved.iter().all(|weight| weight.format == FormatName::F16);
    match (transform.awq, transform.rotation) {
        (Some(_), _) if idle => return Err(RecipeError::TransformIdle { what: "awq" }),
        (_, Some(_)) if idle => return Err(RecipeError::TransformIdle { what: "rotation" }),
        (Some(awq), _) if !(1..=1000).contains(&awq.ratio_steps) => {
            return Err(number("[transform] awq ratio_steps", awq.ratio_steps, "1 to 1000"));
        }
        _ => {}
    }
    match recipe.budget {
        Some(BudgetRecipe::Bpw(bits)) if !(bits > 0.0 && bits <= 16.0) => {
            Err(number("[budget] bpw", bits, "bits above 0, at most 16"))
        }
        Some(BudgetRecipe::Size(0)) => Err(number("[budget] size", 0, "bytes above 0")),
        _ => Ok(()),
    }
}

fn number(what: &'static str, got: impl std::fmt::Display, expected: &'static str) -> RecipeError {
    RecipeError::Number { what, got: got.to_string(), expected }
}

/// What the formats themselves cannot do, whatever the model's shapes are.
pub(super) fn weight(module: &NamedModule, recipe: WeightRecipe, is_rotated: bool) -> Result<(), RecipeError> {
    let name = || module.names[0].clone();
    if recipe.format == FormatName::F16 {
        return Ok(());
    }
    if let GranularityName::Group(size) = recipe.granularity
        && !(size.is_power_of_two() && (16..=256).contains(&size))
    {
        return Err(RecipeError::GroupSize { module: name(), got: size });
    }
    match recipe.format.codebook() {
        Some(_) => codebook(&name, recipe)?,
        None if recipe.double_quantization => {
            return Err(RecipeError::NestedFormat { module: name(), format: recipe.format.name() });
        }
        None => {}
    }
    match recipe.outlier_threshold {
        Some(_) if recipe.format != FormatName::Int8 => {
            return Err(RecipeError::OutlierFormat { module: name(), format: recipe.format.name() });
        }
        Some(got) if !(got > 0.0 && got.is_finite()) => {
            return Err(RecipeError::OutlierThreshold { module: name(), got });
        }
        _ => {}
    }
    if let RoundingRecipe::Gptq(settings) = recipe.rounding {
        gptq(settings)?;
    }
    match module.kind {
        ModuleKind::Embedding if is_rotated => Err(RecipeError::EmbeddingRotated { module: name(), got: recipe.format.name() }),
        ModuleKind::Embedding => embedding(module, recipe),
        ModuleKind::DecoderLinear => Ok(()),
    }
}

fn codebook(name: &dyn Fn() -> String, recipe: WeightRecipe) -> Result<(), RecipeError> {
    let format = recipe.format.name();
    if !recipe.symmetric {
        return Err(RecipeError::CodebookAsymmetric { module: name(), format });
    }
    if recipe.granularity == GranularityName::Channel {
        return Err(RecipeError::CodebookChannel { module: name(), format });
    }
    if recipe.scale != ScaleName::Absmax {
        return Err(RecipeError::CodebookScale { module: name(), format });
    }
    Ok(())
}

/// Rounds of coordinate descent that nobody needs more of.
const MOST_SWEEPS: usize = 100;

fn gptq(settings: GptqRecipe) -> Result<(), RecipeError> {
    if !(settings.damping > 0.0 && settings.damping <= 1.0) {
        return Err(number("rounding gptq damping", settings.damping, "a number above 0, at most 1"));
    }
    if !(0.0..=1.0).contains(&settings.target) {
        return Err(number("rounding gptq target", settings.target, "a number from 0 to 1"));
    }
    if settings.act_order && settings.group_scales == GroupScalesName::Dynamic {
        return Err(number("rounding gptq act_order", true, "false where group_scales is dynamic"));
    }
    if settings.sweeps > MOST_SWEEPS {
        return Err(number("rounding gptq sweeps", settings.sweeps, "at most 100; more than a few gain nothing"));
    }
    if settings.column_block == 0 {
        return Err(number("rounding gptq column_block", 0, "columns from 1 on, like 128"));
    }
    Ok(())
}

/// Embedding and LM head are not calibrated, and a table is looked up block by block.
fn embedding(module: &NamedModule, recipe: WeightRecipe) -> Result<(), RecipeError> {
    let name = || module.names[0].clone();
    if let Some(what) = recipe.calibrated_part() {
        return Err(RecipeError::EmbeddingCalibrated { module: name(), what });
    }
    if !module.names.iter().any(|name| name == "model.embed_tokens") {
        return Ok(());
    }
    if !matches!(recipe.format, FormatName::Int8 | FormatName::Int4) {
        return Err(RecipeError::EmbeddingFormat { module: name(), got: recipe.format.name() });
    }
    if recipe.granularity == GranularityName::Channel {
        return Err(RecipeError::EmbeddingGranularity { module: name() });
    }
    Ok(())
}
