//! An experiment as it is written: a title, what it is drawn as, a recipe.

use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{ExperimentError, builtin};
use crate::host::read;
use crate::recipe::Recipe;
use crate::study::StudyError;
use crate::tensor::DType;

/// A named experiment, its recipe read.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Its files are called by it.
    pub name: String,
    /// One line for people.
    pub title: String,
    pub method: MethodLabel,
    pub recipe: Recipe,
    /// Element type of activations, where it is another than the study's.
    pub activation: Option<DType>,
}

/// What an experiment is drawn as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodLabel {
    Baseline,
    Rtn,
    Gptq,
    Awq,
    #[serde(rename = "awq+gptq")]
    AwqGptq,
    Nf4,
    Fp4,
    LlmInt8,
    /// Widths chosen weight by weight.
    Mixed,
}

impl MethodLabel {
    /// As records spell it.
    pub fn name(self) -> &'static str {
        match self {
            MethodLabel::Baseline => "baseline",
            MethodLabel::Rtn => "rtn",
            MethodLabel::Gptq => "gptq",
            MethodLabel::Awq => "awq",
            MethodLabel::AwqGptq => "awq+gptq",
            MethodLabel::Nf4 => "nf4",
            MethodLabel::Fp4 => "fp4",
            MethodLabel::LlmInt8 => "llm-int8",
            MethodLabel::Mixed => "mixed",
        }
    }
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Worded {
    title: String,
    method: MethodLabel,
    recipe: RecipeWord,
}

/// The name of a recipe, or a recipe.
enum RecipeWord {
    Named(String),
    Whole(Box<Recipe>),
}

impl<'de> Deserialize<'de> for RecipeWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecipeVisitor)
    }
}

/// A word or a table; an untagged enum could not say what is wrong with either.
struct RecipeVisitor;

impl<'de> Visitor<'de> for RecipeVisitor {
    type Value = RecipeWord;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a built-in recipe, or a [recipe] table")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<RecipeWord, E> {
        Ok(RecipeWord::Named(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RecipeWord, A::Error> {
        Recipe::deserialize(MapAccessDeserializer::new(map)).map(|recipe| RecipeWord::Whole(Box::new(recipe)))
    }
}

impl Experiment {
    /// A built-in experiment by its name, or a TOML file, which gives its own name.
    pub fn load(name: &str) -> Result<Self, StudyError> {
        if let Some(text) = builtin::text(name) {
            return Self::parse(name, name, text);
        }
        let path = Path::new(name);
        let text =
            read::text(path, read::SETTINGS).map_err(|source| ExperimentError::Unreadable { name: name.to_owned(), source })?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(&stem, name, &text)
    }

    /// Parses TOML; `file` is for messages.
    pub fn parse(name: &str, file: &str, text: &str) -> Result<Self, StudyError> {
        let worded: Worded = toml::from_str(text)
            .map_err(|error| ExperimentError::Syntax { file: file.to_owned(), message: placed(text, &error) })?;
        check_name(name)?;
        let recipe = match worded.recipe {
            RecipeWord::Named(recipe) => Recipe::load(&recipe).map_err(StudyError::at(|| file.to_owned()))?,
            RecipeWord::Whole(recipe) => *recipe,
        };
        Ok(Experiment { name: name.to_owned(), title: worded.title, method: worded.method, recipe, activation: None })
    }
}

/// Refuses a name that no file can have everywhere.
pub fn check_name(name: &str) -> Result<(), ExperimentError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_plain = !name.is_empty() && !name.starts_with('.') && name.len() <= 100 && name.bytes().all(plain);
    if is_plain { Ok(()) } else { Err(ExperimentError::Name { name: name.to_owned() }) }
}

/// A TOML error in one line, with the line that it is in.
pub fn placed(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    format!("{place}{}", error.message().lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::in_full;
    use crate::study::experiment::builtin_names;

    #[test]
    fn built_in_experiments_are_what_their_names_say() {
        for name in builtin_names() {
            let experiment = Experiment::load(name).unwrap_or_else(|error| panic!("{name}: {}", in_full(&error)));
            let bits = experiment.recipe.weights.format.code_bits();
            let said = name.split('_').find_map(|part| part.strip_suffix("bit").or(part.strip_prefix("int"))?.parse::<u8>().ok());
            if let Some(said) = said {
                assert_eq!(bits, Some(said), "{name}");
            }
            assert_eq!(name.contains("double"), experiment.recipe.weights.double_quantization, "{name}");
            assert_eq!(name.starts_with("budget"), experiment.recipe.budget.is_some(), "{name}");
            assert_eq!(name.ends_with("rotated"), experiment.recipe.rotation().is_some(), "{name}");
        }
        let titles: std::collections::BTreeSet<String> =
            builtin_names().iter().map(|name| Experiment::load(name).unwrap().title).collect();
        assert_eq!(titles.len(), builtin_names().len());
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let cases = [
            ("title = \"t\"\nmethod = \"rtn\"\nrecipe = \"f16\"\nbits = 4", "my.toml: line 4: unknown field `bits`"),
            ("title = \"t\"\nmethod = \"best\"\nrecipe = \"f16\"", "my.toml: line 2: unknown variant `best`"),
            ("title = \"t\"\nmethod = \"rtn\"\nrecipe = \"nothing\"", "recipe nothing: cannot be read"),
            ("title = \"t\"\nmethod = \"rtn\"\nrecipe = 4", "my.toml: line 3: invalid type: integer `4`, expected the name of"),
            ("title = \"t\"\nmethod = \"rtn\"", "my.toml: line 1: missing field `recipe`"),
            (
                "title = \"t\"\nmethod = \"rtn\"\n[recipe.weights]\nformat = \"int4\"\nbits = 4",
                "my.toml: line 5: unknown field `bits`",
            ),
        ];
        for (text, expected) in cases {
            let error = in_full(&Experiment::parse("my", "my.toml", text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        for name in ["", "a b", "../x", ".hidden", "a/b"] {
            let error = Experiment::parse(name, "my.toml", "title = \"t\"\nmethod = \"rtn\"\nrecipe = \"f16\"").unwrap_err();
            assert!(error.to_string().contains("a name is letters"), "{error}");
        }
    }
}
