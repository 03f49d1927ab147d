//! Models and data sets from a hub that runs on a local port.

mod cached;
mod calibration;
mod push;
mod server;
mod taking;
mod trust;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use qonnx::checkpoint::hub::{Hub, HubConfig, HubError, Progress};
use qonnx::checkpoint::{Checkpoint, Index};
use qonnx::fault::Fault;
use safetensors::tensor::{Dtype, TensorView, serialize};
use server::{COMMIT, Quirks, Server, sha256};

/// A file with one bf16 tensor a name, each of `elements` different elements.
fn weights(names: &[&str], elements: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..elements).flat_map(|i| (0x3c00 + (i % 977) as u16).to_le_bytes()).collect();
    let view = || TensorView::new(Dtype::BF16, vec![elements], &bytes).expect("right size");
    serialize(names.iter().map(|name| (*name, view())), None).expect("valid")
}

fn single() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"tokens\": 1}".to_vec()),
        ("tokenizer_config.json", b"{ }".to_vec()),
        ("generation_config.json", b"{  }".to_vec()),
        ("special_tokens_map.json", b"{   }".to_vec()),
        ("pytorch_model.bin", b"never fetched".to_vec()),
        ("model.safetensors", weights(&["a", "b"], 100_000)),
    ]
}

fn sharded() -> Vec<(&'static str, Vec<u8>)> {
    let index = r#"{"metadata": {}, "weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"tokens\": 1}".to_vec()),
        ("model.safetensors.index.json", index.as_bytes().to_vec()),
        ("model-00001-of-00002.safetensors", weights(&["a"], 90_000)),
        ("model-00002-of-00002.safetensors", weights(&["b"], 80_000)),
    ]
}

/// A hub with an empty cache, and a server for it.
struct Setup {
    server: Server,
    home: tempfile::TempDir,
    config: HubConfig,
}

impl Setup {
    fn new(files: &[(&str, Vec<u8>)]) -> Setup {
        let server = Server::start(files);
        let home = tempfile::tempdir().expect("a folder");
        let config = HubConfig {
            endpoint: server.endpoint(),
            cache: home.path().join("hub"),
            token: None,
            offline: false,
            retries: 0,
            retry_wait: Duration::from_millis(1),
            silence: Duration::from_secs(10),
        };
        Setup { server, home, config }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.config.clone(), Box::new(()))
    }

    fn model(&self, name: &str) -> Result<PathBuf, HubError> {
        self.hub().model(name)
    }

    /// The sentence and fault with which `name` is refused.
    fn refusal(&self, name: &str) -> (String, Fault) {
        let error = self.model(name).expect_err("refused");
        (error.to_string(), error.fault())
    }

    fn blobs(&self) -> PathBuf {
        self.home.path().join("hub/models--org--tiny/blobs")
    }

    fn part_of(&self, contents: &[u8]) -> PathBuf {
        self.blobs().join(format!("{}.part", sha256(contents)))
    }

    /// Requests for the weights' bytes since the last look, as (host, range).
    fn weight_requests(&self) -> Vec<(String, Option<String>)> {
        let log = self.server.take_log().into_iter();
        log.filter(|r| r.path.starts_with("/store/")).map(|r| (r.host, r.range)).collect()
    }
}

fn assert_holds(dir: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        assert!(fs::read(dir.join(name)).unwrap_or_default() == *bytes, "{name} differs");
    }
}

#[test]
fn a_single_file_model_is_fetched_once() {
    let mut setup = Setup::new(&single());
    setup.config.token = Some("hf_good".into());
    setup.server.set(Quirks { token: Some("hf_good"), ..Quirks::default() });
    let dir = setup.model("org/tiny").expect("fetched");
    let mut expected = single();
    expected.retain(|(name, _)| *name != "pytorch_model.bin");
    assert_holds(&dir, &expected);
    assert!(!dir.join("pytorch_model.bin").exists());
    let checkpoint = Checkpoint::open(&dir).expect("valid");
    assert_eq!(checkpoint.tensor("b").expect("there").bytes.len(), 200_000);

    let log = setup.server.take_log();
    let (store, hub): (Vec<_>, Vec<_>) = log.into_iter().partition(|r| r.host == "localhost");
    assert!(hub.iter().all(|r| r.authorization.as_deref() == Some("Bearer hf_good")), "{hub:?}");
    assert_eq!(store.len(), 1);
    assert_eq!(store[0].authorization, None, "the token must not reach the store");

    assert_eq!(setup.model("org/tiny").expect("cached"), dir);
    let log: Vec<String> = setup.server.take_log().into_iter().map(|r| r.path).collect();
    assert_eq!(log, ["/api/models/org/tiny/revision/main"], "a branch costs one request");
    assert_eq!(setup.model(&format!("org/tiny@{COMMIT}")).expect("cached"), dir);
    assert_eq!(setup.server.take_log(), [], "a cached commit costs none");
}

#[test]
fn a_sharded_model_is_fetched_whole_and_absent_optional_files_are_remembered() {
    let setup = Setup::new(&sharded());
    let dir = setup.model("org/tiny").expect("fetched");
    assert_holds(&dir, &sharded());
    assert_eq!(Index::open(&dir).expect("valid").iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
    setup.server.take_log();
    assert_eq!(setup.model(&format!("org/tiny@{COMMIT}")).expect("cached"), dir);
    assert_eq!(setup.server.take_log(), []);
}

#[test]
fn a_folder_is_returned_as_it_is_and_other_names_are_refused() {
    let setup = Setup::new(&single());
    let folder = setup.home.path().to_str().expect("UTF-8");
    assert_eq!(setup.model(folder).expect("a folder"), PathBuf::from(folder));
    assert_eq!(
        setup.refusal("no-such-model"),
        (
            "model \"no-such-model\": neither a folder nor a repository of the hub; give an existing folder, or org/name or \
             org/name@revision"
                .into(),
            Fault::BadInput
        )
    );
    assert_eq!(
        setup.refusal("org/tiny@../x"),
        ("repository org/tiny: \"../x\" is no branch, tag or commit; give org/name@revision".into(), Fault::BadInput)
    );
    assert_eq!(setup.server.take_log(), []);
}

#[test]
fn refused_access_says_what_to_do_about_it() {
    let mut setup = Setup::new(&single());
    setup.server.set(Quirks { token: Some("hf_good"), ..Quirks::default() });
    let (sentence, fault) = setup.refusal("org/tiny");
    assert!(
        sentence.starts_with("repository org/tiny: access refused (HTTP 401) and no token is set; set HF_TOKEN"),
        "{sentence}"
    );
    assert_eq!(fault, Fault::Failed);
    setup.config.token = Some("hf_bad".into());
    let (sentence, _) = setup.refusal("org/tiny");
    assert!(sentence.contains("access refused (HTTP 401) for the token in use; set HF_TOKEN"), "{sentence}");
    setup.server.set(Quirks { gated: true, ..Quirks::default() });
    let (sentence, fault) = setup.refusal("org/tiny");
    let endpoint = setup.server.endpoint();
    assert_eq!(
        sentence,
        format!(
            "repository org/tiny: access is gated (HTTP 403) for the token in use; accept its licence at {endpoint}/org/tiny and \
             set HF_TOKEN to a token of the account that did"
        )
    );
    assert_eq!(fault, Fault::Failed);
    assert!(!setup.blobs().exists(), "nothing is left behind");
}

#[test]
fn what_is_not_there_is_named() {
    let setup = Setup::new(&single());
    let endpoint = setup.server.endpoint();
    let missing = format!("repository org/none: not found on {endpoint}; check the name, or set HF_TOKEN if it is private");
    assert_eq!(setup.refusal("org/none"), (missing, Fault::BadInput));
    let missing =
        format!("repository org/tiny: no branch, tag or commit v9; see {endpoint}/org/tiny/tree/main for those there are");
    assert_eq!(setup.refusal("org/tiny@v9"), (missing, Fault::BadInput));
    let mut files = single();
    files.retain(|(name, _)| *name != "tokenizer.json");
    let (sentence, fault) = Setup::new(&files).refusal("org/tiny");
    assert!(sentence.starts_with("repository org/tiny@main: no file tokenizer.json; take a repository in"), "{sentence}");
    assert_eq!(fault, Fault::BadInput);

    files.retain(|(name, _)| *name != "model.safetensors");
    let (sentence, fault) = Setup::new(&files).refusal("org/tiny");
    let expected = "repository org/tiny@main: no safetensors weights among its files (pytorch_model.bin); convert them to \
                    safetensors first";
    assert_eq!((sentence.as_str(), fault), (expected, Fault::BadInput));
}

#[test]
fn a_download_that_broke_off_goes_on_in_the_next_run() {
    let setup = Setup::new(&single());
    let contents = weights(&["a", "b"], 100_000);
    setup.server.set(Quirks { cut_after: Some(150_001), ..Quirks::default() });
    let (sentence, fault) = setup.refusal("org/tiny");
    let expected = format!(
        "repository org/tiny@main: model.safetensors broke off at 150001 of {} bytes; run the command again, it goes on from there",
        contents.len()
    );
    assert_eq!((sentence, fault), (expected, Fault::Failed));
    assert_eq!(fs::read(setup.part_of(&contents)).expect("the part"), &contents[..150_001]);
    assert_eq!(setup.weight_requests(), [("localhost".into(), None)]);

    let told = Told::default();
    let dir = Hub::new(setup.config.clone(), Box::new(told.clone())).model("org/tiny").expect("resumed");
    assert_eq!(setup.weight_requests(), [("localhost".into(), Some("bytes=150001-".into()))]);
    let bytes = contents.len() as u64;
    let begun = Begun { file: "model.safetensors".into(), bytes, resumed: 150_001, advanced: bytes - 150_001 };
    assert_eq!(told.0.borrow().last(), Some(&begun));
    assert_holds(&dir, &[("model.safetensors", contents.clone())]);
    assert!(!setup.part_of(&contents).exists());
}

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<Begun>>>);

#[derive(Debug, PartialEq)]
struct Begun {
    file: String,
    bytes: u64,
    resumed: u64,
    advanced: u64,
}

impl Progress for Told {
    fn begin(&mut self, file: &str, bytes: u64, resumed: u64) {
        self.0.borrow_mut().push(Begun { file: file.into(), bytes, resumed, advanced: 0 });
    }
    fn advance(&mut self, bytes: u64) {
        self.0.borrow_mut().last_mut().expect("a file began").advanced += bytes;
    }
    fn end(&mut self) {}
}

#[test]
fn a_download_that_breaks_off_goes_on_in_the_same_run() {
    let mut setup = Setup::new(&single());
    setup.config.retries = 1;
    setup.server.set(Quirks { cut_after: Some(70_000), ..Quirks::default() });
    let contents = weights(&["a", "b"], 100_000);
    let told = Told::default();
    let dir = Hub::new(setup.config.clone(), Box::new(told.clone())).model("org/tiny").expect("resumed");
    assert_eq!(setup.weight_requests(), [("localhost".into(), None), ("localhost".into(), Some("bytes=70000-".into()))]);
    assert_holds(&dir, &[("model.safetensors", contents.clone())]);
    let bytes = contents.len() as u64;
    assert_eq!(told.0.borrow().last(), Some(&Begun { file: "model.safetensors".into(), bytes, resumed: 0, advanced: bytes }));
}

#[test]
fn what_a_killed_process_left_is_used_only_if_it_is_right() {
    let setup = Setup::new(&single());
    let contents = weights(&["a", "b"], 100_000);
    let part = setup.part_of(&contents);
    fs::create_dir_all(setup.blobs()).expect("a folder");

    // All bytes were there already: nothing is asked for, and the hash decides.
    fs::write(&part, &contents).expect("written");
    let dir = setup.model("org/tiny").expect("complete");
    assert_eq!(setup.weight_requests(), []);
    assert_holds(&dir, &[("model.safetensors", contents.clone())]);

    // Bytes of something else: found out at the end, thrown away, right the next time.
    fs::remove_file(dir.join("model.safetensors")).expect("removed");
    fs::remove_file(setup.blobs().join(sha256(&contents))).expect("removed");
    fs::write(&part, vec![7; 1000]).expect("written");
    let (sentence, fault) = setup.refusal("org/tiny");
    assert!(
        sentence.contains(&format!(", expected {}; nothing was kept, run the command again", sha256(&contents))),
        "{sentence}"
    );
    assert_eq!(fault, Fault::Failed);
    assert!(!part.exists() && !dir.join("model.safetensors").exists());
    assert_holds(&setup.model("org/tiny").expect("fetched"), &[("model.safetensors", contents.clone())]);

    // Longer than the file: begun anew.
    fs::remove_file(dir.join("model.safetensors")).expect("removed");
    fs::remove_file(setup.blobs().join(sha256(&contents))).expect("removed");
    fs::write(&part, vec![7; contents.len() + 1]).expect("written");
    assert_holds(&setup.model("org/tiny").expect("fetched"), &[("model.safetensors", contents)]);
}

#[test]
fn a_server_that_ignores_ranges_sends_the_whole_file_again() {
    let setup = Setup::new(&single());
    let contents = weights(&["a", "b"], 100_000);
    setup.server.set(Quirks { cut_after: Some(1000), ignore_ranges: true, ..Quirks::default() });
    setup.refusal("org/tiny");
    setup.server.set(Quirks { ignore_ranges: true, ..Quirks::default() });
    assert_holds(&setup.model("org/tiny").expect("fetched"), &[("model.safetensors", contents)]);
}

#[test]
fn a_body_of_wrong_size_or_contents_is_no_file() {
    for (quirks, words) in [
        (Quirks { surplus: 5, ..Quirks::default() }, "model.safetensors came with"),
        (Quirks { flip_first_byte: true, ..Quirks::default() }, "model.safetensors has sha256"),
    ] {
        let setup = Setup::new(&single());
        let contents = weights(&["a", "b"], 100_000);
        setup.server.set(quirks);
        let (sentence, fault) = setup.refusal("org/tiny");
        assert!(sentence.contains(words) && sentence.contains("nothing was kept, run the command again"), "{sentence}");
        assert_eq!(fault, Fault::Failed);
        assert!(!setup.part_of(&contents).exists() && !setup.blobs().join(sha256(&contents)).exists());
        let snapshot = setup.home.path().join("hub/models--org--tiny/snapshots").join(COMMIT);
        assert!(!snapshot.join("model.safetensors").exists());
        assert!(!setup.home.path().join("hub/models--org--tiny/refs/main").exists(), "an incomplete commit gets no name");
        setup.server.set(Quirks::default());
        assert_holds(&setup.model("org/tiny").expect("fetched"), &[("model.safetensors", contents)]);
    }
}

#[test]
fn offline_uses_the_cache_and_nothing_else() {
    let mut setup = Setup::new(&sharded());
    setup.config.offline = true;
    let (sentence, fault) = setup.refusal("org/tiny");
    let cache = setup.config.cache.display().to_string();
    let expected = format!(
        "repository org/tiny@main: it is not in the cache {cache} and HF_HUB_OFFLINE is set; unset it and run once with network"
    );
    assert_eq!((sentence, fault), (expected, Fault::Failed));
    assert_eq!(setup.server.take_log(), []);

    setup.config.offline = false;
    let dir = setup.model("org/tiny").expect("fetched");
    setup.server.take_log();
    setup.config.offline = true;
    assert_eq!(setup.model("org/tiny").expect("cached"), dir);
    assert_eq!(setup.hub().model_headers("org/tiny").expect("cached").dir, dir);
    fs::remove_file(dir.join("model-00002-of-00002.safetensors")).expect("removed");
    let (sentence, _) = setup.refusal("org/tiny");
    assert!(sentence.contains("model-00002-of-00002.safetensors is not in the cache"), "{sentence}");
    assert_eq!(setup.server.take_log(), []);
}

#[test]
fn without_network_the_last_known_commit_serves() {
    let mut setup = Setup::new(&single());
    let endpoint = std::mem::replace(&mut setup.config.endpoint, "http://127.0.0.1:9".into());
    let (sentence, fault) = setup.refusal("org/tiny");
    assert!(sentence.starts_with("http://127.0.0.1:9 cannot be reached; check the network, HF_ENDPOINT"), "{sentence}");
    assert_eq!(fault, Fault::Failed);

    setup.config.endpoint = endpoint;
    let dir = setup.model("org/tiny").expect("fetched");
    setup.config.endpoint = "http://127.0.0.1:9".into();
    assert_eq!(setup.model("org/tiny").expect("cached"), dir);
    setup.config.endpoint = setup.server.endpoint();
    setup.server.set(Quirks { broken: true, ..Quirks::default() });
    assert_eq!(setup.model("org/tiny").expect("cached"), dir);

    // A cache that lacks a file blames the network, not a variable that is not set.
    fs::remove_file(dir.join("tokenizer.json")).expect("removed");
    let (sentence, _) = setup.refusal("org/tiny");
    assert!(sentence.ends_with("the server answered HTTP 503, expected success; try again later"), "{sentence}");
}

#[test]
fn headers_alone_move_kilobytes() {
    for files in [single(), sharded()] {
        let setup = Setup::new(&files);
        let headers = setup.hub().model_headers("org/tiny").expect("headers");
        assert!(headers.dir.join("config.json").exists());
        assert!(setup.weight_requests().iter().all(|(_, range)| range.as_deref() == Some("bytes=0-65535")));
        assert!(!headers.dir.join("tokenizer.json").exists());
        let whole = Index::open(&setup.model("org/tiny").expect("fetched")).expect("valid");
        assert_eq!(headers.index.files(), whole.files());
        assert_eq!(headers.index.iter().collect::<Vec<_>>(), whole.iter().collect::<Vec<_>>());
        assert_eq!(headers.index.dir(), Path::new("org/tiny@main"));
    }
}

#[test]
fn a_header_longer_than_the_first_request_is_completed() {
    let names: Vec<String> = (0..2000).map(|i| format!("model.layers.{i}.a_rather_long_name_of_a_weight")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let setup = Setup::new(&[("config.json", b"{}".to_vec()), ("model.safetensors", weights(&names, 1000))]);
    let headers = setup.hub().model_headers("org/tiny").expect("headers");
    assert_eq!(headers.index.iter().count(), 2000);
    assert_eq!(setup.weight_requests().len(), 2);
    assert!(setup.server.take_body_bytes() < 400_000, "of 4 MB");

    setup.server.put("model.safetensors", b"\xff\xff\0\0\0\0\0\0{}".to_vec());
    let error = setup.hub().model_headers("org/tiny").expect_err("a lying header");
    assert_eq!(
        error.to_string(),
        "org/tiny@main/model.safetensors: the header length says 65535 bytes, but the file has 10 bytes in all; it is truncated, \
         download it again"
    );
    assert_eq!(error.fault(), Fault::BadInput);
}

#[test]
fn a_renamed_repository_is_followed() {
    let setup = Setup::new(&single());
    setup.server.set(Quirks { old_id: Some("org/former"), ..Quirks::default() });
    let dir = setup.model("org/former").expect("redirected");
    assert_holds(&dir, &[("model.safetensors", weights(&["a", "b"], 100_000)), ("config.json", b"{}".to_vec())]);
}

#[test]
fn data_files_are_found_by_split() {
    let files = [
        ("README.md", b"# words".to_vec()),
        ("dataset_infos.json", b"{}".to_vec()),
        ("data/train-00000-of-00001.parquet", b"PAR1 train".to_vec()),
        ("data/validation-00000-of-00001.parquet", b"PAR1 dev".to_vec()),
        ("odd name.json", b"[]".to_vec()),
    ];
    let mut setup = Setup::new(&files);
    let read = |paths: Vec<PathBuf>| paths.iter().map(|p| fs::read(p).expect("there")).collect::<Vec<_>>();
    let dev = setup.hub().dataset("org/tiny@refs/convert/parquet", Some("dev")).expect("fetched");
    assert_eq!(read(dev), [b"PAR1 dev"]);
    let all = setup.hub().dataset("org/tiny", None).expect("fetched");
    assert_eq!(read(all), [b"PAR1 train".to_vec(), b"PAR1 dev".to_vec(), b"[]".to_vec()]);
    let error = setup.hub().dataset("org/tiny", Some("test")).expect_err("no such split");
    assert_eq!(
        error.to_string(),
        "data set org/tiny@main: no data files of split test among its 5 files; see the files on the hub, or name another split or \
         revision"
    );
    assert_eq!(error.fault(), Fault::BadInput);

    setup.server.take_log();
    setup.config.offline = true;
    assert_eq!(setup.hub().dataset("org/tiny", Some("train")).expect("cached").len(), 1);
    assert_eq!(setup.server.take_log(), []);
}

#[test]
fn a_hostile_repository_writes_nothing_outside_its_folder() {
    let mut files = single();
    files.push(("../../../evil.json", b"{}".to_vec()));
    let setup = Setup::new(&files);
    let (sentence, fault) = setup.refusal("org/tiny");
    assert!(sentence.contains("the repository's file \"../../../evil.json\" lies outside it"), "{sentence}");
    assert_eq!(fault, Fault::Failed);
    assert!(!setup.config.cache.exists());

    let mut files = sharded();
    files[2].1 = br#"{"weight_map": {"a": "../../../evil.safetensors"}}"#.to_vec();
    let (sentence, fault) = Setup::new(&files).refusal("org/tiny");
    assert!(sentence.contains("shard \"../../../evil.safetensors\" of tensor a is not a plain file name"), "{sentence}");
    assert_eq!(fault, Fault::BadInput);

    files[2].1 = br#"{"weight_map": {"a": "model-9.safetensors"}}"#.to_vec();
    let (sentence, _) = Setup::new(&files).refusal("org/tiny");
    assert!(sentence.contains("shard model-9.safetensors is missing, which holds tensor a"), "{sentence}");
}
