//! The numbers of a model, chosen: widths where there is a budget, codes and scales where statistics decide them. What follows only
//! writes them down.

use std::collections::BTreeMap;
use std::path::Path;

use crate::artifact::ArtifactError;
use crate::artifact::files;
use crate::artifact::hashing;
use crate::artifact::plan::{self, Facts, Plan, Request};
use crate::artifact::prepared::{Prepared, PreparedWeights, WrittenOutside};
use crate::artifact::sink::Sink;
use crate::artifact::source::Source;
use crate::checkpoint::Checkpoint;
use crate::compress::CompressError;
use crate::compress::Options;
use crate::compress::budget::{self, BudgetPlan, Parts};
use crate::compress::calibrate::{self, Calibrated, CheckpointWeights, Job, RotatedWeights, StatisticsCache};
use crate::host::hidden::parent;
use crate::host::progress::Observe;
use crate::host::terminal;
use crate::model::{ModelRotation, StoredWeight};
use crate::record::FileRecord;
use crate::runtime::{self, ExecutionProvider};
use crate::tensor::convert;

/// What a command starts from.
pub struct Choice<'a> {
    pub request: &'a Request,
    pub source: &'a Source,
    pub checkpoint: &'a Checkpoint,
    pub options: &'a Options,
    /// Where the result will be, beside which finished layers wait.
    pub output: &'a Path,
    pub observe: Observe<'a>,
}

/// What was chosen.
pub struct Chosen {
    pub plan: Plan,
    /// Input features that stay f16, and weights that are neither quantized nor the checkpoint's.
    pub facts: Facts,
    pub calibrated: Option<Calibrated>,
    /// The checkpoint's files with their hashes, where they had to be known.
    pub inputs: Option<Vec<FileRecord>>,
    pub budget: Option<BudgetPlan>,
}

/// What can be refused before a file of the model is fetched.
///
/// # Errors
/// Statistics cannot be kept where they are asked for, or the execution provider of calibration is missing.
pub fn check(request: &Request, options: &Options) -> Result<(), CompressError> {
    options.save_stats.as_deref().map_or(Ok(()), StatisticsCache::check)?;
    if options.provider == ExecutionProvider::Cuda && request.recipe()?.calibration.is_some() {
        runtime::require(options.provider)?;
    }
    Ok(())
}

impl Choice<'_> {
    /// Chooses.
    ///
    /// # Errors
    /// The checkpoint, the recipe or the calibration set is refused; a budget cannot be met; the user stopped it.
    pub fn choose(&self) -> Result<Chosen, CompressError> {
        let Choice { request, source, checkpoint, options, output, observe } = *self;
        let mut plan = plan::plan(request, source, checkpoint.index())?;
        if plan.architecture.tie_word_embeddings {
            check_tied_head(checkpoint)?;
        }
        let set = calibrate::set(&plan, source, options)?;
        let kept = options.save_stats.as_deref().map(StatisticsCache::open).transpose()?;
        let hash = || hashing::of_checkpoint(checkpoint, &options.cancel);
        let is_keyed = plan.manifest.recipe.budget.is_some() && kept.is_some();
        let mut inputs = is_keyed.then(hash).transpose()?;
        let inputs_known = inputs.as_deref().unwrap_or_default();
        let parts = Parts { checkpoint, source, inputs: inputs_known, kept: kept.as_ref(), beside: parent(output), observe };
        let budget = budget::chosen(request, &plan, &parts, set.as_ref(), options)?;
        let companions = plan.copied.clone();
        let replanned = |recipe, facts: &Facts| {
            let plan = plan::with_facts(request, recipe, facts, source, checkpoint.index())?;
            files::refuse_other(&companions, &plan.copied)?;
            Ok::<_, ArtifactError>(plan)
        };
        if let Some(budget) = &budget {
            terminal::say(budget);
            plan = replanned(budget.recipe.clone(), &Facts::default())?;
        }
        let (mut calibrated, mut facts) = (None, Facts::default());
        if calibrate::is_needed(&plan) {
            let known = inputs.take().map_or_else(hash, Ok)?;
            let (plan_of_job, kept) = (&plan, kept.as_ref());
            let job = Job { plan: plan_of_job, checkpoint, source, options, kept, output, inputs: &known, observe };
            let done = job.run(set.as_ref())?;
            facts = done.facts.clone();
            plan = replanned(plan.manifest.recipe.clone(), &facts)?;
            (inputs, calibrated) = (Some(known), Some(done));
        }
        plan.manifest.calibration = set.map(|set| set.record);
        plan.manifest.budget = budget.as_ref().map(BudgetPlan::record);
        Ok(Chosen { plan, facts, calibrated, inputs, budget })
    }
}

/// The chosen numbers, for whoever writes them down.
pub struct ChosenWeights<'a> {
    calibrated: Option<&'a Calibrated>,
    rotated: RotatedWeights<'a>,
}

impl<'a> ChosenWeights<'a> {
    /// Those of `checkpoint`.
    ///
    /// # Errors
    /// As [`ModelRotation::of`].
    pub fn of(
        plan: &'a Plan,
        calibrated: Option<&'a Calibrated>,
        checkpoint: &'a Checkpoint,
    ) -> Result<ChosenWeights<'a>, CompressError> {
        let Plan { architecture, survey, manifest, .. } = plan;
        let rotation = ModelRotation::of(architecture, &manifest.recipe)?;
        Ok(ChosenWeights {
            calibrated,
            rotated: RotatedWeights { weights: CheckpointWeights { checkpoint, architecture, survey, rotation } },
        })
    }
}

impl<'c> PreparedWeights<'c> for ChosenWeights<'_> {
    type Error = CompressError;

    fn layer(&self, layer: usize) -> Result<BTreeMap<String, Prepared>, CompressError> {
        self.calibrated.map_or_else(|| Ok(BTreeMap::new()), |calibrated| calibrated.layer(layer))
    }

    fn outside(&self, stored: &StoredWeight, sink: &dyn Sink<'c>) -> Result<Option<WrittenOutside>, CompressError> {
        match self.rotated.has(&stored.weight) {
            true => Ok(Some((self.rotated.write(stored, sink)?, None))),
            false => Ok(None),
        }
    }
}

/// Refuses a checkpoint that says its LM head is the embedding and brings a head that is not: transformers uses that head,
/// and the artifact would leave it out.
fn check_tied_head(checkpoint: &Checkpoint) -> Result<(), CompressError> {
    const TABLES: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];
    if checkpoint.index().get(TABLES[1]).is_none() {
        return Ok(());
    }
    let [table, head] = [checkpoint.tensor(TABLES[0])?, checkpoint.tensor(TABLES[1])?];
    // The same numbers may be stored in another type.
    let same = (table.dtype, table.shape, table.bytes) == (head.dtype, head.shape, head.bytes)
        || table.shape == head.shape && convert::same_values((table.dtype, table.bytes), (head.dtype, head.bytes));
    TABLES.iter().try_for_each(|name| checkpoint.release(name))?;
    if same {
        return Ok(());
    }
    let sentence = "weight lm_head.weight: config.json says tie_word_embeddings, so it must equal model.embed_tokens.weight, and \
                    it does not; set tie_word_embeddings to false, or remove the tensor";
    Err(ArtifactError::Refused(vec![sentence.to_owned()]).into())
}
