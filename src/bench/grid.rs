//! Every batch size with every prompt length.

use super::point::{Bench, Gauge};
use super::{Clock, fraction};
use crate::generate::{GenerateError, Steps};
use crate::record::{BenchPoint, BenchSettings, Measured, Outcome, Samples};

/// A step reads all weights whatever the batch: on the whole it takes as long as about so many tokens of a prompt.
const STEP_IN_PROMPT_TOKENS: usize = 8;

/// How far a grid is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Points that are finished.
    pub points: usize,
    pub of: usize,
    pub batch: usize,
    pub prompt_tokens: usize,
    /// Share of the work that is done, 0 to 1, as if every point took all its repeats.
    pub done: f64,
}

impl<M: Steps, C: Clock, G: Gauge> Bench<'_, M, C, G> {
    /// Measures every point, smaller ones first. A point that fails is a row that says why, and the next one is tried.
    /// Points are returned by batch size and prompt length.
    pub fn grid(&mut self, progress: &mut dyn FnMut(Progress)) -> Vec<BenchPoint> {
        let settings = self.settings;
        let mut order: Vec<(usize, usize)> =
            settings.batches.iter().flat_map(|&batch| settings.prompts.iter().map(move |&prompt| (batch, prompt))).collect();
        order.sort_by_key(|&(batch, prompt)| (batch * (prompt + settings.new_tokens), batch));
        order.dedup();
        let work = |&(batch, prompt): &(usize, usize)| (batch * prompt + STEP_IN_PROMPT_TOKENS * settings.new_tokens) as f64;
        let total: f64 = order.iter().map(work).sum();
        let mut before = 0.0;
        let mut points = Vec::with_capacity(order.len());
        for (at, point) in order.iter().enumerate() {
            let (batch, prompt_tokens) = *point;
            let mut tell = |repeats: usize| {
                let done = (before + work(point) * repeats as f64 / settings.max_repeats as f64) / total;
                progress(Progress { points: at, of: order.len(), batch, prompt_tokens, done });
            };
            tell(0);
            let outcome = outcome(self.measure(batch, prompt_tokens, &mut tell));
            self.model.release();
            points.push(BenchPoint { batch, prompt_tokens, outcome });
            before += work(point);
        }
        points.sort_by_key(|point| (point.batch, point.prompt_tokens));
        points
    }
}

fn outcome(measured: Result<Measured, GenerateError>) -> Outcome {
    match measured {
        Ok(measured) => Outcome::Measured(Box::new(measured)),
        Err(GenerateError::OutOfMemory(cause)) => Outcome::OutOfMemory { message: cause.to_string() },
        Err(error) => Outcome::Failed { message: chain(&error) },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Fills in which fraction of the device's copy bandwidth, bytes a second, each point's median step moves.
pub fn with_bandwidth(points: &mut [BenchPoint], bytes_per_second: f64) {
    for point in points {
        if let Outcome::Measured(measured) = &mut point.outcome {
            let seconds = measured.decode_ms_per_token.p50 / 1e3;
            measured.bandwidth_fraction = fraction(measured.bytes_per_step as f64 / seconds, bytes_per_second);
        }
    }
}

/// What a reader of `points` has to know: medians that stayed uncertain, outliers, throttling.
pub fn warnings(points: &[BenchPoint], settings: &BenchSettings) -> Vec<String> {
    let mut warnings = Vec::new();
    for BenchPoint { batch, prompt_tokens, outcome } in points {
        let Outcome::Measured(measured) = outcome else { continue };
        let place = format!("batch {batch}, prompt {prompt_tokens}");
        for (what, samples) in [("prefill", &measured.prefill_ms), ("decode", &measured.decode_ms_per_token)] {
            warnings.extend(of_samples(samples, settings.confidence).into_iter().map(|said| format!("{place}, {what}: {said}")));
        }
        let throttle = measured.power.as_ref().map_or(&[][..], |power| &power.throttle);
        if !throttle.is_empty() {
            warnings.push(format!("{place}: the device throttled while it decoded ({})", throttle.join(", ")));
        }
    }
    warnings
}

fn of_samples(samples: &Samples, confidence: f64) -> Vec<String> {
    let (count, [low, high]) = (samples.values.len(), samples.ci95);
    let off = (samples.p50 - low).max(high - samples.p50) / samples.p50;
    let mut said = Vec::new();
    if count < 6 {
        said.push(format!("{count} samples are too few for a 95 % interval of the median; its range is given"));
    } else if off > confidence {
        let wanted = confidence * 100.0;
        said.push(format!(
            "the median of {count} samples is certain to ±{:.1} % only, ±{wanted:.1} % was asked for",
            off * 100.0
        ));
    }
    if !samples.outliers.is_empty() {
        let outliers = samples.outliers.len();
        said.push(format!("{outliers} of {count} samples are outliers (modified z-score above 3.5), kept in every number"));
    }
    said
}
