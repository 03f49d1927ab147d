//! Which token follows: the one with the largest score, after what `generation_config.json` does to the scores. The
//! processors are those of `transformers.generation.logits_process` (5.17.0), in the order of
//! `GenerationMixin._get_logits_processor`.

use crate::companions::{Choosing, SequenceBias};

/// What a run of the model says about a row's next token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Choice {
    /// It has the largest score.
    Token(u32),
    /// The largest score is NaN or infinite.
    NotANumber,
    /// The scores, `[vocab_size]`, for whoever has more to say than which is the largest.
    Scores(Vec<f32>),
}

impl Choice {
    /// What the graph's `next_tokens` holds: a token, or less than 0 where the largest score is no number.
    pub fn of(next: i64) -> Choice {
        // An index into the vocabulary, whose size is a u32 in config.json.
        u32::try_from(next).map_or(Choice::NotANumber, Choice::Token)
    }

    /// The token with the largest score; `None` where that is no number.
    pub fn largest(self) -> Option<u32> {
        match self {
            Choice::Token(token) => Some(token),
            Choice::NotANumber => None,
            Choice::Scores(scores) => Some(largest(&scores)).filter(|(_, score)| score.is_finite()).map(|(id, _)| id),
        }
    }
}

/// Where in its text a row is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence<'a> {
    /// Prompt and what was produced so far.
    pub ids: &'a [u32],
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Most tokens that may be produced.
    pub max_new_tokens: usize,
}

/// The greedy next token of `sequence`, whose unchanged scores are `scores` `[vocab_size]`; `None` where the largest score is
/// no number.
pub(super) fn next_token(how: &Choosing, eos: &[u32], scores: &mut [f32], sequence: Sequence<'_>) -> Option<u32> {
    if scores.iter().any(|score| score.is_nan()) || !largest(scores).1.is_finite() {
        return None;
    }
    process(how, eos, scores, sequence);
    // The scores were numbers; where every token is forbidden the first of them is taken, as torch.argmax does.
    Some(largest(scores).0)
}

/// The first of the largest scores, and where it is.
fn largest(scores: &[f32]) -> (u32, f32) {
    let first = (0, scores.first().copied().unwrap_or(f32::NEG_INFINITY));
    (0..).zip(scores).fold(first, |best, (id, &score)| if score > best.1 { (id, score) } else { best })
}

fn process(how: &Choosing, eos: &[u32], scores: &mut [f32], sequence: Sequence<'_>) {
    let Sequence { ids, prompt, max_new_tokens } = sequence;
    let produced = ids.len() - prompt;
    for SequenceBias { ids: sequence, bias } in &how.sequence_bias {
        add_bias(sequence, *bias, scores, ids);
    }
    if let Some(penalty) = how.encoder_repetition_penalty {
        repetition_penalty(1.0 / penalty, scores, &ids[..prompt]);
    }
    if let Some(penalty) = how.repetition_penalty {
        repetition_penalty(penalty, scores, ids);
    }
    if let Some(size) = how.no_repeat_ngram_size {
        ban_ngrams(size, scores, ids, ids);
    }
    if let Some(size) = how.encoder_no_repeat_ngram_size {
        ban_ngrams(size, scores, ids, &ids[..prompt]);
    }
    for sequence in &how.bad_words_ids {
        add_bias(sequence, f32::NEG_INFINITY, scores, ids);
    }
    let too_short = how.min_length.is_some_and(|least| ids.len() < least);
    if too_short || how.min_new_tokens.is_some_and(|least| produced < least) {
        forbid(scores, eos);
    }
    if let Some(bos) = how.forced_bos_token_id.filter(|_| ids.len() == 1) {
        force(scores, &[bos]);
    }
    if !how.forced_eos_token_id.is_empty() && produced + 1 == max_new_tokens {
        force(scores, &how.forced_eos_token_id);
    }
    if let Some((start, factor)) = how.exponential_decay_length_penalty {
        grow(start, factor, scores, eos, produced);
    }
    forbid(scores, &how.suppress_tokens);
    // A forced first token comes before the answer's own first.
    let begins = if prompt > 1 || how.forced_bos_token_id.is_none() { 0 } else { 1 };
    if produced == begins {
        forbid(scores, &how.begin_suppress_tokens);
    }
}

fn forbid(scores: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn force(scores: &mut [f32], ids: &[u32]) {
    scores.fill(f32::NEG_INFINITY);
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = 0.0;
        }
    }
}

/// SequenceBiasLogitsProcessor: adds to the score of a sequence's last token where the tokens before it are the others.
fn add_bias(sequence: &[u32], bias: f32, scores: &mut [f32], ids: &[u32]) {
    let Some((last, others)) = sequence.split_last() else { return };
    // A sequence as long as the text is looked for, one that is longer is not.
    let fits = others.is_empty() || (sequence.len() <= ids.len() && ids.ends_with(others));
    if let Some(score) = scores.get_mut(*last as usize).filter(|_| fits) {
        *score += bias;
    }
}

/// RepetitionPenaltyLogitsProcessor: the score of each token of `seen` divided by the penalty, or multiplied where it is
/// below 0; once, however often the token is there.
fn repetition_penalty(penalty: f32, scores: &mut [f32], seen: &[u32]) {
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// NoRepeatNGramLogitsProcessor: forbids what would end an n-gram that `seen` has.
fn ban_ngrams(size: usize, scores: &mut [f32], ids: &[u32], seen: &[u32]) {
    if ids.len() < size {
        return;
    }
    let suffix = &ids[ids.len() + 1 - size..];
    for window in seen.windows(size).filter(|window| window[..size - 1] == *suffix) {
        forbid(scores, &window[size - 1..]);
    }
}

/// ExponentialDecayLengthPenalty: raises the scores of what ends an answer, the more the longer it is.
fn grow(start: usize, factor: f32, scores: &mut [f32], eos: &[u32], produced: usize) {
    let Some(beyond) = produced.checked_sub(start).filter(|&beyond| beyond > 0) else { return };
    let growth = (f64::from(factor).powi(i32::try_from(beyond).unwrap_or(i32::MAX)) - 1.0) as f32;
    for &id in eos {
        if let Some(score) = scores.get_mut(id as usize) {
            *score += score.abs() * growth;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 5] = [1.0, 4.0, 3.0, -1.0, 2.0];

    fn chosen(how: Choosing, ids: &[u32], prompt: usize) -> Option<u32> {
        next_token(&how, &[1], &mut SCORES.clone(), Sequence { ids, prompt, max_new_tokens: 4 })
    }

    fn scores(how: Choosing, ids: &[u32], prompt: usize) -> [f32; 5] {
        let mut scores = SCORES;
        process(&how, &[1], &mut scores, Sequence { ids, prompt, max_new_tokens: 4 });
        scores
    }

    const NO: f32 = f32::NEG_INFINITY;

    #[test]
    fn the_first_of_the_largest_is_taken_and_no_number_is_not() {
        assert_eq!(chosen(Choosing::default(), &[0], 1), Some(1));
        let plain = |mut scores: [f32; 3]| {
            let sequence = Sequence { ids: &[0], prompt: 1, max_new_tokens: 4 };
            next_token(&Choosing::default(), &[], &mut scores, sequence)
        };
        assert_eq!(plain([2.0, 2.0, 1.0]), Some(0));
        assert_eq!(plain([1.0, f32::NAN, 0.0]), None);
        assert_eq!(plain([1.0, f32::INFINITY, 0.0]), None);
    }

    #[test]
    fn seen_tokens_are_penalized_once() {
        let how = Choosing { repetition_penalty: Some(2.0), ..Choosing::default() };
        assert_eq!(scores(how, &[1, 3, 1], 2), [1.0, 2.0, 3.0, -2.0, 2.0]);
        let how = Choosing { encoder_repetition_penalty: Some(2.0), ..Choosing::default() };
        assert_eq!(scores(how, &[1, 3, 2], 2), [1.0, 8.0, 3.0, -0.5, 2.0]);
    }

    #[test]
    fn an_ngram_does_not_come_twice() {
        let how = |size| Choosing { no_repeat_ngram_size: Some(size), ..Choosing::default() };
        assert_eq!(scores(how(2), &[4, 1, 4], 1), [1.0, NO, 3.0, -1.0, 2.0]);
        assert_eq!(scores(how(1), &[1, 2], 1), [1.0, NO, NO, -1.0, 2.0]);
        assert_eq!(scores(how(3), &[4, 1], 1), SCORES);
        let how = Choosing { encoder_no_repeat_ngram_size: Some(2), ..Choosing::default() };
        assert_eq!(scores(how.clone(), &[4, 1, 4], 1), SCORES);
        assert_eq!(scores(how, &[4, 1, 4], 2), [1.0, NO, 3.0, -1.0, 2.0]);
    }

    #[test]
    fn words_are_biased_and_forbidden_behind_their_beginnings() {
        let sequence = |ids: &[u32], bias| SequenceBias { ids: ids.to_vec(), bias };
        let how = Choosing {
            sequence_bias: vec![sequence(&[0], 0.5), sequence(&[3, 4], 1.5), sequence(&[2, 2], 9.0)],
            bad_words_ids: vec![vec![1], vec![0, 3, 2]],
            ..Choosing::default()
        };
        assert_eq!(scores(how, &[0, 3], 1), [1.5, NO, 3.0, -1.0, 3.5]);
    }

    #[test]
    fn an_answer_has_its_length() {
        let how = Choosing { min_new_tokens: Some(2), ..Choosing::default() };
        assert_eq!((chosen(how.clone(), &[0, 2], 1), chosen(how, &[0, 2, 2], 1)), (Some(2), Some(1)));
        let how = Choosing { min_length: Some(3), ..Choosing::default() };
        assert_eq!((chosen(how.clone(), &[0, 2], 1), chosen(how, &[0, 2, 2], 1)), (Some(2), Some(1)));
        let how = Choosing { forced_eos_token_id: vec![3], ..Choosing::default() };
        assert_eq!((chosen(how.clone(), &[0, 2, 2], 1), chosen(how, &[0, 2, 2, 2], 1)), (Some(1), Some(3)));
        let how = Choosing { exponential_decay_length_penalty: Some((1, 2.0)), ..Choosing::default() };
        assert_eq!(scores(how.clone(), &[0, 2], 1), SCORES);
        assert_eq!(scores(how, &[0, 2, 2, 2], 1), [1.0, 16.0, 3.0, -1.0, 2.0]);
    }

    #[test]
    fn beginnings_are_forced_and_suppressed() {
        let how = Choosing { suppress_tokens: vec![1, 99], begin_suppress_tokens: vec![2], ..Choosing::default() };
        assert_eq!((chosen(how.clone(), &[0], 1), chosen(how, &[0, 4], 1)), (Some(4), Some(2)));
        let how = Choosing { forced_bos_token_id: Some(3), begin_suppress_tokens: vec![1], ..Choosing::default() };
        assert_eq!((chosen(how.clone(), &[0], 1), chosen(how, &[0, 3], 1)), (Some(3), Some(2)));
    }
}
