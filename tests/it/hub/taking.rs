//! What the server does with files that are sent to it: Git LFS and commits, as the hub has them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::server::{Answer, Request, sha256};

pub const WRITING_TOKEN: &str = "hf_write";
/// Files of at least so many bytes are large.
const LARGE: u64 = 4096;

/// What was sent, and how it is taken.
#[derive(Default)]
pub struct Taken {
    /// What was asked of a new repository.
    pub created: Option<Value>,
    /// Large files, by their SHA-256.
    pub large: BTreeMap<String, Vec<u8>>,
    /// Files of each commit.
    pub commits: Vec<BTreeMap<String, Vec<u8>>>,
    /// Bytes of a part of a large file, where it is taken in parts.
    pub part: Option<usize>,
    /// So many of the next files meet a server that is down.
    pub broken: usize,
    parts: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
}

/// The answer to a request that writes; `None` to one that reads.
pub fn answer(request: &Request, body: &[u8], port: u16, taken: &mut Taken) -> Option<Answer> {
    let json_of = || serde_json::from_slice::<Value>(body).expect("the client sends JSON");
    let said = |value: Value| Answer::new("200 OK", value.to_string().into_bytes());
    let path = request.path.as_str();
    if let Some(place) = path.strip_prefix("/lfs/") {
        assert_eq!(request.authorization, None, "the store is not the hub, and has no token to see");
        return Some(put(place, body, taken));
    }
    if request.method != "POST" {
        return None;
    }
    if request.authorization.as_deref() != Some(&format!("Bearer {WRITING_TOKEN}")) {
        return Some(Answer::new("403 Forbidden", Vec::new()));
    }
    Some(match path {
        "/api/repos/create" if taken.created.is_some() => Answer::new("409 Conflict", Vec::new()),
        "/api/repos/create" => {
            taken.created = Some(json_of());
            said(json!({ "url": "https://hub/org/tiny" }))
        }
        "/api/models/org/tiny/preupload/main" => said(json!({ "files": modes(&json_of()) })),
        "/org/tiny.git/info/lfs/objects/batch" => said(json!({ "objects": objects(&json_of(), port, taken) })),
        "/api/models/org/tiny/commit/main" => {
            let files = commit(body, taken);
            taken.commits.push(files);
            said(json!({ "commitUrl": "https://hub/org/tiny/commit/1", "commitOid": "1" }))
        }
        _ => match (path.strip_prefix("/complete/"), path.strip_prefix("/verify/")) {
            (Some(oid), _) => completed(oid, &json_of(), taken),
            (_, Some(oid)) if taken.large.contains_key(oid) => said(json!({})),
            _ => Answer::new("404 Not Found", Vec::new()),
        },
    })
}

fn modes(asked: &Value) -> Vec<Value> {
    let mode = |file: &Value| {
        assert!(BASE64_STANDARD.decode(file["sample"].as_str().unwrap()).unwrap().len() <= 512);
        let is_large = file["size"].as_u64() >= Some(LARGE);
        json!({ "path": file["path"], "uploadMode": if is_large { "lfs" } else { "regular" }, "shouldIgnore": false })
    };
    asked["files"].as_array().unwrap().iter().map(mode).collect()
}

fn objects(asked: &Value, port: u16, taken: &Taken) -> Vec<Value> {
    let object = |object: &Value| {
        let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
        if taken.large.contains_key(oid) {
            return json!({ "oid": oid, "size": size });
        }
        let (store, hub) = (format!("http://localhost:{port}/lfs/{oid}"), format!("http://127.0.0.1:{port}"));
        let upload = match taken.part {
            None => json!({ "href": store, "header": { "x-of-the-store": "yes" } }),
            Some(part) => {
                let mut header = json!({ "chunk_size": part.to_string() });
                (1..=size.div_ceil(part)).for_each(|number| header[format!("{number:05}")] = format!("{store}/{number}").into());
                json!({ "href": format!("{hub}/complete/{oid}"), "header": header })
            }
        };
        json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": { "href": format!("{hub}/verify/{oid}") } } })
    };
    asked["objects"].as_array().unwrap().iter().map(object).collect()
}

fn put(place: &str, body: &[u8], taken: &mut Taken) -> Answer {
    if taken.broken > 0 {
        taken.broken -= 1;
        return Answer::new("503 Service Unavailable", Vec::new());
    }
    match place.split_once('/') {
        None => drop(taken.large.insert(place.to_owned(), body.to_vec())),
        Some((oid, part)) => {
            taken.parts.entry(oid.to_owned()).or_default().insert(part.parse().unwrap(), body.to_vec());
        }
    }
    Answer::new("200 OK", Vec::new()).with("ETag", format!("\"{}\"", sha256(body)))
}

fn completed(oid: &str, asked: &Value, taken: &mut Taken) -> Answer {
    let parts = taken.parts.remove(oid).unwrap_or_default();
    let tags: Vec<String> = parts.values().map(|part| format!("\"{}\"", sha256(part))).collect();
    let said: Vec<&str> = asked["parts"].as_array().unwrap().iter().map(|part| part["etag"].as_str().unwrap()).collect();
    assert_eq!(said, tags, "each part has the tag that the store gave it");
    taken.large.insert(oid.to_owned(), parts.into_values().flatten().collect());
    Answer::new("200 OK", Vec::new())
}

/// Files of a commit, the large ones as they were sent before it.
fn commit(body: &[u8], taken: &Taken) -> BTreeMap<String, Vec<u8>> {
    let lines = std::str::from_utf8(body).unwrap().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut files = BTreeMap::new();
    for line in lines {
        let value = &line["value"];
        let path = || value["path"].as_str().unwrap().to_owned();
        match line["key"].as_str().unwrap() {
            "header" => assert_eq!(value["summary"], "INT4 of tiny"),
            "file" => drop(files.insert(path(), BASE64_STANDARD.decode(value["content"].as_str().unwrap()).unwrap())),
            "lfsFile" => drop(files.insert(path(), taken.large[value["oid"].as_str().unwrap()].clone())),
            other => panic!("no commit has a {other}"),
        }
    }
    files
}
