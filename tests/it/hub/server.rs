//! A hub on a local port, made of a listener and a thread a connection, so that it can do what a well-behaved server
//! library would not: hang up in the middle of a body, lie about lengths, ignore ranges.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::taking::{self, Taken};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Host name without port: `127.0.0.1` is the hub, `localhost` its store of large files.
    pub host: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// What the next requests meet.
#[derive(Debug, Default, Clone)]
pub struct Quirks {
    /// The next body of the store ends after so many bytes.
    pub cut_after: Option<usize>,
    pub ignore_ranges: bool,
    /// The store's files are so many bytes longer than the hub says.
    pub surplus: usize,
    /// The store's files begin with a wrong byte.
    pub flip_first_byte: bool,
    pub token: Option<&'static str>,
    pub gated: bool,
    pub broken: bool,
    /// As `broken`, of the store alone.
    pub broken_store: bool,
    /// Requests for this repository are redirected to the real one.
    pub old_id: Option<&'static str>,
    /// So many of the next requests are refused for the moment.
    pub busy: u32,
    /// What those are told to wait.
    pub retry_after: Option<&'static str>,
    /// Everything but what the store has is redirected to the same path there.
    pub elsewhere: Option<String>,
    /// Bodies come byte by byte, each after so long.
    pub drip: Option<Duration>,
    /// The hub's own small files begin with a wrong byte.
    pub flip_small: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    quirks: Quirks,
    log: Vec<Request>,
    body_bytes: usize,
}

/// Serves one repository, `org/tiny`, as a model and as a data set, at branch `main` and at [`COMMIT`].
pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
    taken: Arc<Mutex<Taken>>,
}

impl Server {
    pub fn start(files: &[(&str, Vec<u8>)]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let taken = Arc::new(Mutex::new(Taken::default()));
        let shared = (state.clone(), taken.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, taken) = shared.clone();
                // A client that hangs up early is no failure of the server.
                std::thread::spawn(move || drop(serve(stream, port, &state, &taken)));
            }
        });
        Server { port, state, taken }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, quirks: Quirks) {
        self.lock().quirks = quirks;
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.lock().files.insert(name.to_owned(), bytes);
    }

    /// Requests since the last call.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().log)
    }

    /// Bytes of bodies since the last call.
    pub fn take_body_bytes(&self) -> usize {
        std::mem::take(&mut self.lock().body_bytes)
    }

    /// What was sent to it.
    pub fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no thread panicked")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panicked")
    }
}

/// Name that git gives the contents.
pub fn git_blob(bytes: &[u8]) -> String {
    let digest = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn read_request(stream: &TcpStream) -> std::io::Result<(Request, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let host = headers.get("host").and_then(|h| h.split(':').next()).unwrap_or_default().to_owned();
    let (range, authorization) = (headers.remove("range"), headers.remove("authorization"));
    Ok((Request { method, path, host, range, authorization }, body))
}

fn serve(mut stream: TcpStream, port: u16, state: &Mutex<State>, taken: &Mutex<Taken>) -> std::io::Result<()> {
    let (request, body) = read_request(&stream)?;
    let answer = {
        let mut state = state.lock().expect("no thread panicked");
        state.log.push(request.clone());
        let answer = match taking::answer(&request, &body, port, &mut taken.lock().expect("no thread panicked")) {
            Some(answer) => answer,
            None => answer(&request, port, &mut state),
        };
        state.body_bytes += if request.method == "HEAD" { 0 } else { answer.body.len() };
        (answer, state.quirks.drip)
    };
    let (answer, drip) = answer;
    write!(stream, "HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, answer.length)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    if request.method != "HEAD" {
        match drip {
            None => stream.write_all(&answer.body)?,
            Some(pause) => answer.body.iter().try_for_each(|byte| {
                std::thread::sleep(pause);
                stream.write_all(&[*byte])
            })?,
        }
    }
    stream.flush()
}

pub struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    /// What Content-Length says.
    length: usize,
    body: Vec<u8>,
}

impl Answer {
    pub fn new(status: &'static str, body: Vec<u8>) -> Answer {
        Answer { status, headers: Vec::new(), length: body.len(), body }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

fn answer(request: &Request, port: u16, state: &mut State) -> Answer {
    if state.quirks.broken || state.quirks.broken_store && request.path.starts_with("/store/") {
        return Answer::new("503 Service Unavailable", Vec::new());
    }
    if state.quirks.busy > 0 {
        state.quirks.busy -= 1;
        let busy = Answer::new("429 Too Many Requests", Vec::new());
        return state.quirks.retry_after.into_iter().fold(busy, |busy, wait| busy.with("Retry-After", wait));
    }
    if let Some(elsewhere) = state.quirks.elsewhere.as_ref().filter(|_| !request.path.starts_with("/store/")) {
        return Answer::new("302 Found", Vec::new()).with("Location", format!("{elsewhere}{}", request.path));
    }
    if let Some(file) = request.path.strip_prefix("/store/") {
        let file = state.files[file].clone();
        return store(request, file, &mut state.quirks);
    }
    if state.quirks.gated {
        return Answer::new("403 Forbidden", Vec::new()).with("X-Error-Code", "GatedRepo");
    }
    let wanted = state.quirks.token.map(|token| format!("Bearer {token}"));
    if wanted.is_some() && request.authorization != wanted {
        return Answer::new("401 Unauthorized", Vec::new()).with("X-Error-Code", "RepoNotFound");
    }
    if let Some(old) = state.quirks.old_id.filter(|old| request.path.contains(old)) {
        return Answer::new("307 Temporary Redirect", Vec::new()).with("Location", request.path.replace(old, "org/tiny"));
    }
    let path = request.path.strip_prefix("/api/models").or_else(|| request.path.strip_prefix("/api/datasets"));
    if let Some(path) = path {
        return listing(path, state);
    }
    let path = request.path.strip_prefix("/datasets").unwrap_or(&request.path);
    let file = path.strip_prefix("/org/tiny/resolve/").and_then(|rest| rest.strip_prefix(COMMIT)).map(|file| &file[1..]);
    match file.and_then(|file| state.files.get_key_value(&file.replace("%20", " "))) {
        Some((name, bytes)) => hub_file(request, port, name, bytes, state.quirks.flip_small),
        None => Answer::new("404 Not Found", Vec::new()).with("X-Error-Code", "EntryNotFound"),
    }
}

fn listing(path: &str, state: &State) -> Answer {
    match path.strip_prefix("/org/tiny/revision/") {
        None => Answer::new("404 Not Found", Vec::new()).with("X-Error-Code", "RepoNotFound"),
        Some(revision) if revision == "main" || revision == "refs%2Fconvert%2Fparquet" || revision == COMMIT => {
            let siblings: Vec<_> = state.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            Answer::new("200 OK", serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
        }
        Some(_) => Answer::new("404 Not Found", Vec::new()).with("X-Error-Code", "RevisionNotFound"),
    }
}

/// Small files come from the hub itself, weights and parquet from the store.
fn hub_file(request: &Request, port: u16, name: &str, bytes: &[u8], flip: bool) -> Answer {
    if name.ends_with(".safetensors") || name.ends_with(".parquet") {
        return Answer::new("302 Found", Vec::new())
            .with("Location", format!("http://localhost:{port}/store/{name}"))
            .with("X-Repo-Commit", COMMIT)
            .with("X-Linked-Size", bytes.len().to_string())
            .with("X-Linked-ETag", format!("\"{}\"", sha256(bytes)))
            .with("ETag", "\"of-the-redirect\"");
    }
    let etag = git_blob(bytes);
    let mut body = if request.range.is_none() { bytes.to_vec() } else { Vec::new() };
    if flip && !body.is_empty() {
        body[0] ^= 1;
    }
    Answer::new("200 OK", body).with("X-Repo-Commit", COMMIT).with("ETag", format!("W/\"{etag}\""))
}

fn store(request: &Request, mut file: Vec<u8>, quirks: &mut Quirks) -> Answer {
    file.extend(std::iter::repeat_n(b'?', quirks.surplus));
    if quirks.flip_first_byte {
        file[0] ^= 1;
    }
    let total = file.len();
    let range = request.range.as_deref().filter(|_| !quirks.ignore_ranges).map(|range| {
        let (start, end) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).expect("a range of bytes");
        let end: usize = end.parse().map_or(total, |last: usize| (last + 1).min(total));
        (start.parse::<usize>().expect("a first byte"), end)
    });
    let mut answer = match range {
        None => Answer::new("200 OK", file),
        Some((start, _)) if start >= total => Answer::new("416 Range Not Satisfiable", Vec::new()),
        Some((start, end)) => Answer::new("206 Partial Content", file[start..end].to_vec())
            .with("Content-Range", format!("bytes {start}-{}/{total}", end - 1)),
    };
    if let Some(cut) = quirks.cut_after.take() {
        answer.body.truncate(cut);
    }
    answer
}
