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

/// The ids of a document, whose number, from 1, is for messages.
pub(super) type Encode<'a> = dyn Fn(&Document, usize) -> Result<Vec<u32>, SetError> + 'a;

/// Takes the set's sequences from its documents.
pub(super) fn sample(documents: Vec<Document>, set: &SetFile, encode: &Encode<'_>) -> Result<Sample, SetError> {
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
    encode: &Encode<'_>,
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
    encode: &Encode<'_>,
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
fn separate(documents: &[(usize, Document)], samples: usize, length: usize, encode: &Encode<'_>) -> Result<Sample, SetError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(form: &str, more: &str) -> SetFile {
        let text = format!("source.file = \"f\"\nlicence = \"x\"\nform = \"{form}\"\n{more}");
        SetFile::parse("t", &text).expect("valid")
    }

    /// Document n has the ids 100n, 100n + 1, ….
    fn document(number: u32, length: u32) -> Document {
        Document::Ids((100 * number..100 * number + length).collect())
    }

    fn ids(document: &Document, _: usize) -> Result<Vec<u32>, SetError> {
        match document {
            Document::Ids(ids) => Ok(ids.clone()),
            _ => panic!("ids"),
        }
    }

    fn sequences(documents: &[Document], set: &SetFile) -> Vec<Vec<u32>> {
        sample(documents.to_vec(), set, &ids).expect("samples").sequences
    }

    #[test]
    fn packed_documents_follow_each_other_and_nothing_comes_twice() {
        let documents: Vec<Document> = (1..=20).map(|number| document(number, 5 + number % 3)).collect();
        let found = sequences(&documents, &set("text", "samples = 8\nlength = 7"));
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [7; 8]);
        let stream = found.concat();
        let mut unique = stream.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), stream.len());
        let in_a_row = |pair: &[u32]| pair[1] == pair[0] + 1;
        let breaks: Vec<&[u32]> = stream.windows(2).filter(|pair| !in_a_row(pair)).collect();
        let whole = |id: u32| documents.iter().any(|document| ids(document, 0).expect("ids").last() == Some(&id));
        assert!(breaks.iter().all(|pair| whole(pair[0]) && pair[1] % 100 == 0), "a document is left only at its end: {stream:?}");
        assert!(stream[0] > 200, "documents are drawn, not taken from the front: {stream:?}");
    }

    #[test]
    fn sequences_of_one_long_document_are_drawn_from_all_of_it() {
        let found = sequences(&[Document::Ids((0..10_000).collect())], &set("text", "samples = 10\nlength = 10"));
        assert!(found.is_sorted() && found.iter().all(|sequence| sequence[0] % 10 == 0 && sequence[9] == sequence[0] + 9));
        assert!(found[0][0] > 100 || found[9][0] > 5_000, "{found:?}");
        assert!(found.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn separate_documents_lose_their_ends_and_short_ones_are_counted() {
        let documents: Vec<Document> = (1..=9).map(|number| document(number, number)).collect();
        let all = set("text", "packing = \"documents\"\nsamples = 9\nlength = 4");
        let found = sample(documents.clone(), &all, &ids).expect("samples");
        assert_eq!(found.too_short, 3);
        let mut firsts: Vec<u32> = found.sequences.iter().map(|sequence| sequence[0]).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [400, 500, 600, 700, 800, 900]);
        assert!(found.sequences.iter().all(|sequence| sequence.len() == 4 && sequence[3] == sequence[0] + 3));
        let two = set("text", "packing = \"documents\"\nsamples = 2\nlength = 4");
        assert_eq!(sequences(&documents, &two), found.sequences[..2]);
    }

    #[test]
    fn ids_are_as_they_are_unless_a_number_or_a_length_is_given() {
        let documents = [document(1, 3), document(2, 5), document(3, 1), document(4, 4)];
        let found = sample(documents.to_vec(), &set("ids", ""), &ids).expect("samples");
        assert_eq!((found.sequences.iter().map(|s| s[0]).collect::<Vec<_>>(), found.too_short), (vec![100, 200, 400], 1));
        let found = sample(documents.to_vec(), &set("ids", "length = 4"), &ids).expect("samples");
        assert_eq!((found.sequences, found.too_short), (vec![vec![200, 201, 202, 203], vec![400, 401, 402, 403]], 2));
        let two = sequences(&documents, &set("ids", "samples = 2"));
        assert!(two.len() == 2 && two.is_sorted(), "{two:?}");
    }

    #[test]
    fn the_seed_decides() {
        let documents: Vec<Document> = (1..=50).map(|number| document(number, 10)).collect();
        let of = |seed: u64| sequences(&documents, &set("text", &format!("samples = 5\nlength = 20\nseed = {seed}")));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn a_shuffle_is_fair() {
        let mut random = Pcg64::seed_from_u64(3);
        let mut counts = [[0usize; 4]; 4];
        for _ in 0..40_000 {
            let mut items = [0, 1, 2, 3];
            shuffle(&mut items, &mut random);
            items.iter().enumerate().for_each(|(place, &item)| counts[place][item] += 1);
        }
        // 10 000 ± 5 standard deviations of 87.
        assert!(counts.iter().flatten().all(|&count| count.abs_diff(10_000) < 435), "{counts:?}");
    }
}
