//! From values to pixels, and where the ticks stand.

/// A straight axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    /// Pixels of `low` and `high`.
    from: f64,
    to: f64,
    scale: Scale,
}

/// How values become distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
}

impl Axis {
    pub fn new(scale: Scale, [low, high]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        Axis { low, high, from, to, scale }
    }

    pub fn at(&self, value: f64) -> f64 {
        let place = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.ln(),
        };
        let span = place(self.high) - place(self.low);
        let fraction = if span == 0.0 { 0.5 } else { (place(value) - place(self.low)) / span };
        self.from + fraction * (self.to - self.from)
    }

    /// Round values inside a linear axis, about `wanted` of them, and their decimals.
    pub fn ticks(&self, wanted: usize) -> (Vec<f64>, usize) {
        let step = round_step((self.high - self.low) / wanted as f64);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        ((first..=last).map(|at| at as f64 * step).collect(), decimals)
    }
}

/// The next of 1, 2, 5 × 10ⁿ from `least` on.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::new(Scale::Linear, [0.013, 0.36], [0.0, 100.0]);
        assert_eq!(axis.ticks(5), (vec![0.1, 0.2, 0.30000000000000004], 1));
        let axis = Axis::new(Scale::Linear, [0.0, 13.9], [0.0, 100.0]);
        assert_eq!(axis.ticks(5).0, [0.0, 5.0, 10.0]);
    }

    #[test]
    fn a_doubling_is_the_same_distance_on_a_log_axis() {
        let axis = Axis::new(Scale::Log, [2.0, 16.0], [0.0, 300.0]);
        assert!((axis.at(4.0) - 100.0).abs() < 1e-9 && (axis.at(8.0) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn one_value_stands_in_the_middle() {
        assert_eq!(Axis::new(Scale::Log, [1.0, 1.0], [0.0, 300.0]).at(1.0), 150.0);
    }
}
