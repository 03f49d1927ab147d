//! What the numbers say to do: the smallest artifact not distinguishable from the baseline, the fastest, the Pareto front.

use serde::Serialize;

use super::study::{Device, Row, Study};

/// Which experiments to take, by their places in the study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    pub smallest: Smallest,
    /// For each device: at its smallest batch size, and at the largest that all of its rows measured.
    pub fastest: Vec<Fastest>,
    /// From few bits to many; the baseline is one of them where nothing beats it.
    pub pareto: Vec<usize>,
}

/// The smallest artifact whose score cannot be told from the baseline's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "found", rename_all = "kebab-case")]
pub enum Smallest {
    /// The paired 95 % interval of its difference contains 0 or lies above it.
    Found { row: usize },
    /// All intervals lie below 0; `nearest` loses least.
    AllWorse { nearest: usize },
    /// No record holds a comparison with the baseline.
    NoComparison,
}

/// The fastest decoder at one point of a device's grid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fastest {
    /// Place of the device in the study.
    pub device: usize,
    pub batch: usize,
    pub row: usize,
    pub tokens_per_second: f64,
    /// Over the baseline's at the same point; absent where that was not measured.
    pub ratio: Option<f64>,
    /// The fastest of those not distinguishable from the baseline, where that is another.
    pub safe: Option<usize>,
}

/// Chooses; every choice is between numbers that stand in records.
pub fn recommend(study: &Study) -> Recommendation {
    let fastest = study.devices.iter().enumerate().flat_map(|(place, device)| {
        let mut batches: Vec<usize> = device.batches.first().copied().into_iter().chain(device.common_batch).collect();
        batches.dedup();
        batches.into_iter().filter_map(move |batch| fastest(study, place, device, batch))
    });
    Recommendation { smallest: smallest(study), fastest: fastest.collect(), pareto: study.pareto() }
}

fn smallest(study: &Study) -> Smallest {
    let compared: Vec<(usize, &Row)> =
        study.rows.iter().enumerate().filter(|(_, row)| row.paired().is_some() && row.model_bytes().is_some()).collect();
    let loss = |row: &Row| row.paired().map_or(f64::NEG_INFINITY, |paired| paired.f1_difference);
    let reaching = compared.iter().filter(|(_, row)| row.reaches_baseline() == Some(true));
    // Equal sizes: the one that scored higher.
    let found = reaching.min_by(|(_, a), (_, b)| a.model_bytes().cmp(&b.model_bytes()).then(loss(b).total_cmp(&loss(a))));
    let nearest = compared.iter().max_by(|(_, a), (_, b)| loss(a).total_cmp(&loss(b)));
    match (found, nearest) {
        (Some(&(row, _)), _) => Smallest::Found { row },
        (None, Some(&(nearest, _))) => Smallest::AllWorse { nearest },
        (None, None) => Smallest::NoComparison,
    }
}

fn fastest(study: &Study, place: usize, device: &Device, batch: usize) -> Option<Fastest> {
    let speed = |at: usize| study.rows[at].point(batch, device.prompt).tokens_per_second();
    let quickest = |wanted: &dyn Fn(&Row) -> bool| {
        let timed = device.rows.iter().filter(|&&at| wanted(&study.rows[at])).filter_map(|&at| Some((at, speed(at)?)));
        timed.max_by(|(_, a), (_, b)| a.total_cmp(b))
    };
    let (row, tokens_per_second) = quickest(&|_| true)?;
    let safe = quickest(&|row| row.is_baseline() || row.reaches_baseline() == Some(true)).map(|(at, _)| at);
    let ratio = study.speed_ratio(row, batch);
    Some(Fastest { device: place, batch, row, tokens_per_second, ratio, safe: safe.filter(|&safe| safe != row) })
}
