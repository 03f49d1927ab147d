//! Tokenizers that transformers (5.17.0) does not take from `tokenizer.json` as they are: under the class that
//! `tokenizer_config.json` names it builds them anew from the vocabulary, so that some texts become other tokens than the file
//! says. The file counts here, as in every other runtime; what claims Hugging Face's tokens asks whether the two agree.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::CompanionError;
use super::json::{object, object_within};
use super::tokenizer::Tokenizer;
use crate::contract::{CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE};
use crate::host::read;

/// The key of `tokenizer_config.json`, else of `config.json`.
const CLASS: &str = "tokenizer_class";

/// Classes with an `__init__` of their own, or that read other files, the ending `Fast` left out.
/// `tests/goldens/make/golden_tokenizer_class.py` has the list from the library.
const BUILT_ANEW: &[&str] = &include!("rebuilt_classes.in");

/// A tokenizer as transformers builds it anew.
#[derive(Debug)]
pub struct Rebuilt {
    /// The class that is named.
    pub class: String,
    /// `None` where it is not known here what the class makes of the file.
    tokenizer: Option<Tokenizer>,
}

impl Rebuilt {
    /// The tokenizer of the model in `dir`; `None` where transformers takes the file as it is.
    ///
    /// # Errors
    /// A file that is needed cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Rebuilt>, CompanionError> {
        let settings = object(&dir.join(TOKENIZER_CONFIG_FILE))?.unwrap_or_default();
        let config = object(&dir.join(CONFIG_FILE))?.unwrap_or_default();
        let Some(named) = [&settings, &config].into_iter().find_map(|object| object.get(CLASS).filter(|class| !class.is_null()))
        else {
            return Ok(None);
        };
        // What is no text ends in an error there.
        let class = named.as_str().map_or_else(|| named.to_string(), str::to_owned);
        if named.is_string() && !BUILT_ANEW.contains(&family(&class)) {
            return Ok(None);
        }
        let path = dir.join(TOKENIZER_FILE);
        let file = object_within(&path, read::TOKENIZER)?.unwrap_or_default();
        // Where the class cannot be made of the file, it is the claim that falls and not the file.
        let made = built(file, family(&class), &settings)
            .and_then(|file| Tokenizer::of_bytes(&path, Value::from(file).to_string().as_bytes()).ok()?.with_declared(dir).ok());
        Ok(Some(Rebuilt { class, tokenizer: made }))
    }

    #[cfg(test)]
    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Whether `own`, the tokenizer of the file, and this one read `text` alike and write its tokens alike; `None` where it is
    /// not known how this one does.
    ///
    /// # Errors
    /// [`CompanionError::Encode`], of `own`.
    pub fn agrees(&self, own: &Tokenizer, text: &str) -> Result<Option<bool>, CompanionError> {
        let Some(rebuilt) = &self.tokenizer else { return Ok(None) };
        let ids = own.encode(text, true)?;
        // A text that this one fails on is read otherwise.
        let reads_alike = rebuilt.encode(text, true).is_ok_and(|others| others == ids);
        let written = own.decode(&ids, true)?;
        Ok(Some(reads_alike && rebuilt.decode(&ids, true).is_ok_and(|others| others == written)))
    }
}

/// The class's name without the endings that are tried away.
fn family(class: &str) -> &str {
    class.trim_end_matches("Fast")
}

/// The file with what `class` replaces in it: its `__init__` makes everything but vocabulary, merges and post-processor.
fn built(mut file: Map<String, Value>, class: &str, settings: &Map<String, Value>) -> Option<Map<String, Value>> {
    let model = file.get("model").filter(|model| model["type"] == "BPE")?;
    let (vocab, merges) = (model["vocab"].clone(), model["merges"].clone());
    let flag = |key: &str, usual: bool| settings.get(key).and_then(Value::as_bool).unwrap_or(usual);
    let byte_level = |space: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex});
    let space = |usual| flag("add_prefix_space", usual);
    let replaced = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let pieces = [replaced("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let sequence = |decoders: Vec<Value>| json!({"type": "Sequence", "decoders": decoders});
    let (fuses, pre_tokenizer, normalizer, decoder) = match class {
        "LlamaTokenizer" => {
            let scheme = match (space(true), flag("legacy", false)) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            let strip = space(true).then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
            (true, metaspace, Value::Null, sequence(pieces.into_iter().chain(strip).collect()))
        }
        "GemmaTokenizer" => {
            let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
            (true, split, replaced(" ", "▁"), sequence(pieces.to_vec()))
        }
        "GPT2Tokenizer" => (false, byte_level(space(false), true), Value::Null, byte_level(true, true)),
        "GPTNeoXTokenizer" => (false, byte_level(space(false), true), json!({"type": "NFC"}), byte_level(true, true)),
        "Qwen2Tokenizer" => {
            let words = json!({"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": false});
            let both = json!({"type": "Sequence", "pretokenizers": [words, byte_level(space(false), false)]});
            (false, both, json!({"type": "NFC"}), byte_level(true, true))
        }
        _ => return None,
    };
    let unknown = settings.get("unk_token").and_then(|token| token.as_str().or_else(|| token["content"].as_str()));
    let unknown = (class == "GemmaTokenizer").then_some(unknown.unwrap_or("<unk>"));
    let model = json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": fuses, "byte_fallback": fuses, "ignore_merges": false, "vocab": vocab, "merges": merges});
    if class == "GPTNeoXTokenizer" {
        file.insert("post_processor".to_owned(), Value::Null);
    }
    let parts = [("model", model), ("pre_tokenizer", pre_tokenizer), ("normalizer", normalizer), ("decoder", decoder)];
    file.extend(parts.map(|(key, part)| (key.to_owned(), part)));
    Some(file)
}

/// `PRETOKENIZE_REGEX` of `tokenization_qwen2.py`.
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
