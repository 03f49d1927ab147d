//! The model card of an artifact: each block of it does what it says, in the runtime that it is of.

use std::path::Path;
use std::process::Command;

use crate::support::program::{done, model, refused};
use crate::support::{small, tools};

const PROMPT: &str = "Once upon a time";

/// A block of a card: its heading, its language, its lines.
struct Block {
    heading: String,
    language: String,
    code: String,
}

fn blocks(folder: &Path) -> Vec<Block> {
    let card = std::fs::read_to_string(folder.join("README.md")).expect("there is a card");
    let of_heading = |part: &str| {
        let (heading, rest) = part.split_once('\n')?;
        let (language, rest) = rest.split_once("```")?.1.split_once('\n')?;
        let code = rest.split_once("```")?.0;
        Some(Block { heading: heading.to_owned(), language: language.to_owned(), code: code.to_owned() })
    };
    card.split("\n### ").skip(1).filter_map(of_heading).collect()
}

/// The variable that names the Python of a block; none where nothing here runs it.
fn python_of(heading: &str) -> Option<&'static str> {
    match heading {
        "onnxruntime" | "optimum" => Some("QONNX_RUNTIME_OPTIMUM"),
        "onnxruntime-genai" => Some("QONNX_RUNTIME_GENAI"),
        "OpenVINO" => Some("QONNX_RUNTIME_OPENVINO"),
        "transformers" => Some("QONNX_RUNTIME_READERS"),
        _ => None,
    }
}

/// What a block prints, run in the artifact's folder; `None` where it cannot be run here.
fn said(block: &Block, folder: &Path) -> Option<String> {
    let mut command = match block.language.as_str() {
        "python" => {
            let variable = python_of(&block.heading).expect("each Python block has its Python");
            if !tools::has(variable) {
                return None;
            }
            let mut command = Command::new(std::env::var_os(variable)?);
            command.args(["-c", &block.code]);
            command
        }
        "js" => {
            let variable = "QONNX_RUNTIME_NODE";
            if !tools::has(variable) {
                return None;
            }
            let node = std::env::var_os(variable)?;
            let modules = Command::new(&node).args(["-p", "process.env.QONNX_NODE_MODULES"]).output().expect("Node starts");
            let modules = String::from_utf8(modules.stdout).expect("a path of UTF-8");
            // Node looks for packages in the folders above.
            let beside = folder.parent().expect("it lies in a place of its own").join("node_modules");
            std::os::unix::fs::symlink(modules.trim(), beside).expect("the place is the test's");
            let mut command = Command::new(node);
            command.args(["--input-type=module", "-e", &block.code]);
            command
        }
        "sh" if block.heading == "qonnx" => {
            let program = env!("CARGO_BIN_EXE_qonnx");
            let mut command = Command::new("sh");
            command.args(["-c", &block.code.replacen("qonnx", program, 1)]);
            command
        }
        _ => return None,
    };
    let output = command.current_dir(folder).output().expect("it starts");
    assert!(output.status.success(), "{}: {}", block.heading, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("it prints UTF-8");
    Some(text.replace("<|begin_of_text|>", "").split("<|end_of_text|>").next().unwrap_or_default().trim().to_owned())
}

#[test]
fn the_blocks_of_a_card_say_what_this_program_says() {
    for (target, flags, expected) in [
        ("ort", &["--bits", "4"][..], &["onnxruntime", "onnxruntime-genai", "optimum", "qonnx"][..]),
        ("matmulnbits", &["--bits", "4"], &["onnxruntime", "onnxruntime-genai", "qonnx"]),
        ("portable", &["--bits", "4"], &["OpenVINO", "onnxruntime", "onnxruntime-genai"]),
        ("transformers.js", &["--bits", "4"], &["transformers.js", "onnxruntime-genai", "qonnx"]),
        ("compressed-tensors", &["--bits", "4"], &["transformers", "vLLM"]),
        ("bitsandbytes", &["--method", "nf4"], &["transformers"]),
        ("gptq", &["--bits", "4"], &["vLLM"]),
        ("mlx", &["--bits", "4"], &["mlx-lm"]),
        ("gguf", &["--bits", "4"], &["llama.cpp"]),
        ("tensorrt", &["--bits", "8"], &["TensorRT", "onnxruntime"]),
    ] {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name).display().to_string();
        let (ours, out) = (at("ours"), at("out"));
        let dtype = if target == "tensorrt" { "f16" } else { "f32" };
        for (target, folder) in [("ort", &ours), (target, &out)] {
            done(&[&["export", &model(), "--target", target, "--dtype", dtype, "-o", folder], flags].concat());
        }
        // What this program runs itself is asked itself.
        let asked = if ["matmulnbits", "transformers.js"].contains(&target) { &out } else { &ours };
        let words = format!("{PROMPT}{}", done(&["generate", asked, PROMPT, "--max-new-tokens", "32"]));
        let words = words.trim();
        let blocks = blocks(Path::new(&out));
        assert_eq!(blocks.iter().map(|block| block.heading.as_str()).collect::<Vec<_>>(), expected, "{target}");
        for block in &blocks {
            let Some(said) = said(block, Path::new(&out)) else { continue };
            // Another graph in f16 rounds otherwise, and these words have near rivals; in f32 the same graph is `portable`.
            if target == "tensorrt" {
                assert!(said.starts_with(PROMPT) && said.len() > 60, "{said}");
                continue;
            }
            let said = if said.starts_with(PROMPT) { said } else { format!("{PROMPT}{said}") };
            let (short, long) = if said.len() < words.len() { (said.as_str(), words) } else { (words, said.as_str()) };
            let both = short.chars().zip(long.chars()).take_while(|(a, b)| a == b).count();
            assert!(short.len() > 60 && both == short.chars().count(), "{target}, {}:\n{said}\n{words}", block.heading);
        }
        done(&["verify", &out]);
    }
}

/// The head says what a model was made of, and under what licence; records say how good it is.
#[test]
fn a_card_has_the_models_licence_and_what_records_say() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).display().to_string();
    let base = place.path().join("base");
    std::fs::create_dir(&base).unwrap();
    for entry in std::fs::read_dir(model()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, base.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(base.join("README.md"), "---\nlicense: llama3.2\nlicense_link: LICENSE\n---\n\n# The base\n").unwrap();
    let (q, out, results) = (at("q"), at("out"), at("results"));
    done(&["quantize", &at("base"), "--bits", "4", "-o", &q]);
    done(&["export", &q, "--dtype", "f32", "-o", &out]);
    let card = || std::fs::read_to_string(Path::new(&out).join("README.md")).unwrap();
    let head = "---\nlicense: llama3.2\nlicense_link: LICENSE\nlibrary_name: onnx\npipeline_tag: text-generation\ntags: [qonnx, quantized]\n---\n";
    assert!(card().starts_with(head), "{}", card());
    assert!(card().contains("# base in INT4") && card().contains("| bits per weight, linears | 4.500 |"), "{}", card());
    assert!(!card().contains("## Quality"), "{}", card());
    std::fs::create_dir(&results).unwrap();
    let said = refused(&["card", &out, "--results", &results]);
    assert!(said.contains("no record is of") && said.contains("none of 0"), "{said}");
    small::write_beside(place.path());
    let asked = ["--coqa", &at("questions.json"), "--protocol", "official", "--limit", "4", "--no-bench"];
    done(&[&["run", "int4_rtn_g32", "--model", &at("base"), "--results", &results], &asked[..]].concat());
    let said = done(&["card", &out, "--results", &results]);
    assert!(said.contains("README.md") && said.contains("coqa"), "{said}");
    assert!(
        card().starts_with(head)
            && card().contains("## Quality")
            && card().contains("| CoQA F1 (questions.json, official 1.0, 4 questions) | 0."),
        "{}",
        card()
    );
    done(&["verify", &out]);
    let before = card();
    done(&["card", &out, "--results", &results]);
    assert_eq!(card(), before);
    // What was written by hand, and a manifest that says something else, are not covered up.
    std::fs::write(Path::new(&out).join("README.md"), before.clone() + "\nOur own words.\n").unwrap();
    let said = refused(&["card", &out, "--results", &results]);
    assert!(said.contains("README.md") && said.contains("its card stays as it is"), "{said}");
    std::fs::write(Path::new(&out).join("README.md"), &before).unwrap();
    let manifest = Path::new(&out).join("qonnx.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("\"bits_per_weight_linears\": 4.5", "\"bits_per_weight_linears\": 2.5", 1)).unwrap();
    let said = refused(&["card", &out, "--results", &results]);
    assert!(said.contains("qonnx.json has changed since it was written"), "{said}");
}
