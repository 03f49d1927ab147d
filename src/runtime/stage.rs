//! Graphs that are run many times over values that stay where the execution provider computes: calibration's stages.
//!
//! ```text
//! Stages::open(graph) ─▶ StageSession ─ bind(weights) ─▶ Bound ─ run(activations) ─▶ Resident values ─▶ the next stage's run
//! ```
//!
//! On CUDA a [`Resident`] value never leaves the device and bound weights go there once. On the CPU operands are read where
//! they lie: borrowed slices, mapped files.

use std::borrow::Cow;

use half::f16;
use ort::ep;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Tensor, TensorElementType, TensorRef};

use super::locate::{Runtime, runtime};
use super::session::{self, Placement, Products, SessionPlan};
use super::{ExecutionProvider, Launch, RuntimeError, WeightKernels};
use crate::onnx::{Model, encode};

/// Opens stages on one execution provider.
pub struct Stages {
    runtime: Runtime,
    provider: ExecutionProvider,
    threads: Option<usize>,
}

/// A graph ready to run.
pub struct StageSession {
    session: Session,
    provider: ExecutionProvider,
    /// In the order of the graph.
    outputs: Vec<String>,
    device: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
}

/// What a graph reads; row-major.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    F32 { shape: &'a [usize], values: &'a [f32] },
    I32 { shape: &'a [usize], values: &'a [i32] },
    I64 { shape: &'a [usize], values: &'a [i64] },
    Resident(&'a Resident),
}

/// What a graph computed.
pub struct Resident(DynValue);

/// Where outputs are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Where they are computed.
    Device,
    /// In memory that [`Resident::floats`] reads.
    Host,
}

impl Stages {
    /// # Errors
    /// ONNX Runtime or the execution provider is missing.
    pub fn new(provider: ExecutionProvider, threads: Option<usize>) -> Result<Stages, RuntimeError> {
        Ok(Stages { runtime: runtime(provider)?, provider, threads })
    }

    /// Makes a session; every node runs on the provider, or it fails. `what` names the graph in messages.
    pub fn open(&self, model: &Model, what: &str) -> Result<StageSession, RuntimeError> {
        let bytes = encode(model).map_err(|error| RuntimeError::Graph(Box::new(error)))?;
        let plan = SessionPlan {
            provider: self.provider,
            threads: self.threads,
            data: None,
            weights: WeightKernels::Fused,
            placement: Placement::AllOnProvider,
            products: Products::Tf32,
            launch: Launch::Eager,
        };
        let refused = |error: ort::Error<_>| RuntimeError::session("a session option")(error);
        // Stages take turns: threads that spin while they wait would take the cores from the one that works.
        let mut builder =
            session::builder(&self.runtime, &plan)?.with_config_entry("session.intra_op.allow_spinning", "0").map_err(refused)?;
        if self.provider == ExecutionProvider::Cpu {
            // Each session's arena would keep its own peak; fresh pages cost little beside the products between them.
            let without_arena = ep::CPU::default().with_arena_allocator(false).build();
            builder = builder.with_execution_providers([without_arena]).map_err(refused)?;
        }
        let session = builder.commit_from_memory(&bytes).map_err(RuntimeError::session(what))?;
        let memory = |device, memory_type| {
            MemoryInfo::new(device, 0, AllocatorType::Device, memory_type).map_err(RuntimeError::run("opening memory"))
        };
        let device = match self.provider {
            ExecutionProvider::Cpu => AllocationDevice::CPU,
            ExecutionProvider::Cuda => AllocationDevice::CUDA,
        };
        Ok(StageSession {
            outputs: session.outputs().iter().map(|output| output.name().to_owned()).collect(),
            session,
            provider: self.provider,
            device: memory(device, MemoryType::Default)?,
            host: memory(AllocationDevice::CPU, MemoryType::CPUOutput)?,
        })
    }
}

impl StageSession {
    /// Fixes some operands for the runs to come; on CUDA they are copied to the device now.
    pub fn bind<'a>(&'a mut self, fixed: &[(&'a str, Operand<'a>)]) -> Result<Bound<'a>, RuntimeError> {
        let inputs = match self.provider {
            ExecutionProvider::Cpu => Inputs::Here(fixed.to_vec()),
            ExecutionProvider::Cuda => {
                let bound = self.session.create_binding().and_then(|mut binding| bind(&mut binding, fixed).map(|()| binding));
                Inputs::There(Box::new(bound.map_err(RuntimeError::run("copying weights to the device"))?))
            }
        };
        Ok(Bound { stage: self, inputs })
    }
}

/// A stage with some of its operands.
pub struct Bound<'a> {
    stage: &'a mut StageSession,
    inputs: Inputs<'a>,
}

enum Inputs<'a> {
    Here(Vec<(&'a str, Operand<'a>)>),
    There(Box<IoBinding>),
}

impl Bound<'_> {
    /// Runs the graph once; outputs are in its order.
    ///
    /// # Errors
    /// ONNX Runtime's own message, running out of memory included.
    pub fn run(&mut self, operands: &[(&str, Operand<'_>)], target: Target) -> Result<Vec<Resident>, RuntimeError> {
        let StageSession { session, outputs, device, host, .. } = &mut *self.stage;
        let mut inner = || match &mut self.inputs {
            Inputs::Here(fixed) => {
                let all = fixed.iter().chain(operands).map(|(name, operand)| Ok((Cow::from(*name), value(operand)?)));
                let all = all.collect::<ort::Result<Vec<(Cow<'_, str>, SessionInputValue<'_>)>>>()?;
                Ok(taken(session.run(all)?, outputs))
            }
            Inputs::There(binding) => {
                bind(binding, operands)?;
                for output in outputs.iter() {
                    // Bound anew for each run, so that every run has memory of its own.
                    binding.bind_output_to_device(output, if target == Target::Device { device } else { host })?;
                }
                Ok(taken(session.run_binding(binding)?, outputs))
            }
        };
        inner().map_err(RuntimeError::run("running a calibration stage"))
    }

    /// As [`Self::run`], of a graph with one output.
    pub fn run_for_one(&mut self, operands: &[(&str, Operand<'_>)], target: Target) -> Result<Resident, RuntimeError> {
        Ok(self.run(operands, target)?.remove(0))
    }
}

impl Resident {
    /// A copy of host values in the host's memory.
    pub fn copied(shape: &[usize], values: &[f32]) -> Result<Resident, RuntimeError> {
        let tensor = Tensor::from_array((shape, values.to_vec()));
        tensor.map(|tensor| Resident(tensor.into_dyn())).map_err(RuntimeError::run("holding activations"))
    }

    /// Values on the host, row-major; f16 is widened.
    ///
    /// # Errors
    /// The value lies on a device, or is neither f32 nor f16.
    pub fn floats(&self) -> Result<Cow<'_, [f32]>, RuntimeError> {
        let read = || match self.0.dtype().tensor_type() {
            Some(TensorElementType::Float16) => {
                let (_, values) = self.0.try_extract_tensor::<f16>()?;
                Ok(values.iter().map(|value| value.to_f32()).collect())
            }
            _ => Ok(Cow::from(self.0.try_extract_tensor::<f32>()?.1)),
        };
        read().map_err(RuntimeError::run::<()>("reading what a calibration stage computed"))
    }
}

fn value<'v>(operand: &'v Operand<'_>) -> ort::Result<SessionInputValue<'v>> {
    Ok(match *operand {
        Operand::F32 { shape, values } => TensorRef::from_array_view((shape, values))?.into(),
        Operand::I32 { shape, values } => Tensor::from_array((shape, values.to_vec()))?.into(),
        Operand::I64 { shape, values } => Tensor::from_array((shape, values.to_vec()))?.into(),
        Operand::Resident(resident) => (&resident.0).into(),
    })
}

/// A host value whose input lies on the device is copied there by the call; a resident one is bound as it is.
fn bind(binding: &mut IoBinding, operands: &[(&str, Operand<'_>)]) -> ort::Result<()> {
    operands.iter().try_for_each(|(name, operand)| binding.bind_input(*name, &*value(operand)?))
}

fn taken(mut outputs: SessionOutputs<'_>, names: &[String]) -> Vec<Resident> {
    let mut one = |name: &String| outputs.remove(name).map(Resident);
    names.iter().map(|name| one(name).expect("a run returns every output of its graph")).collect()
}
