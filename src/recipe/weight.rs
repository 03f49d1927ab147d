//! How one weight is stored: format, granularity, scale rule and rounding, as a recipe words them.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quant::{Codebook, Format, Gptq, Granularity, GroupScales, ScaleFit, ScaleRule, ScaleStorage, Scheme};

/// How one weight is stored. Everything but `format` is ignored for f16.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Worded")]
pub struct WeightRecipe {
    pub format: FormatName,
    /// Signed codes without a zero point, or unsigned codes with one.
    pub symmetric: bool,
    pub granularity: GranularityName,
    pub scale: ScaleName,
    pub rounding: RoundingRecipe,
    /// Codebooks: scales in 8 bits themselves (QLoRA's double quantization).
    #[serde(skip_serializing_if = "is_off")]
    pub double_quantization: bool,
    /// INT8: input features whose activations reach this on calibration data stay f16 (LLM.int8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_threshold: Option<f32>,
}

fn is_off(flag: &bool) -> bool {
    !flag
}

/// A weight's section as it is written: what it leaves out depends on the format.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Worded {
    format: FormatName,
    symmetric: Option<bool>,
    granularity: Option<GranularityName>,
    scale: Option<ScaleName>,
    rounding: Option<RoundingRecipe>,
    double_quantization: Option<bool>,
    outlier_threshold: Option<f32>,
}

impl From<Worded> for WeightRecipe {
    fn from(worded: Worded) -> Self {
        worded.over(WeightRecipe::of(worded.format))
    }
}

/// A table's section: its rows are looked up block by block, so that none has one scale for each.
pub(super) fn table<'de, D: Deserializer<'de>>(from: D) -> Result<WeightRecipe, D::Error> {
    let worded = Worded::deserialize(from)?;
    Ok(worded.over(WeightRecipe { granularity: WeightRecipe::in_groups(worded.format), ..WeightRecipe::of(worded.format) }))
}

impl Worded {
    fn over(&self, default: WeightRecipe) -> WeightRecipe {
        let worded = self;
        WeightRecipe {
            format: worded.format,
            symmetric: worded.symmetric.unwrap_or(default.symmetric),
            granularity: worded.granularity.unwrap_or(default.granularity),
            scale: worded.scale.unwrap_or(default.scale),
            rounding: worded.rounding.unwrap_or(default.rounding),
            double_quantization: worded.double_quantization.unwrap_or(default.double_quantization),
            outlier_threshold: worded.outlier_threshold,
        }
    }
}

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatName {
    /// Not quantized.
    F16,
    Int8,
    Int6,
    Int5,
    Int4,
    Int3,
    Int2,
    /// Codebook of the normal distribution's quantiles (QLoRA).
    Nf4,
    /// Codebook of 4-bit floats (bitsandbytes).
    Fp4,
}

impl FormatName {
    /// The format of `--bits N`.
    pub fn of_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            16 => FormatName::F16,
            8 => FormatName::Int8,
            6 => FormatName::Int6,
            5 => FormatName::Int5,
            4 => FormatName::Int4,
            3 => FormatName::Int3,
            2 => FormatName::Int2,
            _ => return None,
        })
    }

    /// Bits of one code; `None` where the weight is not quantized.
    pub fn code_bits(self) -> Option<u8> {
        match self {
            FormatName::F16 => None,
            FormatName::Int8 => Some(8),
            FormatName::Int6 => Some(6),
            FormatName::Int5 => Some(5),
            FormatName::Int4 | FormatName::Nf4 | FormatName::Fp4 => Some(4),
            FormatName::Int3 => Some(3),
            FormatName::Int2 => Some(2),
        }
    }

    /// The codebook of a format that has one.
    pub fn codebook(self) -> Option<Codebook> {
        match self {
            FormatName::Nf4 => Some(Codebook::Nf4),
            FormatName::Fp4 => Some(Codebook::Fp4),
            _ => None,
        }
    }

    /// As recipes spell it.
    pub fn name(self) -> &'static str {
        match self {
            FormatName::F16 => "f16",
            FormatName::Int8 => "int8",
            FormatName::Int6 => "int6",
            FormatName::Int5 => "int5",
            FormatName::Int4 => "int4",
            FormatName::Int3 => "int3",
            FormatName::Int2 => "int2",
            FormatName::Nf4 => "nf4",
            FormatName::Fp4 => "fp4",
        }
    }
}

/// Who shares a scale: `"channel"` or `{ group = 32 }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GranularityName {
    Channel,
    Group(usize),
}

impl Default for GranularityName {
    fn default() -> Self {
        GranularityName::Group(32)
    }
}

/// How the scale of a group is chosen; see [`crate::quant::ScaleRule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleName {
    Absmax,
    SignedMax,
    #[default]
    LeastSquares,
    LeastSquaresPositive,
}

/// How a weight becomes a code: `"rtn"`, `"gptq"` with its defaults, or `{ method = "gptq", damping = 0.05 }`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RoundingRecipe {
    /// Round to nearest.
    #[default]
    Rtn,
    Gptq(GptqRecipe),
}

/// GPTQ's settings; see [`crate::quant::Gptq`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GptqRecipe {
    /// First rung of the damping ladder, in means of the Gram matrix's diagonal.
    pub damping: f64,
    /// Input features in the order of falling mean square, folded back into storage order.
    pub act_order: bool,
    /// Columns whose errors are carried to the rest together; a matter of speed only.
    pub column_block: usize,
    /// When a group's scale is fitted.
    pub group_scales: GroupScalesName,
    /// What a group's scale is fitted for.
    pub scale_fit: ScaleFitName,
    /// Rounds of coordinate descent over scales, zero points and codes after GPTQ.
    pub sweeps: usize,
    /// From 0, where each weight aims at itself, to 1, where it aims at the unquantized model's output on its own input.
    pub target: f32,
}

/// Before anything is rounded, or when a group's columns are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupScalesName {
    Static,
    Dynamic,
}

/// By the weight's own scale rule, or by least squares weighted by what GPTQ makes of an error in each column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleFitName {
    Rule,
    Gram,
}

impl Default for GptqRecipe {
    fn default() -> Self {
        GptqRecipe {
            damping: 0.01,
            act_order: true,
            column_block: 128,
            group_scales: GroupScalesName::Static,
            scale_fit: ScaleFitName::Gram,
            sweeps: 2,
            target: 0.0,
        }
    }
}

impl GptqRecipe {
    /// The rounding that this names.
    pub fn gptq(&self) -> Gptq {
        Gptq {
            damping: self.damping,
            act_order: self.act_order,
            column_block: self.column_block,
            group_scales: match self.group_scales {
                GroupScalesName::Static => GroupScales::Static,
                GroupScalesName::Dynamic => GroupScales::Dynamic,
            },
            scale_fit: match self.scale_fit {
                ScaleFitName::Rule => ScaleFit::Rule,
                ScaleFitName::Gram => ScaleFit::Gram,
            },
            sweeps: self.sweeps,
            target: self.target,
        }
    }
}

/// The table form, by its `method`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase")]
enum Tabled {
    Gptq(GptqRecipe),
}

impl Serialize for RoundingRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RoundingRecipe::Rtn => serializer.serialize_str("rtn"),
            RoundingRecipe::Gptq(gptq) => Tabled::Gptq(*gptq).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RoundingRecipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RoundingVisitor)
    }
}

/// A word or a table; an untagged enum could not say what is wrong with either.
struct RoundingVisitor;

impl<'de> Visitor<'de> for RoundingVisitor {
    type Value = RoundingRecipe;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\"rtn\", \"gptq\" or { method = \"gptq\", … }")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<RoundingRecipe, E> {
        match word {
            "rtn" => Ok(RoundingRecipe::Rtn),
            "gptq" => Ok(RoundingRecipe::Gptq(GptqRecipe::default())),
            _ => Err(E::unknown_variant(word, &["rtn", "gptq"])),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RoundingRecipe, A::Error> {
        let Tabled::Gptq(gptq) = Tabled::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RoundingRecipe::Gptq(gptq))
    }
}

impl WeightRecipe {
    /// Not quantized.
    pub fn f16() -> Self {
        WeightRecipe::of(FormatName::F16)
    }

    /// `format` with this program's defaults: symmetric, one scale per channel for INT8, per 64 weights for codebooks (as
    /// bitsandbytes) and per 32 for the rest, the scale rule that was measured best.
    pub fn of(format: FormatName) -> Self {
        let (granularity, scale) = match format {
            // What results/scale-rules measured: at 8 bits nothing beats absmax, whose scales stay positive.
            FormatName::Int8 => (GranularityName::Channel, ScaleName::Absmax),
            FormatName::Nf4 | FormatName::Fp4 => (WeightRecipe::in_groups(format), ScaleName::Absmax),
            _ => (WeightRecipe::in_groups(format), ScaleName::default()),
        };
        WeightRecipe {
            format,
            symmetric: true,
            granularity,
            scale,
            rounding: RoundingRecipe::default(),
            double_quantization: false,
            outlier_threshold: None,
        }
    }

    /// The format's own size of groups.
    pub(super) fn in_groups(format: FormatName) -> GranularityName {
        if format.codebook().is_some() { GranularityName::Group(64) } else { GranularityName::default() }
    }

    /// The scheme that this names; `None` for a weight that is not quantized.
    pub fn scheme(&self) -> Option<Scheme> {
        let bits = self.format.code_bits()?;
        Some(Scheme {
            format: match self.format.codebook() {
                Some(codebook) => Format::Codebook(codebook),
                None => Format::Int { bits, symmetric: self.symmetric },
            },
            granularity: match self.granularity {
                GranularityName::Channel => Granularity::PerChannel,
                GranularityName::Group(size) => Granularity::PerGroup(size),
            },
            scale_rule: match self.scale {
                ScaleName::Absmax => ScaleRule::AbsMax,
                ScaleName::SignedMax => ScaleRule::SignedMax,
                ScaleName::LeastSquares => ScaleRule::LeastSquares,
                ScaleName::LeastSquaresPositive => ScaleRule::LeastSquaresPositive,
            },
            scale_storage: if self.double_quantization { ScaleStorage::Nested } else { ScaleStorage::F16 },
        })
    }

    /// Whether its rounding needs the unquantized model's activations.
    pub fn aims_at_reference(&self) -> bool {
        self.format != FormatName::F16 && matches!(self.rounding, RoundingRecipe::Gptq(gptq) if gptq.target > 0.0)
    }

    /// What about this weight only calibration can tell, if anything.
    pub fn calibrated_part(&self) -> Option<&'static str> {
        match (self.format, self.outlier_threshold, self.rounding) {
            (FormatName::F16, ..) => None,
            (_, Some(_), _) => Some("outlier_threshold"),
            (_, _, RoundingRecipe::Gptq(_)) => Some("rounding gptq"),
            (_, None, RoundingRecipe::Rtn) => None,
        }
    }
}
