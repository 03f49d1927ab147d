//! KL(reference ‖ model) of the next token, position by position, in nats: how far quantization moved the distribution.
//!
//! Positions are those of perplexity: every one that has a next token. With both models at hand the divergence is exact
//! over the whole vocabulary, and one window of the reference's logits (`positions × vocab_size` f32) is held in memory.
//! Against a reference file ([`super::kl_cache`]) it is taken over the reference's top k tokens and one bucket for all
//! others; merging outcomes never raises a KL divergence, so the value is a lower bound, and `tail_mass` says how much
//! probability the bucket holds on average.

use serde::Serialize;

use super::error::EvalError;
use super::kl_cache::{CacheReader, TopK};
use super::positions::{Window, argmax, log_sum_exp, measure_positions};
use super::stats::{mean, quantile};
use super::windows::TokenWindows;
use crate::generate::Score;

/// Of how it is measured, in records: over the positions of perplexity.
pub const VERSION: &str = "1.0";

/// How far a model's next-token distributions are from the reference's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KlReport {
    /// Mean, quantiles and maximum over positions, nats.
    pub kl_mean: f64,
    pub kl_p50: f64,
    pub kl_p99: f64,
    pub kl_max: f64,
    /// Share of positions whose likeliest token is the same.
    pub same_top1: f64,
    pub positions: usize,
    pub windows: usize,
    /// False if the values are lower bounds from a reference file.
    pub exact: bool,
    /// The reference's mean probability outside its top k; 0 when exact.
    pub tail_mass: f64,
}

/// One position's part.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Divergence {
    kl: f64,
    same_top1: bool,
    tail_mass: f64,
}

/// Divergence of two models over the same windows, exact over the whole vocabulary.
///
/// # Errors
/// [`EvalError::VocabSize`], [`EvalError::NotFinite`], [`EvalError::Positions`], and the models'.
pub fn kl_exact(
    reference: &mut dyn Score,
    model: &mut dyn Score,
    windows: &TokenWindows,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<KlReport, EvalError> {
    let mut all = Vec::with_capacity(windows.targets());
    for (index, ids) in windows.as_slice().iter().enumerate() {
        let window = Window { index, ids };
        let rows: Vec<Vec<f32>> = measure_positions(reference, window, |_, logits| Ok(logits.to_vec()))?;
        all.extend(measure_positions(model, window, |position, logits| {
            check_vocab(rows[position].len(), logits.len())?;
            divergence(&rows[position], logits).ok_or_else(|| window.not_finite(position))
        })?);
        progress(index + 1, running_mean(&all));
    }
    Ok(summary(&all, windows, true))
}

/// Divergence from a reference file, a lower bound unless the file holds the whole vocabulary.
///
/// # Errors
/// As [`kl_exact`], and [`EvalError::Cache`] if the file does not fit the windows or is broken.
pub fn kl_against_cache(
    cache: &mut CacheReader,
    model: &mut dyn Score,
    windows: &TokenWindows,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<KlReport, EvalError> {
    cache.check_windows(windows)?;
    let vocab_size = cache.header().vocab_size;
    let mut all = Vec::with_capacity(windows.targets());
    for (index, ids) in windows.as_slice().iter().enumerate() {
        let window = Window { index, ids };
        let tops = cache.next_positions(ids.len() - 1)?;
        all.extend(measure_positions(model, window, |position, logits| {
            check_vocab(vocab_size, logits.len())?;
            bucketed_divergence(&tops[position], logits).ok_or_else(|| window.not_finite(position))
        })?);
        progress(index + 1, running_mean(&all));
    }
    Ok(summary(&all, windows, cache.header().k == vocab_size))
}

fn check_vocab(reference: usize, model: usize) -> Result<(), EvalError> {
    if reference == model { Ok(()) } else { Err(EvalError::VocabSize { reference, model }) }
}

fn running_mean(all: &[Divergence]) -> f64 {
    all.iter().map(|position| position.kl).sum::<f64>() / all.len() as f64
}

fn summary(all: &[Divergence], windows: &TokenWindows, exact: bool) -> KlReport {
    let mut kl: Vec<f64> = all.iter().map(|position| position.kl).collect();
    let kl_mean = mean(&kl);
    kl.sort_by(f64::total_cmp);
    KlReport {
        kl_mean,
        kl_p50: quantile(&kl, 0.5),
        kl_p99: quantile(&kl, 0.99),
        kl_max: quantile(&kl, 1.0),
        same_top1: all.iter().filter(|position| position.same_top1).count() as f64 / all.len() as f64,
        positions: all.len(),
        windows: windows.as_slice().len(),
        exact,
        tail_mass: all.iter().map(|position| position.tail_mass).sum::<f64>() / all.len() as f64,
    }
}

/// KL(reference ‖ model) of one position's logits `[vocab_size]`, in nats; `None` where one of them is not finite.
pub fn kl_of_logits(reference: &[f32], model: &[f32]) -> Option<f64> {
    divergence(reference, model).map(|divergence| divergence.kl)
}

/// Σ p (ln p − ln q) = lse(l′) − lse(l) + Σ p (l − l′), with l the reference's logits and l′ the model's; one pass over l
/// gives its Σ exp and Σ exp · (l − l′). None if a log-sum-exp is not finite. Rounding below zero is cut off.
fn divergence(reference: &[f32], model: &[f32]) -> Option<Divergence> {
    let model_normalizer = log_sum_exp(model)?;
    let top1 = argmax(reference);
    let max = f64::from(reference[top1]);
    let (mut sum, mut moment) = (0.0, 0.0);
    for (l, l_model) in reference.iter().zip(model) {
        let exp = (f64::from(*l) - max).exp();
        sum += exp;
        // a token of probability 0 costs nothing, and 0 · ∞ is no number
        if exp != 0.0 {
            moment += exp * (f64::from(*l) - f64::from(*l_model));
        }
    }
    let normalizer = max + sum.ln();
    let kl = model_normalizer - normalizer + moment / sum;
    normalizer.is_finite().then_some(Divergence { kl: kl.max(0.0), same_top1: top1 == argmax(model), tail_mass: 0.0 })
}

/// The same over the reference's top k and one bucket for the rest.
fn bucketed_divergence(top: &TopK, model: &[f32]) -> Option<Divergence> {
    let model_normalizer = log_sum_exp(model)?;
    let (mut kl, mut p_top) = (0.0, 0.0);
    let mut in_top = vec![false; model.len()];
    for (id, l) in top.ids.iter().zip(&top.logits) {
        let ln_p = f64::from(*l) - top.log_sum_exp;
        let p = ln_p.exp();
        in_top[*id as usize] = true;
        p_top += p;
        if p > 0.0 {
            kl += p * (ln_p - (f64::from(model[*id as usize]) - model_normalizer));
        }
    }
    let tail_mass = if top.ids.len() == model.len() { 0.0 } else { (1.0 - p_top).max(0.0) };
    if tail_mass > 0.0 {
        let rest = model.iter().zip(&in_top).filter(|(_, in_top)| !**in_top);
        let q_tail: f64 = rest.map(|(l, _)| (f64::from(*l) - model_normalizer).exp()).sum();
        kl += tail_mass * (tail_mass.ln() - q_tail.ln());
    }
    Some(Divergence { kl: kl.max(0.0), same_top1: top.ids[0] as usize == argmax(model), tail_mass })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::fake::FakeScore;
    use crate::eval::kl_cache::write_cache;

    fn windows() -> TokenWindows {
        TokenWindows::new(vec![vec![0, 1, 0, 2, 1], vec![0, 1, 1]]).expect("valid windows")
    }

    #[test]
    fn hand_computed_divergence() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = ½ ln 2 − ¼ ln 2.
        let p = [2f32.ln(), 0.0, 0.0];
        let q = [0.0, 2f32.ln(), 0.0];
        let got = divergence(&p, &q).expect("finite");
        assert!((got.kl - 0.25 * 2f64.ln()).abs() < 1e-7);
        assert!(!got.same_top1);
        for broken in [f32::NAN, f32::INFINITY] {
            for place in 0..3 {
                let mut bad = q;
                bad[place] = broken;
                assert_eq!(divergence(&p, &bad), None);
                assert_eq!(divergence(&bad, &p), None);
            }
        }
    }

    #[test]
    fn a_token_the_reference_never_says_costs_nothing() {
        let got = divergence(&[0.0, f32::NEG_INFINITY], &[0.0, f32::NEG_INFINITY]).expect("finite");
        assert_eq!(got.kl, 0.0);
    }

    #[test]
    fn one_bucket_for_the_rest_is_a_lower_bound() {
        // top 1: p = (1/2 | 1/2), q = (1/4 | 3/4): KL = ½ ln 2 + ½ ln(2/3).
        let top = TopK { ids: vec![0], logits: vec![2f32.ln()], log_sum_exp: 4f64.ln() };
        let got = bucketed_divergence(&top, &[0.0, 2f32.ln(), 0.0]).expect("finite");
        assert!((got.kl - (0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln())).abs() < 1e-7);
        assert!((got.tail_mass - 0.5).abs() < 1e-7);
        assert!(got.kl < 0.25 * 2f64.ln());
    }

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let report =
            kl_exact(&mut FakeScore::default(), &mut FakeScore::default(), &windows(), &mut |_, _| {}).expect("compares");
        assert!(report.kl_max < 1e-15);
        assert_eq!((report.same_top1, report.positions, report.windows, report.exact), (1.0, 6, 2, true));
    }

    #[test]
    fn the_report_sums_up_positions() {
        let (reference, model) = (FakeScore::default(), FakeScore { shift: 1.5, chunk: 3, ..FakeScore::default() });
        let mut kl = Vec::new();
        let mut same = 0;
        for ids in windows().as_slice() {
            for position in 0..ids.len() - 1 {
                let (p, q) = (softmax(reference.row(ids, position)), softmax(model.row(ids, position)));
                kl.push((0..3).map(|i| p[i] * (p[i] / q[i]).ln()).sum::<f64>());
                same += usize::from(argmax(&reference.row(ids, position)) == argmax(&model.row(ids, position)));
            }
        }
        let (mut reference, mut model) = (reference, model);
        let report = kl_exact(&mut reference, &mut model, &windows(), &mut |_, _| {}).expect("compares");
        assert!((report.kl_mean - kl.iter().sum::<f64>() / 6.0).abs() < 1e-12);
        assert!((report.kl_max - kl.iter().copied().fold(0.0, f64::max)).abs() < 1e-12);
        assert_eq!(report.same_top1, same as f64 / 6.0);
        assert!(same < 6, "the models disagree somewhere");
    }

    fn softmax(logits: [f32; 3]) -> [f64; 3] {
        let exp = logits.map(|l| f64::from(l).exp());
        exp.map(|e| e / exp.iter().sum::<f64>())
    }

    #[test]
    fn a_reference_file_of_the_whole_vocabulary_gives_the_exact_value_and_a_smaller_one_a_bound() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut model = FakeScore { shift: 1.5, ..FakeScore::default() };
        let exact = kl_exact(&mut FakeScore::default(), &mut model, &windows(), &mut |_, _| {}).expect("compares");
        for k in 1..=3 {
            let path = folder.path().join(format!("k{k}"));
            write_cache(&mut FakeScore::default(), "ref", &windows(), k, &path, &mut |_| {}).expect("writes");
            let mut cache = CacheReader::open(&path, "ref").expect("opens");
            let report = kl_against_cache(&mut cache, &mut model, &windows(), &mut |_, _| {}).expect("compares");
            assert_eq!(report.same_top1, exact.same_top1);
            assert_eq!(report.exact, k == 3);
            if k == 3 {
                assert!((report.kl_mean - exact.kl_mean).abs() < 1e-12 && report.tail_mass == 0.0);
            } else {
                assert!(report.kl_mean <= exact.kl_mean + 1e-12 && report.kl_mean > 0.0 && report.tail_mass > 0.0);
            }
        }
    }
}
