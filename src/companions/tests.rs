use std::fs;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::json::object;
use super::*;
use crate::contract::{SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE};
use crate::fault::Fault;

/// A word for each id: `<s> </s> a b`, the first two special.
fn tokenizer() -> Value {
    let added = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({"version": "1.0", "added_tokens": [added(0, "<s>"), added(1, "</s>")], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3}, "unk_token": "a"}})
}

fn folder(files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let usual = [(CONFIG_FILE, json!({"max_position_embeddings": 64})), (TOKENIZER_FILE, tokenizer())];
    for (name, value) in usual.iter().chain(files) {
        fs::write(dir.path().join(name), value.to_string()).expect("it is ours");
    }
    dir
}

fn read(files: &[(&str, Value)]) -> Companions {
    Companions::read(folder(files).path()).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(files: &[(&str, Value)]) -> String {
    let dir = folder(files);
    let error = Companions::read(dir.path()).expect_err("refused");
    assert_eq!(error.fault(), Fault::BadInput, "{error}");
    error.to_string().replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn what_ends_an_answer_comes_from_where_hugging_face_takes_it() {
    let config = || (CONFIG_FILE, json!({"max_position_embeddings": 64, "eos_token_id": 7, "bos_token_id": 5}));
    let read = |more: &[(&str, Value)]| read(&[&[config()], more].concat());
    let alone = read(&[]);
    assert_eq!((alone.generation.eos, alone.bos, alone.context_length), (vec![7], Some(5), 64));
    // A generation config of its own counts, also where it names no end.
    let own = |value: Value| read(&[(GENERATION_CONFIG_FILE, value)]).generation.eos;
    assert_eq!(own(json!({"eos_token_id": [8, 9]})), [8, 9]);
    assert_eq!(own(json!({"bos_token_id": 0})), [] as [u32; 0]);
    assert_eq!(own(json!({"eos_token_id": null})), [] as [u32; 0]);
    // Nothing equals -1; torch.tensor(…, dtype=torch.long) makes 2 of 2.0.
    assert_eq!(own(json!({"eos_token_id": -1})), [] as [u32; 0]);
    assert_eq!(own(json!({"eos_token_id": 2.0})), [2]);
}

#[test]
fn special_tokens_map_wins_over_tokenizer_config() {
    let config = (TOKENIZER_CONFIG_FILE, json!({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>"}));
    let alone = read(std::slice::from_ref(&config));
    assert_eq!((alone.bos, alone.special.eos.as_deref()), (Some(0), Some("</s>")));
    let both = read(&[config, (SPECIAL_TOKENS_FILE, json!({"eos_token": {"content": "b"}}))]);
    assert_eq!((both.bos, both.special.eos.as_deref()), (Some(0), Some("b")));
    assert_eq!(read(&[]).special, SpecialTokens::default());
}

#[test]
fn positions_that_are_not_given_are_llamas_default() {
    let none = read(&[(CONFIG_FILE, json!({"vocab_size": 4}))]);
    assert_eq!((none.context_length, none.vocab_size, none.width), (2048, Some(4), Width::default()));
}

#[test]
fn the_last_call_saved_in_a_tokenizer_is_forgotten() {
    let mut saved = tokenizer();
    saved["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    saved["padding"] = json!({"strategy": {"Fixed": 1u64 << 40}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "</s>"});
    let companions = read(&[(TOKENIZER_FILE, saved)]);
    assert_eq!(companions.tokenizer.encode("a b a b", true).expect("it encodes"), [2, 3, 2, 3]);
}

#[test]
fn tokenizers_that_nothing_can_be_read_with_are_refused() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = tokenizer();
        change(&mut changed);
        refusal(&[(TOKENIZER_FILE, changed)])
    };
    let advice = "; copy tokenizer.json from the model's repository";
    let says = |message: &str, what: &str| {
        let framed = message.starts_with("tokenizer.json is not a tokenizer that can be used: ") && message.ends_with(advice);
        assert!(framed && message.contains(what), "{message}");
    };
    says(&with(&|t| *t = json!({"version": "1.0"})), "Model missing");
    says(&with(&|t| t["model"]["vocab"] = json!({})), "");
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let doubling = json!({"type": "Sequence", "normalizers": vec![replace; 60]});
    says(&with(&|t| t["normalizer"] = doubling.clone()), "its normalizer makes a text up to 1152921504606846976 times as long");
    // Each of these makes the library panic, when it is read or when it is used.
    let prefix = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}});
    says(&with(&|t| t["post_processor"] = prefix.clone()), "");
    for charsmap in ["AAAAAA==", "/////////////////////w=="] {
        says(&with(&|t| t["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": charsmap})), "");
    }
    let mut random = tokenizer();
    random["model"]["dropout"] = json!(0.1);
    assert_eq!(
        refusal(&[(TOKENIZER_FILE, random)]),
        "tokenizer.json: the model's dropout is 0.1, so that the same text would be read differently each time; set it to null"
    );
}

#[test]
fn a_text_that_makes_the_library_panic_is_an_error() {
    let mut slow = tokenizer();
    slow["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false});
    let companions = read(&[(TOKENIZER_FILE, slow)]);
    let error = companions.tokenizer.encode(&format!("{}b", "a".repeat(60)), false).expect_err("the regex has no end");
    assert_eq!(error.fault(), Fault::Failed);
    assert!(error.to_string().starts_with("the tokenizer failed on a text: "), "{error}");
}

#[test]
fn settings_of_greedy_decoding_are_read_and_others_are_named() {
    let all = json!({"eos_token_id": 1, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "bad_words_ids": [[2, 3], [1]],
        "min_new_tokens": 4, "suppress_tokens": [3], "begin_suppress_tokens": [2], "forced_eos_token_id": 1,
        "sequence_bias": [[[2], -1.5]], "exponential_decay_length_penalty": [5, 1.1], "max_new_tokens": 20,
        "do_sample": true, "temperature": 0.6, "top_p": 0.9, "num_beams": 4, "guidance_scale": 1, "penalty_alpha": 0.6,
        "stop_strings": [], "encoder_repetition_penalty": 1.0});
    let read = read(&[(GENERATION_CONFIG_FILE, all)]).generation;
    let expected = Choosing {
        repetition_penalty: Some(1.3),
        no_repeat_ngram_size: Some(3),
        bad_words_ids: vec![vec![2, 3]],
        min_new_tokens: Some(4),
        suppress_tokens: vec![3],
        begin_suppress_tokens: vec![2],
        forced_eos_token_id: vec![1],
        sequence_bias: vec![SequenceBias { ids: vec![2], bias: -1.5 }],
        exponential_decay_length_penalty: Some((5, 1.1)),
        ..Choosing::default()
    };
    assert_eq!((read.choosing, read.max_new_tokens), (expected, Some(20)));
    assert_eq!(read.not_followed, ["num_beams = 4", "penalty_alpha = 0.6"]);
    assert_eq!(read.followed.len(), 10, "{:?}", read.followed);
    assert_eq!(read.followed[..3], ["repetition_penalty = 1.3", "no_repeat_ngram_size = 3", "bad_words_ids = [[2,3],[1]]"]);
    let usual = json!({"eos_token_id": 1, "repetition_penalty": 1.0, "num_beams": 1, "min_length": 0, "guidance_scale": null});
    let usual = super::tests::read(&[(GENERATION_CONFIG_FILE, usual)]).generation;
    assert!(usual.choosing.is_plain() && usual.not_followed.is_empty() && usual.followed.is_empty());
}

#[test]
fn what_no_reader_could_use_is_refused_by_key() {
    let generation = |value: Value| refusal(&[(GENERATION_CONFIG_FILE, value)]);
    assert_eq!(
        generation(json!({"eos_token_id": "</s>"})),
        "generation_config.json: eos_token_id must be a token id or a list of token ids, got \"</s>\"; mend or remove it"
    );
    assert_eq!(
        generation(json!({"repetition_penalty": -2})),
        "generation_config.json: repetition_penalty must be a number above 0, got -2; mend or remove it"
    );
    assert_eq!(generation(Value::Null), "generation_config.json must hold an object, got null");
    assert_eq!(refusal(&[(SPECIAL_TOKENS_FILE, json!([]))]), "special_tokens_map.json must hold an object, got a list");
}

/// As everywhere in the program: a path that leads to the wrong thing is the input's fault, a disk that fails is not.
#[test]
fn a_file_that_is_none_is_the_inputs_fault() {
    use std::io::ErrorKind;
    let fault = |kind: ErrorKind| CompanionError::Read { path: "m/config.json".into(), source: kind.into() }.fault();
    for kind in [ErrorKind::NotADirectory, ErrorKind::IsADirectory, ErrorKind::FileTooLarge, ErrorKind::InvalidData] {
        assert_eq!(fault(kind), Fault::BadInput, "{kind}");
    }
    assert_eq!((fault(ErrorKind::PermissionDenied), fault(ErrorKind::Other)), (Fault::Failed, Fault::Failed));
}

/// Golden of `tests/goldens/make/golden_tokenizer_class.py`: transformers 5.17.0 on the embedded model's tokenizer.
#[test]
fn a_tokenizer_that_is_built_anew_reads_as_transformers_builds_it() {
    let golden: Value = serde_json::from_str(include_str!("../../tests/goldens/tokenizer_class.json")).expect("JSON");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa");
    let texts: Vec<&str> = golden["texts"].as_array().expect("texts").iter().filter_map(Value::as_str).collect();
    let cases = golden["cases"].as_array().expect("cases");
    let mut anew = 0;
    for case in cases {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for file in [CONFIG_FILE, TOKENIZER_FILE, SPECIAL_TOKENS_FILE] {
            fs::copy(fixture.join(file), dir.path().join(file)).expect("the fixture has it");
        }
        let settings = object(&fixture.join(TOKENIZER_CONFIG_FILE)).expect("readable").expect("there");
        let settings: Map<String, Value> =
            settings.into_iter().chain(case["settings"].as_object().expect("settings").clone()).collect();
        fs::write(dir.path().join(TOKENIZER_CONFIG_FILE), Value::from(settings).to_string()).expect("it is ours");
        let own = Tokenizer::of_model(dir.path()).expect("a tokenizer");
        let rebuilt = Rebuilt::read(dir.path()).expect("readable");
        anew += usize::from(rebuilt.is_some());
        let reads = rebuilt.as_ref().map_or(&own, |rebuilt| rebuilt.tokenizer().expect("known"));
        for (text, (ids, decoded)) in
            texts.iter().zip(case["ids"].as_array().expect("ids").iter().zip(case["decoded"].as_array().expect("texts")))
        {
            assert_eq!(json!(reads.encode(text, true).expect("read")), *ids, "{}: {text:?}", case["settings"]);
            let written = reads.decode(&own.encode(text, true).expect("read"), true).expect("written");
            assert_eq!(json!(written), *decoded, "{}: {text:?}", case["settings"]);
            if let Some(rebuilt) = &rebuilt {
                let same = own.encode(text, true).expect("read") == reads.encode(text, true).expect("read");
                assert!(same || rebuilt.agrees(&own, text).expect("read") == Some(false), "{}: {text:?}", case["settings"]);
            }
        }
    }
    assert_eq!((anew, cases.len()), (8, 11));
}

#[test]
fn tokens_beyond_the_vocabulary_are_refused_where_transformers_fails_on_them() {
    let config = || (CONFIG_FILE, json!({"vocab_size": 8}));
    for (key, value) in [
        ("bad_words_ids", json!([[2, 8]])),
        ("sequence_bias", json!([[[9], 1.0]])),
        ("forced_bos_token_id", json!(8)),
        ("forced_eos_token_id", json!([1, 8])),
    ] {
        let said = refusal(&[config(), (GENERATION_CONFIG_FILE, json!({key: value}))]);
        assert!(said.contains(&format!("{key} must be of tokens of the vocabulary, which has 8, got token")), "{said}");
    }
    // torch.isin finds none of them.
    let inside = read(&[config(), (GENERATION_CONFIG_FILE, json!({"suppress_tokens": [99], "bad_words_ids": [[7]]}))]);
    assert_eq!(inside.generation.choosing.suppress_tokens, [99]);
}
