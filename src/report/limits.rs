//! What a study cannot say, in sentences.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::COARSE;
use super::numbers;
use super::study::{Accuracy, Row, Study};
use crate::recipe::WeightRecipe;
use crate::record::BenchRecord;

/// Equal work that takes so much longer in one experiment than in another gets a sentence.
const SCATTER: f64 = 0.05;

/// What the study cannot say.
pub fn limits(study: &Study) -> Vec<String> {
    let mut limits = limits_of_comparison(study);
    let failed = study.failed().count();
    if failed > 0 {
        let ended = if failed == 1 { "it is shown as failed, with what it" } else { "they are shown as failed, with what they" };
        limits.push(format!("{failed} of {} experiments ended early: {ended} measured before.", study.rows.len()));
    }
    limits.push(limit_of_tasks(study.accuracy()).to_owned());
    limits.extend(unequal_conditions(study));
    if !study.devices.is_empty() {
        let names: Vec<&str> = study.devices.iter().map(|device| device.name.as_str()).collect();
        limits.push(format!("Times are of {}: another device can order the methods differently.", names.join(" and ")));
    }
    limits.extend(scatter(study).filter(|scatter| *scatter > SCATTER).map(|scatter| {
        format!(
            "Experiments that decode from the same form of weights on one device differ in time by up to {:.0} %: smaller differences \
             may be the machine's, not the methods'.",
            100.0 * scatter
        )
    }));
    limits.extend(heavy(study));
    let rounds_activations =
        |row: &Row| row.bench().is_some_and(|bench| bench.ep == "cpu") && row.bits().is_some_and(|bits| bits < 16.0);
    if study.rows.iter().any(rounds_activations) {
        let scored = if study.accuracy() == Accuracy::Text { "perplexity and KL were" } else { "F1 was" };
        limits.push(format!(
            "On the CPU times are of the kernels that any program gets, which may round activations to 8 bits; {scored} scored with \
             activations as they are."
        ));
    }
    let warned = |row: &&Row| !row.record.warnings.is_empty() || row.bench().is_some_and(|bench| !bench.warnings.is_empty());
    match study.rows.iter().filter(warned).count() {
        0 => {}
        1 => limits.push("One record holds warnings; REPORT.md lists them.".to_owned()),
        count => limits.push(format!("{count} records hold warnings; REPORT.md lists them.")),
    }
    limits
}

/// What the tasks that were asked say nothing of.
fn limit_of_tasks(accuracy: Accuracy) -> &'static str {
    match accuracy {
        Accuracy::Answers | Accuracy::Unknown => {
            "One task, one model: answers to questions about a passage (CoQA). Perplexity and KL divergence, where they were measured, stand \
             beside F1; other tasks can lose more or less."
        }
        Accuracy::Text => {
            "One text, one model: perplexity and KL divergence say how far predictions of the next token moved, not whether answers got \
             worse; no interval comes with them."
        }
    }
}

/// Artifacts that are smaller on the disk and no smaller in memory.
fn heavy(study: &Study) -> Option<String> {
    let baseline = study.baseline().weights_memory()?;
    let heavy = study.rows.iter().filter(|row| row.weights_memory().is_some_and(|bytes| bytes > baseline));
    let names: Vec<&str> = heavy.map(Row::name).collect();
    (!names.is_empty()).then(|| {
        format!("Smaller on the disk and larger in memory than the baseline, once a session is made: {}.", names.join(", "))
    })
}

/// What differs over the records besides what the study varies.
fn unequal_conditions(study: &Study) -> Option<String> {
    let program = |row: &Row| {
        let program = &row.record.program;
        format!("{}{}", program.version, if program.dirty { " with changes" } else { "" })
    };
    let environment = |row: &Row| row.record.environment.clone();
    let differing = [
        ("qonnx", values(study, |row| Some(program(row)))),
        ("ONNX Runtime", values(study, |row| environment(row).onnxruntime)),
        ("driver", values(study, |row| environment(row).driver)),
        ("execution provider", values(study, |row| Some(environment(row).ep))),
        ("activations", values(study, |row| Some(environment(row).activation))),
        ("decoding steps", values(study, |row| row.bench().map(launch))),
    ];
    let said = |(what, values): &(&str, BTreeSet<String>)| {
        (values.len() > 1).then(|| format!("{what} ({})", values.iter().map(String::as_str).collect::<Vec<_>>().join(", ")))
    };
    let said: Vec<String> = differing.iter().filter_map(said).collect();
    (!said.is_empty()).then(|| {
        format!(
            "The records were not all made under one condition, which differences between them may come from: {}.",
            said.join("; ")
        )
    })
}

/// How decoding steps were set going.
fn launch(bench: &BenchRecord) -> String {
    if bench.settings.cuda_graph { "replayed from a CUDA graph" } else { "launched one by one" }.to_owned()
}

/// How much longer the slowest of the experiments takes that have the same work, by form of the weights and bytes a step at a
/// device's first point, over the quickest of them; the largest such excess, `None` where no two have the same.
fn scatter(study: &Study) -> Option<f64> {
    let mut times: BTreeMap<(usize, u64, String), Vec<f64>> = BTreeMap::new();
    for (place, device) in study.devices.iter().enumerate() {
        let Some(&batch) = device.batches.first() else { continue };
        for row in device.rows.iter().map(|&at| &study.rows[at]) {
            let Some(measured) = row.point(batch, device.prompt).measured() else { continue };
            let form = form(row);
            times.entry((place, measured.bytes_per_step, form)).or_default().push(measured.decode_ms_per_token.p50);
        }
    }
    let excess = |times: &Vec<f64>| {
        let [least, most] = [f64::min, f64::max].map(|pick| times.iter().copied().reduce(pick).unwrap_or_default());
        most / least - 1.0
    };
    times.values().filter(|times| times.len() > 1).map(excess).reduce(f64::max)
}

/// What the weights are stored as, whatever rounded them.
fn form(row: &Row) -> String {
    let recipe = &row.record.recipe;
    let WeightRecipe { format, symmetric, granularity, double_quantization, outlier_threshold, .. } = recipe.weights;
    let formats: Vec<_> = recipe.overrides.iter().map(|over| (&over.pattern, over.format)).collect();
    format!("{:?}", (format, symmetric, granularity, double_quantization, outlier_threshold, recipe.rotation(), formats))
}

fn values(study: &Study, of: impl Fn(&Row) -> Option<String>) -> BTreeSet<String> {
    study.rows.iter().filter_map(of).collect()
}

fn limits_of_comparison(study: &Study) -> Vec<String> {
    let compared: Vec<_> = study.rows.iter().filter_map(Row::paired).collect();
    let questions = study.baseline().questions();
    let reaching = compared.iter().filter(|paired| paired.ci95[1] >= 0.0);
    let coarsest = reaching.filter_map(|paired| paired.smallest_detectable).fold(0.0, f64::max);
    let mut limits = Vec::new();
    if coarsest > COARSE {
        limits.push(format!(
            "The question set is small: with {} questions some of the artifacts called not distinguishable could differ truly by up to {} \
             and be missed one time in five.",
            numbers::count(questions),
            numbers::score(coarsest)
        ));
    }
    if compared.len() > 1 {
        limits.push(format!(
            "{} artifacts are compared with the baseline, each at 95 %: about one in twenty equal ones would seem different by chance, and of \
             several that are a little worse the smallest that slipped through is the one recommended: weigh its ΔF1 itself.",
            compared.len()
        ));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::made_up::{self, baseline, experiment, study};

    #[test]
    fn conditions_that_differ_over_the_records_are_said() {
        assert_eq!(unequal_conditions(&made_up::whole()), None);
        let mut other = experiment("a", 4.0, -0.01, 0.05, 200.0);
        other.record.environment.onnxruntime = Some("1.99.0".into());
        other.record.program.dirty = true;
        other.record.benchmarks.as_mut().unwrap().settings.cuda_graph = true;
        let said = unequal_conditions(&study(vec![baseline(), other])).unwrap();
        assert!(
            said.contains("qonnx (0.1.0") && said.contains("with changes); ONNX Runtime (") && said.contains("1.99.0)"),
            "{said}"
        );
        assert!(said.contains("decoding steps (launched one by one, replayed from a CUDA graph)"), "{said}");
    }

    #[test]
    fn times_of_equal_work_say_how_far_times_can_be_trusted() {
        let timed = |name: &str, ms: f64| {
            let mut file = experiment(name, 4.0, -0.01, 0.05, 200.0);
            for point in &mut file.record.benchmarks.as_mut().unwrap().points {
                let crate::record::Outcome::Measured(measured) = &mut point.outcome else { continue };
                (measured.bytes_per_step, measured.decode_ms_per_token.p50) = (1000, ms);
            }
            file
        };
        let said =
            |slowest: f64| limits(&study(vec![baseline(), timed("a", 2.0), timed("b", slowest), timed("c", 2.02)])).join("\n");
        assert!(said(2.5).contains("differ in time by up to 25 %: smaller differences may be the machine's"), "{}", said(2.5));
        assert!(!said(2.05).contains("same form of weights"), "{}", said(2.05));
    }
}
