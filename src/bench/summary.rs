//! Summary of timing samples.

use statrs::distribution::{Binomial, DiscreteCDF};

use crate::record::Samples;

/// A value is an outlier where its modified z-score exceeds this (Iglewicz and Hoaglin, *How to Detect and Handle
/// Outliers*, 1993).
const OUTLIER_SCORE: f64 = 3.5;

/// Summarizes `values`, at least one, in the order they were taken. None is dropped.
pub fn summarize(values: Vec<f64>) -> Samples {
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    Samples {
        mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        p50: quantile(&sorted, 0.50),
        p95: quantile(&sorted, 0.95),
        p99: quantile(&sorted, 0.99),
        min: sorted[0],
        max: sorted[sorted.len() - 1],
        ci95: median_interval(&sorted),
        outliers: outliers(&values, quantile(&sorted, 0.50)),
        values,
    }
}

/// The value below which the fraction `p` of `sorted` lies, linear between neighbours: Hyndman and Fan's type 7, the
/// default of NumPy and R.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let place = p * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

/// 95 % interval of the median by order statistics: the `k`-th smallest and `k`-th largest value, `k` as large as
/// `2·P(Binomial(n, ½) < k) ≤ 5 %` allows. Of fewer than six values the whole range, which then covers less.
pub fn median_interval(sorted: &[f64]) -> [f64; 2] {
    let n = sorted.len();
    let halves = Binomial::new(0.5, n as u64).expect("one half is a probability");
    let allowed = |k: usize| 2.0 * halves.cdf(k as u64 - 1) <= 0.05;
    // `allowed` holds up to some k and never after.
    let (mut least, mut most) = (1, n.div_ceil(2));
    while least < most {
        let middle = (least + most).div_ceil(2);
        if allowed(middle) {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    [sorted[least - 1], sorted[n - least]]
}

/// The middle value, or the mean of the middle two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// Values without which there is no 95 % interval of a median.
pub const FEWEST: usize = 6;

/// How many values it takes until the 95 % interval of their median lies within `fraction` of it on each side, by a pilot's
/// interval, whose width falls with the root of their number (Stein, Ann. Math. Statist. 16, 1945: a sample of two stages).
///
/// Fixed from the pilot's spread alone: a count that went on until the interval of all values is narrow would end on
/// samples that happen to lie close, and the interval would hold the median less often than it says.
pub fn values_for(pilot: &[f64], fraction: f64) -> usize {
    let mut sorted = pilot.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (median, [low, high]) = (quantile(&sorted, 0.5), median_interval(&sorted));
    let width = (median - low).max(high - median);
    let ratio = if width > 0.0 { width / (fraction * median) } else { 0.0 };
    // Beyond any limit where the median is 0.
    ((pilot.len() as f64 * ratio * ratio).ceil() as usize).max(pilot.len())
}

/// Places of values whose modified z-score `0.6745·(x − median) / MAD` exceeds 3.5. Where more than half of the values
/// are equal, so that the MAD is zero, the mean deviation takes its place: `(x − median) / (1.2533·MeanAD)`.
fn outliers(values: &[f64], median: f64) -> Vec<usize> {
    let deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
    let mut sorted = deviations.clone();
    sorted.sort_by(f64::total_cmp);
    let mad = quantile(&sorted, 0.5) / 0.6745;
    let mean = 1.253_314 * sorted.iter().sum::<f64>() / sorted.len() as f64;
    let unit = if mad > 0.0 { mad } else { mean };
    (0..values.len()).filter(|&at| deviations[at] > OUTLIER_SCORE * unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_between_neighbours() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!([0.0, 0.5, 1.0].map(|p| quantile(&sorted, p)), [1.0, 2.5, 4.0]);
        assert!((quantile(&sorted, 0.95) - 3.85).abs() < 1e-12);
        let hundred: Vec<f64> = (1..=101).map(f64::from).collect();
        assert_eq!([0.5, 0.95, 0.99].map(|p| quantile(&hundred, p)), [51.0, 96.0, 100.0]);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }

    /// By hand: n = 6, P(B < 1) = 1/64; n = 10, P(B < 2) = 11/1024 and P(B < 3) = 56/1024; n = 20, P(B < 6) = 21700/2²⁰
    /// and P(B < 7) = 60460/2²⁰.
    #[test]
    fn the_median_lies_between_order_statistics() {
        let interval = |n: u32| median_interval(&(1..=n).map(f64::from).collect::<Vec<_>>());
        assert_eq!(interval(1), [1.0, 1.0]);
        assert_eq!(interval(5), [1.0, 5.0]);
        assert_eq!(interval(6), [1.0, 6.0]);
        assert_eq!(interval(10), [2.0, 9.0]);
        assert_eq!(interval(20), [6.0, 15.0]);
    }

    #[test]
    fn a_pilot_twice_as_wide_as_wanted_asks_for_four_times_as_many() {
        let pilot = [96.0, 98.0, 99.0, 101.0, 102.0, 104.0];
        assert_eq!([0.04, 0.02, 0.01].map(|fraction| values_for(&pilot, fraction)), [6, 24, 96]);
        assert_eq!(values_for(&[1.0; 6], 0.001), 6);
    }

    /// The interval of a sample whose number the pilot fixed holds the true median as often as it says.
    #[test]
    fn the_interval_covers_what_it_says() {
        use rand_pcg::rand_core::Rng;
        let mut source = rand_pcg::Pcg64::new(7, 11);
        // Positive, skewed, with a median of 1.
        let mut value = move || {
            let uniform = (source.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            (0.2 * (uniform / (1.0 - uniform)).ln() / 1.7).exp()
        };
        let trials = 4000;
        let mut covered = 0;
        for _ in 0..trials {
            let pilot: Vec<f64> = (0..8).map(|_| value()).collect();
            let count = values_for(&pilot, 0.05).min(400);
            let mut all = pilot;
            all.resize_with(count.max(all.len()), &mut value);
            all.sort_by(f64::total_cmp);
            let [low, high] = median_interval(&all);
            covered += usize::from(low <= 1.0 && 1.0 <= high);
        }
        assert!(covered as f64 / f64::from(trials) >= 0.945, "{covered} of {trials}");
    }

    #[test]
    fn outliers_are_named_and_kept() {
        // Median 10, deviations 0 1 1 1 2 90, MAD 1: z of 12 is 1.35, of 100 is 60.7.
        let samples = summarize(vec![10.0, 100.0, 9.0, 11.0, 12.0, 9.0, 10.0]);
        assert_eq!((samples.outliers, samples.values.len(), samples.p50), (vec![1], 7, 10.0));
        // MAD is zero: MeanAD = 40 / 8, z of 50 is 40 / 6.27 = 6.4.
        let mostly_equal = [vec![10.0; 7], vec![50.0]].concat();
        assert_eq!(summarize(mostly_equal).outliers, [7]);
        assert_eq!(summarize(vec![3.0; 9]).outliers, [0; 0]);
    }

    #[test]
    fn a_summary_is_of_all_values_in_their_order() {
        let samples = summarize(vec![3.0, 1.0, 2.0]);
        assert_eq!(samples.values, [3.0, 1.0, 2.0]);
        assert_eq!((samples.mean, samples.p50, samples.min, samples.max, samples.ci95), (2.0, 2.0, 1.0, 3.0, [1.0, 3.0]));
        assert!((samples.p95 - 2.9).abs() < 1e-12 && (samples.p99 - 2.98).abs() < 1e-12);
    }
}
