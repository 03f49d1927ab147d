//! Sessions: which execution provider, which options, where the weights lie.

use std::path::Path;

use ort::ep;
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::locate::Runtime;
use super::{ExecutionProvider, Launch, RuntimeError, WeightKernels};

/// How a session is made.
#[derive(Debug, Clone)]
pub(super) struct SessionPlan<'a> {
    pub provider: ExecutionProvider,
    /// Threads inside an operator; `None`: one for each physical core, as ONNX Runtime counts them.
    pub threads: Option<usize>,
    /// Folder of the external data, for graphs that have any.
    pub data: Option<&'a Path>,
    pub weights: WeightKernels,
    pub placement: Placement,
    pub products: Products,
    /// Whether runs may be recorded, on CUDA.
    pub launch: Launch,
}

/// What CUDA's f32 products keep of their operands; the CPU always keeps all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Products {
    /// All 24 bits.
    F32,
    /// The leading 11 bits (TF32), eight times as fast: exact where every operand was widened from f16.
    Tf32,
}

/// What happens when a node cannot run on the asked-for provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// Loading fails.
    AllOnProvider,
    /// The CPU runs it.
    CpuMayHelp,
}

/// Makes a session from a serialized model.
pub(super) fn open(runtime: &Runtime, plan: &SessionPlan<'_>, model: &[u8], what: &str) -> Result<Session, RuntimeError> {
    builder(runtime, plan)?.commit_from_memory(model).map_err(RuntimeError::session(what))
}

/// Refuses an execution provider that this machine cannot give, before there is anything to run on it.
///
/// # Errors
/// ONNX Runtime or the execution provider is missing.
pub fn require(provider: ExecutionProvider) -> Result<(), RuntimeError> {
    let runtime = super::locate::runtime(provider)?;
    let (weights, placement) = (WeightKernels::Fused, Placement::AllOnProvider);
    let plan =
        SessionPlan { provider, threads: None, data: None, weights, placement, products: Products::F32, launch: Launch::Eager };
    builder(&runtime, &plan).map(drop)
}

/// A builder with every option set, for callers that add their own.
pub(super) fn builder(runtime: &Runtime, plan: &SessionPlan<'_>) -> Result<SessionBuilder, RuntimeError> {
    let refused = |error: ort::Error| RuntimeError::session("a session option")(error);
    let mut builder = Session::builder(&runtime.environment).map_err(refused)?;
    for (key, value) in entries(plan) {
        builder = builder.with_config_entry(key, value).map_err(|error| refused(error.into()))?;
    }
    if let Some(threads) = plan.threads {
        builder = builder.with_intra_threads(threads).map_err(|error| refused(error.into()))?;
    }
    match plan.provider {
        ExecutionProvider::Cpu => Ok(builder),
        ExecutionProvider::Cuda => with_cuda(builder, runtime, plan),
    }
}

fn entries(plan: &SessionPlan<'_>) -> Vec<(&'static str, String)> {
    // 4, the default, quantizes activations to 8 bits on the CPU: fast, and not the model that is being scored.
    let level = if plan.weights == WeightKernels::FusedFast { "4" } else { "0" };
    let mut entries = vec![("session.qdq_matmulnbits_accuracy_level", level.to_owned())];
    if plan.weights == WeightKernels::Dequantized {
        // Without QDQ rewriting, a DequantizeLinear of a constant is folded like any other node.
        entries.push(("session.disable_quant_qdq", "1".to_owned()));
    }
    if let Some(folder) = plan.data {
        entries.push(("session.model_external_initializers_file_folder_path", folder.display().to_string()));
    }
    if plan.provider == ExecutionProvider::Cuda {
        if plan.weights == WeightKernels::Fused {
            // Kernels for batches, of INT4 and INT8 in groups of 32. Measured on an H200, INT4 of Llama-3.2-1B's shape: a step
            // of 16 rows takes 2.3 ms instead of 3.3, one of a single row 1.5 instead of 1.1 (results/gpu-bench).
            entries.push(("ep.cuda.fpa_intb_gemm", "1".to_owned()));
        }
        // Exactly as much memory as the weights take, instead of the arena's powers of two.
        entries.push(("session.use_device_allocator_for_initializers", "1".to_owned()));
        if plan.placement == Placement::AllOnProvider {
            entries.push(("session.disable_cpu_ep_fallback", "1".to_owned()));
        }
    }
    entries
}

fn with_cuda(builder: SessionBuilder, runtime: &Runtime, plan: &SessionPlan<'_>) -> Result<SessionBuilder, RuntimeError> {
    let cuda = ep::CUDA::default().with_device_id(0).with_tf32(plan.products == Products::Tf32);
    let cuda = cuda.with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
    let cuda = cuda.with_cuda_graph(plan.launch == Launch::Replayed);
    builder.with_execution_providers([cuda.build().error_on_failure()]).map_err(|error| RuntimeError::NoProvider {
        provider: ExecutionProvider::Cuda,
        library: runtime.path.clone(),
        reason: first_line(error.message()),
    })
}

/// ONNX Runtime puts its cause first and its advice below.
fn first_line(message: &str) -> String {
    message.trim().lines().next().unwrap_or("it gave no reason").trim().to_owned()
}
