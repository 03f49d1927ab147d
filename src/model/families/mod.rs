//! One file a family: how its config.json is read, what a layer is, where scales and rotations can go. To add one, write its
//! file and its line in [`FAMILIES`].

use serde_json::Value as Json;

use super::architecture::Architecture;
use super::config::{ConfigError, object, plain};
use crate::settings::Settings;

mod llama;
mod mistral;
mod qwen3;
#[cfg(test)]
mod tests;

/// A family as config.json knows it.
struct Registered {
    architecture: &'static str,
    model_type: &'static str,
    read: fn(&Settings<'_>) -> Result<Architecture, ConfigError>,
}

const FAMILIES: &[Registered] = &[
    Registered { architecture: llama::ARCHITECTURE, model_type: llama::MODEL_TYPE, read: llama::read },
    Registered { architecture: mistral::ARCHITECTURE, model_type: mistral::MODEL_TYPE, read: mistral::read },
    Registered { architecture: qwen3::ARCHITECTURE, model_type: qwen3::MODEL_TYPE, read: qwen3::read },
];

/// Architectures that graphs can be written for, as config.json names them.
pub fn architectures() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.architecture).collect()
}

impl Architecture {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// The family is none of [`architectures`], or it has what graphs cannot be written for; each by its key.
    pub fn from_json(text: &str) -> Result<Architecture, ConfigError> {
        Architecture::from_value(&serde_json::from_str(text)?)
    }

    /// Reads a parsed `config.json`.
    pub fn from_value(json: &Json) -> Result<Architecture, ConfigError> {
        let keys = Settings::of(object(json)?);
        (named(&keys)?.read)(&keys)
    }
}

/// The family by `architectures`, which must not contradict `model_type`; by that where `architectures` says nothing.
fn named(keys: &Settings<'_>) -> Result<&'static Registered, ConfigError> {
    let kind = keys.get("model_type");
    let by_kind = kind.and_then(|kind| FAMILIES.iter().find(|family| kind == family.model_type));
    let names = match keys.get("architectures") {
        Some(Json::Array(names)) => names.as_slice(),
        Some(_) => return Err(keys.invalid("architectures", "a list of names".to_owned()).into()),
        None => &[],
    };
    let known = architectures().join(", ");
    let unknown = |name: &Json| ConfigError::Architecture { got: plain(name), known: known.clone() };
    let Some(first) = names.first() else {
        return by_kind.ok_or_else(|| kind.map_or(ConfigError::NoArchitecture { known: known.clone() }, unknown));
    };
    let of_name = |name| FAMILIES.iter().find(|family| is_architecture(family, name)).ok_or_else(|| unknown(name));
    let found = of_name(first)?;
    let mut said = names.iter().map(|name| Ok((name, of_name(name)?))).collect::<Result<Vec<_>, ConfigError>>()?;
    said.extend(kind.zip(by_kind));
    match said.iter().find(|(_, family)| family.architecture != found.architecture) {
        Some((other, _)) => Err(ConfigError::Contradiction(plain(first), plain(other))),
        None => Ok(found),
    }
}

/// transformers goes by `model_type`, so the spelling of the first conversions (`LLaMAForCausalLM`) is as good.
fn is_architecture(family: &Registered, name: &Json) -> bool {
    name.as_str().is_some_and(|name| name.eq_ignore_ascii_case(family.architecture))
}
