//! What is taken from a cache, and what is not, when nobody can ask the hub.

use std::error::Error;
use std::fs;
use std::process::Command;

use qonnx::checkpoint::CheckpointError;
use qonnx::checkpoint::hub::{HubError, Selection};
use qonnx::fault::Fault;

use super::server::COMMIT;
use super::{Setup, sharded, single};

/// A file that is what the hub has, and that weights are not read from.
#[test]
fn a_header_that_is_refused_is_no_damage_of_the_cache() {
    let json = br#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,1]}}"#;
    let contents = [&(json.len() as u64).to_le_bytes()[..], json, b"x"].concat();
    let mut files = single();
    files.retain(|(name, _)| *name != "model.safetensors");
    files.push(("model.safetensors", contents));
    let mut setup = Setup::new(&files);
    let dir = setup.model("org/tiny").expect("fetched");
    setup.server.take_log();
    let pinned = format!("org/tiny@{COMMIT}");
    assert_eq!(setup.model(&pinned).expect("cached"), dir);
    assert_eq!(setup.server.take_log(), [], "a whole commit costs no request");
    assert_eq!(setup.model("org/tiny").expect("cached"), dir);
    assert_eq!(setup.weight_requests(), []);
    setup.config.offline = true;
    assert_eq!(setup.model("org/tiny").expect("cached"), dir);
    for name in ["org/tiny", &pinned] {
        let refused = setup.hub().model_headers(name).expect_err("no such element type");
        assert!(matches!(&refused, HubError::Checkpoint(CheckpointError::Header { .. })), "{refused:?}");
        let said = refused.to_string();
        assert_eq!(said.matches("model.safetensors").count(), 1, "{said}");
    }
}

#[test]
fn a_data_set_that_is_cached_in_part_is_not_taken_for_the_whole() {
    let part = |number: usize| format!("data/train-0000{number}-of-00003.jsonl");
    let parts = [part(0), part(1), part(2)];
    let files: Vec<(&str, Vec<u8>)> = parts.iter().map(|name| (name.as_str(), name.clone().into_bytes())).collect();
    let mut setup = Setup::new(&files);
    let train = |setup: &Setup| setup.hub().dataset("org/tiny", Some("train"));
    let refusal = |setup: &Setup| train(setup).expect_err("files are missing");
    setup.hub().data_files("org/tiny", Selection::File(&parts[0])).expect("one of them");
    setup.config.offline = true;
    let refused = refusal(&setup);
    let expected = format!(
        "data set org/tiny@main: the cache {} lacks {}, {} of its numbered files, and the hub is not there to be asked for them; run \
         once with network and without HF_HUB_OFFLINE",
        setup.config.cache.display(),
        parts[1],
        parts[2]
    );
    assert_eq!((refused.to_string(), refused.fault()), (expected, Fault::Failed));
    assert!(setup.hub().dataset("org/tiny", None).is_err(), "the same without a split");
    setup.hub().data_files("org/tiny", Selection::File(&parts[0])).expect("the one that was asked for");

    setup.config.offline = false;
    let endpoint = std::mem::replace(&mut setup.config.endpoint, "http://127.0.0.1:9".into());
    let refused = refusal(&setup);
    let why = refused.source().expect("the hub did not answer").to_string();
    assert!(refused.to_string().contains(&parts[2]) && why.contains("cannot be reached"), "{refused}: {why}");

    setup.config.endpoint = endpoint;
    let paths = train(&setup).expect("fetched");
    setup.config.offline = true;
    assert_eq!(train(&setup).expect("all are there"), paths);
    fs::remove_file(&paths[1]).expect("it is ours");
    let said = refusal(&setup).to_string();
    assert!(said.contains(&format!("lacks {} of its numbered files", parts[1])), "{said}");
}

#[test]
fn files_that_the_hub_was_never_asked_for_are_named() {
    let setup = Setup::new(&sharded());
    setup.model("org/tiny").expect("fetched");
    let offline = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.args(["plan", "org/tiny"]).env("HF_HUB_CACHE", &setup.config.cache).env("HF_HUB_OFFLINE", "1");
        String::from_utf8(command.env_remove("RUST_LOG").output().expect("qonnx starts").stderr).expect("UTF-8")
    };
    let words = "the hub was never asked";
    let said = offline();
    assert!(!said.contains(words), "it has said that there are none: {said}");
    let absent = setup.config.cache.join("models--org--tiny/.no_exist").join(COMMIT);
    fs::remove_file(absent.join("generation_config.json")).expect("it was noted");
    fs::remove_file(absent.join("special_tokens_map.json")).expect("it was noted");
    let said = offline();
    let named = format!("generation_config.json, special_tokens_map.json: not in the cache, and {words}");
    assert!(said.contains(&named), "{said}");
    assert!(said.contains("run once with network") && !said.contains("tokenizer_config.json"), "{said}");
}
