//! From documents to sequences: a seeded choice without replacement. Nothing is repeated or made up to fill a set.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

use super::SetError;
use super::set_file::{Packing, SetFile};
use super::source::Document;

/// Sequences of a set, perhaps fewer than it asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub sequences: Vec<Vec<u32>>,
    /// Documents left out because they are shorter than a sequence.
    pub too_short: usize,
}

/// Takes the set's sequences from its documents; `encode` gives the ids of a document and gets its number, from 1, for
/// messages.
pub(super) fn sample(
    documents: Vec<Document>,
    set: &SetFile,
    encode: &dyn Fn(&Document, usize) -> Result<Vec<u32>, SetError>,
) -> Result<Sample, SetError> {
    let mut random = Pcg64::seed_from_u64(set.seed);
    let mut numbered: Vec<(usize, Document)> = (1..).zip(documents).collect();
    let (Some(samples), Some(length)) = (set.samples, set.length) else {
        return as_they_are(numbered, set, &mut random, encode);
    };
    shuffle(&mut numbered, &mut random);
    match set.packing() {
        Packing::Packed => packed(&numbered, samples, length, &mut random, encode),
        Packing::Documents => separate(&numbered, samples, length, encode),
    }
}

/// Ids without a number of samples or a length: all of them, or so many of them, in the order of the file.
fn as_they_are(
    documents: Vec<(usize, Document)>,
    set: &SetFile,
    random: &mut Pcg64,
    encode: &dyn Fn(&Document, usize) -> Result<Vec<u32>, SetError>,
) -> Result<Sample, SetError> {
    let mut sequences = documents.iter().map(|(number, document)| encode(document, *number)).collect::<Result<Vec<_>, _>>()?;
    let all = sequences.len();
    // Two tokens make one prediction; less is no sequence.
    let shortest = set.length.unwrap_or(2);
    sequences.retain(|sequence| sequence.len() >= shortest);
    let too_short = all - sequences.len();
    if let Some(length) = set.length {
        sequences.iter_mut().for_each(|sequence| sequence.truncate(length));
    }
    Ok(Sample { sequences: choose(sequences, set.samples.unwrap_or(all), random), too_short })
}

/// One document after the other until there are tokens enough, cut to the length. A document that is longer than all that is
/// needed gives more sequences than that; which of them are taken is drawn.
fn packed(
    documents: &[(usize, Document)],
    samples: usize,
    length: usize,
    random: &mut Pcg64,
    encode: &dyn Fn(&Document, usize) -> Result<Vec<u32>, SetError>,
) -> Result<Sample, SetError> {
    let enough = samples.saturating_mul(length);
    let mut stream = Vec::new();
    for (number, document) in documents {
        if stream.len() >= enough {
            break;
        }
        stream.extend(encode(document, *number)?);
    }
    let sequences = stream.chunks_exact(length).map(<[u32]>::to_vec).collect();
    Ok(Sample { sequences: choose(sequences, samples, random), too_short: 0 })
}

/// The beginning of each document that is long enough.
fn separate(
    documents: &[(usize, Document)],
    samples: usize,
    length: usize,
    encode: &dyn Fn(&Document, usize) -> Result<Vec<u32>, SetError>,
) -> Result<Sample, SetError> {
    let mut sample = Sample { sequences: Vec::new(), too_short: 0 };
    for (number, document) in documents {
        if sample.sequences.len() == samples {
            break;
        }
        let mut ids = encode(document, *number)?;
        if ids.len() < length {
            sample.too_short += 1;
        } else {
            ids.truncate(length);
            sample.sequences.push(ids);
        }
    }
    Ok(sample)
}

/// `count` of the sequences, drawn, in the order that they had; all if there are no more.
fn choose(sequences: Vec<Vec<u32>>, count: usize, random: &mut Pcg64) -> Vec<Vec<u32>> {
    if sequences.len() <= count {
        return sequences;
    }
    let mut places: Vec<usize> = (0..sequences.len()).collect();
    shuffle(&mut places, random);
    let mut is_taken = vec![false; sequences.len()];
    places[..count].iter().for_each(|&place| is_taken[place] = true);
    sequences.into_iter().zip(is_taken).filter_map(|(sequence, is_taken)| is_taken.then_some(sequence)).collect()
}

/// Fisher and Yates' shuffle. Written here because a set's hash must outlive the versions of a library's shuffle.
fn shuffle<T>(items: &mut [T], random: &mut Pcg64) {
    for last in (1..items.len()).rev() {
        let other = ((u128::from(random.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        items.swap(last, other);
    }
}
