//! A model's tokenizer as llama.cpp has it: texts and kinds of tokens, and which of its own ways to split a text is meant.
//!
//! llama.cpp compiles its splitting in and knows it by name (`tokenizer.ggml.pre`); what is none of those is refused, for it would split
//! texts otherwise in silence. A normalizer to NFC is left out, as llama.cpp's own converter does.
//!
//! Source: `llm_tokenizer_bpe` and `llm_tokenizer_spm` of `llama-vocab.cpp`; `_set_vocab_gpt2` of `convert_hf_to_gguf.py`.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::file::{Entry, Said};
use crate::artifact::ArtifactError;
use crate::companions::{Companions, SpecialTokens, Tokenizer};
use crate::contract::{CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE};
use crate::host::{FileError, read as files};

/// `enum llama_token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// How a tokenizer puts texts together from tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    /// Merges of bytes in pieces that a pattern of this name cuts.
    Bytes { pre: &'static str },
    /// SentencePiece's merges, of the pair with the best score.
    Pieces { space_before: bool, unlike: Option<&'static str> },
}

/// What a file says of a tokenizer.
pub struct Vocabulary {
    pub said: Vec<Said>,
    /// Which texts llama.cpp cuts otherwise, though it knows the tokenizer.
    pub unlike: Option<&'static str>,
}

/// The word boundary of SentencePiece.
const SPACE: &str = "\u{2581}";

const LLAMA_3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Patterns that a text is cut by, whether a piece that is a token is taken without merges, and what llama.cpp calls both.
const PATTERNS: [(&str, bool, &str); 4] =
    [(LLAMA_3, true, "llama-bpe"), (LLAMA_3, false, "smaug-bpe"), (QWEN_2, false, "qwen2"), (TEKKEN, true, "tekken")];

/// Where llama.cpp's own form of a tokenizer is not the tokenizer, measured with its build 11549.
const TEKKEN_UNLIKE: &str = "letters with combining marks (Hindi, Thai), whose marks its pattern cuts off";
const METASPACE_UNLIKE: &str = "texts that begin with a space, or follow a special token, before which it puts one more";

/// What a file says of the tokenizer in `dir`, whose model has rows for `vocab_size` tokens; else why llama.cpp has none like it.
///
/// # Errors
/// A file cannot be read.
pub fn read(dir: &Path, vocab_size: usize) -> Result<Result<Vocabulary, String>, ArtifactError> {
    let companions = Companions::read(dir)?;
    let file = json_of(dir, TOKENIZER_FILE, files::TOKENIZER)?;
    let template = template(dir)?;
    let named = SpecialTokens::by_name(dir)?;
    let id = |name: &str| named.get(name).and_then(|token| companions.tokenizer.id_of(token));
    let said = algorithm(&file).and_then(|algorithm| {
        let mut said = tokens(&companions.tokenizer, &file, algorithm, vocab_size);
        said.extend(around(&companions.tokenizer, companions.bos)?);
        let eos = id("eos_token").or(companions.generation.eos.first().copied());
        let ends = companions.generation.eos.iter().copied().find(|&other| Some(other) != eos);
        let ids = [
            ("bos_token_id", companions.bos),
            ("eos_token_id", eos),
            ("eot_token_id", ends),
            ("unknown_token_id", id("unk_token")),
            ("padding_token_id", id("pad_token")),
        ];
        said.extend(ids.into_iter().filter_map(|(key, id)| Some((ggml(key), Entry::U32(id?)))));
        said.extend(template.map(|text| ("tokenizer.chat_template".to_owned(), Entry::Text(text))));
        Ok(Vocabulary { said, unlike: algorithm.unlike() })
    });
    Ok(said)
}

impl Algorithm {
    fn unlike(self) -> Option<&'static str> {
        match self {
            Algorithm::Bytes { pre } => (pre == "tekken").then_some(TEKKEN_UNLIKE),
            Algorithm::Pieces { unlike, .. } => unlike,
        }
    }
}

fn ggml(key: &str) -> String {
    format!("tokenizer.ggml.{key}")
}

/// How texts become tokens, or what of it llama.cpp does not do.
fn algorithm(file: &Value) -> Result<Algorithm, String> {
    let (model, kind) = (&file["model"], file["model"]["type"].as_str().unwrap_or("BPE"));
    let is_given = |key: &str| model[key].as_str().is_some_and(|text| !text.is_empty());
    if kind != "BPE" || is_given("continuing_subword_prefix") || is_given("end_of_word_suffix") {
        return Err(format!("tokenizer.json is a {kind} tokenizer of a kind that is not written as GGUF; choose --target ort"));
    }
    if model["byte_fallback"] == true {
        return pieces(file);
    }
    let normalizers = sequence(&file["normalizer"], "normalizers");
    if let Some(other) = normalizers.iter().find(|part| part["type"] != "NFC") {
        return Err(format!(
            "tokenizer.json normalizes texts by {}, which llama.cpp does not; choose --target ort",
            other["type"]
        ));
    }
    let pre = pre(&sequence(&file["pre_tokenizer"], "pretokenizers"), model["ignore_merges"] == true);
    pre.map(|pre| Algorithm::Bytes { pre })
        .ok_or_else(|| "tokenizer.json cuts texts as no tokenizer that llama.cpp knows by name; choose --target ort".to_owned())
}

/// What llama.cpp calls a way of cutting texts.
fn pre(parts: &[&Value], ignore_merges: bool) -> Option<&'static str> {
    let is_bytes = |part: &Value, use_regex: bool| {
        // The library's own default.
        let cuts = part["use_regex"].as_bool().unwrap_or(true);
        part["type"] == "ByteLevel" && part["add_prefix_space"] == false && cuts == use_regex
    };
    match parts {
        [bytes] if is_bytes(bytes, true) && !ignore_merges => Some("gpt-2"),
        [digits, bytes]
            if digits["type"] == "Digits" && digits["individual_digits"] == true && is_bytes(bytes, true) && !ignore_merges =>
        {
            Some("smollm")
        }
        [split, bytes]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] == false
                && is_bytes(bytes, false) =>
        {
            let pattern = split["pattern"]["Regex"].as_str()?;
            PATTERNS.iter().find(|(known, ignores, _)| *known == pattern && *ignores == ignore_merges).map(|(.., name)| *name)
        }
        _ => None,
    }
}

/// SentencePiece's way, as `tokenizer.json` writes it: a space is `▁`, and one stands before a text.
fn pieces(file: &Value) -> Result<Algorithm, String> {
    let (normalizers, pre) = (sequence(&file["normalizer"], "normalizers"), sequence(&file["pre_tokenizer"], "pretokenizers"));
    let is_prepend = |part: &Value| part["type"] == "Prepend" && part["prepend"] == SPACE;
    let is_replace = |part: &Value| part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == SPACE;
    let (space_before, unlike) = match (normalizers.as_slice(), pre.as_slice()) {
        ([prepend, replace], []) if is_prepend(prepend) && is_replace(replace) => (true, None),
        ([replace], []) if is_replace(replace) => (false, None),
        ([], [metaspace])
            if metaspace["type"] == "Metaspace" && metaspace["replacement"] == SPACE && metaspace["split"] == false =>
        {
            match metaspace["prepend_scheme"].as_str() {
                Some("never") => (false, None),
                _ => (true, Some(METASPACE_UNLIKE)),
            }
        }
        _ => return Err("tokenizer.json treats spaces otherwise than SentencePiece does; choose --target ort".to_owned()),
    };
    Ok(Algorithm::Pieces { space_before, unlike })
}

/// The parts of a normalizer or pre-tokenizer.
fn sequence<'a>(part: &'a Value, key: &str) -> Vec<&'a Value> {
    match &part[key] {
        Value::Array(parts) => parts.iter().collect(),
        _ if part.is_null() => Vec::new(),
        _ => vec![part],
    }
}

/// Tokens in the order of their ids, what they are, and what merges them.
fn tokens(tokenizer: &Tokenizer, file: &Value, algorithm: Algorithm, vocab_size: usize) -> Vec<Said> {
    let added = tokenizer.added();
    let is_pieces = matches!(algorithm, Algorithm::Pieces { .. });
    let unknown = file["model"]["unk_token"].as_str();
    let token = |id: u32| match (tokenizer.token_of(id), added.contains(&id)) {
        (Some(text), true) if tokenizer.is_special(id) => (text, Kind::Control),
        (Some(text), true) if is_pieces => (text.replace(SPACE, " "), Kind::UserDefined),
        (Some(text), true) => (text, Kind::UserDefined),
        (Some(text), false) if is_pieces && is_byte(&text) => (text, Kind::Byte),
        (Some(text), false) if is_pieces && unknown == Some(text.as_str()) => (text, Kind::Unknown),
        (Some(text), false) => (text, Kind::Normal),
        (None, _) => (format!("[PAD{id}]"), Kind::Unused),
    };
    let (texts, kinds): (Vec<String>, Vec<i32>) =
        (0..vocab_size as u32).map(token).map(|(text, kind)| (text, kind as i32)).unzip();
    let merges = merges(&file["model"]["merges"]);
    let mut said = Vec::new();
    let mut say = |key: &str, entry: Entry| said.push((ggml(key), entry));
    match algorithm {
        Algorithm::Bytes { pre } => {
            say("model", Entry::Text("gpt2".to_owned()));
            say("pre", Entry::Text(pre.to_owned()));
            say("merges", Entry::Texts(merges.iter().map(|(a, b)| format!("{a} {b}")).collect()));
        }
        Algorithm::Pieces { space_before, .. } => {
            say("model", Entry::Text("llama".to_owned()));
            say("pre", Entry::Text("default".to_owned()));
            say("add_space_prefix", Entry::Bool(space_before));
            say("scores", Entry::F32s(scores(&texts, &merges)));
        }
    }
    say("tokens", Entry::Texts(texts));
    say("token_type", Entry::I32s(kinds));
    said
}

/// `<0x0A>`
fn is_byte(text: &str) -> bool {
    text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>')).is_some_and(|hex| u8::from_str_radix(hex, 16).is_ok())
}

/// Pairs that are merged, the first first: written as `a b` before tokenizers 0.20, as `["a", "b"]` since.
fn merges(list: &Value) -> Vec<(&str, &str)> {
    list.as_array().into_iter().flatten().filter_map(merge).collect()
}

fn merge(pair: &Value) -> Option<(&str, &str)> {
    match pair {
        Value::String(text) => text.split_once(' '),
        other => Some((other[0].as_str()?, other[1].as_str()?)),
    }
}

/// The earlier a token is merged, the better it is; what is never merged is worst.
fn scores(texts: &[String], merges: &[(&str, &str)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    texts.iter().map(|text| -(ranks.get(text).copied().unwrap_or(merges.len()) as f32)).collect()
}

/// Whether a text begins with the first token and ends with the last one, as the post-processor has it.
fn around(tokenizer: &Tokenizer, bos: Option<u32>) -> Result<Vec<Said>, String> {
    let encoded = |special: bool| tokenizer.encode("a", special).map_err(|error| error.to_string());
    let (bare, whole) = (encoded(false)?, encoded(true)?);
    let at = whole.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or_default();
    let (before, behind) = (&whole[..at], &whole[(at + bare.len()).min(whole.len())..]);
    let is_bos = before.len() == 1 && bos == Some(before[0]);
    if !(before.is_empty() || is_bos) || behind.len() > 1 {
        return Err(
            "tokenizer.json puts other tokens around a text than one at its beginning and one at its end; choose --target ort"
                .to_owned(),
        );
    }
    let flag = |key: &str, is_there: bool| (ggml(key), Entry::Bool(is_there));
    Ok(vec![flag("add_bos_token", is_bos), flag("add_eos_token", !behind.is_empty())])
}

/// What a file says that was read before; null where there is none.
fn json_of(dir: &Path, file: &str, most: u64) -> Result<Value, ArtifactError> {
    let path = dir.join(file);
    match files::text(&path, most) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
        text => Ok(serde_json::from_str(&text.map_err(FileError::at(&path, "cannot be read"))?).unwrap_or_default()),
    }
}

/// The chat template, from its own file or the tokenizer's settings.
fn template(dir: &Path) -> Result<Option<String>, ArtifactError> {
    if let Ok(text) = files::text(&dir.join(CHAT_TEMPLATE_FILE), files::SETTINGS) {
        return Ok(Some(text));
    }
    let said = json_of(dir, TOKENIZER_CONFIG_FILE, files::SETTINGS)?;
    let is_default = |template: &&Value| template["name"] == "default";
    let text = match &said["chat_template"] {
        Value::Array(named) => named.iter().find(is_default).map_or(&Value::Null, |template| &template["template"]),
        other => other,
    };
    Ok(text.as_str().map(str::to_owned))
}
