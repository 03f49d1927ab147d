//! A model's tokenizer as llama.cpp has it: texts and kinds of tokens, and which of its own ways to split a text is meant.
//!
//! llama.cpp compiles its splitting in and knows it by name (`tokenizer.ggml.pre`); what is none of those is refused, for it would split
//! texts otherwise in silence. Where its form of a tokenizer is near and not the same, that is said ([`Vocabulary::unlike`]).
//!
//! Source: `llm_tokenizer_bpe` and `llm_tokenizer_spm` of `llama-vocab.cpp`; `_set_vocab_gpt2` of `convert_hf_to_gguf.py`.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::file::{Entry, Said};
use crate::artifact::ArtifactError;
use crate::companions::{Companions, SpecialTokens, Tokenizer};
use crate::contract::{CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE};
use crate::host::{FileError, read as files, shown};

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
    Pieces { space_before: bool, is_metaspace: bool },
}

/// What a file says of a tokenizer.
pub struct Vocabulary {
    pub said: Vec<Said>,
    /// Which texts llama.cpp cuts otherwise, though it knows the tokenizer.
    pub unlike: Vec<&'static str>,
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
const NFC_UNLIKE: &str = "letters written as two characters, which the tokenizer joins first (NFC)";
const ADDED_UNLIKE: &str = "added tokens that take spaces around them along, or are looked for as whole words alone";
const UNMERGED_UNLIKE: &str = "pieces that are tokens and that no merge makes, which llama.cpp puts together all the same";
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
        let (mut said, texts) = tokens(&companions.tokenizer, &file, algorithm, vocab_size)?;
        let eos = id("eos_token").or(companions.generation.eos.first().copied());
        said.extend(around(&companions.tokenizer, companions.bos, eos)?);
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
        Ok(Vocabulary { said, unlike: unlike(algorithm, &file, &texts) })
    });
    Ok(said)
}

/// Where llama.cpp cuts texts otherwise.
fn unlike(algorithm: Algorithm, file: &Value, texts: &[String]) -> Vec<&'static str> {
    let is_pieces = matches!(algorithm, Algorithm::Pieces { .. });
    let is_odd = |token: &Value| ["lstrip", "rstrip", "single_word"].iter().any(|flag| token[*flag] == true);
    let is_nfc = !is_pieces && !sequence(&file["normalizer"], "normalizers").is_empty();
    let found = [
        (matches!(algorithm, Algorithm::Bytes { pre: "tekken" }), TEKKEN_UNLIKE),
        (matches!(algorithm, Algorithm::Pieces { is_metaspace: true, .. }), METASPACE_UNLIKE),
        (is_nfc, NFC_UNLIKE),
        (file["added_tokens"].as_array().into_iter().flatten().any(is_odd), ADDED_UNLIKE),
        (is_pieces && has_unmerged(file, texts), UNMERGED_UNLIKE),
    ];
    found.into_iter().filter(|(is_so, _)| *is_so).map(|(_, unlike)| unlike).collect()
}

/// Whether two tokens together are one that no merge makes.
fn has_unmerged(file: &Value, texts: &[String]) -> bool {
    let known: HashSet<&str> = texts.iter().map(String::as_str).collect();
    let merged: HashSet<String> = merges(&file["model"]["merges"]).iter().map(|(a, b)| format!("{a}{b}")).collect();
    let added = file["added_tokens"].as_array().into_iter().flatten();
    let added: HashSet<&str> = added.filter_map(|token| token["content"].as_str()).collect();
    let is_of_two = |text: &str, at: usize| known.contains(&text[..at]) && known.contains(&text[at..]);
    let is_made = |text: &str| text.char_indices().skip(1).any(|(at, _)| is_of_two(text, at));
    let is_own = |text: &&String| !merged.contains(*text) && !added.contains(text.as_str()) && !is_byte(text);
    texts.iter().filter(is_own).any(|text| is_made(text))
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
    let (space_before, is_metaspace) = match (normalizers.as_slice(), pre.as_slice()) {
        ([prepend, replace], []) if is_prepend(prepend) && is_replace(replace) => (true, false),
        ([replace], []) if is_replace(replace) => (false, false),
        ([], [metaspace])
            if metaspace["type"] == "Metaspace" && metaspace["replacement"] == SPACE && metaspace["split"] == false =>
        {
            match metaspace["prepend_scheme"].as_str() {
                Some("never") => (false, false),
                _ => (true, true),
            }
        }
        _ => return Err("tokenizer.json treats spaces otherwise than SentencePiece does; choose --target ort".to_owned()),
    };
    Ok(Algorithm::Pieces { space_before, is_metaspace })
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
///
/// # Errors
/// Two ids have one text, with which llama.cpp does not start.
fn tokens(
    tokenizer: &Tokenizer,
    file: &Value,
    algorithm: Algorithm,
    vocab_size: usize,
) -> Result<(Vec<Said>, Vec<String>), String> {
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
    let mut seen = HashSet::new();
    if let Some(twice) = texts.iter().find(|text| !seen.insert(text.as_str())) {
        return Err(format!("the token {} has two ids, and llama.cpp wants one; choose --target ort", shown(twice)));
    }
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
    say("tokens", Entry::Texts(texts.clone()));
    say("token_type", Entry::I32s(kinds));
    Ok((said, texts))
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
fn around(tokenizer: &Tokenizer, bos: Option<u32>, eos: Option<u32>) -> Result<Vec<Said>, String> {
    let encoded = |special: bool| tokenizer.encode("a", special).map_err(|error| error.to_string());
    let (bare, whole) = (encoded(false)?, encoded(true)?);
    let at = whole.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or_default();
    let (before, behind) = (&whole[..at], &whole[(at + bare.len()).min(whole.len())..]);
    let is_bos = before.len() == 1 && bos == Some(before[0]);
    let is_eos = behind.len() == 1 && eos == Some(behind[0]);
    if !(before.is_empty() || is_bos) || !(behind.is_empty() || is_eos) {
        return Err(
            "tokenizer.json puts other tokens around a text than its bos_token and its eos_token; choose --target ort".to_owned()
        );
    }
    let flag = |key: &str, is_there: bool| (ggml(key), Entry::Bool(is_there));
    Ok(vec![flag("add_bos_token", is_bos), flag("add_eos_token", is_eos)])
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
