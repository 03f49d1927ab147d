//! The sets of `calibration/`, compiled in together with the project's own text.

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/calibration/", $name)))),+]
    };
}

const SETS: &[(&str, &str)] = files!("own-36x256.toml", "c4-128x2048.toml", "ultrachat-128x2048.toml", "wikitext2-128x2048.toml");
const TEXTS: &[(&str, &str)] = files!("own.txt");

/// Names that [`super::load`] knows without a file.
pub fn builtin_sets() -> Vec<&'static str> {
    SETS.iter().map(|(file, _)| file.trim_end_matches(".toml")).collect()
}

/// The TOML of a set.
pub(super) fn set(name: &str) -> Option<&'static str> {
    SETS.iter().find(|(file, _)| file.strip_suffix(".toml") == Some(name)).map(|(_, text)| *text)
}

/// A text that a set of this folder names.
pub(super) fn text(file: &str) -> Option<&'static str> {
    TEXTS.iter().find(|(known, _)| *known == file).map(|(_, text)| *text)
}
