//! A plan as it is shown: sizes, device memory, one row for each kind of weight.

use std::fmt;

use serde::Serialize;

use crate::artifact::ArtifactError;
use crate::artifact::plan::{Facts, Plan, Request, plan, with_facts};
use crate::artifact::source;
use crate::commands::CommandError;
use crate::compress::CompressError;
use crate::compress::budget::{self, Outlook};
use crate::host::table::{size, table};
use crate::model::StoredWeight;
use crate::record::WeightRecord;
use crate::usage::UsageError;

/// Sequences and positions for the estimate of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub batch: usize,
    /// Where it is not given, as many as a usual prompt takes, or all that the artifact covers.
    pub context: Option<usize>,
}

/// Positions of each sequence in the estimate of device memory, unless told otherwise.
const DEFAULT_CONTEXT: usize = 2048;

impl Load {
    fn context(&self, most: usize) -> usize {
        self.context.unwrap_or(DEFAULT_CONTEXT.min(most))
    }
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
    pub refusals: Vec<String>,
    /// Of a recipe whose widths only calibration can tell: the rest of the report is then of one width everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Outlook>,
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
pub fn run(request: &Request, load: Load) -> Result<PlanReport, CommandError> {
    let (source, index) = source::resolve_headers(&request.model)?;
    match plan(request, &source, &index) {
        Ok(plan) if load.context(plan.manifest.max_context) > plan.manifest.max_context => {
            let (got, most) = (load.context(plan.manifest.max_context), plan.manifest.max_context);
            Err(UsageError::ContextBeyond { got, most }.into())
        }
        Ok(plan) => {
            let Some(target) = plan.manifest.recipe.budget else { return Ok(report(&plan, load)) };
            let of = |recipe| with_facts(request, recipe, &Facts::default(), &source, &index);
            match budget::outlook(&plan.manifest.recipe, target, &of, &plan) {
                Ok((outlook, widest)) => Ok(PlanReport { budget: Some(outlook), ..report(&widest, load) }),
                Err(error) => explain(request, error),
            }
        }
        Err(error) => explain(request, error.into()),
    }
}

/// Refusals are what a plan is for; anything else is an error.
fn explain(request: &Request, error: CompressError) -> Result<PlanReport, CommandError> {
    match error {
        CompressError::Refused(refusal) => Ok(refused(request, vec![refusal.to_string()])),
        CompressError::Artifact(ArtifactError::Refused(refusals)) => Ok(refused(request, refusals)),
        error => Err(CommandError::at(|| format!("model {}", request.model))(error)),
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
        refusals,
        budget: None,
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
        refusals: Vec::new(),
        budget: None,
    }
}

fn vram(plan: &Plan, load: Load) -> Vram {
    let config = &plan.architecture;
    let context = load.context(plan.manifest.max_context);
    let element = plan.activation.bytes_of(1) as u64;
    let held = |weight: &StoredWeight| (weight.memory_bits(plan.activation) as u64).div_ceil(8);
    let weights_bytes = plan.graph.weights.iter().map(held).sum();
    let cached = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim;
    // The load is the user's to choose; what no machine has needs no exact number.
    let kv_cache_bytes = (cached as u64 * element).saturating_mul(load.batch as u64).saturating_mul(context as u64);
    let logits_bytes = (config.vocab_size as u64 * element).saturating_mul(load.batch as u64);
    Vram {
        batch: load.batch,
        context,
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
        self.budget.as_ref().map_or(Ok(()), |budget| write!(f, "\n{budget}"))
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
        let bits = format!("{:.3}", row.weight.bits_per_weight);
        vec![row.kind.clone(), row.count.to_string(), shape, row.weight.format.clone(), group, bits, size(row.bytes)]
    });
    table(&["weight", "count", "shape", "format", "group", "bits", "bytes"], &[1, 2, 4, 5, 6], cells)
}

/// `layers.*.mlp.down_proj` of any layer.
pub fn kind_of(name: &str) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let name = name.strip_prefix("model.").unwrap_or(name);
    let parts = name.split('.').map(|part| if part.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}
