//! Files of a data set that say how many they are, `data/train-00000-of-00003.parquet`: which of them are not there.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::{NAMED, shown};

/// What the name of one of several files says.
#[derive(Debug, PartialEq, Eq)]
struct Part<'a> {
    set: Set<'a>,
    number: usize,
    /// Digits of the number.
    width: usize,
}

/// What the names of files that belong together have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Set<'a> {
    /// All before the number.
    stem: &'a str,
    /// As it is spelled.
    count: &'a str,
    /// `.parquet`. What older data sets have between it and the count, a fingerprint, is another one for each file.
    ending: &'a str,
}

impl Part<'_> {
    fn of(file: &str) -> Option<Part<'_>> {
        let is_digit = |c: char| c.is_ascii_digit();
        let (before, after) = file.rsplit_once("-of-")?;
        let stem = before.trim_end_matches(is_digit);
        let number = &before[stem.len()..];
        let rest = after.trim_start_matches(is_digit);
        let count = &after[..after.len() - rest.len()];
        let ending = rest.rfind('.').map_or("", |dot| &rest[dot..]);
        let is_one_of_them = number.parse::<u32>().ok()? <= count.parse::<u32>().ok()?;
        let part = Part { set: Set { stem, count, ending }, number: number.parse().ok()?, width: number.len() };
        is_one_of_them.then_some(part)
    }
}

impl Set<'_> {
    /// The first few that are not `found`, by name, and how many more; `None` where all are.
    fn missing(&self, found: &BTreeSet<usize>, width: usize) -> Option<String> {
        let count: usize = self.count.parse().ok()?;
        // Data sets count from 0; a file of the last number counts from 1.
        let first = usize::from(found.contains(&count));
        let numbers = first..first + count;
        let named = numbers.clone().filter(|number| !found.contains(number)).take(NAMED).map(|number| self.name(number, width));
        let named: Vec<String> = named.collect();
        let more = count - found.range(numbers).count() - named.len();
        match (named.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(named.join(", ")),
            (false, more) => Some(format!("{} and {more} more", named.join(", "))),
        }
    }

    fn name(&self, number: usize, width: usize) -> String {
        shown(&format!("{}{number:0width$}-of-{}{}", self.stem, self.count, self.ending)).to_string()
    }
}

/// Whether a file says of how many it is one.
pub(super) fn is_numbered(file: &str) -> bool {
    Part::of(file).is_some()
}

/// Names of files that are not there though others say that there are so many, the first few and a count; `None` where there
/// is no such file.
pub(super) fn missing<'a>(files: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut sets: BTreeMap<Set<'a>, (usize, BTreeSet<usize>)> = BTreeMap::new();
    for Part { set, number, width } in files.filter_map(Part::of) {
        sets.entry(set).or_insert((width, BTreeSet::new())).1.insert(number);
    }
    sets.iter().find_map(|(set, (width, found))| set.missing(found, *width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_names_speak_of_and_is_not_there_is_named() {
        let missing = |files: &[&str]| missing(files.iter().copied());
        let train = |number: usize| format!("data/train-0000{number}-of-00003.jsonl");
        assert_eq!(missing(&[&train(0)]), Some(format!("{}, {}", train(1), train(2))));
        assert_eq!(missing(&[&train(1), &train(2)]), Some(train(0)));
        assert_eq!(missing(&[&train(0), &train(1), &train(2)]), None);
        assert_eq!(missing(&[&train(1), &train(2), &train(3)]), None, "they count from 1");
        // Two sets, of which one is whole; names with a fingerprint, and with other words of the same kind.
        assert_eq!(missing(&["dev-00000-of-00001.json", &train(0), &train(1)]), Some(train(2)));
        let prints = ["train-00000-of-00002-0a1b.parquet", "train-00001-of-00002-2c3d.parquet"];
        assert_eq!(missing(&prints), None);
        assert_eq!(missing(&prints[1..]).as_deref(), Some("train-00000-of-00002.parquet"));
        let others = missing(&["state-of-the-art/a-0-of-10.json"]).expect("the others");
        assert!(others.ends_with("/a-3-of-10.json and 6 more"), "{others}");
        let far = missing(&["a-00000-of-4294967295.json"]).expect("the others");
        assert_eq!(far, "a-00001-of-4294967295.json, a-00002-of-4294967295.json, a-00003-of-4294967295.json and 4294967291 more");
        for other in ["a.json", "state-of-the-art.json", "a-00000-of-18446744073709551616.json", "a-00004-of-00003.json"] {
            assert!(!is_numbered(other), "{other}");
            assert_eq!(missing(&[other]), None, "{other}");
        }
    }
}
