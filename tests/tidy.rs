//! The project's rules about its own tree, checked as tests: which module may use which, which crate is used where,
//! how long files and functions may get, what no file may be called or contain.
//!
//! Files are read as tokens, so comments and strings never trip a rule and macros and attributes are looked into.
//! A rule that hinders is changed here, in the open, with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A module uses lower rows only, never its own row or a higher one.
const ROWS: &[&[&str]] = &[
    &["fault"],
    &["contract", "features", "host", "tensor"],
    &["usage"],
    &["checkpoint", "companions", "quant", "onnx", "recipe", "record", "generate", "settings"],
    &["model", "eval", "runtime", "calib", "bench", "report"],
    &["artifact"],
    &["compress"],
    &["commands"],
    &["study"],
    &["cli"],
    &["main", "lib"],
];

/// Uses within a row that are wanted.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("companions", "settings"), // config.json has one reader of each of its facts
    ("record", "recipe"),       // a record stores the recipe it was made by
    ("calib", "model"),         // statistics come from the model's own stages
    ("calib", "runtime"),       // which the runtime runs
    ("calib", "eval"),          // a set in CoQA form has the evaluation's own readers and prompts, letter for letter
    ("recipe", "quant"),        // a recipe names schemes; turning its words into them is its whole purpose
];

/// Crates that one part of the program hides from the rest: (crate, files or folders that may name it).
const CONFINED: &[(&str, &[&str])] = &[
    ("ort", &["src/runtime/"]),
    ("clap", &["src/cli.rs", "src/cli/"]),
    ("clap_complete", &["src/cli.rs", "src/cli/"]),
    ("safetensors", &["src/checkpoint/"]),
    ("hf_hub", &["src/checkpoint/"]),
    ("tokenizers", &["src/companions/"]),
    ("prost", &["src/onnx/proto.rs"]),
    ("anyhow", &["src/cli.rs", "src/cli/", "src/main.rs"]),
];

/// What a part of the program must not know: (folder, parts of identifiers, why).
const ABSENT: &[(&str, &[&str], &str)] = &[
    ("src/eval/", &["runtime", "ort", "session"], "evaluation sees `trait Generate`, never a session"),
    ("src/bench/", &["runtime", "ort", "session"], "benchmarks see `trait Generate`, never a session"),
    ("src/quant/", &["fs", "file", "path", "onnx", "llama"], "quantization knows no files, no ONNX, no model names"),
    ("src/onnx/", &["llama", "rtn", "gptq", "awq"], "the graph knows no Llama and no quantization method"),
];

const SOFT_FILE_LINES: usize = 300;
const HARD_FILE_LINES: usize = 600;
const SOFT_FUNCTION_LINES: usize = 40;
const HARD_FUNCTION_LINES: usize = 100;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "v2"];

/// Where scripts lie: set-up of the product; what makes goldens, beside them; the lab, beside its results; the probes of operators; what
/// runs an artifact in each foreign runtime.
const SCRIPT_FOLDERS: [&str; 5] = ["scripts", "tests/goldens/make", "results/lab", "graphs/probes", "tests/it/runtimes/drivers"];

/// What may name a script by its path.
const TEXTS: &[&str] = &[
    ".ci",
    "ARCHITECTURE.md",
    "Cargo.toml",
    "Dockerfile",
    "README.md",
    "benches",
    "build.rs",
    "calibration",
    "docker-compose.yaml",
    "env.example",
    "examples",
    "fixtures",
    "fuzz/fuzz_targets",
    "fuzz/readers.rs",
    "graphs",
    "results",
    "run.sh",
    "scripts",
    "src",
    "tests",
];

/// One Rust file, split into what ships and what is test code.
struct Source {
    /// Relative to the repository's root, `src/quant/rtn.rs`.
    path: String,
    lines: usize,
    shipped: Vec<TokenTree>,
    all: Vec<TokenTree>,
    /// Lines of inline `#[cfg(test)]` items.
    test_lines: usize,
    /// Names of modules declared as `#[cfg(test)] mod name;`.
    test_modules: Vec<String>,
}

impl Source {
    fn parse(path: &str, text: &str) -> Source {
        let stream: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path} is not Rust: {e}"));
        let all: Vec<TokenTree> = stream.into_iter().collect();
        let mut source = Source {
            path: path.to_owned(),
            lines: text.lines().count(),
            shipped: Vec::new(),
            all: Vec::new(),
            test_lines: 0,
            test_modules: Vec::new(),
        };
        source.shipped = source.without_tests(&all);
        source.all = all;
        source
    }

    /// Drops every item under `#[cfg(test)]` or `#[test]`, at any depth.
    fn without_tests(&mut self, tokens: &[TokenTree]) -> Vec<TokenTree> {
        let mut kept = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if is_test_attribute(&tokens[at..]) {
                let end = item_end(tokens, at + 2);
                let first = tokens[at].span().start().line;
                self.test_lines += tokens[end - 1].span().end().line + 1 - first;
                if let Some(name) = declared_module(&tokens[at + 2..end]) {
                    self.test_modules.push(name);
                }
                at = end;
                continue;
            }
            kept.push(match &tokens[at] {
                TokenTree::Group(group) => {
                    let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                    let mut stripped = Group::new(group.delimiter(), self.without_tests(&inside).into_iter().collect());
                    stripped.set_span(group.span());
                    TokenTree::Group(stripped)
                }
                token => token.clone(),
            });
            at += 1;
        }
        kept
    }

    /// Path of the module this file is: `src/quant/rtn.rs` is `[quant, rtn]`, `src/quant/mod.rs` is `[quant]`.
    fn module(&self) -> Vec<String> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut parts: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        parts
    }

    /// The file a `#[cfg(test)] mod name;` of this file lies in, as a prefix.
    fn test_module_prefix(&self, name: &str) -> String {
        let stem = self.path.trim_end_matches(".rs");
        let folder = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            _ => stem,
        };
        format!("{folder}/{name}")
    }
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == wanted)
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(i)) => Some(i.to_string()),
        _ => None,
    }
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

/// The bracket of an attribute that starts here.
fn attribute(tokens: &[TokenTree]) -> Option<Vec<TokenTree>> {
    match tokens {
        [hash, TokenTree::Group(g), ..] if is_punct(Some(hash), '#') && g.delimiter() == Delimiter::Bracket => {
            Some(g.stream().into_iter().collect())
        }
        _ => None,
    }
}

fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let Some(inside) = attribute(tokens) else { return false };
    match (ident(inside.first()).as_deref(), inside.get(1)) {
        (Some("test"), None) => true,
        (Some("cfg"), Some(TokenTree::Group(g))) => g.stream().to_string() == "test",
        _ => false,
    }
}

/// One past the item whose attributes and keywords start at `from`: its first `{…}` or `;`.
fn item_end(tokens: &[TokenTree], from: usize) -> usize {
    let ends = |t: &TokenTree| matches!(t, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace) || is_punct(Some(t), ';');
    tokens[from..].iter().position(ends).map_or(tokens.len(), |i| from + i + 1)
}

/// `name` of `mod name;`.
fn declared_module(item: &[TokenTree]) -> Option<String> {
    let at = item.iter().position(|t| ident(Some(t)).as_deref() == Some("mod"))?;
    if is_punct(item.get(at + 2), ';') { ident(item.get(at + 1)) } else { None }
}

/// Calls `visit` with every token sequence (the file, and the inside of each group) and the inline modules around it.
fn walk(tokens: &[TokenTree], modules: &[String], visit: &mut dyn FnMut(&[TokenTree], &[String])) {
    visit(tokens, modules);
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let mut inner = modules.to_vec();
        if at >= 2 && ident(tokens.get(at - 2)).as_deref() == Some("mod") && group.delimiter() == Delimiter::Brace {
            inner.extend(ident(tokens.get(at - 1)));
        }
        let inside: Vec<TokenTree> = group.stream().into_iter().collect();
        walk(&inside, &inner, visit);
    }
}

fn location(source: &Source, token: &TokenTree) -> String {
    format!("{}:{}", source.path, token.span().start().line)
}

/// Adds to `found` the modules, as paths from the crate's root, that the path at `at` leads to; `base` is the path so far.
fn resolve(tokens: &[TokenTree], mut at: usize, mut base: Vec<String>, found: &mut Vec<Vec<String>>) {
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(i)) if i == "super" => {
                base.pop();
            }
            Some(TokenTree::Ident(i)) if i == "self" => {}
            Some(TokenTree::Ident(i)) => base.push(i.to_string()),
            Some(TokenTree::Punct(p)) if p.as_char() == '*' => base.push("*".to_owned()),
            Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace => {
                let inside: Vec<TokenTree> = g.stream().into_iter().collect();
                for branch in inside.split(|t| is_punct(Some(t), ',')).filter(|branch| !branch.is_empty()) {
                    resolve(branch, 0, base.clone(), found);
                }
                return;
            }
            _ => break,
        }
        if !is_path_separator(tokens, at + 1) {
            break;
        }
        at += 3;
    }
    found.push(base);
}

/// Paths from the crate's root that a file's shipped code names through `crate::`, `qonnx::` or `super::`.
fn used_modules(source: &Source) -> Vec<(String, Vec<String>)> {
    let mut uses = Vec::new();
    let file_module = source.module();
    walk(&source.shipped, &[], &mut |tokens, inline| {
        let module: Vec<String> = file_module.iter().chain(inline).cloned().collect();
        for (at, token) in tokens.iter().enumerate() {
            let Some(word) = ident(Some(token)) else { continue };
            let continues = at >= 2 && is_path_separator(tokens, at - 2);
            if continues || !is_path_separator(tokens, at + 1) {
                continue;
            }
            let mut found = Vec::new();
            match word.as_str() {
                "crate" | "qonnx" => resolve(tokens, at + 3, Vec::new(), &mut found),
                "super" => resolve(tokens, at, module.clone(), &mut found),
                _ => continue,
            }
            uses.extend(found.into_iter().map(|path| (location(source, token), path)));
        }
    });
    uses
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn check_rows(source: &Source) -> Vec<String> {
    let own = source.module().into_iter().next().unwrap_or_default();
    let Some(own_row) = row_of(&own) else {
        return vec![format!("{}: module {own} has no row; add it to ROWS in tests/tidy.rs and to src/lib.rs", source.path)];
    };
    let mut faults = Vec::new();
    for (place, path) in used_modules(source) {
        let Some(used) = path.first().filter(|used| **used != own) else { continue };
        if EXCEPTIONS.contains(&(own.as_str(), used.as_str())) {
            continue;
        }
        match row_of(used) {
            None => faults.push(format!("{place}: crate::{used} is no module of a row; name the module a thing comes from")),
            Some(row) if row >= own_row => faults.push(format!("{place}: {own} uses {used}, which is not in a lower row")),
            Some(_) => {}
        }
    }
    faults
}

/// Names that a file hands on, `pub use child::Name`: their path there, and the one where they come from.
fn reexports(source: &Source) -> Vec<(Vec<String>, Vec<String>)> {
    let module = source.module();
    let mut found = Vec::new();
    walk(&source.shipped, &[], &mut |tokens, inline| {
        let base: Vec<String> = module.iter().chain(inline).cloned().collect();
        for at in 0..tokens.len() {
            if ident(tokens.get(at)).as_deref() != Some("pub") {
                continue;
            }
            // `pub use` and `pub(super) use`.
            let after = if matches!(tokens.get(at + 1), Some(TokenTree::Group(_))) { at + 2 } else { at + 1 };
            if ident(tokens.get(after)).as_deref() == Some("use") {
                let is_absolute = ident(tokens.get(after + 1)).as_deref() == Some("crate");
                let (first, base) = if is_absolute { (after + 4, Vec::new()) } else { (after + 1, base.clone()) };
                let mut paths = Vec::new();
                resolve(tokens, first, base, &mut paths);
                found.extend(paths.into_iter().filter_map(|path| {
                    let name = path.last()?.clone();
                    Some((module.iter().cloned().chain([name]).collect(), path))
                }));
            }
        }
    });
    found
}

/// Which files each file uses, by place in `files`. What a file takes from a module that it lies in is no arrow: a folder's own
/// file and what it is divided into are one thing.
fn arrows(files: &[Source]) -> Vec<Vec<usize>> {
    let modules: Vec<Vec<String>> = files.iter().map(Source::module).collect();
    let reexported: BTreeMap<Vec<String>, Vec<String>> = files.iter().flat_map(reexports).collect();
    let file_of = |path: &[String]| {
        // The name may be handed on by a folder's own file: it is of where it is defined.
        let handed_on = (1..=path.len()).find_map(|length| Some((length, reexported.get(&path[..length])?)));
        let path = handed_on.map_or(path.to_vec(), |(length, to)| [to, &path[length..]].concat());
        let within = |module: &&Vec<String>| !module.is_empty() && path.starts_with(module);
        let longest = modules.iter().filter(within).max_by_key(|module| module.len())?;
        modules.iter().position(|module| module == longest)
    };
    let used = |source: &Source| {
        let own = source.module();
        let others = used_modules(source).into_iter().filter_map(|(_, path)| file_of(&path));
        others.filter(|&other| !own.starts_with(&modules[other])).collect()
    };
    files.iter().map(used).collect()
}

/// Files that lead to each other, more than two of them: the largest set for each.
fn check_circles(files: &[Source]) -> Vec<String> {
    const MOST: usize = 2;
    let arrows = arrows(files);
    let reached = |from: usize| {
        let (mut seen, mut open) = (vec![false; files.len()], arrows[from].clone());
        while let Some(next) = open.pop() {
            if !std::mem::replace(&mut seen[next], true) {
                open.extend(&arrows[next]);
            }
        }
        seen
    };
    let reached: Vec<Vec<bool>> = (0..files.len()).map(reached).collect();
    let circle = |file: usize| (0..files.len()).filter(|&other| reached[file][other] && reached[other][file]).collect::<Vec<_>>();
    let mut circles: Vec<Vec<usize>> = (0..files.len()).map(circle).filter(|circle| circle.len() > MOST).collect();
    circles.sort();
    circles.dedup();
    let names = |circle: &Vec<usize>| circle.iter().map(|&file| files[file].path.as_str()).collect::<Vec<_>>().join(", ");
    circles.iter().map(|circle| format!("these use each other in a circle: {}", names(circle))).collect()
}

fn check_confined(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let forbidden: Vec<&(&str, &[&str])> =
        CONFINED.iter().filter(|(_, homes)| !homes.iter().any(|home| source.path.starts_with(home))).collect();
    walk(&source.shipped, &[], &mut |tokens, _| {
        for (at, token) in tokens.iter().enumerate() {
            let Some(word) = ident(Some(token)) else { continue };
            let Some((name, homes)) = forbidden.iter().find(|(name, _)| *name == word) else { continue };
            let is_inner_segment = at >= 3 && is_path_separator(tokens, at - 2) && ident(tokens.get(at - 3)).is_some();
            let is_imported = at >= 1 && ident(tokens.get(at - 1)).as_deref() == Some("use");
            if !is_inner_segment && (is_imported || is_path_separator(tokens, at + 1)) {
                faults.push(format!("{}: the crate {name} is used only in {}", location(source, token), homes.join(", ")));
            }
        }
    });
    faults
}

/// Words of an identifier: `InferenceSession` and `inference_session` both have `session`.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && after_lower) {
            words.push(String::new());
        }
        after_lower = c.is_lowercase() || c.is_numeric();
        if let (true, Some(word)) = (c != '_', words.last_mut()) {
            word.extend(c.to_lowercase());
        }
    }
    words
}

fn check_absent(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for (_, banned, why) in ABSENT.iter().filter(|(folder, _, _)| source.path.starts_with(folder)) {
        walk(&source.shipped, &[], &mut |tokens, _| {
            for token in tokens {
                let Some(name) = ident(Some(token)) else { continue };
                if words(&name).iter().any(|word| banned.contains(&word.as_str())) {
                    faults.push(format!("{}: `{name}`: {why}", location(source, token)));
                }
            }
        });
    }
    faults
}

/// Stubs and silenced warnings, in tests too; `unwrap` in shipped code.
fn check_words(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    walk(&source.all, &[], &mut |tokens, _| {
        for (at, token) in tokens.iter().enumerate() {
            let place = || location(source, token);
            let is_inner_bang = is_punct(Some(token), '#') && is_punct(tokens.get(at + 1), '!');
            let bracket = if is_inner_bang { tokens.get(at + 2) } else { tokens.get(at + 1) };
            if let (true, Some(TokenTree::Group(g))) = (is_punct(Some(token), '#'), bracket) {
                match ident(g.stream().into_iter().next().as_ref()).as_deref() {
                    Some("ignore") => faults.push(format!("{}: a test is run or deleted, never ignored", place())),
                    Some("allow") => faults.push(format!("{}: mend the warning, do not silence it", place())),
                    _ => {}
                }
            }
            let word = ident(Some(token)).unwrap_or_default();
            if matches!(word.as_str(), "todo" | "unimplemented" | "dbg") && is_punct(tokens.get(at + 1), '!') {
                faults.push(format!("{}: {word}! is not finished work", place()));
            }
        }
    });
    walk(&source.shipped, &[], &mut |tokens, _| {
        for (at, token) in tokens.iter().enumerate() {
            if ident(Some(token)).as_deref() == Some("unwrap") && at >= 1 && is_punct(tokens.get(at - 1), '.') {
                faults.push(format!("{}: unwrap; return an error, or expect with the proof", location(source, token)));
            }
        }
    });
    faults
}

/// Every function with a body: where it stands, its name, its lines.
fn functions(source: &Source) -> Vec<(String, String, usize)> {
    let mut found = Vec::new();
    walk(&source.shipped, &[], &mut |tokens, _| {
        for (at, token) in tokens.iter().enumerate() {
            if ident(Some(token)).as_deref() != Some("fn") {
                continue;
            }
            let Some(name) = ident(tokens.get(at + 1)) else { continue };
            let end = item_end(tokens, at);
            let lines = tokens[end - 1].span().end().line + 1 - token.span().start().line;
            found.push((location(source, token), name, lines));
        }
    });
    found
}

/// Files and functions longer than the limits given.
fn too_long(source: &Source, file_limit: usize, function_limit: usize) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = source.lines - source.test_lines;
    if lines > file_limit {
        faults.push(format!("{}: {lines} lines without tests; the limit is {file_limit}", source.path));
    }
    for (place, name, lines) in functions(source) {
        if lines > function_limit {
            faults.push(format!("{place}: fn {name} has {lines} lines; the limit is {function_limit}"));
        }
    }
    faults
}

fn check_name(path: &str) -> Vec<String> {
    let parts = path.split('/').map(|part| part.split('.').next().unwrap_or(part).to_lowercase());
    let empty = parts.filter(|part| EMPTY_NAMES.contains(&part.as_str()));
    empty.map(|part| format!("{path}: `{part}` says nothing about what is inside")).collect()
}

/// Whether `path` is a script, or the list of packages of one.
fn is_script(path: &str) -> bool {
    [".py", ".mjs", ".sh", "requirements.txt"].iter().any(|end| path.ends_with(end))
}

/// The scripts that a text names by their path from the repository's root.
fn named_scripts(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
    let paths = words.map(|word| word.trim_start_matches("./").trim_end_matches('.'));
    paths.filter(|path| is_script(path) && TEXTS.iter().any(|top| path.starts_with(&format!("{top}/"))))
}

/// Scripts that `text` names and that are not in the repository.
fn check_scripts(path: &str, text: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let absent = named_scripts(text).filter(|script| !root.join(script).is_file());
    absent.map(|script| format!("{path}: there is no {script}")).collect()
}

/// Logs and numbers of a run stay as they were written, whatever moved since.
fn is_record_of_a_run(path: &str) -> bool {
    path.starts_with("results/") && ![".md", ".py", ".sh", ".toml"].iter().any(|end| path.ends_with(end))
}

/// What a folder's README says of its scripts: the first word in backquotes of each row of its table.
fn listed_scripts(readme: &str) -> Vec<String> {
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// The repository's files under `folder`, relative to the root, sorted; `folder` itself where it is a file.
fn files_under(folder: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if root.join(folder).is_file() {
        return vec![folder.to_owned()];
    }
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder of the repository can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = path.strip_prefix(root).expect("found under the root");
                found.push(inside.to_str().expect("file names are UTF-8").replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn rust_files(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = files_under(folder).into_iter().filter(|path| path.ends_with(".rs"));
    paths.map(|path| Source::parse(&path, &fs::read_to_string(root.join(&path)).expect("a listed file can be read"))).collect()
}

/// Files of `src/` that ship: those declared as test modules are left out.
fn shipped_files() -> Vec<Source> {
    let mut files = rust_files("src");
    let tests: Vec<String> =
        files.iter().flat_map(|source| source.test_modules.iter().map(|name| source.test_module_prefix(name))).collect();
    files.retain(|source| {
        !tests.iter().any(|prefix| source.path == format!("{prefix}.rs") || source.path.starts_with(&format!("{prefix}/")))
    });
    files
}

/// Fails with every fault, one a line.
fn expect_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn modules_use_lower_rows_only() {
    let files = shipped_files();
    assert!(files.len() > 10, "the walk found {} files; it looks in the wrong place", files.len());
    expect_none(files.iter().flat_map(check_rows).collect());
}

#[test]
fn no_more_than_two_files_use_each_other() {
    expect_none(check_circles(&shipped_files()));
}

#[test]
fn crates_stay_where_they_are_hidden() {
    expect_none(shipped_files().iter().flat_map(check_confined).collect());
}

#[test]
fn parts_do_not_know_what_they_must_not() {
    expect_none(shipped_files().iter().flat_map(check_absent).collect());
}

#[test]
fn files_and_functions_are_short() {
    let files = shipped_files();
    for line in files.iter().flat_map(|source| too_long(source, SOFT_FILE_LINES, SOFT_FUNCTION_LINES)) {
        println!("long: {line}");
    }
    expect_none(files.iter().flat_map(|source| too_long(source, HARD_FILE_LINES, HARD_FUNCTION_LINES)).collect());
}

#[test]
fn nothing_is_unfinished_silenced_or_ignored() {
    let folders = ["src", "tests", "benches", "examples"];
    let shipped: Vec<String> = shipped_files().into_iter().map(|source| source.path).collect();
    let files = folders.iter().flat_map(|folder| rust_files(folder)).map(|mut source| {
        if !shipped.contains(&source.path) {
            source.shipped.clear();
        }
        source
    });
    expect_none(files.flat_map(|source| check_words(&source)).collect());
}

#[test]
fn names_say_what_is_inside() {
    let folders = ["src", "tests", "benches", "scripts", "graphs", "calibration", "fixtures", "results/lab"];
    expect_none(folders.iter().flat_map(|folder| files_under(folder)).flat_map(|path| check_name(&path)).collect());
}

#[test]
fn every_script_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = TEXTS.iter().flat_map(|top| files_under(top)).filter(|path| !is_record_of_a_run(path));
    let texts = paths.filter_map(|path| Some((fs::read_to_string(root.join(&path)).ok()?, path)));
    expect_none(texts.flat_map(|(text, path)| check_scripts(&path, &text)).collect());
}

#[test]
fn each_script_is_a_line_of_its_folders_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in SCRIPT_FOLDERS {
        let readme = fs::read_to_string(root.join(folder).join("README.md")).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let mut listed = listed_scripts(&readme);
        listed.sort();
        let scripts = files_under(folder).into_iter().filter(|path| is_script(path));
        let there: Vec<String> = scripts.map(|path| path[folder.len() + 1..].to_owned()).collect();
        assert_eq!(listed, there, "{folder}/README.md has one row a script");
    }
}

/// The rules can fail: each is fed a snippet that breaks it, beside one that does not.
mod rules {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, expected: &[&str]) {
        let faults = rule(&Source::parse(path, text));
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, part) in faults.iter().zip(expected) {
            assert!(fault.contains(part), "{fault:?} lacks {part:?}");
        }
    }

    #[test]
    fn rows() {
        check(check_rows, "src/quant/rtn.rs", "use crate::tensor::DType; use super::Scheme;", &[]);
        check(check_rows, "src/quant/rtn.rs", "\nuse crate::onnx::Graph;", &["src/quant/rtn.rs:2: quant uses onnx"]);
        check(
            check_rows,
            "src/tensor/dtype.rs",
            "use crate::{fault::Fault, quant::{Scheme, Format}};",
            &["tensor uses quant"; 2],
        );
        check(check_rows, "src/eval/coqa.rs", "fn f() { vec![super::super::commands::run()] }", &["eval uses commands"]);
        check(check_rows, "src/eval/mod.rs", "mod inner { use super::super::commands; }", &["eval uses commands"]);
        check(check_rows, "src/eval/mod.rs", "mod inner { use super::score; use super::super::generate; }", &[]);
        check(check_rows, "src/record.rs", "use crate::recipe::Recipe;", &[]);
        check(check_rows, "src/recipe.rs", "use crate::record::RunRecord;", &["recipe uses record"]);
        check(check_rows, "src/commands/plan.rs", "use qonnx::cli::Args;", &["commands uses cli"]);
        check(check_rows, "src/model/mod.rs", "use crate::*;", &["no module of a row"]);
        check(check_rows, "src/novelty.rs", "", &["has no row"]);
        check(check_rows, "src/quant/rtn.rs", "pub(crate) fn f() {} #[cfg(test)] mod tests { use crate::onnx; }", &[]);
    }

    #[test]
    fn circles() {
        let files = |texts: &[(&str, &str)]| texts.iter().map(|(path, text)| Source::parse(path, text)).collect::<Vec<_>>();
        let face = ("src/a/mod.rs", "mod b; mod c; mod d; pub use b::B; pub use c::C; pub use d::D;");
        let b = ("src/a/b.rs", "use super::C; pub struct B;");
        let c = ("src/a/c.rs", "use super::d::D; pub struct C;");
        let circle = check_circles(&files(&[face, b, c, ("src/a/d.rs", "use crate::a::B; pub struct D;")]));
        assert_eq!(circle, ["these use each other in a circle: src/a/b.rs, src/a/c.rs, src/a/d.rs"]);
        let two = check_circles(&files(&[face, b, c, ("src/a/d.rs", "use crate::a::C; pub struct D;")]));
        assert!(two.is_empty(), "{two:?}");
    }

    #[test]
    fn confinement() {
        check(check_confined, "src/runtime/session.rs", "use ort::Session;", &[]);
        check(
            check_confined,
            "src/eval/coqa.rs",
            "use ort::Session;",
            &["src/eval/coqa.rs:1: the crate ort is used only in src/runtime/"],
        );
        check(check_confined, "src/eval/coqa.rs", "use ort as other;", &["ort"]);
        for file in ["src/eval/coqa.rs", "src/artifact/plan.rs", "src/commands/export.rs", "src/study/sweep.rs"] {
            check(check_confined, file, "fn f() -> ::anyhow::Result<()> { Ok(()) }", &["anyhow"]);
        }
        check(check_confined, "src/cli/exit.rs", "use anyhow::Context;", &[]);
        check(check_confined, "src/onnx/graph.rs", "#[derive(prost::Message)] struct A;", &["prost"]);
        check(check_confined, "src/commands/mod.rs", "use crate::checkpoint::safetensors::Header; // ort::Session", &[]);
    }

    #[test]
    fn absence() {
        check(check_absent, "src/eval/mod.rs", "/// no runtime here\nstruct Report;", &[]);
        check(check_absent, "src/eval/mod.rs", "fn f(s: InferenceSession) {}", &["InferenceSession"]);
        check(check_absent, "src/quant/rtn.rs", "use std::fs::File;", &["fs", "File"]);
        check(check_absent, "src/onnx/graph.rs", "struct LlamaConfig; fn sorted() {}", &["LlamaConfig"]);
    }

    #[test]
    fn forbidden_words() {
        check(check_words, "src/a.rs", "fn f() { todo!() }", &["todo!"]);
        check(
            check_words,
            "src/a.rs",
            "#![allow(dead_code)]\n#[allow(unused)] fn f() { dbg!(1); }",
            &["silence", "silence", "dbg!"],
        );
        check(check_words, "src/a.rs", "#[cfg(test)] mod tests { #[test] #[ignore] fn t() { x.unwrap(); } }", &["ignored"]);
        check(check_words, "src/a.rs", "fn f() { x.unwrap() }", &["unwrap"]);
        check(check_words, "src/a.rs", "/// todo!() and x.unwrap()\nfn f() { g(\"dbg!\"); x.unwrap_or(1); }", &[]);
    }

    #[test]
    fn lengths() {
        let long = format!("fn f() {{\n{}}}\n", "g();\n".repeat(99));
        let source = Source::parse("src/a.rs", &long);
        assert_eq!(too_long(&source, 600, 100), ["src/a.rs:1: fn f has 101 lines; the limit is 100"]);
        assert_eq!(too_long(&source, 100, 101), ["src/a.rs: 101 lines without tests; the limit is 100"]);
        let tested = Source::parse("src/a.rs", &format!("fn short() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n"));
        assert_eq!(tested.lines - tested.test_lines, 1);
        assert!(too_long(&tested, 1, 1).is_empty());
    }

    #[test]
    fn test_modules_in_files_of_their_own() {
        let source = Source::parse("src/quant/mod.rs", "mod rtn; #[cfg(test)] mod tests;");
        assert_eq!(source.test_modules, ["tests"]);
        assert_eq!(source.test_module_prefix("tests"), "src/quant/tests");
        assert_eq!(Source::parse("src/quant/rtn.rs", "").test_module_prefix("tests"), "src/quant/rtn/tests");
    }

    #[test]
    fn scripts() {
        let gone = ["scripts", "gone.py"].join("/");
        let text = format!("`{gone} --flag`, ./scripts/test.sh. $HOME/{gone} gone.py join(\"{gone}\") scripts/README.md");
        assert_eq!(named_scripts(&text).collect::<Vec<_>>(), [&gone, "scripts/test.sh", &gone]);
        assert_eq!(check_scripts("README.md", &text), [(); 2].map(|()| format!("README.md: there is no {gone}")));
        assert!(is_record_of_a_run("results/h200/parity.txt") && !is_record_of_a_run("results/README.md"));
        assert_eq!(listed_scripts("| script | what |\n|---|---|\n| `a.py` | `b.py` |\n`c.py`\n"), ["a.py"]);
    }

    #[test]
    fn names() {
        assert_eq!(check_name("src/eval/utils.rs").len(), 1);
        assert_eq!(check_name("src/common/rows.rs").len(), 1);
        assert!(check_name("src/eval/common_words.rs").is_empty());
    }
}
