//! The recipes of `graphs/recipes/`, compiled in.

macro_rules! recipes {
    ($($name:literal),+ $(,)?) => {
        const RECIPES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/graphs/recipes/", $name, ".toml")))),+];
    };
}

recipes!(
    "f16",
    "int8-channel-rtn",
    "int8-g32-rtn",
    "int4-g32-rtn",
    "int4-g128-rtn",
    "int4-g32-asymmetric-rtn",
    "int4-g32-embedding8-rtn",
    "int2-g32-rtn",
    "int4-g32-gptq",
    "int4-g128-gptq",
    "int3-g128-gptq",
    "int2-g32-gptq",
    "int4-g128-awq-rtn",
    "int4-g128-awq-gptq",
    "int4-g128-rotated-gptq",
    "nf4-g64-rtn",
    "nf4-g64-nested-rtn",
    "fp4-g64-rtn",
    "fp4-g64-nested-rtn",
    "int8-outlier-rtn",
    "mixed-4.63bpw-gptq",
    "mixed-4.25bpw-gptq",
    "mixed-3.25bpw-gptq",
    "mixed-2.5bpw-gptq"
);

/// Names that [`super::Recipe::load`] knows without a file.
pub fn builtin_names() -> Vec<&'static str> {
    RECIPES.iter().map(|(name, _)| *name).collect()
}

pub(super) fn text(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
