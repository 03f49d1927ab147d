//! Hashes of everything that what is computed on a calibration set depends on: what is kept under one is never another's.

use serde_json::{Value, json};

use crate::artifact::plan::Plan;
use crate::calib::CalibrationSet;
use crate::compress::Options;
use crate::contract::CONFIG_FILE;
use crate::recipe::WeightRecipe;
use crate::record::FileRecord;

/// What the hashes are of.
pub struct Keys<'a> {
    pub plan: &'a Plan,
    /// The checkpoint's files with their hashes.
    pub inputs: &'a [FileRecord],
    pub options: &'a Options,
    pub set: Option<&'a CalibrationSet>,
}

impl Keys<'_> {
    /// Of finished layers.
    pub fn layers(&self) -> blake3::Hash {
        let recipe = &self.plan.manifest.recipe;
        self.of("layers", json!({ "recipe": recipe, "reference": needs_reference(self.plan) }))
    }

    /// Of statistics before any weight is rounded.
    pub fn statistics(&self) -> blake3::Hash {
        let rotation = self.plan.manifest.recipe.rotation();
        self.of("statistics", json!({ "recipe": rotation, "reference": needs_reference(self.plan) }))
    }

    /// Of the unquantized model's statistics, by which widths are chosen.
    pub fn budget(&self) -> blake3::Hash {
        self.of("budget", json!(self.plan.manifest.recipe.rotation()))
    }

    fn of(&self, what: &str, decided: Value) -> blake3::Hash {
        let all = json!({
            "of": what,
            "program": env!("QONNX_NUMERICS"),
            "decided": decided,
            "set": self.set.map(CalibrationSet::hash),
            "model": self.inputs,
            "config": self.plan.copied.iter().find(|file| file.file == CONFIG_FILE).map(|file| &file.blake3),
            "ep": self.options.provider.name(),
            "threads": self.options.threads,
        });
        blake3::hash(all.to_string().as_bytes())
    }
}

/// Whether a weight aims at the unquantized model's output, which must then run beside.
pub fn needs_reference(plan: &Plan) -> bool {
    plan.recipes.values().any(WeightRecipe::aims_at_reference)
}
