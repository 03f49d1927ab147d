//! One point of the grid: a batch size and a prompt length.

use std::time::Duration;

use super::prompt::Prompt;
use super::{Clock, FEWEST, median, summarize, values_for};
use crate::generate::{GenerateError, Steps};
use crate::record::{BenchSettings, Measured, PowerRecord, Samples};

/// Steps of a run that warms up: kernels are chosen and memory is taken in the first ones.
const WARM_STEPS: usize = 8;
/// NVML's energy counter moves about every 100 ms: over this long it is right to a few percent.
const ENERGY: Duration = Duration::from_secs(3);

/// What is read off the machine beside the clock.
pub trait Gauge {
    /// Highest memory so far of the process on the device that the model runs on, bytes.
    fn memory_peak(&mut self) -> u64;

    /// Begins to meter energy; false where the device has no meter.
    fn start_energy(&mut self) -> bool;

    /// Looks at clocks and throttling while the device is busy.
    fn observe(&mut self);

    /// What was metered since the beginning, while `tokens` tokens were produced.
    fn stop_energy(&mut self, tokens: u64) -> Option<PowerRecord>;
}

/// A model, and what measures it.
pub struct Bench<'a, M, C, G> {
    pub model: &'a mut M,
    pub clock: &'a C,
    pub gauge: &'a mut G,
    pub settings: &'a BenchSettings,
    /// Weights that every step reads, as they lie in memory, bytes.
    pub weight_bytes: u64,
}

/// Milliseconds, in the order they were taken.
#[derive(Default)]
struct Times {
    prefill: Vec<f64>,
    /// Tokenizer and prefill of the same repeat.
    first_token: Vec<f64>,
    decode: Vec<f64>,
    /// Median step of each decoding loop. Steps of one loop are not independent: a loop is slow or fast as a whole.
    loops: Vec<f64>,
}

impl<M: Steps, C: Clock, G: Gauge> Bench<'_, M, C, G> {
    /// Samples prefill and decoding of `batch` prompts of `prompt_tokens` tokens as often as the first repeats of each ask for.
    /// `repeated` is told how many repeats are done.
    pub(super) fn measure(
        &mut self,
        batch: usize,
        prompt_tokens: usize,
        repeated: &mut dyn FnMut(usize),
    ) -> Result<Measured, GenerateError> {
        // First of all: a batch that does not fit must not be made up either.
        self.model.allocate(batch, prompt_tokens, self.settings.new_tokens)?;
        let prompt = Prompt::of(self.model, prompt_tokens)?;
        let prompts = prompt.rows(batch);
        for _ in 0..self.settings.warmup {
            let mut tokens = self.model.prefill(&prompts)?;
            for past in (prompt_tokens..).take(self.steps().min(WARM_STEPS)) {
                tokens = self.model.step(&tokens, past)?;
            }
        }
        let mut times = Times::default();
        while !self.is_enough(&times) {
            self.repeat(&prompt, &prompts, &mut times)?;
            repeated(times.prefill.len());
        }
        let power = self.energy(&prompts)?;
        Ok(self.measured(batch, prompt_tokens, times, power))
    }

    /// Steps of one decoding loop: the first token comes from the prompt.
    fn steps(&self) -> usize {
        self.settings.new_tokens - 1
    }

    fn is_enough(&self, times: &Times) -> bool {
        let repeats = times.prefill.len();
        repeats >= self.settings.max_repeats || (self.are_enough(&times.prefill) && self.decode_is_enough(times))
    }

    fn decode_is_enough(&self, times: &Times) -> bool {
        self.are_enough(&times.loops)
    }

    /// Whether there are as many as the first ones, the pilot, ask for.
    fn are_enough(&self, values: &[f64]) -> bool {
        let pilot = values.get(..self.settings.min_repeats.max(FEWEST));
        pilot.is_some_and(|pilot| values.len() >= values_for(pilot, self.settings.confidence))
    }

    fn repeat(&mut self, prompt: &Prompt, prompts: &[Vec<u32>], times: &mut Times) -> Result<(), GenerateError> {
        let alone = prompts.len() == 1;
        let encoded = if alone { self.timed(|model| model.encode(&prompt.text))?.0 } else { 0.0 };
        let (prefill, mut tokens) = self.timed(|model| model.prefill(prompts))?;
        times.prefill.push(prefill);
        if alone {
            times.first_token.push(encoded + prefill);
        }
        if self.decode_is_enough(times) {
            return Ok(());
        }
        let first = times.decode.len();
        for past in (prompt.ids.len()..).take(self.steps()) {
            let (step, next) = self.timed(|model| model.step(&tokens, past))?;
            times.decode.push(step);
            tokens = next;
        }
        times.loops.push(median(&times.decode[first..]));
        Ok(())
    }

    fn timed<T>(&mut self, run: impl FnOnce(&mut M) -> Result<T, GenerateError>) -> Result<(f64, T), GenerateError> {
        let before = self.clock.now();
        let value = run(self.model)?;
        Ok(((self.clock.now() - before).as_secs_f64() * 1e3, value))
    }

    /// Decodes behind the prompts that were read last, for a while, and meters it. Each loop writes over the one before.
    fn energy(&mut self, prompts: &[Vec<u32>]) -> Result<Option<PowerRecord>, GenerateError> {
        if !self.gauge.start_energy() {
            return Ok(None);
        }
        let mut tokens: Vec<u32> = prompts.iter().map(|ids| ids[ids.len() - 1]).collect();
        let started = self.clock.now();
        let mut produced = 0;
        while self.clock.now() - started < ENERGY {
            for past in (prompts[0].len()..).take(self.steps()) {
                tokens = self.model.step(&tokens, past)?;
            }
            produced += (self.steps() * prompts.len()) as u64;
            self.gauge.observe();
        }
        Ok(self.gauge.stop_energy(produced))
    }

    fn measured(&mut self, batch: usize, prompt_tokens: usize, times: Times, power: Option<PowerRecord>) -> Measured {
        let per_second = |tokens: usize, ms: f64| tokens as f64 * 1e3 / ms;
        let prefill_ms = summarize(times.prefill);
        let decode_ms_per_token = Samples { ci95: summarize(times.loops).ci95, ..summarize(times.decode) };
        // The median step finds half of the new tokens in the cache.
        let filled = batch * (prompt_tokens + self.settings.new_tokens / 2);
        Measured {
            prefill_tokens_per_second: per_second(batch * prompt_tokens, prefill_ms.p50),
            ttft_ms: (batch == 1).then(|| summarize(times.first_token)),
            decode_tokens_per_second: per_second(batch, decode_ms_per_token.p50),
            memory_peak_bytes: self.gauge.memory_peak(),
            bytes_per_step: self.weight_bytes + self.model.cache_bytes(filled),
            bandwidth_fraction: None,
            power,
            prefill_ms,
            decode_ms_per_token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fake::{FakeGauge, Scripted};

    fn settings() -> BenchSettings {
        BenchSettings {
            batches: vec![1],
            prompts: vec![4],
            new_tokens: 4,
            warmup: 1,
            min_repeats: 6,
            max_repeats: 8,
            confidence: 0.05,
            cuda_graph: false,
        }
    }

    fn measure(model: &mut Scripted, settings: &BenchSettings, batch: usize, has_energy: bool) -> Measured {
        let clock = model.clock.clone();
        let mut gauge = FakeGauge { looks: 0, has_energy };
        Bench { model, clock: &clock, gauge: &mut gauge, settings, weight_bytes: 1000 }.measure(batch, 4, &mut |_| ()).unwrap()
    }

    #[test]
    fn a_point_is_warmed_up_and_repeated_until_it_is_certain() {
        let mut model = Scripted::new();
        let measured = measure(&mut model, &settings(), 2, false);
        // Three steps after the first token; six loops of them give the medians that an interval needs.
        let run = ["prefill 2x4", "step 2@4", "step 2@5", "step 2@6"];
        let expected = [&["allocate 2x4+4"][..], &run.repeat(7)].concat();
        assert_eq!(model.calls, expected);
        assert_eq!(measured.prefill_ms.values, [8.0; 6]);
        assert_eq!(measured.decode_ms_per_token.values, [2.0; 18]);
        // Eight tokens in 8 ms, two rows in 2 ms.
        assert_eq!((measured.prefill_tokens_per_second, measured.decode_tokens_per_second), (1000.0, 1000.0));
        assert_eq!(measured.ttft_ms, None);
        // 1000 bytes of weights, two rows of 4 + 2 tokens at 10 bytes.
        assert_eq!(measured.bytes_per_step, 1120);
    }

    #[test]
    fn times_that_vary_are_taken_up_to_the_most_and_none_is_dropped() {
        let mut model = Scripted::new();
        let mut run = 0.0;
        model.prefill_ms = Box::new(move |_| {
            run += 1.0;
            10.0 * run
        });
        let measured = measure(&mut model, &settings(), 1, false);
        // The first run warmed up.
        assert_eq!(measured.prefill_ms.values, [20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]);
        assert_eq!(measured.prefill_ms.p50, 55.0);
        // The tokenizer takes 0.5 ms before each.
        assert_eq!(measured.ttft_ms.unwrap().values, [20.5, 30.5, 40.5, 50.5, 60.5, 70.5, 80.5, 90.5]);
    }

    #[test]
    fn a_step_s_interval_is_of_whole_loops() {
        // Three steps in the warm-up, then loops of 10, 20, 30, … ms a step: within a loop nothing varies.
        let mut model = Scripted::new();
        let mut step = 0;
        model.step_ms = Box::new(move |_| {
            step += 1;
            10.0 * f64::from((step - 1) / 3)
        });
        let measured = measure(&mut model, &settings(), 1, false);
        let decode = measured.decode_ms_per_token;
        assert_eq!((decode.values.len(), decode.p50), (24, 45.0));
        // Eight medians: the smallest and the largest are the interval, 2 · (½)⁸ < 5 %, and 2 · 9 · (½)⁸ is more.
        assert_eq!(decode.ci95, [10.0, 80.0]);
    }

    #[test]
    fn energy_is_metered_over_seconds_of_steps() {
        let mut model = Scripted::new();
        model.step_ms = Box::new(|_| 500.0);
        let measured = measure(&mut model, &settings(), 2, true);
        // A loop of three steps takes 1.5 s: two loops, each looked at once, 12 tokens.
        assert_eq!(measured.power.unwrap().joules_per_token, 2.0 / 12.0);
        assert_eq!(model.calls[model.calls.len() - 3..], ["step 2@4", "step 2@5", "step 2@6"]);
    }
}
