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
        order.sort_by_key(|&(batch, prompt)| (batch.saturating_mul(prompt + settings.new_tokens), batch, prompt));
        order.dedup();
        let steps = (STEP_IN_PROMPT_TOKENS * settings.new_tokens) as f64;
        let work = |&(batch, prompt): &(usize, usize)| batch as f64 * prompt as f64 + steps;
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

/// What a reader of `points` has to know, a sentence for each kind: medians that stayed uncertain, outliers, caches,
/// throttling.
pub fn warnings(points: &[BenchPoint], settings: &BenchSettings) -> Vec<String> {
    let (mut uncertain, mut outliers, mut cached, mut throttled) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for BenchPoint { batch, prompt_tokens, outcome } in points {
        let Outcome::Measured(measured) = outcome else { continue };
        let place = format!("batch {batch} prompt {prompt_tokens}");
        for (what, samples) in [("prefill", &measured.prefill_ms), ("decode", &measured.decode_ms_per_token)] {
            let count = samples.values.len();
            if count < 6 {
                uncertain.push(format!("{place} {what} (only {count} samples)"));
            } else if uncertainty(samples) > settings.confidence {
                uncertain.push(format!("{place} {what} (±{:.1} %)", uncertainty(samples) * 100.0));
            }
            if !samples.outliers.is_empty() {
                outliers.push(format!("{place} {what} ({} of {count})", samples.outliers.len()));
            }
        }
        cached.extend(measured.bandwidth_fraction.filter(|&fraction| fraction > 1.0).map(|_| place.clone()));
        let reasons = measured.power.as_ref().map_or(&[][..], |power| &power.throttle);
        throttled.extend((!reasons.is_empty()).then(|| format!("{place} ({})", reasons.join(", "))));
    }
    let wanted = format!("medians less certain than ±{:.1} %", settings.confidence * 100.0);
    let kinds = [
        (wanted.as_str(), uncertain),
        ("samples with a modified z-score above 3.5, kept in every number", outliers),
        ("steps that move more than copies do, so what they read stays in the processor's caches", cached),
        ("throttled while decoding", throttled),
    ];
    kinds
        .into_iter()
        .filter(|(_, places)| !places.is_empty())
        .map(|(what, places)| format!("{what}: {}", places.join(", ")))
        .collect()
}

/// The longer side of the median's interval, as a fraction of the median.
pub fn uncertainty(samples: &Samples) -> f64 {
    let [low, high] = samples.ci95;
    (samples.p50 - low).max(high - samples.p50) / samples.p50
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fake::{FakeGauge, Scripted};

    fn settings(batches: &[usize], prompts: &[usize]) -> BenchSettings {
        BenchSettings {
            batches: batches.to_vec(),
            prompts: prompts.to_vec(),
            new_tokens: 4,
            warmup: 0,
            min_repeats: 6,
            max_repeats: 6,
            confidence: 0.05,
            cuda_graph: false,
        }
    }

    fn run(model: &mut Scripted, settings: &BenchSettings) -> (Vec<BenchPoint>, Vec<Progress>) {
        let clock = model.clock.clone();
        let mut gauge = FakeGauge { looks: 0, has_energy: true };
        let mut seen = Vec::new();
        let mut bench = Bench { model, clock: &clock, gauge: &mut gauge, settings, weight_bytes: 1000 };
        (bench.grid(&mut |progress| seen.push(progress)), seen)
    }

    #[test]
    fn smaller_points_come_first_and_the_grid_goes_on_after_one_that_does_not_fit() {
        let mut model = Scripted::new();
        model.memory = 100;
        let (points, seen) = run(&mut model, &settings(&[8, 1, 1], &[30, 2]));
        let allocated: Vec<&str> = model.calls.iter().filter(|call| call.starts_with("allocate")).map(String::as_str).collect();
        assert_eq!(allocated, ["allocate 1x2+4", "allocate 1x30+4", "allocate 8x2+4", "allocate 8x30+4"]);
        assert_eq!(model.calls.iter().filter(|call| *call == "release").count(), 4);
        let places: Vec<(usize, usize)> = points.iter().map(|point| (point.batch, point.prompt_tokens)).collect();
        assert_eq!(places, [(1, 2), (1, 30), (8, 2), (8, 30)]);
        let fits = |point: &BenchPoint| matches!(point.outcome, Outcome::Measured(_));
        assert_eq!(points.iter().map(fits).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(points[3].outcome, Outcome::OutOfMemory { message: "8 rows do not fit".to_owned() });
        // The middle of the grid does not fit: what comes after it is measured still.
        model.memory = 39;
        let (points, _) = run(&mut model, &settings(&[1, 8], &[2, 40]));
        assert_eq!(points.iter().map(fits).collect::<Vec<_>>(), [true, false, false, false]);
        assert!(seen.is_sorted_by(|a, b| a.done <= b.done) && seen.iter().all(|progress| progress.done <= 1.0));
        assert_eq!(seen.last().map(|progress| (progress.points, progress.of, progress.batch)), Some((3, 4, 8)));
    }

    #[test]
    fn bandwidth_is_what_a_median_step_moves() {
        // 1000 + 10 · (2 + 2) bytes in 2 ms.
        let (mut points, _) = run(&mut Scripted::new(), &settings(&[1], &[2]));
        with_bandwidth(&mut points, 1_040_000.0);
        let Outcome::Measured(measured) = &points[0].outcome else { panic!("{points:?}") };
        assert_eq!((measured.bytes_per_step, measured.bandwidth_fraction), (1040, Some(0.5)));
    }

    #[test]
    fn what_a_reader_has_to_know_is_said() {
        let mut model = Scripted::new();
        let mut step = 0;
        model.step_ms = Box::new(move |_| {
            step += 1;
            if step == 5 { 90.0 } else { 2.0 }
        });
        let mut run_count = 0.0;
        model.prefill_ms = Box::new(move |_| {
            run_count += 1.0;
            100.0 + 10.0 * run_count
        });
        // One slow step in 18 widens its loop's median no further: that is 2.
        let settings = settings(&[2], &[2]);
        let (points, _) = run(&mut model, &settings);
        let said = warnings(&points, &settings);
        assert_eq!(
            said,
            [
                "medians less certain than ±5.0 %: batch 2 prompt 2 prefill (±18.5 %)",
                "samples with a modified z-score above 3.5, kept in every number: batch 2 prompt 2 decode (1 of 18)",
                "throttled while decoding: batch 2 prompt 2 (sw-power-cap)",
            ]
        );
    }
}
