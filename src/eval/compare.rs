//! Two runs on the same questions, compared pair by pair: the difference, how sure it is, and what could have been seen.

use std::collections::HashMap;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use statrs::distribution::{Binomial, ContinuousCDF, Discrete, DiscreteCDF, Normal};

use super::coqa::lines::QuestionLine;
use super::coqa::protocol::{Protocol, SamplingUnit};
use super::coqa::report::by_conversation;
use super::error::EvalError;
use super::stats::{clustered_stderr, quantile};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;
/// Seed of the bootstrap, so that a comparison repeats to the last digit.
const SEED: u64 = 20;

/// Lines of one run and the name of their file.
#[derive(Clone, Copy)]
pub struct NamedLines<'a> {
    pub name: &'a str,
    pub lines: &'a [QuestionLine],
}

/// A mean difference, second run less first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub a: f64,
    pub b: f64,
    /// b − a.
    pub difference: f64,
    /// Standard error of the mean paired difference, over `resampled` units.
    pub stderr: f64,
    /// 95 % interval of the paired bootstrap (percentiles of 10 000 resamples).
    pub ci95: [f64; 2],
    /// The smallest true difference that a two-sided test at 5 % on these questions would find with 80 % chance.
    pub smallest_detectable: f64,
}

/// McNemar's test on right and wrong: right is a non-zero EM, i.e. some reference was matched.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct McNemar {
    pub only_a_right: u64,
    pub only_b_right: u64,
    /// Two-sided exact binomial p-value.
    pub p_exact: f64,
    /// Two-sided mid-p value, less conservative (Fagerland, Lydersen and Laake 2013). Both treat questions as independent.
    pub p_mid: f64,
}

/// Paired comparison of two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparisonReport {
    pub questions: usize,
    pub protocol: String,
    /// What was resampled: `questions`, or whole `conversations` where the protocol asks several turns of one.
    pub resampled: &'static str,
    pub f1: Difference,
    pub em: Difference,
    pub mcnemar: McNemar,
}

/// Compares two runs question by question.
///
/// # Errors
/// [`EvalError::NotPaired`] naming the first question, protocol, prompt or reference that differs; [`EvalError::TooFew`] and
/// [`EvalError::TooFewUnits`] for fewer than two questions or conversations; [`EvalError::UnknownProtocol`].
pub fn compare(a: NamedLines<'_>, b: NamedLines<'_>) -> Result<ComparisonReport, EvalError> {
    let first = a.lines.first().ok_or_else(|| EvalError::TooFew { file: a.name.to_string(), expected: 2 })?;
    let protocol = Protocol::by_name(&first.protocol).ok_or_else(|| EvalError::UnknownProtocol {
        file: a.name.to_string(),
        line: 1,
        name: first.protocol.clone(),
        known: Protocol::EACH.map(|protocol| protocol.name).join(", "),
    })?;
    let pairs = pairs(a, b)?;
    let units = match protocol.sampling_unit {
        SamplingUnit::Question => pairs.iter().map(|pair| vec![*pair]).collect(),
        SamplingUnit::Conversation => by_conversation(pairs.iter().map(|pair| (pair.0.id.as_str(), *pair))),
    };
    if units.len() < 2 {
        let unit = if protocol.sampling_unit == SamplingUnit::Question { "question" } else { "conversation" };
        return Err(EvalError::TooFewUnits { file: a.name.to_string(), unit, got: units.len() });
    }
    Ok(ComparisonReport {
        questions: pairs.len(),
        protocol: format!("{} {}", first.protocol, first.protocol_version),
        resampled: match protocol.sampling_unit {
            SamplingUnit::Question => "questions",
            SamplingUnit::Conversation => "conversations",
        },
        f1: difference(&units, |line| line.f1),
        em: difference(&units, |line| line.em),
        mcnemar: mcnemar(&pairs),
    })
}

type Pair<'a> = (&'a QuestionLine, &'a QuestionLine);

/// Lines of both runs by question, in the first's order.
fn pairs<'a>(a: NamedLines<'a>, b: NamedLines<'a>) -> Result<Vec<Pair<'a>>, EvalError> {
    let differ = |what: String, in_a: String, in_b: String| EvalError::NotPaired {
        runs: format!("{} and {}", a.name, b.name),
        what,
        in_a,
        in_b,
    };
    let question = |line: &QuestionLine| format!("question {} turn {}", line.id, line.turn_id);
    let index = |lines: &'a [QuestionLine], name: &str| {
        let mut by_question: HashMap<(&str, u32), &QuestionLine> = HashMap::new();
        for line in lines {
            if by_question.insert((&line.id, line.turn_id), line).is_some() {
                return Err(differ(format!("{} of {name}", question(line)), "once at most".to_string(), "twice".to_string()));
            }
        }
        Ok(by_question)
    };
    let (in_a, in_b) = (index(a.lines, a.name)?, index(b.lines, b.name)?);
    if let Some(line) = b.lines.iter().find(|line| !in_a.contains_key(&(line.id.as_str(), line.turn_id))) {
        return Err(differ(question(line), "absent".to_string(), "present".to_string()));
    }
    let pair = |line: &'a QuestionLine| -> Result<Pair<'a>, EvalError> {
        let other = *in_b
            .get(&(line.id.as_str(), line.turn_id))
            .ok_or_else(|| differ(question(line), "present".to_string(), "absent".to_string()))?;
        let protocol = |line: &QuestionLine| format!("{} {}", line.protocol, line.protocol_version);
        let same = |what: &str, in_a: String, in_b: String| {
            if in_a == in_b { Ok(()) } else { Err(differ(format!("{what} of {}", question(line)), in_a, in_b)) }
        };
        same("protocol", protocol(line), protocol(other))?;
        same("prompt hash", line.prompt_sha256.clone(), other.prompt_sha256.clone())?;
        same("references", line.golds.join(" | "), other.golds.join(" | "))?;
        Ok((line, other))
    };
    let pairs = a.lines.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    let protocols_agree = pairs
        .iter()
        .all(|(line, _)| line.protocol == pairs[0].0.protocol && line.protocol_version == pairs[0].0.protocol_version);
    if !protocols_agree {
        return Err(differ("protocol within a file".to_string(), "several".to_string(), "several".to_string()));
    }
    Ok(pairs)
}

fn difference(units: &[Vec<Pair<'_>>], score: fn(&QuestionLine) -> f64) -> Difference {
    let differences: Vec<Vec<f64>> = units.iter().map(|unit| unit.iter().map(|(a, b)| score(b) - score(a)).collect()).collect();
    let count = units.iter().map(Vec::len).sum::<usize>() as f64;
    let mean = |score_of: &dyn Fn(&Pair<'_>) -> f64| units.iter().flatten().map(score_of).sum::<f64>() / count;
    let stderr = clustered_stderr(&differences).expect("compare() refuses fewer than two units");
    Difference {
        a: mean(&|(a, _)| score(a)),
        b: mean(&|(_, b)| score(b)),
        difference: differences.iter().flatten().sum::<f64>() / count,
        stderr,
        ci95: bootstrap(&differences),
        smallest_detectable: (normal_quantile(0.975) + normal_quantile(0.8)) * stderr,
    }
}

fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// Percentile interval of the mean when whole units are drawn with replacement.
fn bootstrap(units: &[Vec<f64>]) -> [f64; 2] {
    let sums: Vec<(f64, f64)> = units.iter().map(|unit| (unit.iter().sum(), unit.len() as f64)).collect();
    let mut random = Pcg64::seed_from_u64(SEED);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut sum, mut count) = (0.0, 0.0);
            for _ in 0..sums.len() {
                let (unit_sum, unit_count) = sums[below(sums.len(), &mut random)];
                sum += unit_sum;
                count += unit_count;
            }
            sum / count
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [quantile(&means, 0.025), quantile(&means, 0.975)]
}

/// A number below `count`, by the high half of a product: the bias is under `count` / 2⁶⁴.
fn below(count: usize, random: &mut Pcg64) -> usize {
    ((u128::from(random.next_u64()) * count as u128) >> 64) as usize
}

fn mcnemar(pairs: &[Pair<'_>]) -> McNemar {
    let right = |line: &QuestionLine| line.em > 0.0;
    let only_a_right = pairs.iter().filter(|(a, b)| right(a) && !right(b)).count() as u64;
    let only_b_right = pairs.iter().filter(|(a, b)| right(b) && !right(a)).count() as u64;
    let fewer = only_a_right.min(only_b_right);
    let null = Binomial::new(0.5, only_a_right + only_b_right).expect("one half is a probability");
    let tail = 2.0 * null.cdf(fewer);
    McNemar { only_a_right, only_b_right, p_exact: tail.min(1.0), p_mid: (tail - null.pmf(fewer)).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, turn_id: u32, em: f64, f1: f64) -> QuestionLine {
        QuestionLine {
            id: id.into(),
            turn_id,
            domain: "cnn".into(),
            protocol: "lm-eval".into(),
            protocol_version: "3.0".into(),
            model: "m".into(),
            prompt_sha256: format!("{id}{turn_id}"),
            truncated: false,
            text: String::new(),
            eos: None,
            prediction: String::new(),
            golds: vec!["x".into()],
            em,
            f1,
            seconds: 0.1,
        }
    }

    fn run(scores: &[f64]) -> Vec<QuestionLine> {
        scores.iter().enumerate().map(|(i, score)| line(&format!("c{i}"), 1, *score, *score)).collect()
    }

    fn named<'a>(name: &'a str, lines: &'a [QuestionLine]) -> NamedLines<'a> {
        NamedLines { name, lines }
    }

    #[test]
    fn a_run_equals_itself() {
        let lines = run(&[1.0, 0.0, 0.5]);
        let report = compare(named("a", &lines), named("b", &lines)).expect("compares");
        assert_eq!((report.f1.difference, report.f1.stderr, report.f1.ci95), (0.0, 0.0, [0.0, 0.0]));
        assert_eq!((report.mcnemar.p_exact, report.mcnemar.p_mid), (1.0, 1.0));
    }

    #[test]
    fn hand_computed_difference_and_detectable_size() {
        // differences −1, 0, 0, 0: mean −¼, squares 9/16 + 3/16 = 3/4, s² = ¼, standard error ½/2 = ¼.
        let (a, b) = (run(&[1.0, 1.0, 0.0, 0.0]), run(&[0.0, 1.0, 0.0, 0.0]));
        let report = compare(named("a", &a), named("b", &b)).expect("compares");
        assert_eq!((report.em.a, report.em.b, report.em.difference), (0.5, 0.25, -0.25));
        assert!((report.em.stderr - 0.25).abs() < 1e-15);
        // 1.959964 + 0.841621
        assert!((report.em.smallest_detectable - 0.25 * 2.801_585).abs() < 1e-6);
        // resampled means are −k/4 with k binomial(4, ¼): P(0) = 0.316, P(≥ 3) = 0.051, P(4) = 0.004.
        assert_eq!(report.em.ci95, [-0.75, 0.0]);
    }

    #[test]
    fn mcnemar_is_binomial_on_the_discordant_pairs() {
        // only a right: 5, only b right: 1. exact: 2 · (1 + 6)/64; mid-p: less 6/64.
        let a = run(&[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
        let b = run(&[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        let mcnemar = compare(named("a", &a), named("b", &b)).expect("compares").mcnemar;
        assert_eq!((mcnemar.only_a_right, mcnemar.only_b_right), (5, 1));
        assert!((mcnemar.p_exact - 14.0 / 64.0).abs() < 1e-9);
        assert!((mcnemar.p_mid - 8.0 / 64.0).abs() < 1e-9);
    }

    #[test]
    fn official_runs_resample_conversations() {
        let official = |scores: [f64; 4]| -> Vec<QuestionLine> {
            let lines = scores.iter().enumerate().map(|(i, score)| line(["p", "q"][i / 2], i as u32 % 2 + 1, *score, *score));
            lines.map(|line| QuestionLine { protocol: "official".into(), protocol_version: "1.0".into(), ..line }).collect()
        };
        let (a, b) = (official([0.0, 0.0, 0.0, 0.0]), official([1.0, 1.0, 0.0, 0.0]));
        let report = compare(named("a", &a), named("b", &b)).expect("compares");
        assert_eq!(report.resampled, "conversations");
        // stats.rs: two clusters that agree inside, standard error ½; a resample draws p twice a quarter of the time.
        assert!((report.f1.stderr - 0.5).abs() < 1e-15);
        assert_eq!(report.f1.ci95, [0.0, 1.0]);
    }

    #[test]
    fn runs_that_do_not_pair_are_refused_by_name() {
        let a = run(&[1.0, 0.0]);
        let change = |edit: fn(&mut QuestionLine)| {
            let mut lines = a.clone();
            edit(&mut lines[1]);
            lines
        };
        for (b, says) in [
            (change(|line| line.id = "other".into()), "question other turn 1: absent in the first, present in the second"),
            (a[..1].to_vec(), "question c1 turn 1: present in the first, absent in the second"),
            (change(|line| line.protocol = "official".into()), "protocol of question c1 turn 1: lm-eval 3.0 in the first"),
            (change(|line| line.prompt_sha256 = "zz".into()), "prompt hash of question c1 turn 1: c11 in the first, zz"),
            (change(|line| line.golds = vec!["y".into()]), "references of question c1 turn 1: x in the first, y"),
            (change(|line| line.id = "c0".into()), "question c0 turn 1 of b.jsonl: once at most"),
        ] {
            let error = compare(named("a.jsonl", &a), named("b.jsonl", &b)).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(matches!(compare(named("a", &a[..1]), named("b", &a[..1])), Err(EvalError::TooFewUnits { got: 1, .. })));
        assert!(matches!(compare(named("a", &[]), named("b", &a)), Err(EvalError::TooFew { .. })));
    }
}
