//! A model that follows a script, and a clock that it moves.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::{Clock, Gauge};
use crate::generate::{GenerateError, Steps};
use crate::record::PowerRecord;

/// A clock that stands still until somebody moves it.
#[derive(Clone, Default)]
pub struct FakeClock(Rc<Cell<Duration>>);

impl FakeClock {
    pub fn advance_ms(&self, ms: f64) {
        self.0.set(self.0.get() + Duration::from_secs_f64(ms / 1e3));
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}

/// A word is a token: its length, after a first token 1. Each run takes as long as the script says.
pub struct Scripted {
    pub clock: FakeClock,
    pub prefill_ms: Box<dyn FnMut(usize) -> f64>,
    pub step_ms: Box<dyn FnMut(usize) -> f64>,
    /// Rows × tokens that the memory has place for.
    pub memory: usize,
    pub rows: usize,
    /// What was called, in order: `allocate 2x4+5`, `prefill 2x4`, `step 2@4`, `release`.
    pub calls: Vec<String>,
}

impl Scripted {
    pub fn new() -> Scripted {
        Scripted {
            clock: FakeClock::default(),
            prefill_ms: Box::new(|tokens| tokens as f64),
            step_ms: Box::new(|_| 2.0),
            memory: usize::MAX,
            rows: 0,
            calls: Vec::new(),
        }
    }
}

impl Steps for Scripted {
    fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        self.clock.advance_ms(0.5);
        let words = text.split(' ').filter(|word| !word.is_empty()).map(|word| word.len() as u32);
        Ok(std::iter::once(1).chain(words).collect())
    }

    fn allocate(&mut self, rows: usize, prompt_tokens: usize, new_tokens: usize) -> Result<(), GenerateError> {
        self.calls.push(format!("allocate {rows}x{prompt_tokens}+{new_tokens}"));
        if rows * (prompt_tokens + new_tokens) > self.memory {
            return Err(GenerateError::OutOfMemory(format!("{rows} rows do not fit").into()));
        }
        self.rows = rows;
        Ok(())
    }

    fn release(&mut self) {
        self.calls.push("release".to_owned());
    }

    fn cache_bytes(&self, tokens: usize) -> u64 {
        10 * tokens as u64
    }

    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<u32>, GenerateError> {
        assert_eq!(prompts.len(), self.rows);
        let length = prompts[0].len();
        assert!(prompts.iter().all(|ids| ids.len() == length));
        self.calls.push(format!("prefill {}x{length}", self.rows));
        self.clock.advance_ms((self.prefill_ms)(length * self.rows));
        Ok(vec![length as u32; self.rows])
    }

    /// The token after place `n` is `n + 1`, and each must be given back.
    fn step(&mut self, tokens: &[u32], past: usize) -> Result<Vec<u32>, GenerateError> {
        self.calls.push(format!("step {}@{past}", tokens.len()));
        self.clock.advance_ms((self.step_ms)(past));
        Ok(vec![past as u32 + 1; self.rows])
    }
}

/// Memory that grows by a byte at each look; energy of one joule a look.
#[derive(Default)]
pub struct FakeGauge {
    pub looks: u64,
    pub has_energy: bool,
}

impl Gauge for FakeGauge {
    fn memory_peak(&mut self) -> u64 {
        self.looks += 1;
        self.looks
    }

    fn start_energy(&mut self) -> bool {
        self.has_energy
    }

    fn observe(&mut self) {
        self.looks += 1;
    }

    fn stop_energy(&mut self, tokens: u64) -> Option<PowerRecord> {
        Some(PowerRecord {
            joules_per_token: self.looks as f64 / tokens as f64,
            mean_watts: 1.0,
            sm_clock_mhz: 2,
            memory_clock_mhz: 3,
            temperature_celsius: 4,
            throttle: vec!["sw-power-cap".to_owned()],
        })
    }
}
