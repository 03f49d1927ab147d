//! Moving rows between caches: a story's prefix becomes the beginning of all its turns, finished rows leave the batch.
//!
//! Two tiny graphs on the model's own execution provider, so that the CPU and CUDA share one mechanism and nothing
//! passes through the host.

use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use super::cache::{CacheLayout, KvCache};
use super::locate::Runtime;
use super::session::{self, Placement, Products, SessionPlan};
use super::{ExecutionProvider, Launch, RuntimeError, WeightKernels};
use crate::onnx::{Dim, Graph, Type, Value, encode};
use crate::tensor::DType;

/// The two graphs, as sessions.
pub(super) struct RowCopier {
    /// `to[i] = from[rows[i]]` for every row of `to`.
    select: Session,
    /// `to[places[i]] = from[rows[i]]`; the other rows of `to` stay.
    place: Session,
}

impl RowCopier {
    pub fn new(runtime: &Runtime, provider: ExecutionProvider, layout: &CacheLayout) -> Result<RowCopier, RuntimeError> {
        // Copies are bound by memory, and a second pool of spinning threads would slow the model's down.
        let plan = SessionPlan {
            provider,
            threads: Some(1),
            data: None,
            weights: WeightKernels::Fused,
            placement: Placement::CpuMayHelp,
            products: Products::F32,
            launch: Launch::Eager,
        };
        let open = |graph: Result<Vec<u8>, RuntimeError>| session::open(runtime, &plan, &graph?, "a graph that copies rows");
        Ok(RowCopier { select: open(select_graph(layout))?, place: open(place_graph(layout))? })
    }

    /// Fills every row of `to` with a row of `from`; capacities are equal.
    pub fn select(&mut self, from: &KvCache, rows: &[usize], to: &mut KvCache) -> Result<(), RuntimeError> {
        let bind = |binding: &mut IoBinding| {
            binding.bind_input("rows", &indices([rows.len()], rows)?)?;
            for (buffer, (from, to)) in from.tensors.iter().zip(&mut to.tensors).enumerate() {
                binding.bind_input(format!("from.{buffer}"), from)?;
                binding.bind_output(format!("out.{buffer}"), to)?;
            }
            Ok(())
        };
        run(&mut self.select, bind)
    }

    /// Puts rows of `from` into some rows of `to`, pairs of (row of `from`, row of `to`); capacities are equal.
    pub fn place(&mut self, from: &KvCache, pairs: &[(usize, usize)], to: &mut KvCache) -> Result<(), RuntimeError> {
        let (rows, places): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
        let bind = |binding: &mut IoBinding| {
            binding.bind_input("rows", &indices([rows.len()], &rows)?)?;
            binding.bind_input("places", &indices([places.len(), 1], &places)?)?;
            for (buffer, (from, to)) in from.tensors.iter().zip(&mut to.tensors).enumerate() {
                binding.bind_input(format!("from.{buffer}"), from)?;
                // Read and written in place: ScatterND copies nothing when both are one buffer.
                binding.bind_input(format!("to.{buffer}"), to)?;
                binding.bind_output(format!("out.{buffer}"), to)?;
            }
            Ok(())
        };
        run(&mut self.place, bind)
    }
}

fn indices<const N: usize>(shape: [usize; N], values: &[usize]) -> ort::Result<Tensor<i64>> {
    Tensor::from_array((shape, values.iter().map(|&value| value as i64).collect::<Vec<_>>()))
}

fn run(session: &mut Session, bind: impl FnOnce(&mut IoBinding) -> ort::Result<()>) -> Result<(), RuntimeError> {
    let inner = || {
        let mut binding = session.create_binding()?;
        bind(&mut binding)?;
        session.run_binding(&binding).map(drop)
    };
    inner().map_err(RuntimeError::run("copying rows of the KV cache"))
}

fn select_graph(layout: &CacheLayout) -> Result<Vec<u8>, RuntimeError> {
    let graph = Graph::new("select rows");
    let rows = graph.input("rows", Type::new(DType::I64, ["rows".into()]));
    let outputs = each_buffer(layout, |buffer| {
        let from = graph.input(&format!("from.{buffer}"), cache_type(layout, "from_rows"));
        graph.rename(graph.at("select").gather(from, rows), &format!("out.{buffer}"))
    });
    serialize(graph, &outputs)
}

fn place_graph(layout: &CacheLayout) -> Result<Vec<u8>, RuntimeError> {
    let graph = Graph::new("place rows");
    let rows = graph.input("rows", Type::new(DType::I64, ["rows".into()]));
    let places = graph.input("places", Type::new(DType::I64, ["rows".into(), 1.into()]));
    let op = graph.at("place");
    let outputs = each_buffer(layout, |buffer| {
        let from = graph.input(&format!("from.{buffer}"), cache_type(layout, "from_rows"));
        let to = graph.input(&format!("to.{buffer}"), cache_type(layout, "to_rows"));
        graph.rename(op.scatter_nd(to, places, op.gather(from, rows)), &format!("out.{buffer}"))
    });
    serialize(graph, &outputs)
}

fn each_buffer(layout: &CacheLayout, one: impl FnMut(usize) -> Value) -> Vec<Value> {
    (0..layout.names.len()).map(one).collect()
}

fn cache_type(layout: &CacheLayout, rows: &str) -> Type {
    let shape: [Dim; 4] = [rows.into(), layout.kv_heads.into(), "capacity".into(), layout.head_dim.into()];
    Type::new(layout.dtype(), shape)
}

fn serialize(graph: Graph, outputs: &[Value]) -> Result<Vec<u8>, RuntimeError> {
    let model = graph.finish(outputs).map_err(|error| RuntimeError::Graph(Box::new(error)))?;
    encode(&model).map_err(|error| RuntimeError::Graph(Box::new(error)))
}
