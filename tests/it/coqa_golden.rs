//! Scores and prompts equal lm_eval 0.4.13's own functions on the golden of `tests/goldens/make/golden_coqa.py`.

use std::collections::HashMap;

use qonnx::eval::coqa::protocol::Protocol;
use qonnx::eval::coqa::{Dataset, parse};
use qonnx::eval::score;
use serde_json::Value;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/coqa_scores.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the golden is committed")).expect("the golden is JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|item| text(item).to_string()).collect()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().expect("a list")
}

fn assert_close(got: f64, want: &Value, what: &Value) {
    let want = want.as_f64().expect("a number");
    assert!((got - want).abs() <= 1e-12, "got {got}, lm_eval says {want}: {what}");
}

#[test]
fn every_pair_scores_as_in_lm_eval() {
    let golden = golden();
    let pairs = list(&golden, "pairs");
    assert!(pairs.len() >= 300);
    for pair in pairs {
        let (golds, prediction) = (texts(&pair["golds"]), text(&pair["prediction"]));
        assert_eq!(score::normalize_answer(prediction), text(&pair["normalized"]), "{pair}");
        assert_close(score::exact_match(&golds[0], prediction), &pair["exact0"], pair);
        assert_close(score::f1(&golds[0], prediction), &pair["f1_0"], pair);
        let got = score::score_answer(&golds, prediction);
        assert_close(got.em, &pair["em"], pair);
        assert_close(got.f1, &pair["f1"], pair);
    }
}

/// The hub's layout in, doc_to_text, doc_to_target and process_results out.
#[test]
fn every_document_is_asked_and_scored_as_in_lm_eval() {
    let golden = golden();
    let docs = list(&golden, "docs");
    assert!(docs.len() >= 10);
    for doc in docs {
        let file = serde_json::to_vec(&[&doc["doc"]]).expect("serializes");
        let data = parse(&file, "doc.json").unwrap_or_else(|error| panic!("{error}: {doc}"));
        let last = &Protocol::LM_EVAL.stories(&data)[0].questions[0];
        assert_eq!(last.prompt, text(&doc["text"]));
        assert_eq!(last.golds, texts(&doc["target"]));
        let every = &Protocol::OFFICIAL.stories(&data)[0].questions;
        assert_eq!(every.iter().map(|question| question.prompt.clone()).collect::<Vec<_>>(), texts(&doc["turn_prompts"]));
        for result in list(doc, "results") {
            let got = score::score_answer(&last.golds, score::first_line(text(&result["raw"])));
            assert_close(got.em, &result["em"], result);
            assert_close(got.f1, &result["f1"], result);
        }
    }
}

/// The official layout of the same documents gives the same conversations.
#[test]
fn the_official_layout_reads_like_the_hubs() {
    let golden = golden();
    let docs: Vec<&Value> = list(&golden, "docs").iter().map(|doc| &doc["doc"]).collect();
    let rows = |column: &Value| -> Value {
        let pairs = list(column, "input_text").iter().zip(list(column, "turn_id"));
        pairs.map(|(text, id)| serde_json::json!({"input_text": text, "turn_id": id})).collect()
    };
    let official: Vec<Value> = docs
        .iter()
        .map(|doc| {
            let mut entry = serde_json::json!({
                "id": doc["id"], "source": doc["source"], "filename": "own", "story": doc["story"],
                "questions": rows(&doc["questions"]), "answers": rows(&doc["answers"]),
            });
            if let Some(additional) = doc.get("additional_answers").and_then(Value::as_object) {
                entry["additional_answers"] = additional.iter().map(|(key, column)| (key.clone(), rows(column))).collect();
            }
            entry
        })
        .collect();
    let hub = parse(&serde_json::to_vec(&docs).expect("serializes"), "hub.json").expect("reads");
    let file = serde_json::json!({"version": "1.0", "data": official});
    let official = parse(&serde_json::to_vec(&file).expect("serializes"), "official.json").expect("reads");
    assert!(matches!(&hub, Dataset::Conversations(list) if list.len() == docs.len()));
    assert_eq!(official, hub);
}

/// Every code point that both Pythons' and Rust's Unicode know: lower case, white space, and where articles end.
#[test]
fn characters_behave_as_in_python() {
    let golden = golden();
    let facts = &golden["unicode"];
    let range = |value: &Value| value[0].as_u64().expect("first") as u32..=value[1].as_u64().expect("last") as u32;
    let in_ranges = |field: &str| -> Vec<bool> {
        let mut member = vec![false; 0x11_0000];
        for point in list(facts, field).iter().flat_map(range) {
            member[point as usize] = true;
        }
        member
    };
    let (unassigned, word) = (in_ranges("unassigned"), in_ranges("word"));
    let lower: HashMap<char, &str> = facts["lower"]
        .as_object()
        .expect("an object")
        .iter()
        .map(|(c, lower)| (c.chars().next().expect("one character"), text(lower)))
        .collect();
    let space: Vec<u32> = list(facts, "space").iter().map(|c| c.as_u64().expect("a code point") as u32).collect();
    for c in '\0'..=char::MAX {
        if unassigned[c as usize] {
            continue;
        }
        let expected = lower.get(&c).map_or_else(|| c.to_string(), |lower| lower.to_string());
        assert_eq!(c.to_string().to_lowercase(), expected, "lower case of U+{:04X}", c as u32);
        let is_space = space.contains(&(c as u32));
        assert_eq!(score::is_python_space(c), is_space, "white space U+{:04X}", c as u32);
        if !is_space && !c.is_ascii_punctuation() {
            let article_stays = score::normalize_answer(&format!("the{c}")).starts_with("the");
            assert_eq!(article_stays, word[c as usize], "word character U+{:04X}", c as u32);
        }
    }
}

#[test]
fn final_sigma_is_lowered_as_in_python() {
    for pair in list(&golden(), "sigma") {
        assert_eq!(text(&pair[0]).to_lowercase(), text(&pair[1]), "{pair}");
    }
}
