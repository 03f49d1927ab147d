//! Asks a model every question of a protocol, story by story, and writes a line for each answer.

use std::time::Instant;

use super::data::Dataset;
use super::lines::{AnswerLog, QuestionLine};
use super::protocol::{Protocol, Question, Story};
use super::report::{CoqaReport, report};
use crate::eval::error::EvalError;
use crate::eval::pieces;
use crate::eval::score::score_answer;
use crate::generate::{Completion, Generate, GenerateOptions, StopReason};

/// How to run.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Ask only the first so many questions (whole stories: the last story is cut).
    pub limit: Option<usize>,
    /// Prompts a call. Stories go whole into one call: stories are added while they fit, a longer one goes alone.
    pub batch: usize,
    /// Text of the tokenizer's end-of-sequence token, which HFLM adds to the stop strings.
    pub eos: Option<String>,
    /// Most tokens of an answer where the model's generation config has its own; the protocol's otherwise. Prompts are cut
    /// to leave room for the protocol's number all the same, as HFLM does.
    pub max_new_tokens: Option<usize>,
    /// Positions that prompts are cut to, room for the protocol's answer included, where they are not the model's context.
    pub context: Option<usize>,
    /// What the lines call the model, e.g. the artifact's hash.
    pub model: String,
}

/// How far a run is, scores so far included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    pub done: usize,
    pub total: usize,
    /// Running means over the `done` questions, 0 before the first.
    pub f1: f64,
    pub em: f64,
}

/// Asks what `log` has no answer to yet, appends the answers to it, and sums up all answers to this run's questions.
///
/// `progress` is called once before the first call to the model and after each. Lines are written call by call, so a run that
/// is stopped loses one call at most.
///
/// # Errors
/// [`EvalError::OtherRun`] if `log` has lines of another model, protocol or data; errors of the model and of the disk.
pub fn evaluate(
    model: &mut dyn Generate,
    dataset: &Dataset,
    protocol: &Protocol,
    options: &EvaluateOptions,
    log: &mut AnswerLog,
    progress: &mut dyn FnMut(Progress),
) -> Result<CoqaReport, EvalError> {
    let stories = protocol.stories(dataset);
    let questions: Vec<&Question> = stories.iter().flat_map(|story| &story.questions).collect();
    let answered = log.answered(&questions, protocol, &options.model, options.eos.as_deref())?;
    let wanted = &questions[..options.limit.unwrap_or(usize::MAX).min(questions.len())];
    let open = |question: &Question| !answered.contains_key(&(question.id.clone(), question.turn_id));
    let asked = wanted.iter().filter(|question| open(question)).count();

    let mut tally = Tally::new(wanted.len());
    for question in wanted.iter().filter(|question| !open(question)) {
        tally.add(&log.lines()[answered[&(question.id.clone(), question.turn_id)]]);
    }
    progress(tally.progress());
    let mut seconds = 0.0;
    for call in calls(&stories, wanted.len(), options.batch, open) {
        let lines = ask(model, &call, protocol, options)?;
        seconds += lines.iter().map(|line| line.seconds).sum::<f64>();
        lines.iter().for_each(|line| tally.add(line));
        log.append(lines)?;
        progress(tally.progress());
    }

    let position = log.answered(&questions, protocol, &options.model, options.eos.as_deref())?;
    let lines: Vec<&QuestionLine> =
        wanted.iter().map(|question| &log.lines()[position[&(question.id.clone(), question.turn_id)]]).collect();
    Ok(report(&lines, protocol, asked, seconds))
}

/// Running sums for [`Progress`].
struct Tally {
    done: usize,
    total: usize,
    f1_sum: f64,
    em_sum: f64,
}

impl Tally {
    fn new(total: usize) -> Tally {
        Tally { done: 0, total, f1_sum: 0.0, em_sum: 0.0 }
    }

    fn add(&mut self, line: &QuestionLine) {
        self.done += 1;
        self.f1_sum += line.f1;
        self.em_sum += line.em;
    }

    fn progress(&self) -> Progress {
        let count = self.done.max(1) as f64;
        Progress { done: self.done, total: self.total, f1: self.f1_sum / count, em: self.em_sum / count }
    }
}

/// The open questions among the first `limit`, cut into calls of at most `batch` prompts without splitting a story.
fn calls(stories: &[Story], limit: usize, batch: usize, open: impl Fn(&Question) -> bool) -> Vec<Vec<&Question>> {
    let mut calls: Vec<Vec<&Question>> = Vec::new();
    let mut left = limit;
    for story in stories {
        let within = story.questions.len().min(left);
        left -= within;
        let story: Vec<&Question> = story.questions[..within].iter().filter(|question| open(question)).collect();
        match calls.last_mut() {
            Some(call) if call.len() + story.len() <= batch => call.extend(story),
            _ if story.is_empty() => {}
            _ => calls.push(story),
        }
    }
    calls
}

/// One call to the model and the lines of its answers.
fn ask(
    model: &mut dyn Generate,
    questions: &[&Question],
    protocol: &Protocol,
    options: &EvaluateOptions,
) -> Result<Vec<QuestionLine>, EvalError> {
    let start = Instant::now();
    let context = options.context.unwrap_or(model.context_length());
    let prompts = encode_prompts(model, questions, context, protocol.max_new_tokens)?;
    let (ids, truncated): (Vec<Vec<u32>>, Vec<bool>) = prompts.into_iter().unzip();
    let wanted = options.max_new_tokens.unwrap_or(protocol.max_new_tokens);
    let room = model.context_length().saturating_sub(ids.iter().map(Vec::len).max().unwrap_or(0));
    let max_new_tokens = wanted.min(room);
    let generate = GenerateOptions { max_new_tokens, stop: protocol.stop(options.eos.as_deref()) };
    let completions = model.generate(&ids, &generate, &mut |_| {})?;
    if completions.len() != questions.len() {
        return Err(EvalError::AnswerCount { expected: questions.len(), got: completions.len() });
    }
    if room < wanted && completions.iter().any(|completion| completion.reason == StopReason::Length) {
        return Err(EvalError::AnswerBeyondContext { context: model.context_length(), max_new_tokens: wanted });
    }
    let seconds = start.elapsed().as_secs_f64() / questions.len() as f64;
    let answers = questions.iter().zip(completions).zip(truncated);
    let line = |((question, completion), truncated): ((&&Question, Completion), bool)| {
        let prediction = protocol.prediction(&completion.text, options.eos.as_deref()).to_string();
        let score = score_answer(&question.golds, &prediction);
        QuestionLine {
            id: question.id.clone(),
            turn_id: question.turn_id,
            domain: question.domain.clone(),
            protocol: protocol.name.to_string(),
            protocol_version: protocol.version.to_string(),
            model: options.model.clone(),
            prompt_sha256: question.prompt_sha256.clone(),
            truncated,
            text: completion.text,
            eos: options.eos.clone(),
            prediction,
            golds: question.golds.clone(),
            em: score.em,
            f1: score.f1,
            seconds,
        }
    };
    Ok(answers.map(line).collect())
}

/// Token ids of each prompt, cut from the left to the room beside the new tokens as HFLM does, and whether they were cut.
fn encode_prompts(
    model: &dyn Generate,
    questions: &[&Question],
    context: usize,
    max_new_tokens: usize,
) -> Result<Vec<(Vec<u32>, bool)>, EvalError> {
    let room = context.saturating_sub(max_new_tokens);
    if room == 0 {
        return Err(EvalError::ContextTooShort { context, max_new_tokens });
    }
    let encode = |question: &&Question| Ok(pieces::last(&|text| model.encode(text), &question.prompt, room)?);
    questions.iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::eval::coqa::data::{Conversation, PromptLine, Turn};
    use crate::eval::coqa::lines::read_lines;
    use crate::eval::coqa::report::{DomainScore, official_predictions, rescore};
    use crate::eval::fake::FakeGenerate;
    use crate::generate::GenerateError;

    /// Stories of 2, 3 and 1 turns; the answer to turn n is "n".
    fn dataset() -> Dataset {
        let story = |id: &str, domain: &str, turns: u32| Conversation {
            id: id.into(),
            domain: domain.into(),
            story: format!("Story {id}."),
            turns: (1..=turns)
                .map(|turn_id| Turn { turn_id, question: format!("{id}{turn_id}?"), golds: vec![turn_id.to_string()] })
                .collect(),
        };
        Dataset::Conversations(vec![story("a", "cnn", 2), story("b", "reddit", 3), story("c", "cnn", 1)])
    }

    fn options(batch: usize) -> EvaluateOptions {
        EvaluateOptions { limit: None, batch, eos: Some("</s>".into()), max_new_tokens: None, context: None, model: "m".into() }
    }

    /// Answers every turn right, but for story b, where it says "1".
    fn answer(prompt: &str) -> String {
        let asked = prompt.rsplit("Q: ").next().unwrap_or_default();
        let turn = if asked.starts_with('b') { "1" } else { &asked[1..2] };
        format!(" The {turn}.\n\nQ: next")
    }

    fn evaluate_into(
        log: &mut AnswerLog,
        model: &mut FakeGenerate,
        protocol: &Protocol,
        options: &EvaluateOptions,
    ) -> Result<CoqaReport, EvalError> {
        evaluate(model, &dataset(), protocol, options, log, &mut |_| {})
    }

    #[test]
    fn stories_go_whole_into_calls_that_are_filled() {
        for (batch, sizes) in [(1, vec![2, 3, 1]), (4, vec![2, 4]), (5, vec![5, 1]), (64, vec![6])] {
            let mut model = FakeGenerate::new(answer);
            evaluate_into(&mut AnswerLog::in_memory(), &mut model, &Protocol::OFFICIAL, &options(batch)).expect("runs");
            assert_eq!(model.calls.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "batch {batch}");
            assert_eq!(model.stop, ["\nQ:", "</s>"]);
        }
    }

    #[test]
    fn the_report_has_hand_computed_scores() {
        let mut log = AnswerLog::in_memory();
        let mut seen = Vec::new();
        let mut model = FakeGenerate::new(answer);
        let report =
            evaluate(&mut model, &dataset(), &Protocol::OFFICIAL, &options(2), &mut log, &mut |progress| seen.push(progress))
                .expect("runs");
        // right: a1 a2 b1 c1; wrong: b2 b3.
        assert_eq!((report.questions, report.em, report.f1), (6, 4.0 / 6.0, 4.0 / 6.0));
        assert_eq!(report.by_domain["cnn"], DomainScore { f1: 1.0, em: 1.0, questions: 3 });
        assert_eq!(report.by_domain["reddit"], DomainScore { f1: 1.0 / 3.0, em: 1.0 / 3.0, questions: 3 });
        assert_eq!((report.in_domain, report.out_domain), (Some(report.by_domain["cnn"]), Some(report.by_domain["reddit"])));
        // cluster sums of deviations from 2/3: 2/3, −1, 1/3; √(3/2 · 14/9)/6.
        assert!((report.f1_stderr.expect("three conversations") - (1.5f64 * 14.0 / 9.0).sqrt() / 6.0).abs() < 1e-15);
        assert_eq!((report.stderr_over, report.resumed, report.truncated), ("conversations", 0, 0));
        assert_eq!(seen.iter().map(|progress| progress.done).collect::<Vec<_>>(), [0, 2, 5, 6]);
        assert_eq!((seen[2].total, seen[2].f1), (6, 3.0 / 5.0));
        let predictions = serde_json::to_value(official_predictions(log.lines())).expect("serializes");
        assert_eq!(predictions[1], serde_json::json!({"id": "a", "turn_id": 2, "answer": "The 2."}));
        let names: Vec<String> =
            serde_json::to_value(&report).expect("serializes").as_object().expect("an object").keys().cloned().collect();
        for name in ["f1", "em", "f1_stderr", "em_stderr", "questions", "protocol", "questions_per_second", "by_domain"] {
            assert!(names.contains(&name.to_string()), "{name}");
        }
    }

    #[test]
    fn lm_eval_asks_last_turns_and_takes_plain_standard_errors() {
        let mut model = FakeGenerate::new(answer);
        let report = evaluate_into(&mut AnswerLog::in_memory(), &mut model, &Protocol::LM_EVAL, &options(8)).expect("runs");
        assert_eq!(model.calls.len(), 1);
        assert!(model.calls[0][0].ends_with("Q: a1?\n\nA: 1\n\nQ: a2?\n\nA:"));
        // 1, 0, 1: s² = 1/3, standard error 1/3.
        assert_eq!(report.questions, 3);
        assert!((report.em_stderr.expect("three questions") - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(report.stderr_over, "questions");
    }

    #[test]
    fn a_limit_counts_questions() {
        let mut model = FakeGenerate::new(answer);
        let limited = EvaluateOptions { limit: Some(3), ..options(64) };
        let report = evaluate_into(&mut AnswerLog::in_memory(), &mut model, &Protocol::OFFICIAL, &limited).expect("runs");
        assert_eq!((report.questions, model.calls[0].len()), (3, 3));
    }

    #[test]
    fn a_long_prompt_loses_its_beginning_as_in_hflm() {
        let mut model = FakeGenerate { context: 256 + 10, ..FakeGenerate::new(|_| "2".into()) };
        let mut log = AnswerLog::in_memory();
        let report = evaluate_into(&mut log, &mut model, &Protocol::LM_EVAL, &options(8)).expect("runs");
        assert_eq!(model.calls[0][0], "Q: a2?\n\nA:");
        assert_eq!((report.truncated, log.lines()[0].truncated), (3, true));
        let mut model = FakeGenerate { context: 256, ..FakeGenerate::new(|_| String::new()) };
        let error = evaluate_into(&mut AnswerLog::in_memory(), &mut model, &Protocol::LM_EVAL, &options(8)).expect_err("no room");
        assert!(matches!(error, EvalError::ContextTooShort { context: 256, max_new_tokens: 256 }), "{error}");
    }

    fn without_times(path: &Path) -> Vec<QuestionLine> {
        read_lines(path).expect("reads").into_iter().map(|line| QuestionLine { seconds: 0.0, ..line }).collect()
    }

    #[test]
    fn an_interrupted_run_goes_on_and_ends_like_an_uninterrupted_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (whole, cut) = (folder.path().join("whole.jsonl"), folder.path().join("cut.jsonl"));
        let expected = {
            let mut log = AnswerLog::open(&whole).expect("opens");
            evaluate_into(&mut log, &mut FakeGenerate::new(answer), &Protocol::OFFICIAL, &options(1)).expect("runs")
        };
        let mut dies = FakeGenerate { fail_after: 2, ..FakeGenerate::new(answer) };
        let error = evaluate_into(&mut AnswerLog::open(&cut).expect("opens"), &mut dies, &Protocol::OFFICIAL, &options(1))
            .expect_err("dies");
        assert!(matches!(error, EvalError::Model(GenerateError::Backend(_))), "{error}");
        // and the last line, b3, is torn
        let bytes = std::fs::read(&cut).expect("reads");
        std::fs::write(&cut, &bytes[..bytes.len() - 20]).expect("writes");
        let mut model = FakeGenerate::new(answer);
        let report = evaluate_into(&mut AnswerLog::open(&cut).expect("opens"), &mut model, &Protocol::OFFICIAL, &options(64))
            .expect("runs");
        assert_eq!(model.calls.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
        assert_eq!((report.resumed, report.f1, report.f1_stderr), (4, expected.f1, expected.f1_stderr));
        assert_eq!(without_times(&cut), without_times(&whole));
        let mut model = FakeGenerate::new(answer);
        let again = evaluate_into(&mut AnswerLog::open(&cut).expect("opens"), &mut model, &Protocol::OFFICIAL, &options(64))
            .expect("runs");
        assert_eq!((model.calls.len(), again.resumed, again.questions_per_second), (0, 6, None));
    }

    #[test]
    fn lines_of_another_run_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lines.jsonl");
        let run = |dataset: &Dataset, protocol: &Protocol, options: &EvaluateOptions| {
            let mut log = AnswerLog::open(&path)?;
            evaluate(&mut FakeGenerate::new(answer), dataset, protocol, options, &mut log, &mut |_| {})
        };
        run(&dataset(), &Protocol::OFFICIAL, &options(8)).expect("runs");
        let Dataset::Conversations(mut stories) = dataset() else { panic!("conversations") };
        stories[0].turns[1].golds.push("two".into());
        let other_golds = Dataset::Conversations(stories.clone());
        stories[0].story = "Another.".into();
        let other_story = Dataset::Conversations(stories.clone());
        let fewer = Dataset::Conversations(stories.split_off(1));
        let prompt = PromptLine { id: "a".into(), turn_id: 1, domain: "cnn".into(), prompt: "P".into(), golds: vec!["1".into()] };
        for (data, protocol, model, says) in [
            (
                dataset(),
                Protocol::LM_EVAL,
                "m",
                "line 1: written by another run: protocol: expected lm-eval 3.0, got official 1.0; give",
            ),
            (dataset(), Protocol::OFFICIAL, "n", "line 1: written by another run: model: expected n, got m"),
            (other_golds, Protocol::OFFICIAL, "m", "line 2: written by another run: references: expected 2 | two, got 2"),
            (other_story, Protocol::OFFICIAL, "m", "line 1: written by another run: prompt hash"),
            (
                fewer,
                Protocol::OFFICIAL,
                "m",
                "line 1: written by another run: question: expected one of the data's, got a turn 1",
            ),
            (Dataset::Prompts(vec![prompt]), Protocol::OFFICIAL, "m", "line 1: written by another run: prompt hash"),
        ] {
            let error =
                run(&data, &protocol, &EvaluateOptions { model: model.into(), ..options(8) }).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
        for (eos, expected) in [(Some("<|end|>"), "`<|end|>`"), (None, "none")] {
            let ended = EvaluateOptions { eos: eos.map(str::to_owned), ..options(8) };
            let error = run(&dataset(), &Protocol::OFFICIAL, &ended).expect_err(expected).to_string();
            let says = format!("line 1: written by another run: end-of-sequence text: expected {expected}, got `</s>`");
            assert!(error.contains(&says), "{error}");
        }
        std::fs::write(&path, "{\"id\": 1}\n").expect("writes");
        let error = run(&dataset(), &Protocol::OFFICIAL, &options(8)).expect_err("not a line").to_string();
        assert!(error.contains("line 1: not a per-question line of qonnx eval"), "{error}");
    }

    #[test]
    fn scores_are_recomputed_from_what_the_model_wrote() {
        let mut log = AnswerLog::in_memory();
        let report = evaluate_into(&mut log, &mut FakeGenerate::new(answer), &Protocol::OFFICIAL, &options(8)).expect("runs");
        let mut lines = log.lines().to_vec();
        for line in &mut lines {
            (line.em, line.f1, line.prediction) = (0.5, 0.5, "spoiled".into());
        }
        let (again, scored) = rescore(&lines, "lines.jsonl").expect("rescores");
        assert_eq!(scored, log.lines());
        assert_eq!(
            (again.f1, again.em, again.f1_stderr, &again.by_domain),
            (report.f1, report.em, report.f1_stderr, &report.by_domain)
        );
        lines[1].protocol = "lm-eval".into();
        assert!(rescore(&lines, "l").expect_err("mixed").to_string().contains("l: line 2: written by another run: protocol"));
        lines[0].protocol = "mine".into();
        assert!(
            rescore(&lines, "l")
                .expect_err("unknown")
                .to_string()
                .contains("unknown protocol mine 1.0; known: lm-eval 3.0, official 1.0")
        );
        assert!(matches!(rescore(&[], "l"), Err(EvalError::TooFew { .. })));
    }
}
