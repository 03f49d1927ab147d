//! Artifacts on their way to the hub: what arrives is what lies here, in one commit, once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::server::Server;
use super::taking::WRITING_TOKEN;
use crate::support::program::{done, model};

fn push(server: &Server, home: &Path, arguments: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
    command.arg("push").args(arguments).env("HF_ENDPOINT", server.endpoint()).env("HF_HOME", home);
    command.env_remove("HF_TOKEN").env_remove("HUGGING_FACE_HUB_TOKEN").envs(token.map(|token| ("HF_TOKEN", token)));
    command.output().expect("qonnx starts")
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|entry| file(entry.unwrap())).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An artifact, and a place without a token.
fn artifact() -> (tempfile::TempDir, String) {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("artifact").display().to_string();
    done(&["export", &model(), "--bits", "4", "-o", &out]);
    (place, out)
}

#[test]
fn all_files_arrive_in_one_commit_of_a_private_repository() {
    let (place, out) = artifact();
    for part in [None, Some(1_000_000)] {
        let server = Server::start(&[]);
        server.taken().part = part;
        server.taken().broken = 2;
        let arguments = [&out, "org/tiny", "--message", "INT4 of tiny", "--json"];
        let output = push(&server, place.path(), &arguments, Some(WRITING_TOKEN));
        assert!(output.status.success(), "{}", said(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let there = files(Path::new(&out));
        assert_eq!((report["files"].as_u64(), &report["there_bytes"]), (Some(there.len() as u64), &0.into()));
        let created = server.taken().created.clone().unwrap();
        assert_eq!(
            (&created["private"], &created["organization"], &created["name"]),
            (&true.into(), &"org".into(), &"tiny".into())
        );
        assert!(server.taken().commits == [there.clone()]);
        // Again: what is large is there, and a repository that is there stays.
        server.take_log();
        let output = push(&server, place.path(), &arguments, Some(WRITING_TOKEN));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["there_bytes"].as_u64() > Some(5_000_000) && report["sent_bytes"].as_u64() < Some(20_000), "{report}");
        assert!(server.take_log().iter().all(|request| request.method == "POST"));
        assert!(server.taken().commits == [there.clone(), there]);
    }
}

#[test]
fn what_cannot_be_pushed_is_refused_and_nothing_is_committed() {
    let (place, out) = artifact();
    let server = Server::start(&[]);
    let refused = |arguments: &[&str], token: Option<&str>| {
        let output = push(&server, place.path(), arguments, token);
        assert!(!output.status.success());
        (output.status.code(), said(&output))
    };
    let (code, text) = refused(&[&out, "org/tiny"], None);
    assert!(code == Some(2) && text.contains("nothing can be written without a token; set HF_TOKEN"), "{text}");
    let (code, text) = refused(&[&out, "org/tiny"], Some("hf_read"));
    assert!(code == Some(1) && text.contains("the token in use may not write there (HTTP 403)"), "{text}");
    let (code, text) = refused(&[&out, "tiny"], Some(WRITING_TOKEN));
    assert!(code == Some(2) && text.contains("org/name"), "{text}");
    let (code, text) = refused(&[&out, "org/tiny@elsewhere"], Some(WRITING_TOKEN));
    assert!(code == Some(2) && text.contains("no branch, tag or commit elsewhere"), "{text}");
    let (code, text) = refused(&[&model(), "org/tiny"], Some(WRITING_TOKEN));
    assert!(code == Some(2) && text.contains("qonnx.json is missing"), "{text}");
    fs::write(Path::new(&out).join("config.json"), "{}").unwrap();
    let (code, text) = refused(&[&out, "org/tiny"], Some(WRITING_TOKEN));
    assert!(code == Some(2) && text.contains("config.json") && text.contains("nothing was sent"), "{text}");
    assert!(server.taken().commits.is_empty());
}
