use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::*;

const GOLDENS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/chat.json"));

fn tokens() -> BTreeMap<String, String> {
    [("bos_token", "<|begin_of_text|>"), ("eos_token", "<|end_of_text|>")].map(|(name, token)| (name.into(), token.into())).into()
}

fn template(text: &str) -> Result<ChatTemplate, ChatError> {
    // date -ud '2024-07-06 13:05:09' +%s
    ChatTemplate::new(text, tokens(), Clock::at(1_720_271_109).expect("a time"))
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

/// tests/goldens/make/golden_chat.py: texts and token ids of transformers 5.17.0.
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
    let template = ChatTemplate::new("{{ bos_token }}{{ messages[0].content }}", BTreeMap::new(), Clock::default()).unwrap();
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
fn strings_in_brackets_are_read_in_time() {
    let deep = format!("{{{{ {}1{} }}}}", "(1~".repeat(16_000), ")".repeat(16_000));
    assert!(matches!(render(&deep), Err(ChatError::Template { .. })), "beyond the parser's depth, and not beyond the time");
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

/// Said by `SOURCE_DATE_EPOCH`, or the time of the first question; each in a process of its own.
#[test]
fn the_clock_stands_where_it_is_told_or_where_it_was_first_asked() {
    const CHILD: &str = "QONNX_CLOCK_OF_A_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let first = Clock::of_process();
        std::thread::sleep(Duration::from_millis(1100));
        let (first, second) = (first.map_err(|error| error.to_string()), Clock::of_process().map_err(|error| error.to_string()));
        assert_eq!(first, second, "it stands still");
        let said = first.and_then(|clock| clock.strftime("%Y-%m-%d %H:%M:%S").map_err(|error| error.to_string()));
        println!("child: {}", said.unwrap_or_else(|error| format!("error: {error}")));
        return;
    }
    let child = |epoch: Option<&str>| {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args([
            "--exact",
            "--nocapture",
            "calib::chat::tests::the_clock_stands_where_it_is_told_or_where_it_was_first_asked",
        ]);
        command.env(CHILD, "1").env("TZ", "Pacific/Kiritimati").env_remove(SOURCE_DATE_EPOCH);
        let output = command.envs(epoch.map(|epoch| (SOURCE_DATE_EPOCH, epoch))).output().expect("it starts again");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        said.lines().find_map(|line| Some(line.split_once("child: ")?.1.to_owned())).unwrap_or_else(|| panic!("{said}"))
    };
    // date -ud @1704067199
    assert_eq!(child(Some("1704067199")), "2023-12-31 23:59:59");
    assert_eq!(child(Some("0")), "1970-01-01 00:00:00");
    for wrong in ["yesterday", "1704067199.5", "0x10", "9223372036854775807"] {
        let said = child(Some(wrong));
        assert!(said.starts_with(&format!("error: SOURCE_DATE_EPOCH is \"{wrong}\", expected seconds since 1970")), "{said}");
    }
    for unset in [None, Some("")] {
        let before = chrono::Utc::now().naive_utc();
        let told = chrono::NaiveDateTime::parse_from_str(&child(unset), "%Y-%m-%d %H:%M:%S").expect("a time");
        let after = chrono::Utc::now().naive_utc();
        assert!(before - told < chrono::TimeDelta::seconds(1) && told <= after, "{before} {told} {after}");
    }
}

#[test]
fn a_template_tells_whether_it_asked_for_the_time() {
    for (text, told) in [("{{ strftime_now('%Y') }}", true), ("{% if false %}{{ strftime_now('%Y') }}{% endif %}", false)] {
        let template = template(text).unwrap();
        assert_eq!(template.told_time(), None, "nothing is written yet");
        template.render(&hello()).unwrap();
        assert_eq!(template.told_time().map(Clock::seconds), told.then_some(1_720_271_109), "{text}");
    }
}
