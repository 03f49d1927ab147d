//! How long an experiment may take: rules of thumb by the model's size, brought into line by what earlier ones took.
//!
//! The rules' constants were measured on two cores of an AMD EPYC with `coqa-45m` (44.6 M parameters) and hold within a
//! factor of two or three elsewhere; a plan says that it is an estimate.

use crate::eval::windows::DEFAULT_LENGTH;
use crate::recipe::{BudgetRecipe, RoundingRecipe};
use crate::record::RunRecord;
use crate::study::experiment::{Job, Planned};

/// Seconds for each million parameters: a plain export.
const EXPORT: f64 = 0.03;
/// For each million parameters and thousand tokens of calibration data: the model over the data, statistics included.
const STATISTICS: f64 = 0.012;
/// For each million parameters: GPTQ with recovery.
const GPTQ: f64 = 0.9;
/// The same of AWQ's search.
const AWQ: f64 = 0.4;
/// For each million parameters and thousand tokens: the search for widths.
const BUDGET: f64 = 0.03;
/// For each million parameters and question.
const QUESTION: f64 = 0.0015;
/// For each million parameters and kilobyte of text, of one pass; KL makes two more.
const TEXT: f64 = 0.006;
/// For each million parameters: one step of one row.
const STEP: f64 = 0.0001;
/// By how much a GPU is faster.
const CUDA: f64 = 20.0;
/// Processes, loading, sanity check.
const OVERHEAD: f64 = 4.0;

/// Seconds by the rules alone.
pub fn by_rule(planned: &Planned) -> f64 {
    let job = &planned.job;
    let millions = planned.parameters as f64 / 1e6;
    let work = calibration(planned, millions) + scores(planned, millions) + bench(job, millions);
    let device = if job.device.provider.is_gpu() { CUDA } else { 1.0 };
    OVERHEAD + EXPORT * millions + work / device
}

fn calibration(planned: &Planned, millions: f64) -> f64 {
    let recipe = &planned.job.recipe;
    if recipe.calibration.is_none() {
        return 0.0;
    }
    let tokens = planned.calibration_tokens as f64 / 1e3;
    let (rounding, models) = match recipe.weights.rounding {
        RoundingRecipe::Gptq(gptq) => (GPTQ, if gptq.target > 0.0 { 2.0 } else { 1.0 }),
        RoundingRecipe::Rtn => (0.0, 1.0),
    };
    let awq = if recipe.transform.is_some_and(|transform| transform.awq.is_some()) { AWQ } else { 0.0 };
    let budget = match recipe.budget {
        Some(BudgetRecipe::Bpw(_) | BudgetRecipe::Size(_)) => BUDGET * tokens,
        None => 0.0,
    };
    millions * (STATISTICS * tokens * models + rounding + awq + budget)
}

fn scores(planned: &Planned, millions: f64) -> f64 {
    let text = planned.job.measure.text.as_ref().map_or(0.0, |text| {
        let bytes = std::fs::metadata(&text.file).map_or(0, |meta| meta.len());
        // Four bytes a token.
        let most = text.windows.map_or(f64::MAX, |windows| (windows * text.window.unwrap_or(DEFAULT_LENGTH) * 4) as f64);
        let passes = if planned.job.baseline.is_some() { 3.0 } else { 1.0 };
        TEXT * passes * most.min(bytes as f64) / 1e3
    });
    millions * (QUESTION * planned.questions as f64 + text)
}

fn bench(job: &Job, millions: f64) -> f64 {
    let Some(bench) = &job.measure.bench else { return 0.0 };
    let runs = (bench.warmup + bench.min_repeats) as f64 * 1.5;
    let points = bench.batches.iter().flat_map(|&batch| bench.prompts.iter().map(move |&prompt| (batch as f64, prompt as f64)));
    // A prompt's tokens are read together, a step's rows nearly so.
    let point = |(batch, prompt): (f64, f64)| prompt * batch * 0.2 + bench.new_tokens as f64 * batch.sqrt();
    millions * STEP * runs * points.map(point).sum::<f64>()
}

/// Seconds that an experiment took.
pub fn taken(record: &RunRecord) -> f64 {
    record.stages.iter().map(|stage| stage.seconds).sum()
}

/// By how much the rules are off, from pairs of rule and truth; 1 where nothing is known.
pub fn factor(pairs: &[(f64, f64)]) -> f64 {
    let (rules, truth) = pairs.iter().fold((0.0, 0.0), |(rules, truth), (rule, taken)| (rules + rule, truth + taken));
    if rules > 0.0 && truth > 0.0 { truth / rules } else { 1.0 }
}

/// `40 s`, `12 min`, `3.5 h`
pub fn shown(seconds: f64) -> String {
    // The sum of nothing is −0.
    match seconds + 0.0 {
        seconds if seconds < 99.5 => format!("{seconds:.0} s"),
        seconds if seconds < 99.5 * 60.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_with_the_digits_that_an_estimate_has() {
        assert_eq!(["41 s", "12 min", "3.5 h"].map(str::to_owned), [41.2, 700.0, 12_600.0].map(shown));
    }

    #[test]
    fn finished_experiments_bring_the_rules_into_line() {
        assert_eq!(factor(&[]), 1.0);
        assert_eq!(factor(&[(10.0, 30.0), (20.0, 30.0)]), 2.0);
    }
}
