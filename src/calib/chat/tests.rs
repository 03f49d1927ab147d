use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::*;

const GOLDENS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/chat.json"));

fn tokens() -> BTreeMap<String, String> {
    [("bos_token", "<|begin_of_text|>"), ("eos_token", "<|end_of_text|>")].map(|(name, token)| (name.into(), token.into())).into()
}

fn template(text: &str) -> Result<ChatTemplate, ChatError> {
    let still = chrono::NaiveDate::from_ymd_opt(2024, 7, 6).and_then(|day| day.and_hms_opt(13, 5, 9)).expect("a time");
    ChatTemplate::new(text, tokens(), Clock::Still(still))
}

fn messages(chat: &Value) -> Vec<Message> {
    serde_json::from_value(chat.clone()).expect("messages")
}

fn hello() -> Vec<Message> {
    messages(&json!([{ "role": "user", "content": " Hi! " }, { "role": "assistant", "content": "Hello." }]))
}

fn render(text: &str) -> Result<String, ChatError> {
    template(text)?.render(&hello())
}

/// scripts/golden_chat.py: texts and token ids of transformers 5.17.0.
#[test]
fn chats_are_what_transformers_makes_of_them() {
    let goldens: Value = serde_json::from_str(GOLDENS).expect("JSON");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-coqa/tokenizer.json");
    let tokenizer = Tokenizer::from_file(path).expect("the fixture's tokenizer");
    let cases = goldens["cases"].as_array().expect("a list");
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut faults = Vec::new();
    for case in cases {
        let chat = messages(&goldens["chats"][case["chat"].as_str().expect("a name")]);
        let rendered = template(case["template"].as_str().expect("text")).and_then(|template| template.render(&chat));
        match (rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {
                let ids = tokenizer.encode_fast(text, false).expect("encodes");
                let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
                assert_eq!(ids.get_ids(), expected, "{}", case["name"]);
            }
            (Err(_), None) => {}
            (got, expected) => faults.push(format!("{}:\n got {got:?}\nwant {expected:?}", case["name"])),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_token_that_the_model_lacks_writes_nothing() {
    let template = ChatTemplate::new("{{ bos_token }}{{ messages[0].content }}", BTreeMap::new(), Clock::Running).unwrap();
    assert_eq!(template.render(&hello()).unwrap(), " Hi! ");
}

#[test]
fn a_template_may_refuse_and_its_own_faults_have_a_line() {
    let refusing = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first \u{1b}[2J') }}{% endif %}";
    let refused = render(refusing).unwrap_err();
    assert!(matches!(refused, ChatError::Refused(_)), "{refused:?}");
    assert_eq!(refused.to_string(), "a system message first \\u{1b}[2J");
    let in_a_macro = "{% macro f() %}{{ raise_exception('no') }}{% endmacro %}{{ f() }}";
    assert!(matches!(render(in_a_macro), Err(ChatError::Refused(message)) if message == "no"));
    for (template, expected) in [
        ("a\n{% for %}", "line 2: syntax error: "),
        ("a\r\nb\n{{ messages[0].content + 1 }}", "line 3: invalid operation: "),
        ("{{ 'a'.nothing() }}", "line 1: unknown method: "),
        ("{{ strftime_now('%Q') }}", "line 1: invalid operation: strftime_now: "),
    ] {
        let sentence = render(template).unwrap_err().to_string();
        assert!(sentence.starts_with(expected), "{sentence}");
    }
}

#[test]
fn a_message_has_a_role_and_a_content_or_calls_tools() {
    let read = |message: Value| serde_json::from_value::<Message>(message).is_ok();
    assert!(read(json!({ "role": "user", "content": null })) && read(json!({ "role": "assistant", "tool_calls": [] })));
    assert!(
        !read(json!({ "from": "human", "value": "x" }))
            && !read(json!({ "role": 1, "content": "x" }))
            && !read(json!({ "role": "user" }))
    );
}

/// The clock of a process stands still where reproducible builds say so.
#[test]
fn the_clock_runs_unless_it_is_told_to_stand() {
    let year = Clock::Running.strftime("%Y").expect("a year").parse::<i32>().expect("a number");
    assert!(year >= 2024, "{year}");
    assert!(Clock::Running.strftime("%Q").is_err());
}
