//! Artifacts in stock Python onnx and onnxruntime, which know nothing of qonnx.

use std::path::Path;
use std::process::Command;

use python::python;
use qonnx::artifact::plan::{Method, RecipeFlags};
use qonnx::generate::{Generate, GenerateOptions};
use qonnx::recipe::{FormatName, GranularityName};
use qonnx::runtime::{Engine, EngineOptions, ExecutionProvider, Launch, WeightKernels};
use qonnx::tensor::DType;
use serde_json::Value;

use crate::support::{python, tiny, tools};

const NEW_TOKENS: usize = 24;
/// Seven linears in each of six layers.
const LINEARS: u64 = 42;

/// Each kind of artifact: its name, its flags, and the products of quantized weights in it.
fn kinds() -> Vec<(&'static str, RecipeFlags, u64)> {
    let group = |format, size| {
        let granularity = Some(GranularityName::Group(size));
        RecipeFlags { granularity, ..tiny::bits(format) }
    };
    let codebook = |method, double_quantization| RecipeFlags { method, double_quantization, ..RecipeFlags::default() };
    vec![
        ("f16", tiny::bits(FormatName::F16), 0),
        ("int8-channel", tiny::bits(FormatName::Int8), LINEARS),
        ("int8-g32", group(FormatName::Int8, 32), LINEARS),
        ("int4-g32", group(FormatName::Int4, 32), LINEARS),
        ("uint4-g128", RecipeFlags { asymmetric: true, ..group(FormatName::Int4, 128) }, LINEARS),
        ("int2-g32", group(FormatName::Int2, 32), LINEARS),
        ("int8-embedding", RecipeFlags { embedding: Some(FormatName::Int8), ..tiny::bits(FormatName::Int4) }, 43),
        ("int4-embedding", RecipeFlags { embedding: Some(FormatName::Int4), ..tiny::bits(FormatName::Int4) }, 43),
        ("int3-g64", group(FormatName::Int3, 64), LINEARS),
        ("uint3-g32", RecipeFlags { asymmetric: true, ..group(FormatName::Int3, 32) }, LINEARS),
        ("int5-g128", group(FormatName::Int5, 128), LINEARS),
        ("int6-g32", group(FormatName::Int6, 32), LINEARS),
        ("nf4", codebook(Method::Nf4, false), LINEARS),
        ("fp4", codebook(Method::Fp4, false), LINEARS),
        ("nf4-nested", codebook(Method::Nf4, true), LINEARS),
    ]
}

fn prompts(engine: &Engine) -> Vec<Vec<u32>> {
    let data = qonnx::eval::coqa::load(&tiny::model().join("coqa-mini.json")).expect("the fixture is CoQA");
    let stories = qonnx::eval::coqa::Protocol::LM_EVAL.stories(&data);
    let questions = stories.iter().flat_map(|story| &story.questions).step_by(8);
    questions.map(|question| engine.encode(&question.prompt).unwrap_or_else(|error| panic!("{error}"))).collect()
}

fn greedy(engine: &mut Engine, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let options = GenerateOptions { max_new_tokens: NEW_TOKENS, stop: Vec::new() };
    let completions = engine.generate(prompts, &options, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    completions.into_iter().map(|completion| completion.ids).collect()
}

/// One JSON line for each artifact.
fn stock(artifacts: &[impl AsRef<Path>], prompts: &Path) -> Vec<Value> {
    let mut command = python();
    command.arg(tiny::root().join("results/lab/stock_runtime.py")).args(artifacts.iter().map(AsRef::as_ref));
    let output = command.arg("--prompts").arg(prompts).args(["--new-tokens", &NEW_TOKENS.to_string()]).output();
    let output = output.unwrap_or_else(|error| panic!("QONNX_PYTHON cannot be run: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "stock_runtime.py failed\n{stdout}\n{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).expect("the script prints JSON lines")).collect()
}

#[test]
fn every_kind_of_artifact_checks_fuses_and_answers_without_qonnx() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let artifacts: Vec<_> = kinds().iter().map(|(name, ..)| folder.path().join(name)).collect();
    let mut ours = Vec::new();
    for ((_, flags, _), artifact) in kinds().into_iter().zip(&artifacts) {
        tiny::export(&tiny::request(&tiny::model(), flags, DType::F32), artifact);
        let options = EngineOptions {
            provider: ExecutionProvider::Cpu,
            threads: None,
            weights: WeightKernels::Fused,
            launch: Launch::Replayed,
        };
        let mut engine = Engine::load(artifact, &options).unwrap_or_else(|error| panic!("{error}"));
        let prompts = prompts(&engine);
        ours.push(greedy(&mut engine, &prompts));
        let text = serde_json::to_string(&prompts).expect("numbers are JSON");
        std::fs::write(folder.path().join("prompts.json"), text).expect("the folder is ours");
    }
    let results = stock(&artifacts, &folder.path().join("prompts.json"));
    assert_eq!(results.len(), artifacts.len());
    for (((name, _, quantized), ours), theirs) in kinds().into_iter().zip(ours).zip(results) {
        assert_eq!((theirs["checker"].as_str(), theirs["finite"].as_bool()), (Some("ok"), Some(true)), "{name}");
        let nodes = |op: &str| theirs["nodes"][op].as_u64().expect("every operator is counted");
        assert_eq!(nodes("MatMulNBits") + nodes("MatMulBnb4"), quantized, "{name}: {}", theirs["nodes"]);
        for unpacking in ["DequantizeLinear", "BitShift", "BitwiseAnd", "BitwiseOr"] {
            assert_eq!(nodes(unpacking), 0, "{name}: {}", theirs["nodes"]);
        }
        assert_eq!(nodes("Slice"), 1, "{name}: of the mask, to find where rows are padded; none of codes: {}", theirs["nodes"]);
        let ids: Vec<Vec<u32>> = serde_json::from_value(theirs["ids"].clone()).expect("ids are numbers");
        // The script does not know the end-of-sequence token and goes on behind it.
        for (ours, theirs) in ours.iter().zip(&ids) {
            assert!(theirs.starts_with(ours), "{name}: qonnx {ours:?}, stock {theirs:?}");
            assert!(ours.len() == NEW_TOKENS || theirs[ours.len()] == 1, "{name}: qonnx ended early, at {}", theirs[ours.len()]);
        }
        assert!(ours.iter().map(Vec::len).sum::<usize>() >= 10, "{name}: nothing was compared");
    }
}

/// DequantizeLinear's axis written as −2 means the same and is not fused: a graph that is right, and slow.
const UNFUSE: &str = "
import onnx, sys
model = onnx.load(sys.argv[1], load_external_data=False)
node = next(node for node in model.graph.node if node.op_type == 'DequantizeLinear')
next(attribute for attribute in node.attribute if attribute.name == 'axis').i = -2
open(sys.argv[1], 'wb').write(model.SerializeToString())
";

#[test]
fn inspect_exits_with_1_where_a_weight_is_not_fused() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let artifact = folder.path().join("artifact");
    tiny::export(&tiny::request(&tiny::model(), tiny::bits(FormatName::Int4), DType::F32), &artifact);
    let unfused = python().args(["-c", UNFUSE]).arg(artifact.join("model.onnx")).status();
    assert!(unfused.expect("QONNX_PYTHON can be run").success());
    let output = Command::new(env!("CARGO_BIN_EXE_qonnx")).arg("inspect").arg(&artifact).output().expect("qonnx runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("NOT FUSED: 1 quantized weights, model.layers.0.self_attn.q_proj.weight first"), "{shown}");
    assert!(shown.contains("dequantized on each step"), "{shown}");
}

/// The weight of the high plane's bit drawn at random between 12 and 12: what may differ from run to run is not folded.
const UNFOLD: &str = "
import onnx, sys
from onnx import helper
model = onnx.load(sys.argv[1], load_external_data=False)
nodes = model.graph.node
place = next(i for i, node in enumerate(nodes) if node.name == 'model.layers.0.self_attn.o_proj/Mul')
weight = nodes[place].input[1]
nodes[place].input[1] = 'drawn.cast'
nodes.insert(place, helper.make_node('Cast', ['drawn'], ['drawn.cast'], 'drawn.cast', to=onnx.TensorProto.UINT8))
nodes.insert(place, helper.make_node('RandomUniformLike', [weight], ['drawn'], 'drawn', dtype=onnx.TensorProto.FLOAT, low=12.0, high=12.0))
for name, dtype in (('drawn', onnx.TensorProto.FLOAT), ('drawn.cast', onnx.TensorProto.UINT8)):
    model.graph.value_info.append(helper.make_tensor_value_info(name, dtype, []))
open(sys.argv[1], 'wb').write(model.SerializeToString())
";

#[test]
fn inspect_names_planes_that_are_put_together_on_each_step() {
    if !tools::has("QONNX_PYTHON") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let artifact = folder.path().join("artifact");
    tiny::export(&tiny::request(&tiny::model(), tiny::bits(FormatName::Int3), DType::F32), &artifact);
    let unfolded = python().args(["-c", UNFOLD]).arg(artifact.join("model.onnx")).status();
    assert!(unfolded.expect("QONNX_PYTHON can be run").success());
    let output = Command::new(env!("CARGO_BIN_EXE_qonnx")).arg("inspect").arg(&artifact).output().expect("qonnx runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("NOT FUSED: 1 quantized weights, model.layers.0.self_attn.o_proj.weight first"), "{shown}");
    assert!(shown.contains("put together on each step"), "{shown}");
}
