//! Prompts of an exact length in tokens.

use crate::generate::{GenerateError, Steps};

/// Plain words, repeated as often as it takes; what they say changes no time.
const WORDS: &str = "the keeper of the old lighthouse wrote down every ship that passed and what the weather was like on that day \
                     because her father had done so before her and because nobody else on the island could read the sea";

/// A text and what a batch of prompts is made of.
pub struct Prompt {
    /// The shortest beginning of the words that has as many tokens.
    pub text: String,
    /// Exactly as many tokens as were asked for.
    pub ids: Vec<u32>,
}

impl Prompt {
    /// A prompt of `tokens` tokens, special ones included.
    ///
    /// # Errors
    /// The tokenizer fails, or makes nothing of the words.
    pub fn of(model: &impl Steps, tokens: usize) -> Result<Prompt, GenerateError> {
        // Few tokenizers join words: a text of as many words has as many tokens.
        let (mut enough, mut too_few) = (tokens, 0);
        while enough - too_few > 1 {
            let words = (too_few + enough) / 2;
            if model.encode(&text(words))?.len() < tokens { too_few = words } else { enough = words }
        }
        let text = text(enough);
        let ids = model.encode(&text)?;
        if ids.is_empty() {
            return Err(GenerateError::EmptyPrompt { row: 0 });
        }
        Ok(Prompt { ids: ids.iter().copied().cycle().take(tokens).collect(), text })
    }

    /// Rows that begin alike and go on at different places of the text.
    pub fn rows(&self, batch: usize) -> Vec<Vec<u32>> {
        let row = |row: usize| {
            let mut ids = self.ids.clone();
            let rest = &mut ids[1..];
            rest.rotate_left(row % rest.len().max(1));
            ids
        };
        (0..batch).map(row).collect()
    }
}

fn text(words: usize) -> String {
    WORDS.split(' ').cycle().take(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fake::Scripted;

    #[test]
    fn a_prompt_has_as_many_tokens_as_were_asked_for() {
        // The fake puts a token 1 before one token a word.
        let model = Scripted::new();
        let prompt = Prompt::of(&model, 5).unwrap();
        assert_eq!(prompt.text, "the keeper of the");
        assert_eq!(prompt.ids, [1, 3, 6, 2, 3]);
        assert_eq!(prompt.rows(3), [[1, 3, 6, 2, 3], [1, 6, 2, 3, 3], [1, 2, 3, 3, 6]]);
        assert_eq!(Prompt::of(&model, 1).unwrap().ids, [1]);
        assert_eq!(Prompt::of(&model, 1).unwrap().rows(2), [[1], [1]]);
    }
}
