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
    let loss = |row: &Row| row.paired().map_or(f64::NEG_INFINITY, |paired| paired.difference);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;
    use crate::report::made_up::{baseline, experiment, f1, study};

    fn name(study: &Study, at: usize) -> &str {
        study.rows[at].name()
    }

    #[test]
    fn the_smallest_is_the_smallest_whose_interval_reaches_zero() {
        let study = study(vec![
            baseline(),
            experiment("int8", 8.0, -0.001, 0.01, 100.0),
            experiment("int4", 4.5, -0.01, 0.01, 100.0), // reaches 0 exactly
            experiment("int3", 3.0, -0.02, 0.01, 100.0), // does not
        ]);
        let Smallest::Found { row } = recommend(&study).smallest else { panic!("{:?}", recommend(&study)) };
        assert_eq!(name(&study, row), "int4");
    }

    #[test]
    fn an_interval_above_zero_is_no_loss_and_equal_sizes_go_by_score() {
        let study = study(vec![baseline(), experiment("better", 4.0, 0.05, 0.01, 1.0), experiment("equal", 4.0, 0.0, 0.01, 1.0)]);
        let Smallest::Found { row } = recommend(&study).smallest else { panic!("{:?}", recommend(&study)) };
        assert_eq!(name(&study, row), "better");
    }

    #[test]
    fn where_all_are_worse_none_is_named() {
        let study = study(vec![baseline(), experiment("a", 4.0, -0.05, 0.01, 1.0), experiment("b", 2.0, -0.3, 0.01, 1.0)]);
        let Smallest::AllWorse { nearest } = recommend(&study).smallest else { panic!("{:?}", recommend(&study)) };
        assert_eq!(name(&study, nearest), "a");
    }

    #[test]
    fn without_a_comparison_nothing_is_claimed() {
        let mut other = experiment("a", 4.0, 0.0, 0.01, 1.0);
        f1(&mut other).paired = None;
        assert_eq!(recommend(&study(vec![baseline(), other])).smallest, Smallest::NoComparison);
    }

    #[test]
    fn the_fastest_is_named_at_batch_1_and_at_the_largest_that_all_ran() {
        let mut ran_out = experiment("tight", 4.0, 0.0, 0.01, 150.0);
        for point in &mut ran_out.record.benchmarks.as_mut().unwrap().points {
            if point.batch == 16 {
                point.outcome = Outcome::OutOfMemory { message: "no room".into() };
            }
        }
        let study = study(vec![baseline(), ran_out, experiment("rough", 2.0, -0.3, 0.01, 400.0)]);
        let fastest = recommend(&study).fastest;
        assert_eq!(fastest.iter().map(|fastest| fastest.batch).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(name(&study, fastest[0].row), "rough");
        assert_eq!(fastest[0].tokens_per_second, 400.0);
        assert_eq!(name(&study, fastest[0].safe.unwrap()), "tight");
        let base = study.baseline().point(1, 512).tokens_per_second().unwrap();
        assert_eq!(fastest[0].ratio, Some(400.0 / base));
    }

    #[test]
    fn without_a_benchmark_nothing_is_fastest() {
        let (mut base, mut other) = (baseline(), experiment("a", 4.0, 0.0, 0.01, 1.0));
        (base.record.benchmarks, other.record.benchmarks) = (None, None);
        assert!(recommend(&study(vec![base, other])).fastest.is_empty());
    }
}
