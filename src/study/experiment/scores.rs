//! What evaluation reports, as a record holds it: a task each.

use std::collections::BTreeMap;

use crate::eval::compare::Difference;
use crate::eval::coqa::CoqaReport;
use crate::eval::{ComparisonReport, KlReport, PerplexityReport, kl, perplexity};
use crate::record::{
    BaselineRecord, COQA_EM, COQA_F1, KL_MEAN, PairedRecord, QUESTIONS, ScoreName, ScoreRecord, TEXT_PERPLEXITY, TOKENS,
    TaskRecord, WINDOWS,
};

/// CoQA, not compared yet; `predictions` is the file of the answers.
pub fn of_coqa(report: &CoqaReport, data: String, predictions: String) -> TaskRecord {
    let score = |name, value, stderr| ScoreRecord { stderr, ..ScoreRecord::plain(name, value) };
    TaskRecord {
        task: COQA_F1.task.to_owned(),
        version: format!("{} {}", report.protocol, report.protocol_version),
        data,
        counts: counts(&[(QUESTIONS, report.questions)]),
        questions_per_second: report.questions_per_second,
        predictions: Some(predictions),
        baseline: None,
        scores: vec![score(COQA_F1, report.f1, report.f1_stderr), score(COQA_EM, report.em, report.em_stderr)],
    }
}

/// Puts differences from the baseline's answers beside CoQA's scores.
pub fn compare(coqa: &mut TaskRecord, report: &ComparisonReport) {
    let paired = |difference: &Difference, p_mid| PairedRecord {
        difference: difference.difference,
        ci95: difference.ci95,
        smallest_detectable: Some(difference.smallest_detectable),
        p_mid,
    };
    // McNemar's test is on right and wrong, which is what EM says.
    let found = [(COQA_F1, paired(&report.f1, None)), (COQA_EM, paired(&report.em, Some(report.mcnemar.p_mid)))];
    for (name, paired) in found {
        coqa.scores.iter_mut().filter(|score| score.metric == name.metric).for_each(|score| score.paired = Some(paired.clone()));
    }
}

/// Perplexity on the text `data`.
pub fn of_perplexity(report: &PerplexityReport, data: String) -> TaskRecord {
    let counts = counts(&[(WINDOWS, report.windows), (TOKENS, report.tokens)]);
    of_text(TEXT_PERPLEXITY, report.perplexity, perplexity::VERSION, data, counts)
}

/// Mean KL divergence from `baseline` on the text `data`.
pub fn of_kl(report: &KlReport, data: String, baseline: BaselineRecord) -> TaskRecord {
    let counts = counts(&[(WINDOWS, report.windows), (TOKENS, report.positions)]);
    TaskRecord { baseline: Some(baseline), ..of_text(KL_MEAN, report.kl_mean, kl::VERSION, data, counts) }
}

fn of_text(name: ScoreName, value: f64, version: &str, data: String, counts: BTreeMap<String, u64>) -> TaskRecord {
    TaskRecord {
        task: name.task.to_owned(),
        version: version.to_owned(),
        data,
        counts,
        questions_per_second: None,
        predictions: None,
        baseline: None,
        scores: vec![ScoreRecord::plain(name, value)],
    }
}

fn counts(counted: &[(&str, usize)]) -> BTreeMap<String, u64> {
    counted.iter().map(|&(unit, count)| (unit.to_owned(), count as u64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::compare::McNemar;

    #[test]
    fn each_number_of_a_comparison_stands_beside_its_metric() {
        let report = CoqaReport {
            f1: 0.5,
            em: 0.25,
            f1_stderr: Some(0.02),
            em_stderr: None,
            stderr_over: "questions",
            questions: 3,
            protocol: "official".into(),
            protocol_version: "1.0".into(),
            questions_per_second: Some(2.0),
            resumed: 0,
            truncated: 0,
            by_domain: BTreeMap::new(),
            in_domain: None,
            out_domain: None,
        };
        let mut task = of_coqa(&report, "q.json".into(), "a.jsonl".into());
        assert_eq!((task.version.as_str(), task.count(QUESTIONS)), ("official 1.0", 3));
        let of = |difference: f64| Difference {
            a: 0.0,
            b: 0.0,
            difference,
            stderr: 1.0,
            ci95: [difference - 0.1, difference + 0.1],
            smallest_detectable: 2.0 * difference,
        };
        let mcnemar = McNemar { only_a_right: 1, only_b_right: 2, p_exact: 0.9, p_mid: 0.75 };
        let (f1, em) = (of(0.125), of(0.5));
        compare(
            &mut task,
            &ComparisonReport { questions: 3, protocol: "official".into(), resampled: "questions", f1, em, mcnemar },
        );
        let paired = |difference: f64, p_mid| {
            Some(PairedRecord {
                difference,
                ci95: [difference - 0.1, difference + 0.1],
                smallest_detectable: Some(2.0 * difference),
                p_mid,
            })
        };
        let [f1, em] = &task.scores[..] else { panic!("{task:?}") };
        assert_eq!((f1.value, f1.stderr, &f1.paired), (0.5, Some(0.02), &paired(0.125, None)));
        assert_eq!((em.value, em.stderr, &em.paired), (0.25, None, &paired(0.5, Some(0.75))));
    }
}
