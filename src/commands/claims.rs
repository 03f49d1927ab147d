//! What the name of a protocol claims: that lm-evaluation-harness's hf model, given the same files, would read and write the
//! same texts. What Hugging Face would do and this program does not is refused under that name, and noted under any other.

use std::path::Path;

use crate::commands::CommandError;
use crate::companions::{Companions, GenerationSettings, Rebuilt, Tokenizer};
use crate::eval::coqa::protocol::Story;
use crate::eval::coqa::{Dataset, Protocol};
use crate::host::shown;
use crate::usage::UsageError;

/// Notes on what of the files in `dir` changes answers to the first `limit` questions.
///
/// # Errors
/// Something is not followed and `protocol` claims that it is.
pub fn notes(dir: &Path, companions: &Companions, asked: &Asked<'_>) -> Result<Vec<String>, CommandError> {
    let context = of_context(companions, asked.protocol)?;
    let tokens = of_tokenizer(dir, &companions.tokenizer, asked)?;
    Ok(of_decoding(&companions.generation, asked.protocol)?.into_iter().chain(context).chain(tokens).collect())
}

/// Questions, and in what form they are asked.
pub struct Asked<'a> {
    pub dataset: &'a Dataset,
    pub protocol: &'a Protocol,
    pub limit: Option<usize>,
}

impl Asked<'_> {
    /// Prompts that have all others in them: the last of each conversation, every one that was made elsewhere.
    fn prompts(&self) -> Vec<String> {
        let mut left = self.limit.unwrap_or(usize::MAX);
        let asked = |story: Story| {
            let within = story.questions.len().min(left);
            left -= within;
            let first = match self.dataset {
                Dataset::Conversations(_) => within.saturating_sub(1),
                Dataset::Prompts(_) => 0,
            };
            story.questions.into_iter().take(within).skip(first).map(|question| question.prompt).collect::<Vec<_>>()
        };
        self.protocol.stories(self.dataset).into_iter().flat_map(asked).collect()
    }
}

/// What lm-evaluation-harness takes for the context where that is not the model's own: `n_positions` of config.json.
pub fn harness_context(companions: &Companions, protocol: &Protocol) -> Option<usize> {
    companions.harness_context.filter(|_| *protocol == Protocol::LM_EVAL)
}

fn of_context(companions: &Companions, protocol: &Protocol) -> Result<Option<String>, UsageError> {
    let Some(context) = harness_context(companions, protocol) else { return Ok(None) };
    let new = protocol.max_new_tokens;
    if context <= new {
        return Err(UsageError::HarnessContext { context, new });
    }
    Ok(Some(format!(
        "prompts were cut as for a context of {context} tokens, config.json's n_positions, as lm-evaluation-harness does"
    )))
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
fn of_tokenizer(dir: &Path, own: &Tokenizer, asked: &Asked<'_>) -> Result<Option<String>, CommandError> {
    let Some(rebuilt) = Rebuilt::read(dir)? else { return Ok(None) };
    for prompt in asked.prompts() {
        let how = match rebuilt.agrees(own, &prompt)? {
            Some(true) => continue,
            Some(false) => "reads these prompts otherwise than tokenizer.json",
            None => "is not known to read these prompts as tokenizer.json does",
        };
        let class = shown(&rebuilt.class).to_string();
        if *asked.protocol == Protocol::LM_EVAL {
            return Err(UsageError::TokenizerNotFollowed { class, how }.into());
        }
        return Ok(Some(format!("transformers builds the tokenizer anew as {class}, which {how}; tokenizer.json was followed")));
    }
    Ok(None)
}
