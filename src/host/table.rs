//! Aligned tables and sizes as people read them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table without frames: a header, columns two spaces apart, those in `right` aligned to the right.
pub fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.add_rows(rows);
    for (position, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&position) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `1.24 GB`, `518 MB`, `12.3 kB`: powers of ten, three digits.
pub fn size(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|(_, unit)| bytes as f64 >= *unit) {
        None => format!("{bytes} B"),
        Some((name, unit)) => {
            let value = bytes as f64 / unit;
            let decimals = if value >= 100.0 {
                0
            } else if value >= 10.0 {
                1
            } else {
                2
            };
            format!("{value:.decimals$} {name}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_three_digits() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(12_345), "12.3 kB");
        assert_eq!(size(518_400_000), "518 MB");
        assert_eq!(size(1_240_000_000), "1.24 GB");
    }

    #[test]
    fn numbers_stand_under_each_other() {
        let text = table(&["name", "bits"], &[1], [vec!["a".into(), "4".into()], vec!["long".into(), "16".into()]]);
        assert_eq!(text, "name  bits\na        4\nlong    16");
    }
}
