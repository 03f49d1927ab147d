//! The recommendation and its limits in sentences, each with the records that it rests on.

use std::collections::{BTreeMap, BTreeSet};

use super::numbers::{self, NONE};
use super::recommend::{Fastest, Recommendation, Smallest};
use super::study::{Row, Study};
use crate::recipe::WeightRecipe;

/// A smallest detectable difference above this gets a warning of its own.
const COARSE: f64 = 0.02;
/// Equal work that takes so much longer in one experiment than in another gets a sentence.
const SCATTER: f64 = 0.05;
/// Of an artifact whose whole interval lies above the baseline.
const ABOVE: &str = "It scores above the baseline by more than chance explains.";

/// A sentence or two, and the rows whose records hold its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub title: String,
    pub text: String,
    pub rows: Vec<usize>,
}

/// What to take, with evidence.
pub fn findings(study: &Study, recommendation: &Recommendation) -> Vec<Finding> {
    let mut found = vec![smallest(study, recommendation.smallest.clone())];
    found.extend(recommendation.fastest.iter().map(|fastest| fastest_finding(study, fastest)));
    found.push(pareto(study, &recommendation.pareto));
    found
}

fn finding(title: &str, text: String, rows: Vec<usize>) -> Finding {
    Finding { title: title.to_owned(), text, rows }
}

fn smallest(study: &Study, smallest: Smallest) -> Finding {
    const TITLE: &str = "Smallest artifact not distinguishable from the baseline";
    match smallest {
        Smallest::Found { row } => finding(TITLE, smallest_text(study, row), vec![row, 0]),
        Smallest::AllWorse { nearest } => {
            let row = &study.rows[nearest];
            let loss = row
                .paired()
                .map(|paired| format!("{} {}", numbers::difference(paired.f1_difference), numbers::interval(paired.f1_ci95)));
            let text = format!(
                "None. Every artifact that was compared scores below the baseline by more than chance explains; {} loses least, ΔF1 {}.",
                row.name(),
                loss.unwrap_or_else(|| NONE.to_owned())
            );
            finding(TITLE, text, vec![nearest, 0])
        }
        Smallest::NoComparison => {
            let text = match &study.baseline().record.failure {
                Some(failure) => {
                    format!("None can be named: the baseline failed ({}), so nothing was compared with it.", failure.stage)
                }
                None => "None can be named: no record holds a comparison with the baseline on the same questions.".to_owned(),
            };
            finding(TITLE, text, vec![0])
        }
    }
}

fn smallest_text(study: &Study, at: usize) -> String {
    let (row, baseline) = (&study.rows[at], study.baseline());
    let bytes = row.model_bytes().unwrap_or_default();
    let share = match baseline.model_bytes() {
        Some(whole) if whole > 0 => {
            format!(", {:.0} % of the baseline's {}", 100.0 * bytes as f64 / whole as f64, numbers::bytes(whole))
        }
        _ => String::new(),
    };
    let score = match (row.paired(), row.f1(), baseline.f1()) {
        (Some(paired), Some(f1), Some(base)) => format!(
            " F1 {} against {}: ΔF1 {}, paired 95 % interval {}.",
            numbers::score(f1),
            numbers::score(base),
            numbers::difference(paired.f1_difference),
            numbers::interval(paired.f1_ci95)
        ),
        _ => String::new(),
    };
    let bits = row.bits().map(|bits| format!(", {} bits per weight", numbers::bits(bits))).unwrap_or_default();
    let memory = |row: &Row| row.bench().and_then(|bench| bench.weights_memory_bytes);
    let memory = match (memory(row), memory(baseline)) {
        (Some(own), Some(whole)) if whole > 0 => {
            let share = 100.0 * own as f64 / whole as f64;
            format!(" In memory its weights take {} of {} ({share:.0} %).", numbers::bytes(own), numbers::bytes(whole))
        }
        _ => String::new(),
    };
    format!("{}: {} on the disk{share}{bits}.{memory}{score} {}", row.name(), numbers::bytes(bytes), resolution(row))
}

/// What "not distinguishable" can hide.
fn resolution(row: &Row) -> String {
    if row.beats_baseline() {
        return ABOVE.to_owned();
    }
    let questions = row.evaluation().map_or(0, |evaluation| evaluation.questions);
    match row.paired().map(|paired| paired.smallest_detectable) {
        Some(smallest) if smallest > 0.0 => {
            let coarse =
                if smallest > COARSE { "; a smaller loss can well hide, so ask more questions before relying on it" } else { "" };
            format!(
                "Not distinguishable is not equal: {} questions would show a true difference of {} with 80 % chance{coarse}.",
                numbers::count(questions as u64),
                numbers::score(smallest)
            )
        }
        _ => format!(
            "No one of {} questions scored differently, so how small a difference they could show is not known.",
            numbers::count(questions as u64)
        ),
    }
}

fn fastest_finding(study: &Study, fastest: &Fastest) -> Finding {
    let (row, device) = (&study.rows[fastest.row], &study.devices[fastest.device]);
    let against = match fastest.ratio {
        _ if row.is_baseline() => ", which is the baseline itself: no quantized artifact decodes faster here".to_owned(),
        Some(ratio) => format!(", {} the baseline's speed", numbers::ratio(ratio)),
        None => ", with no measurement of the baseline at this point to compare with".to_owned(),
    };
    let accuracy = match (row.reaches_baseline(), fastest.safe) {
        (Some(false), Some(safe)) => {
            let (name, speed) =
                (study.rows[safe].name(), study.rows[safe].point(fastest.batch, device.prompt).tokens_per_second());
            format!(
                " It scores below the baseline by more than chance explains; the fastest that does not is {name} with {} tokens/s.",
                speed.map_or(NONE.to_owned(), numbers::three_digits)
            )
        }
        (Some(true), _) if row.beats_baseline() => format!(" {ABOVE}"),
        (Some(true), _) => " Its F1 is not distinguishable from the baseline's.".to_owned(),
        _ => String::new(),
    };
    let title = format!("Fastest decoding at batch {}", fastest.batch);
    let text = format!(
        "{}: {} tokens/s after prompts of {} tokens on {}{against}.{accuracy}",
        row.name(),
        numbers::three_digits(fastest.tokens_per_second),
        numbers::count(device.prompt as u64),
        device.name
    );
    let mut rows = vec![fastest.row];
    rows.extend(fastest.safe.filter(|_| row.reaches_baseline() == Some(false)));
    if fastest.ratio.is_some() && fastest.row != 0 {
        rows.push(0);
    }
    Finding { title, text, rows }
}

fn pareto(study: &Study, front: &[usize]) -> Finding {
    const TITLE: &str = "Pareto front: no experiment has fewer bits and a higher F1";
    let point = |&at: &usize| {
        let row = &study.rows[at];
        Some(format!("{} ({} bits, F1 {})", row.name(), numbers::bits(row.bits()?), numbers::score(row.f1()?)))
    };
    let points: Vec<String> = front.iter().filter_map(point).collect();
    let text = match points.len() {
        0 => "Empty: no record holds both a size and a score.".to_owned(),
        _ => format!("{}.", points.join(", ")),
    };
    finding(TITLE, text, front.to_vec())
}

/// What the study cannot say.
pub fn limits(study: &Study) -> Vec<String> {
    let mut limits = limits_of_comparison(study);
    let failed = study.failed().count();
    if failed > 0 {
        let ended = if failed == 1 { "it is shown as failed, with what it" } else { "they are shown as failed, with what they" };
        limits.push(format!("{failed} of {} experiments ended early: {ended} measured before.", study.rows.len()));
    }
    limits.push(
        "One task, one model: answers to questions about a passage (CoQA). Perplexity and KL divergence, where they were measured, stand \
         beside F1; other tasks can lose more or less."
            .to_owned(),
    );
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
    if study
        .rows
        .iter()
        .any(|row| row.bench().is_some_and(|bench| bench.ep == "cpu") && row.bits().is_some_and(|bits| bits < 16.0))
    {
        limits.push(
            "On the CPU times are of the kernels that any program gets, which may round activations to 8 bits; F1 was scored with \
             activations as they are."
                .to_owned(),
        );
    }
    let warned = |row: &&Row| !row.record.warnings.is_empty() || row.bench().is_some_and(|bench| !bench.warnings.is_empty());
    match study.rows.iter().filter(warned).count() {
        0 => {}
        1 => limits.push("One record holds warnings; REPORT.md lists them.".to_owned()),
        count => limits.push(format!("{count} records hold warnings; REPORT.md lists them.")),
    }
    limits
}

/// Artifacts that are smaller on the disk and no smaller in memory.
fn heavy(study: &Study) -> Option<String> {
    let weights = |row: &Row| row.bench().and_then(|bench| bench.weights_memory_bytes);
    let baseline = weights(study.baseline())?;
    let heavy = study.rows.iter().filter(|row| !row.is_baseline() && weights(row).is_some_and(|bytes| bytes > baseline));
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
    let questions = study.baseline().evaluation().map_or(0, |evaluation| evaluation.questions);
    let reaching = compared.iter().filter(|paired| paired.f1_ci95[1] >= 0.0);
    let coarsest = reaching.map(|paired| paired.smallest_detectable).fold(0.0, f64::max);
    let mut limits = Vec::new();
    if coarsest > COARSE {
        limits.push(format!(
            "The question set is small: with {} questions some of the artifacts called not distinguishable could differ truly by up to {} \
             and be missed one time in five.",
            numbers::count(questions as u64),
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
    use crate::report::recommend::recommend;

    fn texts(study: &Study) -> Vec<String> {
        findings(study, &recommend(study)).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn the_fixture_in_sentences() {
        let study = made_up::whole();
        let found = findings(&study, &recommend(&study));
        assert_eq!(
            found[0].text,
            "awq_gptq_4bit_g128: 48.6 MB on the disk, 54 % of the baseline's 90.1 MB, 4.13 bits per weight. In memory its weights take \
             52.5 MB of 97.3 MB (54 %). F1 0.406 against 0.412: ΔF1 −0.006, \
             paired 95 % interval [−0.018, +0.006]. Not distinguishable is not equal: 500 questions would show a true difference of \
             0.017 with 80 % chance."
        );
        assert_eq!(found[0].rows, [8, 0]);
        assert!(
            found[1].text.ends_with("the fastest that does not is awq_gptq_4bit_g128 with 220 tokens/s."),
            "{}",
            found[1].text
        );
        assert_eq!(found[2].title, "Fastest decoding at batch 4");
        assert!(found[3].text.starts_with("gptq_2bit_g32 (2.50 bits, F1 0.241), gptq_3bit_g128"), "{}", found[3].text);
    }

    #[test]
    fn a_coarse_comparison_is_not_relied_on() {
        let mut coarse = experiment("a", 4.0, -0.01, 0.05, 200.0);
        coarse.record.evaluation.as_mut().unwrap().paired.as_mut().unwrap().smallest_detectable = 0.07;
        let study = study(vec![baseline(), coarse]);
        assert!(
            texts(&study)[0].contains("true difference of 0.070 with 80 % chance; a smaller loss can well hide"),
            "{:?}",
            texts(&study)
        );
        assert!(limits(&study)[0].starts_with("The question set is small: with 500 questions"), "{:?}", limits(&study));
    }

    #[test]
    fn no_difference_at_all_says_that_the_resolution_is_not_known() {
        let mut same = experiment("a", 4.0, 0.0, 0.0, 200.0);
        same.record.evaluation.as_mut().unwrap().paired.as_mut().unwrap().smallest_detectable = 0.0;
        let text = &texts(&study(vec![baseline(), same]))[0];
        assert!(text.ends_with("so how small a difference they could show is not known."), "{text}");
    }

    #[test]
    fn conditions_that_differ_over_the_records_are_said() {
        assert_eq!(unequal_conditions(&made_up::whole()), None);
        let mut other = experiment("a", 4.0, -0.01, 0.05, 200.0);
        other.record.environment.onnxruntime = Some("1.99.0".into());
        other.record.program.dirty = true;
        let said = unequal_conditions(&study(vec![baseline(), other])).unwrap();
        assert!(
            said.contains("qonnx (0.1.0") && said.contains("with changes); ONNX Runtime (") && said.contains("1.99.0)"),
            "{said}"
        );
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

    #[test]
    fn an_artifact_that_beats_the_baseline_is_not_called_indistinguishable() {
        let texts = texts(&study(vec![baseline(), experiment("a", 4.0, 0.05, 0.01, 500.0)]));
        assert!(texts[0].ends_with(ABOVE) && texts[1].ends_with(ABOVE), "{texts:?}");
    }

    #[test]
    fn a_baseline_that_is_fastest_and_one_that_failed_are_said() {
        let slow = study(vec![baseline(), experiment("a", 4.0, -0.2, 0.01, 5.0)]);
        assert!(
            texts(&slow)[0].starts_with("None. Every artifact that was compared scores below the baseline"),
            "{:?}",
            texts(&slow)
        );
        assert!(texts(&slow)[1].contains("no quantized artifact decodes faster here"), "{:?}", texts(&slow));
        let mut failed = baseline();
        failed.record.evaluation = None;
        failed.record.failure = Some(crate::record::FailureRecord { stage: "evaluate".into(), message: "killed".into() });
        let mut other = experiment("a", 4.0, 0.0, 0.01, 5.0);
        other.record.evaluation.as_mut().unwrap().paired = None;
        let texts = texts(&study(vec![failed, other]));
        assert_eq!(texts[0], "None can be named: the baseline failed (evaluate), so nothing was compared with it.");
    }
}
