//! `generation_config.json` as `transformers.GenerationMixin.generate` (5.17.0) obeys it when it decodes greedily: what
//! ends an answer, and what is done to the logits before the largest is taken. What belongs to sampling is left aside.

use std::path::Path;

use serde_json::{Map, Value};

use super::CompanionError;
use crate::host::shown;
use crate::settings::{InvalidSetting, Settings, whole};

/// What `generation_config.json` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationSettings {
    /// Ids that end an answer.
    pub eos: Vec<u32>,
    /// Most tokens of an answer; Hugging Face lets it win over the length that a caller gives.
    pub max_new_tokens: Option<usize>,
    pub choosing: Choosing,
    /// Settings that change greedy answers, here as there, as `key = value`.
    pub followed: Vec<String>,
    /// Settings that change greedy answers there and are not followed here, as `key = value`.
    pub not_followed: Vec<String>,
}

/// A sequence of tokens and what is added to the score of its last one behind the others.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceBias {
    pub ids: Vec<u32>,
    pub bias: f32,
}

/// How the scores of the next token are changed before the largest is taken, under Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Choosing {
    pub sequence_bias: Vec<SequenceBias>,
    pub encoder_repetition_penalty: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub no_repeat_ngram_size: Option<usize>,
    pub encoder_no_repeat_ngram_size: Option<usize>,
    /// Sequences, single end-of-sequence tokens left out.
    pub bad_words_ids: Vec<Vec<u32>>,
    pub min_length: Option<usize>,
    pub min_new_tokens: Option<usize>,
    pub forced_bos_token_id: Option<u32>,
    pub forced_eos_token_id: Vec<u32>,
    /// Token of the answer after which it begins, and the base of the growth.
    pub exponential_decay_length_penalty: Option<(usize, f32)>,
    pub suppress_tokens: Vec<u32>,
    pub begin_suppress_tokens: Vec<u32>,
}

impl Choosing {
    /// Whether the token with the largest logit is taken.
    pub fn is_plain(&self) -> bool {
        *self == Choosing::default()
    }

    /// Refuses tokens that a model with a vocabulary of `size` has no logits of, where `generate()` fails on them too; `eos` are
    /// the ends that a penalty of length looks up.
    pub(super) fn within(&self, size: u32, eos: &[u32]) -> Result<(), InvalidSetting> {
        let biased = self.sequence_bias.iter().flat_map(|bias| &bias.ids).map(|&id| ("sequence_bias", id));
        let banned = self.bad_words_ids.iter().flatten().map(|&id| ("bad_words_ids", id));
        let begin = self.forced_bos_token_id.iter().map(|&id| ("forced_bos_token_id", id));
        let end = self.forced_eos_token_id.iter().map(|&id| ("forced_eos_token_id", id));
        let ends = if self.exponential_decay_length_penalty.is_some() { eos } else { &[] };
        let ends = ends.iter().map(|&id| ("eos_token_id", id));
        match biased.chain(banned).chain(begin).chain(end).chain(ends).find(|&(_, id)| id >= size) {
            None => Ok(()),
            Some((key, id)) => Err(InvalidSetting {
                key: key.to_owned(),
                expected: format!("of tokens of the vocabulary, which has {size}"),
                got: format!("token {id}"),
            }),
        }
    }
}

impl GenerationSettings {
    pub(super) fn of(object: &Map<String, Value>, path: &Path) -> Result<GenerationSettings, CompanionError> {
        GenerationSettings::said(object).map_err(|setting| CompanionError::Setting { path: path.to_owned(), setting })
    }

    fn said(object: &Map<String, Value>) -> Result<GenerationSettings, InvalidSetting> {
        let settings = Settings::of(object);
        let eos = settings.tensor_of_tokens("eos_token_id")?;
        Ok(GenerationSettings {
            max_new_tokens: settings.count("max_new_tokens")?.filter(|&most| most > 0),
            choosing: choosing(settings, &eos)?,
            followed: followed(object, &eos)?,
            not_followed: not_followed(settings),
            eos,
        })
    }
}

fn choosing(keys: Settings<'_>, eos: &[u32]) -> Result<Choosing, InvalidSetting> {
    let penalty = |key: &str| {
        let read = |value: &Value| value.as_f64().filter(|&penalty| penalty > 0.0).map(|penalty| penalty as f32);
        Ok(keys.read(key, "a number above 0", read)?.filter(|&penalty| penalty != 1.0))
    };
    let some = |key: &str| Ok(keys.count(key)?.filter(|&count| count > 0));
    // Without an end there is nothing to hold back.
    let held = |key: &str| Ok(some(key)?.filter(|_| !eos.is_empty()));
    let mut bad_words_ids = keys.read("bad_words_ids", "lists of token ids", sequences)?.unwrap_or_default();
    bad_words_ids.retain(|ids| !matches!(ids.as_slice(), [id] if eos.contains(id)));
    Ok(Choosing {
        sequence_bias: keys.read("sequence_bias", "a list of [token ids, number]", biases)?.unwrap_or_default(),
        encoder_repetition_penalty: penalty("encoder_repetition_penalty")?,
        repetition_penalty: penalty("repetition_penalty")?,
        no_repeat_ngram_size: some("no_repeat_ngram_size")?,
        encoder_no_repeat_ngram_size: some("encoder_no_repeat_ngram_size")?,
        bad_words_ids,
        min_length: held("min_length")?,
        min_new_tokens: held("min_new_tokens")?,
        forced_bos_token_id: keys.tensor_of_tokens("forced_bos_token_id")?.first().copied(),
        forced_eos_token_id: keys.tensor_of_tokens("forced_eos_token_id")?,
        exponential_decay_length_penalty: keys
            .read("exponential_decay_length_penalty", "[a token of the answer, a number]", decay)?
            .filter(|_| !eos.is_empty()),
        suppress_tokens: keys.tensor_of_tokens("suppress_tokens")?,
        begin_suppress_tokens: keys.tensor_of_tokens("begin_suppress_tokens")?,
    })
}

/// Keys of [`Choosing`] that change anything.
fn followed(object: &Map<String, Value>, eos: &[u32]) -> Result<Vec<String>, InvalidSetting> {
    let mut followed = Vec::new();
    for (key, value) in object {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        if !choosing(Settings::of(&alone), eos)?.is_plain()
            || (key == "max_new_tokens" && value.as_u64().is_some_and(|most| most > 0))
        {
            followed.push(setting(key, value));
        }
    }
    Ok(followed)
}

fn setting(key: &str, value: &Value) -> String {
    format!("{key} = {}", shown(&value.to_string()))
}

/// Caches of `generate()` that hold what was computed, whatever they are made of.
const EXACT_CACHES: [&str; 9] = [
    "dynamic",
    "offloaded",
    "static",
    "offloaded_static",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
    "offloaded_hybrid",
    "offloaded_hybrid_chunked",
];

/// Settings under which `generate()` would search, stop or score in another way. `remove_invalid_values` is not among them:
/// logits that are no numbers are an error here.
fn not_followed(keys: Settings<'_>) -> Vec<String> {
    let beyond = |least: f64| move |value: &Value| value.as_f64().is_none_or(|number| number > least);
    let other = |usual: f64| move |value: &Value| value.as_f64() != Some(usual);
    let any = |value: &Value| *value != Value::Bool(false) && value.as_array().is_none_or(|list| !list.is_empty());
    type Changes<'a> = &'a dyn Fn(&Value) -> bool;
    let unknown_cache = |value: &Value| !value.as_str().is_some_and(|name| EXACT_CACHES.contains(&name));
    let changes: [(&str, Changes<'_>); 16] = [
        // These end in an error there, and a quantized cache in other answers.
        ("early_stopping", &|value| !value.is_boolean() && value != "never"),
        ("cache_implementation", &unknown_cache),
        ("max_new_tokens", &|value| value.as_u64() == Some(0)),
        ("num_return_sequences", &beyond(1.0)),
        ("num_beams", &beyond(1.0)),
        ("num_beam_groups", &beyond(1.0)),
        ("penalty_alpha", &beyond(0.0)),
        ("guidance_scale", &other(1.0)),
        ("dola_layers", &any),
        ("watermarking_config", &any),
        ("stop_strings", &any),
        ("max_time", &any),
        ("constraints", &any),
        ("force_words_ids", &any),
        ("forced_decoder_ids", &any),
        ("token_healing", &any),
    ];
    let found = changes.iter().filter_map(|(key, changes)| Some((key, keys.get(key).filter(|value| changes(value))?)));
    found.map(|(key, value)| setting(key, value)).collect()
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(whole(id)?).ok()).collect()
}

fn sequences(value: &Value) -> Option<Vec<Vec<u32>>> {
    let lists: Option<Vec<Vec<u32>>> = value.as_array()?.iter().map(ids).collect();
    lists.filter(|lists| lists.iter().all(|ids| !ids.is_empty()))
}

fn biases(value: &Value) -> Option<Vec<SequenceBias>> {
    let one = |pair: &Value| match pair.as_array()?.as_slice() {
        [sequence, bias] => Some(SequenceBias { ids: ids(sequence).filter(|ids| !ids.is_empty())?, bias: bias.as_f64()? as f32 }),
        _ => None,
    };
    value.as_array()?.iter().map(one).collect()
}

fn decay(value: &Value) -> Option<(usize, f32)> {
    match value.as_array()?.as_slice() {
        [start, factor] => Some((usize::try_from(whole(start)?).ok()?, factor.as_f64()? as f32)),
        _ => None,
    }
}
