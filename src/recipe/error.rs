use super::builtin_names;
use crate::fault::Fault;

/// Every way a recipe can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    #[error("recipe {path}: cannot be read; give a TOML file or one of {}", builtin_names().join(", "))]
    Unreadable { path: String, source: std::io::Error },
    #[error("recipe {path}: {message}; see graphs/recipes/ for complete examples")]
    Syntax { path: String, message: String },
    #[error("recipe: group size {got} of {module}; expected a power of two from 16 to 256")]
    GroupSize { module: String, got: usize },
    #[error("recipe: {module} cannot be stored as {got}; choose f16, int8 or int4")]
    EmbeddingFormat { module: String, got: &'static str },
    #[error(
        "recipe: {module} cannot have one scale per channel, because its rows are looked up block by block; choose a group size"
    )]
    EmbeddingGranularity { module: String },
    #[error("recipe: {module} is {got} and the model is rotated; embedding and LM head stay f16 then, leave it out")]
    EmbeddingRotated { module: String, got: &'static str },
    #[error("recipe: {module} asks for {what}, and the embedding and the LM head are rounded to nearest; leave it out")]
    EmbeddingCalibrated { module: String, what: &'static str },
    #[error("recipe: {module} is {format} with symmetric = false; codebooks have no zero point, leave it out")]
    CodebookAsymmetric { module: String, format: &'static str },
    #[error(
        "recipe: {module} is {format} with one scale per channel; codebooks are stored in groups (MatMulBnb4), choose a group \
         size like 64"
    )]
    CodebookChannel { module: String, format: &'static str },
    #[error("recipe: {module} is {format} with a scale other than absmax, which is what codebooks are defined by; leave it out")]
    CodebookScale { module: String, format: &'static str },
    #[error("recipe: {module} is {format} with double_quantization; only nf4 and fp4 have nested scales, leave it out")]
    NestedFormat { module: String, format: &'static str },
    #[error("recipe: {module} is {format} with outlier_threshold; only int8 keeps outliers, leave it out")]
    OutlierFormat { module: String, format: &'static str },
    #[error("recipe: outlier_threshold {got} of {module}; expected a number above 0, like 6")]
    OutlierThreshold { module: String, got: f32 },
    #[error("recipe: {what} is {got}; expected {expected}")]
    Number { what: &'static str, got: String, expected: &'static str },
    #[error(
        "recipe: {what} needs calibration data; add [calibration] with set = \"{}\" or a file of your own",
        super::DEFAULT_CALIBRATION
    )]
    CalibrationMissing { what: &'static str },
    #[error("recipe: nothing in it uses statistics, so [calibration] means nothing; leave it out, or choose gptq or awq")]
    CalibrationIdle,
    #[error("recipe: [transform] {what} with unquantized weights (f16) changes nothing; leave it out")]
    TransformIdle { what: &'static str },
    #[error(
        "recipe: override pattern `{pattern}` is not a glob: {message}; expected something like model.layers.*.mlp.down_proj"
    )]
    Pattern { pattern: String, message: String },
    #[error("recipe: override pattern `{pattern}` matches no weight of this model; modules are named like {example}")]
    Unmatched { pattern: String, example: String },
    #[error(
        "override `{text}`: expected PATTERN=FORMAT with FORMAT one of f16, int8, int6, int5, int4, int3, int2, nf4, fp4, like \
         lm_head=int8"
    )]
    OverrideFlag { text: String },
}

impl RecipeError {
    /// A wrong recipe is always the input's fault.
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}
