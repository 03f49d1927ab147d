//! The experiments of `benches/experiments/`, compiled in.

macro_rules! experiments {
    ($($name:literal),+ $(,)?) => {
        const EXPERIMENTS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/experiments/", $name, ".toml")))),+];
    };
}

experiments!(
    "fp16_baseline",
    "int8_rtn",
    "bnb_8bit",
    "bnb_4bit_nf4",
    "bnb_4bit_nf4_double",
    "bnb_4bit_fp4",
    "bnb_4bit_fp4_double",
    "int4_rtn_g32",
    "int4_rtn_g128",
    "gptq_4bit_g128",
    "gptq_4bit_g32",
    "awq_4bit_g128",
    "awq_gptq_4bit_g128",
    "gptq_4bit_g128_rotated",
    "int3_rtn_g128",
    "gptq_3bit_g128",
    "int2_rtn_g32",
    "gptq_2bit_g32",
    "budget_4.63bpw",
    "budget_4.25bpw",
    "budget_3.25bpw",
    "budget_2.5bpw",
);

/// Names that [`super::Experiment::load`] knows without a file.
pub fn builtin_names() -> Vec<&'static str> {
    EXPERIMENTS.iter().map(|(name, _)| *name).collect()
}

pub(super) fn text(name: &str) -> Option<&'static str> {
    EXPERIMENTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
