//! Hubs that redirect, are busy, drip or send wrong bytes, and caches that are shared, damaged or cannot be written.

use std::fs;
use std::time::{Duration, Instant};

use qonnx::checkpoint::Index;
use qonnx::checkpoint::hub::{Hub, HubError};
use qonnx::fault::Fault;

use super::server::{COMMIT, Quirks, Server, git_blob, sha256};
use super::{Setup, assert_holds, sharded, single, weights};

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_port_of_its_host() {
    let mut setup = Setup::new(&single());
    setup.config.token = Some("hf_good".into());
    let other = Server::start(&single());
    setup.server.set(Quirks { elsewhere: Some(other.endpoint()), ..Quirks::default() });
    let dir = setup.model("org/tiny").expect("redirected");
    assert_holds(&dir, &[("config.json", b"{}".to_vec()), ("model.safetensors", weights(&["a", "b"], 100_000))]);
    let (ours, theirs) = (setup.server.take_log(), other.take_log());
    assert!(ours.iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_good")), "{ours:?}");
    assert!(theirs.iter().any(|request| request.method == "HEAD"), "headers that the hub does not give are asked for there");
    assert!(theirs.len() > 5 && theirs.iter().all(|request| request.authorization.is_none()), "{theirs:?}");
}

#[test]
fn a_redirect_to_what_is_no_web_server_is_refused() {
    let setup = Setup::new(&single());
    setup.server.set(Quirks { elsewhere: Some("file:///etc".into()), ..Quirks::default() });
    let (sentence, fault) = setup.refusal("org/tiny");
    assert!(sentence.contains("redirects to \"file:///etc/api/models/org/tiny/revision/main\""), "{sentence}");
    assert_eq!(fault, Fault::Failed);
    setup.server.set(Quirks { elsewhere: Some(setup.server.endpoint()), ..Quirks::default() });
    let (sentence, _) = setup.refusal("org/tiny");
    assert!(sentence.contains("more than 5 redirects"), "{sentence}");
}

#[test]
fn a_busy_hub_is_asked_again_after_as_long_as_it_says() {
    let mut setup = Setup::new(&sharded());
    setup.config.retries = 2;
    setup.server.set(Quirks { busy: 2, retry_after: Some("1"), ..Quirks::default() });
    let started = Instant::now();
    let dir = setup.model("org/tiny").expect("the third answer is the listing");
    assert!(started.elapsed() >= Duration::from_secs(2), "it was told to wait a second, twice");
    assert_holds(&dir, &sharded());
    let listings = setup.server.take_log().iter().filter(|request| request.path.starts_with("/api/")).count();
    assert_eq!(listings, 3);

    // A HEAD and a range request too, and without a word of how long.
    fs::remove_dir_all(&setup.config.cache).expect("it is ours");
    setup.hub().model_headers("org/tiny").expect("headers");
    fs::remove_file(dir.join("config.json")).expect("it is ours");
    setup.server.set(Quirks { busy: 1, ..Quirks::default() });
    setup.hub().model_headers("org/tiny").expect("headers again");
}

#[test]
fn a_hub_that_stays_busy_or_asks_for_too_long_is_named() {
    let mut setup = Setup::new(&single());
    for (retries, wait) in [(0, "7"), (1, "86400")] {
        setup.config.retries = retries;
        setup.server.set(Quirks { busy: 100, retry_after: Some(wait), ..Quirks::default() });
        let (sentence, fault) = setup.refusal("org/tiny");
        assert!(
            sentence.ends_with(&format!("answered HTTP 429 and asks to come back in {wait} s; try again then")),
            "{sentence}"
        );
        assert_eq!(fault, Fault::Failed);
    }
    setup.server.set(Quirks { busy: 100, ..Quirks::default() });
    setup.server.take_log();
    let (sentence, _) = setup.refusal("org/tiny");
    assert!(sentence.ends_with("the server answered HTTP 429, expected success; try again later"), "{sentence}");
    assert_eq!(setup.server.take_log().len(), 2, "one retry");
}

#[test]
fn a_store_that_stays_busy_is_asked_no_more_often_than_retries_say() {
    let mut setup = Setup::new(&single());
    setup.config.retries = 2;
    setup.server.set(Quirks { broken_store: true, ..Quirks::default() });
    let (sentence, fault) = setup.refusal("org/tiny");
    assert!(sentence.ends_with("the server answered HTTP 503, expected success; try again later"), "{sentence}");
    assert_eq!(fault, Fault::Failed);
    assert_eq!(setup.weight_requests().len(), 3);
}

#[test]
fn a_body_that_drips_is_given_up() {
    let mut setup = Setup::new(&single());
    (setup.config.silence, setup.config.retries) = (Duration::from_millis(400), 1);
    setup.server.set(Quirks { drip: Some(Duration::from_millis(20)), ..Quirks::default() });
    let (_, fault) = setup.refusal("org/tiny");
    assert_eq!(fault, Fault::Failed);

    // The listing came; the weights drip.
    let mut setup = Setup::new(&[("config.json", b"{}".to_vec()), ("model.safetensors", weights(&["a"], 100_000))]);
    let dir = setup.hub().model_headers("org/tiny").expect("headers").dir;
    assert!(dir.join("config.json").exists());
    (setup.config.silence, setup.config.retries) = (Duration::from_millis(400), 1);
    setup.server.set(Quirks { drip: Some(Duration::from_millis(20)), ..Quirks::default() });
    let error = setup.hub().model_headers(&format!("org/tiny@{COMMIT}")).expect_err("it would take half an hour");
    assert!(matches!(error, HubError::Unreachable { .. } | HubError::CutOff { .. }), "{error}");
}

#[test]
fn a_whole_cache_that_cannot_be_written_serves() {
    let setup = Setup::new(&single());
    let dir = setup.model("org/tiny").expect("fetched");
    // Root writes everywhere, but makes no folder of a file.
    let repository = setup.config.cache.join("models--org--tiny");
    for folder in ["refs", ".no_exist"] {
        fs::remove_dir_all(repository.join(folder)).expect("it is ours");
        fs::write(repository.join(folder), "in the way").expect("it is ours");
    }
    assert_eq!(setup.model("org/tiny").expect("what is there is enough"), dir);
    assert_eq!(setup.hub().model_headers("org/tiny").expect("the same").dir, dir);
}

#[test]
fn many_at_once_fill_one_cache() {
    for _ in 0..8 {
        let setup = Setup::new(&sharded());
        std::thread::scope(|scope| {
            let config = &setup.config;
            let one = || Hub::new(config.clone(), Box::new(())).model("org/tiny").map_err(|error| error.to_string());
            let all: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
            for one in all {
                assert_holds(&one.join().expect("no panic").expect("fetched, by itself or by another"), &sharded());
            }
        });
        let snapshot = setup.config.cache.join("models--org--tiny/snapshots").join(COMMIT);
        assert_eq!(fs::read_dir(snapshot).expect("there").count(), sharded().len(), "no link is left under another name");
    }
}

#[test]
fn a_damaged_cache_is_filled_again() {
    let setup = Setup::new(&single());
    let contents = weights(&["a", "b"], 100_000);
    let expected = [("config.json", b"{}".to_vec()), ("model.safetensors", contents.clone())];
    for name in ["org/tiny".to_owned(), format!("org/tiny@{COMMIT}")] {
        let dir = setup.model(&name).expect("fetched");
        fs::write(setup.blobs().join(git_blob(b"{}")), b"[]").expect("it is ours");
        let blob = setup.blobs().join(sha256(&contents));
        fs::write(&blob, &contents[..1000]).expect("it is ours");
        Index::open(&dir).expect_err("cut off");
        assert_holds(&setup.model(&name).expect("fetched again"), &expected);

        fs::write(&blob, &contents[..1000]).expect("it is ours");
        let headers = setup.hub().model_headers(&name).expect("those on the hub");
        assert_eq!(headers.index.iter().count(), 2);
        setup.model(&name).expect("fetched again");
    }
    let mut offline = Setup { config: setup.config.clone(), ..setup };
    offline.config.offline = true;
    assert_holds(&offline.model("org/tiny").expect("all of it is there"), &expected);
    // Known to be wrong, it is not used, and nothing is lost of what is there.
    let blob = offline.blobs().join(git_blob(b"{}"));
    fs::write(&blob, b"[]").expect("it is ours");
    let refused = offline.model("org/tiny").expect_err("what is there is not what the hub has");
    assert!(matches!(&refused, HubError::Damaged { path, .. } if path.ends_with(format!("{COMMIT}/config.json"))), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("SHA-1") && said.contains("run once with network and without HF_HUB_OFFLINE"), "{said}");
    assert_eq!(fs::read(&blob).expect("it is still there"), b"[]");
    let refused = offline.hub().model_headers("org/tiny").expect_err("the same");
    assert!(matches!(&refused, HubError::Damaged { .. }), "{refused:?}");
    fs::write(&blob, b"{}").expect("it is ours");
    let weights = offline.blobs().join(sha256(&contents));
    let mut flipped = contents.clone();
    *flipped.last_mut().expect("it has bytes") ^= 1;
    fs::write(&weights, &flipped).expect("it is ours");
    let said = offline.model("org/tiny").expect_err("one bit is another").to_string();
    assert!(said.contains("model.safetensors: the cached file is damaged (its sha256 is "), "{said}");
}

#[test]
fn a_small_file_with_other_bytes_than_the_hub_names_is_no_file() {
    let setup = Setup::new(&single());
    setup.server.set(Quirks { flip_small: true, ..Quirks::default() });
    let (sentence, fault) = setup.refusal("org/tiny");
    let expected = format!(", expected {}; nothing was kept, run the command again", git_blob(b"{}"));
    assert!(sentence.contains("config.json has SHA-1 ") && sentence.contains(&expected), "{sentence}");
    assert_eq!(fault, Fault::Failed);
    setup.server.set(Quirks::default());
    assert_holds(&setup.model("org/tiny").expect("fetched"), &[("config.json", b"{}".to_vec())]);
}

#[test]
fn a_token_that_cannot_be_sent_is_named_without_its_text() {
    let mut setup = Setup::new(&single());
    for token in ["hf_gehü", "hf_a b", "hf_\u{7f}"] {
        setup.config.token = Some(token.into());
        let (sentence, fault) = setup.refusal("org/tiny");
        assert!(sentence.contains("set HF_TOKEN again") && !sentence.contains("hf_"), "{sentence}");
        assert_eq!(fault, Fault::BadInput);
    }
    assert_eq!(setup.server.take_log(), []);
}

#[test]
fn shards_are_found_without_an_index() {
    let mut files = sharded();
    files.retain(|(name, _)| !name.ends_with(".index.json"));
    let setup = Setup::new(&files);
    assert_eq!(setup.hub().model_headers("org/tiny").expect("headers").index.iter().count(), 2);
    let dir = setup.model("org/tiny").expect("fetched");
    assert_holds(&dir, &files);
    setup.server.take_log();
    assert_eq!(setup.model(&format!("org/tiny@{COMMIT}")).expect("cached"), dir);
    assert_eq!(setup.server.take_log(), []);
}
