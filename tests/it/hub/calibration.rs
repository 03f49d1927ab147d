//! A calibration set whose source is a hub data set.

use std::path::Path;

use qonnx::calib::{SetError, Vocabulary, load};
use qonnx::fault::Fault;

use super::Setup;
use super::server::COMMIT;

fn lines(count: usize) -> Vec<u8> {
    let line = |index: usize| serde_json::json!({ "body": format!("Row {index} has words enough for a sequence of its own.") });
    (0..count).flat_map(|index| (line(index).to_string() + "\n").into_bytes()).collect()
}

#[test]
fn a_calibration_set_names_a_hub_data_set() {
    let files = [("en/part one.json", lines(30)), ("data/train_sft-0.jsonl", lines(20)), ("data/check_sft-0.jsonl", lines(10))];
    let mut setup = Setup::new(&files);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-coqa");
    let vocabulary = Vocabulary::open(&fixture, 4096).expect("a tokenizer");
    let path = setup.home.path().join("set.toml");
    let load = |setup: &Setup, source: &str| {
        let toml = format!(
            "licence = \"CC0\"\nform = \"text\"\npacking = \"documents\"\nsamples = 8\nlength = 8\n[source]\nhub = \"org/tiny\"\n\
             field = \"body\"\n{source}"
        );
        std::fs::write(&path, toml).expect("written");
        load(path.to_str().expect("UTF-8"), &vocabulary, || Ok(setup.hub()))
    };
    let pinned = format!("revision = \"{COMMIT}\"\nfile = \"en/part one.json\"");
    let set = load(&setup, &pinned).expect("fetched");
    assert_eq!(set.record.source, format!("org/tiny@{COMMIT}: en/part one.json"));
    let gets = setup.server.take_log().into_iter().filter(|request| request.method == "GET");
    let fetched: Vec<String> = gets.map(|request| request.path).filter(|path| path.contains("/resolve/")).collect();
    assert_eq!(fetched, [format!("/datasets/org/tiny/resolve/{COMMIT}/en/part%20one.json")], "one file of three");
    assert_eq!(load(&setup, &pinned).expect("cached").hash(), set.hash());
    assert_eq!(setup.server.take_log(), [], "a cached file of a commit costs no request");

    let split = load(&setup, "split = \"check_sft\"").expect("fetched");
    assert_eq!(split.record.source, format!("org/tiny@{COMMIT}: split check_sft"));
    let error = load(&setup, "file = \"en/part two.json\"").expect_err("absent");
    assert_eq!(
        error.to_string(),
        "repository org/tiny@main: no file en/part two.json; name a file as the data set's page on the hub lists it"
    );
    assert_eq!(error.fault(), Fault::BadInput);

    setup.config.offline = true;
    assert_eq!(load(&setup, "file = \"en/part one.json\"").expect("cached").hash(), set.hash());
    let error = load(&setup, "file = \"data/train_sft-0.jsonl\"").expect_err("offline");
    assert!(matches!(error, SetError::Hub(_)) && error.to_string().contains("is not in the cache"), "{error}");
    for outside in ["../../../set.toml", "/etc/hostname"] {
        let error = load(&setup, &format!("revision = \"{COMMIT}\"\nfile = \"{outside}\"")).expect_err("outside");
        assert!(error.to_string().contains("is not in the cache"), "{error}");
    }
}
