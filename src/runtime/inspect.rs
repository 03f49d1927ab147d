//! What ONNX Runtime really executes: every multiplication with a weight, on which execution provider, in which form.
//!
//! One run of a single token is profiled. The profile names every node that ran, with its operator and its execution
//! provider; ONNX Runtime keeps a MatMul's name when it fuses the DequantizeLinear in front of it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ort::session::{Session, SessionInputValue};
use ort::value::TensorElementType;
use serde::{Deserialize, Serialize};

use super::data_place::DataPlace;
use super::folder::ArtifactFolder;
use super::locate::runtime;
use super::own_graph::{pointed, zeros};
use super::session::{self, Placement, Products, SessionPlan};
use super::{EngineOptions, Launch, RuntimeError};
use crate::onnx::{Initializer, Model, Node, Value, decode};

/// How a weight takes part in its product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Execution {
    /// Quantized, and unpacked inside the kernel: MatMulNBits, MatMulBnb4, GatherBlockQuantized.
    Fused { operator: String },
    /// Quantized in the file, and unpacked by a DequantizeLinear on every run.
    DequantizedEachRun,
    /// Quantized in the file, and its codes or scales are put together on every run: what should have been folded when the
    /// session was made.
    PutTogetherEachRun,
    /// Quantized in the file, and unpacked once when the session is made: the memory of a dense weight.
    UnpackedAtLoad { operator: String },
    /// Dense in the file.
    Dense { operator: String },
    /// The node did not run under its name: merged into another one.
    Merged,
}

/// One product with a weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MatMulReport {
    /// The weight's initializer.
    pub weight: String,
    /// The node's name in the artifact.
    pub node: String,
    /// Whether the artifact stores the weight as integer codes.
    pub quantized: bool,
    pub execution: Execution,
    /// Where it ran, `CPUExecutionProvider`; empty when it did not run under its name.
    pub provider: String,
}

impl MatMulReport {
    /// Whether a quantized weight is used as one.
    pub fn as_meant(&self) -> bool {
        !self.quantized || matches!(self.execution, Execution::Fused { .. })
    }
}

/// What one run of the artifact's own graph consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// In the order of the graph.
    pub matmuls: Vec<MatMulReport>,
    /// Copies between the host and the device on every run: names of the Memcpy nodes.
    pub memory_copies: Vec<String>,
    /// Nodes that ran, by execution provider and operator.
    pub operators: BTreeMap<String, BTreeMap<String, usize>>,
}

/// Loads the artifact in `dir` as any other program would, runs one token, and reports.
///
/// # Errors
/// As [`Engine::load`](super::Engine::load).
pub fn inspect(dir: &Path, options: &EngineOptions) -> Result<Inspection, RuntimeError> {
    let artifact = ArtifactFolder::of(dir);
    let path = artifact.graph();
    if !path.is_file() {
        return Err(RuntimeError::NotAnArtifact { dir: dir.to_owned(), missing: artifact.file.path().to_owned() });
    }
    let bytes = std::fs::read(&path).map_err(|source| RuntimeError::Read { path: path.clone(), source })?;
    let model = decode(&bytes).map_err(|error| RuntimeError::Layout { path: path.clone(), what: error.to_string() })?;
    let profile = profile(&DataPlace::of(&artifact)?, &path, &model, options)?;
    Ok(report(&model, &profile))
}

/// A node that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ran {
    name: String,
    operator: String,
    provider: String,
}

/// Runs one token with an empty cache and returns the nodes that ran.
fn profile(data: &DataPlace, path: &Path, model: &Model, options: &EngineOptions) -> Result<Vec<Ran>, RuntimeError> {
    let runtime = runtime(options.provider)?;
    let EngineOptions { provider, threads, weights, .. } = *options;
    let (placement, products) = (Placement::CpuMayHelp, Products::F32);
    let folder = Some(data.folder.as_path());
    let plan = SessionPlan { provider, threads, data: folder, weights, placement, products, launch: Launch::Eager };
    let scratch = tempfile::tempdir().map_err(|source| RuntimeError::Scratch { folder: std::env::temp_dir(), source })?;
    let what = path.display().to_string();
    let mut builder = session::builder(&runtime, &plan)?
        .with_profiling(scratch.path().join("profile"))
        .map_err(RuntimeError::session("profiling"))?;
    let session = match data.is_elsewhere() {
        true => builder.commit_from_memory(&pointed(path, model.clone(), data)?),
        false => builder.commit_from_file(path),
    };
    let mut session = session.map_err(RuntimeError::session(&what))?;
    let inputs = one_token(&session).map_err(RuntimeError::run("making one token's inputs"))?;
    session.run(inputs).map(drop).map_err(RuntimeError::run("running one token"))?;
    let file = session.end_profiling().map_err(RuntimeError::run("writing the profile"))?;
    let path = Path::new(&file).to_owned();
    let text = std::fs::read(&path).map_err(|source| RuntimeError::Read { path: path.clone(), source })?;
    read_profile(&text).map_err(|source| RuntimeError::Profile { path, source })
}

/// One token, not masked, at position 0: the mask is the only input that must not be zero.
fn one_token(session: &Session) -> ort::Result<Vec<(String, SessionInputValue<'static>)>> {
    let mut inputs = Vec::new();
    for (name, mut tensor) in zeros(session)? {
        if tensor.data_type() == &TensorElementType::Int64 {
            tensor.try_extract_tensor_mut::<i64>()?.1.fill(i64::from(name == "attention_mask"));
        }
        inputs.push((name, tensor.into_dyn().into()));
    }
    Ok(inputs)
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: EventArguments,
}

#[derive(Deserialize, Default)]
struct EventArguments {
    op_name: Option<String>,
    provider: Option<String>,
}

fn read_profile(text: &[u8]) -> Result<Vec<Ran>, serde_json::Error> {
    let events: Vec<Event> = serde_json::from_slice(text)?;
    let ran = |event: Event| {
        let name = event.name.strip_suffix("_kernel_time").filter(|_| event.cat == "Node")?.to_owned();
        Some(Ran { name, operator: event.args.op_name?, provider: event.args.provider.unwrap_or_default() })
    };
    Ok(events.into_iter().filter_map(ran).collect())
}

fn report(model: &Model, profile: &[Ran]) -> Inspection {
    let by_name: HashMap<&str, &Ran> = profile.iter().map(|ran| (ran.name.as_str(), ran)).collect();
    let sources = Sources::of(model);
    let matmuls = model.nodes().iter().filter_map(|node| {
        let product = sources.product(node)?;
        let ran = by_name.get(node.name.as_str());
        let before =
            product.before.iter().filter_map(|name| by_name.get(name)).map(|ran| ran.operator.as_str()).collect::<Vec<_>>();
        Some(MatMulReport {
            weight: module_weight(model.name_of(product.weight)).to_owned(),
            node: node.name.clone(),
            quantized: product.quantized,
            execution: execution(&product, ran.map(|ran| ran.operator.as_str()), &before),
            provider: ran.map(|ran| ran.provider.clone()).unwrap_or_default(),
        })
    });
    let mut operators: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for ran in profile {
        *operators.entry(ran.provider.clone()).or_default().entry(ran.operator.clone()).or_default() += 1;
    }
    let memory_copies = profile.iter().filter(|ran| ran.operator.starts_with("Memcpy")).map(|ran| ran.name.clone());
    Inspection { matmuls: matmuls.collect(), memory_copies: memory_copies.collect(), operators }
}

/// `ran` is the operator that ran under the product's name, `before` those that ran between the initializers and it.
fn execution(product: &Product<'_>, ran: Option<&str>, before: &[&str]) -> Execution {
    let (dequantized, put_together) = (before.contains(&"DequantizeLinear"), before.iter().any(|op| *op != "DequantizeLinear"));
    match ran {
        _ if product.quantized && put_together => Execution::PutTogetherEachRun,
        _ if dequantized => Execution::DequantizedEachRun,
        None => Execution::Merged,
        Some(operator) if is_quantized_operator(operator) => Execution::Fused { operator: operator.to_owned() },
        Some(operator) if product.quantized => Execution::UnpackedAtLoad { operator: operator.to_owned() },
        Some(operator) => Execution::Dense { operator: operator.to_owned() },
    }
}

/// The weight that an initializer belongs to: codes of an odd width lie in two planes, of which the low one stands for both.
fn module_weight(initializer: &str) -> &str {
    initializer.strip_suffix(".low").unwrap_or(initializer)
}

fn is_quantized_operator(operator: &str) -> bool {
    matches!(operator, "MatMulNBits" | "MatMulBnb4" | "GatherBlockQuantized")
}

/// A node that multiplies with a weight, or looks rows up in one.
struct Product<'m> {
    weight: Value,
    quantized: bool,
    /// Names of the nodes between the initializers and the node.
    before: Vec<&'m str>,
}

/// Where values come from.
struct Sources<'m> {
    producers: HashMap<Value, &'m Node>,
    initializers: HashMap<Value, &'m Initializer>,
}

impl<'m> Sources<'m> {
    fn of(model: &'m Model) -> Sources<'m> {
        let outputs = |node: &'m Node| node.outputs.iter().flatten().map(move |&output| (output, node));
        Sources {
            producers: model.nodes().iter().flat_map(outputs).collect(),
            initializers: model.initializers().iter().map(|initializer| (initializer.value, initializer)).collect(),
        }
    }

    fn product(&self, node: &Node) -> Option<Product<'m>> {
        let operand = match node.op_type.as_str() {
            "MatMul" | "Gemm" | "FusedMatMul" | "MatMulNBits" | "MatMulBnb4" => 1,
            "GatherBlockQuantized" => 0,
            _ => return None,
        };
        let mut between = Between::default();
        let weight = self.constant(node.inputs.get(operand).copied()??, &mut between)?;
        let quantized = between.dequantized || is_quantized_operator(&node.op_type);
        if quantized {
            // Scales and their like. One that is not a constant is an operand of another kind, such as indices.
            for &input in node.inputs.iter().skip(operand + 1).flatten() {
                let mut scales = Between::default();
                if self.constant(input, &mut scales).is_some() {
                    between.before.extend(scales.before);
                }
            }
        }
        Some(Product { weight, quantized, before: between.before })
    }

    /// The initializer that `value` is computed from, its first operands followed; `None` where an input of the model has a part
    /// in it.
    fn constant(&self, value: Value, between: &mut Between<'m>) -> Option<Value> {
        if self.initializers.contains_key(&value) {
            return Some(value);
        }
        let producer = self.producers.get(&value)?;
        between.before.push(producer.name.as_str());
        between.dequantized |= producer.op_type == "DequantizeLinear";
        let mut operands =
            producer.inputs.iter().flatten().map(|&input| self.constant(input, between)).collect::<Vec<_>>().into_iter();
        let first = operands.next()??;
        operands.all(|operand| operand.is_some()).then_some(first)
    }
}

/// What lies between an initializer and where it is used.
#[derive(Default)]
struct Between<'m> {
    before: Vec<&'m str>,
    dequantized: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Bnb4, Bnb4Levels, Graph, Planes, QuantizedOperand, Type};
    use crate::tensor::DType;

    /// `x · W₁ · W₂` with a quantized `W₁` and a dense `W₂`.
    fn model() -> Model {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), 1.into(), 32.into()]));
        let codes = graph.declare("up.weight", DType::I4, &[32, 32]);
        let scales = graph.declare("up.weight.scales", DType::F32, &[1, 32]);
        let dense = graph.declare("down.weight", DType::F32, &[32, 32]);
        let op = graph.at("up");
        let w = op.dequantize_linear(QuantizedOperand { codes, scales, zero_points: None }, Some(32));
        let h = op.matmul(x, w);
        let y = graph.at("down").matmul(h, dense);
        graph.finish(&[y]).unwrap()
    }

    fn profile(nodes: &[(&str, &str, &str)]) -> Vec<Ran> {
        let event = |&(name, operator, provider): &(&str, &str, &str)| {
            format!(
                r#"{{"cat":"Node","name":"{name}_kernel_time","dur":3,"args":{{"op_name":"{operator}","provider":"{provider}"}}}}"#
            )
        };
        let events: Vec<String> = nodes.iter().map(event).collect();
        let session = r#"{"cat":"Session","name":"model_run","args":{}}"#;
        read_profile(format!("[{session},{}]", events.join(",")).as_bytes()).unwrap()
    }

    #[test]
    fn a_fused_weight_and_a_dense_one() {
        let inspection = report(
            &model(),
            &profile(&[
                ("up/MatMul", "MatMulNBits", "CUDAExecutionProvider"),
                ("down/MatMul", "MatMul", "CUDAExecutionProvider"),
                ("Memcpy", "MemcpyToHost", "CUDAExecutionProvider"),
            ]),
        );
        let [up, down] = inspection.matmuls.as_slice() else { panic!("two products: {inspection:?}") };
        assert_eq!((up.weight.as_str(), up.quantized), ("up.weight", true));
        assert_eq!(up.execution, Execution::Fused { operator: "MatMulNBits".to_owned() });
        assert!(up.as_meant());
        assert_eq!((down.weight.as_str(), down.quantized), ("down.weight", false));
        assert_eq!(down.execution, Execution::Dense { operator: "MatMul".to_owned() });
        assert_eq!(inspection.memory_copies, ["Memcpy"]);
        assert_eq!(inspection.operators["CUDAExecutionProvider"]["MatMul"], 1);
    }

    #[test]
    fn planes_and_codebooks_are_products_whose_parts_must_not_run() {
        let graph = Graph::new("test");
        let x = graph.input("x", Type::new(DType::F32, ["batch".into(), 1.into(), 64.into()]));
        let planes = Planes { bits: 3, in_features: 64, out_features: 64, signed: true };
        let [low, high] = planes.shapes();
        let planes_of =
            [("up.weight.low", low), ("up.weight.high", high)].map(|(name, shape)| graph.declare(name, DType::U8, &shape));
        let op = graph.at("up");
        let codes = op.from_planes(planes_of[0], planes_of[1], planes);
        let scales = graph.declare("up.weight.scales", DType::F32, &[64]);
        let h = op.matmul(x, op.dequantize_linear(QuantizedOperand { codes, scales, zero_points: None }, None));
        let w = Bnb4 { in_features: 64, out_features: 8, block_size: 64, levels: Bnb4Levels::Nf4 };
        let codes = graph.declare("down.weight", DType::U8, &[w.packed_bytes()]);
        let op = graph.at("down");
        let scales = op.cast(graph.declare("down.weight.scales", DType::F16, &[8]), DType::F32);
        let y = op.matmul_bnb4(h, codes, scales, w);
        let model = graph.finish(&[y]).unwrap();

        let products = [("up/MatMul", "MatMulNBits", "CPU"), ("down/MatMulBnb4", "MatMulBnb4", "CPU")];
        let executions = |more: &[(&str, &str, &str)]| {
            let matmuls = report(&model, &profile(&[&products, more].concat())).matmuls;
            assert_eq!(matmuls.iter().map(|matmul| matmul.weight.as_str()).collect::<Vec<_>>(), ["up.weight", "down.weight"]);
            matmuls.into_iter().map(|matmul| matmul.execution).collect::<Vec<_>>()
        };
        let fused = |operator: &str| Execution::Fused { operator: operator.to_owned() };
        assert_eq!(executions(&[]), [fused("MatMulNBits"), fused("MatMulBnb4")]);
        let unfolded = executions(&[("up/BitShift_2", "BitShift", "CPU"), ("up/DequantizeLinear", "DequantizeLinear", "CPU")]);
        assert_eq!(unfolded, [Execution::PutTogetherEachRun, fused("MatMulBnb4")]);
        let unfolded = executions(&[("down/Cast", "Cast", "CPU")]);
        assert_eq!(unfolded, [fused("MatMulNBits"), Execution::PutTogetherEachRun]);
    }

    #[test]
    fn a_weight_that_is_unpacked_on_every_run_or_at_load_is_told_apart() {
        let each_run = profile(&[("up/DequantizeLinear", "DequantizeLinear", "CPU"), ("up/MatMul", "MatMul", "CPU")]);
        let report_of = |profile| report(&model(), profile).matmuls[0].clone();
        assert_eq!(report_of(&each_run).execution, Execution::DequantizedEachRun);
        assert!(!report_of(&each_run).as_meant());
        let at_load = profile(&[("up/MatMul", "MatMul", "CPU")]);
        assert_eq!(report_of(&at_load).execution, Execution::UnpackedAtLoad { operator: "MatMul".to_owned() });
        assert!(!report_of(&at_load).as_meant());
        assert_eq!(report_of(&[]).execution, Execution::Merged);
    }
}
