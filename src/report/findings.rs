//! The recommendation in sentences, each with the records that it rests on.

use super::numbers::{self, NONE};
use super::recommend::{Fastest, Recommendation, Smallest};
use super::study::{Accuracy, Row, Study};

/// A smallest detectable difference above this gets a warning of its own.
pub const COARSE: f64 = 0.02;
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
                .map(|paired| format!("{} {}", numbers::difference(paired.difference), numbers::interval(paired.ci95)));
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
                None if study.accuracy() == Accuracy::Text => {
                    "None can be named: CoQA was not asked, so no answers were compared with the baseline's.".to_owned()
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
            numbers::difference(paired.difference),
            numbers::interval(paired.ci95)
        ),
        _ => String::new(),
    };
    let bits = row.bits().map(|bits| format!(", {} bits per weight", numbers::bits(bits))).unwrap_or_default();
    let memory = match (row.weights_memory(), baseline.weights_memory()) {
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
    let questions = row.questions();
    match row.paired().and_then(|paired| paired.smallest_detectable) {
        Some(smallest) if smallest > 0.0 => {
            let coarse =
                if smallest > COARSE { "; a smaller loss can well hide, so ask more questions before relying on it" } else { "" };
            format!(
                "Not distinguishable is not equal: {} questions would show a true difference of {} with 80 % chance{coarse}.",
                numbers::count(questions),
                numbers::score(smallest)
            )
        }
        _ => format!(
            "No one of {} questions scored differently, so how small a difference they could show is not known.",
            numbers::count(questions)
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
        0 => "Empty: no record holds both a size and an F1.".to_owned(),
        _ => format!("{}.", points.join(", ")),
    };
    finding(TITLE, text, front.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::limits::limits;
    use crate::report::made_up::{self, baseline, experiment, f1, study};
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
    fn without_answers_nothing_is_said_of_them() {
        let texts = texts(&made_up::text_alone());
        let asked = "None can be named: CoQA was not asked, so no answers were compared with the baseline's.";
        assert_eq!(texts[0], asked);
        assert!(texts[1].contains("tokens/s after prompts of 512 tokens") && !texts.concat().contains("F1 "), "{texts:?}");
    }

    #[test]
    fn a_coarse_comparison_is_not_relied_on() {
        let mut coarse = experiment("a", 4.0, -0.01, 0.05, 200.0);
        f1(&mut coarse).paired.as_mut().unwrap().smallest_detectable = Some(0.07);
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
        f1(&mut same).paired.as_mut().unwrap().smallest_detectable = Some(0.0);
        let text = &texts(&study(vec![baseline(), same]))[0];
        assert!(text.ends_with("so how small a difference they could show is not known."), "{text}");
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
        failed.record.evaluation = crate::record::EvaluationRecord::default();
        failed.record.failure = Some(crate::record::FailureRecord { stage: "evaluate".into(), message: "killed".into() });
        let mut other = experiment("a", 4.0, 0.0, 0.01, 5.0);
        f1(&mut other).paired = None;
        let texts = texts(&study(vec![failed, other]));
        assert_eq!(texts[0], "None can be named: the baseline failed (evaluate), so nothing was compared with it.");
    }
}
