//! Calibration sets from files, on the tokenizer of the embedded model.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use qonnx::calib::{CalibrationSet, Fingerprint, SetError, Vocabulary, builtin_sets, load, refuse_recorded_leak};
use qonnx::checkpoint::hub::{Hub, HubError};
use qonnx::eval::coqa::{self, Dataset};
use qonnx::fault::Fault;
use serde_json::json;
use tokenizers::Tokenizer;

const VOCAB_SIZE: usize = 4096;
const BOS: u32 = 0;

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa").join(file)
}

fn vocabulary() -> Vocabulary {
    Vocabulary::open(&fixture(""), VOCAB_SIZE).expect("a tokenizer")
}

fn no_hub() -> Result<Hub, HubError> {
    panic!("a local set asks for no hub")
}

fn ids(text: &str) -> Vec<u32> {
    let tokenizer = Tokenizer::from_file(fixture("tokenizer.json")).expect("a tokenizer");
    tokenizer.encode(text, true).expect("encodes").get_ids().to_vec()
}

fn stories() -> Dataset {
    coqa::load(&fixture("coqa-mini.json")).expect("the fixture")
}

/// A folder with a set `set.toml` and what it names.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        files.iter().for_each(|(name, text)| folder.put(name, text.as_bytes()));
        folder
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(name), bytes).expect("written");
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn load(&self, toml: &str) -> Result<CalibrationSet, SetError> {
        self.load_for(toml, &vocabulary())
    }

    fn load_for(&self, toml: &str, vocabulary: &Vocabulary) -> Result<CalibrationSet, SetError> {
        self.put("set.toml", format!("licence = \"CC0\"\n{toml}").as_bytes());
        load(&self.path("set.toml"), vocabulary, no_hub)
    }

    /// The sentence with which a set is refused, the folder's name cut out.
    fn refusal(&self, toml: &str) -> String {
        let error = self.load(toml).expect_err(toml);
        assert_eq!(error.fault(), Fault::BadInput, "{error}");
        error.to_string().replace(&self.path(""), "")
    }
}

fn jsonl(texts: &[&str]) -> String {
    texts.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect()
}

const THREE: [&str; 3] = [
    "The cat sat by the window and looked at the rain for a long time.",
    "In the summer they went to the sea, and in the winter they stayed at home.",
    "No one knew who had written the letter, but it was a good one.",
];

#[test]
fn the_projects_own_set_is_what_it_was() {
    let set = load("own-36x256", &vocabulary(), no_hub).expect("built in");
    assert_eq!((set.name(), set.sequences.len(), set.tokens()), ("own-36x256", 36, 36 * 256));
    assert!(set.sequences.iter().all(|sequence| sequence.len() == 256));
    // The set has this tokenizer's hash, so what was checked while loading is not nothing.
    let toml = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("calibration/own-36x256.toml")).expect("there");
    assert!(toml.contains(&format!("{} = \"{}\"", &set.record.tokenizer[..16], set.hash())), "{:?}", set.record);
    assert_eq!((set.record.source.as_str(), set.record.form.as_str()), ("own.txt", "text"));
    set.refuse_leak(&stories(), "coqa-mini.json").expect("the project's own set is not its own evaluation");
}

#[test]
fn built_in_sets_are_valid_and_complete() {
    for name in builtin_sets() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("calibration").join(format!("{name}.toml"));
        let set = qonnx::calib::SetFile::parse(name, &fs::read_to_string(file).expect("there")).expect(name);
        let size = format!("{}x{}", set.samples.expect(name), set.length.expect(name));
        assert!(name.ends_with(&size), "{name} is {size}");
        let is_pinned = |revision: &String| revision.len() == 40;
        assert!(set.source.hub.is_none() || set.source.revision.as_ref().is_some_and(is_pinned), "{name}");
    }
}

#[test]
fn packed_text_has_bos_where_documents_begin() {
    let folder = Folder::new(&[("t.jsonl", &jsonl(&THREE))]);
    let each: Vec<Vec<u32>> = THREE.iter().map(|text| ids(text)).collect();
    let tokens: usize = each.iter().map(Vec::len).sum();
    let samples = tokens / 10;
    let set = folder
        .load(&format!("source = {{ file = \"t.jsonl\" }}\nform = \"text\"\nsamples = {samples}\nlength = 10"))
        .expect("loads");
    let stream = set.sequences.concat();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let is_one_of_them = orders.iter().any(|order| order.map(|at| each[at].clone()).concat().starts_with(&stream));
    assert!(is_one_of_them, "{stream:?}");
    assert_eq!(stream.iter().filter(|id| **id == BOS).count(), 3);
    assert_eq!((set.tokens(), set.record.licence.as_str(), set.record.packing.as_str()), (samples * 10, "CC0", "packed"));
}

#[test]
fn documents_are_one_a_sequence() {
    let texts = [THREE[0], "Short.", THREE[1], "Also short.", THREE[2]];
    let folder = Folder::new(&[("t.jsonl", &jsonl(&texts))]);
    let set = folder
        .load("source.file = \"t.jsonl\"\nform = \"text\"\npacking = \"documents\"\nsamples = 3\nlength = 12\nseed = 5")
        .expect("loads");
    let mut expected: Vec<Vec<u32>> = THREE.iter().map(|text| ids(text)[..12].to_vec()).collect();
    let mut got = set.sequences.clone();
    expected.sort();
    got.sort();
    assert_eq!(got, expected);
    assert!(set.record.too_short <= 2);
    let sentence =
        folder.refusal("source.file = \"t.jsonl\"\nform = \"text\"\npacking = \"documents\"\nsamples = 4\nlength = 12");
    assert_eq!(
        sentence,
        "calibration set set: too little text: 3 of 4 sequences of 12 tokens, 2 documents are shorter; lower samples or length, or \
         give more text"
    );
}

#[test]
fn a_text_file_is_one_document_or_those_between_separators() {
    let folder = Folder::new(&[("t.txt", "First one here.\n\nStill the first.\n%%\n\nThe second one.\n%%\n")]);
    let set = "form = \"text\"\npacking = \"documents\"\nsamples = 2\nlength = 3\n[source]\nfile = \"t.txt\"\n";
    let found = folder.load(&format!("{set}separator = \"%%\"")).expect("loads").sequences;
    let expected = ["First one here.\n\nStill the first.", "The second one."].map(|text| ids(text)[..3].to_vec());
    assert!(expected.iter().all(|ids| found.contains(ids)), "{found:?}");
    assert!(folder.refusal(set).contains("1 of 2 sequences"));
}

#[test]
fn rows_are_joined_to_one_text() {
    let folder = Folder::new(&[("t.jsonl", &jsonl(&["The first line\n", "", "and the second.\n"]))]);
    let whole = ids("The first line\nand the second.\n");
    let toml = format!("form = \"text\"\nsamples = 1\nlength = {}\n[source]\nfile = \"t.jsonl\"\njoin = \"\"", whole.len());
    assert_eq!(folder.load(&toml).expect("loads").sequences, [whole]);
}

#[test]
fn the_same_seed_gives_the_same_hash_on_any_day() {
    let texts: Vec<String> = (0..40).map(|index| format!("{} And {index} more.", THREE[index % 3])).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = Folder::new(&[("t.jsonl", &jsonl(&texts))]);
    let hash = |seed: u64| {
        let toml = format!("source.file = \"t.jsonl\"\nform = \"text\"\nsamples = 6\nlength = 16\nseed = {seed}");
        folder.load(&toml).expect("loads").hash().to_owned()
    };
    assert_eq!(hash(7), hash(7));
    assert_ne!(hash(7), hash(8));
}

#[test]
fn the_hash_is_of_lengths_and_ids() {
    let folder = Folder::new(&[("ids.json", "{\"note\": \"n\", \"sequences\": [[5, 6, 7], [300, 0]]}")]);
    let set = load(&folder.path("ids.json"), &vocabulary(), no_hub).expect("loads");
    let bytes: Vec<u8> = [3u32, 5, 6, 7, 2, 300, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(set.hash(), blake3::hash(&bytes).to_hex().to_string());
    assert_eq!((set.sequences, set.record.set.as_str()), (vec![vec![5, 6, 7], vec![300, 0]], "ids"));
    assert_eq!((set.record.form.as_str(), set.record.licence.as_str()), ("ids", "not stated"));
}

#[test]
fn another_hash_is_refused_unless_it_is_another_tokenizers() {
    let folder = Folder::new(&[("ids.json", "[[5, 6, 7]]")]);
    let set = "source.file = \"ids.json\"\nform = \"ids\"\n";
    let right = folder.load(set).expect("loads");
    folder.load(&format!("{set}hash = \"{}\"", right.hash())).expect("the right hash");
    let sentence = folder.refusal(&format!("{set}hash = \"1234\""));
    let expected = format!("calibration set set: its token ids have hash {}, expected 1234; the source or the", right.hash());
    assert!(sentence.starts_with(&expected), "{sentence}");
    let tokenizer = &right.record.tokenizer[..16];
    assert!(folder.refusal(&format!("{set}[hash]\n{tokenizer} = \"1234\"")).contains("expected 1234"));
    folder.load(&format!("{set}[hash]\n0123456789abcdef = \"1234\"")).expect("not this tokenizer's");
}

#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    let folder = Folder::new(&[("ids.json", "[[5, 6], [7, 4096]]")]);
    assert_eq!(
        folder.refusal("source.file = \"ids.json\"\nform = \"ids\""),
        "calibration set set: sequence 2 has token id 4096, but the model's vocabulary ends at 4095; use a set of this model's tokenizer"
    );
    let small = Vocabulary::open(&fixture(""), 40).expect("a tokenizer");
    folder.put("t.txt", b"Words that the smaller embedding has no rows for.");
    let error = folder.load_for("source.file = \"t.txt\"\nform = \"text\"\nsamples = 1\nlength = 4", &small).expect_err("beyond");
    assert!(matches!(error, SetError::BeyondVocabulary { vocab_size: 40, .. }), "{error}");
}

#[test]
fn a_conversation_is_the_evaluations_prompt_with_its_answers() {
    let Dataset::Conversations(stories) = stories() else { panic!("conversations") };
    let data = json!([{ "id": "a", "source": "s", "story": "A hen ran.", "questions": [{"input_text": "Who ran?", "turn_id": 1},
        {"input_text": "Where?", "turn_id": 2}], "answers": [{"input_text": "a hen", "turn_id": 1},
        {"input_text": "unknown", "turn_id": 2}] }]);
    let folder = Folder::new(&[("c.json", &data.to_string())]);
    fs::copy(fixture("coqa-mini.json"), folder.path("mini.json")).expect("copied");
    let whole = ids("A hen ran.\n\nQ: Who ran?\n\nA: a hen\n\nQ: Where?\n\nA: unknown");
    let toml = |file: &str, samples: usize, length: usize| {
        format!("source.file = \"{file}\"\nform = \"coqa\"\npacking = \"documents\"\nsamples = {samples}\nlength = {length}")
    };
    assert_eq!(folder.load(&toml("c.json", 1, whole.len())).expect("loads").sequences, [whole]);
    let set = folder.load(&toml("mini.json", stories.len(), 50)).expect("loads");
    let beginning = ids(&stories[0].story)[..40].to_vec();
    assert!(set.sequences.iter().any(|sequence| sequence.starts_with(&beginning)));
    let leak = set.refuse_leak(&Dataset::Conversations(stories.clone()), "mini.json").expect_err("the same stories").to_string();
    assert!(leak.contains(&format!("with document {} (and {} more)", stories[0].id, stories.len() - 1)), "{leak}");
}

#[test]
fn written_out_conversations_are_taken_as_they_are_and_others_are_refused() {
    let written = "A dog slept.\n\nQ: Who slept?\n\nA: a dog";
    let folder = Folder::new(&[("w.jsonl", &jsonl(&[written])), ("p.jsonl", &jsonl(&[written, "Only prose."]))]);
    let toml = |file: &str| {
        format!("form = \"coqa\"\nsamples = 1\nlength = {}\n[source]\nfile = \"{file}\"\nfield = \"text\"", ids(written).len())
    };
    assert_eq!(folder.load(&toml("w.jsonl")).expect("loads").sequences, [ids(written)]);
    assert_eq!(
        folder.refusal(&toml("p.jsonl")),
        "p.jsonl: line 2: expected a story, then \"\\n\\nQ: question\\n\\nA: answer\" turns, got \"Only prose.\"; mend the file, or name \
         another field in [source]"
    );
}

#[test]
fn rows_come_from_parquet_json_lists_and_packed_lines() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let folder = Folder::new(&[("list.json", &json!([{ "body": THREE[0] }, { "body": THREE[1] }]).to_string())]);
    fs::copy(goldens.join("coqa_stanfordnlp.parquet"), folder.path("c.parquet")).expect("copied");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(jsonl(&THREE[..2]).as_bytes()).expect("packs");
    folder.put("lines.json.gz", &packed.finish().expect("packs"));
    let load = |file: &str, form: &str, field: &str| {
        let toml =
            format!("form = \"{form}\"\npacking = \"documents\"\nsamples = 2\nlength = 8\n[source]\nfile = \"{file}\"\n{field}");
        folder.load(&toml).unwrap_or_else(|error| panic!("{file}: {error}")).sequences
    };
    assert_eq!(load("list.json", "text", "field = \"body\""), load("lines.json.gz", "text", ""));
    // A conversation begins with its story.
    assert_eq!(load("c.parquet", "coqa", ""), load("c.parquet", "text", "field = \"story\""));
}

/// A model folder with the embedded model's tokenizer and a chat template.
fn chat_model(config: serde_json::Value) -> Folder {
    let folder = Folder::new(&[("tokenizer_config.json", &config.to_string())]);
    fs::copy(fixture("tokenizer.json"), folder.path("tokenizer.json")).expect("copied");
    folder
}

const CHAT: &str =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi there\"}, {\"role\": \"assistant\", \"content\": \"Hello\"}]}\n";
const CHAT_SET: &str = "source.file = \"c.jsonl\"\nform = \"chat\"\nsamples = 1\nlength = ";

#[test]
fn chats_go_through_the_models_template_which_writes_bos_itself() {
    let template =
        "{{ bos_token }}{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}";
    let config =
        json!({ "bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|end_of_text|>"}, "chat_template": template });
    // A newline after a block goes, one before a block stays; transformers' apply_chat_template gives the same ids.
    let expected = ids("USER: Hi there<|end_of_text|>\nASSISTANT: Hello<|end_of_text|>\n");
    let folder = Folder::new(&[("c.jsonl", CHAT)]);
    let toml = format!("{CHAT_SET}{}", expected.len());
    let load = |config: serde_json::Value| {
        let model = chat_model(config);
        let vocabulary = Vocabulary::open(&PathBuf::from(model.path("")), VOCAB_SIZE)?;
        folder.load_for(&toml, &vocabulary).map(|set| set.sequences)
    };
    assert_eq!(load(config).expect("loads"), std::slice::from_ref(&expected));
    let named = json!([{ "name": "tool_use", "template": "x" }, { "name": "default", "template": template }]);
    let config = json!({ "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "chat_template": named });
    assert_eq!(load(config).expect("loads"), [expected]);
    let refusing = json!({ "chat_template": "{{ raise_exception('no system message') }}" });
    let sentence = load(refusing).expect_err("refused").to_string();
    assert!(sentence.starts_with("document 1: the model's chat template refuses it: no system message; take"), "{sentence}");
    let broken = json!({ "chat_template": "{% for %}" });
    let sentence = load(broken).expect_err("broken").to_string();
    assert!(sentence.contains("tokenizer_config.json: cannot be used as a chat template: line 1: "), "{sentence}");
}

/// Each template writes its own name. What counts was asked of transformers 5.17.0's from_pretrained and apply_chat_template.
#[test]
fn additional_templates_count_as_they_do_for_transformers() {
    const DEFAULT: &str = "additional_chat_templates/default.jinja";
    const OTHER: &str = "additional_chat_templates/tool_use.jinja";
    const NOTES: &str = "additional_chat_templates/notes.txt";
    const OWN: &str = "chat_template.jinja";
    const CONFIG: &str = "what tokenizer_config.json has";
    let folder = Folder::new(&[("c.jsonl", CHAT)]);
    for (files, counts) in [
        (&[][..], Some(CONFIG)),
        (&[NOTES], Some(CONFIG)),
        (&[OWN, OTHER], Some(OWN)),
        (&[DEFAULT], Some(DEFAULT)),
        (&[DEFAULT, OWN], Some(DEFAULT)),
        (&[DEFAULT, OWN, OTHER], Some(DEFAULT)),
        (&[OTHER], None),
    ] {
        let model = chat_model(json!({ "chat_template": CONFIG }));
        fs::create_dir(model.path("additional_chat_templates")).expect("made");
        files.iter().for_each(|name| model.put(name, name.as_bytes()));
        let vocabulary = Vocabulary::open(&PathBuf::from(model.path("")), VOCAB_SIZE).expect("a tokenizer");
        let written = counts.map(|name| {
            let tokenizer = Tokenizer::from_file(fixture("tokenizer.json")).expect("a tokenizer");
            tokenizer.encode(name, false).expect("encodes").get_ids().to_vec()
        });
        let length = written.as_ref().map_or(4, Vec::len);
        match (folder.load_for(&format!("{CHAT_SET}{length}"), &vocabulary), written) {
            (Ok(set), Some(written)) => assert_eq!(set.sequences, [written], "{files:?}"),
            (Err(error), None) => assert_eq!(
                error.to_string().replace(&model.path(""), ""),
                "additional_chat_templates: cannot be used as a chat template: it has no default.jinja and the model no \
                 chat_template.jinja, so transformers takes none; mend it, or use form = \"text\""
            ),
            (loaded, _) => panic!("{files:?}: {:?}", loaded.map(|set| set.sequences)),
        }
        folder.put("t.txt", THREE[0].as_bytes());
        let text = folder.load_for("source.file = \"t.txt\"\nform = \"text\"\nsamples = 1\nlength = 8", &vocabulary);
        text.expect("text needs no template");
    }
}

#[test]
fn a_model_without_a_template_takes_no_chats() {
    let folder = Folder::new(&[("c.jsonl", CHAT)]);
    let sentence = folder.refusal(&format!("{CHAT_SET}4"));
    assert!(
        sentence.contains("has no chat template (chat_template in tokenizer_config.json, or chat_template.jinja)"),
        "{sentence}"
    );
}

#[test]
fn a_tokenizer_that_was_saved_with_truncation_still_reads_whole_documents() {
    let model = chat_model(json!({}));
    let text = fs::read_to_string(fixture("tokenizer.json")).expect("there");
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    tokenizer["truncation"] = json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    model.put("tokenizer.json", tokenizer.to_string().as_bytes());
    let vocabulary = Vocabulary::open(&PathBuf::from(model.path("")), VOCAB_SIZE).expect("a tokenizer");
    let folder = Folder::new(&[("t.txt", THREE[0])]);
    let set = folder.load_for("source.file = \"t.txt\"\nform = \"text\"\nsamples = 1\nlength = 10", &vocabulary).expect("loads");
    assert_eq!(set.sequences, [ids(THREE[0])[..10].to_vec()]);
}

#[test]
fn every_refusal_says_where_and_what_to_do() {
    let folder = Folder::new(&[
        ("t.txt", "Some words."),
        ("e.txt", " \n"),
        ("bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n"),
        ("torn.jsonl", "{\"text\": \"a\"}\n{\"text\": "),
        ("bad.json", "[[1, 2], [3, \"x\"]]"),
        ("none.json", "{\"windows\": []}"),
        ("c.jsonl", "{\"messages\": [{\"from\": \"a\", \"value\": \"b\"}]}"),
    ]);
    let size = "samples = 1\nlength = 8\n";
    let text = |source: &str| format!("form = \"text\"\n{size}[source]\n{source}");
    let cases = [
        (text("file = \"t.txt\"\nsplits = \"train\""), "line 7: unknown field `splits`"),
        (format!("sample = 3\n{}", text("file = \"t.txt\"")), "line 2: unknown field `sample`"),
        ("form = \"texts\"\nsource.file = \"t.txt\"".to_owned(), "line 2: unknown variant `texts`"),
        (
            "form = \"text\"\nsource.file = \"t.txt\"\nhash = 3".to_owned(),
            "line 4: expected a hash, or a table of tokenizer hash = hash",
        ),
        (text(""), "[source] names neither a file nor a hub data set"),
        (text("file = \"t.txt\"\nrevision = \"main\""), "revision is for hub data sets"),
        (text("hub = \"a/b\"\nsplit = \"x\"\nfile = \"y\""), "split and file both choose files"),
        ("form = \"text\"\nsource.file = \"t.txt\"\nlength = 8".to_owned(), "samples is missing"),
        ("form = \"text\"\nsource.file = \"t.txt\"\nsamples = 8".to_owned(), "length is missing"),
        ("form = \"ids\"\nsource.file = \"bad.json\"\npacking = \"packed\"".to_owned(), "token ids are not packed"),
        (text("file = \"absent.txt\""), "absent.txt cannot be read; check the path"),
        (text("file = \"e.txt\""), "e.txt: holds no documents"),
        (text("file = \"t.txt\""), "0 of 1 sequences of 8 tokens; lower samples or length"),
        (text("file = \"bad.jsonl\""), "bad.jsonl: line 2: expected a string in field `text`, got {\"txt\":\"b\"}"),
        (text("file = \"torn.jsonl\""), "torn.jsonl: line 2: expected JSON, got EOF"),
        (
            "form = \"ids\"\nsource.file = \"bad.json\"".to_owned(),
            "bad.json: sequence 2: expected a list of token ids, got \"x\"",
        ),
        (
            "form = \"ids\"\nsource.file = \"none.json\"".to_owned(),
            "expected {\"sequences\": [[token id, …], …]}, got {\"windows\":[]}",
        ),
        (
            format!("form = \"chat\"\nsource.file = \"t.txt\"\n{size}"),
            "cannot be a calibration source of form chat; give a .jsonl",
        ),
        (format!("form = \"chat\"\nsource.file = \"c.jsonl\"\n{size}"), "line 1: expected a list of {\"role\", \"content\"}"),
    ];
    for (toml, says) in cases {
        let sentence = folder.refusal(&toml);
        assert!(sentence.contains(says), "{toml}\n{sentence}");
    }
    let unknown = load("no-such-set", &vocabulary(), no_hub).expect_err("unknown").to_string();
    assert!(unknown.contains("no such file, and no built-in set") && unknown.contains("own-36x256"), "{unknown}");
    let kind = load(&folder.path("t.txt"), &vocabulary(), no_hub).expect_err("no set").to_string();
    assert!(kind.contains("cannot be read as a set; give a .toml as in calibration/"), "{kind}");
}

#[test]
fn a_set_that_has_an_evaluation_story_is_refused_in_every_form() {
    let Dataset::Conversations(stories) = stories() else { panic!("conversations") };
    let story = &stories[3];
    // Among other text, in other case, and cut.
    let half: String = story.story.to_uppercase().chars().skip(20).take(600).collect();
    let folder = Folder::new(&[("t.txt", &format!("{} {half} {}", THREE[0], THREE[1]))]);
    folder.put("ids.json", json!({ "sequences": [ids(THREE[2]), ids(&story.story)] }).to_string().as_bytes());
    let length = ids(&half).len() + 10;
    let text = folder.load(&format!("source.file = \"t.txt\"\nform = \"text\"\nsamples = 1\nlength = {length}")).expect("loads");
    let token_ids = folder.load("source.file = \"ids.json\"\nform = \"ids\"").expect("loads");
    let evaluation = Dataset::Conversations(stories.clone());
    for set in [&text, &token_ids] {
        let error = set.refuse_leak(&evaluation, "mini.json").expect_err("leaks");
        let SetError::Leak { document, quote, words, .. } = &error else { panic!("{error}") };
        assert_eq!((document, error.fault()), (&story.id, Fault::BadInput));
        let plain: String = story.story.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
        let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
        let quote = quote.strip_suffix(" …").expect("more than is quoted");
        assert!(plain.contains(quote) && quote.split(' ').count() == 20 && *words > 50, "{words}: {quote}");
        // The artifact remembers it.
        let recorded = serde_json::from_str(&serde_json::to_string(&set.record).expect("writes")).expect("reads");
        let error = refuse_recorded_leak(&recorded, &evaluation, "mini.json").expect_err("leaks").to_string();
        assert!(error.contains(&story.id), "{error}");
        let others: Vec<_> = stories.iter().filter(|other| other.id != story.id).cloned().collect();
        set.refuse_leak(&Dataset::Conversations(others.clone()), "mini.json").expect("the other stories are not in it");
        refuse_recorded_leak(&recorded, &Dataset::Conversations(others), "mini.json").expect("nor are they recorded");
    }
    assert!(Fingerprint::of_texts([half.as_str()]).find([("x", THREE[0])]).is_none());
}
