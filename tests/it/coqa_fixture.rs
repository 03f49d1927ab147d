//! The project's own CoQA-format file is what its source gives, and its spans stand where they say.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::tools;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn fixture() -> Value {
    let path = Path::new(ROOT).join("fixtures/tiny-coqa/coqa-mini.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture is committed")).expect("the fixture is JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is no list in {value}"))
}

/// Checks that every answer belongs to its turn and that its span, counted in characters, is what it quotes.
fn check_answers(story: &[char], answers: &[Value], turns: usize) {
    assert_eq!(answers.len(), turns);
    for (turn, answer) in answers.iter().enumerate() {
        assert_eq!(answer["turn_id"], turn + 1);
        assert!(!answer["input_text"].as_str().expect("an answer is text").trim().is_empty());
        let end = |key: &str| usize::try_from(answer[key].as_u64().expect("an offset is a number")).expect("offsets are small");
        let quoted: String = story[end("span_start")..end("span_end")].iter().collect();
        assert_eq!(answer["span_text"], quoted);
    }
}

#[test]
fn spans_stand_in_their_stories() {
    let file = fixture();
    for conversation in list(&file, "data") {
        let story: Vec<char> = conversation["story"].as_str().expect("a story is text").chars().collect();
        let questions = list(conversation, "questions");
        for (turn, question) in questions.iter().enumerate() {
            assert_eq!(question["turn_id"], turn + 1);
        }
        check_answers(&story, list(conversation, "answers"), questions.len());
        for (who, answers) in conversation["additional_answers"].as_object().into_iter().flatten() {
            assert!(["0", "1", "2"].contains(&who.as_str()));
            check_answers(&story, answers.as_array().expect("answers are a list"), questions.len());
        }
    }
}

#[test]
fn covers_the_five_kinds_of_text() {
    let file = fixture();
    let (mut stories, mut questions, mut with_references) = (BTreeMap::new(), 0, 0);
    for conversation in list(&file, "data") {
        *stories.entry(conversation["source"].as_str().expect("a source is text")).or_insert(0) += 1;
        questions += list(conversation, "questions").len();
        with_references += usize::from(conversation.get("additional_answers").is_some());
    }
    let expected = ["cnn", "gutenberg", "mctest", "race", "wikipedia"].map(|source| (source, 5));
    assert_eq!(stories, BTreeMap::from(expected));
    assert_eq!((questions, with_references), (248, 13));
}

#[test]
fn is_what_its_source_gives() {
    if !tools::finds("python3") {
        return;
    }
    let python = std::env::var("QONNX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(&python)
        .arg("tests/goldens/make/check_coqa_fixture.py")
        .current_dir(ROOT)
        .output()
        .unwrap_or_else(|e| panic!("{python} does not start ({e}); install Python 3, or set QONNX_PYTHON"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "coqa-mini.json: 25 stories, 248 questions\n");
}
