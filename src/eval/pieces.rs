//! The first or last token ids of a long text, without tokenizing all of it: a tokenizer takes a hundred times a text's size in
//! memory.
//!
//! Whether a token is one is decided near it, but no tokenizer says how near. So a piece is tokenized that is far longer than what
//! is wanted, and one of twice its length: where both begin with the same ids, what lies behind them did not matter. Where they do
//! not, the pieces grow until they are the whole text.

use crate::generate::GenerateError;

/// Bytes of the first piece, at least.
const LEAST_BYTES: usize = 64 << 10;

/// Bytes of the first piece for each token that is wanted. Texts have four or so.
const BYTES_A_TOKEN: usize = 32;

/// Tokens of the shorter piece that lie behind those that are wanted.
const MARGIN: usize = 64;

type Encode<'a> = dyn Fn(&str) -> Result<Vec<u32>, GenerateError> + 'a;

/// The first `count` ids that `encode` makes of `text`; all, where it makes fewer.
///
/// # Errors
/// The tokenizer's.
pub fn first(encode: &Encode<'_>, text: &str, count: usize) -> Result<Vec<u32>, GenerateError> {
    let piece = |bytes: usize| &text[..text.floor_char_boundary(bytes)];
    let mut ids = match agreed(encode, text.len(), &piece, count, |ids| ids.truncate(count))? {
        Some(ids) => ids,
        None => encode(text)?,
    };
    ids.truncate(count);
    Ok(ids)
}

/// The last `count` ids that `encode` makes of `text`, and whether there are others before them; all, where it makes fewer.
///
/// # Errors
/// The tokenizer's.
pub fn last(encode: &Encode<'_>, text: &str, count: usize) -> Result<(Vec<u32>, bool), GenerateError> {
    let piece = |bytes: usize| &text[text.ceil_char_boundary(text.len() - bytes)..];
    let cut = |ids: &mut Vec<u32>| drop(ids.drain(..ids.len().saturating_sub(count)));
    if let Some(ids) = agreed(encode, text.len(), &piece, count, cut)? {
        return Ok((ids, true));
    }
    let mut ids = encode(text)?;
    let is_cut = ids.len() > count;
    cut(&mut ids);
    Ok((ids, is_cut))
}

/// What `cut` leaves of the ids of two pieces, where that is the same; nothing where only the whole text tells.
fn agreed<'t>(
    encode: &Encode<'_>,
    length: usize,
    piece: &dyn Fn(usize) -> &'t str,
    count: usize,
    cut: impl Fn(&mut Vec<u32>),
) -> Result<Option<Vec<u32>>, GenerateError> {
    let mut bytes = count.saturating_mul(BYTES_A_TOKEN).max(LEAST_BYTES);
    while bytes.saturating_mul(2) < length {
        let (mut short, mut long) = (encode(piece(bytes))?, encode(piece(2 * bytes))?);
        let is_enough = short.len() >= count.saturating_add(MARGIN);
        cut(&mut short);
        cut(&mut long);
        if is_enough && short == long {
            return Ok(Some(long));
        }
        bytes = bytes.saturating_mul(4);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use tokenizers::Tokenizer;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa/tokenizer.json");
        Tokenizer::from_file(path).expect("the fixture's tokenizer")
    }

    /// Encodes with the special tokens, and counts the bytes.
    fn counted<'a>(tokenizer: &'a Tokenizer, bytes: &'a Cell<usize>) -> impl Fn(&str) -> Result<Vec<u32>, GenerateError> + 'a {
        move |text| {
            bytes.set(bytes.get() + text.len());
            Ok(tokenizer.encode_fast(text, true).expect("encodes").get_ids().to_vec())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn ids_are_those_of_the_whole_text(words in prop::collection::vec("[a-zA-Zé小 \\n.,'0-9]{1,12}", 200..400), repeat in 1usize..120, count in 1usize..3000) {
            let (tokenizer, bytes) = (tokenizer(), Cell::new(0));
            let text = words.concat().repeat(repeat);
            let encode = counted(&tokenizer, &bytes);
            let all = encode(&text).expect("encodes");
            let expected = &all[..count.min(all.len())];
            prop_assert_eq!(first(&encode, &text, count).expect("encodes"), expected);
            let from = all.len().saturating_sub(count);
            prop_assert_eq!(last(&encode, &text, count).expect("encodes"), (all[from..].to_vec(), from > 0));
        }
    }

    #[test]
    fn of_a_long_text_only_pieces_are_tokenized() {
        let (tokenizer, bytes) = (tokenizer(), Cell::new(0));
        let encode = counted(&tokenizer, &bytes);
        let text = "The cat sat on the mat, and nobody knew why it did. ".repeat(100_000);
        let [begin, end] = [&text[..1 << 20], &text[text.len() - (1 << 20)..]];
        let tokens = |text: &str| tokenizer.encode_fast(text, true).expect("encodes").get_ids().to_vec();
        assert_eq!(first(&encode, &text, 100).expect("encodes"), tokens(begin)[..100]);
        let end = tokens(end);
        assert_eq!(last(&encode, &text, 100).expect("encodes"), (end[end.len() - 100..].to_vec(), true));
        assert_eq!(bytes.get(), 6 * LEAST_BYTES, "two pieces each, of {} bytes", text.len());
    }

    #[test]
    fn a_text_without_a_cut_is_tokenized_whole() {
        // Each id depends on all that comes behind it.
        let encode = |text: &str| Ok((0..text.len() as u32).map(|at| text.len() as u32 - at).collect());
        let text = "x".repeat(10 * LEAST_BYTES);
        assert_eq!(first(&encode, &text, 2).expect("encodes"), [text.len() as u32, text.len() as u32 - 1]);
    }
}
