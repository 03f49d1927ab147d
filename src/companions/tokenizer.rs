//! `tokenizer.json`: one loader, and one guard around a library that panics on some of what it has accepted.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::CompanionError;
use super::special::{AddedToken, Declared};
use crate::contract::TOKENIZER_FILE;
use crate::host::guard::guarded;
use crate::host::{read, shown};

/// Most times longer that a text may get by the replacements of a normalizer or decoder, each followed by the next. Real ones
/// turn a space into the three bytes of `▁`; a chain of doublings would fill any memory.
const MOST_GROWTH: f64 = 4096.0;

/// Most tokens that a post-processor may put around a text, each copy of the text counted as one. Real ones add one or two.
const MOST_TEMPLATE_TOKENS: usize = 4096;

/// What of the file is looked at before the library is given it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Parts {
    normalizer: Value,
    decoder: Value,
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Model {
    dropout: Option<f64>,
}

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// BLAKE3 of `tokenizer.json`, hexadecimal.
    hash: String,
    /// Ids and texts of added tokens that decoding leaves out.
    special: Vec<(u32, String)>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({})", self.hash)
    }
}

impl Tokenizer {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, is no tokenizer, or would read the same text differently each time.
    pub fn open(path: &Path) -> Result<Tokenizer, CompanionError> {
        let bytes = read::file(path, read::TOKENIZER).map_err(|source| CompanionError::Read { path: path.to_owned(), source })?;
        Tokenizer::of_bytes(path, &bytes)
    }

    /// As [`Tokenizer::open`], of what `path` holds.
    pub(super) fn of_bytes(path: &Path, bytes: &[u8]) -> Result<Tokenizer, CompanionError> {
        let broken = |reason: String| CompanionError::Tokenizer { path: path.to_owned(), reason };
        if read::is_utf_16(bytes) {
            return Err(broken("it is UTF-16".to_owned()));
        }
        let parts: Parts = serde_json::from_slice(read::unmarked(bytes)).map_err(|error| broken(error.to_string()))?;
        if let Some(dropout) = parts.model.dropout.filter(|&dropout| dropout > 0.0) {
            return Err(CompanionError::Dropout { path: path.to_owned(), dropout });
        }
        for (part, json) in [("normalizer", &parts.normalizer), ("decoder", &parts.decoder)] {
            let growth = growth(json);
            if growth > MOST_GROWTH {
                return Err(broken(format!("its {part} makes a text up to {growth:.0} times as long")));
            }
        }
        let tokens = template_tokens(&parts.post_processor);
        if tokens > MOST_TEMPLATE_TOKENS {
            return Err(broken(format!("its post_processor adds {tokens} tokens and texts to every text")));
        }
        let mut inner = said(guarded(|| tokenizers::Tokenizer::from_bytes(read::unmarked(bytes)))).map_err(broken)?;
        // What a tokenizer was last called with is saved in its file. Hugging Face sets both anew on every call.
        inner.with_truncation(None).map_err(|error| broken(error.to_string()))?;
        inner.with_padding(None);
        // A tokenizer without a vocabulary reads nothing, and says so only when it is asked.
        if inner.get_vocab_size(true) == 0 {
            return Err(broken("its vocabulary is empty".to_owned()));
        }
        let tokenizer = Tokenizer::of(inner, blake3::hash(bytes).to_hex().to_string());
        // The library panics on some parts only when they are used.
        for special in [true, false] {
            let ids = tokenizer.encode("The word.\n\nQ: 1?", special).map_err(|error| broken(reason_of(error)))?;
            tokenizer.decode(&ids, special).map_err(|error| broken(reason_of(error)))?;
        }
        Ok(tokenizer)
    }

    /// As [`Tokenizer::open`], of the model in `dir`, with the special tokens that the files beside it declare.
    ///
    /// # Errors
    /// As [`Tokenizer::open`]; one of those files is not what it should be.
    pub fn of_model(dir: &Path) -> Result<Tokenizer, CompanionError> {
        let path = dir.join(TOKENIZER_FILE);
        Tokenizer::open(&path)?.with_declared(dir)
    }

    /// With the special tokens that the files in `dir` declare.
    pub(super) fn with_declared(mut self, dir: &Path) -> Result<Tokenizer, CompanionError> {
        let broken = |reason| CompanionError::Tokenizer { path: dir.join(TOKENIZER_FILE), reason };
        declare(&mut self.inner, Declared::read(dir)?).map_err(broken)?;
        Ok(Tokenizer::of(self.inner, self.hash))
    }

    fn of(inner: tokenizers::Tokenizer, hash: String) -> Tokenizer {
        // By what the library does: it keeps a token special that a later declaration says is not.
        let is_left_out = |id: u32| said(guarded(|| inner.decode(&[id], true))).is_ok_and(|text| text.is_empty());
        let added = inner.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content));
        let mut special: Vec<(u32, String)> = added.filter(|(id, text)| !text.is_empty() && is_left_out(*id)).collect();
        special.sort_unstable();
        Tokenizer { inner, hash, special }
    }

    /// BLAKE3 of the file, hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Token ids of `text`, with the special tokens that Hugging Face adds by default where `special`.
    ///
    /// # Errors
    /// [`CompanionError::Encode`].
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, CompanionError> {
        let ids = said(guarded(|| self.inner.encode_fast(text, special))).map(|encoding| encoding.get_ids().to_vec());
        ids.map_err(|reason| CompanionError::Encode { what: "a text", reason })
    }

    /// Text of `ids`, without special tokens where `skip_special`.
    ///
    /// # Errors
    /// [`CompanionError::Encode`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, CompanionError> {
        said(guarded(|| self.inner.decode(ids, skip_special)))
            .map_err(|reason| CompanionError::Encode { what: "produced tokens", reason })
    }

    /// Id of a token by its text.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Text of a token.
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Ids of tokens that are looked for in a text before anything else is done to it.
    pub fn added(&self) -> BTreeSet<u32> {
        self.inner.get_added_tokens_decoder().into_keys().collect()
    }

    /// Whether decoding leaves the token out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.binary_search_by_key(&id, |(id, _)| *id).is_ok()
    }
}

#[cfg(test)]
impl From<tokenizers::Tokenizer> for Tokenizer {
    fn from(inner: tokenizers::Tokenizer) -> Tokenizer {
        Tokenizer::of(inner, "made in a test".to_owned())
    }
}

fn reason_of(error: CompanionError) -> String {
    match error {
        CompanionError::Encode { reason, .. } => reason,
        other => other.to_string(),
    }
}

/// Tells the library of declared tokens in the calls and the order of `TokenizersBackend.__init__`.
fn declare(inner: &mut tokenizers::Tokenizer, declared: Declared) -> Result<(), String> {
    let Declared { mut decoder, named, extra } = declared;
    for token in &mut decoder {
        token.special |= named.iter().any(|named| named.content == token.content);
    }
    let known: BTreeSet<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let (known, listed) = (&known, decoder.clone());
    let is_new =
        |token: &&AddedToken| !known.contains(&token.content) && listed.iter().all(|other| other.content != token.content);
    let first: Vec<_> = decoder.iter().chain(named.iter().chain(&extra).filter(is_new)).map(added).collect();
    said(guarded(|| inner.add_tokens(first)))?;
    let special = named.iter().chain(&extra).map(|token| added(token).special(true));
    said(guarded(|| inner.add_special_tokens(special.collect::<Vec<_>>()))).map(drop)
}

fn added(token: &AddedToken) -> tokenizers::AddedToken {
    tokenizers::AddedToken::from(token.content.clone(), token.special)
        .single_word(token.single_word)
        .lstrip(token.lstrip)
        .rstrip(token.rstrip)
        .normalized(token.normalized)
}

/// What the library says, a panic inside it included: tokenizers, onig and spm_precompiled panic on some files, and some
/// texts, for which they should return an error.
fn said<T>(result: Result<tokenizers::Result<T>, String>) -> Result<T, String> {
    let result = result.and_then(|result| result.map_err(|error| error.to_string()));
    result.map_err(|reason| shown(&reason).to_string())
}

/// How many times longer a text gets at most by the replacements in a normalizer or decoder.
fn growth(part: &Value) -> f64 {
    let inside = ["normalizers", "decoders"].iter().filter_map(|key| part[*key].as_array()).flatten();
    let inside: f64 = inside.map(growth).product();
    let length = |key: &str| part[key].as_str().map_or(0, str::len) as f64;
    inside
        * match part["type"].as_str() {
            Some("Replace") => {
                let replaced = part["pattern"]["String"].as_str().map_or(1, |text| text.len().max(1)) as f64;
                (length("content") / replaced).max(1.0)
            }
            Some("Prepend") => 1.0 + length("prepend"),
            _ => 1.0,
        }
}

/// Tokens that the templates of a post-processor put around a text, each copy of the text counted as one.
fn template_tokens(part: &Value) -> usize {
    let inside: usize = part["processors"].as_array().into_iter().flatten().map(template_tokens).sum();
    let ids = |piece: &Value| match piece["SpecialToken"]["id"].as_str() {
        Some(token) => part["special_tokens"][token]["ids"].as_array().map_or(1, Vec::len),
        None => 1,
    };
    let template = |name: &str| part[name].as_array().into_iter().flatten().map(ids).sum::<usize>();
    inside.saturating_add(template("single")).saturating_add(template("pair"))
}
