//! Values in a sweep's TOML that may be written in two ways.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, IntoDeserializer, SeqAccess, Visitor};

use crate::tensor::DType;

/// One value, or a list of them; an untagged enum could not say what is wrong with either.
#[derive(Debug, Clone, PartialEq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

struct OneOrManyVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the axis, or a list of them")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<OneOrMany<T>, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<OneOrMany<T>, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<OneOrMany<T>, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMany<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany)
    }
}

/// Element type of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeWord {
    F16,
    F32,
}

impl DtypeWord {
    pub fn dtype(self) -> DType {
        match self {
            DtypeWord::F16 => DType::F16,
            DtypeWord::F32 => DType::F32,
        }
    }
}

/// Who shares a scale: a number of weights, or `"channel"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupWord {
    Size(usize),
    Channel,
}

impl fmt::Display for GroupWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupWord::Size(size) => size.fmt(f),
            GroupWord::Channel => f.write_str("channel"),
        }
    }
}

impl<'de> Deserialize<'de> for GroupWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GroupVisitor)
    }
}

struct GroupVisitor;

impl Visitor<'_> for GroupVisitor {
    type Value = GroupWord;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a group size like 32, or \"channel\"")
    }

    fn visit_i64<E: Error>(self, size: i64) -> Result<GroupWord, E> {
        usize::try_from(size).map(GroupWord::Size).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(size), &self))
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<GroupWord, E> {
        if word == "channel" { Ok(GroupWord::Channel) } else { Err(E::unknown_variant(word, &["channel"])) }
    }
}
