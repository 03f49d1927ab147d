//! The readers of CoQA data: every layout, every way a file can be broken, and no panic on any bytes.

use proptest::prelude::*;
use qonnx::eval::coqa::{Conversation, Dataset, load, parse};
use qonnx::fault::Fault;
use serde_json::{Value, json};

fn official() -> Value {
    json!({"version": "1.0", "data": [
        {"source": "mctest", "id": "c1", "filename": "f", "story": "Mara kept hens.",
         "questions": [{"input_text": "Who?", "turn_id": 1}, {"input_text": "What?", "turn_id": 2}],
         "answers": [{"input_text": "Mara", "turn_id": 1, "span_start": 0}, {"input_text": "hens", "turn_id": 2}],
         "additional_answers": {
            "0": [{"input_text": "mara", "turn_id": 1}, {"input_text": "seven hens", "turn_id": 2}],
            "1": [{"input_text": "she", "turn_id": 1}, {"input_text": "Hens", "turn_id": 2}]}},
        {"source": "cnn", "id": "c2", "filename": "f", "story": "It rained.",
         "questions": [{"input_text": "Did it?", "turn_id": 1}], "answers": [{"input_text": "yes", "turn_id": 1}]}
    ]})
}

fn conversations(dataset: Dataset) -> Vec<Conversation> {
    match dataset {
        Dataset::Conversations(list) => list,
        Dataset::Prompts(_) => panic!("conversations expected"),
    }
}

/// The official file with the value at `pointer` replaced, or removed where `value` is None.
fn edited(pointer: &str, value: Option<Value>) -> Vec<u8> {
    let mut file = official();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = file.pointer_mut(parent).expect("the parent is there");
    match (parent, value) {
        (Value::Object(map), Some(value)) => drop(map.insert(key.to_string(), value)),
        (Value::Object(map), None) => drop(map.remove(key).expect("the field is there")),
        (Value::Array(list), Some(value)) => list[key.parse::<usize>().expect("an index")] = value,
        (Value::Array(list), None) => drop(list.remove(key.parse::<usize>().expect("an index"))),
        _ => panic!("{pointer} has no parent"),
    }
    serde_json::to_vec(&file).expect("serializes")
}

#[test]
fn the_official_layout_reads() {
    let read = conversations(parse(&serde_json::to_vec(&official()).expect("serializes"), "f.json").expect("reads"));
    assert_eq!(read.len(), 2);
    assert_eq!((read[0].id.as_str(), read[0].domain.as_str(), read[0].story.as_str()), ("c1", "mctest", "Mara kept hens."));
    assert_eq!(read[0].turns[1].question, "What?");
    assert_eq!(read[0].turns[1].golds, ["hens", "seven hens", "Hens"]);
    assert_eq!((read[1].turns[0].turn_id, read[1].turns[0].golds.as_slice()), (1, &["yes".to_string()][..]));
}

#[test]
fn a_byte_order_mark_a_list_and_lines_read_alike() {
    let file = serde_json::to_vec(&official()).expect("serializes");
    let expected = parse(&file, "f.json").expect("reads");
    assert_eq!(parse(&[b"\xef\xbb\xbf", file.as_slice()].concat(), "f.json").expect("reads"), expected);
    assert_eq!(parse(official()["data"].to_string().as_bytes(), "f.json").expect("reads"), expected);
    let lines: String = official()["data"].as_array().expect("a list").iter().map(|entry| format!("{entry}\n\n")).collect();
    for name in ["f.jsonl", "f.json", "f"] {
        assert_eq!(parse(lines.as_bytes(), name).expect("reads"), expected, "{name}");
    }
}

#[test]
fn prompts_read_by_line() {
    let lines = "{\"id\": \"a\", \"prompt\": \"P\", \"golds\": [\"x\", \"y\"]}\n{\"id\": \"a\", \"turn_id\": 7, \"domain\": \"cnn\", \"prompt\": \"PP\", \"golds\": [\"\"]}\n";
    let Dataset::Prompts(read) = parse(lines.as_bytes(), "p.jsonl").expect("reads") else { panic!("prompts expected") };
    assert_eq!((read[0].turn_id, read[0].domain.as_str(), read[0].golds.len()), (1, "unknown", 2));
    assert_eq!((read[1].turn_id, read[1].domain.as_str(), read[1].prompt.as_str()), (7, "cnn", "PP"));
    let one = lines.lines().next().expect("a line");
    assert!(matches!(parse(one.as_bytes(), "p").expect("reads"), Dataset::Prompts(list) if list.len() == 1));
}

fn golden(name: &str) -> std::path::PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "goldens", name].iter().collect()
}

/// The documents of the golden, as `tests/goldens/make/golden_coqa.py --parquet` wrote them in the hub's two forms.
#[test]
fn the_hubs_parquet_files_read() {
    let scores: Value = serde_json::from_slice(&std::fs::read(golden("coqa_scores.json")).expect("committed")).expect("JSON");
    let docs: Vec<Value> = scores["docs"].as_array().expect("a list").iter().map(|doc| doc["doc"].clone()).collect();
    let expected = conversations(parse(&serde_json::to_vec(&docs).expect("serializes"), "docs.json").expect("reads"));
    assert_eq!(conversations(load(&golden("coqa_eleutherai.parquet")).expect("reads")), expected);

    let stanford = conversations(load(&golden("coqa_stanfordnlp.parquet")).expect("reads"));
    assert_eq!(stanford.len(), expected.len());
    for (number, (got, want)) in stanford.iter().zip(&expected).enumerate() {
        assert_eq!((&got.id, &got.story, &got.domain), (&number.to_string(), &want.story, &want.domain));
        let main = |c: &Conversation| {
            c.turns.iter().map(|turn| (turn.turn_id, turn.question.clone(), turn.golds[0].clone())).collect::<Vec<_>>()
        };
        assert_eq!(main(got), main(want));
        assert!(got.turns.iter().all(|turn| turn.golds.len() == 1));
    }
}

/// Each broken file, and the sentence that must say so.
#[test]
fn every_broken_file_is_named_with_its_place() {
    let c = "/data/0";
    let at = |path: &str| format!("{c}{path}");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "f.json is empty; give a CoQA JSON file"),
        (b" \n ".to_vec(), "f.json is empty"),
        (b"\"x\"".to_vec(), "unknown layout: expected an object with `data`"),
        (b"{\"items\": []}".to_vec(), "got an object with keys [items]"),
        (b"{\"data\": [{\"id\": 1".to_vec(), "line 1, column 18: not valid JSON: EOF while parsing"),
        (b"{\"data\":\n  [nope]}".to_vec(), "line 2, column 5: not valid JSON"),
        (b"{\"data\": [\"\xff\"]}".to_vec(), "byte 11 (line 1) is not UTF-8"),
        (b"{\"data\": [\"\\ud800\"]}".to_vec(), "not valid JSON: "),
        ("[".repeat(500).into_bytes(), "not valid JSON: recursion limit exceeded"),
        (b"{\"data\": []}".to_vec(), "f.json: holds no conversation"),
        (b"[]".to_vec(), "f.json: holds no conversation"),
        (b"{\"data\": 7}".to_vec(), "top level: field `data`: expected a list, got the number 7"),
        (edited("/data/1", Some(json!("x"))), "conversation 2: field `(entry)`: expected an object, got the string \"x\""),
        (edited(&at("/id"), Some(json!(5))), "conversation 1: field `id`: expected a string, got the number 5"),
        (edited("/data/1/id", Some(json!("c1"))), "conversation 2 (id \"c1\"): this id was already used by conversation 1"),
        (edited(&at("/source"), None), "conversation 1 (id \"c1\"): field `source` is missing; expected a string"),
        (edited(&at("/story"), None), "conversation 1 (id \"c1\"): field `story` is missing"),
        (edited(&at("/story"), Some(json!(" \n"))), "conversation 1 (id \"c1\"): `story` is empty"),
        (edited(&at("/story"), Some(json!(["x"]))), "field `story`: expected a string, got a list of 1"),
        (edited(&at("/questions"), None), "field `questions` is missing"),
        (
            edited(&at("/questions"), Some(json!(true))),
            "field `questions`: expected a list of objects with `input_text` and `turn_id`",
        ),
        (edited(&at("/questions"), Some(json!([]))), "(id \"c1\"): has no questions"),
        (
            edited(&at("/questions/1"), Some(json!(3))),
            "turn 2: field `questions`: expected an object with `input_text` and `turn_id`, got the number 3",
        ),
        (edited(&at("/questions/1/input_text"), None), "turn 2: field `questions.input_text` is missing"),
        (edited(&at("/questions/0/turn_id"), None), "turn 1: field `questions.turn_id` is missing; expected a whole number"),
        (
            edited(&at("/questions/0/turn_id"), Some(json!("1"))),
            "turn 1: field `questions.turn_id`: expected a whole number, got the string \"1\"",
        ),
        (edited(&at("/questions/0/turn_id"), Some(json!(1.5))), "expected a whole number, got the number 1.5"),
        (edited(&at("/questions/1/turn_id"), Some(json!(1))), "turn 2: turn_id 1 was already used"),
        (
            edited(&at("/questions/1/turn_id"), Some(json!(3))),
            "turn 2: `questions.turn_id`: expected turn_id 2 (turns count up from 1), got 3",
        ),
        (
            edited(&at("/questions/0/turn_id"), Some(json!(-1))),
            "turn 1: `questions.turn_id`: expected turn_id 1 (turns count up from 1), got -1",
        ),
        (edited(&at("/answers"), None), "field `answers` is missing"),
        (edited(&at("/answers/1"), None), "(id \"c1\"): 2 questions but 1 entries in `answers`"),
        (edited(&at("/answers/1/turn_id"), Some(json!(9))), "turn 2: `answers.turn_id`: expected turn_id 2"),
        (edited(&at("/answers/0/input_text"), Some(Value::Null)), "turn 1: field `answers.input_text` is missing"),
        (edited(&at("/additional_answers"), Some(json!([1]))), "field `additional_answers`: expected an object of lists"),
        (edited(&at("/additional_answers/1/0"), None), "2 questions but 1 entries in `additional_answers.1`"),
        (
            edited(&at("/additional_answers/0/1/input_text"), Some(json!(7))),
            "turn 2: field `additional_answers.0.input_text`: expected a string, got the number 7",
        ),
        (edited(&at("/answers"), Some(json!({"turn_id": [1, 2]}))), "field `input_text` is missing; expected a list of strings"),
        (
            edited(&at("/answers"), Some(json!({"input_text": ["a", 2]}))),
            "field `answers.input_text`: expected a string, got the number 2",
        ),
        (
            edited(&at("/answers"), Some(json!({"input_text": ["a", "b"], "turn_id": [1]}))),
            "2 questions but 1 entries in `answers.turn_id`",
        ),
        (
            edited(&at("/answers"), Some(json!({"input_text": ["a", "b"], "turn_id": [2, 1]}))),
            "turn 1: `answers.turn_id`: expected turn_id 1",
        ),
    ];
    for (bytes, says) in cases {
        let error = parse(&bytes, "f.json").expect_err(says);
        let message = error.to_string();
        assert!(message.starts_with("f.json") && message.contains(says), "expected {says:?}, got {message:?}");
        assert_eq!(error.fault(), Fault::BadInput);
    }
}

#[test]
fn every_broken_line_of_prompts_is_named() {
    let good = "{\"id\": \"a\", \"prompt\": \"P\", \"golds\": [\"x\"]}";
    for (line, says) in [
        ("{\"id\": \"b\"", "line 2, column 10: not valid JSON"),
        ("{\"id\": \"b\", \"story\": \"S\"}", "line 2: a line of a JSONL file has `prompt`"),
        ("{\"prompt\": \"P\", \"golds\": [\"x\"]}", "line 2: field `id` is missing"),
        ("{\"id\": \"b\", \"prompt\": \"\", \"golds\": [\"x\"]}", "line 2 (id \"b\"): `prompt` is empty"),
        ("{\"id\": \"b\", \"prompt\": 3, \"golds\": [\"x\"]}", "line 2 (id \"b\"): field `prompt`: expected a string"),
        ("{\"id\": \"b\", \"prompt\": \"P\"}", "line 2 (id \"b\"): field `golds` is missing"),
        ("{\"id\": \"b\", \"prompt\": \"P\", \"golds\": []}", "line 2 (id \"b\"): has no `golds`"),
        ("{\"id\": \"b\", \"prompt\": \"P\", \"golds\": \"x\"}", "field `golds`: expected a list, got the string \"x\""),
        ("{\"id\": \"b\", \"prompt\": \"P\", \"golds\": [\"x\"], \"turn_id\": -2}", "field `turn_id`: expected a number from 0"),
        (
            "{\"id\": \"b\", \"prompt\": \"P\", \"golds\": [\"x\"], \"domain\": []}",
            "field `domain`: expected a string, got a list of 0",
        ),
        (good, "line 2 (id \"a\"): turn_id 1 was already used"),
    ] {
        let message = parse(format!("{good}\n{line}\n").as_bytes(), "p.jsonl").expect_err(says).to_string();
        assert!(message.contains(says), "expected {says:?}, got {message:?}");
    }
}

#[test]
fn a_missing_file_is_bad_input() {
    let error = load("no/such/file.json".as_ref()).expect_err("no such file");
    assert_eq!(
        (error.to_string().as_str(), error.fault()),
        (
            "no/such/file.json cannot be read; give a CoQA JSON file, a JSONL file of prompts, or the id of a hub data set",
            Fault::BadInput
        )
    );
}

/// What may stand where something else belongs.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(
                (prop_oneof![Just("input_text".to_string()), Just("turn_id".to_string()), ".{0,3}"], inner),
                0..3
            )
            .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Pointers to every value of a document.
fn pointers(value: &Value, prefix: String, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| pointers(value, format!("{prefix}/{key}"), into)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| pointers(value, format!("{prefix}/{i}"), into)),
        _ => {}
    }
    if !prefix.is_empty() {
        into.push(prefix);
    }
}

// `PROPTEST_CASES=1000000 cargo test --test it coqa_data::never_panic` fuzzes for longer.

/// Whatever parses must be fit for use; whatever does not must say so in one line.
fn is_sound(bytes: &[u8], name: &str) {
    match parse(bytes, name) {
        Ok(Dataset::Conversations(list)) => {
            assert!(!list.is_empty());
            assert!(list.iter().all(|c| !c.turns.is_empty() && c.turns.iter().all(|turn| !turn.golds.is_empty())));
        }
        Ok(Dataset::Prompts(list)) => assert!(!list.is_empty() && list.iter().all(|line| !line.golds.is_empty())),
        Err(error) => assert!(error.to_string().starts_with(name)),
    }
}

proptest! {
    #[test]
    fn any_value_anywhere_never_panics(at in any::<prop::sample::Index>(), value in any_value(), remove in any::<bool>()) {
        let mut all = Vec::new();
        pointers(&official(), String::new(), &mut all);
        is_sound(&edited(&all[at.index(all.len())], (!remove).then_some(value)), "f.json");
    }

    #[test]
    fn mutated_bytes_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        file in prop_oneof![Just("coqa_eleutherai.parquet"), Just("coqa_stanfordnlp.parquet"), Just("official.json"), Just("prompts.jsonl")],
    ) {
        let mut bytes = match file {
            "official.json" => serde_json::to_vec(&official()).expect("serializes"),
            "prompts.jsonl" => b"{\"id\": \"a\", \"prompt\": \"P\", \"golds\": [\"x\"]}\n".repeat(3),
            parquet => std::fs::read(golden(parquet)).expect("committed"),
        };
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        is_sound(&bytes, file);
        bytes.truncate(cut.index(bytes.len()));
        is_sound(&bytes, file);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), parquet in any::<bool>()) {
        let magic: &[u8] = if parquet { b"PAR1" } else { b"" };
        is_sound(&[magic, &bytes, magic].concat(), "f.bin");
    }
}

#[test]
fn shards_of_one_form_become_one() {
    let conversation = |id: &str| {
        let text = format!(
            r#"{{"data": [{{"source": "race", "id": "{id}", "story": "A cat sat.",
                "questions": [{{"input_text": "Who sat?", "turn_id": 1}}],
                "answers": [{{"input_text": "a cat", "turn_id": 1}}]}}]}}"#
        );
        parse(text.as_bytes(), "shard.json").expect("a conversation")
    };
    let Some(Dataset::Conversations(both)) = conversation("a").followed_by(conversation("b")) else { panic!("one form") };
    assert_eq!(both.iter().map(|conversation| conversation.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let prompts = parse(br#"{"id": "p", "prompt": "Q:", "golds": ["x"]}"#, "lines.jsonl").expect("a prompt");
    assert_eq!(conversation("a").followed_by(prompts), None);
}
