//! Numbers as the report writes them; every format writes the same digits.

/// What stands where nothing was measured.
pub const NONE: &str = "–";

/// A score from 0 to 1: `0.343`.
pub fn score(value: f64) -> String {
    format!("{value:.3}").replace('-', "−")
}

/// A difference of scores: `−0.012`.
pub fn difference(value: f64) -> String {
    format!("{value:+.3}").replace('-', "−")
}

/// An interval of differences: `[−0.030, +0.006]`.
pub fn interval([low, high]: [f64; 2]) -> String {
    format!("[{}, {}]", difference(low), difference(high))
}

/// A divergence in nats: `0.0255`.
pub fn nats(value: f64) -> String {
    format!("{value:.4}").replace('-', "−")
}

/// Bits per weight: `4.50`.
pub fn bits(value: f64) -> String {
    format!("{value:.2}")
}

/// Three digits: `1234`, `123`, `12.3`, `1.23`, `0.123`.
pub fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let sign = if value < 0.0 { "−" } else { "" };
    format!("{sign}{}", thousands(format!("{:.decimals$}", value.abs())))
}

/// `1234567` becomes `1,234,567`; what stands behind a point is kept.
fn thousands(number: String) -> String {
    let (whole, rest) = number.split_once('.').map_or((number.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match rest {
        Some(rest) => format!("{grouped}.{rest}"),
        None => grouped,
    }
}

/// A count: `12,345`.
pub fn count(value: u64) -> String {
    thousands(value.to_string())
}

/// A ratio: `1.86×`.
pub fn ratio(value: f64) -> String {
    format!("{}×", three_digits(value))
}

/// Bytes in powers of ten: `1.24 GB`, `518 MB`, `12.3 kB`.
pub fn bytes(value: u64) -> String {
    let (unit, name) = byte_unit(value as f64);
    format!("{} {name}", three_digits(value as f64 / unit))
}

/// The unit that `bytes` are written in, and its name.
pub fn byte_unit(bytes: f64) -> (f64, &'static str) {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    units.into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1.0, "B"))
}

/// At most `most` characters; the end gives way to an ellipsis.
pub fn clipped(text: &str, most: usize) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if flat.chars().count() <= most {
        return flat;
    }
    flat.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        assert_eq!(three_digits(1234.4), "1,234");
        assert_eq!(three_digits(99.96), "100");
        assert_eq!(three_digits(12.345), "12.3");
        assert_eq!(three_digits(0.5), "0.500");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(difference(-0.0124), "−0.012");
        assert_eq!(interval([-0.03, 0.006]), "[−0.030, +0.006]");
        assert_eq!(bytes(7_227_474), "7.23 MB");
        assert_eq!(bytes(999), "999 B");
    }

    #[test]
    fn long_texts_end_in_an_ellipsis_and_lines_are_joined() {
        assert_eq!(clipped("abcdef", 4), "abc…");
        assert_eq!(clipped("a\nb", 4), "a b");
    }
}
