//! `[axes]` and `[[exclude]]`: the product of what recipes differ in, less what is left out for a reason.

use serde::Deserialize;

use super::SweepError;
use super::words::{DtypeWord, GroupWord, OneOrMany};
use crate::artifact::plan::{Method, RecipeFlags};
use crate::recipe::{FormatName, GranularityName, Recipe, RotationKind};
use crate::study::StudyError;
use crate::study::experiment::{Experiment, MethodLabel};

/// What combinations differ in; an axis that is absent is the method's default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axes {
    pub method: Vec<MethodWord>,
    bits: Option<Vec<u8>>,
    group_size: Option<Vec<GroupWord>>,
    symmetric: Option<Vec<bool>>,
    rotation: Option<Vec<RotationWord>>,
    calibration: Option<Vec<String>>,
    /// Element types of activations: artifacts of the same codes and scales.
    dtype: Option<Vec<DtypeWord>>,
    /// How artifacts are laid out; there is one way.
    layout: Option<Vec<String>>,
}

/// Combinations that are left out: all that have these values.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclude {
    method: Option<OneOrMany<MethodWord>>,
    bits: Option<OneOrMany<u8>>,
    group_size: Option<OneOrMany<GroupWord>>,
    symmetric: Option<OneOrMany<bool>>,
    rotation: Option<OneOrMany<RotationWord>>,
    calibration: Option<OneOrMany<String>>,
    dtype: Option<OneOrMany<DtypeWord>>,
    pub reason: String,
}

/// How weights become codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodWord {
    Rtn,
    Gptq,
    Awq,
    #[serde(rename = "awq+gptq")]
    AwqGptq,
    Nf4,
    Fp4,
    LlmInt8,
}

/// Whether the model is turned first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationWord {
    None,
    Hadamard,
    Random,
}

impl MethodWord {
    fn method(self) -> Method {
        match self {
            MethodWord::Rtn => Method::Rtn,
            MethodWord::Gptq => Method::Gptq,
            MethodWord::Awq => Method::Awq,
            MethodWord::AwqGptq => Method::AwqGptq,
            MethodWord::Nf4 => Method::Nf4,
            MethodWord::Fp4 => Method::Fp4,
            MethodWord::LlmInt8 => Method::LlmInt8,
        }
    }

    fn label(self) -> MethodLabel {
        match self {
            MethodWord::Rtn => MethodLabel::Rtn,
            MethodWord::Gptq => MethodLabel::Gptq,
            MethodWord::Awq => MethodLabel::Awq,
            MethodWord::AwqGptq => MethodLabel::AwqGptq,
            MethodWord::Nf4 => MethodLabel::Nf4,
            MethodWord::Fp4 => MethodLabel::Fp4,
            MethodWord::LlmInt8 => MethodLabel::LlmInt8,
        }
    }

    /// The width that the method is, where it is one.
    fn own_bits(self) -> Option<u8> {
        match self {
            MethodWord::Nf4 | MethodWord::Fp4 => Some(4),
            MethodWord::LlmInt8 => Some(8),
            _ => None,
        }
    }

    fn is_calibrated(self) -> bool {
        matches!(self, MethodWord::Gptq | MethodWord::Awq | MethodWord::AwqGptq | MethodWord::LlmInt8)
    }
}

impl RotationWord {
    fn kind(self) -> Option<RotationKind> {
        match self {
            RotationWord::None => None,
            RotationWord::Hadamard => Some(RotationKind::Hadamard),
            RotationWord::Random => Some(RotationKind::Random),
        }
    }
}

/// One element of the product.
#[derive(Debug, Clone, PartialEq)]
pub struct Combination {
    method: MethodWord,
    bits: Option<u8>,
    group_size: Option<GroupWord>,
    symmetric: Option<bool>,
    rotation: Option<RotationWord>,
    calibration: Option<String>,
    dtype: Option<DtypeWord>,
}

/// A combination that is left out, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Excluded {
    pub combination: Combination,
    pub reason: String,
}

/// Most combinations of one sweep; at a minute each they take a week.
const MOST: u128 = 10_000;

/// Values of an axis, or that it is not one.
fn each<T: Clone>(axis: &Option<Vec<T>>) -> Vec<Option<T>> {
    axis.as_ref().map_or_else(|| vec![None], |values| values.iter().cloned().map(Some).collect())
}

impl Axes {
    /// All combinations, those that are excluded apart; `file` is for messages.
    pub fn product(&self, excludes: &[Exclude], file: &str) -> Result<(Vec<Combination>, Vec<Excluded>), SweepError> {
        let file = || file.to_owned();
        if let Some(axis) = self.empty() {
            return Err(SweepError::EmptyAxis { file: file(), axis });
        }
        if let Some(got) = self.layout.iter().flatten().find(|layout| *layout != "ort") {
            return Err(SweepError::Layout { file: file(), got: got.clone() });
        }
        if let Some(&got) = self.bits.iter().flatten().find(|&&bits| FormatName::of_bits(bits).is_none()) {
            return Err(SweepError::Bits { file: file(), got });
        }
        if let Some(count) = Some(self.count()).filter(|&count| count > MOST) {
            return Err(SweepError::TooMany { file: file(), count, most: MOST });
        }
        let (mut kept, mut excluded) = (Vec::new(), Vec::new());
        for combination in self.combinations() {
            match excludes.iter().position(|exclude| exclude.matches(&combination)) {
                None => kept.push(combination),
                Some(which) => excluded.push(Excluded { combination, reason: excludes[which].reason.clone() }),
            }
        }
        for (number, exclude) in (1..).zip(excludes) {
            if exclude.reason.trim().is_empty() {
                return Err(SweepError::ExcludeUnreasoned { file: file(), number });
            }
            if !excluded.iter().any(|excluded| exclude.matches(&excluded.combination)) {
                return Err(SweepError::ExcludeIdle { file: file(), number, what: exclude.reason.clone() });
            }
        }
        Ok((kept, excluded))
    }

    /// An axis without a value, whose product would be nothing.
    fn empty(&self) -> Option<&'static str> {
        fn is_empty<T>(axis: &Option<Vec<T>>) -> bool {
            axis.as_ref().is_some_and(Vec::is_empty)
        }
        let axes = [
            ("method", self.method.is_empty()),
            ("bits", is_empty(&self.bits)),
            ("group_size", is_empty(&self.group_size)),
            ("symmetric", is_empty(&self.symmetric)),
            ("rotation", is_empty(&self.rotation)),
            ("calibration", is_empty(&self.calibration)),
            ("dtype", is_empty(&self.dtype)),
            ("layout", is_empty(&self.layout)),
        ];
        axes.into_iter().find(|(_, empty)| *empty).map(|(axis, _)| axis)
    }

    /// How many combinations there are.
    fn count(&self) -> u128 {
        fn length<T>(axis: &Option<Vec<T>>) -> usize {
            axis.as_ref().map_or(1, Vec::len)
        }
        let axes = [
            self.method.len(),
            length(&self.bits),
            length(&self.group_size),
            length(&self.symmetric),
            length(&self.rotation),
            length(&self.calibration),
            length(&self.dtype),
        ];
        axes.iter().fold(1, |count: u128, &length| count.saturating_mul(length as u128))
    }

    fn combinations(&self) -> Vec<Combination> {
        let mut all = Vec::new();
        for &method in &self.method {
            for bits in each(&self.bits) {
                for group_size in each(&self.group_size) {
                    for symmetric in each(&self.symmetric) {
                        for rotation in each(&self.rotation) {
                            for calibration in each(&self.calibration) {
                                for dtype in each(&self.dtype) {
                                    let calibration = calibration.clone();
                                    all.push(Combination { method, bits, group_size, symmetric, rotation, calibration, dtype });
                                }
                            }
                        }
                    }
                }
            }
        }
        all
    }
}

impl Exclude {
    fn matches(&self, combination: &Combination) -> bool {
        fn has<T: PartialEq>(wanted: &Option<OneOrMany<T>>, got: &Option<T>) -> bool {
            wanted.as_ref().is_none_or(|wanted| got.as_ref().is_some_and(|got| wanted.0.contains(got)))
        }
        has(&self.method, &Some(combination.method))
            && has(&self.bits, &combination.bits)
            && has(&self.group_size, &combination.group_size)
            && has(&self.symmetric, &combination.symmetric)
            && has(&self.rotation, &combination.rotation)
            && has(&self.calibration, &combination.calibration)
            && has(&self.dtype, &combination.dtype)
    }
}

impl Combination {
    /// `method = gptq, bits = 4, group_size = 32`
    pub fn shown(&self) -> String {
        let mut parts = vec![format!("method = {}", self.method.method().name())];
        parts.extend(self.bits.map(|bits| format!("bits = {bits}")));
        parts.extend(self.group_size.map(|group| format!("group_size = {group}")));
        parts.extend(self.symmetric.map(|symmetric| format!("symmetric = {symmetric}")));
        parts.extend(self.rotation.map(|rotation| format!("rotation = {rotation:?}").to_lowercase()));
        parts.extend(self.calibration.as_ref().map(|set| format!("calibration = {set}")));
        parts.extend(self.dtype.map(|dtype| format!("dtype = {}", dtype.dtype().name())));
        parts.join(", ")
    }

    /// With its calibration set's name as `place` has it.
    pub fn with_calibration(&self, place: impl FnOnce(&str) -> String) -> Combination {
        Combination { calibration: self.calibration.as_deref().map(place), ..self.clone() }
    }

    /// The experiment that it means.
    ///
    /// # Errors
    /// Its values do not go together.
    pub fn experiment(&self) -> Result<Experiment, StudyError> {
        let is_own_width = self.method.own_bits().is_some() && self.bits == self.method.own_bits();
        let flags = RecipeFlags {
            method: self.method.method(),
            format: self.bits.filter(|_| !is_own_width).and_then(FormatName::of_bits),
            granularity: self.group_size.map(|group| match group {
                GroupWord::Size(size) => GranularityName::Group(size),
                GroupWord::Channel => GranularityName::Channel,
            }),
            asymmetric: self.symmetric == Some(false),
            rotation: self.rotation.and_then(RotationWord::kind),
            ..RecipeFlags::default()
        };
        // Where nothing is calibrated the axis makes no difference, which duplicates tell.
        let set = self.calibration.as_deref().filter(|_| self.method.is_calibrated());
        let recipe = flags.recipe(set)?;
        let unquantized = recipe.weights.format == FormatName::F16;
        let method = if unquantized { MethodLabel::Baseline } else { self.method.label() };
        Ok(Experiment {
            name: self.name(&recipe),
            title: self.title(&recipe),
            method,
            recipe,
            activation: self.dtype.map(DtypeWord::dtype),
        })
    }

    fn name(&self, recipe: &Recipe) -> String {
        let activations = self.dtype.map(|dtype| format!("_{}_activations", dtype.dtype().name())).unwrap_or_default();
        let Some(bits) = recipe.weights.format.code_bits() else { return format!("f16{activations}") };
        let mut name = format!("{}_{bits}bit_", self.method.method().name().replace(['+', '-'], "_"));
        match recipe.weights.granularity {
            GranularityName::Group(size) => name += &format!("g{size}"),
            GranularityName::Channel => name += "channel",
        }
        if !recipe.weights.symmetric {
            name += "_asymmetric";
        }
        if let Some(kind) = self.rotation.and_then(RotationWord::kind) {
            name += &format!("_{kind:?}").to_lowercase();
        }
        if let Some(set) = &self.calibration {
            let path = std::path::Path::new(set);
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            name += &format!("_{}", stem.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-"));
        }
        name + &activations
    }

    fn title(&self, recipe: &Recipe) -> String {
        let method = match self.method {
            MethodWord::Rtn => "round to nearest",
            MethodWord::Gptq => "GPTQ",
            MethodWord::Awq => "AWQ",
            MethodWord::AwqGptq => "AWQ then GPTQ",
            MethodWord::Nf4 | MethodWord::Fp4 => "codebook",
            MethodWord::LlmInt8 => "outliers in f16",
        };
        let weights = &recipe.weights;
        let mut parts = match (weights.format.code_bits(), weights.granularity) {
            (None, _) => vec!["Unquantized".to_owned()],
            (Some(_), GranularityName::Group(size)) => vec![weights.format.name().to_uppercase(), format!("group {size}")],
            (Some(_), GranularityName::Channel) => vec![weights.format.name().to_uppercase(), "per channel".to_owned()],
        };
        if weights.format.code_bits().is_some() {
            parts.push(method.to_owned());
            parts.extend((!weights.symmetric).then(|| "asymmetric".to_owned()));
            parts.extend(recipe.rotation().map(|_| "rotated".to_owned()));
            let set = self.calibration.as_ref().filter(|_| recipe.calibration.is_some());
            parts.extend(set.map(|set| format!("calibrated on {set}")));
        }
        parts.extend(self.dtype.map(|dtype| format!("{} activations", dtype.dtype().name())));
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn axes(text: &str) -> Axes {
        toml::from_str(text).unwrap()
    }

    #[derive(Deserialize)]
    struct Excludes {
        exclude: Vec<Exclude>,
    }

    fn excludes(text: &str) -> Vec<Exclude> {
        toml::from_str::<Excludes>(text).unwrap().exclude
    }

    #[test]
    fn a_product_beyond_all_machines_is_counted_and_refused() {
        let many = |value: &str| vec![value; 1000].join(", ");
        let text = format!(
            "method = [{}]\nbits = [{}]\ngroup_size = [{}]\nsymmetric = [{}]",
            many("\"rtn\""),
            many("4"),
            many("32"),
            many("true")
        );
        let error = axes(&text).product(&[], "s").unwrap_err().to_string();
        let says = "sweep s: the values of [axes] make 1000000000000 combinations, at most 10000 are taken; leave some out";
        assert_eq!(error, says);
    }

    #[test]
    fn the_product_less_its_exclusions_is_what_is_run() {
        let axes = axes("method = [\"rtn\", \"gptq\", \"nf4\"]\nbits = [8, 4]\ngroup_size = [32, \"channel\"]");
        let excludes = excludes(
            "[[exclude]]\nmethod = \"nf4\"\nbits = 8\nreason = \"a\"\n[[exclude]]\nmethod = [\"nf4\"]\ngroup_size = \"channel\"\nreason = \"b\"",
        );
        let (kept, excluded) = axes.product(&excludes, "s").unwrap();
        assert_eq!((kept.len(), excluded.len()), (9, 3));
        assert_eq!(excluded.iter().map(|one| one.reason.as_str()).collect::<String>(), "aab");
        let names: Vec<String> = kept.iter().map(|one| one.experiment().unwrap().name).collect();
        let expected = "rtn_8bit_g32 rtn_8bit_channel rtn_4bit_g32 rtn_4bit_channel gptq_8bit_g32 gptq_8bit_channel gptq_4bit_g32 \
                        gptq_4bit_channel nf4_4bit_g32";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn every_axis_reaches_recipe_name_and_title() {
        let axes = axes(
            "method = [\"awq+gptq\"]\nbits = [3]\ngroup_size = [64]\nsymmetric = [false]\nrotation = [\"hadamard\"]\n\
             calibration = [\"sets/mine.toml\"]\ndtype = [\"f32\"]\nlayout = [\"ort\"]",
        );
        let (kept, _) = axes.product(&[], "s").unwrap();
        let experiment = kept[0].experiment().unwrap();
        assert_eq!(experiment.name, "awq_gptq_3bit_g64_asymmetric_hadamard_mine_f32_activations");
        let title = "INT3, group 64, AWQ then GPTQ, asymmetric, rotated, calibrated on sets/mine.toml, f32 activations";
        assert_eq!((experiment.title.as_str(), experiment.activation), (title, Some(DType::F32)));
        let weights = experiment.recipe.weights;
        assert_eq!((weights.format, weights.granularity), (FormatName::Int3, GranularityName::Group(64)));
        assert!(!weights.symmetric && experiment.recipe.rotation().is_some());
        assert_eq!(experiment.recipe.calibration.unwrap().set, "sets/mine.toml");
    }

    #[test]
    fn a_title_says_of_no_set_where_nothing_is_calibrated_and_of_activations_in_any_case() {
        let title = |text: &str| axes(text).product(&[], "s").unwrap().0[0].experiment().unwrap().title;
        let nearest = "method = [\"rtn\"]\ncalibration = [\"sets/mine.toml\"]\n";
        assert_eq!(title(&format!("{nearest}bits = [4]")), "INT4, group 32, round to nearest");
        assert_eq!(title(&format!("{nearest}bits = [16]\ndtype = [\"f16\"]")), "Unquantized, f16 activations");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let combination = |text: &str| axes(text).product(&[], "s").unwrap().0.remove(0).experiment().map(|one| one.name);
        let error = combination("method = [\"nf4\"]\nbits = [8]").unwrap_err().to_string();
        assert!(error.contains("--bits means nothing to --method nf4"), "{error}");
        let error = combination("method = [\"fp4\"]\ngroup_size = [\"channel\"]").unwrap_err().to_string();
        assert!(error.contains("--per-channel means nothing to --method fp4"), "{error}");
        assert_eq!(combination("method = [\"llm-int8\"]\nbits = [8]").unwrap(), "llm_int8_8bit_channel");
        assert_eq!(combination("method = [\"rtn\"]\nbits = [16]").unwrap(), "f16");
    }

    #[test]
    fn axes_and_exclusions_that_mean_nothing_are_refused() {
        let refusal = |text: &str, excluded: &[Exclude]| axes(text).product(excluded, "s.toml").unwrap_err().to_string();
        assert!(
            refusal("method = [\"rtn\"]\nlayout = [\"ort\", \"portable\"]", &[]).contains("layout \"portable\" of [axes]: only")
        );
        assert!(refusal("method = []", &[]).contains("method of [axes] has no value"));
        assert!(refusal("method = [\"rtn\"]\nbits = []", &[]).contains("bits of [axes] has no value"));
        assert!(refusal("method = [\"rtn\"]\nbits = [7]", &[]).contains("bits 7 of [axes]"));
        let idle = excludes("[[exclude]]\nmethod = \"gptq\"\nreason = \"slow\"");
        assert!(refusal("method = [\"rtn\"]", &idle).contains("[[exclude]] 1 matches no combination"));
        let empty = excludes("[[exclude]]\nmethod = \"rtn\"\nreason = \" \"");
        assert!(refusal("method = [\"rtn\"]", &empty).contains("[[exclude]] 1 has an empty reason"));
    }
}
