//! The artifact of every built-in recipe on the embedded model is, byte for byte, the one that was committed: what only moves
//! code changes none, and what means to change one says so by a new golden (`QONNX_BLESS=1 cargo test --test it recipe_bytes::`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::support::tools;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// BLAKE3 of `model.onnx` and `model.onnx.data` by recipe. Where graphs have changed since a kind of CPU was last at hand, that of the
/// graph is empty and compares with any: small scales of calibrated weights lie in it, so that no other CPU can tell it.
type Hashes = BTreeMap<String, [String; 2]>;

#[derive(Debug, Serialize, Deserialize)]
struct Golden {
    /// What is rounded without a look at activations is the same on every machine.
    uncalibrated: Hashes,
    /// Activations are ONNX Runtime's, whose kernels differ in the last bit from one kind of CPU to the next.
    calibrated: BTreeMap<String, Hashes>,
}

fn golden_path() -> PathBuf {
    Path::new(ROOT).join("tests/goldens/recipe_bytes.json")
}

/// Names of the built-in recipes, and whether each is calibrated.
fn recipes() -> Vec<(String, bool)> {
    let files = fs::read_dir(Path::new(ROOT).join("graphs/recipes")).expect("the recipes are there");
    let mut found: Vec<(String, bool)> = files
        .map(|file| file.expect("readable").path())
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a recipe is a text");
            (path.file_stem().expect("a name").display().to_string(), text.contains("[calibration]"))
        })
        .collect();
    found.sort();
    found
}

fn hashes(calibrated: bool) -> Hashes {
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let of = |recipe: String| {
        let output = place.path().join(&recipe);
        let mut command = Command::new(env!("CARGO_BIN_EXE_qonnx"));
        command.arg("export").arg(Path::new(ROOT).join("fixtures/tiny-coqa")).args(["--recipe", &recipe, "-o"]).arg(&output);
        let ran = command.output().expect("qonnx starts");
        assert!(ran.status.success(), "{recipe}: {}", String::from_utf8_lossy(&ran.stderr));
        let hash = |file: &str| blake3::hash(&fs::read(output.join(file)).expect("it was written")).to_hex().to_string();
        (recipe, ["model.onnx", "model.onnx.data"].map(hash))
    };
    recipes().into_iter().filter(|(_, needs)| *needs == calibrated).map(|(recipe, _)| of(recipe)).collect()
}

/// What ONNX Runtime chooses its kernels by.
fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1));
        line.unwrap_or_default().to_owned()
    };
    let flags = field("flags");
    let has = |flag: &&str| flags.split(' ').any(|held| held == *flag);
    let kernels: Vec<&str> =
        ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"].into_iter().filter(has).collect();
    format!("{} family {} model {}: {}", field("vendor_id"), field("cpu family"), field("model\t"), kernels.join(" "))
}

fn check(calibrated: bool) {
    let mut golden: Golden = serde_json::from_slice(&fs::read(golden_path()).expect("the golden is there")).expect("JSON");
    let known = match calibrated {
        false => Some(&golden.uncalibrated),
        true => golden.calibrated.get(&cpu()),
    };
    let blesses = std::env::var_os("QONNX_BLESS").is_some();
    if known.is_none() && !blesses {
        return tools::not_run(&format!("there is no golden of calibrated recipes on {}", cpu()));
    }
    let made = hashes(calibrated);
    if blesses {
        match calibrated {
            false => golden.uncalibrated = made,
            true => drop(golden.calibrated.insert(cpu(), made)),
        }
        let text = serde_json::to_string_pretty(&golden).expect("JSON") + "\n";
        return fs::write(golden_path(), text).expect("the golden is ours");
    }
    let known = known.expect("it is there");
    let same = |known: &[String; 2], made: &[String; 2]| known[1] == made[1] && (known[0].is_empty() || known[0] == made[0]);
    let is_known = |recipe: &String, made| known.get(recipe).is_some_and(|known| same(known, made));
    let differ: Vec<&String> = made.iter().filter(|(recipe, made)| !is_known(recipe, made)).map(|(name, _)| name).collect();
    assert!(differ.is_empty() && known.len() == made.len(), "other bytes: {differ:?}");
}

// One test, because both would write the one golden.
#[test]
fn every_recipe_makes_the_bytes_that_it_made() {
    assert_eq!(recipes().len(), 24);
    check(false);
    check(true);
}
