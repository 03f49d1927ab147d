//! Broken and lying checkpoints: each gets a sentence that says what is wrong where, counts as bad input, and panics
//! nowhere.

use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use qonnx::checkpoint::{Checkpoint, CheckpointError, Index, parse_header};
use qonnx::fault::Fault;
use qonnx::tensor::convert::{self, ConvertError};

const SINGLE: &str = "model.safetensors";
const SHARD_INDEX: &str = "model.safetensors.index.json";

/// A safetensors file with this header, true or not, and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    raw(header.len() as u64, header.as_bytes(), data)
}

fn raw(length: u64, header: &[u8], data: usize) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

/// One bf16 tensor of two elements.
fn valid(name: &str) -> Vec<u8> {
    file(&format!(r#"{{"{name}":{{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}}}"#), 4)
}

/// Name and contents.
type FileToWrite = (&'static str, Vec<u8>);

/// The sentence with which the folder of these files is refused, `DIR` standing for the folder.
fn refusal(files: &[(&str, Vec<u8>)]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).expect("written");
    }
    let before = names(dir.path());
    let error = Checkpoint::open(dir.path()).map(|_| ()).expect_err("refused");
    assert_eq!(error.fault(), Fault::BadInput, "{error}");
    assert_eq!(names(dir.path()), before, "reading leaves nothing behind");
    error.to_string().replace(&dir.path().display().to_string(), "DIR")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn broken_files_are_refused_by_name_and_cause() {
    let one = |dtype: &str, shape: &str, offsets: &str, data: usize| {
        file(&format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#), data)
    };
    let two = |first: &str, second: &str, data: usize| {
        let entry = |name: &str, offsets: &str| format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        file(&format!("{{{},{}}}", entry("a", first), entry("b", second)), data)
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "the file has 0 bytes, expected at least the 8 of a safetensors header length; download it again"),
        (
            "7 bytes",
            vec![0; 7],
            "the file has 7 bytes, expected at least the 8 of a safetensors header length; download it again",
        ),
        (
            "only a length",
            raw(0, b"", 0),
            "the header is not the JSON of a safetensors file: EOF while parsing a value at line 1 column 0; the file is damaged, \
             download it again",
        ),
        (
            "length beyond the file",
            raw(1000, b"{}", 0),
            "the header length says 1000 bytes, but the file has 10 bytes in all; it is truncated, download it again",
        ),
        (
            "length 2^63",
            raw(1 << 63, b"{}", 0),
            "the header length says 9223372036854775808 bytes, but the file has 10 bytes in all; it is truncated, download it again",
        ),
        (
            "length 2^64-1",
            raw(u64::MAX, b"{}", 0),
            "the header length says 18446744073709551615 bytes, but the file has 10 bytes in all; it is truncated, download it again",
        ),
        (
            "git-lfs pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec(),
            "this is a git-lfs pointer, expected the weights themselves; run git lfs pull in its folder",
        ),
        (
            "not JSON",
            file("<html>404</html>", 0),
            "the header is not the JSON of a safetensors file: expected value at line 1 column 1; the file is damaged, download it \
             again",
        ),
        (
            "an array",
            file("[1, 2]", 0),
            "the header is not the JSON of a safetensors file: invalid type: sequence, expected an object of tensors at line 1 \
             column 0; the file is damaged, download it again",
        ),
        (
            "deep nesting",
            file(&"{\"a\":".repeat(5000), 0),
            "the header is not the JSON of a safetensors file: EOF while parsing a value at line 1 column 25000",
        ),
        (
            "deep nesting in the metadata",
            file(&format!("{{\"__metadata__\":{}", "[".repeat(5000)), 0),
            "the header is not the JSON of a safetensors file: EOF while parsing a list at line 1 column 5016",
        ),
        (
            "not UTF-8",
            raw(4, b"{\"\xff\xfe", 0),
            "the header is not UTF-8 from byte 2 on; this is no safetensors file, or a damaged one",
        ),
        (
            "cut-off JSON",
            file(r#"{"w":{"dtype":"BF16","#, 0),
            "the header is not the JSON of a safetensors file: EOF while parsing",
        ),
        (
            "negative shape",
            one("BF16", "[-2]", "[0,4]", 4),
            "the header is not the JSON of a safetensors file: invalid value: integer `-2`, expected usize",
        ),
        (
            "fractional offset",
            one("BF16", "[2]", "[0,4.5]", 4),
            "the header is not the JSON of a safetensors file: invalid type: floating point `4.5`, expected u64",
        ),
        (
            "no shape",
            file(r#"{"w":{"dtype":"BF16","data_offsets":[0,4]}}"#, 4),
            "the header is not the JSON of a safetensors file: missing field `shape`",
        ),
        ("three offsets", one("BF16", "[2]", "[0,2,4]", 4), "the header is not the JSON of a safetensors file: "),
        (
            "offsets reversed",
            one("BF16", "[2]", "[4,0]", 4),
            "tensor w: data_offsets start at 4 after their end 0; the header is damaged",
        ),
        (
            "end beyond the file",
            one("BF16", "[2]", "[0,4]", 3),
            "tensor w: data_offsets end at byte 4, but only 3 bytes of data follow the header; the file is truncated, download it again",
        ),
        (
            "end 2^64-1",
            one("BF16", "[2]", "[0,18446744073709551615]", 4),
            "tensor w: data_offsets end at byte 18446744073709551615, but only 4 bytes of data follow the header; the file is \
             truncated, download it again",
        ),
        (
            "fewer bytes than the shape asks for",
            one("BF16", "[3]", "[0,4]", 4),
            "tensor w: BF16 of shape [3] takes 6 bytes, but data_offsets span 4; the header is damaged",
        ),
        (
            "more bytes than the shape asks for",
            one("F32", "[0]", "[0,4]", 4),
            "tensor w: F32 of shape [0] takes 0 bytes, but data_offsets span 4; the header is damaged",
        ),
        (
            "shape overflow",
            one("BF16", "[4294967296,4294967296]", "[0,4]", 4),
            "tensor w: shape [4294967296, 4294967296] overflows 64 bits; the header is damaged",
        ),
        (
            "shape whose product wraps to the right size",
            one("U8", "[2305843009213693953,8]", "[0,8]", 8),
            "tensor w: shape [2305843009213693953, 8] overflows 64 bits; the header is damaged",
        ),
        (
            "unknown element type",
            one("BF17", "[2]", "[0,4]", 4),
            "tensor w: element type \"BF17\" is unknown to safetensors; weights are read as F32, F16 or BF16",
        ),
        (
            "a name twice",
            file(
                r#"{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
                4,
            ),
            "tensor w appears twice in the header, expected once; write the file again",
        ),
        (
            "overlap",
            two("[0,4]", "[2,6]", 6),
            "tensors a and b overlap from byte 2 of the data on, expected disjoint ranges; the header is damaged",
        ),
        (
            "the same bytes twice",
            two("[0,4]", "[0,4]", 4),
            "tensors a and b overlap from byte 0 of the data on, expected disjoint ranges; the header is damaged",
        ),
        (
            "a hole",
            two("[0,4]", "[5,9]", 9),
            "bytes 4 to 5 of the data belong to no tensor, expected no holes; the file is damaged, download it again",
        ),
        (
            "bytes left over",
            two("[0,4]", "[4,8]", 11),
            "bytes 8 to 11 of the data belong to no tensor, expected no holes; the file is damaged, download it again",
        ),
    ];
    for (case, bytes, expected) in cases {
        let got = refusal(&[(SINGLE, bytes)]);
        assert!(got.starts_with(&format!("DIR/{SINGLE}: {expected}")), "{case}: {got}");
    }
}

#[test]
fn broken_folders_are_refused_by_name_and_cause() {
    let index = |map: &str| (SHARD_INDEX, format!("{{\"weight_map\":{map}}}").into_bytes());
    let cases: Vec<(&str, Vec<FileToWrite>, &str)> = vec![
        (
            "empty folder",
            vec![],
            "checkpoint DIR: neither model.safetensors nor model.safetensors.index.json is there, only an empty folder; download the \
             checkpoint's safetensors files",
        ),
        (
            "no weights",
            vec![("config.json", b"{}".to_vec())],
            "checkpoint DIR: neither model.safetensors nor model.safetensors.index.json is there, only other files; download the \
             checkpoint's safetensors files",
        ),
        (
            "pickled weights",
            vec![("pytorch_model.bin", b"PK".to_vec()), ("config.json", b"{}".to_vec())],
            "checkpoint DIR: neither model.safetensors nor model.safetensors.index.json is there, only pytorch_model.bin; convert it \
             to safetensors, with transformers' save_pretrained or huggingface.co/spaces/safetensors/convert",
        ),
        (
            "gguf",
            vec![("llama.Q4_0.gguf", b"GGUF".to_vec())],
            "checkpoint DIR: neither model.safetensors nor model.safetensors.index.json is there, only llama.Q4_0.gguf; that is a \
             converted model already; take the safetensors checkpoint it was made from",
        ),
        (
            "another name",
            vec![("weights.safetensors", valid("w"))],
            "checkpoint DIR: neither model.safetensors nor model.safetensors.index.json is there, only weights.safetensors; if that \
             file is the whole model, rename it to model.safetensors",
        ),
        (
            "an adapter alone",
            vec![("adapter_model.safetensors", valid("w")), ("adapter_config.json", b"{}".to_vec())],
            "checkpoint DIR: neither model.safetensors nor model.safetensors.index.json is there, only adapter_config.json; that is \
             an adapter; merge it into its base model (peft's merge_and_unload) and give that one",
        ),
        (
            "a shard of two, and no index",
            vec![("model-00002-of-00002.safetensors", valid("w"))],
            "checkpoint DIR: model.safetensors.index.json is missing, and so is model-00001-of-00002.safetensors of the 2 shards that \
             model-00002-of-00002.safetensors speaks of; download them",
        ),
        (
            "index in UTF-16",
            vec![(SHARD_INDEX, b"\xff\xfe{\0}\0".to_vec())],
            "DIR/model.safetensors.index.json: it is UTF-16; save it as UTF-8; download it again",
        ),
        (
            "index not JSON",
            vec![(SHARD_INDEX, b"oops".to_vec())],
            "DIR/model.safetensors.index.json: not the JSON of a safetensors index (expected value at line 1 column 1), expected an \
             object whose weight_map names a shard for each tensor; download it again",
        ),
        (
            "index without a map",
            vec![(SHARD_INDEX, b"{\"metadata\":{}}".to_vec())],
            "DIR/model.safetensors.index.json: not the JSON of a safetensors index (missing field `weight_map` at line 1 column 15), \
             expected an object whose weight_map names a shard for each tensor; download it again",
        ),
        (
            "index with an empty map",
            vec![index("{}")],
            "DIR/model.safetensors.index.json: weight_map is empty, expected a shard for each tensor; download it again",
        ),
        (
            "missing shard",
            vec![index(r#"{"a":"1.safetensors","b":"2.safetensors"}"#), ("1.safetensors", valid("a"))],
            "DIR/model.safetensors.index.json: shard 2.safetensors is missing, which holds tensor b; download it",
        ),
        (
            "a tensor in two shards",
            vec![
                index(r#"{"a":"1.safetensors","b":"2.safetensors"}"#),
                ("1.safetensors", valid("a")),
                ("2.safetensors", valid("a")),
            ],
            "DIR: tensor a is in 1.safetensors and again in 2.safetensors, expected in one; download the checkpoint again",
        ),
        (
            "a tensor mapped twice",
            vec![index(r#"{"a":"1.safetensors","a":"2.safetensors"}"#)],
            "DIR/model.safetensors.index.json: tensor a is in 1.safetensors and again in 2.safetensors, expected in one; download the \
             checkpoint again",
        ),
        (
            "a shard outside the folder",
            vec![index(r#"{"a":"../secret.safetensors"}"#)],
            "DIR/model.safetensors.index.json: shard \"../secret.safetensors\" of tensor a is not a plain file name; a shard lies \
             beside the index",
        ),
        (
            "a shard by absolute path",
            vec![index(r#"{"a":"/etc/passwd"}"#)],
            "DIR/model.safetensors.index.json: shard \"/etc/passwd\" of tensor a is not a plain file name; a shard lies beside the index",
        ),
        (
            "a truncated shard",
            vec![index(r#"{"a":"1.safetensors"}"#), ("1.safetensors", valid("a")[..65].to_vec())],
            "DIR/1.safetensors: tensor a: data_offsets end at byte 4, but only 2 bytes of data follow the header; the \
             file is truncated, download it again",
        ),
    ];
    for (case, files, expected) in cases {
        let got = refusal(&files);
        assert!(got.starts_with(expected), "{case}: {got}");
    }
}

#[test]
fn a_tensor_that_an_index_names_and_no_shard_has_is_refused_when_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("1.safetensors"), valid("a")).expect("written");
    fs::write(dir.path().join("2.safetensors"), valid("c")).expect("written");
    let map = r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"1.safetensors"}}"#;
    fs::write(dir.path().join(SHARD_INDEX), map).expect("written");
    let index = Index::open(dir.path()).expect("transformers reads it too, whichever shard a tensor is in");
    assert_eq!((index.get("a").map(|a| a.file), index.get("c").map(|c| c.file)), (Some(0), Some(1)));
    assert_eq!(index.unheld().collect::<Vec<_>>(), ["b"]);
    let error = index.require("b").expect_err("no shard has it").to_string();
    let says = "model.safetensors.index.json: tensor b should be in shard 1.safetensors, but that file does not have it";
    assert!(error.contains(says), "{error}");
}

#[test]
fn names_from_a_file_do_not_steer_the_terminal() {
    let name = format!("\\u001b[2J\\u202e{}", "x".repeat(100_000));
    let shape = format!("[{}0]", "1,".repeat(100_000));
    let entry = |dtype: &str, shape: &str| {
        file(&format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,4]}}}}"#), 4)
    };
    let map = format!(r#"{{"weight_map":{{"{name}":"../{name}"}}}}"#).into_bytes();
    let missing = format!(r#"{{"weight_map":{{"{name}":"{name}"}}}}"#).into_bytes();
    let cases = [
        (SINGLE, entry("Q", "[2]")),
        (SINGLE, entry(&name, "[2]")),
        (SINGLE, entry("BF16", &shape)),
        (SINGLE, file(&format!(r#"{{"a":"{name}"}}"#), 0)),
        (SHARD_INDEX, map),
        (SHARD_INDEX, missing),
        (SHARD_INDEX, format!(r#"{{"weight_map":{{"a":["{name}"]}}}}"#).into_bytes()),
    ];
    for (at, (file, bytes)) in cases.into_iter().enumerate() {
        let message = refusal(&[(file, bytes)]);
        let steers = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!message.contains(steers) && message.chars().count() < 1500, "{at}: {} characters", message.chars().count());
    }
}

#[test]
fn what_is_no_folder_or_no_file_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |path: &Path| {
        let error = Index::open(path).expect_err("refused");
        assert_eq!(error.fault(), Fault::BadInput);
        error.to_string().replace(&dir.path().display().to_string(), "DIR")
    };
    assert_eq!(
        refused(&dir.path().join("none")),
        "checkpoint DIR/none: no such folder; give the folder that holds config.json and model.safetensors"
    );
    fs::write(dir.path().join("a.safetensors"), valid("a")).expect("written");
    assert_eq!(
        refused(&dir.path().join("a.safetensors")),
        "checkpoint DIR/a.safetensors: this is a file; give the folder that holds it"
    );
    fs::create_dir(dir.path().join(SHARD_INDEX)).expect("created");
    assert_eq!(
        refused(dir.path()),
        "DIR/model.safetensors.index.json: expected a file, got a folder, a FIFO or a device; put the file itself there"
    );
    fs::create_dir(dir.path().join(SINGLE)).expect("created");
    assert_eq!(
        refused(dir.path()),
        "DIR/model.safetensors: expected a file, got a folder, a FIFO or a device; put the file itself there"
    );
    fs::remove_dir(dir.path().join(SINGLE)).expect("removed");
    // 200 MB of nothing: a sparse file takes no disk, and its header no memory.
    let mut sparse = fs::File::create(dir.path().join(SINGLE)).expect("created");
    sparse.write_all(&150_000_000u64.to_le_bytes()).and_then(|()| sparse.set_len(200_000_000)).expect("written");
    assert_eq!(
        refused(dir.path()),
        "DIR/model.safetensors: the header length says 150000000 bytes, expected at most 100000000; this is no safetensors file"
    );
}

#[test]
fn other_element_types_are_listed_and_refused_when_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let header = r#"{"__metadata__":{"format":"pt"},
        "q":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},
        "w":{"dtype":"F16","shape":[1,2],"data_offsets":[2,6]}}"#;
    fs::write(dir.path().join(SINGLE), file(header, 6)).expect("written");
    let checkpoint = Checkpoint::open(dir.path()).expect("valid");
    assert_eq!(checkpoint.index().unsupported().collect::<Vec<_>>(), [("q", "F8_E4M3".to_owned())]);
    assert_eq!(checkpoint.index().iter().map(|(name, _)| name).collect::<Vec<_>>(), ["w"]);
    let view = checkpoint.tensor("w").expect("there");
    assert_eq!((view.shape, view.bytes), (&[1, 2][..], &[2, 3, 4, 5][..]));

    let sentence = |name: &str| {
        let error = checkpoint.tensor(name).expect_err("refused");
        assert_eq!(error.fault(), Fault::BadInput);
        error.to_string().replace(&dir.path().display().to_string(), "DIR")
    };
    assert_eq!(
        sentence("q"),
        "weight q in DIR/model.safetensors: element type F8_E4M3 is not supported, expected F32, F16 or BF16; take the unquantized \
         checkpoint"
    );
    assert_eq!(
        sentence("lm_head.weight"),
        "checkpoint DIR: no tensor lm_head.weight among its 1; the model needs it, so another file may be missing"
    );
}

#[test]
fn nan_and_infinite_weights_are_found() {
    let dir = tempfile::tempdir().expect("a folder");
    for (dtype, width, bad) in [
        ("F32", 4, f32::NAN.to_le_bytes().to_vec()),
        ("F32", 4, f32::NEG_INFINITY.to_le_bytes().to_vec()),
        ("F16", 2, 0x7e00u16.to_le_bytes().to_vec()),
        ("F16", 2, 0x7c00u16.to_le_bytes().to_vec()),
        ("BF16", 2, 0x7fc0u16.to_le_bytes().to_vec()),
        ("BF16", 2, 0xff80u16.to_le_bytes().to_vec()),
    ] {
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[50,60],"data_offsets":[0,{}]}}}}"#, 3000 * width);
        let mut bytes = file(&header, 0);
        let start = bytes.len();
        bytes.resize(start + 3000 * width, 0);
        bytes[start + 2500 * width..start + 2501 * width].copy_from_slice(&bad);
        fs::write(dir.path().join(SINGLE), bytes).expect("written");
        let checkpoint = Checkpoint::open(dir.path()).expect("a valid file");
        let view = checkpoint.tensor("w").expect("there");
        let error = convert::decode(view.dtype, view.bytes, &mut [0.0; 3000]).expect_err("not finite");
        assert!(matches!(error, ConvertError::NotFinite { index: 2500, .. }), "{dtype}: {error}");
        assert_eq!(error.fault(), Fault::BadInput);
        assert!(error.to_string().ends_with("expected finite numbers; the checkpoint is damaged or its training diverged"));
    }
}

#[test]
fn released_weights_read_the_same_again() {
    let dir = tempfile::tempdir().expect("a folder");
    // Offsets that begin and end in the middle of pages.
    let header = r#"{"a":{"dtype":"F32","shape":[5000],"data_offsets":[0,20000]},
        "b":{"dtype":"F32","shape":[5000],"data_offsets":[20000,40000]}}"#;
    let contents = file(header, 40_000);
    fs::write(dir.path().join(SINGLE), &contents).expect("written");
    let checkpoint = Checkpoint::open(dir.path()).expect("valid");
    let view = checkpoint.tensor("b").expect("there");
    assert!(view.bytes == &contents[contents.len() - 20_000..]);
    checkpoint.release("b").expect("there");
    assert!(view.bytes == &contents[contents.len() - 20_000..]);
    assert!(matches!(checkpoint.release("c"), Err(CheckpointError::NoTensor { .. })));
}

/// A valid file of a few tensors, as a start for damage.
fn any_valid_file() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((0..4usize, prop::collection::vec(0..5usize, 0..3)), 0..5).prop_map(|tensors| {
        let dtypes = [("F32", 4), ("BF16", 2), ("F16", 2), ("I8", 1)];
        let (mut entries, mut end) = (Vec::new(), 0);
        for (i, (dtype, shape)) in tensors.into_iter().enumerate() {
            let (dtype, width) = dtypes[dtype];
            let start = end;
            end += width * shape.iter().product::<usize>();
            entries.push(format!(r#""t{i}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
        }
        file(&format!("{{{}}}", entries.join(",")), end)
    })
}

/// What a header that was let through must guarantee, whatever bytes it came from.
fn assert_sound(bytes: &[u8]) {
    let Ok(header) = parse_header(bytes, bytes.len() as u64) else { return };
    let mut ranges: Vec<_> = header.values().map(|tensor| tensor.range.clone()).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= bytes.len() as u64));
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "disjoint");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        assert_sound(&bytes);
        assert_sound(&raw(bytes.len() as u64, &bytes, 16));
    }

    #[test]
    fn valid_files_are_read_and_damaged_ones_never_panic(
        bytes in any_valid_file(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        prop_assert!(parse_header(&bytes, bytes.len() as u64).is_ok());
        let mut damaged = bytes.clone();
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        assert_sound(&damaged);
        damaged.truncate(cut.index(damaged.len()));
        assert_sound(&damaged);
        let cut = &bytes[..cut.index(bytes.len())];
        prop_assert!(parse_header(cut, cut.len() as u64).is_err(), "a file that lacks its end is refused");
    }

    #[test]
    fn digits_of_valid_headers_may_lie(bytes in any_valid_file(), at in any::<prop::sample::Index>(), digit in b'0'..=b'9') {
        let digits: Vec<usize> = (8..bytes.len()).filter(|i| bytes[*i].is_ascii_digit()).collect();
        if !digits.is_empty() {
            let mut lying = bytes;
            lying[digits[at.index(digits.len())]] = digit;
            assert_sound(&lying);
        }
    }
}
