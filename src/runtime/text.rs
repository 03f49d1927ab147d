//! From produced token ids to text: when a stop string ends it, and how much of it may already be shown.

use super::RuntimeError;
use crate::companions::Tokenizer;

/// Tokens beyond those of a stop string in which lm-evaluation-harness looks for it.
const MORE: usize = 2;

/// One row's text while it is produced.
pub(super) struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Text of `ids[..read]` came out so far; decoding starts at `window`, because what a token adds depends on the
    /// tokens before it (a sentencepiece space, the rest of a character).
    window: usize,
    read: usize,
    stops: StopSearch<'a>,
    /// Once a special token was produced: how many tokens back each stop string is looked for in text with special tokens.
    lookback: Option<Vec<usize>>,
}

impl<'a> TextStream<'a> {
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> TextStream<'a> {
        TextStream { tokenizer, ids: Vec::new(), window: 0, read: 0, stops: StopSearch::new(stops), lookback: None }
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Takes the next token; whether a stop string is complete now.
    pub fn push(&mut self, id: u32) -> Result<bool, RuntimeError> {
        self.ids.push(id);
        if self.lookback.is_none() && self.tokenizer.is_special(id) {
            let length = |stop: &String| Ok(self.tokenizer.encode(stop, false)?.len() + MORE);
            self.lookback = Some(self.stops.stops.iter().map(length).collect::<Result<_, RuntimeError>>()?);
        }
        let is_complete = self.push_text()?;
        if is_complete && self.tokenizer.is_special(id) {
            self.ids.pop();
        }
        Ok(is_complete)
    }

    fn push_text(&mut self) -> Result<bool, RuntimeError> {
        if self.ends_among_special()? {
            return Ok(true);
        }
        let known = decode(self.tokenizer, &self.ids[self.window..self.read])?;
        let text = decode(self.tokenizer, &self.ids[self.window..])?;
        // The replacement character at the end: the token ends inside a character, wait for its other bytes.
        if text.len() <= known.len() || text.ends_with('\u{fffd}') {
            return Ok(false);
        }
        self.window = self.read;
        self.read = self.ids.len();
        Ok(self.stops.push(text.get(known.len()..).unwrap_or_default()))
    }

    /// Whether the last tokens hold a stop string in text with special tokens, where lm-evaluation-harness looks for it
    /// (`MultiTokenEOSCriteria`). Without special tokens that is the text which is searched anyway.
    fn ends_among_special(&self) -> Result<bool, RuntimeError> {
        let Some(lookback) = &self.lookback else { return Ok(false) };
        for (stop, tokens) in self.stops.stops.iter().zip(lookback).filter(|(stop, _)| !stop.is_empty()) {
            let last = &self.ids[self.ids.len().saturating_sub(*tokens)..];
            if self.tokenizer.decode(last, false)?.contains(stop.as_str()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// New text that no stop string can take back.
    pub fn show(&mut self) -> &str {
        self.stops.show()
    }

    /// The ids, the whole text cut before the stop strings, and the part of it that was not shown yet.
    pub fn finish(self) -> Result<(Vec<u32>, String, String), RuntimeError> {
        let text = cut(decode(self.tokenizer, &self.ids)?, self.stops.stops);
        let rest = text.get(self.stops.shown..).unwrap_or_default().to_owned();
        Ok((self.ids, text, rest))
    }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, RuntimeError> {
    Ok(tokenizer.decode(ids, true)?)
}

/// `text.split(stop)[0]` for one stop string after the other, as lm-evaluation-harness cuts an answer.
fn cut(mut text: String, stops: &[String]) -> String {
    for stop in stops.iter().filter(|stop| !stop.is_empty()) {
        if let Some(end) = text.find(stop.as_str()) {
            text.truncate(end);
        }
    }
    text
}

/// Looks for stop strings in a text that grows.
struct StopSearch<'a> {
    stops: &'a [String],
    text: String,
    shown: usize,
}

impl<'a> StopSearch<'a> {
    fn new(stops: &'a [String]) -> StopSearch<'a> {
        StopSearch { stops, text: String::new(), shown: 0 }
    }

    fn stops(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.stops.iter().map(String::as_str).filter(|stop| !stop.is_empty())
    }

    /// Adds text; whether it now contains a stop string.
    fn push(&mut self, piece: &str) -> bool {
        let before = self.text.len();
        self.text.push_str(piece);
        self.stops().any(|stop| {
            // A new occurrence ends in the new piece.
            let from = self.text.floor_char_boundary((before + 1).saturating_sub(stop.len()));
            self.text[from..].contains(stop)
        })
    }

    /// Text since the last call that is in front of every stop string and of every end that may become one.
    fn show(&mut self) -> &str {
        let first = self.stops().filter_map(|stop| self.text.find(stop)).min().unwrap_or(self.text.len());
        let open = self.stops().map(|stop| self.text.len() - open_end(&self.text, stop)).min().unwrap_or(self.text.len());
        let end = first.min(open).max(self.shown);
        let start = std::mem::replace(&mut self.shown, end);
        &self.text[start..end]
    }
}

/// Length of the longest end of `text` that is a proper beginning of `stop`.
fn open_end(text: &str, stop: &str) -> usize {
    let beginnings = stop.char_indices().skip(1).map(|(length, _)| length);
    beginnings.filter(|&length| text.ends_with(&stop[..length])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::decoders::byte_fallback::ByteFallback;
    use tokenizers::decoders::byte_level::ByteLevel;
    use tokenizers::decoders::fuse::Fuse;
    use tokenizers::decoders::sequence::Sequence;
    use tokenizers::decoders::strip::Strip;
    use tokenizers::models::wordlevel::WordLevel;
    use tokenizers::normalizers::Replace;

    fn words(vocabulary: &[&str]) -> tokenizers::Tokenizer {
        let vocab = vocabulary.iter().zip(0..).map(|(word, id)| (word.to_string(), id)).collect();
        let model = WordLevel::builder().vocab(vocab).unk_token(vocabulary[0].to_owned()).build().unwrap();
        tokenizers::Tokenizer::new(model)
    }

    /// Byte-level BPE's alphabet: `Ġ` is a space, `Ċ` a newline, `ð ŀ ĺ Ģ` the four bytes of 😀.
    fn byte_level() -> Tokenizer {
        let mut tokenizer = words(&["Yes", "Ġno", "Ċ", "Q", ":", "ðŁĺ", "Ģ", "Ã", "©"]);
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.into()
    }

    /// Llama 2's decoder: `▁` is a space, the first one is stripped, `<0x..>` are bytes.
    fn sentencepiece() -> Tokenizer {
        let mut tokenizer = words(&["▁white", "▁cat", "<0x0A>", "<0xC3>", "<0xA9>", "Q:"]);
        tokenizer.with_decoder(Some(Sequence::new(vec![
            Replace::new("▁", " ").unwrap().into(),
            ByteFallback::default().into(),
            Fuse::default().into(),
            Strip::new(' ', 1, 0).into(),
        ])));
        tokenizer.into()
    }

    /// Pieces shown after each token, whether each token completed a stop string, and the final text.
    fn stream(tokenizer: &Tokenizer, ids: &[u32], stops: &[String]) -> (Vec<String>, Vec<bool>, String) {
        let mut stream = TextStream::new(tokenizer, stops);
        let (mut pieces, mut stopped) = (Vec::new(), Vec::new());
        for &id in ids {
            stopped.push(stream.push(id).unwrap());
            pieces.push(stream.show().to_owned());
        }
        let (_, text, rest) = stream.finish().unwrap();
        pieces.push(rest);
        (pieces, stopped, text)
    }

    #[test]
    fn a_character_is_shown_when_its_last_byte_is_there() {
        let (pieces, _, text) = stream(&byte_level(), &[0, 5, 6, 7, 8], &[]);
        assert_eq!(pieces, ["Yes", "", "😀", "", "é", ""]);
        assert_eq!(text, "Yes😀é");
    }

    #[test]
    fn half_a_character_at_the_end_is_what_hugging_face_prints() {
        let (pieces, _, text) = stream(&byte_level(), &[0, 7], &[]);
        assert_eq!(text, "Yes\u{fffd}");
        assert_eq!(pieces, ["Yes", "", "\u{fffd}"]);
    }

    #[test]
    fn a_stop_string_over_several_tokens_is_never_shown() {
        let stops = ["\nQ:".to_owned()];
        let (pieces, stopped, text) = stream(&byte_level(), &[0, 1, 2, 3, 4], &stops);
        assert_eq!(pieces, ["Yes", " no", "", "", "", ""]);
        assert_eq!(stopped, [false, false, false, false, true]);
        assert_eq!(text, "Yes no");
    }

    #[test]
    fn a_beginning_of_a_stop_string_that_goes_another_way_is_shown_late() {
        let stops = ["\nQ:".to_owned()];
        let (pieces, stopped, text) = stream(&byte_level(), &[0, 2, 3, 0, 2], &stops);
        assert_eq!(pieces, ["Yes", "", "", "\nQYes", "", "\n"]);
        assert_eq!(stopped, [false; 5]);
        assert_eq!(text, "Yes\nQYes\n");
    }

    #[test]
    fn the_sentencepiece_space_is_dropped_only_at_the_beginning() {
        let stops = ["\nQ:".to_owned()];
        let (pieces, stopped, text) = stream(&sentencepiece(), &[0, 1, 3, 4, 2, 5], &stops);
        assert_eq!(pieces, ["white", " cat", "", "é", "", "", ""]);
        assert_eq!(stopped, [false, false, false, false, false, true]);
        assert_eq!(text, "white caté");
    }

    #[test]
    fn stop_strings_cut_one_after_the_other() {
        let stops = ["\nQ".to_owned(), "a\n".to_owned(), String::new()];
        assert_eq!(cut("xa\nQ".to_owned(), &stops), "xa");
        assert_eq!(cut("a\nb\nQ".to_owned(), &stops), "");
    }

    proptest! {
        #[test]
        fn shown_pieces_make_up_the_text_and_stops_are_found_at_once(
            ids in prop::collection::vec(0u32..9, 0..20),
            stops in prop::collection::vec("[a-zA-Z\nQ:]{0,3}", 0..3),
        ) {
            let tokenizer = byte_level();
            let (pieces, stopped, text) = stream(&tokenizer, &ids, &stops);
            let whole = tokenizer.decode(&ids, true).unwrap();
            prop_assert_eq!(pieces.concat(), text.clone());
            prop_assert_eq!(&text, &cut(whole.clone(), &stops));
            prop_assert_eq!(stopped.contains(&true), stops.iter().any(|stop| !stop.is_empty() && whole.contains(stop.as_str())));
        }
    }
}
