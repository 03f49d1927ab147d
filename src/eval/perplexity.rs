//! Perplexity: how well a model predicts a text, token by token.

use serde::Serialize;

use super::error::EvalError;
use super::positions::{Window, log_sum_exp, measure_positions};
use super::windows::TokenWindows;
use crate::generate::Score;

/// Of how it is measured, in records: windows begin with BOS and are predicted but for their first token.
pub const VERSION: &str = "1.0";

/// How well a text was predicted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerplexityReport {
    /// exp of `nll`.
    pub perplexity: f64,
    /// Mean negative log-likelihood, nats a token.
    pub nll: f64,
    /// Tokens predicted: every token of a window but its first.
    pub tokens: usize,
    pub windows: usize,
}

/// Perplexity over all tokens of all windows but each window's first. Log-sum-exp and sums are f64.
///
/// `progress` is told the windows done and the running perplexity.
///
/// # Errors
/// [`EvalError::IdOutOfRange`], [`EvalError::NotFinite`], [`EvalError::Positions`], and the model's.
pub fn perplexity(
    model: &mut dyn Score,
    windows: &TokenWindows,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<PerplexityReport, EvalError> {
    let mut sum = 0.0;
    let mut tokens = 0;
    for (index, ids) in windows.as_slice().iter().enumerate() {
        let window = Window { index, ids };
        let losses = measure_positions(model, window, |position, logits| {
            let target = ids[position + 1];
            let logit = logits.get(target as usize).ok_or(EvalError::IdOutOfRange {
                window: index,
                id: target,
                vocab_size: logits.len(),
            })?;
            let normalizer = log_sum_exp(logits).ok_or_else(|| window.not_finite(position))?;
            Ok(normalizer - f64::from(*logit))
        })?;
        sum += losses.iter().sum::<f64>();
        tokens += losses.len();
        progress(index + 1, (sum / tokens as f64).exp());
    }
    let nll = sum / tokens as f64;
    Ok(PerplexityReport { perplexity: nll.exp(), nll, tokens, windows: windows.as_slice().len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::fake::FakeScore;

    fn windows(list: &[&[u32]]) -> TokenWindows {
        TokenWindows::new(list.iter().map(|ids| ids.to_vec()).collect()).expect("valid windows")
    }

    #[test]
    fn hand_computed_losses() {
        // reading 0 the logits are [0, 2, 1], reading 1 they are [1, 2, 0]
        let lse = (0f64.exp() + 1f64.exp() + 2f64.exp()).ln();
        let (mut seen, mut running) = (Vec::new(), 0.0);
        let mut progress = |done, perplexity| {
            seen.push(done);
            running = perplexity;
        };
        let report = perplexity(&mut FakeScore::default(), &windows(&[&[0, 1, 0], &[0, 2]]), &mut progress).expect("scores");
        assert_eq!(running, report.perplexity, "what is shown at the end is what comes out");
        let expected = ((lse - 2.0) + (lse - 1.0) + (lse - 1.0)) / 3.0;
        assert!((report.nll - expected).abs() < 1e-14);
        assert!((report.perplexity - expected.exp()).abs() < 1e-13);
        assert_eq!((report.tokens, report.windows, seen), (3, 2, vec![1, 2]));
    }

    #[test]
    fn a_uniform_model_has_the_vocabulary_as_perplexity() {
        let mut model = FakeScore { scale: 0.0, ..FakeScore::default() };
        let report = perplexity(&mut model, &windows(&[&[0, 1, 2, 1]]), &mut |_, _| {}).expect("scores");
        assert!((report.perplexity - 3.0).abs() < 1e-12);
    }

    #[test]
    fn broken_logits_and_foreign_ids_are_named() {
        let mut model = FakeScore { nan: Some(1), ..FakeScore::default() };
        let error = perplexity(&mut model, &windows(&[&[0, 1, 2]]), &mut |_, _| {}).expect_err("NaN");
        assert!(matches!(error, EvalError::NotFinite { window: 0, position: 1 }), "{error}");
        let error = perplexity(&mut FakeScore::default(), &windows(&[&[0, 1], &[0, 3]]), &mut |_, _| {}).expect_err("id 3");
        assert!(matches!(error, EvalError::IdOutOfRange { window: 1, id: 3, vocab_size: 3 }), "{error}");
    }
}
