//! The hub's settings, under the environment variables that Hugging Face's own tools read.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::HubError;
use crate::host::read;

const HOME: &str = "HOME";
/// No token comes near it.
const MAX_TOKEN_BYTES: u64 = 64 << 10;
const ENDPOINT: &str = "https://huggingface.co";

/// Where the hub is, where its cache lies, and how to ask.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_HUB_CACHE` or `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, which is `~/.cache/huggingface` unless set; `~` and
    /// `$VARIABLES` in them stand for what they say.
    pub cache: PathBuf,
    /// `HF_TOKEN` or `HUGGING_FACE_HUB_TOKEN`, else what `hf auth login` left in `HF_HOME`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: the cache is all there is.
    pub offline: bool,
    /// How often a request that a server refuses for a moment is made again, and a download that breaks off without bringing
    /// anything on.
    pub retries: u32,
    /// Wait before the first retry, unless the server says how long; doubled for each further one.
    pub retry_wait: Duration,
    /// A connection that stays silent for so long, or brings less than a kilobyte a second meanwhile, is broken.
    pub silence: Duration,
}

impl HubConfig {
    /// The process's environment. Without `HOME` the home folder is the one that the system knows of the user.
    pub fn from_env() -> Result<HubConfig, HubError> {
        HubConfig::from_vars(|name| match std::env::var_os(name) {
            None if name == HOME => std::env::home_dir().map(PathBuf::into_os_string),
            value => value,
        })
    }

    /// Any environment: `var` gives the value of a variable. Reads the token file below `HF_HOME`.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<HubConfig, HubError> {
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
        let literal = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = |name: &str| literal(name).map(|path| expanded(path, &var));
        let user_cache = || path("XDG_CACHE_HOME").or_else(|| literal(HOME).map(|home| home.join(".cache")));
        let home = path("HF_HOME").or_else(|| user_cache().map(|cache| cache.join("huggingface")));
        let cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(path);
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or(HubError::NoCacheFolder)?;
        let token_file = path("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        let said = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(text);
        let token = said.or_else(|| read::text(&token_file?, MAX_TOKEN_BYTES).ok());
        Ok(HubConfig {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            cache,
            token: token.map(|token| token.replace(['\r', '\n'], "").trim().to_owned()).filter(|token| !token.is_empty()),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            retries: 5,
            retry_wait: Duration::from_secs(1),
            silence: Duration::from_secs(30),
        })
    }
}

/// A path whose `~` is the home folder and whose `$NAME` and `${NAME}` are variables, where there are such; a value from a
/// file of settings has not met a shell.
fn expanded(path: PathBuf, var: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
    match path.to_str() {
        Some(said) => PathBuf::from(shellexpand::full_with_context_no_errors(said, || text(HOME), text).as_ref()),
        None => path,
    }
}

/// The values that huggingface_hub takes for true.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig, HubError> {
        HubConfig::from_vars(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn variables_win_over_each_other_as_in_huggingface_hub() {
        let plain = config(&[("HOME", "/home/u")]).expect("a home");
        assert_eq!(plain.cache, PathBuf::from("/home/u/.cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), ("https://huggingface.co", None, false));

        let all = config(&[
            ("HOME", "/home/u"),
            ("HF_HOME", "/data/hf"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "TRUE"),
        ])
        .expect("a home");
        assert_eq!(all.cache, PathBuf::from("/data/hf/hub"));
        assert_eq!((all.endpoint.as_str(), all.token.as_deref(), all.offline), ("http://mirror", Some("hf_x"), true));

        let cache = config(&[("HF_HOME", "/data/hf"), ("HF_HUB_CACHE", "/fast"), ("HF_HUB_OFFLINE", "0")]).expect("a home");
        assert_eq!((cache.cache, cache.offline), (PathBuf::from("/fast"), false));
        assert!(matches!(config(&[]), Err(HubError::NoCacheFolder)));
    }

    #[test]
    fn paths_are_expanded_as_in_huggingface_hub() {
        let cache = |vars: &[(&str, &str)]| config(vars).expect("a home").cache;
        assert_eq!(cache(&[("HOME", "/home/u"), ("HF_HOME", "~/hf")]), PathBuf::from("/home/u/hf/hub"));
        assert_eq!(cache(&[("HOME", "/home/u"), ("HF_HUB_CACHE", "~")]), PathBuf::from("/home/u"));
        let vars = [("HOME", "/home/u"), ("SCRATCH", "/s"), ("HF_HOME", "${SCRATCH}/$NONE/a~b")];
        assert_eq!(cache(&vars), PathBuf::from("/s/$NONE/a~b/hub"));
        let old = [("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "$HF_HOME/old")];
        assert_eq!(cache(&old), PathBuf::from("/hf/old"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]), PathBuf::from("/new"));
    }

    #[test]
    fn a_token_loses_what_editors_and_shells_add_to_it() {
        let token = |vars: &[(&str, &str)]| config(vars).expect("a home").token;
        assert_eq!(token(&[("HF_HOME", "/none"), ("HF_TOKEN", " hf_\r\nx\n")]).as_deref(), Some("hf_x"));
        assert_eq!(token(&[("HF_HOME", "/none"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")]).as_deref(), Some("hf_old"));
        assert_eq!(token(&[("HF_HOME", "/none"), ("HF_TOKEN", "\n")]), None);
    }

    #[test]
    fn the_token_file_of_hf_auth_login_is_read() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("token"), "hf_file\n").expect("written");
        let home = home.path().to_str().expect("UTF-8");
        assert_eq!(config(&[("HF_HOME", home)]).expect("a home").token.as_deref(), Some("hf_file"));
        assert_eq!(config(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).expect("a home").token.as_deref(), Some("hf_env"));
    }
}
