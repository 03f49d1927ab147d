//! What the name of a protocol claims: that lm-evaluation-harness's hf model, given the same files, would read and write the
//! same texts. What Hugging Face would do and this program does not is refused under that name, and noted under any other.

use std::path::Path;

use crate::companions::{Companions, GenerationSettings, Rebuilt, Tokenizer};
use crate::eval::coqa::protocol::Story;
use crate::eval::coqa::{Dataset, Protocol};
use crate::usage::UsageError;

/// Notes on what of the files in `dir` changes answers to the first `limit` questions.
///
/// # Errors
/// Something is not followed and `protocol` claims that it is.
pub fn notes(dir: &Path, companions: &Companions, asked: &Asked<'_>) -> anyhow::Result<Vec<String>> {
    let tokens = of_tokenizer(dir, &companions.tokenizer, asked)?;
    Ok(of_decoding(&companions.generation, asked.protocol)?.into_iter().chain(tokens).collect())
}

/// Questions, and in what form they are asked.
pub struct Asked<'a> {
    pub dataset: &'a Dataset,
    pub protocol: &'a Protocol,
    pub limit: Option<usize>,
}

impl Asked<'_> {
    /// The last prompt of each story, which has the others in it.
    fn prompts(&self) -> Vec<String> {
        let mut left = self.limit.unwrap_or(usize::MAX);
        let last = |story: Story| {
            let within = story.questions.len().min(left);
            left -= within;
            story.questions.into_iter().take(within).next_back().map(|question| question.prompt)
        };
        self.protocol.stories(self.dataset).into_iter().filter_map(last).collect()
    }
}

/// What of generation_config.json changes answers.
fn of_decoding(generation: &GenerationSettings, protocol: &Protocol) -> Result<Vec<String>, UsageError> {
    let settings = generation.not_followed.join(", ");
    if !settings.is_empty() && *protocol == Protocol::LM_EVAL {
        return Err(UsageError::DecodingNotFollowed { settings });
    }
    let followed = (!generation.followed.is_empty())
        .then(|| format!("answers were made under generation_config.json's {}", generation.followed.join(", ")));
    let passed_over = (!settings.is_empty())
        .then(|| format!("generation_config.json's {settings} would change answers in Hugging Face and was not followed"));
    Ok(followed.into_iter().chain(passed_over).collect())
}

/// Whether the class that tokenizer_config.json names reads the prompts otherwise than tokenizer.json.
fn of_tokenizer(dir: &Path, own: &Tokenizer, asked: &Asked<'_>) -> anyhow::Result<Option<String>> {
    let Some(rebuilt) = Rebuilt::read(dir)? else { return Ok(None) };
    for prompt in asked.prompts() {
        if rebuilt.agrees(own, &prompt)? {
            continue;
        }
        let class = rebuilt.class;
        if *asked.protocol == Protocol::LM_EVAL {
            return Err(UsageError::TokenizerNotFollowed { class }.into());
        }
        return Ok(Some(format!(
            "transformers builds the tokenizer anew as {class} and would read these prompts otherwise; tokenizer.json was followed"
        )));
    }
    Ok(None)
}
