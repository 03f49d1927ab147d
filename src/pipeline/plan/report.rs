//! A plan as it is shown: sizes, device memory, one row for each kind of weight.

use std::fmt;

use anyhow::Context;
use serde::Serialize;

use super::{Plan, Refused, Request, plan};
use crate::model::StoredWeight;
use crate::pipeline::UsageError;
use crate::pipeline::source;
use crate::pipeline::table::{size, table};
use crate::recipe::BudgetRecipe;
use crate::record::WeightRecord;

/// Sequences and positions for the estimate of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub batch: usize,
    pub context: usize,
}

/// A plan as it is shown.
#[derive(Debug, Serialize)]
pub struct PlanReport {
    pub model: String,
    pub parameters: u64,
    pub activation: String,
    pub max_context: usize,
    pub bits_per_weight_linears: f64,
    pub bits_per_weight_model: f64,
    /// Every file of the artifact.
    pub artifact_bytes: u64,
    pub vram: Vram,
    pub weights: Vec<WeightRecord>,
    /// What only calibration will tell, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_calibration: Vec<String>,
    pub refusals: Vec<String>,
}

/// Device memory in bytes at a batch size and context length.
#[derive(Debug, Default, Serialize)]
pub struct Vram {
    pub batch: usize,
    pub context: usize,
    /// As the runtime holds them: codes and scales of fused weights, the rest in the activation type.
    pub weights_bytes: u64,
    pub kv_cache_bytes: u64,
    /// Of the last token of each sequence.
    pub logits_bytes: u64,
    pub total_bytes: u64,
}

/// `qonnx plan`.
pub fn run(request: &Request, load: Load) -> anyhow::Result<PlanReport> {
    let (source, index) = source::resolve_headers(&request.model)?;
    match plan(request, &source, &index) {
        Ok(plan) if load.context > plan.manifest.max_context => {
            Err(UsageError::ContextBeyond { got: load.context, most: plan.manifest.max_context }.into())
        }
        Ok(plan) => Ok(report(&plan, load)),
        Err(error) => match error.downcast::<Refused>() {
            Ok(Refused(refusals)) => Ok(refused(request, refusals)),
            Err(error) => Err(error).with_context(|| format!("model {}", request.model)),
        },
    }
}

fn refused(request: &Request, refusals: Vec<String>) -> PlanReport {
    PlanReport {
        model: request.model.clone(),
        parameters: 0,
        activation: request.activation.name().to_owned(),
        max_context: 0,
        bits_per_weight_linears: 0.0,
        bits_per_weight_model: 0.0,
        artifact_bytes: 0,
        vram: Vram::default(),
        weights: Vec::new(),
        after_calibration: Vec::new(),
        refusals,
    }
}

fn report(plan: &Plan, load: Load) -> PlanReport {
    let manifest = &plan.manifest;
    PlanReport {
        model: manifest.model.source.clone(),
        parameters: manifest.model.parameters,
        activation: manifest.activation.clone(),
        max_context: manifest.max_context,
        bits_per_weight_linears: manifest.sizes.bits_per_weight_linears,
        bits_per_weight_model: manifest.sizes.bits_per_weight_model,
        artifact_bytes: plan.artifact_bytes(),
        vram: vram(plan, load),
        weights: manifest.weights.clone(),
        after_calibration: after_calibration(plan),
        refusals: Vec::new(),
    }
}

fn after_calibration(plan: &Plan) -> Vec<String> {
    let recipe = &plan.manifest.recipe;
    let mut sentences = Vec::new();
    match recipe.budget {
        Some(BudgetRecipe::Bpw(bits)) => {
            sentences.push(format!("which width each weight gets, {bits} bits per weight together; shown here is one for all"));
        }
        Some(BudgetRecipe::Size(bytes)) => {
            sentences.push(format!("which width each weight gets, {} together; shown here is one for all", size(bytes)));
        }
        None => {}
    }
    if plan.recipes.values().any(|recipe| recipe.outlier_threshold.is_some()) {
        sentences.push("how many input features stay f16 as outliers; none is counted here".to_owned());
    }
    sentences
}

fn vram(plan: &Plan, load: Load) -> Vram {
    let config = &plan.config;
    let element = plan.activation.bytes_of(1) as u64;
    let held = |weight: &StoredWeight| (weight.memory_bits(plan.activation) as u64).div_ceil(8);
    let weights_bytes = plan.graph.weights.iter().map(held).sum();
    let cached = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim;
    // The load is the user's to choose; what no machine has needs no exact number.
    let kv_cache_bytes = (cached as u64 * element).saturating_mul(load.batch as u64).saturating_mul(load.context as u64);
    let logits_bytes = (config.vocab_size as u64 * element).saturating_mul(load.batch as u64);
    Vram {
        batch: load.batch,
        context: load.context,
        weights_bytes,
        kv_cache_bytes,
        logits_bytes,
        total_bytes: u64::saturating_add(weights_bytes, kv_cache_bytes).saturating_add(logits_bytes),
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.refusals.is_empty() {
            writeln!(f, "{} cannot be exported as asked:", self.model)?;
            return write!(f, "  {}", self.refusals.join("\n  "));
        }
        let millions = self.parameters as f64 / 1e6;
        writeln!(f, "{}: {millions:.1} M parameters, activations {}\n", self.model, self.activation)?;
        writeln!(f, "{}\n", weight_table(&self.weights))?;
        let sizes = [
            ("bits per weight, linears", format!("{:.3}", self.bits_per_weight_linears)),
            ("bits per weight, model", format!("{:.3}", self.bits_per_weight_model)),
            ("artifact", size(self.artifact_bytes)),
        ];
        for (what, value) in sizes {
            writeln!(f, "{what:<26}{value:>10}")?;
        }
        let vram = &self.vram;
        writeln!(f, "\ndevice memory at batch {} × {} positions", vram.batch, vram.context)?;
        let parts = [
            ("  weights", vram.weights_bytes),
            ("  KV cache", vram.kv_cache_bytes),
            ("  logits", vram.logits_bytes),
            ("  together", vram.total_bytes),
        ];
        let lines = parts.map(|(what, bytes)| format!("{what:<26}{:>10}", size(bytes)));
        f.write_str(&lines.join("\n"))?;
        self.after_calibration.iter().try_for_each(|sentence| write!(f, "\nonly calibration will tell {sentence}"))
    }
}

/// One row for each kind of weight: the layers of a decoder are alike but for overrides.
fn weight_table(weights: &[WeightRecord]) -> String {
    struct Row<'a> {
        kind: String,
        weight: &'a WeightRecord,
        count: usize,
        bytes: u64,
    }
    let mut rows: Vec<Row<'_>> = Vec::new();
    for weight in weights {
        let kind = kind_of(&weight.name);
        let alike = rows.iter_mut().find(|row| {
            let other = row.weight;
            (&row.kind, &other.shape, &other.format, other.group_size)
                == (&kind, &weight.shape, &weight.format, weight.group_size)
        });
        match alike {
            Some(row) => (row.count, row.bytes) = (row.count + 1, row.bytes + weight.bytes),
            None => rows.push(Row { kind, weight, count: 1, bytes: weight.bytes }),
        }
    }
    let cells = rows.iter().map(|row| {
        let group = match row.weight.group_size {
            Some(size) if size == row.weight.shape[row.weight.shape.len() - 1] => "channel".to_owned(),
            Some(size) => size.to_string(),
            None => String::new(),
        };
        let shape = row.weight.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        let [bits, memory] = [row.weight.bits_per_weight, row.weight.memory_bits_per_weight].map(|bits| format!("{bits:.3}"));
        let format = row.weight.format.clone();
        vec![row.kind.clone(), row.count.to_string(), shape, format, group, bits, memory, size(row.bytes)]
    });
    table(&["weight", "count", "shape", "format", "group", "bits", "in memory", "bytes"], &[1, 2, 4, 5, 6, 7], cells)
}

/// `layers.*.mlp.down_proj` of any layer.
pub(in crate::pipeline) fn kind_of(name: &str) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let name = name.strip_prefix("model.").unwrap_or(name);
    let parts = name.split('.').map(|part| if part.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}
