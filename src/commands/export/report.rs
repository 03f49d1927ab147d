//! What an export says at its end.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::commands::plan::kind_of;
use crate::compress::budget::BudgetPlan;
use crate::host::table::{size, table};
use crate::record::{CalibratedRecord, CalibrationRecord, WeightRecord};

/// What was written.
#[derive(Debug, Serialize)]
pub struct ExportReport {
    pub output: PathBuf,
    pub artifact_bytes: u64,
    pub bits_per_weight_linears: f64,
    pub bits_per_weight_model: f64,
    pub seconds: f64,
    pub peak_rss_bytes: u64,
    /// Of the resident memory, the peak of what is not a mapped file.
    pub peak_anonymous_bytes: u64,
    /// What it was calibrated on, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// What calibration found, for each kind of weight; empty where nothing was calibrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calibrated: Vec<CalibratedKind>,
    /// How widths were chosen, where the recipe has a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetPlan>,
}

/// Weights of one kind over all layers.
#[derive(Debug, Serialize)]
pub struct CalibratedKind {
    /// `layers.*.mlp.down_proj`
    pub kind: String,
    pub count: usize,
    /// On disk, mean.
    pub bits_per_weight: f64,
    /// `tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ)`, mean.
    pub output_error: f64,
    /// The same of round to nearest.
    pub rtn_output_error: f64,
    /// The largest that GPTQ needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// Input features that were never active, over all layers.
    pub dead_channels: usize,
    /// Input features that stayed f16, over all layers.
    pub outliers: usize,
    /// Output features where round to nearest cost less than what GPTQ found, and which have its codes, over all layers.
    pub rtn_kept: usize,
}

/// `own-36x256, 36 sequences, 9216 tokens`
pub fn calibrated_on(set: &CalibrationRecord) -> String {
    format!("{}, {} sequences, {} tokens", set.set, set.sequences, set.tokens)
}

/// Sums up what was calibrated, in the order of a layer.
pub fn calibrated_kinds(weights: &[WeightRecord]) -> Vec<CalibratedKind> {
    let mut kinds: Vec<(String, Vec<(&WeightRecord, &CalibratedRecord)>)> = Vec::new();
    for weight in weights {
        let Some(calibrated) = &weight.calibrated else { continue };
        let kind = kind_of(&weight.name);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, members)) => members.push((weight, calibrated)),
            None => kinds.push((kind, vec![(weight, calibrated)])),
        }
    }
    kinds.into_iter().map(|(kind, members)| CalibratedKind::of(kind, &members)).collect()
}

impl CalibratedKind {
    fn of(kind: String, members: &[(&WeightRecord, &CalibratedRecord)]) -> CalibratedKind {
        let mean = |value: &dyn Fn(&WeightRecord, &CalibratedRecord) -> f64| {
            members.iter().map(|(weight, calibrated)| value(weight, calibrated)).sum::<f64>() / members.len() as f64
        };
        CalibratedKind {
            count: members.len(),
            bits_per_weight: mean(&|weight, _| weight.bits_per_weight),
            output_error: mean(&|_, calibrated| calibrated.output_error),
            rtn_output_error: mean(&|_, calibrated| calibrated.rtn_output_error),
            damping: members.iter().filter_map(|(_, calibrated)| calibrated.damping).reduce(f64::max),
            dead_channels: members.iter().map(|(_, calibrated)| calibrated.dead_channels).sum(),
            outliers: members.iter().map(|(weight, _)| weight.outliers).sum(),
            rtn_kept: members.iter().map(|(weight, calibrated)| calibrated.rtn_kept.out_features(weight.shape[0])).sum(),
            kind,
        }
    }
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.output.display())?;
        if !self.calibrated.is_empty() {
            writeln!(f, "\n{}\n", calibrated_table(&self.calibrated))?;
        }
        if let Some(calibration) = &self.calibration {
            writeln!(f, "calibrated on {calibration}")?;
        }
        let rows = [
            ("artifact", size(self.artifact_bytes)),
            ("bits per weight, linears", format!("{:.3}", self.bits_per_weight_linears)),
            ("bits per weight, model", format!("{:.3}", self.bits_per_weight_model)),
            ("time", format!("{:.1} s", self.seconds)),
            ("peak memory, files apart", size(self.peak_anonymous_bytes)),
        ];
        let lines = rows.map(|(what, value)| format!("{what:<26}{value:>10}"));
        f.write_str(&lines.join("\n"))
    }
}

/// Columns that say the same of every kind are left out.
pub fn calibrated_table(kinds: &[CalibratedKind]) -> String {
    let has_outliers = kinds.iter().any(|kind| kind.outliers > 0);
    let has_rtn = kinds.iter().any(|kind| kind.rtn_kept > 0);
    let has_damping = kinds.iter().any(|kind| kind.damping.is_some());
    let mut header = vec!["weight", "count", "bits", "output error", "of rtn's"];
    header.extend(has_damping.then_some("damping"));
    header.push("never active");
    header.extend(has_outliers.then_some("kept f16"));
    header.extend(has_rtn.then_some("kept rtn"));
    let rows = kinds.iter().map(|kind| {
        let ratio = if kind.rtn_output_error > 0.0 { kind.output_error / kind.rtn_output_error } else { 1.0 };
        let mut row = vec![
            kind.kind.clone(),
            kind.count.to_string(),
            format!("{:.3}", kind.bits_per_weight),
            format!("{:.2e}", kind.output_error),
            format!("{:.0} %", 100.0 * ratio),
        ];
        row.extend(has_damping.then(|| kind.damping.map_or(String::new(), |damping| damping.to_string())));
        row.push(kind.dead_channels.to_string());
        row.extend(has_outliers.then(|| kind.outliers.to_string()));
        row.extend(has_rtn.then(|| kind.rtn_kept.to_string()));
        row
    });
    table(&header, &[1, 2, 3, 4, 5, 6, 7, 8][..header.len() - 1], rows)
}
