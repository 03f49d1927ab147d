//! The program's own cache: what is fetched or unpacked once.

use std::env;
use std::path::PathBuf;

/// `QONNX_CACHE`, else `qonnx` in the user's cache; `None` where neither that, `XDG_CACHE_HOME` nor `HOME` is set.
/// `scripts/get-onnxruntime.sh` has the same rule.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    set("QONNX_CACHE").or_else(|| Some(user()?.join("qonnx")))
}
